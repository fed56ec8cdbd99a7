"""A comparison as lines for a terminal, and as rows for a page."""

import shlex
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from analysis.number_text import interval, number, power
from scaling.app.quoting import override

WIDTH = 100
FAR = 10.0  # factor beyond the data from which one larger confirming run is proposed
MOST_ALARMS = 2  # alarms of one arm that are printed; the file has all
ARM_COLUMNS = ("arm", "law", "runs", "loss at target", "interval", "P(best)", "regret")
PAIR_COLUMNS = ("b over a", "k", "interval", "P(b better)", "q", "trend", "interval of it",
                "seeds needed")  # fmt: skip


def lines_of(result: Mapping[str, Any]) -> list[str]:
    """Return the comparison as lines: whether, arms, pairs, rankings, what to run next."""
    if not result["comparable"]:
        return _wrapped(f"Not comparable: {result['why']}.")
    parts = [
        verdict_lines(result),
        alarm_lines(result),
        ["", *_table(ARM_COLUMNS, arm_rows(result))],
        ["", *_table(PAIR_COLUMNS, pair_rows(result)), *pair_notes(result)],
        ["", *ranking_lines(result)],
        ["", "Next:", *(f"  {line}" for line in next_lines(result))],
    ]
    return [line for part in parts for line in part]


def section_rows(result: Mapping[str, Any]) -> dict[str, tuple[Sequence[str], list[Any]]]:
    """Return {table: (columns, rows of text)} of a comparison, for a section of a page.

    result: the content of compare.json; one that is not comparable has no tables
    """
    if not result["comparable"]:
        return {}
    return {
        "Arms": (ARM_COLUMNS, arm_rows(result)),
        "Pairs": (PAIR_COLUMNS, pair_rows(result)),
    }


def verdict_lines(result: Mapping[str, Any], *, wrapped: bool = True) -> list[str]:
    """Return that the arms compare, what the question is and what else differs."""
    target, unit = result["target"], result["unit"].replace("_", " ")
    by = "" if target["given"] else " (the largest compute that all arms have)"
    lines = [
        f"Comparable, in {unit}. Target: C = {power(target['flops'], 3)} FLOPs{by},"
        f" {number(target['extrapolation'], 3)} times the data of the smallest arm."
    ]
    lines += [f"Differs by accident: {phrase}." for phrase in result["accidents"]]
    lines += [f"Question: {phrase}." for phrase in result["question"]]
    return _folded([*lines, *result["notes"]], wrapped)


def alarm_lines(result: Mapping[str, Any]) -> list[str]:
    """Return why arms have no loss at the target, and the first alarms of each law."""
    lines = [f"! {arm['why']}." for arm in result["arms"] if arm["why"]]
    for arm in result["arms"]:
        alarms = arm["alarms"]
        lines += [f"! {arm['study']}: {a['sentence']}" for a in alarms[:MOST_ALARMS]]
        if len(alarms) > MOST_ALARMS:
            lines.append(f"! {arm['study']}: {len(alarms) - MOST_ALARMS} more in the file")
    return [w for line in lines for w in _wrapped(line)]


def arm_rows(result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return a row of text for each arm under `ARM_COLUMNS`, the most likely best first."""
    arms = sorted(result["arms"], key=lambda a: -1 if a["p_best"] is None else -a["p_best"])
    arms = [a for a in arms if a["p_best"] is not None] + [a for a in arms if a["p_best"] is None]
    return [
        (
            arm["study"],
            arm["law_status"],
            str(arm["runs"]),
            number(arm["loss_at_target"], 5),
            interval(arm["interval"], 5),
            _probability(arm["p_best"]),
            number(arm["regret"], 2),
        )
        for arm in arms
    ]


def pair_rows(result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return a row of text for each pair with the reference under `PAIR_COLUMNS`."""
    return [
        (
            f"{pair['b']} over {pair['a']}" + (" *" if pair["promoted"] else ""),
            number(pair["k"], 3),
            interval(pair["k_interval"], 3),
            _probability(pair["p_better"]),
            number(pair["q_value"], 2),
            number(pair["trend"], 2),
            interval(pair["trend_interval"], 2),
            "–" if pair["seeds_needed"] is None else str(pair["seeds_needed"]),
        )
        for pair in _of_reference(result)
    ]


def _of_reference(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [pair for pair in result["pairs"] if pair["a"] == result["reference"]]


def pair_notes(result: Mapping[str, Any], *, wrapped: bool = True) -> list[str]:
    """Explain the columns, and say which gains are real and which fade."""
    pairs = _of_reference(result)
    unit = "bits per byte" if result["unit"] == "bits_per_byte" else "nats"
    lines = [
        f"k: compute of a over that of b at the loss that a reaches at the target; above 1, b is"
        f" better. * promoted: q at most {result['rate']:g}. trend: d log k / d log C. seeds"
        f" needed: for {result['difference']:g} {unit}, power 0.8."
    ]
    if (typical := result.get("effect", {}).get("deviation")) is not None:
        lines.append(
            f"P and regret hold that effects are small: log k between two arms has a deviation of"
            f" about {number(typical, 2)}. k, its interval and q are of the runs alone."
        )
    for pair in pairs:
        if pair["fades"]:
            lines.append(f"The difference of {pair['b']} to {pair['a']} fades with scale.")
        if (p := pair["always_valid_p"]) is not None:
            paired = pair["paired_seeds"]
            by = f"{paired} pairs of one seed" if paired else "pairs of one (N, D), seeds apart"
            lines.append(f"{pair['b']} against {pair['a']}: {by}; p at every look {number(p, 2)}.")
    return _folded(lines, wrapped)


def ranking_lines(result: Mapping[str, Any], *, wrapped: bool = True) -> list[str]:
    """Return both rankings and which of them predicted withheld budgets."""
    by_law = [row[0] for row in arm_rows(result) if row[3] != "–"]
    by_law.sort(key={a["study"]: a["loss_at_target"] for a in result["arms"]}.__getitem__)
    lines = [f"By laws, best first: {', '.join(by_law) or 'no law reaches the target'}."]
    one = result["single_size"]
    if one is None:
        lines.append("By a single size: the arms have no (N, D) in common.")
    else:
        losses = ", ".join(
            f"{name} {number(loss, 5)}"
            for name, loss in zip(one["order"], one["losses"], strict=True)
        )
        lines.append(
            f"By the largest common size (N = {power(one['params'], 3)}, D ="
            f" {power(one['tokens'], 3)}): {losses}."
        )
    cast = result["hindcast"]
    if cast is None:
        lines.append("No budget could be withheld, so neither ranking was tested.")
    else:
        winner = {"laws": "laws", "single_size": "the single size", "neither": "neither"}
        lines.append(
            f"Withheld largest budgets, {cast['orders']} orders of two arms there: laws predicted"
            f" {cast['laws']:.0%}, the single size {cast['single_size']:.0%}; ahead:"
            f" {winner[cast['winner']]}."
        )
    return _folded(lines, wrapped)


def next_lines(result: Mapping[str, Any], *, wrapped: bool = True) -> list[str]:
    """Say what to run next, with commands where the arms are studies."""
    lines, flops = [], f"target.flops={power(result['target']['flops'], 3)}"
    folders = {
        n: i.get("source", "")
        for n, i in result["inputs"].items()
        if isinstance(i.get("sha256"), dict)
    }
    for arm in result["arms"]:
        if arm["why"]:
            folder = folders.get(arm["study"])
            command = (
                f"python -m analysis.design {override('runs', folder)} {flops}"
                if folder
                else "more sizes and budgets"
            )
            lines.append(f"{arm['study']} has no usable law there: {command}")
    for pair in _of_reference(result):
        if pair["p_better"] is None:
            continue
        if pair["promoted"]:
            lines.append(f"take {pair['b']} over {pair['a']} (k = {number(pair['k'], 3)})")
        elif pair["p_better"] <= result["rate"]:
            lines.append(f"keep {pair['a']}: {pair['b']} is worse (k = {number(pair['k'], 3)})")
        elif (needed := pair["seeds_needed"]) is not None:
            have = min(a["seeds"] for a in result["arms"] if a["study"] in (pair["a"], pair["b"]))
            if needed > have:
                lines.append(
                    f"{pair['b']} against {pair['a']} is open: {needed} seeds at one size tell"
                    f" {result['difference']:g}; there are {have}" + _seed_hint(folders, pair)
                )
            else:
                lines.append(
                    f"{pair['b']} against {pair['a']}: no difference is shown, and there are seeds"
                    f" enough for {result['difference']:g}"
                )
    if result["target"]["extrapolation"] > FAR:
        lines.append("the target is far beyond the data: confirm the order at one larger size")
    return _folded(lines or ["nothing; the arms are decided"], wrapped)


def _seed_hint(folders: Mapping[str, str], pair: Mapping[str, Any]) -> str:
    names = [folders[n] for n in (pair["a"], pair["b"]) if n in folders]
    return (
        f" (sweep {' and '.join(shlex.quote(n) for n in names)} again with more seed=)"
        if names
        else ""
    )


def _probability(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _folded(lines: Sequence[str], wrapped: bool) -> list[str]:
    """Return lines of at most `WIDTH`, or one a sentence for a page."""
    return [w for line in lines for w in _wrapped(line)] if wrapped else list(lines)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a table of text whose columns are as wide as their widest entry."""
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    return [
        "  ".join(value.ljust(width) for value, width in zip(row, widths, strict=True)).rstrip()
        for row in (columns, *rows)
    ]
