"""Files of predictions: the MEDS prediction schema for yes or no, and extensions of it for other kinds of labels.

Every file has `subject_id` int64 and `prediction_time` timestamp[us]; one row a label. By the kind of the labels:

yes_no   boolean_value, predicted_boolean_value (at the threshold), predicted_boolean_probability float32: exactly the
         schema that the package meds-evaluation reads
classes  categorical_value string, predicted_categorical_value string, predicted_probabilities list<float32>
codes    label_codes list<string>, predicted_probabilities list<float32>
number   float_value float32, predicted_float_value float32
time     event_time_days float32, censored bool, predicted_risk float32 (more is earlier), predicted_survival
         list<float32>: the probability of no event by each of `edges_days`

What the lists stand for is in the schema's metadata under the key `ehrjax`: {"kind": ..., "names": [...],
"edges_days": [...]}. Files of others may have float64 instead of float32; what they hold is judged as precisely.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ehrjax.core import files
from ehrjax.core.errors import InputError
from ehrjax.data.labelled import Target

KEYS = ("subject_id", "prediction_time")
METADATA = b"ehrjax"
PROBABILITY = "predicted_boolean_probability"
# What rounding may cost the sum of probabilities.
_SUM = 1e-3
# Squares of what is greater could be more than a number can say.
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Predictions:
    """What a model says of some labels.

    Attributes:
      target: the kind of the labels, and the names of classes or codes.
      keys: [N] subject_id int64, prediction_time datetime[us].
      truth: [N, K] float32, or float64 where a file has it so, as in the batch contract; None where it does not say.
      values: [N, outputs] of the same types: probabilities (yes_no, classes, codes), numbers, or of times the risk and
        behind it the survival by each edge.
      edges_days: of times.
    """

    target: Target
    keys: pl.DataFrame
    truth: np.ndarray | None
    values: np.ndarray
    edges_days: tuple[float, ...] = ()

    def __len__(self) -> int:
        return len(self.keys)


def as_table(made: Predictions, threshold: float = 0.5) -> pa.Table:
    """The columns of a file of predictions with its truth; `threshold` from which on a probability says yes."""
    kind, truth, values = made.target.kind, made.truth, np.asarray(made.values, np.float32)
    keys = made.keys.select(pl.col("subject_id").cast(pl.Int64), pl.col("prediction_time").cast(pl.Datetime("us")))
    columns: dict[str, pa.Array] = {name: keys[name].to_arrow() for name in KEYS}
    if kind == "yes_no":
        columns["boolean_value"] = pa.array(truth[:, 0] > 0)
        columns["predicted_boolean_value"] = pa.array(values[:, 0] >= np.float32(threshold))
        columns[PROBABILITY] = pa.array(values[:, 0])
    elif kind == "classes":
        names = np.array(made.target.names)
        columns["categorical_value"] = pa.array(names[truth[:, 0].astype(np.int64)])
        columns["predicted_categorical_value"] = pa.array(names[values.argmax(axis=1)])
        columns["predicted_probabilities"] = _lists(values)
    elif kind == "codes":
        names = np.array(made.target.names)
        columns["label_codes"] = pa.array([names[row > 0].tolist() for row in truth], pa.list_(pa.string()))
        columns["predicted_probabilities"] = _lists(values)
    elif kind == "number":
        columns["float_value"] = pa.array(truth[:, 0].astype(np.float32))
        columns["predicted_float_value"] = pa.array(values[:, 0])
    else:
        columns["event_time_days"] = pa.array(truth[:, 0].astype(np.float32))
        columns["censored"] = pa.array(truth[:, 1] == 0)
        columns["predicted_risk"] = pa.array(values[:, 0])
        columns["predicted_survival"] = _lists(values[:, 1:])
    table = pa.table(columns)
    if kind == "yes_no":  # the schema is closed: nothing beside its columns
        return table
    told = {"kind": kind, "names": list(made.target.names), "edges_days": list(made.edges_days)}
    return table.replace_schema_metadata({METADATA: json.dumps(told).encode()})


def _lists(values: np.ndarray) -> pa.Array:
    offsets = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.ascontiguousarray(values).ravel()))


def write(path: str | Path, made: Predictions, threshold: float = 0.5) -> None:
    """Writes a file of predictions, atomically."""
    with files.written_file(path) as temporary:
        pq.write_table(as_table(made, threshold), temporary, compression="zstd")


def read(path: str | Path) -> Predictions:
    """Reads a file of predictions, ours or anybody's (parquet, or CSV with the columns of yes or no).

    Raises:
      InputError: there is no such file, it is damaged, a column is missing or has an impossible type, two rows are
        about one subject and time, a prediction is missing, not finite or no probability, survival rises, or a truth is
        impossible.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"The predictions {path} do not exist.")
    try:
        if path.suffix.lower() == ".csv":
            # The type of a column that is 0 and 1 for long may show at its end.
            table = pl.read_csv(path, try_parse_dates=True, infer_schema_length=None).to_arrow()
        else:
            table = pq.ParquetFile(path).read()
        # Polars has no use for metadata, and takes none that is not text.
        frame = pl.DataFrame(pl.from_arrow(table.replace_schema_metadata(None)))
    except (OSError, pa.ArrowException, pl.exceptions.PolarsError) as error:
        raise InputError(f"{path} cannot be read as {path.suffix.lstrip('.') or 'parquet'}; write it again.") from error
    if not len(frame):
        raise InputError(f"{path} holds no predictions; write it again.")
    target, edges = _told(table, path)
    keys = _keys(frame, path)
    if target.kind == "yes_no":
        _need(frame, [PROBABILITY], path)
        values = _numbers(frame, PROBABILITY, path)[:, None]
        _check_probabilities(values, keys, path, PROBABILITY)
        truth = _truth(frame, "boolean_value", path, is_answer=True)
    elif target.kind in ("classes", "codes"):
        _need(frame, ["predicted_probabilities"], path)
        values = _listed(frame, "predicted_probabilities", len(target.names), path)
        _check_probabilities(values, keys, path, "predicted_probabilities")
        if target.kind == "classes":
            _check_sums(values, keys, path)
        truth = _named(frame, target, path)
    elif target.kind == "number":
        _need(frame, ["predicted_float_value"], path)
        values = _numbers(frame, "predicted_float_value", path)[:, None]
        truth = _truth(frame, "float_value", path)
    else:
        _need(frame, ["predicted_risk"], path)
        values = _numbers(frame, "predicted_risk", path)[:, None]
        if edges:
            _need(frame, ["predicted_survival"], path)
            survival = _listed(frame, "predicted_survival", len(edges), path)
            _check_probabilities(survival, keys, path, "predicted_survival")
            _check_falling(survival, keys, path)
            values = np.concatenate([values, survival], axis=1)
        truth = _followed(frame, path)
    return Predictions(target, keys, truth, values, edges)


def _told(table: pa.Table, path: Path) -> tuple[Target, tuple[float, ...]]:
    """What the metadata says of the kind; without it the columns decide."""
    metadata = (table.schema.metadata or {}).get(METADATA)
    if metadata is None:
        if "predicted_float_value" in table.column_names:
            return Target("number"), ()
        if "predicted_risk" in table.column_names:
            return Target("time"), ()
        return Target("yes_no"), ()
    try:
        told = json.loads(metadata)
        target, edges = Target(told["kind"], tuple(told["names"])), tuple(float(e) for e in told["edges_days"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} has metadata that cannot be read; write it again.") from error
    if not all(np.isfinite(edges)) or any(b <= a for a, b in zip((0.0, *edges), edges)):
        raise InputError(f"{path} has edges_days of {', '.join(map(str, edges))}; they must be days above 0 that rise.")
    return target, edges


def _need(frame: pl.DataFrame, names: list[str], path: Path) -> None:
    for name in names:
        if name not in frame.columns:
            raise InputError(f"{path} has no column {name!r}; it has {', '.join(frame.columns)}.")


def _keys(frame: pl.DataFrame, path: Path) -> pl.DataFrame:
    _need(frame, list(KEYS), path)
    try:
        keys = frame.select(pl.col("subject_id").cast(pl.Int64), _times(frame["prediction_time"]))
        if frame["subject_id"].dtype.is_float() and (frame["subject_id"].drop_nulls() % 1 != 0).any():
            raise InputError(f"{path}: column 'subject_id' holds numbers that are not whole.")
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{path}: subject_id must be whole numbers and prediction_time timestamps.") from error
    for name in KEYS:
        if missing := keys[name].null_count():
            raise InputError(f"{path} has {missing} rows without {name}; each prediction needs one.")
    if keys.is_duplicated().any():
        first = keys.filter(keys.is_duplicated()).row(0)
        raise InputError(
            f"{path} has two predictions of subject {first[0]} at {first[1]}; keep one of each subject and time."
        )
    return keys


def _times(column: pl.Series) -> pl.Series:
    """Timestamps; text is parsed, and a time zone leads to UTC, as MEDS has it."""
    if column.dtype == pl.String:
        column = column.str.to_datetime(time_unit="us")
    return column.cast(pl.Datetime("us")).alias("prediction_time")


def _numbers(frame: pl.DataFrame, name: str, path: Path) -> np.ndarray:
    """[N] float32 where the column is so, else float64; finite, as float32 too."""
    given = frame[name].dtype
    try:
        if given.is_nested():
            raise InputError(f"{path}: column {name!r} holds no numbers.")
        column = frame[name].cast(pl.Float32 if given == pl.Float32 else pl.Float64)
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{path}: column {name!r} holds no numbers.") from error
    bad = column.is_null() | ~column.is_between(-_LARGEST, _LARGEST).fill_null(False)
    if bad.any():
        row = int(np.flatnonzero(bad.to_numpy())[0])
        raise InputError(
            f"{path}: {name} is missing or not a finite number in {int(bad.sum())} rows (the first is row {row + 1}); "
            "each label needs a prediction."
        )
    return column.to_numpy()


def _listed(frame: pl.DataFrame, name: str, size: int, path: Path) -> np.ndarray:
    """[N, size] float32 or float64."""
    column = frame[name].arr.to_list() if isinstance(frame[name].dtype, pl.Array) else frame[name]
    if not isinstance(column.dtype, pl.List) or (column.list.len() != size).any() or column.null_count():
        raise InputError(f"{path}: each list of {name!r} must hold {size} numbers, as the file's metadata says.")
    flat = _numbers(column.explode().alias(name).to_frame(), name, path) if len(column) else np.zeros(0, np.float32)
    return flat.reshape(len(column), size)


def _check_probabilities(values: np.ndarray, keys: pl.DataFrame, path: Path, name: str) -> None:
    bad = ((values < 0) | (values > 1)).any(axis=1)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise InputError(
            f"{path}: {name} lies outside 0..1 in {int(bad.sum())} rows (the first is row {row + 1}, subject "
            f"{keys['subject_id'][row]}); scores must be turned into probabilities first."
        )


def _check_sums(values: np.ndarray, keys: pl.DataFrame, path: Path) -> None:
    """Probabilities of classes that exclude each other add up to 1; others would be judged too well."""
    bad = np.abs(values.sum(axis=1, dtype=np.float64) - 1) > _SUM
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise InputError(
            f"{path}: predicted_probabilities do not add up to 1 in {int(bad.sum())} rows (the first is row {row + 1}, "
            f"subject {keys['subject_id'][row]}); divide them by their sum."
        )


def _check_falling(survival: np.ndarray, keys: pl.DataFrame, path: Path) -> None:
    """Who is free of the event later was so before; one step of float32 up is rounding."""
    bad = (np.diff(survival, axis=1) > np.finfo(np.float32).eps).any(axis=1)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise InputError(
            f"{path}: predicted_survival rises in {int(bad.sum())} rows (the first is row {row + 1}, subject "
            f"{keys['subject_id'][row]}); it is the chance of no event until each of edges_days."
        )


def _truth(frame: pl.DataFrame, name: str, path: Path, *, is_answer: bool = False) -> np.ndarray | None:
    """[N, 1] float32 or float64, None without the column; an answer is 0 or 1."""
    if name not in frame.columns or frame[name].null_count() == len(frame):
        return None
    values = _numbers(frame, name, path)
    bad = ~np.isin(values, (0, 1)) if is_answer else np.zeros(len(values), bool)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise InputError(f"{path}: {name} is {values[row]:g} in row {row + 1}; it must be true or false (1 or 0).")
    return values[:, None]


def _followed(frame: pl.DataFrame, path: Path) -> np.ndarray | None:
    """[N, 2] days to the event or to censoring, and 1 for an event; None where the file does not say both."""
    days, censored = _truth(frame, "event_time_days", path), _truth(frame, "censored", path, is_answer=True)
    if days is None or censored is None:
        return None
    if (days < 0).any():
        row = int(np.flatnonzero(days[:, 0] < 0)[0])
        raise InputError(f"{path}: event_time_days is {days[row, 0]:g} in row {row + 1}; it must not be negative.")
    return np.concatenate([days, 1 - censored], axis=1)


def _named(frame: pl.DataFrame, target: Target, path: Path) -> np.ndarray | None:
    """[N, K] float32 of the named classes or codes."""
    index = {name: i for i, name in enumerate(target.names)}
    if target.kind == "classes":
        if "categorical_value" not in frame.columns or frame["categorical_value"].null_count() == len(frame):
            return None
        places = [index.get(name, -1) for name in frame["categorical_value"].to_list()]
        if min(places, default=0) < 0:
            row = places.index(-1)
            raise InputError(f"{path}: row {row + 1} has a class that the file's metadata does not name.")
        return np.array(places, np.float32)[:, None]
    if "label_codes" not in frame.columns:
        return None
    if frame["label_codes"].dtype != pl.List(pl.String):
        raise InputError(f"{path}: column 'label_codes' must hold lists of codes (text).")
    values = np.zeros((len(frame), len(index)), np.float32)
    for row, codes in enumerate(frame["label_codes"].to_list()):
        for code in codes or ():
            if code in index:
                values[row, index[code]] = 1.0
    return values
