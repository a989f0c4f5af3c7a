"""The reader of YAIB's hourly series: dyn.parquet, sta.parquet and outc.parquet become MEDS and a label file.

Format (https://github.com/rvandewater/YAIB): a subject is one stay in intensive care (`stay_id`); dyn has a row an hour
with a column a variable, sta one row a stay, outc the label of a stay or of each of its hours. Times are hours since
admission, so every stay begins on the pseudo-date 2000-01-01. The values of hour h are stamped h hours, the time on
YAIB's grid; a label of hour h has the same prediction time and so sees that row, as in YAIB.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from ehrjax.core import files
from ehrjax.core.codes import SEPARATOR
from ehrjax.core.errors import InputError
from ehrjax.ingest import parquet_pieces
from ehrjax.ingest.conversion import ByteProgress, Conversion, Progress
from ehrjax.ingest.label_files import LabelFile, check_task
from ehrjax.ingest.meds import BIRTH, VISIT_COLUMN
from ehrjax.ingest.parquet_pieces import numbers, pieces, whole_numbers
from ehrjax.ingest.raw_tables import VISIT_FROM, Event, KeyIndex, Table, code, words

PIECE_ROWS = 50_000
# A value would take some sixty bytes as a row of text, and about one cell in five holds one.
CELL_BYTES = 12
ADMITTED = pl.datetime(2000, 1, 1, time_unit="us")
DAYS_PER_YEAR = 365.25
# Ten years: beyond it a time is a mistake.
MOST_HOURS = 24 * 3653
PSEUDO_DATES = {
    "good_for": "intervals",
    "why": "the source has hours since admission to intensive care: every stay begins on 2000-01-01, so intervals and "
    "ages are true and calendar dates mean nothing",
}
ROLES = {
    "icu_admission": ["ICU_ADMISSION$"],
    "lab": ["LAB//", "VITAL//"],
    "female": ["GENDER//Female$"],
    "male": ["GENDER//Male$"],
}
# Name -> (unit, description): the concepts of ricu (Bennett et al., GigaScience 2023), from which YAIB's cohorts come.
VITALS = {
    "dbp": ("mmHg", "Diastolic blood pressure"),
    "fio2": ("%", "Fraction of inspired oxygen"),
    "hr": ("bpm", "Heart rate"),
    "map": ("mmHg", "Mean arterial pressure"),
    "o2sat": ("%", "Oxygen saturation"),
    "resp": ("insp/min", "Respiratory rate"),
    "sbp": ("mmHg", "Systolic blood pressure"),
    "temp": ("C", "Temperature"),
}
OUTPUTS = {"urine": ("mL", "Urine output")}
LABS = {
    "alb": ("g/dL", "Albumin"),
    "alp": ("IU/L", "Alkaline phosphatase"),
    "alt": ("IU/L", "Alanine aminotransferase"),
    "ast": ("IU/L", "Aspartate aminotransferase"),
    "be": ("mEq/L", "Base excess"),
    "bicar": ("mEq/L", "Bicarbonate"),
    "bili": ("mg/dL", "Total bilirubin"),
    "bili_dir": ("mg/dL", "Direct bilirubin"),
    "bnd": ("%", "Band form neutrophils"),
    "bun": ("mg/dL", "Blood urea nitrogen"),
    "ca": ("mg/dL", "Calcium"),
    "cai": ("mmol/L", "Ionised calcium"),
    "ck": ("IU/L", "Creatine kinase"),
    "ckmb": ("ng/mL", "Creatine kinase MB"),
    "cl": ("mEq/L", "Chloride"),
    "crea": ("mg/dL", "Creatinine"),
    "crp": ("mg/L", "C-reactive protein"),
    "fgn": ("mg/dL", "Fibrinogen"),
    "glu": ("mg/dL", "Glucose"),
    "hgb": ("g/dL", "Haemoglobin"),
    "inr_pt": ("1", "International normalised ratio"),
    "k": ("mEq/L", "Potassium"),
    "lact": ("mmol/L", "Lactate"),
    "lymph": ("%", "Lymphocytes"),
    "mch": ("pg", "Mean cell haemoglobin"),
    "mchc": ("%", "Mean cell haemoglobin concentration"),
    "mcv": ("fL", "Mean cell volume"),
    "methb": ("%", "Methaemoglobin"),
    "mg": ("mg/dL", "Magnesium"),
    "na": ("mEq/L", "Sodium"),
    "neut": ("%", "Neutrophils"),
    "pco2": ("mmHg", "Partial pressure of carbon dioxide"),
    "ph": ("1", "pH of blood"),
    "phos": ("mg/dL", "Phosphate"),
    "plt": ("K/uL", "Platelet count"),
    "po2": ("mmHg", "Partial pressure of oxygen"),
    "ptt": ("s", "Partial thromboplastin time"),
    "tnt": ("ng/mL", "Troponin T"),
    "wbc": ("K/uL", "White blood cell count"),
}
VARIABLES = {
    name: (family, unit, text)
    for family, group in (("LAB", LABS), ("VITAL", VITALS), ("OUTPUT", OUTPUTS))
    for name, (unit, text) in group.items()
}
STATIC = {"age": ("years", 0, 130), "height": ("cm", 1, 300), "weight": ("kg", 0.1, 700)}

_NO_STAY = ("no stay_id", pl.col("subject_id").is_null())
_NOT_IN_STA = ("stay_id not in sta", ~pl.col("known"))
_NO_TIME = ("no time", pl.col("time").is_null())
_FAR = ("time more than ten years from admission", pl.col("hours").abs() > MOST_HOURS)

STA = Table(
    "sta",
    "",
    {},
    (
        Event(code("GENDER", words("sex")), None),
        *(
            Event(pl.when(pl.col(name).is_not_null()).then(code(name.upper(), pl.lit(unit))), None, pl.col(name))
            for name, (unit, _, _) in STATIC.items()
        ),
        Event(pl.when(pl.col("age").is_not_null()).then(pl.lit(BIRTH)), pl.col("birth"), rank=0),
        Event(pl.lit("ICU_ADMISSION"), ADMITTED),
    ),
    1,
    "age, sex, height and weight at admission are static; birth is the age before admission; the stay begins at hour 0",
    (_NO_STAY, ("stay_id stands in an earlier row", pl.col("again"))),
    required=True,
)


@dataclass(frozen=True)
class Settings:
    """Options.

    Attributes:
      task: the name of the label file's folder below `labels`.
      prediction_hour: when a label without a time is asked for, in hours since admission.
    """

    task: str = "outcome"
    prediction_hour: int = 24


def read(
    input: str | Path, output: str | Path, settings: Settings = Settings(), *, progress: Progress | None = None
) -> dict[str, object]:
    """Converts a folder with dyn.parquet, sta.parquet and outc.parquet to MEDS.

    Args:
      input: the folder.
      output: the MEDS folder to write; it must not exist or be empty.
      settings: options.
      progress: called as progress(stage, bytes done, bytes in all).

    Returns:
      The summary of `Conversion.finish`, with `labels` and `implausible_values`.

    Raises:
      InputError: something in the input cannot be used; nothing is written.
    """
    input = Path(input)
    check_task(settings.task)
    if abs(settings.prediction_hour) > MOST_HOURS:
        raise InputError(f"--prediction-hour={settings.prediction_hour} is more than ten years from admission.")
    files.refuse_existing(output, what="MEDS dataset")
    paths = {name: input / f"{name}.parquet" for name in ("sta", "dyn", "outc")}
    for path in paths.values():
        if not path.is_file():
            raise InputError(f"{path} is missing; name the folder that holds dyn, sta and outc.parquet.")
    variables = _variables(paths["dyn"])
    parquet_pieces.check_columns(paths["outc"], ("stay_id", "label"))
    dyn = _dyn(variables)
    report = ByteProgress(progress, sum(path.stat().st_size for path in paths.values()))
    with files.written_folder(output, what="MEDS dataset") as folder:
        conversion = Conversion(
            folder,
            [STA, dyn],
            source="yaib",
            dataset_name="YAIB cohort",
            dataset_version="dyn, sta, outc",
            text_bytes=parquet_pieces.num_rows(paths["dyn"]) * len(variables) * CELL_BYTES,
        )
        sta, implausible = _sta(paths["sta"])
        conversion.add(sta, STA)
        stays = KeyIndex(sta["subject_id"].drop_nulls())
        report.finished("sta", paths["sta"].stat().st_size)
        columns = ("stay_id", "time", *variables)
        for piece in pieces(paths["dyn"], columns, rows=PIECE_ROWS, on_bytes=report.during("dyn")):
            piece = piece.with_columns(numbers(piece[name], paths["dyn"]) for name in variables)
            conversion.add(_known(piece, stays, paths["dyn"]), dyn)
        report.finished("dyn", paths["dyn"].stat().st_size)
        labels = _labels(folder, paths["outc"], stays, settings)
        report.finished("outc", paths["outc"].stat().st_size)
        return conversion.finish(
            lambda codes: describe(codes),
            summary={"labels": {settings.task: labels.as_dict()}, "implausible_values": implausible},
            extra={"pseudo_dates": PSEUDO_DATES, "roles": ROLES},
        )


def _variables(path: Path) -> list[str]:
    there = parquet_pieces.check_columns(path, ("stay_id", "time"))
    variables = [name for name in there if name not in ("stay_id", "time")]
    if not 0 < len(variables) <= 255:
        raise InputError(f"{path} has {len(variables)} variables; 1 to 255 can be read.")
    return sorted(variables)


def _code(name: str) -> str:
    family, unit, _ = VARIABLES.get(name, ("VARIABLE", "UNK", ""))
    return SEPARATOR.join((family, " ".join(name.split()).replace(SEPARATOR, "/"), unit))


def _dyn(variables: list[str]) -> Table:
    return Table(
        "dyn",
        "",
        {},
        tuple(
            Event(pl.when(pl.col(name).is_not_null()).then(pl.lit(_code(name))), pl.col("at"), pl.col(name))
            for name in variables
        ),
        20,
        "at its hour on YAIB's grid",
        (_NO_STAY, _NOT_IN_STA, _NO_TIME, _FAR),
        required=True,
    )


def _sta(path: Path) -> tuple[pl.DataFrame, dict[str, int]]:
    """The table of stays, in memory, and how many values were too far off to keep."""
    names = ("stay_id", "age", "sex", "height", "weight")
    parquet_pieces.check_columns(path, names)
    frames = list(pieces(path, names, rows=PIECE_ROWS))
    if not frames:
        raise InputError(f"{path} has no rows; copy it again.")
    frame = pl.concat(frames)
    if frame["sex"].dtype not in (pl.String, pl.Categorical, pl.Null):
        raise InputError(f"{path}: the column 'sex' holds {frame['sex'].dtype}, which is not text.")
    frame = frame.with_columns(
        whole_numbers(frame["stay_id"], path).alias("subject_id"),
        frame["sex"].cast(pl.String),
        *(numbers(frame[name], path) for name in STATIC),
    )
    implausible = {
        name: int((~frame[name].is_between(low, high)).sum() or 0)
        for name, (_, low, high) in STATIC.items()
        if not frame[name].is_between(low, high).all()
    }
    frame = frame.with_columns(
        pl.when(pl.col(name).is_between(low, high)).then(pl.col(name)) for name, (_, low, high) in STATIC.items()
    )
    return frame.with_columns(
        pl.col("subject_id").alias(VISIT_COLUMN),
        ADMITTED.alias(VISIT_FROM),
        (pl.col("subject_id").is_not_null() & ~pl.col("subject_id").is_first_distinct()).alias("again"),
        # In whole minutes: a duration of a fraction of a day is not exact.
        (ADMITTED - pl.duration(minutes=(pl.col("age") * DAYS_PER_YEAR * 1440).round().cast(pl.Int64))).alias("birth"),
    ), implausible


def _known(piece: pl.DataFrame, stays: KeyIndex, path: Path) -> pl.DataFrame:
    """Adds subject_id, whether sta has it, the hours since admission and the pseudo-time `at`."""
    stay = whole_numbers(piece["stay_id"], path)
    time = piece["time"]
    if isinstance(time.dtype, pl.Duration):
        hours = time.dt.total_microseconds() / 3.6e9
    else:
        hours = numbers(time, path)
    hours = hours.alias("hours")
    near = pl.when(pl.col("hours").abs() <= MOST_HOURS).then(pl.col("hours"))
    return piece.with_columns(
        stay.alias("subject_id"),
        pl.Series("known", stays.positions(stay) >= 0),
        hours,
        stay.alias(VISIT_COLUMN),
        ADMITTED.alias(VISIT_FROM),
    ).with_columns((ADMITTED + pl.duration(microseconds=(near * 3.6e9).round().cast(pl.Int64))).alias("at"))


def _labels(folder: Path, path: Path, stays: KeyIndex, settings: Settings) -> LabelFile:
    """Writes the label file: one label a row of outc."""
    value = _value_column(path)
    timed = "time" in parquet_pieces.columns_of(path)
    with LabelFile(folder, settings.task, value) as labels:
        for piece in pieces(path, ("stay_id", *(("time",) if timed else ()), "label"), rows=PIECE_ROWS):
            if not timed:
                piece = piece.with_columns(pl.lit(float(settings.prediction_hour)).alias("time"))
            piece = _known(piece.with_columns(numbers(piece["label"], path)), stays, path)
            reasons = (_NO_STAY, _NOT_IN_STA, _NO_TIME, _FAR, ("no label", pl.col("label").is_null()))
            reason = pl.coalesce(*(pl.when(condition).then(pl.lit(name)) for name, condition in reasons))
            labels.add(
                piece.select(
                    "subject_id",
                    pl.col("at").alias("prediction_time"),
                    (pl.col("label") == 1 if value == "boolean_value" else pl.col("label")).alias(value),
                    reason.alias("reason"),
                )
            )
    return labels


def _value_column(path: Path) -> str:
    """What kind of label it is: boolean where all are 0 or 1, whole numbers by their type, else numbers."""
    binary, whole = True, True
    for piece in pieces(path, ("label",), rows=PIECE_ROWS):
        label = piece["label"]
        whole = whole and (label.dtype.is_integer() or label.dtype == pl.Boolean)
        binary = binary and bool(numbers(label, path).drop_nulls().is_in([0.0, 1.0]).all())
    return "boolean_value" if binary else "integer_value" if whole else "float_value"


def describe(codes: Iterable[str]) -> dict[str, str]:
    """A description for every code."""
    return {name: _sentence(name) for name in codes}


def _sentence(name: str) -> str:
    family, *rest = name.split(SEPARATOR)
    if family in ("LAB", "VITAL", "OUTPUT"):
        return f"{VARIABLES[rest[0]][2]} ({rest[1]})"
    if family == "VARIABLE":
        return f"Hourly variable {rest[0]}"
    return {
        "GENDER": f"Sex: {rest[0] if rest else ''}",
        "AGE": "Age at admission in years",
        "HEIGHT": "Height in cm",
        "WEIGHT": "Weight in kg",
        "ICU_ADMISSION": "Admitted to intensive care",
        BIRTH: "Birth, on a pseudo-date",
    }[family]
