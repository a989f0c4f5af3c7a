"""The OMOP reader: events to the row, told again without the reader; nothing known too early; parents and roles."""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from ehrjax.core.errors import InputError
from ehrjax.ingest import conversion, omop, raw_csv, roles
from ehrjax.ingest.meds import open_dataset
from tests.ingest import omop_layout as layout
from tests.ingest.meds_checks import check_accounting, check_meds, digests, events_in, until

DAY_END = timedelta(days=1) - timedelta(microseconds=1)
UP = {4171756: "<", 4172704: ">", 4171754: "<=", 4171755: ">="}


def write(tables: dict[str, pl.DataFrame], folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name, frame in tables.items():
        frame.write_csv(folder / f"{name}.csv")
    return folder


def convert(tables: dict[str, pl.DataFrame], folder: Path, **settings: str) -> tuple[pl.DataFrame, dict]:
    summary = omop.read(write(tables, folder / "raw"), folder / "meds", omop.Settings(**settings))
    return events_in(folder / "meds"), summary


class Transcription:
    """The events of a CDM, told row by row in plain Python."""

    def __init__(self, tables: dict[str, list[dict]], *, standard: bool = True, at_end: bool = True) -> None:
        self.tables, self.standard, self.at_end = tables, standard, at_end
        self.concepts = {
            int(row["concept_id"]): f"{row['vocabulary_id']}//{row['concept_code']}"
            for row in tables.get("concept", [])
        }
        for number, known in omop.WELL_KNOWN.items():
            self.concepts.setdefault(number, f"{known[0]}//{known[1]}")
        self.visits = {int(row["visit_occurrence_id"]): row for row in tables["visit_occurrence"]}
        self.found: Counter = Counter()

    @staticmethod
    def when(row: dict, prefix: str) -> datetime | None:
        time, date = row.get(f"{prefix}_datetime"), row.get(f"{prefix}_date")
        time = datetime.fromisoformat(str(time)) if time else None
        if time and time.time() != datetime.min.time():
            return time
        return (datetime.fromisoformat(str(date)) if date else time) + DAY_END if date or time else None

    def concept(self, value: object) -> str | None:
        number = int(value or 0)
        return self.concepts.get(number, f"CONCEPT//{number}") if number else None

    def code(self, row: dict, prefix: str) -> str | None:
        ids = [self.concept(row.get(f"{prefix}_concept_id")), self.concept(row.get(f"{prefix}_source_concept_id"))]
        for code in ids if self.standard else reversed(ids):
            if code:
                return code
        value = row.get(f"{prefix}_source_value")
        return f"UNMAPPED//{value}" if value else None

    def emit(self, row: dict, time: datetime | None, code: str | None, number=None, text=None) -> None:
        visit = row.get("visit_occurrence_id")
        visit = int(visit) if visit else None
        if time is not None and visit is not None and self.when(self.visits[visit], "visit_start") > time:
            visit = None
        number = None if number is None else pl.Series([number], dtype=pl.Float32)[0]
        self.found[int(row["person_id"]), time, code, number, text, visit if time else None] += 1

    def person(self, row: dict) -> None:
        sex = {8507: "M", 8532: "F"}.get(int(row["gender_concept_id"] or 0))
        for name in ("gender", "race", "ethnicity"):
            value = row.get(f"{name}_source_value")
            told = self.concept(row[f"{name}_concept_id"]) or (f"UNMAPPED//{value}" if value else None)
            if name == "gender" and sex:
                told = sex
            if told:
                self.emit(row, None, f"{name.upper()}//{told}")
        born = row.get("birth_datetime")
        if not born:
            month = row.get("month_of_birth")
            day = row.get("day_of_birth") if month else None
            born = datetime(int(row["year_of_birth"]), int(month or 1), int(day or 1))
        self.emit({"person_id": row["person_id"]}, datetime.fromisoformat(str(born)), "MEDS_BIRTH")

    def visit(self, row: dict, prefix: str, family: str) -> None:
        code = self.code(row, prefix)
        code = "UNK" if code is None or code.startswith("UNMAPPED") else code
        start, end = self.when(row, f"{prefix}_start"), self.when(row, f"{prefix}_end")
        end = end and max(start, end)
        self.emit(row, start, f"{family}_START//{code}")
        for names, time, what in (
            (("admitted_from", "admitting_source"), start, "ADMITTED_FROM"),
            (("discharged_to", "discharge_to"), end, "DISCHARGED_TO"),
        ):
            place = next((row[f"{n}_concept_id"] for n in names if row.get(f"{n}_concept_id")), None)
            if self.concept(place) and time:
                self.emit(row, time, f"{what}//{self.concept(place)}")
        if end:
            self.emit(row, end, f"{family}_END//{code}")

    def coded(self, row: dict, prefix: str, start: str, family: str) -> None:
        time, visit = self.when(row, start), row.get("visit_occurrence_id")
        if visit and self.at_end:
            end = self.when(self.visits[int(visit)], "visit_end")
            time = max(time, end, self.when(self.visits[int(visit)], "visit_start"))
        self.emit(row, time, f"{family}//{self.code(row, prefix)}")

    def measured(self, row: dict, prefix: str, family: str) -> None:
        unit = self.concept(row.get("unit_concept_id"))
        unit = None if unit is None or unit.startswith("CONCEPT//") else unit.split("//", 1)[1]
        unit = unit or row.get("unit_source_value") or "UNK"
        number = row.get("value_as_number")
        number = float(number) if number not in (None, "") else None
        answer = self.concept(row.get("value_as_concept_id"))
        text = None
        bound = UP.get(int(row.get("operator_concept_id") or 0))
        if number is None:
            text = answer or row.get("value_as_string") or row.get("value_source_value")
        elif bound:
            number, text = None, f"{bound}{number}"
        self.emit(row, self.when(row, prefix), f"{family}//{self.code(row, prefix)}//{unit}", number, text or None)

    def all(self) -> Counter:
        for row in self.tables["person"]:
            self.person(row)
        for row in self.tables["visit_occurrence"]:
            self.visit(row, "visit", "VISIT")
        for row in self.tables.get("visit_detail", []):
            self.visit(row, "visit_detail", "VISIT_DETAIL")
        for row in self.tables.get("condition_occurrence", []):
            self.coded(row, "condition", "condition_start", "DIAGNOSIS")
        for row in self.tables.get("procedure_occurrence", []):
            self.coded(row, "procedure", "procedure", "PROCEDURE")
        for table, prefix, start, family in (
            ("drug_exposure", "drug", "drug_exposure_start", "MEDICATION"),
            ("device_exposure", "device", "device_exposure_start", "DEVICE"),
            ("specimen", "specimen", "specimen", "SPECIMEN"),
        ):
            for row in self.tables.get(table, []):
                self.emit(row, self.when(row, start), f"{family}//{self.code(row, prefix)}")
        for row in self.tables.get("measurement", []):
            self.measured(row, "measurement", "MEASUREMENT")
        for row in self.tables.get("observation", []):
            self.measured(row, "observation", "OBSERVATION")
        for row in self.tables.get("death", []):
            time = self.when(row, "death")
            self.emit(row, time, "MEDS_DEATH")
            if kind := self.concept(row.get("death_type_concept_id")):
                self.emit(row, time, f"DEATH_TYPE//{kind}")
            if cause := self.code(row, "cause"):
                self.emit(row, time, f"DEATH_CAUSE//{cause}")
        return self.found


def as_counter(events: pl.DataFrame) -> Counter:
    columns = ("subject_id", "time", "code", "numeric_value", "text_value", "visit_id")
    return Counter(events.select(columns).iter_rows())


def rows_of(tables: dict[str, pl.DataFrame]) -> dict[str, list[dict]]:
    return {name: frame.to_dicts() for name, frame in tables.items()}


@pytest.mark.parametrize("version", ["5.3", "5.4"])
@pytest.mark.parametrize(
    "settings", [{}, {"concepts": "source"}, {"coded_at": "start"}], ids=["defaults", "source", "start"]
)
def test_generated_rows_give_exactly_the_events_that_they_tell(version, settings, tmp_path):
    tables = layout.generate(1, version=version)
    events, summary = convert(tables, tmp_path, **settings)
    check_meds(tmp_path / "meds")
    check_accounting(summary)
    told = Transcription(rows_of(tables), standard="concepts" not in settings, at_end="coded_at" not in settings).all()
    assert as_counter(events) == told
    assert all(not table["rows_set_aside"] for table in summary["tables"].values())


def test_descriptions_parents_and_roles(tmp_path):
    convert(layout.generate(2, persons=8), tmp_path, concepts="source")
    dataset = open_dataset(tmp_path / "meds")
    codes = {row["code"]: row for row in dataset.codes.to_dicts()}
    assert codes["DIAGNOSIS//ICD10CM//E11.9"]["description"].startswith("Diagnosis: Type 2 diabetes")
    # Maps to from the relationships, one level up from the ancestors; two levels up is no parent.
    assert codes["DIAGNOSIS//ICD10CM//E11.9"]["parent_codes"] == [
        "DIAGNOSIS//SNOMED//44054006",
        "DIAGNOSIS//SNOMED//73211009",
    ]
    assert codes["DIAGNOSIS//SNOMED//44054006"]["parent_codes"] == ["DIAGNOSIS//SNOMED//73211009"]
    assert codes["MEDICATION//RxNorm//861007"]["parent_codes"] == ["MEDICATION//RxNorm//6809"], (
        "invalid ones do not count"
    )
    assert (
        codes["MEASUREMENT//LOINC//2345-7//mg/dL"]["description"]
        == "Measurement: Glucose [Mass/volume] in Serum (mg/dL)"
    )
    assert codes["MEDICATION//UNMAPPED//met 500"]["description"] == "Drug: met 500"
    told = roles.of(dataset).present(dataset.codes["code"])
    assert set(told.patterns) >= {"admission", "discharge", "icu_admission", "diagnosis", "lab", "female", "male"}
    assert roles.matching(
        pl.Series(["VISIT_START//Visit//IP", "VISIT_START//Visit//OP"]), told.get("admission")
    ).to_list() == [True, False]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_deleting_what_was_known_later_leaves_the_beginning_as_it_was(seed, tmp_path):
    tables = layout.generate(seed)
    events, _ = convert(tables, tmp_path / "all")
    visits = {row["visit_occurrence_id"]: row for row in tables["visit_occurrence"].to_dicts()}
    when = Transcription.when
    starts = {
        "visit_occurrence": "visit_start",
        "visit_detail": "visit_detail_start",
        "condition_occurrence": "condition_start",
        "procedure_occurrence": "procedure",
        "drug_exposure": "drug_exposure_start",
        "device_exposure": "device_exposure_start",
        **{name: name for name in ("measurement", "observation", "specimen", "death")},
    }
    times = events["time"].drop_nulls().sort()
    for place in (0.3, 0.5, 0.8):
        cut = times[int(place * len(times))]
        kept = dict(tables)
        for name, prefix in starts.items():
            keep = []
            for row in tables[name].to_dicts():
                time = when(row, prefix)
                visit = visits.get(row.get("visit_occurrence_id") or "")
                if name in ("condition_occurrence", "procedure_occurrence") and visit:
                    time = max(time, when(visit, "visit_end"), when(visit, "visit_start"))
                keep.append(time <= cut)
            kept[name] = tables[name].filter(pl.Series(keep))
        # A stay that has not ended has no end yet.
        for name, prefix in (("visit_occurrence", "visit"), ("visit_detail", "visit_detail")):
            open_ = pl.Series([when(row, f"{prefix}_end") > cut for row in kept[name].to_dicts()], dtype=pl.Boolean)
            ends = [f"{prefix}_end_date", f"{prefix}_end_datetime"]
            if name == "visit_occurrence":
                ends += ["discharged_to_concept_id"]
            kept[name] = kept[name].with_columns(pl.when(~open_).then(pl.col(c)).alias(c) for c in ends)
        fewer, _ = convert(kept, tmp_path / str(place))
        assert until(fewer, cut).equals(until(events, cut))


def test_blocks_buckets_parts_and_case_do_not_change_the_events(tmp_path, monkeypatch):
    tables = layout.generate(4)
    events, _ = convert(tables, tmp_path / "one")
    omop.read(tmp_path / "one" / "raw", tmp_path / "again")
    assert digests(tmp_path / "again") == digests(tmp_path / "one" / "meds")
    monkeypatch.setattr(conversion, "BUCKET_BYTES", 1000)
    monkeypatch.setattr(raw_csv.read_batches, "__kwdefaults__", {"block_bytes": 1000, "on_bytes": None})
    steps = []
    omop.read(tmp_path / "one" / "raw", tmp_path / "small", progress=lambda *step: steps.append(step))
    assert events_in(tmp_path / "small").equals(events)
    assert steps[-1][1] == steps[-1][2]
    parts = tmp_path / "parts"
    for name, frame in tables.items():
        (parts / name.upper()).mkdir(parents=True)
        frame = frame.rename(str.upper)
        frame.head(2).write_csv(parts / name.upper() / "0.csv")
        frame.tail(-2).write_parquet(parts / name.upper() / "1.parquet")
    omop.read(parts, tmp_path / "from_parts")
    assert events_in(tmp_path / "from_parts").equals(events)


def test_without_vocabulary_tables_codes_are_concept_ids(tmp_path):
    tables = layout.generate(1)
    for name in ("concept", "concept_relationship", "concept_ancestor"):
        tables.pop(name)
    events, summary = convert(tables, tmp_path)
    check_meds(tmp_path / "meds")
    assert summary["unknown_concept_ids"] > 5
    assert "PROCEDURE//CONCEPT//4048384" in set(events["code"])


def test_unknown_options_are_refused():
    with pytest.raises(InputError, match="--concepts must be standard or source"):
        omop.Settings(concepts="both")


@pytest.mark.data
@pytest.mark.parametrize("concepts", ["standard", "source"])
def test_synthea_to_the_row(data_folder, tmp_path, concepts):
    folder = data_folder / "synthea27nj-omop"
    summary = omop.read(folder, tmp_path / "meds", omop.Settings(concepts=concepts))
    check_meds(tmp_path / "meds")
    check_accounting(summary)
    tables = {name: pl.read_parquet(folder / f"{name}.parquet").to_dicts() for name in (*summary["tables"], "concept")}
    for name, table in summary["tables"].items():
        assert table["rows"] == len(tables[name]) == table["rows_emitted"]
    events = events_in(tmp_path / "meds")
    told = Transcription(tables, standard=concepts == "standard").all()
    for row in tables["measurement"][:3]:
        assert row["value_as_number"] is not None
    assert as_counter(events) == told
    assert json.loads((tmp_path / "meds/metadata/dataset.json").read_text())["dataset_name"] == "NJ"
