"""The page of several studies side by side: what `scaling compare` says, with its figures.

Arms, multipliers and probabilities are those of `analysis.comparing`: k = C_a / C_b at one loss,
above 1 where b is better. What does not compare has a page that says why, and no number.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from analysis.comparing.comparison import compare
from analysis.comparing.options import CompareConfig
from analysis.comparing.text import (
    next_lines,
    pair_notes,
    ranking_lines,
    section_rows,
    verdict_lines,
)
from analysis.figures import arm_charts
from analysis.number_text import interval, number, power
from analysis.page.gallery import Picture
from analysis.page.tables import Grid
from analysis.page.template import inline, page_script, render
from analysis.solve.progress import OnProgress, no_progress

NUMERIC = {"Arms": (2, 3, 5, 6), "Pairs": (1, 3, 4, 5, 7)}  # columns of numbers


def compared(
    studies: Sequence[str],
    *,
    target: str = "",
    unit: str = "",
    on_progress: OnProgress = no_progress,
) -> dict[str, Any]:
    """Return the content of compare.json of several studies, at the largest compute of all.

    studies: their folders, the reference first
    target: named test set whose loss counts; empty is the test part
    unit: of the loss; empty is nats per token
    on_progress: takes (stage, done, total) of steps that take long
    """
    config = CompareConfig(studies=list(studies))
    config.target.test_set = target
    config.unit = unit or config.unit
    return compare(config, on_progress)


def page(result: Mapping[str, Any]) -> str:
    """Return the page of a comparison, alarms first.

    result: the content of compare.json
    """
    names = [arm["study"] for arm in result["arms"]]
    grids = [
        Grid(
            name=name,
            columns=tuple(columns),
            rows=list(rows),
            numeric=NUMERIC[name],
        )
        for name, (columns, rows) in section_rows(result).items()
    ]
    return render(
        "against.html.j2",
        names=names,
        lede=_lede(result),
        alarms=alarms(result),
        answer=answer(result),
        figures_shown=inline(pictures(result)),
        tables=grids,
        notes=_notes(result),
        footer=(
            "Made by scaling report, as scaling compare does it: k is the compute of a over that of"
            " b at the loss that a reaches at the target; above 1, b is better."
        ),
        script=page_script(),
    )


def alarms(result: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return what to know first: that nothing compares, arms without a law, accidents, laws."""
    if not result["comparable"]:
        why = f"The studies do not compare: {result['why']}."
        return [{"code": "not_comparable", "sentence": why, "where": "records"}]
    found = [
        {"code": "arm_without_law", "sentence": f"{arm['why']}.", "where": arm["study"]}
        for arm in result["arms"]
        if arm["why"]
    ]
    found += [
        {"code": "other_recipe", "sentence": f"Differs by accident: {phrase}.", "where": "records"}
        for phrase in result["accidents"]
    ]
    for arm in result["arms"]:
        found += [{**a, "where": f"law of {arm['study']}"} for a in arm["alarms"]]
    return found


def answer(result: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each arm but the reference, then what to do next."""
    if not result["comparable"]:
        return []
    lines = [sentence(pair, result) for pair in result["pairs"] if pair["a"] == result["reference"]]
    return [*lines, "Next: " + "; ".join(next_lines(result, wrapped=False)) + "."]


def sentence(pair: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    """State the multiplier of a pair in words."""
    flops = power(result["target"]["flops"], 3)
    if pair["k"] is None:
        return f"At C = {flops} nothing is known of {pair['b']} over {pair['a']}: {pair['why']}."
    return (
        f"At C = {flops} FLOPs {pair['b']} is worth k = {number(pair['k'], 3)} times the compute of"
        f" {pair['a']} ({100 * result['level']:g}% interval {interval(pair['k_interval'], 3)});"
        f" P({pair['b']} is better) = {pair['p_better']:.2f}."
    )


def pictures(result: Mapping[str, Any]) -> list[Picture]:
    """Draw the arms' losses at the target and their multipliers, with intervals."""
    if not result["comparable"]:
        return []
    level, flops = f"{100 * result['level']:g}%", power(result["target"]["flops"], 3)
    unit = result["unit"].replace("_", " ")
    losses = [
        (arm["study"], arm["loss_at_target"], arm["interval"])
        for arm in result["arms"]
        if arm["loss_at_target"] is not None
    ]
    multipliers = [
        (pair["b"], pair["k"], pair["k_interval"])
        for pair in result["pairs"]
        if pair["a"] == result["reference"] and pair["k"] is not None and pair["k"] > 0
    ]
    found = []
    if losses:
        found.append(
            Picture(
                name="arms",
                svg=arm_charts.losses(losses, f"loss at C = {flops} FLOPs ({unit})"),
                caption=f"Loss of each study's law at the target, with {level} intervals.",
            )
        )
    if multipliers:
        label = f"k over {result['reference']} at C = {flops} FLOPs"
        found.append(
            Picture(
                name="multipliers",
                svg=arm_charts.multipliers(multipliers, label),
                caption=f"Compute of {result['reference']} over that of each study at one loss,"
                f" with {level} intervals; right of 1 the study is better.",
            )
        )
    return found


def _lede(result: Mapping[str, Any]) -> str:
    if not result["comparable"]:
        return "No number of these studies may stand beside that of another."
    return " ".join(verdict_lines(result, wrapped=False))


def _notes(result: Mapping[str, Any]) -> list[str]:
    if not result["comparable"]:
        return []
    return [*ranking_lines(result, wrapped=False), *pair_notes(result, wrapped=False)]
