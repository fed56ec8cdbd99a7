"""A proposed mixture as lines for a terminal, and as rows for a page."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from analysis.number_text import interval, number, power

WIDTH = 100
SOURCE_COLUMNS = ("source", "natural", "proposed", "interval", "epochs", "trained up to")
DOMAIN_COLUMNS = ("domain", "weight", "natural", "proposed", "interval", "withheld error")


def lines_of(result: Mapping[str, Any]) -> list[str]:
    """Return a proposal as lines: alarms, law, shares, losses, gain."""
    parts = [
        [w for a in result["alarms"] for w in _wrapped(f"! {a['sentence']}")],
        law_lines(result),
        ["", *_table(SOURCE_COLUMNS, source_rows(result))],
        ["", *_table(DOMAIN_COLUMNS, domain_rows(result))],
        ["", *gain_lines(result)],
    ]
    return [line for part in parts for line in part]


def law_lines(result: Mapping[str, Any]) -> list[str]:
    """Return which law was fitted and how it predicts withheld mixtures."""
    checks = result["validation"]
    errors = checks["median_error"].values()
    return _wrapped(
        f"{result['formula']}, {len(result['domains'])} domains, {len(result['sources'])} sources,"
        f" {result['n_runs']} runs. Withheld mixtures ({checks['folds']} folds): rank correlation"
        f" {checks['rank_of_target']:.3f} of the weighted loss, median error of a loss"
        f" {min(errors):.2%} to {max(errors):.2%}."
    )


def source_rows(result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return a row of text for each source under `SOURCE_COLUMNS`, the largest share first."""
    weights, ends = result["weights"], result["intervals"]["weights"]
    return [
        (
            name,
            _share(result["natural"][name]),
            _share(weights[name]),
            f"[{_share(ends[name][0])}, {_share(ends[name][1])}]",
            "–" if (e := result["epochs"][name]) is None else f"{e:.2f}",
            _share(result["ranges"][name][1]),
        )
        for name in sorted(weights, key=lambda n: -weights[n])
    ]


def domain_rows(result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return a row of text for each domain under `DOMAIN_COLUMNS`."""
    return [
        (
            name,
            f"{result['target'][name]:.3g}",
            number(result["predicted_natural"][name], 4),
            number(result["predicted"][name], 4),
            interval(result["intervals"]["predicted"][name], 4),
            f"{result['validation']['median_error'][name]:.2%}",
        )
        for name in result["domains"]
    ]


def gain_lines(result: Mapping[str, Any]) -> list[str]:
    """Return the gain over natural shares, what they are, and the run that it is for."""
    natural = "given" if result["natural_given"] else "the mean of the table's shares"
    run = "" if not result["tokens"] else f" Repeats are those of {power(result['tokens'])} tokens."
    return _wrapped(
        f"Gain over the natural shares ({natural}): {number(result['gain_over_natural'], 3)} nats"
        f" of weighted loss, {result['intervals']['level']:.0%} interval"
        f" {interval(result['intervals']['gain_over_natural'], 3)}, P(better) ="
        f" {result['p_better']:.2f}; at the size and tokens of the trained mixtures.{run}"
    )


def _share(value: float) -> str:
    return f"{value:.3f}"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a table of text whose columns are as wide as their widest entry."""
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    return [
        "  ".join(value.ljust(width) for value, width in zip(row, widths, strict=True)).rstrip()
        for row in (columns, *rows)
    ]
