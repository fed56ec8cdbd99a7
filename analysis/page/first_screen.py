"""The report's first screen: the question, the answer in cards, alarms, the law's formula."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from analysis.alarms.alarm import Alarm
from analysis.forms import FORMS
from analysis.laws.known_entropy import true_offset
from analysis.laws.law import Law
from analysis.laws.text import describe_forecast
from analysis.number_text import counts, duration, interval, number, power, short
from analysis.page.contents import Material
from analysis.planning.plan import Plan
from scaling.schema import CONFIRMING, FEW_ROWS, Command, Measure, Record, read_commands

DEFAULT_LEVEL = 0.9


@dataclass(frozen=True, kw_only=True)
class Card:
    """One number of the answer."""

    what: str
    value: str
    note: str = ""
    tone: str = ""


def question(plan: Plan | None) -> str:
    """Return the question that the plan answers."""
    if not plan:
        return (
            "how the test loss falls with parameters, tokens and compute; no budget has been"
            " planned with yet."
        )
    device = f" on {plan.budget.device}" if plan.budget.device else ""
    return (
        f"with C = {power(plan.budget.flops, 3)} training FLOPs{device}, how large a model, on how"
        " many tokens, reaching what test loss?"
    )


def cards(material: Material) -> list[Card]:
    """Return the answer as cards: N, D, forecast, outcome; without a plan the law's exponent a."""
    law, plan = material.law, material.plan
    answer = []
    if plan:
        answer += _plan_cards(plan)
    elif law and law.allocation.get("a") is not None:
        answer.append(
            Card(
                what="optimal N grows as C^a",
                value=f"a = {number(law.allocation['a'], 3)}",
                note=interval(law.allocation.get("a_interval"), 3),
            )
        )
    if law and (truth := true_offset(law)):
        answer.append(Card(what="true E of the source", value=f"{truth[0]:.4f}", note=truth[1]))
    outcome = verdict(material)
    if outcome:
        answer.append(
            Card(
                what="outcome of the final run",
                value=outcome["value"],
                note=outcome["head"],
                tone=outcome["tone"],
            )
        )
    answer += _ppo_cards(material)
    if not answer:
        done = len(material.cells())
        answer.append(Card(what="cells done", value=f"{done} of {len(material.records)}"))
    return answer


def verdict(material: Material) -> dict[str, str] | None:
    """Return forecast and outcome compared, in words; None before the final run has ended."""
    record, forecast = material.final.stages.get("pretrain"), material.forecast
    if record is None:
        return None
    if record.test_loss is None:
        return {
            "value": record.status,
            "tone": "bad",
            "head": f"The final run ended as {record.status}.",
            "text": record.error or "",
        }
    reached = record.test_loss
    if forecast is None or not forecast.test_loss:
        return {
            "value": f"{reached:.4f}",
            "tone": "",
            "head": "There was no forecast to hold it to.",
            "text": "",
        }
    error = reached - forecast.test_loss
    text = (
        f"Forecast {forecast.test_loss:.4f}, reached {reached:.4f}: {error:+.4f}"
        f" {forecast.unit.replace('_', ' ')}, {100 * error / forecast.test_loss:+.2f}%."
    )
    ends = forecast.interval
    if not ends:
        return {
            "value": f"{reached:.4f}",
            "tone": "",
            "head": "The forecast had no interval.",
            "text": text,
        }
    inside = ends[0] <= reached <= ends[1]
    head = (
        f"{'Inside' if inside else 'OUTSIDE'} the {100 * forecast.level:g}% interval"
        f" [{ends[0]:.4f}, {ends[1]:.4f}]."
    )
    return {
        "value": f"{reached:.4f}",
        "tone": "good" if inside else "bad",
        "head": head,
        "text": text,
    }


def _few_rows(stages: Mapping[str, Record]) -> list[dict[str, str]]:
    """Return the alarms of stages that learned from a file of few rows."""
    return [
        {
            "code": "few_rows",
            "sentence": f"The {stage} data have {record.metrics['rows']:.0f} rows that fit, fewer"
            f" than {FEW_ROWS}: see the standard error beside its result.",
            "where": stage,
        }
        for stage, record in stages.items()
        if record.metrics.get("rows", FEW_ROWS) < FEW_ROWS
    ]


def alarms(material: Material) -> list[dict[str, str]]:
    """Return every alarm once: of the plan, of the law, of the records, of the stages."""
    law, plan = material.law, material.plan
    of_law = list(law.alarms) if law else []
    of_plan = [a for a in (plan.alarms if plan else ()) if a not in of_law]
    rows = [_alarm_row(a, "plan") for a in of_plan] + [_alarm_row(a, "law") for a in of_law]
    if law and not law.usable:
        rows.insert(
            0,
            {
                "code": law.status,
                "sentence": "The fit has no answer that a plan should rest on.",
                "where": "law",
            },
        )
    rows += _stale(material)
    if other := material.final.other_plan:
        rows.append({"code": "other_plan", "sentence": other, "where": "final run"})
    if shares := material.final.band.get("left"):
        rows.append(
            {
                "code": "left_forecast",
                "sentence": (
                    "The final run left the 95% band of its forecast curve at"
                    f" {' and '.join(f'{share:.0%}' for share in shares)} of its tokens."
                ),
                "where": "final run",
            }
        )
    if length := length_alarm(material.final.stages.get("reward")):
        rows.append({"code": "reward_by_length", "sentence": length, "where": "reward"})
    if not any(row["code"] == "few_rows" for row in rows):
        rows += _few_rows(material.final.stages)
    for r in (*material.records, *material.final.stages.values()):
        if r.status != "done":
            text = (r.error or "").strip().splitlines()
            rows.append(
                {
                    "code": r.status,
                    "sentence": f"{r.run_id}: {text[-1] if text else 'no reason was recorded'}",
                    "where": r.stage,
                }
            )
    once = {(a["code"], a["sentence"]): a for a in reversed(rows)}
    return list(reversed(once.values()))


def _alarm_row(alarm: Alarm, where: str) -> dict[str, str]:
    return {"code": alarm.code, "sentence": alarm.sentence, "where": where}


def length_alarm(record: Record | None) -> str:
    """Return the alarm of a reward model that may measure length alone; "" where it does not."""
    m = record.metrics if record else {}
    if "over_length" not in m or m["over_length"] > 2 * m["over_length_se"]:
        return ""
    return (
        f"The reward model orders {m['accuracy']:.1%} of held-out pairs rightly, length alone"
        f" {m['length_accuracy']:.1%} (difference {m['over_length']:+.1%} +-"
        f" {m['over_length_se']:.1%}): it is not shown to measure more than length; give it more"
        " pairs, or pairs of equal length."
    )


def formula(law: Law | None) -> str:
    """Write the law with its numbers."""
    if law is None:
        return ""
    p = {k: number(v) for k, v in law.parameters.items()}
    if law.form not in FORMS:
        return f"{law.form}: {', '.join(f'{k} = {v}' for k, v in p.items())}"
    named = "|".join(map(re.escape, p))
    text = re.sub(rf"\b({named})\b", lambda name: p[name[0]], FORMS[law.form].formula)
    return re.sub("^L =", "L(N, D) =", text) if FORMS[law.form].is_surface else text


def formula_note(law: Law | None) -> str:
    """Say the status of the fit and the interval of each parameter."""
    if law is None:
        return ""
    intervals = law.intervals or {}
    ends = intervals.get("parameters", {})
    texts = [f"{name} {interval(ends[name])}" for name in law.parameters if name in ends]
    level = (
        f"{100 * intervals['level']:g}% intervals: {', '.join(texts)}; "
        if texts
        else "no intervals; "
    )
    average = describe_forecast(law)
    return (
        f"{level}{law.n_runs} runs, {law.status.replace('_', ' ')}"
        f"{f'; {average}' if average else ''}"
    )


def commands(material: Material) -> str:
    """Return the commands that rebuild the page from an empty folder, as they were typed.

    A study of an earlier version did not keep them: its commands follow from its files.
    """
    runs, plan, law = shlex.quote(material.folder.as_posix()), material.plan, material.law
    sweeps = [c.line() for c in read_commands(material.folder) if c.module == "scaling.sweep"]
    finals = _final_commands(material)
    confirming = material.folder.with_name(f"{material.folder.name}{CONFIRMING}") / "final"
    confirmations = [c.line() for c in read_commands(confirming)]
    lines = sweeps or [
        f"python -m scaling.sweep -m sweeps={shlex.quote(material.records[0].study)}"
    ]
    measure = material.measure
    settings = f" {measure.settings}" if measure.settings else ""
    lines.append(_fit_command(law, runs, settings))
    if plan:
        bare = (
            f"python -m analysis.plan law={runs}/{measure.file('law.json')} runs={runs}{settings}"
        )
        command = plan.command or f"{bare} flops={plan.budget.flops!r}"
        lines.append(shlex.join(shlex.split(command)))  # a stranger's plan is quoted anew
        if confirmations:  # a row of the law and the plan that follow
            lines += [*confirmations, *lines[-2:]]
        lines += finals or [f"python -m scaling.final plan={runs}/{measure.file('plan.yaml')}"]
    return "\n".join([*lines, f"python -m analysis.report runs={runs}{settings}"])


def _final_commands(material: Material) -> list[str]:
    """Return the commands of the final run that name this plan; all where no plan is named."""
    names = {material.measure.file("plan.yaml"), material.plan_path.name}
    kept = []
    for command in read_commands(material.folder / "final"):
        plans = [a.removeprefix("plan=") for a in command.arguments if a.startswith("plan=")]
        if not plans or Path(plans[-1]).name in names:
            kept.append(command.line())
    return kept


def _fit_command(law: Law | None, runs: str, settings: str) -> str:
    """Return the command of the fit: as it was typed, else what follows from the law."""
    arguments = law.inputs.get("arguments") if law else None
    if isinstance(arguments, list):
        return Command(module="analysis.fit", arguments=arguments).line()
    return f"python -m analysis.fit runs={runs}{settings}{_fit_options(law)}"


def _fit_options(law: Law | None) -> str:
    """Return the arguments of the fit that are no defaults."""
    if law is None:
        return ""
    options = {
        "form": "all" if law.comparison else law.form,
        "count": law.count,
        **{k: law.inputs.get(k) for k in ("where", "within")},
    }
    usual = {"form": "chinchilla", "count": "total", "where": None, "within": None}
    arguments = [shlex.quote(f"{k}={v}") for k, v in options.items() if v != usual[k]]
    arguments += [f"+fixed.{k}={v!r}" for k, v in law.fixed.items()]
    return "".join(f" {a}" for a in arguments)


def _plan_cards(plan: Plan) -> list[Card]:
    pretrain, forecast = plan.pretrain, plan.forecast
    ends = {step.what: step.interval for step in plan.steps}
    shape = pretrain.model
    model = f"{shape['n_layer']} layers of width {shape['d_model']}"
    if shape.get("n_experts") and plan.cost and plan.cost.params_total:
        model += (
            f", top {shape['top_k']} of {shape['n_experts']} experts,"
            f" {short(plan.cost.params_total)} parameters in all"
        )
    percent = f"{100 * forecast.level:g}%"
    answer = [
        Card(
            what="model size N",
            value=short(pretrain.params),
            note=(
                f"{model}; the law's N* is {short(pretrain.params_target)}, {percent}"
                f" {counts(ends.get('N*'))}"
            ),
        ),
        Card(
            what="training tokens D",
            value=short(pretrain.tokens),
            note=(
                f"{pretrain.tokens / pretrain.params:.3g} per parameter; D* {percent}"
                f" {counts(ends.get('D*'))}; about {duration(pretrain.seconds)} of training"
            ),
        ),
    ]
    if forecast.test_loss is not None:
        per_byte = f"; {forecast.bits_per_byte:.3f} bits per byte" if forecast.bits_per_byte else ""
        reach = f"; {plan.extrapolation:.3g} x the largest cell" if plan.extrapolation else ""
        answer.append(
            Card(
                what=f"forecast {Measure(target=forecast.target, unit=forecast.unit).words}",
                value=f"{forecast.test_loss:.4f}",
                note=f"{percent} {interval(forecast.interval)}{per_byte}{reach}",
            )
        )
    return answer


def kl_budget(plan: Plan | None) -> float | None:
    """Return the KL that PPO may spend, in nats per sequence; None without a plan of PPO."""
    return plan.ppo.kl_budget if plan and plan.ppo else None


def _ppo_cards(material: Material) -> list[Card]:
    record = material.final.stages.get("ppo")
    metrics = record.metrics if record else {}
    if not {"reward_before", "reward_after", "kl"} <= set(metrics):
        return []
    budget = kl_budget(material.plan)
    rose, within = (
        metrics["reward_after"] > metrics["reward_before"],
        budget is None or metrics["kl"] <= budget,
    )
    of_budget = "" if budget is None else f" of a budget of {budget:g}"
    gold = (
        f"; gold {metrics['gold_before']:.3g} to {metrics['gold_after']:.3g}"
        if {"gold_before", "gold_after"} <= set(metrics)
        else ""
    )
    return [
        Card(
            what="reward by PPO",
            value=f"{metrics['reward_before']:.2f} → {metrics['reward_after']:.2f}",
            note=f"KL {metrics['kl']:.3g}{of_budget} nats per sequence{gold}",
            tone="good" if rose and within else "bad",
        )
    ]


def _stale(material: Material) -> list[dict[str, str]]:
    """Return the alarm of a plan that was made from another law than the one shown."""
    made_from = material.plan.made_from.get("law") if material.plan else None
    current = material.sha256.get("law.json")
    if not made_from or not current or made_from == current:
        return []
    return [
        {
            "code": "stale_plan",
            "sentence": (
                "The plan was made from another version of law.json than the one shown here."
            ),
            "where": "report",
        }
    ]
