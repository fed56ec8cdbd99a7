"""Settings of `scaling report`."""

from dataclasses import dataclass, field
from typing import Annotated

from analysis.page.wandb_artifact import MODES
from analysis.runs.columns import Columns
from analysis.runs.importers.options import LogsConfig
from scaling.schema import LOSS_UNITS, MOST, OneOf, Range, checked


@dataclass(kw_only=True)
@checked()
class ReportConfig:
    """The study or table whose page is written, two studies side by side, or an index."""

    runs: str = ""
    """Folder of the study, or a table of runs (CSV, JSONL or Parquet; `example` is the one that
    comes with the package); with index=true the folder that holds the studies."""
    index: bool = False
    """Write one page over all studies of the folder runs instead."""
    form: str = "chinchilla"
    """Form of the law that is fitted to a table (scaling fit); not read with law=."""
    columns: Columns = field(default_factory=Columns)
    context: Annotated[float, Range(1, MOST)] | None = None
    """Tokens of a sequence, for a table whose column batch_sequences counts those of a step."""
    params: Annotated[float, Range(0, MOST, above=True)] | None = None
    """N at which the settings of a surface are shown, with tokens=; null is the plan's, or that of
    the largest point."""
    tokens: Annotated[float, Range(0, MOST, above=True)] | None = None
    """D at which the settings of a surface are shown, with params=."""
    logs: LogsConfig = field(default_factory=LogsConfig)
    compare: list[str] = field(default_factory=list)
    """Folders of two or more studies to compare, as [runs/A,runs/B], instead of runs."""
    target: str = ""
    """Named test set (eval.sets) whose loss the page shows; empty is that of the law."""
    unit: Annotated[str, OneOf("", *LOSS_UNITS)] = ""
    """Unit of the loss; empty is that of the law."""
    out: str = ""
    """File to write; empty is report.html in the study (report.web.html for a set named web),
    TABLE.html beside a table, index.html in a folder of studies, or A-against-B.html."""
    law: str = ""
    """The law's file; empty is law.json in the study (law.web.json for a set named web)."""
    plan: str = ""
    """The plan's file; empty is plan.yaml in the study (plan.web.yaml for a set named web)."""
    wandb: Annotated[str, OneOf("", *MODES)] = ""
    """Log the page to Weights & Biases as an artifact too, in this mode; empty does not."""

    def __post_init__(self) -> None:
        """Refuse half a point."""
        if (self.params is None) != (self.tokens is None):
            raise ValueError("params and tokens are set together, as params=1e9 tokens=2e10")
