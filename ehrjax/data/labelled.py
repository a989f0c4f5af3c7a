"""Labels joined to tokens: each label is a window of what was on record by its prediction time, and a target."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from ehrjax.core.errors import InputError
from ehrjax.data.notes import Notes
from ehrjax.data.token_dataset import Split, Subject
from ehrjax.data.windows import Windows
from ehrjax.ingest.labels import reading, several

KINDS = ("yes_no", "classes", "codes", "tasks", "number", "time")
NO_HISTORY = "nothing on record by the prediction time"
NO_SUBJECT = "subject is in no split of the tokens"
ELSEWHERE = "of another split"


@dataclass(frozen=True)
class Target:
    """What labels are, as the objective must know it.

    Attributes:
      kind: yes_no (one column, 0 or 1), classes (one column, the number of the class), codes (a column a code, 0 or 1),
        tasks (a column a task, 0 or 1, NaN where it is not asked), number (one column) or time (two columns: days to
        the event or to censoring, and 1 for an event).
      names: of the classes, codes or tasks, in order of their numbers; else empty.
    """

    kind: str
    names: tuple[str, ...] = ()

    @property
    def columns(self) -> int:
        """Numbers a label."""
        return {"codes": len(self.names), "tasks": len(self.names), "time": 2}.get(self.kind, 1)


@dataclass(frozen=True)
class LabelledSplit:
    """A split of which only labelled windows are seen; has what a Split has for batches.

    Attributes:
      split: the tokens.
      windows: W of them: a window a label, in the order of subject and prediction time; or fewer that several share
        (`shared_windows`).
      labels: [N, K] float32, by window.
      prediction_times: [N] int64 microseconds.
      stops: [N] int64: one past the last token of the subject that a label may see.
      offsets: [W + 1] int64: the labels of window w are offsets[w] .. offsets[w + 1].
      set_aside: reason -> labels that gave no window.
    """

    split: Split
    windows: Windows
    labels: np.ndarray
    prediction_times: np.ndarray
    stops: np.ndarray
    offsets: np.ndarray
    set_aside: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.windows)

    @cached_property
    def lengths(self) -> np.ndarray:
        """[W] int64: tokens a window."""
        return self.windows.length

    @property
    def subject_ids(self) -> np.ndarray:
        """[subjects] int64."""
        return self.split.subject_ids

    @property
    def num_static(self) -> np.ndarray:
        """[subjects] int64."""
        return self.split.num_static

    @property
    def notes(self) -> Notes | None:
        """The split's."""
        return self.split.notes

    def subject(self, index: int) -> Subject:
        """The subject at `index`."""
        return self.split.subject(index)


def kind_of(labels: reading.Labels) -> str:
    """The kind of `Target` that labels have, whatever their values are."""
    if "event_time_days" in labels.frame.columns:
        return "time"
    if "label_codes" in labels.frame.columns:
        return "codes"
    return {several.ANSWERS: "tasks", "boolean_value": "yes_no", "float_value": "number"}.get(labels.value, "classes")


def target_of(labels: reading.Labels, train_subjects: np.ndarray) -> Target:
    """What the labels of a task are; classes and codes are those of subjects in train.

    Args:
      labels: of one task.
      train_subjects: ids of the subjects in train.

    Raises:
      InputError: the labels of train have fewer than two classes, or no code.
    """
    kind = kind_of(labels)
    if kind == "tasks":
        return Target(kind, tuple(labels.info["tasks"]))
    if kind not in ("codes", "classes"):
        return Target(kind)
    frame = labels.frame.filter(pl.col("subject_id").is_in(pl.Series(train_subjects, dtype=pl.Int64).implode()))
    if kind == "codes":
        names = sorted(labels.info.get("vocabulary") or frame["label_codes"].explode().drop_nulls().unique())
        if not names:
            raise InputError(f"The labels {labels.name} of subjects in train hold no code to predict.")
        return Target(kind, tuple(names))
    classes = frame[labels.value].unique().sort()
    if len(classes) < 2:
        raise InputError(f"The labels {labels.name} of subjects in train have {len(classes)} classes; two are needed.")
    return Target(kind, tuple(str(c) for c in classes))


class NoLabelsError(InputError):
    """None of the labels can be asked of a split."""


def join(split: Split, labels: reading.Labels, target: Target, *, context_length: int, where: object) -> LabelledSplit:
    """The labels of the subjects in one split, each with the newest tokens up to and including its prediction time.

    Labels whose subject or history is missing, or whose class train does not have, are set aside and counted.

    Args:
      split: the tokens; which subjects are in it they decide.
      labels: of one task.
      target: from `target_of`.
      context_length: tokens a window at most, static ones included.
      where: the token dataset, for messages.

    Raises:
      InputError: the labels put a subject into another split than the tokens do.
      NoLabelsError: none is left.
    """
    places = {int(s): i for i, s in enumerate(split.subject_ids)}
    aside: Counter[str] = Counter()
    rows: list[tuple[int, int, int, int]] = []
    kept: list[int] = []
    ids = labels.frame["subject_id"].to_list()
    times = labels.frame["prediction_time"].to_physical().to_list()
    for row, (subject_id, time, said) in enumerate(zip(ids, times, labels.frame[reading.SPLIT].to_list())):
        if subject_id not in places:
            aside[ELSEWHERE] += 1
            continue
        if said is not None and said != split.name:
            raise InputError(
                f"The labels {labels.name} have subject {subject_id} in {said}, the tokens {where} in {split.name}; "
                "make both from one dataset."
            )
        place = places[subject_id]
        subject = split.subject(place)
        static = subject.num_static
        stop = static + int(np.searchsorted(subject.times[static:], time, side="right"))
        if stop == static:
            aside[NO_HISTORY] += 1
            continue
        start = max(static, stop - max(context_length - static, 1))
        rows.append((place, start, stop, static + stop - start))
        kept.append(row)
    values, known = values_of(labels, target)
    chosen = np.array(kept, np.int64)
    if len(chosen) and not known[chosen].all():
        aside["of a class that train does not have"] += int((~known[chosen]).sum())
    use = known[chosen] if len(chosen) else np.zeros(0, bool)
    if not use.any():
        told = ", ".join(f"{count:,} {reason}" for reason, count in aside.items())
        raise NoLabelsError(f"No label of {labels.name} can be asked of a subject in {split.name} of {where} ({told}).")
    table = np.array(rows, np.int64)[use]
    tiled = Windows(*table.T)
    return LabelledSplit(
        split,
        tiled,
        values[chosen[use]],
        np.array(times, np.int64)[chosen[use]],
        tiled.stop,
        np.arange(len(tiled) + 1),
        dict(aside),
    )


def values_of(labels: reading.Labels, target: Target) -> tuple[np.ndarray, np.ndarray]:
    """[N, K] float32 targets, and [N] bool which of them are known (a class that train lacks is not)."""
    frame = labels.frame
    known = np.ones(len(frame), bool)
    if target.kind == "tasks":
        return np.array(frame[several.ANSWERS].to_list(), np.float32).reshape(len(frame), len(target.names)), known
    if target.kind == "time":
        columns = [frame["event_time_days"].to_numpy(), (~frame["censored"]).to_numpy()]
        return np.stack(columns, axis=1).astype(np.float32), known
    if target.kind == "codes":
        index = {name: i for i, name in enumerate(target.names)}
        values = np.zeros((len(frame), len(index)), np.float32)
        for row, codes in enumerate(frame["label_codes"].to_list()):
            for code in codes:
                if code in index:
                    values[row, index[code]] = 1.0
        return values, known
    if target.kind == "classes":
        index = {name: i for i, name in enumerate(target.names)}
        numbers = [index.get(str(value), -1) for value in frame[labels.value].to_list()]
        values = np.array(numbers, np.float32)[:, None]
        return values, values[:, 0] >= 0
    return frame[labels.value].cast(pl.Float32).to_numpy()[:, None].astype(np.float32), known


def describe(part: LabelledSplit, target: Target, name: str) -> str:
    """One line about the labels of a split."""
    aside = "; ".join(f"{count:,} {reason}" for reason, count in part.set_aside.items() if reason != ELSEWHERE)
    facts = f"{len(part.labels):,} labels" + (f" in {len(part):,} windows" if len(part) < len(part.labels) else "")
    if target.kind in ("yes_no", "codes", "tasks"):
        facts += f", {int(np.nansum(part.labels)):,} positive"
    return f"{name}: {facts}" + (f" (set aside: {aside})" if aside else "")


def as_dict(target: Target) -> dict[str, Any]:
    """The target as JSON."""
    return {"kind": target.kind, "names": list(target.names)}
