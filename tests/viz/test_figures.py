"""Figures show the numbers they are given, also where there are none."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ehrjax.viz import embedding_map, figures
from tests.conftest import ROOT


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


@pytest.mark.parametrize("count", [1, 2, 9])
def test_the_marks_of_a_row_stay_apart_from_those_of_the_next(count: int) -> None:
    rows = {name: [(0.5, 0.4, 0.6)] * count for name in "abc"}
    figure = figures.intervals(rows, [str(i) for i in range(count)], x="accuracy")
    places = np.array([own.y for own in figure.data])
    assert places[:, 0].max() < places[:, 1].min() and places[:, 1].max() < places[:, 2].min()
    assert len(np.unique(places)) == places.size


@pytest.mark.parametrize("count", [0, 1, 2, 3, 29, 30, 40, 60])
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


@given(st.lists(st.integers(-5, 10**9), max_size=40))
def test_a_histogram_of_any_counts_is_complete(values: list[int]) -> None:
    figure = figures.histogram(np.array(values), x="tokens", y="subjects")
    assert sum(figure.data[0].y) == sum(v > 0 for v in values)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=12))
def test_bars_are_sorted_and_keep_their_names(values: list[float]) -> None:
    names = [f"n{i}" for i in range(len(values))]
    drawn = figures.bars(names, values, x="n").data[0]
    assert list(drawn.x) == sorted(values)
    assert dict(zip(drawn.y, drawn.x)) == dict(zip(names, values))


def test_curves_show_the_points_of_short_lines_only() -> None:
    figure = figures.curves({"short": ([1, 2], [3.0, 4.0]), "long": (range(99), range(99))}, x="step", y="loss")
    short, long = figure.data
    assert list(short.x) == [1, 2] and list(short.y) == [3.0, 4.0] and "markers" in short.mode
    assert len(long.x) == 99 and "markers" not in long.mode
    assert figure.layout.xaxis.title.text == "step" and figure.layout.yaxis.title.text == "loss"


def test_empty_figures_can_be_drawn() -> None:
    assert not figures.embedding_map(np.zeros((0, 2)), [], [], []).data
    assert len(figures.bars([], [], x="n").data[0].x) == 0
    assert len(figures.intervals({}, ["model"], x="n").data[0].x) == 0


@pytest.mark.parametrize("count", [40, 60])
def test_vectors_that_are_all_the_same_have_a_place(count: int) -> None:
    """In a process of its own, since what fails here may take the process with it."""
    program = (
        "import numpy as np; from ehrjax.viz import embedding_map; "
        f"points, _ = embedding_map.project(np.ones(({count}, 8))); "
        f"assert points.shape == ({count}, 2) and np.isfinite(points).all()"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, (result.returncode, result.stderr)


def test_few_vectors_that_are_all_the_same_have_a_place() -> None:
    for table in (np.zeros((3, 8)), np.ones((29, 8)), np.ones((3, 1))):
        points, _ = embedding_map.project(table)
        assert points.shape == (len(table), 2) and np.isfinite(points).all()


def test_a_group_named_other_is_shown_once() -> None:
    groups = ["other"] * 10 + [f"g{i % 12}" for i in range(36)]
    figure = figures.embedding_map(np.zeros((46, 2)), groups, [str(i) for i in range(46)], [5] * 46)
    shown = sorted(int(text) for trace in figure.data for text in trace.text)
    assert shown == list(range(46))
