"""Vectors of clinical notes beside a token dataset: a folder that `ehrjax.encode notes` writes, memory-mapped.

notes.json      kind, version, encoder, width, counts, fingerprint
index.arrow     subject_id int64, time int64 (microseconds since 1970), note_id string, row int64; by subject and time
vectors.npy     [N, D] float32, in the order in which the notes were read

A position sees the mean of the vectors of the notes that became readable before its own time, never a later one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.ipc

from ehrjax.core import files
from ehrjax.core.errors import InputError

VERSION = 1
KIND = "ehrjax note vectors"
INFO, INDEX, VECTORS = "notes.json", "index.arrow", "vectors.npy"
_INDEX_SCHEMA = {"subject_id": pl.Int64, "time": pl.Int64, "note_id": pl.String, "row": pl.Int64}


@dataclass(frozen=True)
class SubjectNotes:
    """The notes of one subject.

    Attributes:
      times: [N] int64 microseconds since 1970, never falling.
      vectors: [N, D] float32.
      newest: how many of the newest notes a mean takes; 0 takes all.
    """

    times: np.ndarray
    vectors: np.ndarray
    newest: int = 0

    def before(self, times: np.ndarray) -> np.ndarray:
        """[M] how many notes were readable before each time; not at the time itself."""
        return np.searchsorted(self.times, times, side="left")

    def means(self, counts: np.ndarray) -> np.ndarray:
        """[M, D] float32: for each count the mean of that many first notes, or of the newest among them; 0 for none."""
        sums = np.concatenate([np.zeros((1, self.vectors.shape[1])), np.cumsum(self.vectors, axis=0, dtype=np.float64)])
        first = np.maximum(counts - self.newest, 0) if self.newest else np.zeros_like(counts)
        size = np.maximum(counts - first, 1)[:, None]
        return ((sums[counts] - sums[first]) / size).astype(np.float32)


@dataclass(frozen=True)
class Notes:
    """An opened folder of vectors.

    Attributes:
      folder: where it lies.
      info: notes.json.
      subject_ids: [S] int64, rising; subject s has the places `starts[s]:starts[s + 1]`.
      times, rows: [N] int64 by subject and time.
      vectors: [N, D] float32, mapped, by row.
      newest: see SubjectNotes.
    """

    folder: Path
    info: dict[str, Any]
    subject_ids: np.ndarray
    starts: np.ndarray
    times: np.ndarray
    rows: np.ndarray
    vectors: np.ndarray
    newest: int = 0

    @property
    def width(self) -> int:
        """Numbers a vector."""
        return self.vectors.shape[1]

    def count(self, subject_ids: np.ndarray) -> np.ndarray:
        """[M] int64: how many notes each subject has."""
        if not len(self.subject_ids):
            return np.zeros(len(subject_ids), np.int64)
        place = np.minimum(np.searchsorted(self.subject_ids, subject_ids), len(self.subject_ids) - 1)
        return np.where(self.subject_ids[place] == subject_ids, np.diff(self.starts)[place], 0)

    def of(self, subject_id: int) -> SubjectNotes:
        """A subject's notes; perhaps none."""
        place = int(np.searchsorted(self.subject_ids, subject_id))
        span = slice(0, 0)
        if place < len(self.subject_ids) and self.subject_ids[place] == subject_id:
            span = slice(int(self.starts[place]), int(self.starts[place + 1]))
        return SubjectNotes(self.times[span], self.vectors[self.rows[span]], self.newest)


def write(folder: Path, index: pl.DataFrame, parts: Iterable[np.ndarray], info: dict[str, Any]) -> None:
    """Fills an empty folder.

    Args:
      folder: from `files.written_folder` or `files.resumable_folder`.
      index: subject_id, time (datetime[us]) and note_id of each note, in the order of the vectors.
      parts: [n, D] float32 arrays that follow one another.
      info: what notes.json says besides: encoder, fingerprint, counts.
    """
    target = None
    at = 0
    for part in parts:
        if target is None:
            shape = (len(index), part.shape[1])
            target = np.lib.format.open_memmap(folder / VECTORS, mode="w+", dtype=np.float32, shape=shape)
        target[at : at + len(part)] = part
        at += len(part)
    if target is None or at != len(index):
        raise ValueError(f"{len(index)} notes, but {at} vectors")
    width = target.shape[1]
    target.flush()
    rows = index.with_columns(pl.col("time").to_physical()).with_row_index("row").cast(_INDEX_SCHEMA)
    rows = rows.select(*_INDEX_SCHEMA).sort("subject_id", "time", "row")
    rows.write_ipc(folder / INDEX, compat_level=pl.CompatLevel.oldest())
    files.write_json(folder / INFO, {"kind": KIND, "version": VERSION, **info, "notes": len(index), "width": width})


def open_notes(folder: str | Path, *, newest: int = 0) -> Notes:
    """Opens a folder of vectors.

    Args:
      folder: what `ehrjax.encode notes` has written.
      newest: how many of the newest notes a mean takes; 0 takes all.

    Raises:
      InputError: the folder or one of its files is missing, damaged or foreign.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"The folder of note vectors {folder} does not exist; make it with ehrjax.encode notes.")
    info = files.read_json(folder / INFO, what="folder of note vectors")
    if info.get("kind") != KIND or info.get("version") != VERSION:
        raise InputError(f"{folder / INFO} does not describe note vectors of version {VERSION}.")
    try:
        with pa.memory_map(str(folder / INDEX)) as source:
            index = pl.DataFrame(pl.from_arrow(pa.ipc.open_file(source).read_all())).cast(_INDEX_SCHEMA)
        vectors = np.load(folder / VECTORS, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, pa.ArrowException, pl.exceptions.PolarsError) as error:
        raise InputError(f"{folder} is damaged; encode the notes again.") from error
    if vectors.ndim != 2 or vectors.dtype != np.float32 or len(vectors) != len(index):
        raise InputError(f"{folder} is damaged: {INDEX} and {VECTORS} do not belong together; encode the notes again.")
    ids, starts = np.unique(index["subject_id"].to_numpy(), return_index=True)
    times, rows = index["time"].to_numpy(), index["row"].to_numpy()
    return Notes(folder, info, ids, np.append(starts, len(times)), times, rows, vectors, newest)
