"""Frames come out of a pickle as pandas put them in, and other names are refused."""

import pickle

import numpy as np
import pandas as pd
import pytest

from analysis.downloads.frames import value_of
from analysis.downloads.pickle_values import Call, Name, plain_values

FRAME = pd.DataFrame(
    {
        "name": np.array(["x", "y", "z"], dtype=object),
        "loss": [3.0, 2.5, 2.25],
        "size": [1, 2, 3],
        "ended": [True, False, True],
        "again": [1.0, np.nan, -1e300],
    }
)


def read(value):
    return value_of(plain_values(pickle.dumps(value, 5)))


def test_a_frame_comes_out_as_pandas_put_it_in():
    frame = FRAME.astype({"name": object})
    frame.columns = frame.columns.astype(object)
    found = read(frame)
    assert list(found) == list(frame.columns)
    for name in frame:
        np.testing.assert_array_equal(found[name], frame[name].to_numpy())


@pytest.mark.parametrize(
    "value",
    [
        np.arange(6.0).reshape(2, 3),
        np.asfortranarray(np.arange(6).reshape(2, 3)),
        np.array([True, False]),
        pd.Series([1.5, 2.5], name="loss"),
    ],
)
def test_arrays_and_series_come_out(value):
    np.testing.assert_array_equal(read(value), np.asarray(value))


def test_numbers_of_numpy_come_out():
    assert read(np.float64(0.1)) == 0.1
    assert read(np.int64(7)) == 7
    assert read("text") == "text"


@pytest.mark.parametrize("value", [np.array(["2020"], dtype="M8[s]"), np.complex128(1), slice])
def test_other_types_are_refused(value):
    if value is slice:
        call = Call(Name("os", "system"), ("true",))
        with pytest.raises(ValueError, match="no table of ours needs"):
            value_of(call)
        return
    with pytest.raises(ValueError, match="are read"):
        read(value)


def test_a_frame_that_is_cut_short_is_one_sentence():
    with pytest.raises(ValueError, match="DataFrame does not read"):
        value_of(Call(Name("pandas.core.frame", "DataFrame"), (), {}))
