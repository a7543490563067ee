"""Numbers in tables: read to the last bit, or told with their row."""

import datetime
import decimal
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.config import InputError
from utils.tasks.numbers import read_numbers


def read(cells):
    return read_numbers(pd.DataFrame({"target": pd.Series(cells)}), "target", "t.csv").tolist()


@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(["{!r}", "{:.17e}", " {:+.20g} "]))
def test_a_number_is_what_float_reads(number, layout):
    assert read([layout.format(number)]) == [float(layout.format(number))]


def test_the_last_bit_and_the_sign_of_zero_do_not_depend_on_pandas():
    texts = ["2.5714285714285716", "0.1234567890123456789", "5e-324", "-0.0"]
    assert [number.hex() for number in read(texts)] == [(float(text) + 0.0).hex() for text in texts]
    assert math.copysign(1, read(["-0"])[0]) == 1


def test_cells_that_are_numbers_already_and_empty_ones():
    assert read([1, 2.5, np.float32(0.5), decimal.Decimal("0.1"), 10**400]) == [1, 2.5, 0.5, 0.1, math.inf]
    assert np.isnan(read(["1", "", "  ", None, math.nan])).tolist() == [False, True, True, True, True]
    assert read(["1", "−2.5"]) == [1, -2.5], "a typographer's minus sign"


@pytest.mark.parametrize(
    ("cells", "numbers"),
    [
        (["-0,93", "1,5"], [-0.93, 1.5]),
        (["2", "1,25", ",5"], [2, 1.25, 0.5]),
        (["1,234", "0,5"], [1.234, 0.5]),  # the second comma can mark no thousands
        (["1,5e-3", ""], [0.0015, math.nan]),
    ],
)
def test_decimal_commas_are_read_and_said_to_be(cells, numbers, capsys):
    np.testing.assert_equal(read(cells), numbers)
    assert capsys.readouterr().out == "t.csv: column 'target' is read with decimal commas.\n"


TWO_WAYS = "a number with thousands separators or a decimal comma"


@pytest.mark.parametrize(
    ("cell", "problem"),
    [
        ("1,234", TWO_WAYS),
        ("1,234,567.5", TWO_WAYS),
        ("1.234,5", TWO_WAYS),
        ("12 000", TWO_WAYS),
        ("1'000", TWO_WAYS),
        ("0,5", TWO_WAYS),  # beside 1.5
        (True, "yes or no"),
        (np.bool_(False), "yes or no"),
        ("TRUE", "yes or no"),
        ("no", "yes or no"),
        (datetime.datetime(2026, 2, 1), "a date"),
        *(
            (text, "no finite number")
            for text in ["NA", "nan", "inf", "#N/A", "?", "-", "1_0", "٣", "0x10", "5 %"]
        ),
        ([1.0], "no finite number"),
    ],
)
def test_what_is_no_number_is_told_with_its_row_and_value(cell, problem):
    with pytest.raises(InputError) as caught:
        read(pd.Series(["1.5", "", cell, cell], dtype=object))
    sentence = str(caught.value)
    assert sentence.startswith(f"t.csv: column 'target' holds {problem}")
    assert sentence.endswith(f"in row 3 (2 such rows): {str(cell)!r}.")
