"""Value bins: exact quantiles of integer counts, ties merged, the same however the data is sharded."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from ehrjax.vocab import value_bins

values = st.lists(st.floats(-100, 100, width=32) | st.sampled_from([0.0, 1.0, 1.5]), min_size=1, max_size=200)


def events(code: str, numbers: list) -> pl.DataFrame:
    return pl.DataFrame(
        {"code": [code] * len(numbers), "numeric_value": numbers},
        schema={"code": pl.String, "numeric_value": pl.Float32},
    )


def fit(frame: pl.DataFrame, bins: int) -> pl.DataFrame:
    return value_bins.fit_breaks(value_bins.merge_counts([value_bins.count_values(frame)]), num_bins=bins, min_values=1)


@given(values, st.integers(1, 12))
def test_edges_are_the_quantiles_of_the_definition(numbers: list, bins: int) -> None:
    ordered = np.sort(np.asarray(numbers, np.float32))
    expected = []
    for j in range(1, bins):
        edge = ordered[math.ceil(j * len(ordered) / bins) - 1]  # the smallest value with share >= j / bins
        if edge < ordered[-1] and edge not in expected:
            expected.append(float(edge))
    breaks = fit(events("LAB", numbers), bins)
    assert breaks["breaks"][0].to_list() == expected


@given(values, st.integers(1, 12), st.integers(0, 199))
def test_shards_merge_exactly(numbers: list, bins: int, cut: int) -> None:
    whole = events("LAB", numbers)
    parts = [value_bins.count_values(whole[:cut]), value_bins.count_values(whole[cut:])]
    for order in (parts, parts[::-1]):
        merged = value_bins.fit_breaks(value_bins.merge_counts(order), num_bins=bins, min_values=1)
        assert merged.equals(fit(whole, bins))


@given(values, st.integers(1, 12))
def test_no_bin_is_empty_and_order_is_kept(numbers: list, bins: int) -> None:
    frame = events("LAB", numbers)
    breaks = fit(frame, bins)
    assigned = value_bins.assign_bins(frame, breaks).to_numpy()
    assert set(assigned) == set(range(1, len(breaks["breaks"][0]) + 2))
    order = np.argsort(np.asarray(numbers, np.float32), kind="stable")
    assert (np.diff(assigned[order]) >= 0).all()
    ties = {}
    for number, bin_ in zip(np.asarray(numbers, np.float32).tolist(), assigned.tolist()):
        assert ties.setdefault(number, bin_) == bin_


def test_missing_infinite_and_unknown_values() -> None:
    breaks = fit(events("LAB", [1.0, 2.0, 3.0, 4.0]), 4)
    frame = pl.concat(
        [events("LAB", [None, math.nan, -math.inf, math.inf, -50.0, 50.0, 2.0]), events("OTHER", [2.0, None])]
    )
    assert value_bins.assign_bins(frame, breaks).to_list() == [None, None, 1, 4, 1, 4, 2, None, None]
    assert len(value_bins.count_values(events("LAB", [None, math.nan, math.inf, 1.0]))) == 1


def test_rare_codes_are_not_binned() -> None:
    frame = pl.concat([events("COMMON", list(range(60))), events("RARE", list(range(10)))])
    counts = value_bins.merge_counts([value_bins.count_values(frame)])
    assert value_bins.fit_breaks(counts, num_bins=10, min_values=50)["code"].to_list() == ["COMMON"]


def test_bounds_name_what_a_bin_holds() -> None:
    breaks = fit(events("LAB", [1.0, 2.0, 3.0, 4.0]), 2)
    assert value_bins.bounds(breaks) == {"LAB": [(1.0, 2.0), (2.0, 4.0)]}
