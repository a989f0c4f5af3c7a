"""Label files that a source brings along, written piece by piece in the MEDS label schema.

They lie beside the events as `labels/TASK/labels.parquet`; MEDS looks for events under `data` and for metadata under
`metadata` only, so the dataset stays valid. Schema: https://github.com/Medical-Event-Data-Standard/meds (LabelSchema:
closed, a column that is there holds no nulls).
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import TracebackType

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ehrjax.core import files
from ehrjax.core.errors import InputError

VALUE_TYPES = {
    "boolean_value": pa.bool_(),
    "integer_value": pa.int64(),
    "float_value": pa.float32(),
    "categorical_value": pa.string(),
}


def check_task(name: str) -> str:
    """The name of a task, which becomes a folder below `labels`.

    Raises:
      InputError: it is empty or would lead elsewhere.
    """
    parts = name.split("/")
    if not all(part and not part.startswith(".") and part == part.strip() for part in parts) or "\\" in name:
        raise InputError(f"The task name {name!r} cannot be a folder's name; use letters, digits, - and _.")
    return name


class LabelFile:
    """A label file under way; use it as a context manager.

    Attributes:
      rows: raw rows offered.
      labels: labels written; rows == labels + the sum of set_aside.
      set_aside: reason -> raw rows that gave no label.
    """

    def __init__(self, folder: Path, task: str, value: str) -> None:
        """Starts `folder/labels/TASK/labels.parquet` with the value column `value`, a key of VALUE_TYPES."""
        self.task, self.value = check_task(task), value
        self.rows, self.labels, self.set_aside = 0, 0, Counter[str]()
        self._path = folder / "labels" / task / "labels.parquet"
        self._schema = pa.schema(
            [
                pa.field("subject_id", pa.int64(), nullable=False),
                pa.field("prediction_time", pa.timestamp("us"), nullable=False),
                pa.field(value, VALUE_TYPES[value], nullable=False),
            ]
        )

    def __enter__(self) -> LabelFile:
        self._file = files.written_file(self._path)
        self._writer = pq.ParquetWriter(self._file.__enter__(), self._schema, compression="zstd")
        return self

    def add(self, frame: pl.DataFrame) -> None:
        """Writes the labels of some raw rows.

        Args:
          frame: subject_id, prediction_time, the value column, and `reason`, text: why a row gives no label, null
            where it gives one.
        """
        self.rows += len(frame)
        self.set_aside.update(frame["reason"].drop_nulls().to_list())
        kept = frame.filter(pl.col("reason").is_null()).select(self._schema.names)
        self.labels += len(kept)
        if len(kept):
            self._writer.write_table(kept.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(self._schema))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()
        self._file.__exit__(kind, error, trace)

    def as_dict(self) -> dict[str, object]:
        """Plain numbers for a summary."""
        aside = {reason: count for reason, count in sorted(self.set_aside.items()) if count}
        return {"rows": self.rows, "labels": self.labels, "rows_set_aside": aside, "value": self.value}
