"""The input pipeline: batch k of a run is a pure function of (token dataset, settings, seed, k).

Grain reads ahead in threads or worker processes; neither changes what a batch holds.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace

import grain.python as grain
import numpy as np
from absl import flags

from ehrjax.core.batch import Batch
from ehrjax.core.errors import InputError
from ehrjax.data import labelled, notes, packing, shared_windows, token_dataset, windows
from ehrjax.data import rows as filling
from ehrjax.ingest.labels import reading, several
from ehrjax.ingest.meds import TRAIN

AnySplit = token_dataset.Split | labelled.LabelledSplit


@dataclass(frozen=True)
class Settings:
    """The `data` section of a config.

    Attributes:
      path: the token dataset.
      context_length: tokens a row, and a window at most.
      max_segments: windows a row at most.
      num_workers: loader processes; 0 reads ahead in threads of this process.
      prefetch: batches read ahead.
      eval_batches: tuning batches per evaluation; 0 takes them all.
      shuffle: another order and other cuts each epoch; otherwise subjects come in the order of the files.
      labels: a label folder or file; then a window is what a label asks about, and carries it. Several, with commas:
        the answers to several yes-or-no tasks, learnt together.
      labels_per_window: labels of one subject that share a window (`shared_windows`), for models of the past that are
        pooled by `last`; 1: each has its own.
      whole_visits: only labels that end with a visit share one, for models that see whole visits.
      decode: see ingest.labels.reading.
      notes: a folder of note vectors (data.notes); then a token carries the mean of the notes before it.
      newest_notes: how many of the newest notes that mean takes; 0 takes all.
      note_states: different means a row at most, and the zeros of no note; 0: as many as there can be.
    """

    path: str
    context_length: int = 512
    max_segments: int = 16
    num_workers: int = 0
    prefetch: int = 8
    eval_batches: int = 0
    shuffle: bool = True
    labels: str = ""
    labels_per_window: int = 1
    whole_visits: bool = False
    decode: str = ""
    notes: str = ""
    newest_notes: int = 0
    note_states: int = 0

    def __post_init__(self) -> None:
        for name, least in (
            ("context_length", 8),
            ("max_segments", 1),
            ("num_workers", 0),
            ("prefetch", 1),
            ("eval_batches", 0),
            ("labels_per_window", 1),
            ("newest_notes", 0),
            ("note_states", 0),
        ):
            if getattr(self, name) < least:
                raise InputError(f"config.data.{name} is {getattr(self, name)}; it must be at least {least}.")


@dataclass(frozen=True)
class Epoch:
    """The windows of one epoch and the rows that they share."""

    windows: windows.Windows
    plan: packing.Plan

    def num_batches(self, batch_size: int) -> int:
        """Batches an epoch; the last may hold padding rows."""
        return -(-len(self.plan) // batch_size)

    @property
    def num_tokens(self) -> int:
        """Real tokens, repeated static ones counted each time."""
        return int(self.windows.length.sum())


def read_labels(settings: Settings) -> reading.Labels:
    """The labels that the settings name."""
    if "," in settings.labels:
        if settings.decode:
            raise InputError("config.data.decode is for the labels of one task; leave it empty for several.")
        return several.read_several(settings.labels.split(","))
    return reading.read_labels(settings.labels, decode=settings.decode)


def names_of(labels: str) -> list[str]:
    """What the tasks are called whose labels a setting names."""
    return [reading.name_of(path) for path in labels.split(",")]


def open_split(dataset: token_dataset.TokenDataset, name: str, settings: Settings) -> AnySplit:
    """A split, or where the settings name labels the labelled windows in it."""
    split = dataset.split(name)
    if settings.notes:
        split = replace(split, notes=notes.open_notes(settings.notes, newest=settings.newest_notes))
    if not settings.labels:
        return split
    labels = read_labels(settings)
    target = labelled.target_of(labels, (split if name == TRAIN else dataset.split(TRAIN)).subject_ids)
    part = labelled.join(split, labels, target, context_length=settings.context_length, where=dataset.folder)
    if settings.labels_per_window == 1:
        return part
    return shared_windows.share(part, most=settings.labels_per_window, whole_visits=settings.whole_visits)


def plan_epoch(split: AnySplit, settings: Settings, *, seed: int | None, epoch: int = 0) -> Epoch:
    """Plans an epoch; `seed` None gives the fixed order and phase of evaluation."""
    seed = seed if settings.shuffle else None
    if isinstance(split, labelled.LabelledSplit):
        tiled = split.windows
    else:
        tiled = windows.tile(split.lengths, split.num_static, context=settings.context_length, seed=seed, epoch=epoch)
    planned = packing.plan(tiled.length, settings.context_length, settings.max_segments, seed, epoch)
    if split.notes is not None:
        # Tokens of one time see one state, so neither can be exceeded.
        states = np.minimum(split.notes.count(split.subject_ids)[tiled.subject], tiled.stop - tiled.start)
        room = filling.room_for_notes(settings.note_states, settings.context_length)
        planned = packing.split_rows(planned, states, room - 1)
    return Epoch(tiled, planned)


def make_batch(split: AnySplit, epoch: Epoch, settings: Settings, *, rows: range, batch_size: int, index: int) -> Batch:
    """Rows `rows` of batch `index` of an epoch; rows past the end of the plan are padding."""
    noted = None
    if split.notes is not None:
        noted = filling.room_for_notes(settings.note_states, settings.context_length), split.notes.width
    batch = filling.empty(len(rows), settings.context_length, settings.max_segments, noted)
    supervised = isinstance(split, labelled.LabelledSplit)
    if supervised:
        room = settings.max_segments * settings.labels_per_window
        batch["labels"] = np.zeros((len(rows), room, split.labels.shape[1]), np.float32)
        batch["weights"] = np.zeros((len(rows), room), np.float32)
        batch["label_anchors"] = np.full((len(rows), room), -1, np.int32)
        batch["label_gaps"] = np.zeros((len(rows), room), np.int32)
    tiled = epoch.windows
    for at, row in enumerate(rows):
        planned = index * batch_size + row
        if planned < len(epoch.plan):
            content = [
                (split.subject(int(tiled.subject[w])), int(tiled.start[w]), int(tiled.stop[w]))
                for w in epoch.plan.row(planned)
            ]
            filling.fill(batch, at, content)
            if supervised:
                _fill_labels(batch, at, split, epoch.plan.row(planned))
    return batch


def _fill_labels(batch: Batch, row: int, split: labelled.LabelledSplit, members: np.ndarray) -> None:
    """Lays the labels of the windows in a row, each at the last token that it may see."""
    tiled, used, begin = split.windows, 0, 0
    for window in members.tolist():
        own = slice(int(split.offsets[window]), int(split.offsets[window + 1]))
        span = slice(used, used + own.stop - own.start)
        static = int(tiled.length[window] - (tiled.stop[window] - tiled.start[window]))
        batch["labels"][row, span] = split.labels[own]
        batch["weights"][row, span] = 1.0
        batch["label_anchors"][row, span] = begin + static + (split.stops[own] - tiled.start[window]) - 1
        last = split.subject(int(tiled.subject[window])).times[split.stops[own] - 1]
        batch["label_gaps"][row, span] = filling.minutes_after(last, split.prediction_times[own])
        used, begin = span.stop, begin + int(tiled.length[window])


class Batches:
    """Random access to the batches that follow a position (epoch, batch in epoch), epoch after epoch.

    Picklable, so that loader processes can hold one; each plans the epochs it needs for itself, to the same
    result. A Grain random-access source.
    """

    def __init__(
        self,
        folder: str,
        split: str,
        settings: Settings,
        *,
        batch_size: int,
        seed: int | None,
        rows: range,
        epoch: int = 0,
        batch_in_epoch: int = 0,
        count: int,
    ) -> None:
        self._arguments = (folder, split, settings, batch_size, seed, rows, epoch, batch_in_epoch, count)
        self._split: AnySplit | None = None
        self._epochs: dict[int, Epoch] = {}
        # Where each planned epoch starts, counted from the position that this source starts at.
        self._starts: list[int] = []

    def __getstate__(self) -> dict:
        return {"arguments": self._arguments}

    def __setstate__(self, state: dict) -> None:
        self._arguments = state["arguments"]
        self._split, self._epochs, self._starts = None, {}, []
        _end_with_parent()

    def __len__(self) -> int:
        return self._arguments[-1]

    def _plan(self, epoch: int) -> Epoch:
        folder, name, settings, _, seed, *_ = self._arguments
        if self._split is None:
            self._split = open_split(token_dataset.open_tokens(folder), name, settings)
        if epoch not in self._epochs:
            self._epochs[epoch] = plan_epoch(self._split, settings, seed=seed, epoch=epoch)
            # Read-ahead threads straddle two epochs at most.
            for old in [e for e in self._epochs if e < epoch - 1]:
                del self._epochs[old]
        return self._epochs[epoch]

    def locate(self, index: int) -> tuple[int, int]:
        """(epoch, batch in epoch) of the index-th batch from here."""
        _, _, _, batch_size, _, _, first, skip, _ = self._arguments
        if not self._starts:
            self._starts.append(-skip)
        while True:
            for i, start in enumerate(self._starts[:-1]):
                if start <= index < self._starts[i + 1]:
                    return first + i, index - start
            last = len(self._starts) - 1
            self._starts.append(self._starts[-1] + self._plan(first + last).num_batches(batch_size))

    def __getitem__(self, index: int) -> tuple[int, int, Batch]:
        _, _, settings, batch_size, _, rows, *_ = self._arguments
        epoch, batch = self.locate(index)
        planned = self._plan(epoch)
        made = make_batch(self._split, planned, settings, rows=rows, batch_size=batch_size, index=batch)
        return epoch, batch, made


def _end_with_parent() -> None:
    """In a loader process: exit when the run that started it is gone, even if it was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:

        def watch() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=watch, daemon=True).start()


def iterate(batches: Batches, settings: Settings) -> Iterator[tuple[int, int, Batch]]:
    """Yields (epoch, batch in epoch, batch) in order, read ahead by Grain; stops its workers when closed."""
    if not len(batches):
        return
    threads = grain.ReadOptions(num_threads=1, prefetch_buffer_size=settings.prefetch)
    dataset = grain.MapDataset.source(batches).to_iter_dataset(threads)
    if settings.num_workers:
        if not flags.FLAGS.is_parsed():  # Grain's workers read absl flags, which only absl.app would have parsed
            flags.FLAGS.mark_as_parsed()
        # As bytes: arrays would travel in shared memory, which outlives a killed run.
        options = grain.MultiprocessingOptions(
            num_workers=settings.num_workers, per_worker_buffer_size=settings.prefetch
        )
        dataset = dataset.map(pickle.dumps).mp_prefetch(options).map(pickle.loads)
    iterator = iter(dataset)
    try:
        yield from iterator
    finally:
        iterator.close()


def count_steps(split: AnySplit, settings: Settings, *, batch_size: int, seed: int, epochs: int) -> int:
    """Batches in `epochs` epochs; each is planned, since the random window phase changes their number."""
    return int(np.sum([plan_epoch(split, settings, seed=seed, epoch=e).num_batches(batch_size) for e in range(epochs)]))
