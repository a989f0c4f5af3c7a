"""The event contract: reading and writing MEDS datasets (Medical Event Data Standard, v0.4; v0.3.3 is read).

Layout and schema: https://github.com/Medical-Event-Data-Standard/meds. A dataset is a folder with
`data/<split>/*.parquet`, `metadata/codes.parquet`, `metadata/subject_splits.parquet` and
`metadata/dataset.json`. A subject lives in one file, contiguous, static rows (null time) first, then by time.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ehrjax.core import files
from ehrjax.core.codes import SEPARATOR
from ehrjax.core.errors import InputError

MEDS_VERSION = "0.4.1"
BIRTH = "MEDS_BIRTH"
DEATH = "MEDS_DEATH"
TRAIN, TUNING, HELD_OUT = SPLITS = ("train", "tuning", "held_out")
# The column by which ehrjax readers say which hospital stay an event belongs to (an allowed MEDS extension).
VISIT_COLUMN = "visit_id"

# (file, first row group, one past the last) of each part.
Chunk = tuple[tuple[Path, int, int], ...]

EVENT_SCHEMA = {
    "subject_id": pl.Int64,
    "time": pl.Datetime("us"),
    "code": pl.String,
    "numeric_value": pl.Float32,
    "text_value": pl.String,
    VISIT_COLUMN: pl.Int64,
}
OPTIONAL_COLUMNS = ("numeric_value", "text_value", VISIT_COLUMN)


def family(code: str) -> str:
    """The family of a code, by which reports group: what stands before the first `//`.

    >>> family("LAB//50912//mg/dL")
    'LAB'
    """
    return code.split(SEPARATOR, 1)[0]


def split_of(
    subject_ids: np.ndarray, *, seed: int = 0, fractions: tuple[float, float] = (0.8, 0.1), fold: int = 0
) -> np.ndarray:
    """Assigns each subject to a split by a hash of its id, so that it never moves when others come or go.

    Args:
      subject_ids: [N] int64.
      seed: another seed gives another assignment.
      fractions: the shares of train and tuning; the rest is held_out.
      fold: which of the parts, each as large as held_out, is held out, for cross-validation: by default 0 to 9. No
        subject is in two.

    Returns:
      [N] array of 'train', 'tuning' or 'held_out'.
    """
    # splitmix64's finaliser (Steele et al. 2014): a bijection of 64-bit integers with good avalanche.
    x = np.asarray(subject_ids, np.int64).astype(np.uint64)
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15) * np.uint64(seed + 1)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    train, tuning = fractions
    whole = 1 << 53
    turned = np.uint64(fold * round((1.0 - train - tuning) * whole) % whole)
    u = (((x >> np.uint64(11)) + turned) % np.uint64(whole)).astype(np.float64) / float(whole)
    return np.where(u < train, TRAIN, np.where(u < train + tuning, TUNING, HELD_OUT))


def order_events(events: pl.DataFrame) -> pl.DataFrame:
    """Sorts by subject, static rows first, then time; ties keep their given order (a stable sort)."""
    return events.sort("subject_id", "time", nulls_last=False, maintain_order=True)


@dataclass
class MedsWriter:
    """Writes a MEDS dataset shard by shard into `folder` (normally one from `files.written_folder`).

    `write_shard` takes whole subjects; `finish` writes the metadata from what was seen. Codes without a
    description get an empty row in codes.parquet, since every code must appear there.

    Subjects are split by `split_of`; those in `splits` (subject_id, split), where a source comes with an assignment of
    its own, are in the split it names.
    """

    folder: Path
    dataset_name: str
    dataset_version: str
    etl_name: str = "ehrjax"
    split_fractions: tuple[float, float] = (0.8, 0.1)
    splits: pl.DataFrame | None = None
    _shards: int = 0
    _subjects: list[np.ndarray] = field(default_factory=list)
    _codes: set[str] = field(default_factory=set)
    rows: int = 0

    def split_subjects(self, subject_ids: np.ndarray) -> np.ndarray:
        """[N] the split of each subject."""
        split = split_of(subject_ids, fractions=self.split_fractions)
        if self.splits is None:
            return split
        given = pl.DataFrame({"subject_id": subject_ids}, schema={"subject_id": pl.Int64}).join(
            self.splits, on="subject_id", how="left", maintain_order="left"
        )["split"]
        return np.where(given.is_not_null().to_numpy(), given.fill_null("").to_numpy().astype(str), split)

    def write_shard(self, events: pl.DataFrame) -> None:
        """Writes the events of a set of whole subjects; they must not occur in another shard.

        Args:
          events: columns of EVENT_SCHEMA (optional ones may lack), any order of rows; ties in time keep
            their order.
        """
        for name, dtype in EVENT_SCHEMA.items():
            if name not in events.columns and name in OPTIONAL_COLUMNS:
                events = events.with_columns(pl.lit(None, dtype).alias(name))
        events = order_events(events.select(pl.col(name).cast(dtype) for name, dtype in EVENT_SCHEMA.items()))
        subjects = events["subject_id"].unique(maintain_order=True).to_numpy()
        split = self.split_subjects(subjects)
        self._subjects.append(subjects)
        self._codes.update(events["code"].unique())
        self.rows += len(events)
        for name in SPLITS:
            part = events.filter(pl.col("subject_id").is_in(pl.Series(subjects[split == name]).implode()))
            if len(part):
                path = self.folder / "data" / name / f"{self._shards:05d}.parquet"
                path.parent.mkdir(parents=True, exist_ok=True)
                # MEDS asks for large_string in text_value and string in code.
                table = part.to_arrow()
                table = table.set_column(table.schema.get_field_index("code"), "code", table["code"].cast("string"))
                table = table.set_column(
                    table.schema.get_field_index("text_value"),
                    "text_value",
                    table["text_value"].cast("large_string"),
                )
                pq.write_table(table, path, compression="zstd")
        self._shards += 1

    def finish(
        self,
        descriptions: Mapping[str, str],
        *,
        parents: Mapping[str, list[str]] | None = None,
        extra: Mapping[str, object] | None = None,
    ) -> None:
        """Writes codes.parquet, subject_splits.parquet and dataset.json.

        Args:
          descriptions: code -> description; codes never written are left out.
          parents: code -> parent codes.
          extra: more entries for dataset.json (what was set aside, pseudo-dates, ...).
        """
        metadata = self.folder / "metadata"
        metadata.mkdir(parents=True, exist_ok=True)
        codes = sorted(self._codes)
        frame = pl.DataFrame(
            {
                "code": codes,
                "description": [descriptions.get(code) for code in codes],
                "parent_codes": [(parents or {}).get(code) for code in codes],
            },
            schema={"code": pl.String, "description": pl.String, "parent_codes": pl.List(pl.String)},
        )
        _write_strings(frame, metadata / "codes.parquet")
        subjects = np.sort(np.concatenate(self._subjects)) if self._subjects else np.zeros(0, np.int64)
        splits = pl.DataFrame(
            {"subject_id": subjects, "split": self.split_subjects(subjects)},
            schema={"subject_id": pl.Int64, "split": pl.String},
        )
        _write_strings(splits, metadata / "subject_splits.parquet")
        files.write_json(
            metadata / "dataset.json",
            {
                "dataset_name": self.dataset_name,
                "dataset_version": self.dataset_version,
                "etl_name": self.etl_name,
                "etl_version": "0.1.0",
                "meds_version": MEDS_VERSION,
                "created_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                "other_extension_columns": [VISIT_COLUMN],
                **(extra or {}),
            },
        )


def _write_strings(frame: pl.DataFrame, path: Path) -> None:
    """Writes with plain `string` columns, as MEDS metadata asks (polars exports large_string)."""
    table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
    plain = {pa.large_string(): pa.string(), pa.large_list(pa.large_string()): pa.list_(pa.string())}
    fields = [f.with_type(plain.get(f.type, f.type)) for f in table.schema]
    pq.write_table(table.cast(pa.schema(fields)), path, compression="zstd")


@dataclass(frozen=True)
class MedsDataset:
    """A MEDS folder that was checked on opening.

    Attributes:
      folder: its root.
      shards: the event files in name order (a folder named after a split is only a convention).
      splits: subject_id, split.
      codes: code, description, parent_codes (columns may be null).
      metadata: dataset.json.
    """

    folder: Path
    shards: list[Path]
    splits: pl.DataFrame
    codes: pl.DataFrame
    metadata: dict

    def count_events(self) -> int:
        """Rows of all event files, from their footers."""
        return sum(_parquet(path).metadata.num_rows for path in self.shards)

    def chunks(self, rows: int) -> Iterator[Chunk]:
        """Pieces for `read_chunk` of about `rows` rows: parts of large event files, or several small ones."""
        parts: list[tuple[Path, int, int]] = []
        held = 0
        for path in self.shards:
            metadata = _parquet(path).metadata
            start = 0
            for group in range(metadata.num_row_groups):
                held += metadata.row_group(group).num_rows
                if held >= rows:
                    yield (*parts, (path, start, group + 1))
                    parts, start, held = [], group + 1, 0
            if start < metadata.num_row_groups:
                parts.append((path, start, metadata.num_row_groups))
        if parts:
            yield tuple(parts)

    def read_chunk(self, chunk: Chunk, columns: tuple[str, ...] = (), *, categories: bool = False) -> pl.DataFrame:
        """The events of the subjects that begin in a piece, whole and in MEDS order, their texts left out (null).

        With `columns` (subject_id among them) only these are read, and the events of a subject are in file order. With
        `categories` codes are Categorical, as they lie in the file, and not String.

        A subject that began before the piece belongs to an earlier one; one that goes on behind it is read to its
        end.

        Raises:
          InputError: a file is damaged, a column is missing or has an impossible type, or a subject's rows are not
            together.
        """
        frames = [self._read_part(*part, columns, categories) for part in chunk]
        frame = frames[0] if len(frames) == 1 else pl.concat(frames)
        again = sum(part["subject_id"].n_unique() for part in frames) - frame["subject_id"].n_unique()
        if again:
            raise InputError(
                f"{self.folder} holds {again} subjects in more than one file; MEDS keeps each in one file."
            )
        return frame if columns or _ordered(frame) else order_events(frame)

    def _read_part(self, path: Path, start: int, stop: int, columns: tuple[str, ...], categories: bool) -> pl.DataFrame:
        file = _parquet(path)
        groups = file.metadata.num_row_groups
        try:
            frame = self._groups(file, range(start, stop), columns)
            if start and len(frame):
                previous = self._groups(file, [start - 1], ("subject_id",))
                frame = frame.filter(pl.col("subject_id") != previous["subject_id"][-1])
            while stop < groups and len(frame):
                more = self._groups(file, [stop], columns)
                rest = more.filter(pl.col("subject_id") == frame["subject_id"][-1])
                frame = pl.concat([frame, rest])
                stop += 1
                if len(rest) < len(more):
                    break
        except (OSError, pa.ArrowException) as error:
            raise InputError(
                f"{path} cannot be read as parquet; it is truncated or foreign: write it again."
            ) from error
        frame = conform(frame, path, columns, categories=categories)
        if frame["subject_id"].rle_id().n_unique() != frame["subject_id"].n_unique():
            raise InputError(f"{path} does not keep each subject's rows together; sort it by subject_id and time.")
        return frame

    @staticmethod
    def _groups(file: pq.ParquetFile, groups: Iterable[int], columns: tuple[str, ...]) -> pl.DataFrame:
        there = file.schema_arrow.names
        wanted = [name for name in columns or EVENT_SCHEMA if name in there and name != "text_value"]
        return pl.DataFrame(pl.from_arrow(file.read_row_groups(list(groups), columns=wanted)))

    def read_shard(self, path: Path) -> pl.DataFrame:
        """The events of one file with exactly the columns of EVENT_SCHEMA, in MEDS order.

        Raises:
          InputError: the file is damaged, a column is missing or has an impossible type.
        """
        try:
            frame = pl.read_parquet(path, glob=False)
        except Exception as error:  # polars raises several unrelated classes for a damaged file
            raise InputError(
                f"{path} cannot be read as parquet; it is truncated or foreign: write it again."
            ) from error
        return conform(frame, path)


def _parquet(path: Path) -> pq.ParquetFile:
    try:
        # Codes repeat: as a dictionary they are read in half the time.
        codes = [name for name in pq.read_schema(path).names if name == "code"]
        return pq.ParquetFile(path, read_dictionary=codes)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} cannot be read as parquet; it is truncated or foreign: write it again.") from error


def _ordered(events: pl.DataFrame) -> bool:
    """Whether each subject's static rows come first and its other rows in order of time."""
    subject = events["subject_id"].to_numpy()
    # Before all times stands none.
    time = events["time"].to_physical().fill_null(np.iinfo(np.int64).min).to_numpy()
    back = time[1:] < time[:-1]
    return not bool((back & (subject[1:] == subject[:-1])).any())


def conform(frame: pl.DataFrame, path: Path, wanted: tuple[str, ...] = (), *, categories: bool = False) -> pl.DataFrame:
    """Casts a frame read from `path` to EVENT_SCHEMA (or its columns `wanted`); absent optional ones become null.

    Codes become String, or Categorical with `categories`.
    """
    columns = []
    for name, dtype in {**EVENT_SCHEMA, "code": pl.Categorical() if categories else pl.String()}.items():
        if wanted and name not in wanted:
            continue
        if name not in frame.columns:
            if name not in OPTIONAL_COLUMNS:
                raise InputError(f"{path} has no column {name!r}, which MEDS requires; write the dataset again.")
            columns.append(pl.lit(None, dtype).alias(name))
        else:
            columns.append(pl.col(name).cast(dtype, strict=True))
    try:
        frame = frame.select(columns)
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{path} does not follow the MEDS schema: {str(error).splitlines()[0]}.") from error
    for name in ("subject_id", "code"):
        if name in frame.columns and frame[name].null_count():
            raise InputError(f"{path} has {frame[name].null_count()} null values in column {name!r}; MEDS allows none.")
    return frame


def open_dataset(folder: str | Path) -> MedsDataset:
    """Opens and checks a MEDS folder.

    Raises:
      InputError: a folder or file is missing or damaged, or a subject has no split.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"The MEDS folder {folder} does not exist.")
    metadata = files.read_json(folder / "metadata" / "dataset.json", what="MEDS dataset")
    splits = _read_metadata(folder / "metadata" / "subject_splits.parquet", ("subject_id", "split"))
    codes = _read_metadata(folder / "metadata" / "codes.parquet", ("code",))
    for name, dtype in (("description", pl.String), ("parent_codes", pl.List(pl.String))):
        if name not in codes.columns:
            codes = codes.with_columns(pl.lit(None, dtype).alias(name))
    shards = sorted((folder / "data").glob("**/*.parquet"))
    if not shards:
        raise InputError(f"{folder / 'data'} holds no parquet files; it is not a MEDS dataset or it is empty.")
    return MedsDataset(folder, shards, splits, codes.unique("code", keep="first", maintain_order=True), metadata)


def _read_metadata(path: Path, required: Iterable[str]) -> pl.DataFrame:
    if not path.is_file():
        raise InputError(f"{path} is missing; a MEDS dataset needs it.")
    try:
        frame = pl.read_parquet(path, glob=False)
    except Exception as error:
        raise InputError(f"{path} cannot be read as parquet; it is truncated or foreign: write it again.") from error
    for name in required:
        if name not in frame.columns:
            raise InputError(f"{path} has no column {name!r}, which MEDS requires.")
    return frame
