"""Notes as a table: ours, MIMIC-IV-Note's layout, and those written from coded visits."""

from __future__ import annotations

import datetime
import gzip
from collections import Counter
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest

from ehrjax.core.errors import InputError
from ehrjax.ingest import notes, synthetic, visit_notes

MIMIC = """note_id,subject_id,hadm_id,note_type,note_seq,charttime,storetime,text
10-DS-1,10,100,DS,1,2180-05-07 00:00:00,2180-05-09 15:26:00," Chief complaint:
""chest pain"", worse
at night "
10-DS-2,10,101,DS,2,2180-07-01 10:00:00,,Well
11-DS-1,11,102,DS,1,,2181-01-01 00:00:00,lost time
12-DS-1,12,103,DS,1,2182-01-01 00:00:00,2181-12-31 00:00:00,
13-DS-1,,103,DS,1,2182-01-01 00:00:00,2181-12-31 00:00:00,whose
14-DS-1,14,104,DS,1,2182-01-02 09:00:00,2182-01-01 00:00:00,stored before it was charted
"""


def read(path: Path) -> tuple[pl.DataFrame, Counter]:
    aside: Counter[str] = Counter()
    return pl.concat(list(notes.pieces(path, aside))), aside


def test_mimic_notes_count_from_when_they_were_stored(tmp_path):
    path = tmp_path / "discharge.csv.gz"
    path.write_bytes(gzip.compress(MIMIC.encode()))
    frame, aside = read(path)
    assert frame["subject_id"].to_list() == [10, 10, 14] and list(frame.columns) == list(notes.FRAME)
    assert [str(t) for t in frame["time"]] == ["2180-05-09 15:26:00", "2180-07-01 10:00:00", "2182-01-02 09:00:00"]
    assert frame["text"][0] == 'Chief complaint:\n"chest pain", worse\nat night'
    assert aside == {notes.NO_TIME: 1, notes.NO_TEXT: 1, notes.NO_SUBJECT: 1}


def test_other_names_and_formats(tmp_path):
    table = pl.DataFrame({"Subject_ID": [3], "time": [datetime.datetime(2020, 1, 2)], "text": ["a"]})
    table.write_parquet(tmp_path / "n.parquet")
    frame, aside = read(tmp_path / "n.parquet")
    assert frame.row(0) == (3, datetime.datetime(2020, 1, 2), None, "a", None) and not aside
    (tmp_path / "n.csv").write_text("subject_id,charttime,text\n3,2020-01-02,a\n")
    # A bare day: all that is known is that the note was there by its end.
    assert read(tmp_path / "n.csv")[0]["time"][0] == datetime.datetime(2020, 1, 2, 23, 59, 59, 999999)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("subject_id,text\n1,a\n", "has no column 'charttime'"),
        ("charttime,text\n2020-01-02,a\n", "has no column 'subject_id'"),
        ("subject_id,charttime\n1,2020-01-02\n", "has no column 'text'"),
        ("subject_id,charttime,text\n1,soon,a\n", "line 2"),
        ("", "empty"),
    ],
)
def test_bad_tables(content, message, tmp_path):
    path = tmp_path / "notes.csv"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        read(path)


def test_damaged_or_missing_files(tmp_path):
    with pytest.raises(InputError, match="no file of notes and no folder with notes/notes.parquet"):
        notes.find(tmp_path)
    path = tmp_path / "notes" / notes.FILE
    path.parent.mkdir()
    frame = pl.DataFrame([(1, datetime.datetime(2020, 1, 1), "x", "text", [1, 2])], schema=notes.FRAME, orient="row")
    frame.write_parquet(path)
    assert notes.find(tmp_path) == notes.find(path.parent) == notes.find(path) == path
    assert read(path)[0].equals(frame)
    frame.with_columns(time=pl.lit("soon")).write_parquet(path)
    with pytest.raises(InputError, match="other types"):
        read(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="truncated|parquet"):
        read(path)


@pytest.fixture(scope="module")
def hospital(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("notes") / "events"
    synthetic.write(folder, patients=60, seed=3)
    return folder


def test_a_visit_s_note_says_its_codes_at_its_last_event(hospital, tmp_path):
    """Told again, row by row, in plain Python."""
    told = visit_notes.write(hospital, tmp_path / "notes.parquet")
    assert pq.read_schema(tmp_path / "notes.parquet").equals(notes.SCHEMA)
    found = pl.read_parquet(tmp_path / "notes.parquet")
    meaning = dict(pl.read_parquet(hospital / "metadata" / "codes.parquet").select("code", "description").iter_rows())
    events = pl.concat([pl.read_parquet(path) for path in sorted((hospital / "data").rglob("*.parquet"))])
    expected: dict[tuple[int, str], tuple[datetime.datetime, dict[str, None]]] = {}
    for row in events.iter_rows(named=True):
        if row["time"] is None or row["code"] in ("MEDS_BIRTH", "MEDS_DEATH"):
            continue
        visit = f"{row['time']:%Y-%m-%d}" if row["visit_id"] is None else str(row["visit_id"])
        said = meaning[row["code"]] or row["code"]
        if row["numeric_value"] is not None:
            said += f": {float(format(row['numeric_value'], '.4g')):.10g}"
        time, words = expected.get((row["subject_id"], visit), (row["time"], {}))
        words[said] = None
        expected[row["subject_id"], visit] = max(time, row["time"]), words
    assert told["notes"] == len(found) == len(expected) and told["subjects"] == 60
    for subject, time, name, text, ids in found.iter_rows():
        visit = name.removeprefix(f"{subject}-").removeprefix("day-")
        assert ids is None and (time, text) == (
            expected[subject, visit][0],
            "; ".join(expected[subject, visit][1]) + ".",
        )
    times = found.group_by("subject_id", maintain_order=True).agg(pl.col("time").is_sorted())
    assert times["time"].all()
    assert any("mg/dL" in text and "diabetes" in text for text in found["text"])


def test_later_events_change_no_earlier_note(hospital):
    events = pl.concat([pl.read_parquet(path) for path in sorted((hospital / "data").rglob("*.parquet"))])
    cut = events["time"].drop_nulls().sort()[len(events) // 2]
    whole = visit_notes.of_events(events, {})
    part = visit_notes.of_events(events.filter(pl.col("time").is_null() | (pl.col("time") <= cut)), {})
    early = whole.filter(pl.col("time") <= cut)
    assert len(early) > 50 and early.equals(part.filter(pl.col("note_id").is_in(early["note_id"].implode())))
