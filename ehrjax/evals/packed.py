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


def batches(
    run: Any, content: Sequence[Window], size: int, times: np.ndarray | None = None
) -> Iterator[tuple[Batch, list[Placed]]]:
    """Packs windows (subject, start, stop) in batches of `size` rows of the run's context, for one pass over them.

    times: [N] int64 microseconds, when something is predicted from each; None: at its last token.
    """
    context, states = run.config["data"]["context_length"], run.config["data"].get("note_states", 0)
    lengths = [subject.num_static + stop - start for subject, start, stop in content]
    plan = rows.plan_rows(content, context, SEGMENTS, states)
    for first in range(0, len(plan), size):
        batch, placed = rows.empty(size, context, SEGMENTS, rows.noted(content, context, states)), []
        if times is not None:
            batch["label_gaps"] = np.zeros((size, SEGMENTS), np.int32)
        for row, members in enumerate(plan.row(i) for i in range(first, min(first + size, len(plan)))):
            rows.fill(batch, row, [content[i] for i in members])
            if times is not None:
                last = np.array([content[i][0].times[content[i][2] - 1] for i in members], np.int64)
                batch["label_gaps"][row, : len(members)] = rows.minutes_after(last, times[members])
            at = 0
            for segment, i in enumerate(members.tolist()):
                placed.append(Placed(i, row, segment, slice(at, at + lengths[i])))
                at += lengths[i]
        yield batch, placed
