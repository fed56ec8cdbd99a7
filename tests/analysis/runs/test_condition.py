"""`where=` keeps the rows that it says, and reads nothing but columns and literals."""

import numpy as np
import pandas as pd
import pytest

from analysis.laws.law import Law
from analysis.runs.condition import DEEPEST, LONGEST, rows
from analysis.runs.table import load_runs


def table() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "params": [1e6, 2e6, 3e6, 4e6],
            "loss": [3.0, 2.5, np.nan, 2.0],
            "seed": [0, 1, 0, 1],
            "group": ["a", "b", None, "it's"],
            "kept": [True, False, True, True],
            "loss (nats)": [1.0, 2.0, 3.0, 4.0],
            "Größe": [1, 2, 3, 4],
            "model.width": [32, 64, 96, 128],
        }
    )


@pytest.mark.parametrize(
    ("condition", "met"),
    [
        ("seed == 0", "1010"),
        ("seed==0 and kept", "1010"),
        ("not kept", "0100"),
        ("not kept or seed == 0", "1110"),
        ("1.5e6 < params <= 3e6", "0110"),
        ("2e6 == params", "0100"),
        ("group == 'a'", "1000"),
        ('group == "it\'s"', "0001"),
        (r"group == 'it\'s'", "0001"),
        ("group != 'a'", "0111"),  # a missing value is not 'a'
        ("loss < 2.7", "0101"),  # and is below nothing
        ("loss >= -1", "1101"),
        ("group in ['a', 'b']", "1100"),
        ("group not in ('a', 'b')", "0011"),
        ("seed in [1]", "0101"),
        ("seed in (1,)", "0101"),
        ("group in ['a', 'b',]", "1100"),
        ("`loss (nats)` > 2", "0011"),
        ("Größe <= 2", "1100"),
        ("kept == True", "1011"),
        ("kept != False and (seed == 1 or params < 2e6)", "1001"),
        ("True", "1111"),
        ("1 < 2", "1111"),
        ("  seed\n== 1 ", "0101"),
        ("not not kept", "1011"),
        ("params < loss", "0000"),
    ],
)
def test_condition_keeps_the_rows_it_says(condition, met):
    assert "".join(str(int(row)) for row in rows(table(), condition)) == met


ATTACKS = [
    "@pd.io.common.os.system('touch {path}')",
    "@pd.io.common.os.system('touch {path}') == 0",
    "__import__('os').system('touch {path}') == 0",
    "seed.__class__.__mro__",
    "loss.map(print) == 0",
    "`loss`.name == 'loss'",
    "seed == 0; import os",
    "lambda: 0",
    "[x for x in seed]",
    "seed := 3",
    "params ** 9 ** 9 ** 9 > 1",
    "params * 2 > 1",
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_but_columns_and_literals_is_read(attack, tmp_path):
    folder = tmp_path / "made"
    with pytest.raises(ValueError, match=r"a condition has column names|holds .=.; write"):
        rows(table(), attack.format(path=folder))
    assert not folder.exists()


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("", "is empty"),
        ("   ", "is empty"),
        ("seed", "has a value where a condition is needed"),
        ("params < 1e7 & seed == 0", "holds '&'; write 'and'"),
        ("kept | kept", "holds '|'; write 'or'"),
        ("kept && kept", "holds '&&'; write 'and'"),
        ("~kept", "holds '~'; write 'not'"),
        ("seed = 0", "holds '='; write '=='"),
        ("sead == 0", "names the column 'sead'"),
        ("kept == true", "write True"),
        ("group == a", "not there; for the text write 'a'"),
        ("seed == 0 AND kept", "has 'AND'; write 'and'"),
        ("seed is 0", "has 'is'; write '=='"),
        ("seed <> 0", "has '<>'; write '!='"),
        ("seed ≥ 0", "holds '≥'; write '>='"),
        ("group == “a”", "holds '“'; write '\"'"),
        ("params < 1_000", "'1_000', which is no number; write digits"),
        ("params < 7B", "'7B', which is no number"),
        ("model.width == 64", "holds the column model.width; write `model.width`"),
        ("seed ==", "ends where a column or a value belongs"),
        ("(seed == 0", "ends where '\\)' belongs"),
        ("seed == 0 1", "has '1' where an operator"),
        ("seed == 0 )", "has '\\)' where an operator"),
        ("group == 'a", "opens ' and does not close it"),
        ("group == 3", "compares text with a number"),
        ("seed == '0'", "compares text with a number"),
        ("kept < 1", "orders True and False"),
        ("seed in 0", "a list, as"),
        ("seed in []", "a number, 'text', True or False"),
        ("not", "a column or a value"),
        ("params < $HOME", "holds '\\$'"),
        ("(" * (DEEPEST + 1) + "kept" + ")" * (DEEPEST + 1), "nested more than"),
        ("not " * (DEEPEST + 1) + "kept", "nested more than"),
        ("seed == 0 or " * LONGEST, "characters"),
    ],
)
def test_what_is_no_condition_is_refused_in_one_sentence(condition, said):
    with pytest.raises(ValueError, match=said) as raised:
        rows(table(), condition)
    assert "\n" not in str(raised.value)


def test_columns_of_mixed_kinds_compare_equal_but_have_no_order():
    mixed = pd.DataFrame({"x": ["a", 1, 2.5]})
    assert rows(mixed, "x == 'a'").tolist() == [True, False, False]
    with pytest.raises(ValueError, match="no order"):
        rows(mixed, "x < 'b'")


def test_columns_twice_are_refused():
    twice = pd.DataFrame([[1, 2]], columns=["x", "x"])
    with pytest.raises(ValueError, match="there twice"):
        rows(twice, "x == 1")


def test_nullable_columns_keep_what_is_not_missing():
    nullable = pd.DataFrame({"x": pd.array([1, None, 3], dtype="Int64")})
    assert rows(nullable, "x < 3").tolist() == [True, False, False]
    assert rows(nullable, "x != 1").tolist() == [False, True, True]


def test_a_law_file_that_holds_an_attack_runs_nothing(tmp_path):
    """The attack of a stranger's law.json: `inputs.where` is read again by report and plan."""
    folder, source = tmp_path / "made", tmp_path / "runs.csv"
    pd.DataFrame({"params": [1e6], "tokens": [1e7], "loss": [3.0]}).to_csv(source, index=False)
    law = Law(
        form="chinchilla", count="total", status="converged", objective={},
        parameters={"E": 1.0, "A": 1.0, "B": 1.0, "alpha": 0.3, "beta": 0.3},
        inputs={"where": f"@pd.io.common.os.system('touch {folder}')", "source": str(source)},
    )  # fmt: skip
    copy = Law.read(law.write(tmp_path / "law.json"))
    with pytest.raises(ValueError, match="holds '@'"):
        load_runs(copy.inputs["source"], where=copy.inputs["where"])
    assert not folder.exists()


def test_a_column_of_objects_equals_nothing_and_has_no_order():
    table = pd.DataFrame({"x": [{"a": [1]}, [2]]})
    assert not rows(table, "x in ['a']").any()
    for condition in ("x < 1", "x"):
        with pytest.raises(ValueError, match="where="):
            rows(table, condition)
