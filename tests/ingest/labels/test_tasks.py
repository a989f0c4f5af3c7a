"""Each task equals a slow loop written from its description."""

from __future__ import annotations

import dataclasses
import datetime
from collections import Counter

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ehrjax.ingest import synthetic
from ehrjax.ingest.labels.egfr import ckd_epi_2021
from ehrjax.ingest.labels.settings import choose, tasks
from tests.ingest.labels import transcription
from tests.ingest.labels.cases import CASES, NAMES, fast
from tests.ingest.labels.histories import ADMISSIONS, EPOCH, HOME, by_subject, frame, record, row, subjects

# The synthetic hospital as the transcription knows a hospital.
RENAMED = {
    "ENCOUNTER//INPATIENT": "HOSPITAL_ADMISSION//X",
    "DISCHARGE//DIED": "HOSPITAL_DISCHARGE//DIED",
    "ENCOUNTER//EMERGENCY": "ICU_ADMISSION//X",
}


def slow(events: pl.DataFrame, chosen) -> list[tuple]:
    people = {subject: transcription.Person(rows) for subject, rows in by_subject(events).items()}
    function, extra = getattr(transcription, chosen.task), ()
    if chosen.task == "next_visit_codes":
        extra = (transcription.vocabulary(people.values(), chosen.settings),)
    return [
        (subject, *row)
        for subject in sorted(people)
        for row in transcription.once(function(people[subject], chosen.settings, *extra))
    ]


def compare(events: pl.DataFrame, chosen) -> int:
    """Asserts that both give the same candidates; returns how many labels there are."""
    ours, theirs = fast(events, chosen), slow(events, chosen)
    reasons = lambda rows: Counter((s, t, r) for s, t, r in rows)  # noqa: E731
    assert reasons(ours.select("subject_id", "prediction_time", "excluded").iter_rows()) == reasons(
        (s, t, r) for s, t, _, _, r in theirs
    )
    labels = ours.filter(pl.col("excluded").is_null())
    expected = sorted(((s, t, v, *more) for s, t, v, more, reason in theirs if reason is None), key=lambda r: r[:2])
    value = chosen.module.VALUE
    assert labels[value].null_count() == 0
    got = labels.select("subject_id", "prediction_time", value, *chosen.module.EXTENSION).rows()
    assert len(got) == len(expected)
    for mine, yours in zip(got, expected):
        assert mine[:2] == yours[:2]
        for a, b in zip(mine[2:], yours[2:]):
            assert a == (pytest.approx(b, rel=1e-6) if isinstance(b, float) else b), (mine, yours)
    return len(got)


@pytest.mark.parametrize("case", CASES, ids=NAMES)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_equals_the_slow_loop(case, data) -> None:
    compare(data.draw(subjects()), choose(case[0], **case[1]))


@pytest.fixture(scope="module")
def hospital() -> pl.DataFrame:
    events = next(synthetic.simulate(60, seed=11))
    renamed = pl.col("code").replace(RENAMED)
    other = pl.col("code").str.starts_with("DISCHARGE//") & (renamed == pl.col("code"))
    events = events.with_columns(
        pl.when(other)
        .then(pl.lit("HOSPITAL_DISCHARGE//HOME"))
        .otherwise(renamed)
        .str.replace("^ICD10CM//", "DIAGNOSIS//ICD10CM//")
        .str.replace("^LOINC//2160-0//mg/dL$", "LAB//50912//mg/dL")
        .str.replace("^LOINC//2823-3//mmol/L$", "LAB//50971//mEq/L")
        .alias("code")
    )
    return events


@pytest.mark.parametrize("task", tasks())
def test_equals_the_slow_loop_on_the_synthetic_hospital(task: str, hospital: pl.DataFrame) -> None:
    options = {"stage_codes": tuple(r"DIAGNOSIS//ICD10CM//N18\." + str(s) for s in range(1, 6))}
    assert compare(hospital, choose(task, **(options if task == "disease_stage" else {}))) > 10
    if task == "disease_stage":
        assert compare(hospital, choose(task)) > 10


def test_every_task_is_tried() -> None:
    assert {task for task, _ in CASES} == set(tasks())
    for task in tasks():
        module = choose(task).module
        for word in ("Eligible", "redicted", "Outcome: ", "Excluded", "ensor"):
            assert word in module.__doc__, (task, word)
        assert dataclasses.is_dataclass(module.Settings)


IN, OUT = ADMISSIONS[0], HOME


def values(rows: list[tuple], task: str, **options) -> list[tuple]:
    """(hours from EPOCH, value, reason) of each candidate."""
    chosen = choose(task, **options)
    made = fast(frame(rows), chosen)
    return [
        (None if t is None else (t - EPOCH) / datetime.timedelta(hours=1), v, r)
        for t, v, r in made.select("prediction_time", chosen.module.VALUE, "excluded").iter_rows()
    ]


@pytest.mark.parametrize(("hour", "expected"), [(10, None), (10 + 1e-9, True), (730, True), (730 + 1e-9, False)])
def test_the_horizon_is_open_at_the_prediction_time_and_closed_at_its_end(hour: float, expected: bool | None) -> None:
    moment = datetime.timedelta(microseconds=1) if hour % 1 else datetime.timedelta(0)
    again = (1, EPOCH + datetime.timedelta(hours=int(hour)) + moment, IN, None, None, None)
    rows = [row(0, IN), row(10, OUT), again, row(9000, OUT), row(9001, "MEDICATION//X")]
    first = values(rows, "readmission_30d")[0]
    if expected is None:
        # Admitted at the very moment of the discharge: still in hospital, and not readmitted.
        assert first == (10.0, False, "still in another stay")
    else:
        assert first == (10.0, expected, None)


def test_before_1970_and_ties_and_static_rows() -> None:
    assert EPOCH.year == 1969
    rows = [row(None, "DIAGNOSIS//ICD10CM//E119"), row(0, IN), row(5, OUT), row(5, "DIAGNOSIS//ICD10CM//I10")]
    codes = {"codes": ("DIAGNOSIS//ICD10CM//E11",)}
    assert values(rows, "new_diagnosis", **codes) == [(5.0, False, "on record by the prediction time")]
    # A diagnosis at the very time of the discharge is known then: it is history, not outcome.
    assert values(rows, "new_diagnosis", codes=("DIAGNOSIS//ICD10CM//I10",))[0][2] == "on record by the prediction time"
    assert values(rows[1:], "new_diagnosis", **codes) == [(5.0, False, None)]


def test_death_without_a_discharge_ends_the_last_stay_only() -> None:
    rows = [row(0, IN), row(1000, IN), row(1100, "MEDS_DEATH")]
    assert values(rows, "in_hospital_mortality") == [
        (24.0, False, "no end of the stay is recorded"),
        (1024.0, True, None),
    ]


def test_subjects_without_stays_events_or_times() -> None:
    for rows in (
        [],
        [row(None, "GENDER//F")],
        [row(0, "MEDS_BIRTH")],
        [row(0, "MEDS_DEATH")],
        [row(1, "MEDICATION//X")],
    ):
        for task in tasks():
            assert [r for r in values(rows, task) if r[2] is None] == []


def test_new_diagnosis_every_year_stops_at_death_and_at_the_end_of_data() -> None:
    rows = [row(0, "MEDICATION//X"), row(24 * 365 * 3, "MEDS_DEATH")]
    asked = [hour / 24 for hour, _, _ in values(rows, "new_diagnosis", predict="every", codes=("MEDS_DEATH",))]
    assert asked == [365.0, 730.0]
    end = (EPOCH + datetime.timedelta(days=365)).isoformat()
    asked = values(rows, "new_diagnosis", predict="every", codes=("MEDS_DEATH",), data_end=end)
    assert [hour / 24 for hour, _, _ in asked] == [365.0]


def test_the_kidney_function_of_published_examples() -> None:
    # eGFR of 2021 by hand: a woman of 50 with 1.0 mg/dL and a man of 70 with 2.0 mg/dL.
    woman = (50, 1.0, 142 * (1 / 0.7) ** -1.2 * 0.9938**50 * 1.012)
    man = (70, 2.0, 142 * (2 / 0.9) ** -1.2 * 0.9938**70)
    for sex, (age, creatinine, expected) in (("F", woman), ("M", man)):
        born = row(-age * 365.25 * 24, "MEDS_BIRTH")
        rows = [row(None, f"GENDER//{sex}"), born, row(0, "LAB//50912//mg/dL", creatinine, 1)]
        made = record(frame(rows))
        results = made.timed(("LAB//",)).with_columns(pl.col("numeric_value").cast(pl.Float64).alias("value"))
        assert ckd_epi_2021(made, results).to_list() == [pytest.approx(expected, rel=1e-6)]


@pytest.mark.parametrize(("follow_up", "beyond"), [("keep", None), ("exclude", "no"), ("complete", "no")])
@pytest.mark.parametrize("by", ["last event", "data_end"])
def test_the_record_covers_a_horizon_that_ends_where_it_ends(follow_up: str, beyond: str | None, by: str) -> None:
    for hour, covered in ((10 + 720, True), (10 + 719, False)):
        end = EPOCH + datetime.timedelta(hours=hour)
        options = {"follow_up": follow_up, **({"data_end": end.isoformat()} if by == "data_end" else {})}
        last = [row(hour, "MEDICATION//X")] if by == "last event" else []
        reason = "follow-up ends before the horizon" if beyond and not covered else None
        assert values([row(0, IN), row(10, OUT), *last], "readmission_30d", **options) == [(10.0, False, reason)]


def test_follow_up_keeps_what_is_known_but_complete_asks_for_all_of_it() -> None:
    admitted = [row(0, IN), row(10, OUT), row(20, IN)]
    died = [row(0, IN), row(10, OUT), row(20, "MEDS_DEATH")]
    end = {"data_end": (EPOCH + datetime.timedelta(hours=100)).isoformat()}
    lost = "follow-up ends before the horizon"
    for rows, outcome in ((admitted, True), (died, False)):
        for options, reason in (({}, None), ({"follow_up": "exclude"}, None), ({"follow_up": "complete"}, lost)):
            assert (10.0, outcome, reason) in values(rows, "readmission_30d", **options, **end)
    # After a death the record is complete for ever, unless the calendar decides.
    assert values(died, "readmission_30d", follow_up="complete") == [(10.0, False, None)]
