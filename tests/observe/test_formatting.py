"""Numbers as people read them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longspan.observe import formatting

ODD = [None, "12", True, math.nan, math.inf, [1], np.float32("nan")]


@pytest.mark.parametrize("form", [formatting.number, formatting.compact, formatting.percent, formatting.duration])
@pytest.mark.parametrize("value", ODD)
def test_what_is_not_a_finite_number_reads_as_a_dash(form, value):
    assert form(value) == "-"


@pytest.mark.parametrize(
    ("form", "value", "text"),
    [
        (formatting.number, 1_228_800, "1,228,800"),
        (formatting.number, np.int64(1023), "1,023"),
        (formatting.number, 3.21349, "3.213"),
        (formatting.number, 4596.2, "4,596"),
        (formatting.number, 0.0, "0"),
        (formatting.number, 2e-5, "2.000e-05"),
        (formatting.number, -0.5, "-0.5"),
        (formatting.compact, 0, "0"),
        (formatting.compact, 24_130, "24.1k"),
        (formatting.compact, 999.6, "1k"),
        (formatting.compact, 1_228_800, "1.23M"),
        (formatting.compact, 3e15, "3,000T"),
        (formatting.percent, 0.994, "99.4%"),
        (formatting.percent, 1, "100%"),
        (formatting.duration, 0, "0 s"),
        (formatting.duration, 0.051, "0.051 s"),
        (formatting.duration, 31.74, "31.7 s"),
        (formatting.duration, 83, "1 min 23 s"),
        (formatting.duration, 59.97, "1 min 0 s"),
        (formatting.duration, 7325, "2 h 2 min"),
        (formatting.duration, 200_000, "2 d 7 h"),
        (formatting.duration, -1, "-"),
        (formatting.token_length, 128, "128"),
        (formatting.token_length, 131072, "128k"),
        (formatting.token_length, 1 << 20, "1M"),
        (formatting.token_length, 1000, "1000"),
    ],
)
def test_texts(form, value, text):
    assert form(value) == text


@given(st.floats(min_value=1e-300, max_value=1e14))
def test_number_keeps_four_significant_digits(value):
    assert float(formatting.number(value).replace(",", "")) == pytest.approx(value, rel=6e-4)


@given(st.floats(min_value=0, max_value=1e12, allow_nan=False))
def test_compact_stays_short_and_true(value):
    text = formatting.compact(value)
    scale = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
    read = float(text.rstrip("kMGT")) * scale.get(text[-1], 1)
    assert read == pytest.approx(value, rel=6e-3)
    assert len(text) <= 9
