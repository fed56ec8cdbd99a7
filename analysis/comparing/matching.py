"""The runs that a comparison is made from: those at the (N, D) that all arms have.

A form is wrong about every study a little, and how it is wrong depends on which sizes and budgets
were run. Two studies without any effect between them, one of 43 cells and one of the 20 smallest of
these, gave k = 10 [4, 17] at 300 times the compute when each law had all of its own cells. At
common points the same error is in both laws and cancels.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from analysis.alarms.of_table import is_ray
from analysis.comparing.arms import Arm
from analysis.comparing.points import common_points, places
from analysis.estimation.checks import check_table
from analysis.forms import Array, Form, column, form_named

ALONG_A_RAY = "power_flops_offset"
LEAST_SHARE = 0.5  # of the runs of the smallest arm, which must be at common points


def on_common_points(arms: Sequence[Arm], form: Form) -> tuple[list[Arm], bool, list[str]]:
    """Return the arms with their runs at common points, whether they have such, and what to say.

    arms: all arms; those too small for a law do not decide which points are common
    form: of the laws, which the common runs of every arm must be able to carry

    Where the arms have too few points in common each keeps all of its runs.
    """
    where = places([arm.runs.table for arm in arms])
    able = [i for i, arm in enumerate(arms) if _carries(arm, form)]
    if len(able) < 2:
        return list(arms), True, []
    codes = np.array(sorted(common_points(where, able)))
    kept = [np.isin(where.points[i], codes) for i in range(len(arms))]
    smallest = min(len(arms[i].runs) for i in able)
    taken = [arm if i not in able else _take(arm, kept[i]) for i, arm in enumerate(arms)]
    enough = all(_carries(taken[i], form) and kept[i].sum() >= LEAST_SHARE * smallest for i in able)
    if not enough:
        return list(arms), False, [
            f"The arms have {len(codes)} (N, D) in common, too few for laws of these alone: each"
            " law has all runs of its arm, so that errors of the form do not cancel and intervals"
            " are wider; sweep the arms over one grid."
        ]  # fmt: skip
    left = {arms[i].name: int((~kept[i]).sum()) for i in able if not kept[i].all()}
    where_of = {arm.name: i for i, arm in enumerate(arms)}
    said = [
        f"Left out of {name}: runs at an (N, D) that another arm lacks, {n} of"
        f" {len(arms[where_of[name]].runs)}."
        for name, n in left.items()
    ]
    return taken, True, said


def form_for(arms: Sequence[Arm], name: str) -> tuple[Form, list[str]]:
    """Return the form of the laws, and what to say of it.

    arms: all arms
    name: of a form of N and D

    Runs along one line of D against N identify no law of N and D (LAWS 5.3), so that a law of C
    alone, L = E + k C^-exponent along that ray, takes its place.
    """
    tables = [arm.runs.table for arm in arms]
    if not all(map(is_ray, tables)):
        return form_named(name), []
    ratios = np.concatenate([column(t, "tokens") / column(t, "params") for t in tables])
    low, high = (f"{v:.3g}" for v in (ratios.min(), ratios.max()))
    return form_named(ALONG_A_RAY), [
        f"D follows N along one line ({low if low == high else f'{low} to {high}'} tokens per"
        " parameter), so the laws are of C alone along it, and say nothing of other ratios."
    ]


def _carries(arm: Arm, form: Form) -> bool:
    try:
        check_table(arm.runs.table, form)
    except ValueError:
        return False
    return True


def _take(arm: Arm, rows: Array) -> Arm:
    table = arm.runs.table.loc[rows].reset_index(drop=True)
    return replace(arm, runs=replace(arm.runs, table=table), order=arm.order[rows])
