"""Several laws side by side at one budget: N*, D* and loss of each, and how far they disagree.

The losses of laws that were fitted on different corpora or tokenizers are not comparable. `regret`
is comparable: what each law says the plan's N costs against its own optimum at the same C.
"""

from collections.abc import Mapping, Sequence

from analysis.alarms.alarm import Alarm
from analysis.laws.law import Law, Optimum
from analysis.planning.plan import LawRow
from scaling.schema import Measure

FAR_APART = 2.0  # an alarm says that laws disagree from this ratio of their N* on


def side_by_side(
    laws: Mapping[str, Law], flops: float, *, level: float, params: float
) -> list[LawRow]:
    """Return a row for each law.

    laws: the laws by name, the deciding one first
    flops: C of the budget
    level: share that the intervals hold
    params: the plan's N, at which each law's regret is taken
    """
    return [_row(name, law, flops, level, params) for name, law in laws.items()]


def disagreement(rows: Sequence[LawRow]) -> dict[str, float]:
    """Return the ratio of the largest to the smallest N*, D* and D*/N* of the laws."""
    return {
        name: max(getattr(row, name) for row in rows) / min(getattr(row, name) for row in rows)
        for name in ("params", "tokens", "tokens_per_param")
    }


def disagreement_alarm(rows: Sequence[LawRow]) -> Alarm | None:
    """Return an alarm where the laws lie far apart in N*."""
    ratio = disagreement(rows)["params"]
    if ratio < FAR_APART:
        return None
    least, most = (end(rows, key=lambda row: row.params) for end in (min, max))
    return Alarm(
        code="laws_disagree",
        sentence=f"N* differs {ratio:.3g}-fold between the laws, {least.params:.3g} by"
        f" {least.law} and {most.params:.3g} by {most.law}: settle it by runs of your own"
        " before spending the budget.",
    )


def comparison_lines(rows: Sequence[LawRow], flops: float) -> list[str]:
    """Return the table as text, at most 100 columns."""
    head = f"  {'law':<24} {'count':<13} {'N*':>9} {'D*':>9} {'D*/N*':>7} {'loss':>8} {'regret':>9}"
    lines = [f"laws side by side at C = {flops:.4g} FLOPs", head]
    for row in rows:
        loss = "-" if row.loss is None else f"{row.loss:.4f}"
        regret = "-" if row.regret is None else f"{row.regret:+.2g}"
        name = row.law if len(row.law) <= 24 else f"..{row.law[-22:]}"
        lines.append(
            f"  {name:<24} {row.count:<13} {row.params:>9.4g} {row.tokens:>9.4g}"
            f" {row.tokens_per_param:>7.3g} {loss:>8} {regret:>9}"
        )
        if row.interval:
            low, high = row.interval
            lines.append(f"  {'':<24} N* {100 * row.level:g}% [{low:.4g}, {high:.4g}]")
    ratios = disagreement(rows)
    lines.append(
        f"  largest over smallest: N* {ratios['params']:.3g}, D* {ratios['tokens']:.3g}, D*/N*"
        f" {ratios['tokens_per_param']:.3g}; regret at the plan's N in {_units(rows)}"
    )
    return lines


def _units(rows: Sequence[LawRow]) -> str:
    """Return the unit of the rows' losses, or each law's own where they differ."""
    units = {row.law: Measure(unit=row.unit).unit_words for row in rows}
    if len(set(units.values())) == 1:
        return next(iter(units.values()))
    return f"the law's own unit ({', '.join(f'{law} {unit}' for law, unit in units.items())})"


def _row(name: str, law: Law, flops: float, level: float, params: float) -> LawRow:
    best = law.optimum(flops, level)
    return LawRow(
        law=name,
        form=law.form,
        count=law.count,
        params=best.params,
        tokens=best.tokens,
        tokens_per_param=best.tokens_per_param,
        interval=tuple(best.intervals.get("params", ())),
        loss=best.loss,
        regret=_regret(law, best, flops, params),
        level=level,
        unit=law.unit,
    )


def _regret(law: Law, best: Optimum, flops: float, params: float) -> float | None:
    """Return L(N, C / c(N)) - L*(C) in the unit of the law; None for one without a loss."""
    if best.loss is None:
        return None
    tokens = flops / law.flops_per_token(params)
    here = law.predict(params, tokens, noise=False, force=True).loss
    return float(here) - best.loss
