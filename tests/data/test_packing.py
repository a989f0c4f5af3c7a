"""Packing: every window in one row, no row overfull, dense, and a pure function of its arguments."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ehrjax.core.errors import InputError
from ehrjax.data import packing


@given(
    st.lists(st.integers(1, 64), max_size=200),
    st.integers(1, 16),
    st.one_of(st.none(), st.integers(0, 9)),
    st.integers(0, 3),
)
def test_each_window_once_and_no_row_overfull(sizes: list, most: int, seed: int | None, epoch: int) -> None:
    plan = packing.plan(np.array(sizes, int), 64, most, seed, epoch)
    assert sorted(plan.order.tolist()) == list(range(len(sizes)))
    for row in range(len(plan)):
        content = plan.row(row)
        assert 1 <= len(content) <= most
        assert np.array(sizes)[content].sum() <= 64


def lognormal(count: int) -> np.ndarray:
    return np.clip(np.exp(np.random.default_rng(0).normal(np.log(100), 1, count)), 5, 512).astype(int)


def test_density_and_determinism() -> None:
    sizes = lognormal(20_000)
    plan = packing.plan(sizes, 512, 16, 7, 0)
    assert sizes.sum() / (len(plan) * 512) > 0.99
    assert np.array_equal(plan.order, packing.plan(sizes, 512, 16, 7, 0).order)
    assert not np.array_equal(plan.order, packing.plan(sizes, 512, 16, 7, 1).order)
    assert not np.array_equal(plan.order, packing.plan(sizes, 512, 16, 8, 0).order)


def test_rows_are_not_ordered_by_how_full_they_are() -> None:
    sizes = lognormal(20_000)
    plan = packing.plan(sizes, 512, 16, 7, 0)
    fill = np.add.reduceat(sizes[plan.order], plan.offsets[:-1])
    halves = np.array_split(fill, 2)
    assert abs(halves[0].mean() - halves[1].mean()) < 2


def test_blocks_are_packed_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "BLOCK", 100)
    sizes = lognormal(1000)
    plan = packing.plan(sizes, 512, 16, None)
    blocks = [set(plan.row(r) // 100) for r in range(len(plan))]
    assert all(len(block) == 1 for block in blocks)


def test_too_long_is_refused() -> None:
    with pytest.raises(InputError, match="A window of 65 tokens does not fit a row of 64"):
        packing.plan(np.array([3, 65]), 64, 4, None)
