"""The OMOP reader: the tables of a CDM 5.3 or 5.4 (CSV or parquet, also in parts) become a MEDS dataset.

What each table means is declared in `omop_tables`; what a concept is called, in `omop_concepts`. Every clinical table
is read once, piece by piece; only persons, visits and the concepts' ids and codes are held in memory.

The property this reader keeps: deleting all that became known after a time t leaves all events up to t as they were,
in the same order.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from ehrjax.core import files
from ehrjax.core.codes import SEPARATOR
from ehrjax.core.errors import InputError
from ehrjax.ingest import omop_tables as omop
from ehrjax.ingest import raw_files
from ehrjax.ingest.conversion import ByteProgress, Conversion, Progress, text_bytes
from ehrjax.ingest.meds import BIRTH, DEATH, VISIT_COLUMN
from ehrjax.ingest.omop_concepts import NO_CONCEPT, TABLES, WELL_KNOWN, Concepts
from ehrjax.ingest.raw_csv import ROW
from ehrjax.ingest.raw_tables import UNKNOWN, VISIT_FROM, KeyIndex, not_before, words

STANDARD, SOURCE = "standard", "source"
VISIT_END, START = "visit_end", "start"
UNMAPPED = "UNMAPPED"
# Visit concepts by role.
INPATIENT, EMERGENCY, OUTPATIENT, INTENSIVE = (9201, 262, 8717), (9203, 262), (9202, 581477, 5083), (32037,)


@dataclass(frozen=True)
class Settings:
    """Options.

    Attributes:
      concepts: `standard` takes the standard concept and, where there is none, the source concept; `source` the other
        way round. Where there is neither, the code is `UNMAPPED//` and the source value.
      coded_at: when diagnoses and procedures became known: `visit_end`, when their visit was over and coded, or
        `start`, their own date, for a CDM in which that is when they were recorded.
    """

    concepts: str = STANDARD
    coded_at: str = VISIT_END

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("concepts", self.concepts, (STANDARD, SOURCE)),
            ("coded_at", self.coded_at, (VISIT_END, START)),
        ):
            if value not in allowed:
                raise InputError(f"--{name} must be {' or '.join(allowed)}, not {value!r}.")


def read(
    input: str | Path, output: str | Path, settings: Settings = Settings(), *, progress: Progress | None = None
) -> dict[str, object]:
    """Converts the tables of an OMOP CDM to MEDS.

    Args:
      input: the folder with person, visit_occurrence and so on, and the vocabulary tables.
      output: the MEDS folder to write; it must not exist or be empty.
      settings: options.
      progress: called as progress(stage, bytes done, bytes in all).

    Returns:
      The summary of `Conversion.finish`, with absent tables, tables not read, and how many concept ids stand in no
      concept table.

    Raises:
      InputError: something in the input cannot be used; nothing is written.
    """
    input = Path(input)
    paths = raw_files.find_tables(input, (*omop.TABLES, *TABLES), source="OMOP CDM")
    files.refuse_existing(output, what="MEDS dataset")
    tables = [table for table in omop.TABLES if table.name in paths]
    sizes = {table.name: sum(path.stat().st_size for path in paths[table.name]) for table in tables}
    report = ByteProgress(progress, sum(sizes.values()))
    concepts = Concepts(paths)
    with files.written_folder(output, what="MEDS dataset") as folder:
        conversion = Conversion(
            folder,
            tables,
            source="omop",
            dataset_name=_name_of(input),
            dataset_version="OMOP CDM",
            text_bytes=text_bytes(path for table in tables for path in paths[table.name]),
        )
        _spill(paths, conversion, concepts, settings, report, sizes)
        report("writing", report.total)
        return conversion.finish(
            lambda codes: _describe(codes, concepts),
            parents=lambda codes: _parents(codes, concepts),
            extra={"roles": _roles(concepts)},
            summary={
                "absent_tables": [t.name for t in (*omop.TABLES, *TABLES) if t.name not in paths],
                "tables_not_read": [name for name in omop.NOT_READ if raw_files.find_table(input, name)],
                "unknown_concept_ids": len(concepts.unknown),
            },
        )


def _name_of(input: Path) -> str:
    """What cdm_source calls the data."""
    paths = raw_files.find_table(input, "cdm_source")
    columns = omop.columns_of(texts="cdm_source_name")
    for batch in raw_files.read_batches(paths, {}, optional=columns):
        for name in batch["cdm_source_name"].drop_nulls():
            return str(name)
    return "OMOP CDM"


def _spill(
    paths: dict[str, list[Path]],
    conversion: Conversion,
    concepts: Concepts,
    settings: Settings,
    report: ByteProgress,
    sizes: dict[str, int],
) -> None:
    """Reads every table once into the buckets."""
    persons = raw_files.read_whole(paths["person"], omop.PERSON)
    raw_files.refuse_repeats(persons, "person_id", paths["person"])
    joined = _Joined(persons["person_id"], _visits(paths), settings)
    conversion.add(_person(persons, concepts), omop.PERSON)
    report.finished("person", sizes["person"])
    for clinical in omop.CLINICAL:
        table = clinical.table
        if table.name not in paths:
            continue
        for batch in raw_files.read_batches(
            paths[table.name], table.columns, optional=table.optional, on_bytes=report.during(table.name)
        ):
            conversion.add(joined.attach(_coded(batch, clinical, concepts, settings), clinical), table)
        report.finished(table.name, sizes[table.name])
    if "death" in paths:
        table = omop.DEATH_TABLE
        for batch in raw_files.read_batches(paths["death"], table.columns, optional=table.optional):
            conversion.add(_death(joined.known(batch), concepts, settings), table)
        report.finished("death", sizes["death"])


def _person(frame: pl.DataFrame, concepts: Concepts) -> pl.DataFrame:
    """Who the persons are, and when they were born."""
    year, month, day = (
        pl.col(name).cast(pl.String).str.zfill(width)
        for name, width in (("year_of_birth", 4), ("month_of_birth", 2), ("day_of_birth", 2))
    )
    told = pl.concat_str(year, month.fill_null("01"), pl.when(month.is_not_null()).then(day).fill_null("01"))
    sexes = {concept: WELL_KNOWN[concept][1] for concept in (8507, 8532)}
    frame = frame.with_columns(
        pl.col("person_id").alias("subject_id"),
        pl.coalesce("birth_datetime", told.str.to_datetime("%Y%m%d", time_unit="us", strict=False)).alias("birth"),
        *(concepts.codes(frame[f"{name}_concept_id"]).alias(name) for name in ("gender", "race", "ethnicity")),
    )
    sex = pl.col("gender_concept_id").replace_strict(sexes, default=None, return_dtype=pl.String)
    return frame.with_columns(pl.coalesce(sex, "gender").alias("gender")).with_columns(
        pl.coalesce(name, pl.concat_str(pl.lit(UNMAPPED + SEPARATOR), words(f"{name}_source_value"))).alias(name)
        for name in ("gender", "race", "ethnicity")
    )


def _choose(
    standard: str, source: str, value: str, frame: pl.DataFrame, concepts: Concepts, settings: Settings
) -> pl.Series:
    """The code of each row [N], by the setting `concepts`; null where a row has neither concept nor source value."""
    first, second = (standard, source) if settings.concepts == STANDARD else (source, standard)
    return frame.select(
        pl.coalesce(
            concepts.codes(frame[first]),
            concepts.codes(frame[second]),
            pl.concat_str(pl.lit(UNMAPPED + SEPARATOR), words(value)),
        )
    ).to_series()


def _coded(frame: pl.DataFrame, clinical: omop.Clinical, concepts: Concepts, settings: Settings) -> pl.DataFrame:
    """Adds the code, the unit, the answer, and the times."""
    prefix = clinical.concept
    code = _choose(
        f"{prefix}_concept_id", f"{prefix}_source_concept_id", f"{prefix}_source_value", frame, concepts, settings
    )
    if clinical.end:
        # The source value of a visit is often its number: no kind of visit.
        code = code.set(code.str.starts_with(UNMAPPED + SEPARATOR).fill_null(True), UNKNOWN)
    added = {
        omop.CODE: code,
        omop.TIME: frame.select(omop.day_or_time(f"{clinical.start}_date", f"{clinical.start}_datetime")).to_series(),
    }
    if clinical.end:
        added[omop.END] = frame.select(omop.day_or_time(f"{clinical.end}_date", f"{clinical.end}_datetime")).to_series()
        for name, new, old in (
            (omop.FROM, "admitted_from_concept_id", "admitting_source_concept_id"),
            (omop.TO, "discharged_to_concept_id", "discharge_to_concept_id"),
        ):
            added[name] = concepts.codes(frame.select(pl.coalesce(new, old)).to_series())
    if "unit_concept_id" in frame.columns:
        units = concepts.short_codes(frame["unit_concept_id"])
        added[omop.UNIT] = frame.select(words(pl.coalesce(units, "unit_source_value"))).to_series()
        added[omop.ANSWER] = concepts.codes(frame["value_as_concept_id"])
    return frame.with_columns(series.alias(name) for name, series in added.items())


def _death(frame: pl.DataFrame, concepts: Concepts, settings: Settings) -> pl.DataFrame:
    cause = _choose("cause_concept_id", "cause_source_concept_id", "cause_source_value", frame, concepts, settings)
    return frame.with_columns(
        omop.day_or_time("death_date", "death_datetime").alias(omop.TIME),
        concepts.codes(frame["death_type_concept_id"]).alias(omop.KIND_OF),
        cause.alias(omop.CAUSE),
    )


def _visits(paths: dict[str, list[Path]]) -> pl.DataFrame:
    """Whose every visit is, and from when to when."""
    clinical = omop.VISIT_OCCURRENCE
    names = ("visit_occurrence_id", "person_id", "start", "finished", ROW)
    empty = pl.DataFrame(schema=dict(zip(names, (pl.Int64, pl.Int64, *[pl.Datetime("us")] * 2, pl.Int64))))
    frames = [empty]
    if "visit_occurrence" in paths:
        table = clinical.table
        for batch in raw_files.read_batches(paths["visit_occurrence"], table.columns, optional=table.optional):
            frames.append(
                batch.filter(pl.col("visit_occurrence_id").is_not_null())
                .select(
                    "visit_occurrence_id",
                    "person_id",
                    ROW,
                    omop.day_or_time("visit_start_date", "visit_start_datetime").alias("start"),
                    omop.day_or_time("visit_end_date", "visit_end_datetime").alias("end"),
                )
                .with_columns(not_before("end", "start").alias("finished"))
                .select(names)
            )
        raw_files.refuse_repeats(pl.concat(frames), "visit_occurrence_id", paths["visit_occurrence"])
    return pl.concat(frames)


class _Joined:
    """What persons and visits say about the rows of every other table."""

    def __init__(self, persons: pl.Series, visits: pl.DataFrame, settings: Settings) -> None:
        self._persons = KeyIndex(persons.drop_nulls())
        self._visits = visits
        self._index = KeyIndex(visits["visit_occurrence_id"])
        self._at_start = settings.coded_at == START

    def known(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Adds subject_id and whether the person is known."""
        known = pl.Series(omop.KNOWN_PERSON, self._persons.positions(frame["person_id"]) >= 0)
        return frame.with_columns(pl.col("person_id").alias("subject_id"), known)

    def attach(self, frame: pl.DataFrame, clinical: omop.Clinical) -> pl.DataFrame:
        """Adds also the visit, known from its start, and when what was coded from the finished record was known.

        A visit of another person is no visit of the row.
        """
        at = pl.Series(self._index.positions(frame["visit_occurrence_id"]))
        visits = self._visits.select("person_id", "start", "finished").select(pl.all().gather(at.set(at < 0, None)))
        same = (visits["person_id"] == frame["person_id"]).fill_null(False)
        frame = self.known(frame).with_columns(
            frame["visit_occurrence_id"].set(~same, None).alias(VISIT_COLUMN),
            visits["start"].set(~same, None).alias(VISIT_FROM),
        )
        if clinical.end:
            return frame.with_columns(not_before(omop.END, omop.TIME).alias(omop.END))
        if not clinical.coded:
            return frame
        ends = visits["finished"]
        finished = pl.when(same & (not self._at_start)).then(ends).otherwise(pl.col(omop.TIME))
        return frame.with_columns(finished.alias(omop.FINISHED)).with_columns(
            pl.max_horizontal(omop.TIME, omop.FINISHED).alias(omop.TIME)
        )


def _parts(code: str) -> tuple[str, str, str]:
    """Family, concept and unit of a code."""
    family, _, rest = code.partition(SEPARATOR)
    if family in omop.WITH_UNIT:
        concept, _, unit = rest.rpartition(SEPARATOR)
        return family, concept, unit
    return family, rest, ""


def _describe(codes: Iterable[str], concepts: Concepts) -> dict[str, str]:
    """A description for every code."""
    parts = {code: _parts(code) for code in codes}
    names = concepts.names(concept for _, concept, _ in parts.values())
    return {code: _sentence(*told, names) for code, told in parts.items()}


def _sentence(family: str, concept: str, unit: str, names: dict[str, str]) -> str:
    if family in (BIRTH, DEATH):
        return "Birth" if family == BIRTH else "Death"
    vocabulary, _, number = concept.partition(SEPARATOR)
    told = names.get(concept)
    if told is None and family == "GENDER":
        told = {"M": "male", "F": "female"}.get(concept)
    if told is None:
        told = {UNMAPPED: number, NO_CONCEPT: f"concept {number}"}.get(vocabulary, f"{vocabulary} {number}")
    return f"{omop.FAMILIES[family]}: {told}" + (f" ({unit})" if unit not in ("", UNKNOWN) else "")


def _parents(codes: Iterable[str], concepts: Concepts) -> dict[str, list[str]]:
    """Code -> the codes above it, in its own family (a measurement's parents have no unit)."""
    parts = {code: _parts(code) for code in codes}
    above = concepts.parents(concept for _, concept, _ in parts.values())
    return {
        code: [f"{family}{SEPARATOR}{parent}" for parent in above[concept]]
        for code, (family, concept, _) in parts.items()
        if concept in above
    }


def _roles(concepts: Concepts) -> dict[str, list[str]]:
    """Which codes open and close a stay, and so on."""

    def visits(family: str, ids: tuple[int, ...]) -> list[str]:
        named = concepts.codes(pl.Series(ids, dtype=pl.Int64))
        return [f"{family}{SEPARATOR}{re.escape(name)}$" for name in named]

    return {
        "admission": visits("VISIT_START", INPATIENT),
        "discharge": visits("VISIT_END", INPATIENT),
        "icu_admission": visits("VISIT_DETAIL_START", INTENSIVE),
        "icu_discharge": visits("VISIT_DETAIL_END", INTENSIVE),
        "emergency": visits("VISIT_START", EMERGENCY),
        "outpatient": visits("VISIT_START", OUTPATIENT),
        "diagnosis": ["DIAGNOSIS//"],
        "procedure": ["PROCEDURE//"],
        "medication": ["MEDICATION//"],
        "lab": ["MEASUREMENT//"],
        "female": ["GENDER//F$"],
        "male": ["GENDER//M$"],
    }
