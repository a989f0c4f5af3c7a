"""The token dataset: a folder of memory-mapped Arrow files, one row a subject. Reading a subject copies nothing.

dataset.json      version, source, fingerprints, counts, recipe
vocab.csv         token,str,count,...
<step>.json       the table of each fitted step (bin_values.json: quantile edges per code)
data/<split>/*.arrow
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.ipc

from ehrjax.core import files
from ehrjax.core.errors import InputError
from ehrjax.data.notes import Notes, SubjectNotes
from ehrjax.ingest.meds import SPLITS
from ehrjax.vocab import vocabulary as vocabularies

VERSION = 2
ARROW_SCHEMA = pa.schema(
    [
        pa.field("subject_id", pa.int64(), nullable=False),
        pa.field("birth_time", pa.int64()),
        pa.field("num_static", pa.int32(), nullable=False),
        pa.field("tokens", pa.list_(pa.int32())),
        pa.field("times", pa.list_(pa.int64())),
        pa.field("visits", pa.list_(pa.int32())),
        pa.field("values", pa.list_(pa.float32())),
    ]
)
RAGGED = ("tokens", "times", "visits", "values")


def write_table(table: pa.Table, path: Path) -> None:
    """Writes subjects (the columns of ARROW_SCHEMA, in any order) as a file of one record batch, atomically."""
    table = table.select(ARROW_SCHEMA.names).cast(ARROW_SCHEMA).combine_chunks()
    with files.written_file(path) as temporary:
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, ARROW_SCHEMA) as writer:
            for batch in table.to_batches():
                writer.write_batch(batch)


@dataclass(frozen=True)
class Shard:
    """One memory-mapped file as flat arrays; subject i's tokens are `tokens[offsets[i]:offsets[i + 1]]`."""

    path: Path
    subject_id: np.ndarray
    birth_time: np.ndarray
    has_birth: np.ndarray
    num_static: np.ndarray
    offsets: np.ndarray
    columns: Mapping[str, np.ndarray]


def read_shard(path: Path) -> Shard:
    """Maps one Arrow file.

    Raises:
      InputError: the file is truncated, is no Arrow file, or is not a shard of a token dataset.
    """
    try:
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_file(source).read_all()
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is truncated or is no Arrow file; prepare the tokens again.") from error
    if not table.schema.equals(ARROW_SCHEMA):
        raise InputError(f"{path} is not a shard of a token dataset (its columns differ); prepare the tokens again.")
    if not len(table):
        empty = {name: np.zeros(0, ARROW_SCHEMA.field(name).type.value_type.to_pandas_dtype()) for name in RAGGED}
        none = np.zeros(0, np.int64)
        return Shard(path, none, none, none.astype(bool), none.astype(np.int32), np.zeros(1, np.int64), empty)
    batch = table.combine_chunks().to_batches()[0]
    lists = {name: batch.column(name) for name in RAGGED}
    offsets = lists["tokens"].offsets.to_numpy()
    for name, column in lists.items():
        if column.null_count or not np.array_equal(column.offsets.to_numpy(), offsets):
            raise InputError(f"{path} is damaged: {name} and tokens differ in length; prepare the tokens again.")
    if offsets[-1] != len(lists["tokens"].values):
        raise InputError(f"{path} is truncated; prepare the tokens again.")
    births = batch.column("birth_time")
    return Shard(
        path,
        batch.column("subject_id").to_numpy(),
        births.fill_null(0).to_numpy(),
        births.is_valid().to_numpy(zero_copy_only=False),
        batch.column("num_static").to_numpy(),
        offsets,
        {name: column.values.to_numpy(zero_copy_only=True) for name, column in lists.items()},
    )


@dataclass(frozen=True)
class Subject:
    """One subject's tokens: views into the mapped file.

    Attributes:
      subject_id: its MEDS id.
      birth_time: microseconds since 1970, or None.
      num_static: how many leading tokens have no time.
      tokens, visits: [N] int32; times: [N] int64 microseconds (NaT where static); values: [N] float32, NaN = none.
      notes: vectors of clinical notes, where there are any beside the tokens.
    """

    subject_id: int
    birth_time: int | None
    num_static: int
    tokens: np.ndarray
    times: np.ndarray
    visits: np.ndarray
    values: np.ndarray
    notes: SubjectNotes | None = None


@dataclass(frozen=True)
class Split:
    """All subjects of one split, addressed by index; with `notes` each has its own."""

    name: str
    shards: tuple[Shard, ...]
    notes: Notes | None = None

    def __len__(self) -> int:
        return int(self._starts[-1])

    @cached_property
    def _starts(self) -> np.ndarray:
        return np.cumsum([0, *(len(shard.subject_id) for shard in self.shards)])

    @cached_property
    def subject_ids(self) -> np.ndarray:
        """[subjects] int64."""
        return np.concatenate([s.subject_id for s in self.shards]) if self.shards else np.zeros(0, np.int64)

    @cached_property
    def lengths(self) -> np.ndarray:
        """[subjects] int64: tokens a subject, static ones included."""
        parts = [np.diff(shard.offsets) for shard in self.shards]
        return np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, np.int64)

    @cached_property
    def num_static(self) -> np.ndarray:
        """[subjects] int64: static tokens a subject."""
        parts = [shard.num_static for shard in self.shards]
        return np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, np.int64)

    def subject(self, index: int) -> Subject:
        """The subject at `index`; its arrays are views, nothing is copied."""
        which = int(np.searchsorted(self._starts, index, side="right")) - 1
        shard, row = self.shards[which], index - int(self._starts[which])
        span = slice(int(shard.offsets[row]), int(shard.offsets[row + 1]))
        return Subject(
            int(shard.subject_id[row]),
            int(shard.birth_time[row]) if shard.has_birth[row] else None,
            int(shard.num_static[row]),
            **{name: shard.columns[name][span] for name in RAGGED},
            notes=None if self.notes is None else self.notes.of(int(shard.subject_id[row])),
        )


@dataclass(frozen=True)
class TokenDataset:
    """An opened token dataset.

    Attributes:
      folder: where it lies.
      info: dataset.json.
      vocabulary: its vocabulary.
    """

    folder: Path
    info: dict
    vocabulary: vocabularies.Vocabulary

    @property
    def fingerprint(self) -> str:
        """Changes with the input events, the recipe or the vocabulary."""
        return self.info["fingerprint"]

    def split(self, name: str) -> Split:
        """Maps the files of one split.

        Raises:
          InputError: no such split, a damaged file, or a subject count that is not what dataset.json says.
        """
        if name not in SPLITS:
            raise InputError(f"There is no split {name!r}; the splits are {', '.join(SPLITS)}.")
        shards = tuple(read_shard(path) for path in sorted((self.folder / "data" / name).glob("*.arrow")))
        split = Split(name, shards)
        expected = self.info["splits"].get(name, {}).get("subjects", 0)
        if len(split) != expected:
            raise InputError(
                f"{self.folder / 'data' / name} holds {len(split)} subjects where dataset.json says {expected}; "
                "a shard is missing: prepare the tokens again."
            )
        top = max((int(shard.columns["tokens"].max(initial=0)) for shard in shards), default=0)
        if top >= len(self.vocabulary):
            raise InputError(
                f"{self.folder} uses token {top} but vocab.csv ends at {len(self.vocabulary) - 1}; "
                "the vocabulary is another dataset's."
            )
        return split


def open_tokens(folder: str | Path) -> TokenDataset:
    """Opens a token dataset.

    Raises:
      InputError: the folder or one of its files is missing, damaged, or of another version.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"The token dataset {folder} does not exist.")
    info = files.read_json(folder / "dataset.json", what="token dataset")
    if info.get("kind") != "ehrjax token dataset" or info.get("version") != VERSION:
        raise InputError(f"{folder / 'dataset.json'} does not describe a token dataset of version {VERSION}.")
    vocabulary = vocabularies.read(folder / "vocab.csv")
    if vocabulary.fingerprint != info.get("vocabulary_fingerprint"):
        raise InputError(f"{folder / 'vocab.csv'} is not the vocabulary that these tokens were made with.")
    return TokenDataset(folder, info, vocabulary)
