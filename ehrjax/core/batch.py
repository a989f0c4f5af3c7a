"""The batch contract: one dict of arrays with named axes, and what each field means.

Host batches are numpy. `device_fields` is what goes to the device, where times become int32 minutes since
the start of the window.

Axes: B rows, L tokens a row, S windows (segments) a row at most; T labels a row at most (T = S where each window has
one); N states of the notes a row at most, D numbers each.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from ehrjax.core.errors import InputError

Batch = dict[str, np.ndarray]

MICROSECONDS_PER_MINUTE = 60_000_000


@dataclass(frozen=True)
class Field:
    """A batch field: its axes, its dtype on the host, its dtype on the device (None: it stays on the host)."""

    axes: str
    host: type
    device: type | None
    meaning: str


FIELDS: Mapping[str, Field] = {
    "tokens": Field("B L", np.int32, np.int32, "token ids; 0 is padding"),
    "positions": Field("B L", np.int32, np.int32, "0, 1, ... within the window"),
    "segment_ids": Field("B L", np.int32, np.int32, "1, 2, ... within the row; equal = same window; 0 = padding"),
    "visit_ids": Field("B L", np.int32, np.int32, "0, 1, ... from the window's first visit"),
    "ages": Field("B L", np.float32, np.float32, "years; NaN = unknown"),
    "times": Field(
        "B L", np.int64, np.int32, "host: microseconds since 1970; device: minutes since the window's start"
    ),
    "days": Field("B L", np.int32, np.int32, "whole days since 1970; of static tokens, the window's first"),
    "values": Field("B L", np.float32, np.float32, "the event's numeric value; NaN = none"),
    "notes": Field(
        "B N D", np.float32, np.float32, "means of note vectors as they stood one after another; [0] is zeros"
    ),
    "notes_seen": Field("B L", np.int32, np.int32, "which of its row's `notes` a token sees; 0 = none yet"),
    "subject_id": Field("B S", np.int64, None, "whose window it is; -1 = unused"),
    "window_start": Field("B S", np.int64, None, "microseconds since 1970 of the window's first timed token"),
    "anchors": Field("B S", np.int32, np.int32, "index in the row of the window's last token; -1 = unused"),
    "ends": Field("B S", np.int32, np.int32, "1 where a window's last token is its subject's last"),
    "labels": Field("B T ...", np.float32, np.float32, "targets of a supervised objective"),
    "weights": Field("B T", np.float32, np.float32, "weights of the labels; 0 = unused"),
    "label_anchors": Field("B T", np.int32, np.int32, "index in the row of the last token a label sees; -1 = unused"),
    "label_gaps": Field("B T", np.int32, np.int32, "minutes from that token to the label's prediction time"),
}

SUPERVISION = ("labels", "weights", "label_anchors", "label_gaps")
"""Fields that only data with labels has."""
NOTES = ("notes", "notes_seen")
"""Fields that only data with clinical notes has."""


def require(available: Iterable[str], needed: Iterable[str], *, by: str) -> None:
    """Raises InputError if a field that `by` needs is not among the `available` ones."""
    missing = sorted(set(needed) - set(available))
    if missing:
        raise InputError(
            f"{by} needs the batch field {missing[0]!r} ({FIELDS[missing[0]].meaning}), which the data lacks."
        )


def num_tokens(batch: Mapping[str, np.ndarray]) -> int:
    """Real tokens: padding is not counted."""
    return int(np.count_nonzero(batch["segment_ids"]))


def device_fields(batch: Mapping[str, np.ndarray]) -> Batch:
    """The fields that go to the device, with device dtypes, still as numpy arrays.

    Times become minutes since the start of the token's window, clipped to int32 (about 4,000 years);
    static tokens and padding get 0.
    """
    result: Batch = {}
    for name, array in batch.items():
        field = FIELDS[name]
        if field.device is None:
            continue
        if name == "times":
            segments = batch["segment_ids"]
            starts = np.take_along_axis(batch["window_start"], np.maximum(segments - 1, 0), axis=1)
            timed = (segments > 0) & (array != np.iinfo(np.int64).min)
            minutes = np.where(timed, np.where(timed, array, 0) - np.where(timed, starts, 0), 0)
            array = np.clip(minutes // MICROSECONDS_PER_MINUTE, -(2**31), 2**31 - 1)
        result[name] = np.ascontiguousarray(array, dtype=field.device)
    return result
