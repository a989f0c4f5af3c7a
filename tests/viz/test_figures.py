"""Figures show the numbers they are given, also where there are none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ehrjax.viz import embedding_map, figures


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30), st.integers(1, 10))
def test_smoothing_is_a_mean_of_the_last_values(values: list[float], span: int) -> None:
    naive = [np.mean(values[max(0, i + 1 - span) : i + 1]) for i in range(len(values))]
    np.testing.assert_allclose(figures.smoothed(values, span), naive, atol=1e-9)


@pytest.mark.parametrize("values", [[], [0], [7, 7, 7], [1, 10, 100, 1000], list(range(500))])
@pytest.mark.parametrize("log", [True, False])
def test_a_histogram_counts_every_positive_value(values: list[int], log: bool) -> None:
    figure = figures.histogram(np.array(values), x="tokens", y="subjects", log=log)
    assert sum(figure.data[0].y) == sum(v > 0 for v in values)


def test_bars_have_the_largest_on_top() -> None:
    figure = figures.bars(["a", "b", "c"], [2, 9, 5], x="n")
    assert list(figure.data[0].y) == ["a", "c", "b"] and list(figure.data[0].x) == [2, 5, 9]


def test_intervals_draw_no_bar_where_there_is_none() -> None:
    rows = {"LAB": [(0.5, 0.4, 0.7), (0.2, None, None)], "DX": [(0.1, 0.0, 0.3), (None, None, None)]}
    figure = figures.intervals(rows, ["model", "counts"], x="accuracy")
    model, counts = figure.data
    assert list(model.error_x.array) == pytest.approx([0.2, 0.2])
    assert list(model.error_x.arrayminus) == pytest.approx([0.1, 0.1])
    assert list(counts.error_x.array) == [0, 0] and counts.x[1] is None


@pytest.mark.parametrize("count", [0, 1, 2, 3, 29, 30, 60])
def test_the_map_places_every_vector_and_repeats_itself(count: int) -> None:
    table = np.random.default_rng(0).normal(size=(count, 12))
    points, method = embedding_map.project(table)
    assert points.shape == (count, 2) and np.isfinite(points).all()
    assert method == ("t-SNE" if count >= 30 else "principal components")
    np.testing.assert_array_equal(points, embedding_map.project(table)[0])


def test_the_map_keeps_neighbours_together() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(3, 16))
    group = np.repeat([0, 1, 2], 40)
    points, _ = embedding_map.project(centres[group] + 0.1 * rng.normal(size=(120, 16)))
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1) + np.eye(120) * 1e9
    assert (group[distance.argmin(1)] == group).mean() > 0.95


def test_a_map_of_many_groups_shows_every_point() -> None:
    groups = [f"g{i % 12}" for i in range(50)]
    figure = figures.embedding_map(np.zeros((50, 2)), groups, ["x"] * 50, [5] * 50)
    assert sum(len(trace.x) for trace in figure.data) == 50
    assert len(figure.data) == 9 and figure.data[-1].name == "other"
