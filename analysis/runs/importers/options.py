"""Settings of reading logs of other tools: what the logs do not say."""

from dataclasses import dataclass
from typing import Annotated

from scaling.schema import MOST, Range, checked


@dataclass(kw_only=True)
@checked("logs")
class LogsConfig:
    """What the logs of another tool do not say (runs=wandb:ENTITY/PROJECT, runs=FOLDER of logs)."""

    tokens_per_step: Annotated[float, Range(0, MOST, above=True)] | None = None
    """Training tokens of a step, for logs that hold steps alone; null takes what the logs say."""
    beside: str = ""
    """CSV of what the logs do not say: a column run, the name of a run or a pattern as opt-*, and
    columns as params, tokens, batch, flops, loss; its values come before those of the logs."""
    unfinished: bool = False
    """Take runs that crashed or stopped before their last planned step too."""
