"""The page of a dataset: its numbers are an independent recount's, and it gives nobody away."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ehrjax.core.errors import InputError
from ehrjax.data import token_dataset
from ehrjax.evals import dataset_page
from ehrjax.ingest import inspection, synthetic
from ehrjax.ingest.meds import MedsWriter, open_dataset


@pytest.fixture(scope="module")
def made_up(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("inspect") / "meds"
    synthetic.write(folder, patients=150, seed=2)
    return folder


def events_of(folder: Path) -> pl.DataFrame:
    frames = [
        pl.read_parquet(path).with_columns(split=pl.lit(path.parent.name)) for path in folder.glob("data/*/*.parquet")
    ]
    return pl.concat(frames)


def plain(page: Path) -> str:
    return re.sub(r"<[^>]+>", " ", re.sub(r"<script.*?</script>", "", page.read_text(), flags=re.S))


def test_the_numbers_are_those_of_the_events(made_up, monkeypatch):
    whole = inspection.inspect(open_dataset(made_up))
    monkeypatch.setattr(inspection, "CHUNK_EVENTS", 2_000)
    found = inspection.inspect(open_dataset(made_up))
    events = events_of(made_up)
    assert found.splits.equals(whole.splits) and found.codes.equals(whole.codes), "pieces change nothing"
    for row in found.splits.iter_rows(named=True):
        own = events.filter(pl.col("split") == row["split"])
        assert row["events"] == len(own) and row["subjects"] == own["subject_id"].n_unique()
        assert row["static"] == own["time"].null_count() and row["with_value"] == own["numeric_value"].count()
        lengths = own["subject_id"].value_counts()["count"].sort()
        assert sorted(found.lengths[row["split"]]) == lengths.to_list()
        known = own["code"].is_in(events.filter(pl.col("split") == "train")["code"].unique().implode()).mean()
        assert found.coverage[row["split"]] == pytest.approx(known)
    assert dict(found.codes.select("code", "events").iter_rows()) == dict(events["code"].value_counts().iter_rows())
    for code, frame in found.values.items():
        own = events.filter((pl.col("code") == code) & pl.col("numeric_value").is_not_null())
        assert frame["count"].sum() == len(own)
        assert (frame["value"] * frame["count"]).sum() == pytest.approx(own["numeric_value"].sum(), rel=1e-4)
    visits = events.filter(pl.col("visit_id").is_not_null())
    assert found.visits == visits.select("subject_id", "visit_id").n_unique()
    spans = visits.group_by("subject_id", "visit_id").agg((pl.col("time").max() - pl.col("time").min()).alias("d"))
    assert found.stays.sum() == (spans["d"].dt.total_seconds() > 0).sum()


def test_the_page_stands_alone_and_shows_a_made_up_person(made_up, tmp_path):
    page = dataset_page.write(made_up, tmp_path / "page")
    content = re.sub(r"<script.*?</script>", "", page.read_text(), flags=re.S)
    assert not re.search(r'(src|href)="(?!#)', content), "no reference leads out"
    shown = plain(page)
    events = events_of(made_up)
    assert f"{len(events):,} events" in shown and "This person is made up" in shown
    outpatient = events.filter((pl.col("code") == "ENCOUNTER//OUTPATIENT") & (pl.col("split") == "train"))
    assert f"{len(outpatient):,}" in shown


def test_real_people_are_neither_drawn_nor_counted_by_ones(made_up, tmp_path):
    import shutil

    shutil.copytree(made_up, tmp_path / "real")
    path = tmp_path / "real" / "metadata" / "dataset.json"
    told = json.loads(path.read_text())
    del told["synthetic"]
    told["pseudo_dates"] = {"good_for": "order", "why": "the source has no dates"}
    told["reader_summary"] = {
        "tables": {"labs": {"rows": 9, "rows_emitted": 7, "rows_set_aside": {"no time": 2}, "events": 7}}
    }
    path.write_text(json.dumps(told))
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setattr(dataset_page, "MOST_CODES", 10_000)
        shown = plain(dataset_page.write(tmp_path / "real", tmp_path / "page"))
    assert "No timeline is drawn" in shown and "The times are no dates" in shown and "few" in shown.split()
    assert "no time" in shown
    subject = int(open_dataset(made_up).splits["subject_id"][0])
    shown = plain(dataset_page.write(tmp_path / "real", tmp_path / "drawn", subject=subject))
    assert "No timeline is drawn" not in shown and "made up" not in shown
    with pytest.raises(InputError, match="no such subject"):
        dataset_page.write(tmp_path / "real", tmp_path / "none", subject=10**9)
    assert not (tmp_path / "none").exists()


def test_tokens_have_a_page_too(toy_tokens, tmp_path):
    shown = plain(dataset_page.write(toy_tokens, tmp_path / "page"))
    dataset = token_dataset.open_tokens(toy_tokens)
    train = dataset.split("train")
    assert f"{int(train.lengths.sum()):,}" in shown and f"{len(train):,}" in shown
    counts = np.bincount(np.concatenate([shard.columns["tokens"] for shard in train.shards]))
    top = int(np.argmax(counts))
    assert dataset.vocabulary.strings[top] in shown and f"{counts[top]:,}" in shown
    assert "No sequence is shown" in shown
    subject = int(train.subject_ids[0])
    assert "[CLS]" in plain(dataset_page.write(toy_tokens, tmp_path / "own", subject=subject))


def test_datasets_without_values_visits_or_a_split(tmp_path, toy_meds):
    import shutil

    shutil.copytree(toy_meds, tmp_path / "bare")
    for path in (tmp_path / "bare").glob("data/**/*.parquet"):
        pl.read_parquet(path).drop("numeric_value").write_parquet(path)
    shown = plain(dataset_page.write(tmp_path / "bare", tmp_path / "page"))
    assert "No event has a numeric value" in shown and "no visit ids" in shown
    with pytest.raises(InputError, match="neither a MEDS dataset"):
        dataset_page.write(tmp_path / "page", tmp_path / "x")
    with pytest.raises(InputError, match="does not exist"):
        dataset_page.write(tmp_path / "nothing", tmp_path / "x")


DAY = 86_400 * 10**6
ODD = {
    "only static events": [(1, None, "GENDER//F", None)],
    "a birth alone": [(1, 0, "MEDS_BIRTH", None)],
    "markup in a code": [(1, 0, "DX//</script><script>alert(1)</script>", 1.0), (1, DAY, "<b>\u00b5 \u5b57</b>", 2.0)],
    "values that are none": [(1, 0, "L//x", np.inf), (1, 1, "L//x", -np.inf), (1, 2, "L//x", np.nan)],
    "one value again and again": [(1, i * DAY, "L//x", 5.0) for i in range(20)],
    "years beyond Python's": [(1, -(10**17), "MEDS_BIRTH", None), (1, 3 * 10**17, "L//x", 3.4e38)],
    "an empty code": [(1, 0, "", None), (1, 5, "//", -0.0)],
}


@pytest.mark.parametrize("odd", ODD)
def test_odd_datasets_have_pages(odd, tmp_path):
    events = pl.DataFrame(
        ODD[odd],
        {"subject_id": pl.Int64, "time": pl.Int64, "code": pl.String, "numeric_value": pl.Float32},
        orient="row",
    ).with_columns(pl.col("time").cast(pl.Datetime("us")))
    splits = pl.DataFrame({"subject_id": [1], "split": ["tuning"]})
    writer = MedsWriter(tmp_path / "meds", "odd", "1", splits=splits)
    writer.write_shard(events)
    writer.finish({})
    for subject in (None, 1):
        page = dataset_page.write(tmp_path / "meds", tmp_path / f"page {subject}", subject=subject)
        assert "<script>alert" not in page.read_text() and f"{len(events):,} events" in plain(page)


def test_few_people_are_not_counted_however_many_events_they_have(tmp_path):
    """One subject's 300 events of a rare code, and its values, show nowhere; 20 subjects' do."""
    times = pl.datetime_range(pl.datetime(2020, 1, 1), pl.datetime(2021, 1, 1), "1d", eager=True)[:300].cast(
        pl.Datetime("us")
    )
    rare = pl.DataFrame({"subject_id": [1] * 300, "time": times, "code": "RARE//it", "numeric_value": [7.5] * 300})
    common = pl.DataFrame(
        {"subject_id": range(1, 21), "time": times[:20], "code": "LAB//common", "numeric_value": [3.0] * 20}
    )
    events = pl.concat([rare, common]).sort("subject_id", "time")
    writer = MedsWriter(
        tmp_path / "meds", "odd", "1", splits=pl.DataFrame({"subject_id": range(1, 21), "split": ["train"] * 20})
    )
    writer.write_shard(events.with_columns(pl.col("numeric_value").cast(pl.Float32)))
    writer.finish({})
    found = inspection.inspect(open_dataset(tmp_path / "meds"))
    assert found.codes.select("code", "events", "subjects").rows() == [("RARE//it", 300, 1), ("LAB//common", 20, 20)]
    assert found.families.rows() == [("RARE", 1, 300, 1), ("LAB", 1, 20, 20)]
    shown = plain(dataset_page.write(tmp_path / "meds", tmp_path / "page"))
    assert "RARE" in shown and "few" in shown.split() and "LAB//common" in shown
    assert "300" not in shown.split() and "7.5" not in shown.split()


def test_overlapping_visits_and_many_values_are_bounded(tmp_path, monkeypatch):
    generator = np.random.default_rng(0)
    start = [0, 10, 5, 30]  # the third begins within the second's predecessor, which lasts until day 20
    end = [20, 12, 8, 31]
    rows = [(1, day * DAY, "A//x", value, number)
            for number, days in enumerate(zip(start, end)) for day in days
            for value in generator.normal(size=50)]  # fmt: skip
    schema = {"subject_id": pl.Int64, "time": pl.Int64, "code": pl.String, "numeric_value": pl.Float32}
    events = pl.DataFrame(rows, {**schema, "visit_id": pl.Int64}, orient="row").sort("time")
    events = events.with_columns(pl.col("time").cast(pl.Datetime("us")))
    writer = MedsWriter(tmp_path / "meds", "odd", "1", splits=pl.DataFrame({"subject_id": [1], "split": ["train"]}))
    writer.write_shard(events)
    writer.finish({})
    found = inspection.inspect(open_dataset(tmp_path / "meds"))
    assert found.visits == 4 and found.overlaps == 2
    assert found.gaps.sum() == 1 and found.gaps[np.searchsorted(inspection.EDGES, 10) - 1] + found.gaps[
        np.searchsorted(inspection.EDGES, 10)
    ] == 1, "ten days from the end of the first to the last"  # fmt: skip
    exact = found.values["A//x"]
    assert len(exact) == 400
    monkeypatch.setattr(inspection, "MOST_VALUES", 100)
    rounded = inspection.inspect(open_dataset(tmp_path / "meds")).values["A//x"]
    assert rounded["count"].sum() == 400 and len(rounded) < 400
    medians = [frame["value"][int(np.searchsorted(frame["count"].cum_sum(), 200))] for frame in (exact, rounded)]
    assert medians[1] == pytest.approx(medians[0], rel=2e-3, abs=1e-3)
