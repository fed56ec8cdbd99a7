"""The closing lines of a final run: forecast against outcome."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scaling.config import (
    FinalConfig,
    PpoPlan,
    RewardPlan,
    SftPlan,
)
from scaling.schema import (
    CONFIRMING,
    Record,
    read_json,
)

if TYPE_CHECKING:
    pass
from scaling.stages.sealed_forecast import refitting


def summary(config: FinalConfig, records: Sequence[Record]) -> list[str]:
    """Return the closing lines: forecast against outcome, and each stage's result."""
    lines = []
    for record in records:
        m = record.metrics
        if record.stage == "pretrain":
            text = outcome(config, record)
        elif record.stage == "sft":
            text = (
                f"completion loss {m['test_loss_before']:.3f} -> "
                f"{m['test_loss']:.3f} +- {m['test_loss_se']:.3f} "
                f"nats/token{against(config.sft, m['test_loss'])}, {m['examples']:.0f} examples"
            )
        elif record.stage == "reward":
            text = (
                f"accuracy {m['accuracy']:.3f} +- {m['accuracy_se']:.3f} "
                f"on {m['test_pairs']:.0f} held-out pairs, "
                f"{m['pairs']:.0f} trained on; loss {m['test_loss']:.4f}"
                f"{against(config.reward, m['test_loss'])}; "
                f"correlation with gold {m['gold_correlation']:.2f}, "
                f"with length {m['length_correlation']:.2f}; "
                f"length alone reaches {m['length_accuracy']:.3f}"
            )
        else:
            inside = "inside" if m["kl"] <= m["kl_budget"] else "OUTSIDE"
            gold = (
                f"gold {m['gold_before']:.3f} -> {m['gold_after']:.3f}"
                f"{against(config.ppo, m['gold_after'] - m['gold_before'])}, "
                if "gold_after" in m
                else ""
            )
            text = (
                f"reward {m['reward_before']:.2f} -> {m['reward_after']:.2f}, {gold}"
                f"KL {m['kl']:.2f} nats {inside} the "
                f"budget of {m['kl_budget']:g}, {m['episodes']:.0f} episodes"
            )
        lines.append(f"{record.stage:>8}: {text}  ({record.seconds:.0f} s)")
        if CONFIRMING in config.study:
            lines.append(f"confirmation: {refitting(config.study, config.runs)}")
    return lines


def against(block: SftPlan | RewardPlan | PpoPlan, reached: float) -> str:
    """Say what a stage's law forecast and whether it held; empty where no law set the block."""
    gain = isinstance(block, PpoPlan)
    expected = block.forecast_gain if gain else block.forecast_loss
    if not block.forecast_level:
        return ""
    text = f", forecast {'gain ' if gain else ''}{expected:.4f}"
    if len(block.forecast_interval) != 2:
        return text
    low, high = block.forecast_interval
    where = "inside" if low <= reached <= high else "OUTSIDE"
    return f"{text} ({where} [{low:.4f}, {high:.4f}])"


def outcome(config: FinalConfig, record: Record) -> str:
    """Compare the pretraining's test loss with the sealed forecast."""
    text = f"test loss {record.test_loss:.4f} +- {record.test_loss_se:.4f} nats/token"
    path = Path(config.runs) / config.study / "final" / "forecast.json"
    sealed = read_json(path) if path.is_file() else {}
    if not sealed.get("test_loss") or record.test_loss is None:
        return f"{text}, no forecast in the plan"
    error = record.test_loss / sealed["test_loss"] - 1
    text += f", forecast {sealed['test_loss']:.4f} ({error:+.1%})"
    if len(sealed["interval"]) != 2:
        return text
    low, high = sealed["interval"]
    where = "inside" if low <= record.test_loss <= high else "OUTSIDE"
    return f"{text}, {where} the {sealed['level']:.0%} interval [{low:.4f}, {high:.4f}]"
