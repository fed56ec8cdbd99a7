"""The closing lines of a final run: one a stage, with its result and whether its forecast held."""

from collections.abc import Callable, Sequence
from pathlib import Path

from scaling.app.next_command import next_command
from scaling.config import FinalConfig, PpoPlan, RewardPlan, SftPlan
from scaling.schema import CONFIRMING, Record, measure_of, read_json
from scaling.stages.plan import GOLD, StageName
from scaling.stages.sealed_forecast import forecast_file, refit_advice


def summary(config: FinalConfig, records: Sequence[Record]) -> list[str]:
    """Return the closing lines, one a record, and how to go on after a confirmation."""
    lines = []
    for record in records:
        text = RESULTS[record.stage](config, record)
        lines.append(f"{record.stage:>8}: {text}  ({record.seconds:.0f} s)")
        if CONFIRMING in config.study:
            lines.append(f"confirmation: {refit_advice(config.study, config.runs)}")
    return lines


def following(config: FinalConfig) -> str:
    """Return the line that names the next command: the report, or the fit of a confirmation."""
    study, _, _ = config.study.partition(CONFIRMING)
    return next_command("report" if study == config.study else "fit", runs=Path(config.runs, study))


def pretrain_result(config: FinalConfig, record: Record) -> str:
    """Compare pretraining's test loss with the sealed forecast."""
    path = forecast_file(config)
    sealed = read_json(path) if path.is_file() else {}
    measure = measure_of(sealed)
    if why := measure.why_missing(record):
        return f"no {measure.words}: {why}"
    record = measure.of(record)
    unit = measure.unit.replace("_per_", "/").replace("_", " ")
    of = f"loss on {measure.target}" if measure.target else "test loss"
    text = f"{of} {record.test_loss:.4f} +- {record.test_loss_se or 0:.4f} {unit}"
    if not sealed.get("test_loss"):
        return f"{text}, no forecast in the plan"
    error = record.test_loss / sealed["test_loss"] - 1
    text += f", forecast {sealed['test_loss']:.4f} ({error:+.1%})"
    if len(sealed["interval"]) != 2:
        return text
    low, high = sealed["interval"]
    side = "inside" if low <= record.test_loss <= high else "OUTSIDE"
    return f"{text}, {side} the {sealed['level']:.0%} interval [{low:.4f}, {high:.4f}]"


def sft_result(config: FinalConfig, record: Record) -> str:
    """Say how fine-tuning changed the loss of completions."""
    m = record.metrics
    return (
        f"completion loss {m['test_loss_before']:.3f} -> "
        f"{m['test_loss']:.3f} +- {m['test_loss_se']:.3f} "
        f"nats/token{beside_forecast(config.sft, m['test_loss'])}, {m['examples']:.0f} examples"
    )


def reward_result(config: FinalConfig, record: Record) -> str:
    """Say how well the reward model orders held-out pairs, and what its score follows."""
    m = record.metrics
    gold = ""
    if config.reward.data == GOLD:  # the labels of the user's own preferences are no gold scores
        gold = f"correlation with gold {m['gold_correlation']:.2f}, "
    return (
        f"accuracy {m['accuracy']:.3f} +- {m['accuracy_se']:.3f} "
        f"on {m['test_pairs']:.0f} held-out pairs, "
        f"{m['pairs']:.0f} trained on; loss {m['test_loss']:.4f}"
        f"{beside_forecast(config.reward, m['test_loss'])}; "
        f"{gold}correlation with length {m['length_correlation']:.2f}; "
        f"length alone reaches {m['length_accuracy']:.3f}"
    )


def ppo_result(config: FinalConfig, record: Record) -> str:
    """Say what PPO gained, and what KL it spent of its budget."""
    m = record.metrics
    gold = ""
    if "gold_after" in m:
        gain = beside_forecast(config.ppo, m["gold_after"] - m["gold_before"])
        gold = f"gold {m['gold_before']:.3f} -> {m['gold_after']:.3f}{gain}, "
    side = "inside" if m["kl"] <= m["kl_budget"] else "OUTSIDE"
    return (
        f"reward {m['reward_before']:.2f} -> {m['reward_after']:.2f}, {gold}"
        f"KL {m['kl']:.2f} nats {side} the "
        f"budget of {m['kl_budget']:g}, {m['episodes']:.0f} episodes"
    )


RESULTS: dict[str, Callable[[FinalConfig, Record], str]] = {
    StageName.PRETRAIN: pretrain_result,
    StageName.SFT: sft_result,
    StageName.REWARD: reward_result,
    StageName.PPO: ppo_result,
}


def beside_forecast(block: SftPlan | RewardPlan | PpoPlan, value: float) -> str:
    """Compare a stage's result with the forecast of its law; empty where no law set the block."""
    gain = isinstance(block, PpoPlan)
    forecast = block.forecast_gain if gain else block.forecast_loss
    if not block.forecast_level:
        return ""
    text = f", forecast {'gain ' if gain else ''}{forecast:.4f}"
    if len(block.forecast_interval) != 2:
        return text
    low, high = block.forecast_interval
    side = "inside" if low <= value <= high else "OUTSIDE"
    return f"{text} ({side} [{low:.4f}, {high:.4f}])"
