"""EHRSHOT's label files: benchmark/<task>/labeled_patients.csv (Wornow et al. 2023).

Columns, in an order that has varied: patient_id, prediction_time (ISO, to the minute), label_type (boolean,
categorical, numeric, survival), value, and for survival is_censored; a survival time is in minutes.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from ehrjax.core.errors import InputError

FILE = "labeled_patients.csv"
TYPES = {
    "boolean": "boolean_value",
    "categorical": "integer_value",
    "numeric": "float_value",
    "survival": "boolean_value",
}
SURVIVAL = ("event_time_days", "censored")
MINUTES_A_DAY = 1440.0
# The findings of CheXpert (Irvin et al. 2019) in EHRSHOT's order.
CHEXPERT = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Lesion",
    "Lung Opacity",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
_TIMES = ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M")
_TRUE, _FALSE = ("true", "1", "1.0"), ("false", "0", "0.0")


def is_ehrshot(frame: pl.DataFrame) -> bool:
    """Whether a table has EHRSHOT's columns."""
    return {"label_type", "value"} <= set(frame.columns)


def conform(frame: pl.DataFrame, path: Path) -> pl.DataFrame:
    """EHRSHOT's table in the names of MEDS; survival becomes event_time_days, censored, and a boolean (event seen).

    Args:
      frame: all columns as text.
      path: where it comes from, for messages.

    Raises:
      InputError: a column is missing, the label types are unknown or mixed, or a value is not of its type.
    """
    for name in ("patient_id", "prediction_time"):
        if name not in frame.columns:
            raise InputError(f"{path} has no column {name!r}; EHRSHOT's label files have one.")
    kinds = frame["label_type"].drop_nulls().unique().sort().to_list()
    if len(frame) and (len(kinds) != 1 or frame["label_type"].null_count() or kinds[0] not in TYPES):
        raise InputError(
            f"{path} has the label types {', '.join(kinds) or 'none'}; one of {', '.join(TYPES)} is needed."
        )
    kind = kinds[0] if kinds else "boolean"
    keys = frame.select(pl.col("patient_id").alias("subject_id"), "prediction_time")
    value = frame["value"].cast(pl.String)
    if kind == "boolean":
        column = booleans(value)
    else:
        column = value.cast(pl.Float64, strict=False)
    wrong = int((column.is_null() | (column.is_nan() if column.dtype.is_float() else False)).sum())
    if wrong:
        raise InputError(f"{path} has {wrong} values that are not {kind}; copy the file again.")
    if kind != "survival":
        return keys.with_columns(column.alias(TYPES[kind]))
    if "is_censored" not in frame.columns:
        raise InputError(f"{path} has survival labels but no column 'is_censored'.")
    censored = booleans(frame["is_censored"].cast(pl.String))
    if censored.null_count():
        raise InputError(f"{path} has {censored.null_count()} values in is_censored that are not True or False.")
    return keys.with_columns(
        (~censored).alias("boolean_value"), (column / MINUTES_A_DAY).alias(SURVIVAL[0]), censored.alias(SURVIVAL[1])
    )


def booleans(column: pl.Series) -> pl.Series:
    """True and False (also 1 and 0) from text; null for anything else."""
    text = column.str.strip_chars().str.to_lowercase()
    frame = pl.DataFrame({"text": text})
    true, false = pl.col("text").is_in(_TRUE), pl.col("text").is_in(_FALSE)
    return frame.select(pl.when(true).then(True).when(false).then(False).alias(column.name)).to_series()


def times(column: pl.Series, path: Path) -> pl.Series:
    """Prediction times as datetime[us] from text, dates or timestamps of any unit.

    Raises:
      InputError: some cannot be read, or they carry a time zone, which MEDS times do not.
    """
    if column.dtype == pl.String:
        frame = pl.DataFrame({"text": column})
        tries = [pl.col("text").str.to_datetime(form, time_unit="us", strict=False) for form in _TIMES]
        tries.append(pl.col("text").str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us")))
        read = frame.select(pl.coalesce(*tries).alias(column.name)).to_series()
        if wrong := read.null_count() - column.null_count():
            raise InputError(f"{path} has {wrong} times in {column.name!r} that are not like 2019-07-23 18:00:00.")
        return read
    if isinstance(column.dtype, pl.Datetime) and column.dtype.time_zone:
        raise InputError(f"{path}: column {column.name!r} has a time zone; MEDS times have none, so remove it.")
    return column.cast(pl.Datetime("us"), strict=True)


def decode(frame: pl.DataFrame, value: str, how: str, path: Path) -> tuple[pl.DataFrame, str]:
    """What whole numbers mean (`reading.read_labels`): the frame with the decoded value, and its column."""
    if value != "integer_value":
        raise InputError(f"{path} has no whole numbers to decode as {how}, but {value}.")
    if how == "at_least_one":
        return frame.rename({value: "boolean_value"}).with_columns(pl.col("boolean_value") >= 1), "boolean_value"
    number = pl.col(value)
    if not frame.select(number.is_between(0, 2 ** len(CHEXPERT) - 1).all()).item():
        raise InputError(f"{path} has numbers that are no set of the {len(CHEXPERT)} chexpert findings.")
    highest = len(CHEXPERT) - 1
    bits = [
        pl.when((number // 2 ** (highest - place)) % 2 == 1).then(pl.lit(name)) for place, name in enumerate(CHEXPERT)
    ]
    codes = pl.concat_list(bits).list.drop_nulls()
    return frame.with_columns(codes.alias("label_codes"), codes.list.len().cast(pl.Int64).alias(value)), value
