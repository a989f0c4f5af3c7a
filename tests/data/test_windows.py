"""Windows tile: every timed token once per epoch, static ones in front of each window."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ehrjax.core.errors import InputError
from ehrjax.data import windows

subjects = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 7)), min_size=1, max_size=20)


@given(subjects, st.integers(8, 64), st.one_of(st.none(), st.integers(0, 5)), st.integers(0, 3))
def test_every_timed_token_once(sizes: list, context: int, seed: int | None, epoch: int) -> None:
    timeline, static = np.array(sizes).T
    tiled = windows.tile(timeline + static, static, context=context, seed=seed, epoch=epoch)
    seen = [np.zeros(n, int) for n in timeline + static]
    for w in range(len(tiled)):
        s = tiled.subject[w]
        assert static[s] <= tiled.start[w] <= tiled.stop[w]
        seen[s][tiled.start[w] : tiled.stop[w]] += 1
        assert tiled.length[w] == static[s] + tiled.stop[w] - tiled.start[w] <= context
        assert tiled.length[w] > 0
    for s in range(len(sizes)):
        assert (seen[s][static[s] :] == 1).all() and (seen[s][: static[s]] == 0).all()
    # Windows of one subject come in order of time.
    assert (np.diff(tiled.subject) >= 0).all()


@given(subjects)
def test_a_subject_that_fits_stays_whole(sizes: list) -> None:
    timeline, static = np.array(sizes).T
    tiled = windows.tile(timeline + static, static, context=256, seed=3)
    assert len(tiled) == np.count_nonzero(timeline + static)


def test_phase_changes_with_the_epoch_and_not_in_evaluation() -> None:
    lengths, static = np.full(50, 300), np.full(50, 2)
    first, again, other = (windows.tile(lengths, static, context=64, seed=1, epoch=e) for e in (0, 0, 1))
    assert np.array_equal(first.start, again.start) and not np.array_equal(first.start, other.start)
    fixed = windows.tile(lengths, static, context=64, seed=None)
    assert set(fixed.length) == {64, 2 + (298 % 62)}


def test_subjects_do_not_influence_each_other() -> None:
    lengths, static = np.array([300, 500, 20, 700]), np.array([2, 3, 1, 2])
    whole = windows.tile(lengths, static, context=64, seed=1)
    part = windows.tile(lengths[:2], static[:2], context=64, seed=1)
    assert np.array_equal(whole.start[whole.subject < 2], part.start)


def test_no_room_is_refused() -> None:
    with pytest.raises(InputError, match="leaves no room in a context of 16"):
        windows.tile(np.array([30]), np.array([16]), context=16, seed=None)
