"""The reader of CEHR-BERT's patient sequences: the lists' events, at the times when they were known."""

from __future__ import annotations

from collections import Counter
from datetime import date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from ehrjax.ingest import cehr_bert as reader
from ehrjax.ingest import conversion
from tests.ingest import cehr_bert_layout as layout
from tests.ingest.meds_checks import check_accounting, check_meds, digests, events_in, labels_in, refusal, until


def convert(frame: pl.DataFrame, folder: Path, **settings: object) -> tuple[pl.DataFrame, dict]:
    raw = layout.write(frame, folder / "raw")
    summary = reader.read(raw, folder / "meds", reader.Settings(**settings))
    return events_in(folder / "meds"), summary


def as_told(events: pl.DataFrame) -> dict[int, Counter]:
    return {
        subject[0]: Counter(mine.select("time", "code", "numeric_value", "text_value").iter_rows())
        for subject, mine in events.group_by("subject_id")
    }


@pytest.mark.parametrize("prompt", [True, False])
@pytest.mark.parametrize("meds_path", [False, True])
@pytest.mark.parametrize("seed", [1, 2])
def test_the_lists_give_exactly_the_events_that_they_tell(seed, meds_path, prompt, tmp_path):
    frame, told = layout.generate(seed, prompt=prompt, meds_path=meds_path)
    events, summary = convert(frame, tmp_path)
    check_meds(tmp_path / "meds")
    check_accounting(summary)
    assert as_told(events) == told
    assert summary["tables"]["concepts"]["rows"] == frame["concept_ids"].list.len().sum()
    assert summary["sequences"] == {"rows": len(frame), "rows_read": len(frame), "rows_set_aside": {}}
    marks = frame["concept_ids"].explode().str.contains(r"^\[V[SE]\]$").sum()
    assert summary["tables"]["concepts"]["rows_set_aside"]["[VS] or [VE] token"] == marks
    assert "orders" in summary["columns_not_read"]


def test_visits_are_those_of_the_sequence(tmp_path):
    frame, _ = layout.generate(3, prompt=False)
    numbered, _ = convert(frame, tmp_path / "numbered")
    plain, _ = convert(frame.drop("visit_rank_orders"), tmp_path / "plain")
    assert numbered.drop("visit_id").equals(plain.drop("visit_id"))
    pairs = pl.DataFrame({"s": numbered["subject_id"], "a": numbered["visit_id"], "b": plain["visit_id"]})
    pairs = pairs.unique().drop_nulls("a")
    assert pairs["b"].null_count() == 0
    assert pairs.select("s", "a").is_unique().all() and pairs.select("s", "b").is_unique().all(), "one to one"
    asleep = numbered.filter(pl.col("code").str.starts_with("MEDS_BIRTH"))
    assert asleep["visit_id"].null_count() == len(asleep)


def one(tmp_path: Path, columns: dict[str, list]) -> pl.DataFrame:
    """The events of one person given by a few lists."""
    count = len(columns["concept_ids"])
    full = {"visit_segments": [1] * count, "concept_value_masks": [0] * count, **columns}
    frame = pl.DataFrame({"person_id": [1], **{name: [values] for name, values in full.items()}})
    return convert(frame, tmp_path)[0]


def test_weeks_count_from_their_end_and_days_from_theirs(tmp_path):
    events = one(tmp_path / "weeks", {"concept_ids": ["1", "2", "3"], "dates": [-1, 0, 2000]})
    assert events["time"].to_list() == [
        datetime(1970, 1, 1) + timedelta(weeks=w + 1) - timedelta(microseconds=1) for w in (-1, 0, 2000)
    ]
    midnight = (datetime(1969, 3, 4) - datetime(1970, 1, 1)).total_seconds()
    events = one(tmp_path / "days", {"concept_ids": ["1", "2"], "epoch_times": [midnight, midnight + 0.25]})
    assert events["time"].to_list() == [
        datetime(1969, 3, 4, 0, 0, 0, 250_000),
        datetime(1969, 3, 4, 23, 59, 59, 999_999),
    ]
    assert events["code"].to_list() == ["OMOP_CONCEPT//2", "OMOP_CONCEPT//1"]


def test_time_tokens_are_told_from_codes_by_their_segment(tmp_path):
    tokens = ["D12", "W3", "D12", "M0", "LT", "W-1", "i-D2", "VS-D7-VE", "H5"]
    segments = [1, 0, 0, 0, 0, 0, 0, 0, 2]
    times = [1000.0 * (n + 1) for n in range(len(tokens))]
    columns = {"concept_ids": tokens, "visit_segments": segments, "epoch_times": times}
    assert one(tmp_path, columns)["code"].to_list() == ["CODE//D12", "CODE//H5"]


def test_codes_keep_their_vocabulary_and_measurements_their_unit(tmp_path):
    columns = {
        "concept_ids": ["ICD10CM/E11.9", "LAB//50912//mg/dL", "LAB//50912", "SNOMED/1", "X  Y", "RxNorm/1//2"],
        "concept_value_masks": [0, 1, 1, 1, 0, 0],
        "concept_values": [-1.0, 1.5, 2.5, 3.5, -1.0, -1.0],
        "units": ["N/A", "N/A", "mg/dL", "N/A", "N/A", "N/A"],
        "epoch_times": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
    }
    events = one(tmp_path, columns)
    assert events["code"].to_list() == [
        "ICD10CM//E11.9",
        "LAB//50912//mg/dL",
        "LAB//50912//mg/dL",
        "SNOMED//1//UNK",
        "CODE//X Y",
        "RxNorm/1//2",
    ]
    assert events["numeric_value"].to_list() == [None, 1.5, 2.5, 3.5, None, None]


def test_births_come_from_the_prompt_else_from_the_first_age(tmp_path):
    at = layout.posix(datetime(2001, 6, 1, 12))
    lists = {"concept_ids": ["year:2001", "age:50", "F", "Race/5", "7"], "visit_segments": [0, 0, 0, 0, 1]}
    events = one(tmp_path / "prompt", {**lists, "epoch_times": [at] * 5, "ages": [-1, -1, -1, -1, 49]})
    assert events["code"].to_list() == ["GENDER//F", "RACE//5", "MEDS_BIRTH", "OMOP_CONCEPT//7"]
    assert events["time"][2] == datetime(1951, 1, 1)
    ages = {"concept_ids": ["7", "8", "9"], "epoch_times": [at] * 3, "ages": [-1, 49, 50]}
    assert one(tmp_path / "ages", ages).filter(pl.col("code") == "MEDS_BIRTH")["time"].to_list() == [
        datetime(1952, 1, 1)
    ]
    none = one(tmp_path / "none", {"concept_ids": ["7"], "epoch_times": [at], "ages": [999]})
    assert none["code"].to_list() == ["OMOP_CONCEPT//7"]


def test_a_label_is_asked_for_at_its_index_date(tmp_path):
    frame, _ = layout.generate(5)
    _, summary = convert(frame, tmp_path, task="hf")
    labels = labels_in(tmp_path / "meds", "hf")
    expected = frame.select(
        pl.col("person_id").alias("subject_id"),
        (pl.col("index_date") * 1e6).cast(pl.Int64).cast(pl.Datetime("us")).alias("prediction_time"),
        (pl.col("label") == 1).alias("boolean_value"),
    )
    assert labels.equals(expected) and summary["labels"]["hf"]["labels"] == len(frame)
    dated = frame.with_columns(pl.lit(date(2001, 2, 3)).alias("index_date"))
    convert(dated, tmp_path / "dated")
    times = labels_in(tmp_path / "dated" / "meds", "outcome")["prediction_time"]
    assert set(times) == {datetime(2001, 2, 3)}, "nothing of that day may be seen"
    convert(frame.drop("label"), tmp_path / "without")
    assert not (tmp_path / "without" / "meds" / "labels").exists()


def test_files_with_and_without_labels_are_not_mixed(tmp_path):
    raw = layout.write(layout.generate(5)[0], tmp_path / "raw")
    path = raw / "part-00001.parquet"
    pl.read_parquet(path).drop("label").write_parquet(path)
    assert "part-00001.parquet has no label" in refusal(reader.read, raw, tmp_path / "meds")


@pytest.mark.parametrize("ranked", [True, False])
def test_a_persons_cohort_rows_are_merged(ranked, tmp_path):
    frame, told = layout.generate(6, persons=6)
    frame = frame if ranked else frame.drop("visit_rank_orders")
    lists = [name for name in frame.columns if isinstance(frame[name].dtype, pl.List)]
    visit = [row.index("[VE]") + 1 for row in frame["concept_ids"].to_list()]
    half = frame.with_columns(pl.col(name).list.head(pl.lit(pl.Series(visit))) for name in lists)
    once, _ = convert(frame, tmp_path / "once")
    for number, both in enumerate((pl.concat([half, frame]), pl.concat([frame, half]))):
        events, summary = convert(both, tmp_path / str(number))
        check_accounting(summary)
        key = ["subject_id", "time", "code", "numeric_value", "text_value", "visit_id"]
        assert events.sort(key).equals(once.sort(key))
        assert summary["tables"]["concepts"]["rows_set_aside"]["stands in an earlier sequence of the person"] > 0
        assert summary["persons_in_several_rows"] == 6
        assert len(labels_in(tmp_path / str(number) / "meds", "outcome")) == 12


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_deleting_later_concepts_leaves_earlier_events_as_they_were(seed, share, tmp_path):
    frame, _ = layout.generate(seed, prompt=seed % 2 == 0)
    events, _ = convert(frame, tmp_path / "all")
    moments = events["time"].drop_nulls().sort()
    now = moments[int(share * len(moments))]
    lists = [name for name in frame.columns if isinstance(frame[name].dtype, pl.List)]
    rows = frame.to_dicts()
    for row in rows:
        known = [time <= now for time in known_times(row)]
        for name in lists:
            row[name] = [value for value, keep in zip(row[name], known) if keep]
    fewer, _ = convert(pl.DataFrame(rows, schema=frame.schema), tmp_path / "until")
    full, here = until(events, now), pl.col("subject_id").is_in(fewer["subject_id"].unique().implode())
    assert fewer.equals(full.filter(here)) and 0 < len(fewer) < len(events)
    assert set(full.filter(~here)["code"]) <= {"MEDS_BIRTH"}, "of others only the birth is known"


def known_times(row: dict) -> list[datetime]:
    """When each element of a row became known; a prompt stands before everything."""
    times = []
    for number, (concept, seconds) in enumerate(zip(row["concept_ids"], row["epoch_times"])):
        time = datetime(1970, 1, 1) + timedelta(seconds=seconds)
        time = layout.end_of_day(time) if seconds % 86400 == 0 else time
        if row["concept_ids"][0].startswith("year:") and number < 4:
            time = datetime(1, 1, 1)
        if concept == "8536":
            time = datetime(1970, 1, 1) + timedelta(seconds=row["epoch_times"][number + 1])
        times.append(time)
    return times


def test_pieces_and_buckets_do_not_change_the_events(tmp_path, monkeypatch):
    frame, _ = layout.generate(4)
    events, _ = convert(frame, tmp_path)
    reader.read(tmp_path / "raw", tmp_path / "again")
    assert digests(tmp_path / "again") == digests(tmp_path / "meds")
    monkeypatch.setattr(conversion, "BUCKET_BYTES", 1000)
    monkeypatch.setattr(reader, "PIECE_CONCEPTS", 10)
    steps = []
    reader.read(tmp_path / "raw", tmp_path / "small", progress=lambda *step: steps.append(step))
    assert events_in(tmp_path / "small").equals(events)
    assert len(list((tmp_path / "small" / "data" / "train").glob("*.parquet"))) > 1
    assert steps[-1][1] == steps[-1][2]
