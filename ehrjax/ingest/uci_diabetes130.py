"""The reader of Diabetes 130-US hospitals 1999-2008 (UCI 296): diabetic_data.csv becomes MEDS and a label file.

The file has no dates; its stays are in order by `encounter_id`. So the times are pseudo-times: a patient's k-th stay
begins k x 100 days after 2000-01-01 and lasts time_in_hospital days. They say what came before what, nothing more.

`readmitted` tells the future, so it is no event: it becomes the label file `labels/readmission_30d/labels.parquet`
inside the MEDS folder (boolean_value: readmitted within 30 days; prediction_time: the discharge).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from ehrjax.core import files
from ehrjax.core.errors import InputError
from ehrjax.ingest import raw_files
from ehrjax.ingest import uci_diabetes130_tables as uci
from ehrjax.ingest.conversion import ByteProgress, Conversion, Progress, text_bytes
from ehrjax.ingest.label_files import LabelFile
from ehrjax.ingest.meds import VISIT_COLUMN, split_of
from ehrjax.ingest.raw_csv import ROW, Kind
from ehrjax.ingest.raw_tables import VISIT_FROM

TASK = "readmission_30d"
NAMES = ("diabetic_data", "diabetic_data.dev")
FIRST_ADMISSION = pl.datetime(2000, 1, 1, time_unit="us")
DAYS_APART = 100
FOLDS = 10
# A row of short fields is a table of events that is so many times larger.
WIDTH = 4
PSEUDO_DATES = {
    "good_for": "order",
    "why": "the source has no dates: a patient's stays, in order of encounter_id, begin 100 days apart from 2000-01-01 "
    "on and last time_in_hospital days",
}


@dataclass(frozen=True)
class Settings:
    """Options.

    Attributes:
      drop_expired: no label for a stay that ended in death or in hospice care (its events stay in the history).
      fold: which tenth of the patients is held out, 0 to 9, for cross-validation.
    """

    drop_expired: bool = False
    fold: int = 0


def read(
    input: str | Path, output: str | Path, settings: Settings = Settings(), *, progress: Progress | None = None
) -> dict[str, object]:
    """Converts the folder with diabetic_data.csv (and IDs_mapping.csv, if there) to MEDS.

    Args:
      input: the folder.
      output: the MEDS folder to write; it must not exist or be empty.
      settings: options.
      progress: called as progress(stage, bytes done, bytes in all).

    Returns:
      The summary of `Conversion.finish`, with `labels`: task -> rows = labels + sum(rows_set_aside).

    Raises:
      InputError: something in the input cannot be used; nothing is written.
    """
    input = Path(input)
    if not input.is_dir():
        raise InputError(f"The folder {input} does not exist; name the folder that holds diabetic_data.csv.")
    if not 0 <= settings.fold < FOLDS:
        raise InputError(f"--fold is {settings.fold}; it must be from 0 to {FOLDS - 1}.")
    files.refuse_existing(output, what="MEDS dataset")
    paths = [path for name in NAMES for path in raw_files.find_table(input, name)]
    if len(paths) != 1:
        found = f"holds {', '.join(path.name for path in paths)}; keep one of them" if paths else "is not there"
        raise InputError(f"{input / 'diabetic_data.csv'} (or .csv.gz, .csv.zst, .parquet) {found}.")
    path = paths[0]
    raw_files.check_columns(paths, uci.COLUMNS)
    report = ByteProgress(progress, 2 * path.stat().st_size)
    order = _Order(path, report)
    ids = _mapping(input)
    with files.written_folder(output, what="MEDS dataset") as folder:
        conversion = Conversion(
            folder,
            [uci.DIABETIC_DATA],
            source="uci-diabetes130",
            dataset_name="Diabetes 130-US hospitals 1999-2008",
            dataset_version="UCI 296",
            text_bytes=WIDTH * text_bytes(paths),
            splits=order.splits(settings.fold),
        )
        with LabelFile(folder, TASK, "boolean_value") as labels:
            batches = raw_files.read_batches(path, uci.COLUMNS, on_bytes=report.during("diabetic_data"))
            for batch in batches:
                frame = _timed(order.attach(batch))
                conversion.add(frame, uci.DIABETIC_DATA)
                labels.add(_labels(frame, settings))
        report.finished("diabetic_data", path.stat().st_size)
        return conversion.finish(
            lambda codes: uci.describe(codes, ids),
            summary={
                "absent_tables": [] if ids else ["IDs_mapping"],
                "labels": {TASK: labels.as_dict()},
            },
            extra={"pseudo_dates": PSEUDO_DATES, "roles": uci.ROLES},
        )


def _mapping(input: Path) -> dict[str, dict[str, str]]:
    path = next((p for p in sorted(input.iterdir()) if p.is_file() and p.name.lower() == "ids_mapping.csv"), None)
    return uci.read_ids(path)


class _Order:
    """Which stay of its patient a row is; only the two id columns of the table are held in memory."""

    def __init__(self, path: Path, report: ByteProgress) -> None:
        ids = {"patient_nbr": Kind.ID, "encounter_id": Kind.ID}
        batches = list(raw_files.read_batches(path, ids, on_bytes=report.during("order of the stays")))
        if not batches:
            raise InputError(f"{path} has a header but no rows; copy the table again.")
        rows = pl.concat(batches)
        usable = rows.drop_nulls().unique("encounter_id", keep="first", maintain_order=True)
        usable = usable.sort("patient_nbr", "encounter_id")
        number = usable.select(pl.int_range(pl.len()).over("patient_nbr"))
        self._patients = usable["patient_nbr"].unique(maintain_order=True)
        self._number = np.full(len(rows), -1, np.int64)
        self._number[usable[ROW].to_numpy()] = number.to_series().to_numpy()
        report.finished("order of the stays", path.stat().st_size)

    def splits(self, fold: int) -> pl.DataFrame:
        """subject_id and split of each patient."""
        split = split_of(self._patients.to_numpy(), fold=fold)
        return pl.DataFrame({"subject_id": self._patients.cast(pl.Int64), "split": split})

    def attach(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Adds `number`: 0 for a patient's first stay; -1 where the row has no ids or repeats a stay."""
        return frame.with_columns(pl.Series("number", self._number[frame[ROW].to_numpy()]))


def _timed(frame: pl.DataFrame) -> pl.DataFrame:
    """Adds subject, visit and pseudo-times; what stands for a missing value becomes null."""
    missing = [pl.when(~pl.col(c).is_in(uci.MISSING)).then(pl.col(c)).alias(c) for c in uci.TEXTS]
    frame = frame.with_columns(
        *missing,
        pl.col("patient_nbr").alias("subject_id"),
        pl.col("encounter_id").alias(VISIT_COLUMN),
        (pl.col("number") >= 0).alias(uci.SEEN),
        (pl.col("number") == 0).alias(uci.FIRST),
        (FIRST_ADMISSION + pl.duration(days=pl.col("number") * DAYS_APART)).alias(uci.ADMITTED),
    )
    stay = pl.when(pl.col("time_in_hospital").is_between(0, uci.LONGEST_STAY)).then(pl.col("time_in_hospital"))
    return frame.with_columns(
        pl.col(uci.ADMITTED).alias(VISIT_FROM), (pl.col(uci.ADMITTED) + pl.duration(days=stay)).alias(uci.DISCHARGED)
    )


def _labels(frame: pl.DataFrame, settings: Settings) -> pl.DataFrame:
    """One label a stay, or the reason why there is none."""
    gone = pl.lit(settings.drop_expired) & pl.col("discharge_disposition_id").is_in([*uci.EXPIRED, *uci.HOSPICE])
    reasons = (
        *uci.DIABETIC_DATA.set_aside,
        ("readmitted is not <30, >30 or NO", ~pl.col("readmitted").is_in(["<30", ">30", "NO"]).fill_null(False)),
        ("the stay ended in death or hospice care", gone.fill_null(False)),
    )
    reason = pl.coalesce(*(pl.when(condition).then(pl.lit(name)) for name, condition in reasons))
    return frame.select(
        "subject_id",
        pl.col(uci.DISCHARGED).alias("prediction_time"),
        (pl.col("readmitted") == "<30").alias("boolean_value"),
        reason.alias("reason"),
    )
