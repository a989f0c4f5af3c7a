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
from ehrjax.ingest.meds import open_dataset


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
    assert "No timeline is drawn" in shown and "The times are no dates" in shown and "&lt;11" in shown
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
