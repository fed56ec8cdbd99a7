"""The reporting checklist of "(Mis)fitting" (Li et al. 2025, 2502.18969), filled in from the files.

That paper surveys 51 papers: 23 do not name the optimiser and 15 do not say what they count. Every
answer is read from law.json, the plan or the cells; the checklist marks as missing what none of
them holds.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from analysis.forms import FORMS
from analysis.laws.law import Law
from analysis.number_text import interval, number, power, short
from analysis.page.contents import Material
from analysis.page.tables import Grid, spent
from analysis.solve.solver import TOLERANCE
from scaling.app.plurals import plural
from scaling.schema import COUNTS, Record

MISSING = "missing"
MOST_COUNTED = 200  # runs that the report fits again under each count: more take too long
ENOUGH_REACH = 3.0  # times C that a hold-out should lie beyond the fit (LAWS 5.7)


def checklist(material: Material, by_count: Sequence[tuple[str, Law]] = ()) -> Grid:
    """Return the checklist: each question, whether there is an answer, and the answer.

    `by_count` are laws of the same runs and form under other parameter counts.
    """
    rows = []
    for what, answer in _lines(material, by_count):
        rows.append((what, "given" if answer else MISSING, answer or _REMEDY.get(what, "")))
    return Grid(
        name="Reporting checklist", columns=("asked for", "", "answer"), rows=rows, wide=(2,)
    )


_REMEDY = {
    "form": "fit a law: scaling fit",
    "hold-out": "no larger runs could be withheld: add budgets",
    "intervals": "fit with intervals.resamples=1000",
    "sensitivity to objective and rows": "fit with sensitivity=true",
    "sensitivity to what is counted": "fit a study with count= of several kinds",
    "extrapolation used": "plan with scaling plan",
    "seeds": "one seed: sweep seed=0,1 at the cheapest budgets",
}


def _lines(material: Material, by_count: Sequence[tuple[str, Law]]) -> Iterator[tuple[str, str]]:
    law, done = material.law, [r for r in material.records if r.status == "done"]
    yield "form", _form(law)
    yield "what N, D and C count", _counting(law, done)
    yield "ranges and number of runs", _ranges(law, done)
    yield "seeds", _seeds(done)
    yield "architecture", _architecture(done)
    yield "optimiser", _optimiser(done)
    yield "learning rate, batch and how they were set", _rates(done)
    yield "schedule and which checkpoints are fitted", _schedule(done)
    yield "evaluation", _evaluation(done, material.measure.unit_words)
    yield "data", _data(done)
    yield "objective and how it is minimised", _objective(law)
    yield "distinct optima", _optima(law)
    yield "outliers and what was left out", _outliers(law)
    yield "unrounded parameters and covariance", _parameters(law)
    yield "intervals", _intervals(law)
    yield "hold-out", _holdout(law)
    yield "extrapolation used", _extrapolation(material)
    yield "sensitivity to objective and rows", _sensitivity(law)
    yield "sensitivity to what is counted", _sensitivity_to_count(law, by_count)
    yield "code and hardware", _code(done)


def _form(law: Law | None) -> str:
    if law is None:
        return ""
    form = FORMS.get(law.form)
    text = f"{form.formula} ({form.source})" if form else law.form
    constants = f", {', '.join(law.fixed)} held" if law.fixed else ""
    return f"{text}; {len(law.parameters)} parameters{constants}"


def _counting(law: Law | None, done: Sequence[Record]) -> str:
    count = (law.count if law else "total").replace("_", " ")
    per_token = [r.flops / r.flops_6nd for r in done if r.flops_6nd]
    ratio = f", {min(per_token):.3g} to {max(per_token):.3g} times 6ND" if per_token else ""
    return (
        f"N {count} parameters; D tokens processed, repeats included; C counted from the matrix"
        f" products, forward and backward, attention as the full square{ratio}"
        f"{f'; the optimum of the law takes {law.convention}' if law else ''}"
    )


def _ranges(law: Law | None, done: Sequence[Record]) -> str:
    if law is None or not {"params", "tokens"} <= set(law.ranges):
        return ""
    ratio = [r.tokens / getattr(r.params, law.count) for r in done]
    ends_of_ratio = f"; D/N {min(ratio):.2g} to {max(ratio):.3g}" if ratio else ""
    columns = {"params": ("N", short), "tokens": ("D", short), "flops": ("C", power)}
    ends = [
        f"{letter} {write(law.ranges[k][0])} to {write(law.ranges[k][1])}"
        for k, (letter, write) in columns.items()
        if k in law.ranges
    ]
    return f"{law.n_runs} runs; {', '.join(ends)}{ends_of_ratio}"


def _seeds(done: Sequence[Record]) -> str:
    seeds = sorted({r.seed for r in done})
    if len(seeds) < 2:
        return ""
    again = sum(r.seed != seeds[0] for r in done)
    return f"{len(seeds)} ({', '.join(map(str, seeds))}), {again} of {len(done)} runs repeat others"


def _values(done: Sequence[Record], block: str, name: str) -> str:
    """Return the values of a setting over the cells."""
    values = {str(r.config.get(block, {}).get(name)) for r in done}
    return "/".join(sorted(values - {"None"})) or "unknown"


def _settings(done: Sequence[Record], block: str, names: dict[str, str]) -> str:
    return ", ".join(f"{label} {_values(done, block, name)}" for name, label in names.items())


def _architecture(done: Sequence[Record]) -> str:
    names = {"mlp": "MLP", "norm": "norm", "positions": "positions", "tied": "tied head"}
    names |= {"parametrization": "parametrisation", "n_experts": "experts"}
    shapes = {(r.setting("model", "n_layer"), r.setting("model", "d_model")) for r in done}
    ladder = ", ".join(f"{n} x {d}" for n, d in sorted(shapes, key=lambda s: s[0] * s[1] ** 2))
    return f"decoder, {_settings(done, 'model', names)}; layers x width {ladder}" if done else ""


def _optimiser(done: Sequence[Record]) -> str:
    names = {"beta1": "beta1", "beta2": "beta2", "eps": "eps", "weight_decay": "weight decay"}
    names |= {"clip": "clipping at"}
    return f"{_values(done, 'optim', 'name')}, {_settings(done, 'optim', names)}" if done else ""


def _rates(done: Sequence[Record]) -> str:
    if not done:
        return ""
    lr = [r.peak_lr for r in done]
    batch = [r.batch_tokens for r in done]
    groups: dict[tuple[int, int], set[tuple[float, int]]] = {}
    for r in done:
        groups.setdefault((r.params.total, r.tokens), set()).add((r.peak_lr, r.batch_tokens))
    varied = sum(len(settings) > 1 for settings in groups.values())
    tuned = (
        f"swept at {varied} of {len(groups)} (N, D)"
        if varied
        else "by the rule of optim.lr_base and optim.batch_base at every size, not swept here"
    )
    ends = f"peak {min(lr):.3g} to {max(lr):.3g}, batch {short(min(batch))} to {short(max(batch))}"
    return f"{ends} tokens; {tuned}"


def _schedule(done: Sequence[Record]) -> str:
    if not done:
        return ""
    names = {"name": "", "warmup_steps": "warm-up steps", "decay": "decay share"}
    flagged = sum("undercooled" in r.flags for r in done)
    flags = f"; {flagged} hardly cooled" if flagged else ""
    return (
        f"{_settings(done, 'schedule', names).strip()}; each run is fitted at its cooled end,"
        f" no intermediate checkpoint{flags}"
    )


def _evaluation(done: Sequence[Record], unit: str) -> str:
    error = [r.test_loss_se for r in done if r.test_loss_se]
    tokens = _values(done, "eval", "test_tokens")
    se = ""
    if error:
        se = (
            f", standard error {min(error):.2g} to {max(error):.2g} {unit} by the choice of"
            " documents, common to all runs: it is not the error of a difference between two"
        )
    return f"{tokens} held-out tokens, the same for every run, not smoothed{se}" if done else ""


def _data(done: Sequence[Record]) -> str:
    if not done:
        return ""
    passes = max(r.tokens / r.unique_tokens for r in done if r.unique_tokens)
    names = {"source": "source", "context": "context"}
    return (
        f"{_settings(done, 'data', names)}, vocabulary {_values(done, 'tokenizer', 'vocab_size')};"
        f" at most {plural(passes, 'pass', text=f'{passes:.3g}')}"
    )


def _objective(law: Law | None) -> str:
    if law is None:
        return ""
    o = law.objective
    reads_delta = o["name"] in ("huber_log", "envelope")
    delta = f" of delta {o['delta']:g}" if o.get("delta") and reads_delta else ""
    weights = o.get("weighting", "none")
    value = "" if o.get("value") is None else f", {o['value']:.4g} at the end"
    return (
        f"{o['name']}{delta}, summed, weights {weights}{value}; damped Newton with the analytic"
        f" Hessian from a grid of starts, to a relative decrease of {TOLERANCE:g}"
    )


def _optima(law: Law | None) -> str:
    if law is None:
        return ""
    second = [a.sentence for a in law.alarms if a.code == "two_basins"]
    return second[0] if second else "no second minimum within 1% of the objective"


def _outliers(law: Law | None) -> str:
    if law is None:
        return ""
    within = law.inputs.get("within")
    frontier = f", runs within {within:g} of the frontier alone" if within else ""
    where = f", where {law.inputs['where']}" if "where" in law.inputs else ""
    left_out = f"{len(law.dropped)} left out by status"
    far = law.scatter.get("left_out")
    scatter = f"; rows {', '.join(map(str, far))} are left out of the scatter" if far else ""
    return f"no run is dropped for its residual{frontier}{where}; {left_out}{scatter}"


def _parameters(law: Law | None) -> str:
    if law is None:
        return ""
    exact = ", ".join(f"{k} = {v!r}" for k, v in law.parameters.items())
    return f"{exact}; law.json keeps {0 if law.draws is None else len(law.draws)} draws"


def _intervals(law: Law | None) -> str:
    intervals = law.intervals if law else None
    if not intervals or not intervals.get("resamples"):
        return ""
    return (
        f"{100 * intervals['level']:g}%, {intervals['method']}, {intervals['resamples']} resamples"
        f" of {intervals.get('units', law.n_runs if law else 0)} {intervals['unit']}"
    )


def _holdout(law: Law | None) -> str:
    rows = [r for r in ((law.backtest or {}).get("rows", ()) if law else ()) if r["converged"]]
    if not rows:
        return ""
    far = max(rows, key=lambda r: r["distance"])
    short_of = "" if far["distance"] >= ENOUGH_REACH else f", short of {ENOUGH_REACH:g} times"
    return (
        f"up to {far['distance']:.3g} times the compute fitted{short_of}: rms error"
        f" {far['rms_relative_error']:.2%} of {far['n_test']} runs, {far['coverage']:.0%} inside"
    )


def _extrapolation(material: Material) -> str:
    plan = material.plan
    if not plan or not plan.extrapolation:
        return ""
    record = material.final.stages.get("pretrain")
    reached = f"; the run reached {record.test_loss:.4f}" if record and record.test_loss else ""
    loss = plan.forecast.test_loss
    forecast = f", forecast {loss:.4f}" if loss else ""
    return f"{plan.extrapolation:.3g} times the largest compute fitted{forecast}{reached}"


def _sensitivity(law: Law | None) -> str:
    rows = [r for r in (law.sensitivity if law else ()) if "a" in r]
    if not rows:
        return ""
    a, ratio = [r["a"] for r in rows], [r["tokens_per_param"] for r in rows]
    subsets = len({r["rows"] for r in rows})
    return (
        f"a {interval([min(a), max(a)], 3)}, D*/N* {interval([min(ratio), max(ratio)], 3)} over"
        f" {len({r['objective'] for r in rows})} objectives and {subsets} choices of rows"
    )


def _sensitivity_to_count(law: Law | None, by_count: Sequence[tuple[str, Law]]) -> str:
    texts = [
        f"{name.replace('_', ' ')} {number(one.allocation['a'], 3)}"
        for name, one in by_count
        if one.usable and "a" in one.allocation
    ]
    return f"a by count of N: {', '.join(texts)}" if law and len(texts) > 1 else ""


def _code(done: Sequence[Record]) -> str:
    if not done:
        return ""
    shas = "/".join(sorted({r.git_sha or "no checkout" for r in done}))
    hours = spent(done, "device_seconds") / 3600
    flops = power(spent(done, "flops"), 3)
    devices = ", ".join(sorted({r.device for r in done}))
    return f"commit {shas}; {devices}; {hours:.3g} device hours for {flops} FLOPs, trunks once"


def counted(material: Material) -> list[tuple[str, Any]]:
    """Return laws of the same form and runs under each way to count N; [] where none was fitted."""
    from analysis.estimation.fit import fit  # slow to import where no law is there

    law = material.law
    if law is None or law.form not in FORMS or not FORMS[law.form].is_surface or law.fixed:
        return []
    if material.table is not None or law.n_runs > MOST_COUNTED:
        return []  # a table has one column of N
    laws, sizes_seen = [], set()
    options = {"resamples": 0, "hindcast": False, "sensitivity": False}
    for count in COUNTS:
        sizes = tuple(getattr(r.params, count) for r in material.records)
        if sizes in sizes_seen:
            continue
        sizes_seen.add(sizes)
        where = law.inputs.get("where")
        try:
            laws.append(
                (count, fit(material.folder, law.form, count=count, where=where, **options))
            )
        except ValueError:
            continue  # too few rows, or alike under this count
    return laws
