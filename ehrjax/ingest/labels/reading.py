"""Label files, ours and others', as one table: MEDS label folders, single files, EHRSHOT's labeled_patients.csv."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ehrjax.core import files
from ehrjax.core.errors import InputError
from ehrjax.ingest.labels import ehrshot
from ehrjax.ingest.labels.making import EXTENSION, KEYS, TASK_FILE, VALUES
from ehrjax.ingest.meds import SPLITS

DECODE = ("", "at_least_one", "chexpert")
SPLIT = "split"


@dataclass(frozen=True)
class Labels:
    """The labels of one task.

    Attributes:
      name: the task's folder or file.
      value: which column of the MEDS label schema holds the label (for multi-label and survival see `frame`).
      frame: subject_id int64, prediction_time datetime[us] (inclusive), `split` (train, tuning or held_out; null
        where the files do not say), the value column without nulls, and what the extension holds: label_codes,
        event_time_days, censored, visit, ... Sorted by subject_id and prediction_time, ties as in the files.
      info: task.json of our own folders, else empty.
    """

    name: str
    value: str
    frame: pl.DataFrame
    info: dict


def read_labels(path: str | Path, *, decode: str = "") -> Labels:
    """Reads the labels of a task.

    Args:
      path: a folder that `prepare labels` wrote, or the one it wrote a single task into; any folder with MEDS label
        parquet, nested however (files may be empty, and value columns that are null throughout do not count, as MEDS
        0.3.3 wrote them); a single parquet or CSV file in that schema; EHRSHOT's labeled_patients.csv, or a folder that
        holds it.
      decode: what whole numbers mean. Empty: themselves. at_least_one: yes from 1 on (EHRSHOT's lab tasks).
        chexpert: 14 findings as the bits of a number, the first finding the highest (EHRSHOT's chexpert); the labels
        become label_codes.

    Raises:
      InputError: there are no labels, a file is damaged, a column is missing or has an impossible type, labels lack a
        value or have two, or an extension does not belong to its labels.
    """
    path = Path(path)
    if decode not in DECODE:
        raise InputError(f"decode is {decode!r}; it must be one of {', '.join(name or 'empty' for name in DECODE)}.")
    info: dict = {}
    if path.is_file():
        parts = [_read_file(path)]
    elif path.is_dir():
        path = _single_task(path)
        if (path / TASK_FILE).is_file():
            info = files.read_json(path / TASK_FILE, what="label folder")
        parts = _read_folder(path, info)
    else:
        raise InputError(f"The labels {path} do not exist.")
    frame = pl.concat([part for part in parts if len(part)], how="diagonal") if any(map(len, parts)) else None
    if frame is None:
        raise InputError(f"{path} holds no labels.")
    value = _one_value(frame, path)
    keep = ["subject_id", "prediction_time", SPLIT, value]
    keep += [name for name in frame.columns if name not in (*KEYS, SPLIT, *VALUES)]
    frame = frame.select(keep).sort("subject_id", "prediction_time", maintain_order=True)
    if decode:
        frame, value = ehrshot.decode(frame, value, decode, path)
    return Labels(name_of(path), value, frame, info)


def name_of(path: str | Path) -> str:
    """What `read_labels` calls the labels.

    Raises:
      InputError: a folder of several tasks.
    """
    path = Path(path)
    return _single_task(path).name if path.is_dir() else path.stem


def _single_task(path: Path) -> Path:
    """The folder of the task: itself, or the only one that `prepare labels` wrote into it.

    Raises:
      InputError: it holds several tasks.
    """
    inside = sorted(p.parent for p in path.glob(f"*/**/{TASK_FILE}"))
    if (path / TASK_FILE).is_file() or not inside:
        return path
    if len(inside) > 1:
        names = ", ".join(str(p.relative_to(path)) for p in inside[:5])
        raise InputError(f"{path} holds the labels of several tasks ({names}); name one of those folders.")
    return inside[0]


def _read_folder(path: Path, info: dict) -> list[pl.DataFrame]:
    shards = [p for p in sorted(path.rglob("*.parquet")) if not p.name.startswith(".")]
    csv = path / ehrshot.FILE
    if not shards and csv.is_file():
        return [_read_file(csv)]
    parts = []
    for shard in shards:
        part = _read_file(shard)
        top = shard.relative_to(path).parts[0]
        if top in SPLITS:
            part = part.with_columns(pl.lit(top).alias(SPLIT))
        if info.get("extension"):
            beside = path / EXTENSION / shard.relative_to(path).with_suffix(".arrow")
            part = _with_extension(part, beside, info["extension"])
        parts.append(part)
    return parts


def _with_extension(labels: pl.DataFrame, path: Path, columns: list[str]) -> pl.DataFrame:
    """Adds what stands beside a file of labels; the keys must agree row by row."""
    try:
        with pa.OSFile(str(path)) as stream:
            extension = pl.DataFrame(pl.from_arrow(pa.ipc.open_file(stream).read_all()))
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing; make the labels again.") from error
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} cannot be read as an Arrow file; make the labels again.") from error
    if not {*KEYS, *columns} <= set(extension.columns) or not extension.select(*KEYS).equals(labels.select(*KEYS)):
        raise InputError(f"{path} does not belong to the labels beside it; make the labels again.")
    return pl.concat([labels, extension.select(columns)], how="horizontal")


def _read_file(path: Path) -> pl.DataFrame:
    """One file of labels with KEYS, the value columns that are not null throughout, and a split (null if not told)."""
    try:
        if path.suffix == ".csv":
            # As text, so that no guess decides a type.
            frame = pl.read_csv(path, infer_schema=False)
        else:
            frame = pl.DataFrame(pl.from_arrow(pq.ParquetFile(path).read()))
    except pl.exceptions.NoDataError as error:
        raise InputError(f"{path} is empty, without even a header; copy it again.") from error
    except (OSError, pa.ArrowException, pl.exceptions.PolarsError) as error:
        raise InputError(f"{path} cannot be read as {path.suffix.lstrip('.') or 'parquet'}; copy it again.") from error
    if ehrshot.is_ehrshot(frame):
        frame = ehrshot.conform(frame, path)
    if "subject_id" not in frame.columns and "patient_id" in frame.columns:
        frame = frame.rename({"patient_id": "subject_id"})
    told = frame[SPLIT].cast(pl.String) if SPLIT in frame.columns else pl.Series([None] * len(frame), dtype=pl.String)
    if not told.is_in(SPLITS).fill_null(True).all():
        raise InputError(f"{path}: column {SPLIT!r} holds other names than {', '.join(SPLITS)}.")
    frame = _cast(frame, path)
    for name in KEYS:
        if missing := frame[name].null_count():
            raise InputError(f"{path} has {missing} labels without {name}; each label needs one.")
    return frame.with_columns(told.alias(SPLIT))


def _cast(frame: pl.DataFrame, path: Path) -> pl.DataFrame:
    """The columns of the label schema in its types, and extension columns of our own making as they are."""
    chosen = []
    for name, dtype in {**KEYS, **{name: kinds[0] for name, kinds in VALUES.items()}}.items():
        if name not in frame.columns:
            if name in KEYS:
                raise InputError(f"{path} has no column {name!r}; labels need subject_id and prediction_time.")
            continue
        if name in VALUES and len(frame) and frame[name].null_count() == len(frame):
            continue
        chosen.append(_converted(frame[name], dtype, path))
    days, censored = ehrshot.SURVIVAL
    followed = {days: pl.Float64, censored: pl.Boolean}
    if {days, censored} & set(frame.columns) == {days}:
        raise InputError(f"{path} has {days} but no column {censored!r}; say of each whether it was censored.")
    chosen += [_converted(frame[name], dtype, path) for name, dtype in followed.items() if name in frame.columns]
    return pl.DataFrame(chosen)


def _converted(column: pl.Series, dtype: pl.DataType, path: Path) -> pl.Series:
    name = column.name
    try:
        if dtype == pl.Datetime("us"):
            return ehrshot.times(column, path)
        if dtype == pl.Boolean and column.dtype == pl.String:
            read = ehrshot.booleans(column)
            if wrong := read.null_count() - column.null_count():
                raise InputError(f"{path} has {wrong} values in {name!r} that are not True or False.")
            return read
        if dtype == pl.Int64 and column.dtype.is_float() and not (column.drop_nulls() % 1 == 0).all():
            raise InputError(f"{path}: column {name!r} holds numbers that are not whole.")
        if dtype == pl.Boolean and column.dtype.is_numeric() and not column.drop_nulls().is_in([0, 1]).all():
            raise InputError(f"{path}: column {name!r} holds other numbers than 0 and 1.")
        return column.cast(dtype, strict=True)
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{path}: column {name!r} cannot be read as {dtype}.") from error


def _one_value(frame: pl.DataFrame, path: Path) -> str:
    """The one value column; every label must have a value there."""
    present = [name for name in VALUES if name in frame.columns]
    if not present:
        raise InputError(f"{path} has no value column; MEDS names them {', '.join(VALUES)}.")
    if len(present) > 1:
        raise InputError(f"{path} has values in {' and in '.join(present)}; a task has one kind of label.")
    numbers = [name for name in ("float_value", ehrshot.SURVIVAL[0]) if name in frame.columns]
    for name in [present[0], *(name for name in ehrshot.SURVIVAL if name in frame.columns)]:
        if missing := frame[name].null_count():
            raise InputError(f"{path} has {missing} labels without a value in {name}; each label needs one.")
    for name in numbers:
        wrong = frame.filter(~pl.col(name).cast(pl.Float32).is_finite())  # as they are trained on
        if len(wrong):
            raise InputError(
                f"{path} has {len(wrong)} labels whose {name} is not a finite number (the first: subject "
                f"{wrong['subject_id'][0]} at {wrong['prediction_time'][0]}); leave them out."
            )
    if ehrshot.SURVIVAL[0] in frame.columns and (below := int((frame[ehrshot.SURVIVAL[0]] < 0).sum())):
        raise InputError(
            f"{path} has {below} labels with {ehrshot.SURVIVAL[0]} below 0; times count from the label on."
        )
    return present[0]
