"""Vectors of codes, visits and patients from an opened run: plain functions, and whole datasets streamed to a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from ehrjax.core import files, trees
from ehrjax.core.errors import InputError
from ehrjax.data import windows
from ehrjax.data.notes import Notes
from ehrjax.data.rows import Window
from ehrjax.data.token_dataset import Split, Subject, TokenDataset
from ehrjax.evals import packed
from ehrjax.evals.vector_files import Vectors, as_table, check_output, joined, savez, write

POOLS = ("cls", "mean", "max", "last")
GROUP, ROWS = 512, 8

Progress = Callable[[str, int, int], None]


def code_table(run: Any) -> np.ndarray:
    """[V, E] float32: the input vectors of a run's tokens."""
    return np.asarray(trees.flatten(run.params)[trees.CODE_TABLE], np.float32)


def hidden_states(run: Any, content: Sequence[Window], *, all_known: bool = False) -> Iterator[tuple[int, np.ndarray]]:
    """The hidden states of windows (subject, start, stop), packed and run in batches of one shape.

    all_known: with what else the model knows (`Run.states`).

    Yields:
      (index of the window, [tokens, D] float32), in the order in which they are done.
    """
    for batch, placed in packed.batches(run, content, ROWS):
        hidden = np.asarray(run.states(batch) if all_known else run.encode(batch), np.float32)
        for at in placed:
            yield at.window, hidden[at.row, at.span]


def pooled(hidden: np.ndarray, real: np.ndarray, pool: str) -> np.ndarray:
    """[D] of [N, D] hidden states.

    Args:
      hidden: of one window.
      real: [N] bool, tokens that are codes and not specials; without any, all count.
      pool: 'cls' the first token, 'last' the last one, 'mean' or 'max' over the real codes.
    """
    if pool == "cls":
        return hidden[0]
    if pool == "last":
        return hidden[-1]
    chosen = hidden[real] if real.any() else hidden
    return chosen.mean(axis=0) if pool == "mean" else chosen.max(axis=0)


def _pooled_parts(parts: Sequence[tuple[int, np.ndarray, np.ndarray]], pool: str) -> np.ndarray:
    """As `pooled`, of several parts (place, hidden, real) in order of their places."""
    given = sorted(parts, key=lambda part: part[0])
    return pooled(*(np.concatenate([part[k] for part in given]) for k in (1, 2)), pool)


def check_pool(pool: str) -> None:
    """Raises InputError for an unknown way of pooling."""
    if pool not in POOLS:
        raise InputError(f"--pool is {pool!r}; choose {', '.join(POOLS)}.")


@dataclass(frozen=True)
class Received:
    """How much attention some tokens receive.

    Attributes:
      token: [N] int32 ids, those that occur.
      count: [N] int64 occurrences.
      attention: [N, layers, heads] float32: the weights on an occurrence, added up over the positions of its window, in
        the mean over the occurrences. Where all positions attended to all evenly, each would receive 1.
    """

    token: np.ndarray
    count: np.ndarray
    attention: np.ndarray


def visits(run: Any, subjects: Sequence[Subject], *, pool: str, alone: bool = True) -> Vectors:
    """A vector for each visit of some subjects, all in one packed run of the model.

    A visit by itself that is longer than the context is encoded in equal pieces, each behind a [CLS]; 'mean' and 'max'
    are over the codes of all pieces, 'cls' is the first piece's, 'last' the last one's.

    Args:
      run: an opened run.
      subjects: their tokens.
      pool: see `pooled`; 'cls' is [CLS] where visits stand alone, else the visit's first token.
      alone: each visit by itself behind a [CLS]; otherwise as a part of the subject's history (in a model that sees
        the future, of all of it).

    Returns:
      Columns subject_id, visit, time (microseconds since 1970 of its first event), codes.
    """
    check_pool(pool)
    specials = run.vocabulary.num_specials
    found: dict[tuple[int, int], np.ndarray] = {}
    told: dict[tuple[int, int], tuple[int, int]] = {}
    # Of each visit: the place of a piece in its subject, its hidden states, and which of these are of codes.
    parts: dict[tuple[int, int], list[tuple[int, np.ndarray, np.ndarray]]] = {}
    context = run.config["data"]["context_length"]
    if alone:
        content, keys, starts = [], [], []
        for place, subject in enumerate(subjects):
            for visit, span in _visits(subject):
                real = np.flatnonzero(subject.tokens[span] >= specials) + span.start
                if len(real):
                    told[place, visit] = (int(subject.times[real[0]]), len(real))
                    for piece in np.array_split(real, -(-len(real) // (context - 1))):
                        content.append((_alone(subject, piece, run.vocabulary.cls), 0, len(piece) + 1))
                        keys.append((place, visit))
                        starts.append(int(piece[0]))
        for i, hidden in hidden_states(run, content):
            given = parts.setdefault(keys[i], [])
            given.append((starts[i], hidden, content[i][0].tokens >= specials))
            # What is complete is pooled at once: all hidden states of a group would be too many to hold.
            if sum(len(part[1]) - 1 for part in given) == told[keys[i]][1]:
                found[keys[i]] = _pooled_parts(parts.pop(keys[i]), pool)
    else:
        content, owners = _tiled(subjects, context)
        for i, hidden in hidden_states(run, content):
            subject, start, stop = content[i]
            numbers = subject.visits[start:stop]
            for visit in np.unique(numbers):
                span = np.flatnonzero(numbers == visit)
                real = subject.tokens[start + span] >= specials
                if real.any():
                    part = (start, hidden[subject.num_static + span], real)
                    parts.setdefault((owners[i], int(visit)), []).append(part)
                    first = int(subject.times[start + span[real][0]])
                    before, count = told.get((owners[i], int(visit)), (first, 0))
                    told[owners[i], int(visit)] = (min(before, first), count + int(real.sum()))
    found.update({key: _pooled_parts(given, pool) for key, given in parts.items()})
    keys = sorted(found)
    columns = {
        "subject_id": np.array([subjects[place].subject_id for place, _ in keys], np.int64),
        "visit": np.array([visit for _, visit in keys], np.int32),
        "time": np.array([told[key][0] for key in keys], np.int64),
        "codes": np.array([told[key][1] for key in keys], np.int32),
    }
    return Vectors(columns, _stacked([found[key] for key in keys]))


def patients(run: Any, subjects: Sequence[Subject], *, pool: str) -> Vectors:
    """A vector for each subject; one longer than the context is pooled over its windows ('cls', 'last': the last one).

    Returns:
      Columns subject_id, visits, codes.
    """
    check_pool(pool)
    specials = run.vocabulary.num_specials
    content, owners = _tiled(subjects, run.config["data"]["context_length"])
    parts: dict[int, list[tuple[int, np.ndarray, np.ndarray]]] = {}
    for i, hidden in hidden_states(run, content):
        subject, start, stop = content[i]
        shown = np.concatenate([subject.tokens[: subject.num_static], subject.tokens[start:stop]])
        real = shown >= specials
        if pool in ("mean", "max") and start > subject.num_static:
            # Static tokens stand in front of every window; they count once.
            real[: subject.num_static] = False
        parts.setdefault(owners[i], []).append((start, hidden, real))
    vectors = []
    for place in range(len(subjects)):
        last = max(parts[place], key=lambda part: part[0])
        vectors.append(_pooled_parts([last] if pool in ("cls", "last") else parts[place], pool))
    columns = {
        "subject_id": np.array([s.subject_id for s in subjects], np.int64),
        "visits": np.array([len(np.unique(s.visits[s.num_static :])) for s in subjects], np.int32),
        "codes": np.array([int((s.tokens >= specials).sum()) for s in subjects], np.int32),
    }
    return Vectors(columns, _stacked(vectors))


def contextual_codes(run: Any, splits: Sequence[Split], *, progress: Progress | None = None) -> Vectors:
    """For each token the mean of its hidden states over all of its occurrences; tokens that do not occur are left out.

    Returns:
      Columns token, count.
    """
    size = len(run.vocabulary)
    total, counts = None, np.zeros(size, np.int64)
    for subjects in _groups(splits, progress):
        content, _ = _tiled(subjects, run.config["data"]["context_length"])
        for i, hidden in hidden_states(run, content):
            subject, start, stop = content[i]
            # Static tokens stand in front of every window; they count once.
            skip = subject.num_static if start > subject.num_static else 0
            shown = np.concatenate([subject.tokens[: subject.num_static], subject.tokens[start:stop]])[skip:]
            if total is None:
                total = np.zeros((size, hidden.shape[1]), np.float64)
            np.add.at(total, shown, hidden[skip:])
            counts += np.bincount(shown, minlength=size)
    there = np.flatnonzero(counts)
    if total is None:
        raise InputError("The dataset holds no tokens.")
    vectors = (total[there] / counts[there, None]).astype(np.float32)
    return Vectors({"token": there.astype(np.int32), "count": counts[there]}, vectors)


def received_attention(run: Any, splits: Sequence[Split], *, progress: Progress | None = None) -> Received:
    """For each token the attention that its occurrences receive from their windows, in the mean; see `Received`.

    A row of the context at a time goes through the model, which holds layers * heads * context_length^2 weights of it.

    Raises:
      InputError: the model has no attention, or the dataset holds no tokens.
    """
    size = len(run.vocabulary)
    total, counts = None, np.zeros(size, np.int64)
    for subjects in _groups(splits, progress):
        content, _ = _tiled(subjects, run.config["data"]["context_length"])
        for batch, placed in packed.batches(run, content, 1):
            # [layers, heads, queries, keys] of the one row; queries of other windows have no weight on its keys.
            received = run.attention(batch)[:, 0].sum(axis=2, dtype=np.float64)
            for at in placed:
                subject, start, _ = content[at.window]
                # As in contextual_codes.
                skip = subject.num_static if start > subject.num_static else 0
                shown = batch["tokens"][at.row, at.span][skip:]
                if total is None:
                    total = np.zeros((size, *received.shape[:2]), np.float64)
                np.add.at(total, shown, np.moveaxis(received[:, :, at.span], 2, 0)[skip:])
                counts += np.bincount(shown, minlength=size)
    if total is None:
        raise InputError("The dataset holds no tokens.")
    there = np.flatnonzero(counts)
    mean = (total[there] / counts[there, None, None]).astype(np.float32)
    return Received(there.astype(np.int32), counts[there], mean)


def write_attention(output: Path, found: Received, strings: np.ndarray) -> None:
    """Writes an .npz file with token, str, count [N] and attention [N, layers, heads]; `strings` are all tokens'."""
    check_output(output, (".npz",))
    savez(output, {**vars(found), "str": strings[found.token]})


def stream(
    make: Callable[[Sequence[Subject]], Vectors],
    splits: Sequence[Split],
    output: str | Path,
    *,
    progress: Progress | None = None,
) -> int:
    """Writes the vectors of whole splits to .parquet (a column `vector`, in bounded memory) or .npz (`vectors`).

    Returns:
      How many vectors.

    Raises:
      InputError: the file exists, or ends in something else.
    """
    output = Path(output)
    check_output(output)
    if output.suffix == ".npz":
        parts = [make(subjects) for subjects in _groups(splits, progress)]
        return write(output, joined(parts))
    count = 0
    with files.written_file(output) as temporary:
        writer = None
        try:
            for subjects in _groups(splits, progress):
                table = as_table(make(subjects))
                writer = writer or pq.ParquetWriter(temporary, table.schema, compression="zstd")
                writer.write_table(table)
                count += len(table)
        finally:
            if writer is not None:
                writer.close()
        if writer is None:
            raise InputError("The splits hold no subjects; nothing is written.")
    return count


def chosen_splits(names: str) -> tuple[str, ...]:
    """The splits that a comma-separated list names, or all.

    Raises:
      InputError: one that does not exist, or is named twice.
    """
    every = ("train", "tuning", "held_out")
    chosen = every if names == "all" else tuple(names.split(","))
    if unknown := [name for name in chosen if name not in every]:
        raise InputError(f"--split is {unknown[0]!r}; choose {', '.join(every)} or all.")
    if len(set(chosen)) < len(chosen):
        raise InputError(f"--split is {names!r}, which names a split twice; name each once.")
    return chosen


def splits_of(dataset: TokenDataset, names: str, notes: Notes | None = None) -> list[Split]:
    """Those of `chosen_splits`, with the vectors of notes for runs that read some."""
    chosen = chosen_splits(names)
    return [replace(dataset.split(name), notes=notes) for name in chosen]


def _groups(splits: Sequence[Split], progress: Progress | None) -> Iterator[list[Subject]]:
    done, total = 0, sum(map(len, splits))
    for split in splits:
        for first in range(0, len(split), GROUP):
            subjects = [split.subject(i) for i in range(first, min(first + GROUP, len(split)))]
            yield subjects
            done += len(subjects)
            if progress:
                progress("encoding", done, total)


def _tiled(subjects: Sequence[Subject], context: int) -> tuple[list[Window], list[int]]:
    """The windows of some subjects, and whose each is."""
    lengths = np.array([len(s.tokens) for s in subjects], np.int64)
    static = np.array([s.num_static for s in subjects], np.int64)
    tiled = windows.tile(lengths, static, context=context, seed=None)
    owners = tiled.subject.tolist()
    content = [(subjects[o], int(a), int(b)) for o, a, b in zip(owners, tiled.start, tiled.stop)]
    return content, owners


def _visits(subject: Subject) -> Iterator[tuple[int, slice]]:
    """The number and the place of each visit of a subject, static tokens apart."""
    numbers = subject.visits[subject.num_static :]
    if len(numbers):
        edges = np.flatnonzero(np.diff(numbers)) + 1
        for first, last in zip([0, *edges], [*edges, len(numbers)]):
            yield int(numbers[first]), slice(subject.num_static + int(first), subject.num_static + int(last))


def _alone(subject: Subject, places: np.ndarray, cls: int) -> Subject:
    """Some tokens of a subject as a subject of its own, behind a [CLS] of the time of the first and without notes."""
    chosen = np.concatenate([places[:1], places])
    tokens = subject.tokens[chosen].copy()
    tokens[0] = cls
    values = subject.values[chosen].copy()
    values[0] = np.nan
    return Subject(
        subject.subject_id,
        subject.birth_time,
        0,
        tokens,
        subject.times[chosen],
        np.zeros(len(chosen), np.int32),
        values,
        None if subject.notes is None else replace(subject.notes, times=subject.notes.times[:0]),
    )


def _stacked(vectors: Sequence[np.ndarray]) -> np.ndarray:
    return np.stack(vectors).astype(np.float32) if vectors else np.zeros((0, 0), np.float32)
