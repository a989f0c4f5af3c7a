"""The reader of Delphi's binary histories: train.bin and val.bin with labels.csv become MEDS.

Format (https://github.com/gerstung-lab/Delphi): triples of little-endian uint32 (patient, age in days, token); line
token + 2 of labels.csv names the token. An age is a time since birth, so every patient is born on the pseudo-date
1970-01-01: ages and intervals are true, calendar dates mean nothing. A fact of day d of life is stamped birth + d days.
Where there is a val.bin its patients are the tuning split, and those of train.bin the train split.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import polars as pl

from ehrjax.core import files
from ehrjax.core.codes import SEPARATOR
from ehrjax.core.errors import InputError
from ehrjax.ingest.conversion import ByteProgress, Conversion, Progress
from ehrjax.ingest.meds import BIRTH, DEATH, TRAIN, TUNING
from ehrjax.ingest.raw_csv import ROW
from ehrjax.ingest.raw_tables import Event, Table

PIECE_ROWS = 500_000
ROW_BYTES = 12
# An event is about so many times larger as text than its twelve bytes.
TEXT_RATIO = 5
MAX_AGE_DAYS = 47_482
BORN = pl.datetime(1970, 1, 1, time_unit="us")
PSEUDO_DATES = {
    "good_for": "intervals",
    "why": "the source has ages in days: every subject is born on 1970-01-01, so ages and intervals are true and "
    "calendar dates mean nothing",
}
ROLES = {"diagnosis": ["DIAGNOSIS//"], "female": ["GENDER//Female$"], "male": ["GENDER//Male$"]}
_DEATH_RANK = 99
_NOTHING = ("Padding", "No event")


def code_of(label: str) -> str | None:
    """The code of a name in labels.csv; None where it stands for no event.

    >>> code_of("I10 (essential (primary) hypertension)")
    'DIAGNOSIS//ICD10//I10'
    """
    if not label or label in _NOTHING:
        return None
    if label in ("Female", "Male"):
        return f"GENDER//{label}"
    if label == "Death":
        return DEATH
    if level := re.fullmatch(r"([A-Za-z]+)_(low|mid|high)", label):
        return f"{level[1]}//{level[2]}"
    if icd := re.match(r"([A-Z][0-9]{2})\b", label):
        return f"DIAGNOSIS//ICD10//{icd[1]}"
    return "DELPHI//" + re.sub("/{2,}", "/", " ".join(label.split()))


def read_labels(path: Path) -> list[str]:
    """The names of labels.csv, one a line.

    Raises:
      InputError: the file is missing, is not UTF-8 text, or does not begin as Delphi's do, so that all names would be
        shifted.
    """
    if not path.is_file():
        raise InputError(f"{path} is missing; it says what the tokens mean.")
    try:
        names = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text; copy it again.") from error
    names = [" ".join(name.strip().strip('"').split()) for name in names]
    if tuple(names[:2]) != _NOTHING:
        raise InputError(f"{path} does not begin with the lines Padding and No event; copy it again.")
    return names


def _table(name: str) -> Table:
    static = pl.col("code").str.starts_with("GENDER//")
    return Table(
        name,
        "",
        {},
        (
            Event(pl.when(static).then(pl.col("code")), None),
            Event(pl.when(pl.col("first")).then(pl.lit(BIRTH)), BORN, once=pl.lit("birth"), rank=0),
            Event(pl.when(~static & (pl.col("code") != DEATH)).then(pl.col("code")), pl.col("time")),
            Event(pl.when(pl.col("code") == DEATH).then(pl.col("code")), pl.col("time"), rank=_DEATH_RANK),
        ),
        1,
        "sex is static; everything else on its day of life",
        _SET_ASIDE,
        required=name == "train",
    )


_SET_ASIDE = (
    ("token beyond the end of labels.csv", pl.col("unnamed")),
    ("padding or no event", pl.col("code").is_null()),
    ("age above 130 years", pl.col("age") > MAX_AGE_DAYS),
)
TABLES = {"train": _table("train"), "val": _table("val")}


def read(input: str | Path, output: str | Path, *, progress: Progress | None = None) -> dict[str, object]:
    """Converts a folder with train.bin, labels.csv and perhaps val.bin to MEDS.

    Args:
      input: the folder.
      output: the MEDS folder to write; it must not exist or be empty.
      progress: called as progress(stage, bytes done, bytes in all).

    Returns:
      The summary of `Conversion.finish`.

    Raises:
      InputError: something in the input cannot be used; nothing is written.
    """
    input = Path(input)
    if not input.is_dir():
        raise InputError(f"The folder {input} does not exist; name the folder that holds train.bin and labels.csv.")
    files.refuse_existing(output, what="MEDS dataset")
    names = read_labels(input / "labels.csv")
    paths = {name: input / f"{name}.bin" for name in TABLES if (input / f"{name}.bin").is_file()}
    if "train" not in paths:
        raise InputError(f"{input / 'train.bin'} is missing; name the folder that holds it.")
    for path in paths.values():
        _check_size(path)
    splits = _splits(paths)
    total = sum(path.stat().st_size for path in paths.values())
    report = ByteProgress(progress, total)
    with files.written_folder(output, what="MEDS dataset") as folder:
        conversion = Conversion(
            folder,
            [TABLES[name] for name in paths],
            source="delphi",
            dataset_name="Delphi histories",
            dataset_version="binary triples",
            text_bytes=total * TEXT_RATIO,
            splits=splits,
        )
        codes = pl.Series("code", [code_of(name) for name in names[1:]], pl.String)
        for name, path in paths.items():
            for piece in _pieces(path):
                conversion.add(_named(piece, codes), TABLES[name])
                report.during(name)(min(path.stat().st_size, (piece[ROW][-1] + 1) * ROW_BYTES))
            report.finished(name, path.stat().st_size)
        return conversion.finish(
            lambda seen: describe(seen, names),
            summary={
                "absent_tables": [name for name in TABLES if name not in paths],
                "tables_not_read": [name for name in ("icd10_codes_mod.tsv",) if (input / name).is_file()],
            },
            extra={"pseudo_dates": PSEUDO_DATES, "roles": ROLES},
        )


def _check_size(path: Path) -> None:
    size = path.stat().st_size
    if not size or size % ROW_BYTES:
        raise InputError(
            f"{path} holds {size} bytes, which is no whole number of triples of uint32; it is empty, truncated or "
            "foreign: copy it again."
        )


def _pieces(path: Path) -> Iterator[pl.DataFrame]:
    """subject_id, age (days), token and row, some rows at a time."""
    first = 0
    with open(path, "rb") as stream:
        while len(values := np.fromfile(stream, "<u4", 3 * PIECE_ROWS)):
            triples = values.reshape(-1, 3).astype(np.int64)
            frame = pl.DataFrame(triples, schema=["subject_id", "age", "token"], orient="row")
            yield frame.with_row_index(ROW, offset=first).cast({ROW: pl.Int64})
            first += len(frame)


def _splits(paths: dict[str, Path]) -> pl.DataFrame | None:
    """Who is in which split, where the source says it."""
    if "val" not in paths:
        return None
    subjects = {}
    for name, path in paths.items():
        subjects[name] = np.unique(np.concatenate([piece["subject_id"].unique().to_numpy() for piece in _pieces(path)]))
    if both := len(np.intersect1d(subjects["train"], subjects["val"])):
        raise InputError(
            f"{paths['val']} and train.bin share {both} patients, so what is fitted on one would be tested on itself; "
            "remove them from one of the two."
        )
    parts = [
        pl.DataFrame({"subject_id": subjects[name]}).with_columns(pl.lit(split).alias("split"))
        for name, split in (("train", TRAIN), ("val", TUNING))
    ]
    return pl.concat(parts)


def _named(piece: pl.DataFrame, codes: pl.Series) -> pl.DataFrame:
    """Adds each row's code, its time, and whether it is its patient's first usable row here."""
    unnamed = pl.col("token") >= len(codes)
    frame = piece.with_columns(unnamed.alias("unnamed"))
    index = frame.select(pl.when(~unnamed).then(pl.col("token"))).to_series()
    frame = frame.with_columns(codes.gather(index).alias("code"))
    usable = pl.col("code").is_not_null() & (pl.col("age") <= MAX_AGE_DAYS)
    return frame.with_columns(
        (usable & pl.struct("subject_id", usable.alias("usable")).is_first_distinct()).alias("first"),
        (BORN + pl.duration(days=pl.col("age").clip(upper_bound=MAX_AGE_DAYS))).alias("time"),
    )


def describe(codes: Iterable[str], names: list[str]) -> dict[str, str]:
    """A description for every code: the name in labels.csv where there is one."""
    found = {BIRTH: "Birth, on a pseudo-date"}
    for name in reversed(names):
        if code := code_of(name):
            family, *rest = code.split(SEPARATOR)
            found[code] = {"GENDER": f"Sex: {name}", DEATH: "Death"}.get(family) or (
                name if family in ("DIAGNOSIS", "DELPHI") else f"{family}: {rest[0]}"
            )
    return {code: found[code] for code in codes}
