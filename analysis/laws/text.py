"""A law as text for the terminal, at most 100 columns wide: alarms first, then its numbers."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from analysis.alarms.loss_units import BITS_PER_BYTE
from analysis.forms import FORMS
from analysis.forms.optimum import edge_of
from analysis.laws.critical_batch_text import critical_batch_lines
from analysis.laws.curve_law import curve_lines
from analysis.laws.isoflop_text import isoflop_notes
from analysis.laws.known_entropy import true_offset
from analysis.laws.law_file import LawFile
from analysis.laws.surface_law import FORM as SURFACE
from analysis.laws.surface_text import surface_notes

WIDTH = 100
LABEL = 14
AT_EDGE = "at the edge of the search, no optimum"
_STATUS = {
    "converged": "converged",
    "offset_not_identified": "E NOT IDENTIFIED (the rest is a minimum)",
    "bound_hit": "NOT A LAW: a parameter is at its bound",
    "not_identified": "NOT IDENTIFIED: the runs do not determine this form",
    "max_iter": "NO MINIMUM FOUND",
}
_METHODS = {
    "parametric": "parametric",
    "isoflop": "IsoFLOP",
    "envelope": "envelope",
}
_LETTERS = {"flops": "C", "params": "N", "tokens": "D"}


def summary(law: LawFile) -> str:
    """Return the whole text, alarms first, without a trailing newline."""
    blocks = [
        _alarms(law),
        _head(law),
        _forecast(law),
        _parameters(law) if not law.curves else curve_lines(law.curves, WIDTH),
        _methods(law),
        _optima(law),
        _peak(law),
        _sensitivity(law),
        _comparison(law),
        _powers(law),
        _hindcasts(law),
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _alarms(law: LawFile) -> list[str]:
    lines = []
    for alarm in law.alarms:
        text = f"! {alarm.code}: {alarm.sentence}"
        lines += textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False)
    return lines


def _head(law: LawFile) -> list[str]:
    source = law.inputs.get("source", law.source)
    noun = "curves" if law.curves else "runs"
    runs = f"{law.n_runs} {noun}" if law.n_runs else "published"
    rest = f", {len(law.dropped)} left out" if law.dropped else ""
    if SURFACE in law.methods:
        runs = f"{law.n_runs} of {law.methods[SURFACE]['n_rows']} rows"
    if "within" in law.inputs:
        runs = f"{law.n_runs} of {law.n_runs + law.inputs['n_far']} runs"
        rest += f", those within {law.inputs['within']:.3g} of the best loss at their C"
    if law.replicates:
        runs = f"{law.replicates['points']} points ({law.n_runs} of {law.replicates['rows']} rows)"
    unit = ", loss in bits per byte" if law.unit == BITS_PER_BYTE else ""
    lines = textwrap.wrap(f"{runs} of {source}{rest}, N counted as {law.count}{unit}", WIDTH)
    lines += _of_logs(law.inputs.get("logs"))
    for one in law.inputs.get("confirmations", ()):
        lines += textwrap.wrap(describe_confirmation(one), WIDTH, subsequent_indent="  ")
    objective = law.objective
    value = objective.get("value")
    if value is not None:
        reads_delta = objective["name"] in ("huber_log", "envelope")
        delta = f" delta {objective['delta']:g}" if reads_delta else ""
        lines.append(
            f"{law.form} by {objective['name']}{delta}: {value:.10g}; {_STATUS[law.status]}"
        )
    else:
        status = _STATUS[law.status] if law.n_runs else "published constants"
        lines += textwrap.wrap(f"{law.form}: {status}", WIDTH)
    return lines


def _of_logs(logs: Mapping[str, Any] | None) -> list[str]:
    """Say which tool's logs were read, and what as the loss; [] for a study or a table."""
    if not logs:
        return []
    loss = f"loss is {logs['loss']}, its last value" if logs["loss"] else "no loss was logged"
    text = "; ".join([f"read as logs of {logs['tool']}: {loss}", *logs["notes"]])
    return textwrap.wrap(text, WIDTH, subsequent_indent="  ")


def describe_forecast(law: LawFile) -> str:
    """Say which forms a law of form=all averages and with which weights; empty for one form."""
    if not law.forecast:
        return ""
    forms = sorted(law.forecast["forms"], key=lambda one: -one["weight"])
    weights = ", ".join(f"{one['form']} {one['weight']:.2f}" for one in forms if one["weight"])
    return f"forecasts are the mean of log L over forms, by withheld runs: {weights}"


def describe_predicting(law: LawFile) -> str:
    """Name what a law predicts and finds optima with: the average over forms, or its own form."""
    if law.forecast:
        return f"the average over forms (leading: {law.form})"
    return f"the law ({law.form})"


def used_alone(law: LawFile) -> str:
    """Say that one form of an average is planned with alone; empty for other laws."""
    weights = [one["weight"] for one in (law.forecast or {}).get("forms", ()) if one["weight"]]
    if weights != [1.0] or "unique_tokens" not in FORMS[law.form].variables:
        return ""
    rule = (law.forecast or {})["rule"]
    return f"with unique_tokens the plan uses {rule}, and the other forms widen its intervals"


def _forecast(law: LawFile) -> list[str]:
    text = describe_forecast(law)
    note = f"{law.form} leads; its parameters follow, and {text}" if text else ""
    return textwrap.wrap(note, WIDTH)


def describe_confirmation(one: Mapping[str, Any]) -> str:
    """Describe how a confirmation run, which is a row of the law now, met its forecast."""
    where = {True: "inside", False: "OUTSIDE", None: "without an interval"}[one["inside"]]
    ends = f" [{one['interval'][0]:.4f}, {one['interval'][1]:.4f}]" if one["interval"] else ""
    return (
        f"confirmation at C = {one['flops']:.4g}: forecast {one['forecast']:.4f}, reached"
        f" {one['outcome']:.4f}, {where}{ends}; a row of this law"
    )


def _parameters(law: LawFile) -> list[str]:
    intervals = law.intervals or {}
    spans = intervals.get("parameters", {})
    lines = []
    if intervals:
        units = f"{intervals.get('units', '')} {intervals['unit']}s".strip()
        method = str(intervals["method"])
        if intervals["resamples"]:
            source = "draws given" if law.prior else "resamples of"
            method += f", {intervals['resamples']} {source} {units}"
        lines.append(
            f"{'parameter':<{LABEL}}{'value':>14}  {intervals['level']:.0%} interval ({method})"
        )
    for name, value in law.parameters.items():
        lines.append(f"{name:<{LABEL}}{value:>14.6g}{_span(spans.get(name))}")
    if law.prior is not None:
        lines += textwrap.wrap(describe_prior(law.prior), WIDTH, subsequent_indent="  ")
    if truth := true_offset(law):
        lines.append(f"{'true E':<{LABEL}}{truth[0]:>14.6g}  {truth[1]}")
    return lines


def describe_prior(block: Mapping[str, Any]) -> str:
    """Say in one sentence how the prior moved a law, given the `prior` block of law.json."""
    pulls = [
        f"{name} {pull['posterior']:.3g} (published {pull['prior']:.3g}, "
        f"runs alone {'open' if pull['runs'] is None else format(pull['runs'], '.3g')}, "
        f"{pull['weight']:.0%} prior)"
        for name, pull in block["pull"].items()
    ]
    families = ", ".join(block["families"])
    return (
        f"prior {block['name']} ({families}) has {block['weight']:.0%} of the law's precision: "
        + ", ".join(pulls)
    )


def _methods(law: LawFile) -> list[str]:
    if "critical_batch" in law.methods:
        level = (law.intervals or {}).get("level", 0.9)
        return critical_batch_lines(law.methods["critical_batch"], level)
    if "lr_batch" in law.methods:
        return _cells(law.methods["lr_batch"])
    if SURFACE in law.methods:
        return surface_notes(law)
    if not law.methods:
        return []
    lines = [f"{'N* ~ C^a':<{LABEL}}{'a':>8}  {'interval':<18}{'b':>8}  {'interval':<18}  from"]
    for key, label in _METHODS.items():
        block = law.methods.get(key)
        if key not in law.methods:
            continue
        if block is None:
            lines.append(f"{label:<{LABEL}}{'-':>8}  {_absent(key)}")
            continue
        if key == "parametric" and law.status == "not_identified":
            lines.append(f"{label:<{LABEL}}{'-':>8}  not identified by these runs")
            continue
        if key == "parametric" and _edges(law)[:1] == [True]:
            lines.append(f"{label:<{LABEL}}{'-':>8}  {AT_EDGE}")
            continue
        a, b = (f"{block[k]:>8.4f}  {_pair(block[k + '_interval']):<18}" for k in ("a", "b"))
        lines.append(f"{label:<{LABEL}}{a}{b}  {_origin(key, block, law)}")
    return lines + isoflop_notes(law.methods.get("isoflop"))


def _cells(block: dict[str, Any]) -> list[str]:
    lines = [f"{'N':<12}{'D':<12}{'runs':>5}{'loss':>8}  optimum [within .25 %]"]
    for point in block["points"]:
        optima = []
        for axis, optimum in point["optima"].items():
            pair = "[{:.2g}, {:.2g}]".format(*optimum["flat"])
            value = optimum["why"] or f"{axis} {optimum['value']:.3g}"
            optima.append(f"{value} {pair}")
        lines.append(
            f"{point['params']:<12.4g}{point['tokens']:<12.4g}{point['n_runs']:>5}"
            f"{point['loss']:>8.4f}  {'; '.join(optima) or 'neither was swept'}"[:WIDTH]
        )
    return lines


def _absent(key: str) -> str:
    return {
        "isoflop": "fewer than 3 budgets have 4 sizes and a minimum inside them",
        "envelope": "fewer than 3 curves (or over 5000 sizes), or no optimum inside the sizes",
    }.get(key, "")


def _origin(key: str, block: dict[str, Any], law: LawFile) -> str:
    if key == "isoflop":
        good = sum(p["why"] is None for p in block["points"])
        return f"{good} of {len(block['points'])} budgets"
    if key == "envelope":
        return str(block["source"])
    return f"{law.n_runs} runs"


def _optima(law: LawFile) -> list[str]:
    optima = law.allocation.get("tokens_per_param") or []
    if not optima or not (law.usable or law.forecast):
        return []
    lines = [
        f"{'optimum at C':<{LABEL}}{'N*':>12}{'D*':>12}{'D*/N*':>10}  {'interval':<22}{'loss':>8}"
    ]
    for o, at_edge in zip(optima, _edges(law), strict=True):
        if at_edge:
            ratio = f"D*/N* = {o['tokens_per_param']:.4g}"
            lines.append(f"{o['flops']:<{LABEL}.3e}{'-':>12}  {AT_EDGE} ({ratio})")
            continue
        pair = _pair(o["interval"], digits=4)
        loss = "" if o["loss"] is None else f"{o['loss']:.4f}"
        lines.append(
            f"{o['flops']:<{LABEL}.3e}{o['params']:>12.4g}{o['tokens']:>12.4g}"
            f"{o['tokens_per_param']:>10.4g}  {pair:<22}{loss:>8}"
        )
    return lines


def _edges(law: LawFile) -> list[bool]:
    """Return for each stated optimum whether it stands at an edge of the search."""
    return [
        bool(edge_of(o["tokens_per_param"])) for o in law.allocation.get("tokens_per_param") or []
    ]


def _peak(law: LawFile) -> list[str]:
    peak = law.allocation.get("peak")
    if not peak or peak["at"] is None:
        return []
    ends = peak.get("interval")
    pair = f" [{ends[0]:.4g}, {'none' if ends[1] is None else f'{ends[1]:.4g}'}]" if ends else ""
    return [
        f"{'peak':<{LABEL}}{peak['variable']} {peak['at']:.4g}{pair}, value {peak['value']:.4g}"
    ]


def _sensitivity(law: LawFile) -> list[str]:
    rows = law.sensitivity
    if not rows or not law.usable:
        return []
    names = [n for n in ("E", "alpha", "beta", "eta") if n in law.parameters]
    head = f"{'sensitivity':<{LABEL}}{'rows':<30}" + "".join(f"{n:>9}" for n in names)
    lines = [f"{head}{'a':>9}{'D*/N*':>9}"]
    for row in rows:
        name = row["objective"] + (f" {row['delta']:g}" if row["delta"] else "")
        start = f"{name:<{LABEL + 2}}{row['rows']:<28}"
        if not row["converged"]:
            lines.append(f"{start}  no minimum inside the bounds")
            continue
        values = "".join(f"{row['parameters'][n]:>9.4f}" for n in names)
        ratio = f"{row['a']:>9.4f}{row['tokens_per_param']:>9.4g}" if "a" in row else ""
        lines.append(f"{start}{values}{ratio}")
    return lines


def _comparison(law: LawFile) -> list[str]:
    if not law.comparison:
        return []
    asked = law.comparison[0].get("asked", "all")
    endings = {"repetition": "beyond epochs", "downstream": "accuracy, by reach"}
    ending = f"{'status':<22}{endings.get(asked, 'by reach')}"
    width = max(20, *(len(row["form"]) + 1 for row in law.comparison))
    lines = [f"{'form':<{width}}{'parameters':>11}{'in range':>10} {'withheld':>10}  {ending}"]
    for row in law.comparison:
        error = row["score"]
        score = "no minimum" if error is None else f"{error:.2%}"
        beyond = ">" if row.get("asked") == "repetition" else "x"
        reaches = " ".join(f"{beyond}{d:.3g} {e:.2%}" for d, e in row["by_cutoff"][:4])
        reaches = f"{row.get('status', ''):<22}{reaches}"
        lines.append(
            f"{row['form']:<{width}}{row['n_parameters']:>11}{row['rms_in_range']:>10.2%}"
            f" {score:>10}  {reaches}"[:WIDTH]
        )
    return lines


def _powers(law: LawFile) -> list[str]:
    lines = []
    for block in law.power_laws:
        letter = _LETTERS[block["variable"]]
        name = f"L({letter})" + (" + E" if block["offset"] else "")
        if not block["parameters"]:
            continue
        values, spans = block["parameters"], block["intervals"] or {}
        offset = f"  E {values['E']:.4g}{_span(spans.get('E'))}" if block["offset"] else ""
        bound = "" if block["status"] == "converged" else f"  ({block['status']})"
        lines.append(
            f"{name:<{LABEL}}{values['exponent']:>8.4f}  {_pair(spans.get('exponent')):<18}"
            f"{block['n_runs']:>5} runs{offset}{bound}"
        )
    if lines:
        lines.insert(0, f"{'power law':<{LABEL}}{'exponent':>8}  {'interval':<18}frontier")
    return lines


def _hindcasts(law: LawFile) -> list[str]:
    rows = [r for r in (law.backtest or {}).get("rows", []) if r["converged"]]
    if not rows or not (law.usable or law.forecast):
        return []
    lines = [
        f"{'hindcast from':<{LABEL}}{'reach':>8}{'fitted':>8}{'tested':>8}"
        f"{'rms error':>11}{'bias':>9}{'covered':>9}"
    ]
    for r in rows:
        reach = f"x{r['distance']:.3g}"
        lines.append(
            f"{r['cutoff_flops']:<{LABEL}.3e}{reach:>8}{r['n_train']:>8}{r['n_test']:>8}"
            f"{r['rms_relative_error']:>11.2%}{r['mean_relative_error']:>9.2%}{r['coverage']:>9.0%}"
        )
    return lines


def _pair(interval: Sequence[float] | None, digits: int = 3) -> str:
    if interval is None:
        return ""
    style = f"#.{digits}g" if digits > 3 else f".{digits}f"
    return f"[{interval[0]:{style}}, {interval[1]:{style}}]"


def _span(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f"  [{interval[0]:.6g}, {interval[1]:.6g}]"
