"""The EHRSHOT reader: data/ehrshot.csv (also .gz, .zst) or its MEDS release becomes a MEDS dataset.

Format: Wornow et al., "EHRSHOT: An EHR Benchmark for Few-Shot Evaluation of Foundation Models", NeurIPS 2023, and
https://github.com/som-shahlab/ehrshot-benchmark. One row an event: patient_id, start, end, code (`VOCABULARY/code`),
value, unit, visit_id, omop_table. EHRSHOT's makers have already moved billing codes to the end of their visit and bare
dates to the end of their day, so `start` is when an event became known. Codes become `KIND//VOCABULARY//code`, as the
OMOP reader writes them; files without omop_table give `VOCABULARY//code`.

The split of splits/person_id_map.csv (val is tuning, test is held_out) is kept. The benchmark's labels are read where
they lie (`ingest/labels/reading.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import polars as pl

from ehrjax.core import files
from ehrjax.core.codes import SEPARATOR
from ehrjax.core.errors import InputError
from ehrjax.ingest import raw_files
from ehrjax.ingest.conversion import ByteProgress, Conversion, Progress, text_bytes
from ehrjax.ingest.meds import BIRTH, DEATH, HELD_OUT, TRAIN, TUNING, VISIT_COLUMN
from ehrjax.ingest.omop_concepts import Concepts
from ehrjax.ingest.omop_tables import FAMILIES, WITH_UNIT
from ehrjax.ingest.raw_csv import Kind
from ehrjax.ingest.raw_tables import UNKNOWN, VISIT_FROM, Event, KeyIndex, Table, columns_of, not_before, words

SPLIT_NAMES = {"train": TRAIN, "val": TUNING, "test": HELD_OUT, TUNING: TUNING, HELD_OUT: HELD_OUT}
# What a row of an OMOP table is; the rest keeps its vocabulary as its family.
KINDS = {
    "visit_occurrence": "VISIT_START",
    "visit_detail": "VISIT_DETAIL_START",
    "condition_occurrence": "DIAGNOSIS",
    "procedure_occurrence": "PROCEDURE",
    "drug_exposure": "MEDICATION",
    "device_exposure": "DEVICE",
    "measurement": "MEASUREMENT",
    "observation": "OBSERVATION",
    "specimen": "SPECIMEN",
    "note": "NOTE",
    "death": "DEATH_CAUSE",
}
STATIC = {"Gender": "GENDER", "Race": "RACE", "Ethnicity": "ETHNICITY"}
# What the rows say of births and deaths; a code of the table death that is none of these is a cause.
BIRTHS = (BIRTH, "SNOMED/3950001", "SNOMED/184099003")
DEATHS = (DEATH, "SNOMED/419620001", "Death Type/OMOP generated", "Condition Type/OMOP4822053")

ROLES = {
    "admission": ["VISIT_START//Visit//(IP|ERIP)$"],
    "discharge": ["VISIT_END//Visit//(IP|ERIP)$"],
    "emergency": ["VISIT_START//Visit//(ER|ERIP)$"],
    "outpatient": ["VISIT_START//Visit//OP$"],
    "diagnosis": ["DIAGNOSIS//"],
    "procedure": ["PROCEDURE//"],
    "medication": ["MEDICATION//"],
    "lab": ["MEASUREMENT//"],
    "female": ["GENDER//F$"],
    "male": ["GENDER//M$"],
}

# What a row is, and its place among those of one time.
_BIRTH, _STATIC, _DEATH, _VISIT, _PLAIN, _CODED, _CAUSE = "birth", "static", "death", "visit", "plain", "coded", "cause"
_GROUPS = {"VISIT_START": _VISIT, "VISIT_DETAIL_START": _VISIT, "DIAGNOSIS": _CODED, "PROCEDURE": _CODED}
_RANKS = {_VISIT: 1, _PLAIN: 20, _CODED: 70, _CAUSE: 98}
_VISIT_END_RANK, _DEATH_RANK = 60, 99


def _is(group: str) -> pl.Expr:
    return pl.when(pl.col("group") == group)


COLUMNS = columns_of(ids="patient_id", times="start", texts="code")
EHRSHOT = Table(
    "ehrshot",
    "",
    COLUMNS,
    (
        Event(_is(_STATIC).then(pl.col("full")), None, once=pl.col("full")),
        Event(_is(_BIRTH).then(pl.lit(BIRTH)), pl.col("start"), once=pl.lit("birth"), rank=0),
        *(
            Event(_is(group).then(pl.col("full")), pl.col("start"), pl.col("number"), pl.col("words"), rank=rank)
            for group, rank in _RANKS.items()
        ),
        Event(_is(_VISIT).then(pl.col("end_code")), pl.col("finished"), rank=_VISIT_END_RANK),
        Event(_is(_DEATH).then(pl.lit(DEATH)), pl.col("start"), once=pl.lit("death"), rank=_DEATH_RANK),
    ),
    20,
    "at start, as EHRSHOT's makers have placed it; a visit's end at its end, other ends are not read",
    (
        ("no patient_id", pl.col("patient_id").is_null()),
        ("no code", pl.col("code").is_null()),
        ("no start", pl.col("start").is_null()),
    ),
    required=True,
    repeats="repeats a birth, a death or a static fact",
    optional=columns_of(ids="visit_id", times="end", numbers="number", texts="value unit omop_table"),
)
# The MEDS release's names of the same columns.
RELEASE = {"subject_id": "patient_id", "time": "start", "numeric_value": "number", "text_value": "value"}


def read(input: str | Path, output: str | Path, *, progress: Progress | None = None) -> dict[str, object]:
    """Converts EHRSHOT to MEDS.

    Args:
      input: EHRSHOT_ASSETS, its data folder, or the folder of the MEDS release.
      output: the MEDS folder to write; it must not exist or be empty.
      progress: called as progress(stage, bytes done, bytes in all).

    Returns:
      The summary of `Conversion.finish`, with how many subjects the split file does not name (they are split by hash).

    Raises:
      InputError: something in the input cannot be used; nothing is written.
    """
    input = Path(input)
    if not input.is_dir():
        raise InputError(f"The EHRSHOT folder {input} does not exist; name the folder that holds data and splits.")
    files.refuse_existing(output, what="MEDS dataset")
    source = _Source(input)
    splits = _splits(input)
    concepts = Concepts(
        {name: _athena(input, name) for name in ("concept", "concept_relationship", "concept_ancestor")}
    )
    size = sum(path.stat().st_size for path in source.paths)
    report = ByteProgress(progress, 2 * size)
    visits = _visits(source, report)
    report.finished("visits", size)
    with files.written_folder(output, what="MEDS dataset") as folder:
        conversion = Conversion(
            folder,
            [EHRSHOT],
            source="ehrshot",
            dataset_name="EHRSHOT",
            dataset_version="MEDS release" if source.release else "CSV",
            text_bytes=text_bytes(source.paths),
            splits=splits,
        )
        unnamed: set[int] = set()
        for batch in source.batches(report):
            frame = _events(batch)
            conversion.add(_with_visits(frame, visits), EHRSHOT)
            if splits is not None:
                unnamed.update(frame["subject_id"].drop_nulls().unique())
        report.finished("events", size)
        summary = {} if splits is None else {"subjects_without_split": len(unnamed - set(splits["subject_id"]))}
        return conversion.finish(
            lambda codes: _describe(codes, concepts, source.descriptions()),
            parents=lambda codes: _parents(codes, concepts),
            extra={"roles": ROLES},
            summary=summary,
        )


class _Source:
    """The event files, whichever release they are of."""

    def __init__(self, input: Path) -> None:
        places = (input / "data", input)
        found = [path for place in places for path in raw_files.find_table(place, "ehrshot")]
        self.release = not found
        if not found:
            found = next(
                (
                    got
                    for place in places
                    if (got := sorted(place.glob("**/data/**/*.parquet")) or sorted(place.glob("*.parquet")))
                ),
                [],
            )
        if not found:
            raise InputError(
                f"{input} holds neither data/ehrshot.csv (.gz, .zst) nor the MEDS release's data/data.parquet; "
                "name the folder that holds EHRSHOT."
            )
        self.input, self.paths = input, found
        names = {v: k for k, v in RELEASE.items()} if self.release else {}
        self._columns = {names.get(name, name): kind for name, kind in EHRSHOT.columns.items()}
        optional = {name: kind for name, kind in EHRSHOT.optional.items() if self.release or name != "number"}
        self._optional = {names.get(name, name): kind for name, kind in optional.items()}
        raw_files.check_columns(found, self._columns)

    def batches(self, report: ByteProgress, stage: str = "events") -> Iterable[pl.DataFrame]:
        """The rows under the names of the CSV file."""
        for batch in raw_files.read_batches(
            self.paths, self._columns, optional=self._optional, on_bytes=report.during(stage)
        ):
            yield batch.rename(RELEASE, strict=False) if self.release else batch

    def descriptions(self) -> dict[str, str]:
        """What the MEDS release's codes.parquet calls the codes."""
        path = next(iter(sorted(self.input.glob("**/metadata/codes.parquet"))), None)
        if path is None:
            return {}
        wanted = dict.fromkeys(("code", "description"), Kind.TEXT)
        batches = raw_files.read_batches(path, {"code": Kind.TEXT}, optional=wanted)
        return {
            code: text
            for batch in batches
            for code, text in batch.select("code", "description").drop_nulls().iter_rows()
        }


def _athena(input: Path, name: str) -> list[Path]:
    """A vocabulary table of the Athena download that lies beside EHRSHOT's data."""
    return next((got for place in (input / "athena_download", input) if (got := raw_files.find_table(place, name))), [])


def _splits(input: Path) -> pl.DataFrame | None:
    """subject_id and split, from person_id_map.csv or from the MEDS release's metadata."""
    csv = [path for place in (input / "splits", input) for path in raw_files.find_table(place, "person_id_map")]
    release = sorted(input.glob("**/metadata/subject_splits.parquet"))
    if csv:
        paths, key = csv[:1], "omop_person_id"
    elif release:
        paths, key = release[:1], "subject_id"
    else:
        return None
    frame = pl.concat([*raw_files.read_batches(paths, {key: Kind.ID, "split": Kind.TEXT})] or [pl.DataFrame()])
    if frame.is_empty():
        raise InputError(f"{paths[0]} has a header but no rows; copy it again.")
    wrong = frame.filter(~pl.col("split").is_in(list(SPLIT_NAMES)).fill_null(False) | pl.col(key).is_null())
    if len(wrong):
        raise InputError(
            f"{paths[0]}, data row {wrong['row'][0] + 1}: a row needs {key} and a split (train, val or test)."
        )
    if frame[key].n_unique() != len(frame):
        raise InputError(f"{paths[0]} names a subject more than once; keep one row for each.")
    return frame.select(
        pl.col(key).alias("subject_id"), pl.col("split").replace_strict(SPLIT_NAMES, return_dtype=pl.String)
    )


def _visits(source: _Source, report: ByteProgress) -> pl.DataFrame:
    """Whose every visit is, and since when it is known."""
    names = {"visit_id": pl.Int64, "patient_id": pl.Int64, "start": pl.Datetime("us")}
    frames = [pl.DataFrame(schema=names)]
    for batch in source.batches(report, "visits"):
        visits = batch.filter(
            (pl.col("omop_table") == "visit_occurrence") & pl.all_horizontal(*(pl.col(n).is_not_null() for n in names))
        )
        frames.append(visits.select(names.keys()))
    return pl.concat(frames).sort("visit_id", "start").unique("visit_id", keep="first", maintain_order=True)


def _with_visits(frame: pl.DataFrame, visits: pl.DataFrame) -> pl.DataFrame:
    """Adds the visit of each row, known from its start; a visit of another patient is no visit of the row."""
    at = pl.Series(KeyIndex(visits["visit_id"]).positions(frame["visit_id"]))
    told = visits.select(pl.all().gather(at.set(at < 0, None)))
    same = (told["patient_id"] == frame["patient_id"]).fill_null(False)
    return frame.with_columns(
        frame["visit_id"].set(~same, None).alias(VISIT_COLUMN), told["start"].set(~same, None).alias(VISIT_FROM)
    )


def _events(frame: pl.DataFrame) -> pl.DataFrame:
    """Adds what the expressions of EHRSHOT use."""
    table = pl.col("omop_table")
    parts = pl.col("code").str.splitn("/", 2)
    vocabulary, rest = words(parts.struct.field("field_0")), words(parts.struct.field("field_1"))
    static = vocabulary.replace_strict(STATIC, default=None, return_dtype=pl.String)
    family = table.replace_strict(KINDS, default=None, return_dtype=pl.String)
    born, died = pl.col("code").is_in(BIRTHS), pl.col("code").is_in(DEATHS) | (vocabulary == "Death Type")
    number = pl.col("value").cast(pl.Float64, strict=False)
    number = pl.coalesce("number", number) if "number" in frame.columns else number
    frame = frame.with_columns(
        pl.col("patient_id").alias("subject_id"),
        pl.when(number.is_finite()).then(number).alias("number"),
        pl.when(born)
        .then(pl.lit(_BIRTH))
        .when(died)
        .then(pl.lit(_DEATH))
        .when(static.is_not_null() & rest.is_not_null())
        .then(pl.lit(_STATIC))
        .when(table == "death")
        .then(pl.lit(_CAUSE))
        .otherwise(family.replace_strict(_GROUPS, default=_PLAIN, return_dtype=pl.String))
        .fill_null(_PLAIN)
        .alias("group"),
        pl.concat_str(vocabulary, rest, separator=SEPARATOR, ignore_nulls=True).alias("concept"),
        static.alias("static"),
        rest.alias("rest"),
        family.alias("family"),
        not_before("end", "start").alias("finished"),
    )
    with_unit = pl.col("family").is_in(WITH_UNIT) | (pl.col("family").is_null() & pl.col("unit").is_not_null())
    unit = pl.when(with_unit.fill_null(False)).then(words("unit").fill_null(UNKNOWN))
    full = pl.concat_str("family", "concept", unit, separator=SEPARATOR, ignore_nulls=True)
    return frame.with_columns(
        pl.when(pl.col("number").is_null()).then("value").alias("words"),
        pl.when(pl.col("group") == _STATIC)
        .then(pl.concat_str("static", "rest", separator=SEPARATOR))
        .otherwise(full)
        .alias("full"),
        pl.concat_str(pl.col("family").str.replace("_START$", "_END"), "concept", separator=SEPARATOR).alias(
            "end_code"
        ),
    )


def _concept(name: str) -> tuple[str, str, str]:
    """Family ("" where there is none), `VOCABULARY//code` and unit of a code."""
    parts = name.split(SEPARATOR)
    if parts[0] not in FAMILIES and parts[0] not in KINDS.values():
        return "", SEPARATOR.join(parts[:2]), parts[2] if len(parts) > 2 else ""
    if parts[0] in STATIC.values():
        return parts[0], f"{parts[0].title()}{SEPARATOR}{SEPARATOR.join(parts[1:])}", ""
    unit = parts.pop() if parts[0] in WITH_UNIT else ""
    return parts[0], SEPARATOR.join(parts[1:]), unit


def _describe(codes: Iterable[str], concepts: Concepts, release: dict[str, str]) -> dict[str, str]:
    """A description for every code."""
    told = {name: _concept(name) for name in codes}
    names = concepts.names(concept for _, concept, _ in told.values())
    found = {BIRTH: "Birth", DEATH: "Death"}
    for name, (family, concept, unit) in told.items():
        called = (
            names.get(concept) or release.get(concept.replace(SEPARATOR, "/", 1)) or concept.replace(SEPARATOR, " ")
        )
        kind = FAMILIES.get(family, family.replace("_", " ").capitalize())
        found.setdefault(
            name, (f"{kind}: " if kind else "") + called + (f" ({unit})" if unit not in ("", UNKNOWN) else "")
        )
    return found


def _parents(codes: Iterable[str], concepts: Concepts) -> dict[str, list[str]]:
    told = {name: _concept(name) for name in codes}
    above = concepts.parents(concept for _, concept, _ in told.values())
    return {
        name: [SEPARATOR.join(filter(None, (family, parent))) for parent in above[concept]]
        for name, (family, concept, _) in told.items()
        if concept in above
    }
