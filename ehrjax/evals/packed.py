"""Windows of an opened run's tokens in packed batches of one shape, and where in them each one lies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ehrjax.core.batch import Batch
from ehrjax.data import rows
from ehrjax.data.rows import Window

SEGMENTS = 16


@dataclass(frozen=True)
class Placed:
    """Where a window lies: `row` and `span` of the token axis, `segment` of the segment axis."""

    window: int
    row: int
    segment: int
    span: slice


@dataclass(frozen=True)
class Asked:
    """N labels to predict from windows.

    Attributes:
      window: [N] the window of each; the labels of one stand together.
      size: [N] how many of its tokens, static ones included, the label sees: all, or (where the model knows nothing of
        later ones) fewer.
      times: [N] int64 microseconds, when it is predicted.
    """

    window: np.ndarray
    size: np.ndarray
    times: np.ndarray


def batches(run: Any, content: Sequence[Window], size: int) -> Iterator[tuple[Batch, list[Placed]]]:
    """Packs windows (subject, start, stop) in batches of `size` rows of the run's context, for one pass over them."""
    context, states = run.config["data"]["context_length"], run.config["data"].get("note_states", 0)
    lengths = _lengths(content)
    plan = rows.plan_rows(content, context, SEGMENTS, states)
    for first in range(0, len(plan), size):
        batch, placed = rows.empty(size, context, SEGMENTS, rows.noted(content, context, states)), []
        for row, members in enumerate(plan.row(i) for i in range(first, min(first + size, len(plan)))):
            rows.fill(batch, row, [content[i] for i in members])
            at = 0
            for segment, i in enumerate(members.tolist()):
                placed.append(Placed(i, row, segment, slice(at, at + lengths[i])))
                at += lengths[i]
        yield batch, placed


def labelled(
    run: Any, content: Sequence[Window], size: int, asked: Asked
) -> Iterator[tuple[Batch, list[tuple[int, int, int]]]]:
    """As `batches`, with the labels' places; yields with each batch (label, row, place in the row) of its labels."""
    offsets = np.searchsorted(asked.window, np.arange(len(content) + 1))
    most = SEGMENTS * int(np.diff(offsets).max(initial=1))
    for batch, placed in batches(run, content, size):
        batch["label_anchors"] = np.full((size, most), -1, np.int32)
        batch["label_gaps"] = np.zeros((size, most), np.int32)
        told, used = [], [0] * size
        for at in placed:
            subject, start, _ = content[at.window]
            own = np.arange(offsets[at.window], offsets[at.window + 1])
            places = slice(used[at.row], used[at.row] + len(own))
            last = subject.times[start + asked.size[own] - subject.num_static - 1]
            batch["label_anchors"][at.row, places] = at.span.start + asked.size[own] - 1
            batch["label_gaps"][at.row, places] = rows.minutes_after(last, asked.times[own])
            told += [(i, at.row, places.start + k) for k, i in enumerate(own.tolist())]
            used[at.row] = places.stop
        yield batch, told


def _lengths(content: Sequence[Window]) -> list[int]:
    return [subject.num_static + stop - start for subject, start, stop in content]


def whole(content: Sequence[Window], times: np.ndarray) -> Asked:
    """A label a window, each sees all of it."""
    return Asked(np.arange(len(content)), np.array(_lengths(content), np.int64), times)
