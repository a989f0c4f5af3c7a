"""Windows of an opened run's tokens in packed batches of one shape, and where in them each one lies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

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


def batches(run: Any, content: Sequence[Window], size: int) -> Iterator[tuple[Batch, list[Placed]]]:
    """Packs windows (subject, start, stop) in batches of `size` rows of the run's context, for one pass over them."""
    context, states = run.config["data"]["context_length"], run.config["data"].get("note_states", 0)
    lengths = [subject.num_static + stop - start for subject, start, stop in content]
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
