"""Which columns of a table are settings of training: learning rate, batch, weight decay and others.

Rows of one (N, D) that differ in them are one point of a law L(N, D) (`analysis.runs.replicates`).
A table keeps such columns under `PREFIX` and their own name, `lr`, `batch` and `weight_decay` under
ours.
"""

import re
from collections.abc import Collection

import pandas as pd

PREFIX = "setting "  # before the source's own name of a setting, in a table under our names
OURS = ("lr", "batch", "weight_decay")  # settings that a table has under our names
STUDY = ("optim.", "schedule.")  # columns of a study's rows that are settings whatever their name
MARKS = {  # a column is a setting where its name, in lower case with `_` for other signs, matches
    "lr": r"lr|learning_?rate|eta|step_size",
    "batch": r"bs|gbs|mbs|batch|batch_?size|batch_?tokens|batch_?sequences|tokens_per_step",
    "other": r"wd|weight_?decay|beta_?[12]|adam_?beta_?[12]|momentum|dropout|warm_?up|optimi[sz]er|"
    r"optim|schedule|scheduler|decay_?fraction|clip|grad_?clip|label_?smoothing|parametri[sz]ation",
}
NO_SETTING = re.compile(  # results, names and measurements, named after a setting or not
    r"(^|_)(loss|ppl|perplexity|bpb|bits|error|acc|accuracy|time|seconds|run|id|name|index|noise|"
    r"critical|optimal|predicted)(_|$)"
)


def kind_of_setting(name: str) -> str | None:
    """Return `lr`, `batch` or `other` for the name of a setting's column, None for another one."""
    if name.startswith(STUDY):
        return "lr" if "lr" in name.split(".")[-1].split("_") else "other"
    plain = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[^A-Za-z0-9]+", "_", name).strip("_").lower()
    if NO_SETTING.search(plain):
        return None
    for kind, marks in MARKS.items():
        if re.search(rf"(^|_)({marks})(_|$)", plain):
            return kind
    return None


def kept_settings(raw: pd.DataFrame, mapped: Collection[str]) -> dict[str, pd.Series]:
    """Return the settings of a source as columns of the table under our names.

    raw: the table as it was read
    mapped: names in the source of columns that the table has under our own names
    """
    names = [str(c) for c in raw.columns]
    return {
        f"{PREFIX}{name}": raw.loc[:, name]
        for name in raw.columns
        if isinstance(name, str)
        and name not in mapped
        and names.count(name) == 1
        and kind_of_setting(name)
    }


def settings_in(table: pd.DataFrame) -> dict[str, str]:
    """Return {column: kind} of the settings of a table under our names; empty columns are none."""
    kinds = {
        str(c): kind_of_setting(str(c).removeprefix(PREFIX))
        for c in table.columns
        if c in OURS or (str(c).startswith(PREFIX) and not _is_ours_too(str(c), table))
    }
    return {c: kind for c, kind in kinds.items() if kind and bool(table[c].notna().any())}


def _is_ours_too(name: str, table: pd.DataFrame) -> bool:
    """Return whether a study's setting stands in the table under our own name too."""
    plain = name.removeprefix(PREFIX)
    return (
        plain.startswith(STUDY) and plain.split(".")[-1] in OURS and plain.split(".")[-1] in table
    )
