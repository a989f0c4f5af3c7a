"""Value bins: exact quantiles of integer counts, ties merged, the same however the data is sharded."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from ehrjax.data import token_stages
from ehrjax.vocab import grammar
from ehrjax.vocab.recipe import Recipe
from ehrjax.vocab.steps import bin_values

values = st.lists(st.floats(-100, 100, width=32) | st.sampled_from([0.0, 1.0, 1.5]), min_size=1, max_size=200)


def events(code: str, numbers: list) -> pl.DataFrame:
    return pl.DataFrame(
        {"code": [code] * len(numbers), "numeric_value": numbers},
        schema={"code": pl.String, "numeric_value": pl.Float32},
    )


STEP = grammar.bind(Recipe(steps=("bin_values",)))[0]


def counted(frame: pl.DataFrame) -> pl.DataFrame:
    return bin_values.count(frame, STEP.settings)


def merged(parts: list[pl.DataFrame]) -> pl.DataFrame:
    return token_stages.add(parts, STEP)


def fit(frame: pl.DataFrame, bins: int) -> pl.DataFrame:
    return bin_values.fit_breaks(merged([counted(frame)]), num_bins=bins, min_values=1)


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
    parts = [counted(whole[:cut]), counted(whole[cut:])]
    for order in (parts, parts[::-1]):
        breaks = bin_values.fit_breaks(merged(order), num_bins=bins, min_values=1)
        assert breaks.equals(fit(whole, bins))


@given(values, st.integers(1, 12))
def test_no_bin_is_empty_and_order_is_kept(numbers: list, bins: int) -> None:
    frame = events("LAB", numbers)
    breaks = fit(frame, bins)
    assigned = bin_values.assign_bins(frame, breaks).to_numpy()
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
    assert bin_values.assign_bins(frame, breaks).to_list() == [None, None, 1, 4, 1, 4, 2, None, None]
    assert len(counted(events("LAB", [None, math.nan, math.inf, 1.0]))) == 1


def test_rare_codes_are_not_binned() -> None:
    frame = pl.concat([events("COMMON", list(range(60))), events("RARE", list(range(10)))])
    counts = merged([counted(frame)])
    assert bin_values.fit_breaks(counts, num_bins=10, min_values=50)["code"].to_list() == ["COMMON"]


def test_bounds_name_what_a_bin_holds() -> None:
    breaks = fit(events("LAB", [1.0, 2.0, 3.0, 4.0]), 2)
    assert bin_values.bounds(breaks) == {"LAB": [(1.0, 2.0), (2.0, 4.0)]}
