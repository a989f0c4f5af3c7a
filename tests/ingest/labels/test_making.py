"""Label folders: valid MEDS labels, every candidate counted, the same however the dataset is cut into files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import meds as standard
import polars as pl
import pyarrow.parquet as pq
import pytest

from ehrjax.core import files
from ehrjax.core.errors import InputError
from ehrjax.ingest import meds, synthetic
from ehrjax.ingest.labels import making
from ehrjax.ingest.labels.reading import read_labels
from ehrjax.ingest.labels.settings import choose, tasks
from tests.conftest import write_meds
from tests.ingest.labels.histories import frame, row, stay

# What the synthetic hospital can serve; it has no intensive care.
SERVED = [task for task in tasks() if task != "icu_transfer"]


@pytest.fixture(scope="module")
def events() -> pl.DataFrame:
    return next(synthetic.simulate(120, seed=5))


def write(folder: Path, events: pl.DataFrame, shards: int, **extra: object) -> Path:
    with files.written_folder(folder, what="MEDS dataset") as temporary:
        writer = meds.MedsWriter(temporary, "hospital", "1")
        for part in range(shards):
            writer.write_shard(events.filter(pl.col("subject_id") % shards == part))
        writer.finish({}, extra=extra)
    return folder


@pytest.fixture(scope="module")
def hospital(events: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("hospital") / "meds", events, 1)


@pytest.mark.parametrize("task", SERVED)
def test_files_are_valid_meds_labels_and_everything_is_counted(task: str, hospital: Path, tmp_path: Path) -> None:
    chosen = choose(task)
    info = making.make(hospital, tmp_path, chosen)
    assert json.loads((tmp_path / task / "task.json").read_text()) == info
    split_of = dict(pl.read_parquet(hospital / "metadata" / "subject_splits.parquet").iter_rows())
    shards = list((tmp_path / task).rglob("*.parquet"))
    rows = dict.fromkeys(meds.SPLITS, 0)
    for path in shards:
        # The validator of the standard: a closed schema, no nulls. No other parquet may lie below the folder.
        table = pq.read_table(path)
        standard.LabelSchema.validate(table)
        assert table.column_names == ["subject_id", "prediction_time", chosen.module.VALUE]
        assert not any(column.null_count for column in table.columns)
        split = path.relative_to(tmp_path / task).parts[0]
        assert {split_of[s] for s in table["subject_id"].to_pylist()} == {split}
        rows[split] += len(table)
        found = pl.DataFrame(pl.from_arrow(table))
        assert found.equals(found.sort("subject_id", "prediction_time"))
        beside = tmp_path / task / "extension" / split / f"{path.stem}.arrow"
        assert beside.is_file() == bool(chosen.module.EXTENSION)
        if beside.is_file():
            extension = pl.read_ipc(beside)
            assert (
                extension.schema
                == {"subject_id": pl.Int64, "prediction_time": pl.Datetime("us")} | chosen.module.EXTENSION
            )
            assert extension.select("subject_id", "prediction_time").equals(
                found.select("subject_id", "prediction_time")
            )
    labels = read_labels(tmp_path / task)
    assert not labels.frame.select(pl.struct("subject_id", "prediction_time").is_duplicated().any()).item()
    for split, counts in info["splits"].items():
        assert counts["candidates"] == counts["labels"] + sum(counts["excluded"].values())
        assert counts["labels"] == rows[split] == labels.frame.filter(pl.col("split") == split).height
        assert counts["subjects"] == sum(s == split for s in split_of.values())
        if "positives" in counts:
            assert (
                counts["positives"] == labels.frame.filter((pl.col("split") == split) & pl.col("boolean_value")).height
            )


@pytest.mark.parametrize("task", ["readmission_30d", "next_visit_codes", "time_to_event", "disease_stage"])
def test_labels_do_not_depend_on_how_the_dataset_is_cut(
    task: str, events: pl.DataFrame, hospital: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = making.make(hospital, tmp_path / "one", choose(task))
    many = write(tmp_path / "many", events, 3)
    # Row groups of a few hundred events, so that pieces end amid subjects.
    for path in (many / "data").rglob("*.parquet"):
        pq.write_table(pq.read_table(path), path, row_group_size=700)
    monkeypatch.setattr(making, "CHUNK_EVENTS", 1000)
    other = making.make(many, tmp_path / "cut", choose(task))
    assert other["splits"] == info["splits"]
    assert other.get("vocabulary") == info.get("vocabulary")
    assert read_labels(tmp_path / "cut" / task).frame.equals(read_labels(tmp_path / "one" / task).frame)


def test_the_same_command_writes_the_same_bytes(hospital: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        making.make(hospital, tmp_path / name, choose("next_visit_codes"))
    found = {p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file()}
    assert len(found) >= 7
    for path in found:
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes()


def test_the_vocabulary_is_fitted_on_train(events: pl.DataFrame, hospital: Path, tmp_path: Path) -> None:
    splits = pl.read_parquet(hospital / "metadata" / "subject_splits.parquet")
    train = splits.filter(pl.col("split") == "train")["subject_id"]
    elsewhere = ~pl.col("subject_id").is_in(train.implode()) & pl.col("code").str.starts_with("ICD10CM//")
    # Outside train every diagnosis is replaced: the vocabulary must not change, and nothing there is in it.
    changed = events.with_columns(pl.when(elsewhere).then(pl.lit("ICD10CM//Z99")).otherwise("code").alias("code"))
    write(tmp_path / "meds", changed, 1)
    options = {"num_codes": 40}
    before = making.make(hospital, tmp_path / "a", choose("next_visit_codes", **options))
    after = making.make(tmp_path / "meds", tmp_path / "b", choose("next_visit_codes", **options))
    assert before["vocabulary"] == after["vocabulary"] and len(before["vocabulary"]) == 40
    labels = read_labels(tmp_path / "b" / "next_visit_codes").frame
    assert labels.filter(pl.col("split") != "train")["label_codes"].list.len().sum() == 0
    visits = events.filter(pl.col("subject_id").is_in(train.implode()) & pl.col("code").str.starts_with("ICD10CM//"))
    counts = visits.unique(["subject_id", "visit_id", "code"])["code"].value_counts()
    expected = counts.sort("count", "code", descending=[True, False])["code"].head(40).to_list()
    assert before["vocabulary"] == expected


def test_the_datasets_own_roles_and_the_users_count(events: pl.DataFrame, tmp_path: Path) -> None:
    """The same hospital under other names gives the same labels, once its roles are told."""
    foreign = events.with_columns(
        pl.col("code").str.replace("^ENCOUNTER//INPATIENT$", "VISIT/IP").str.replace("^DISCHARGE//", "LEFT/")
    )
    patterns = {"admission": ["VISIT/IP$"], "discharge": ["LEFT/"], "discharge_dead": ["LEFT/DIED$"]}
    write(tmp_path / "plain", events, 1)
    write(tmp_path / "silent", foreign, 1)
    write(tmp_path / "telling", foreign, 1, roles=patterns)
    making.make(tmp_path / "plain", tmp_path / "a", choose("readmission_30d"))
    making.make(tmp_path / "telling", tmp_path / "b", choose("readmission_30d"))
    making.make(tmp_path / "silent", tmp_path / "c", choose("readmission_30d", roles=patterns))
    with pytest.raises(InputError, match=r"role 'admission'.*--config.roles.admission"):
        making.make(tmp_path / "silent", tmp_path / "d", choose("readmission_30d"))
    frames = [read_labels(tmp_path / name / "readmission_30d").frame for name in "abc"]
    assert frames[0].equals(frames[1]) and frames[0].equals(frames[2]) and len(frames[0]) > 50
    told = json.loads((tmp_path / "b" / "readmission_30d" / "task.json").read_text())["roles"]
    assert told == patterns


@pytest.mark.parametrize(
    ("good_for", "task", "options", "served"),
    [
        ("order", "next_visit_codes", {}, True),
        ("order", "next_visit_codes", {"horizon_days": 30.0}, False),
        ("order", "readmission_30d", {}, False),
        ("order", "disease_stage", {}, False),
        ("intervals", "readmission_30d", {}, True),
        ("intervals", "disease_stage", {}, True),
        ("intervals", "readmission_30d", {"end_of_day": True}, False),
        ("intervals", "readmission_30d", {"data_end": "2030-01-01"}, False),
        ("something else", "next_visit_codes", {}, False),
    ],
)
def test_made_up_dates_serve_only_what_they_are_good_for(
    good_for: str, task: str, options: dict, served: bool, events: pl.DataFrame, tmp_path: Path
) -> None:
    write(tmp_path / "meds", events, 1, pseudo_dates={"good_for": good_for, "why": "there are no dates"})
    if served:
        making.make(tmp_path / "meds", tmp_path / "labels", choose(task, **options))
    else:
        with pytest.raises(InputError, match=r"needs to know .*\(there are no dates\)"):
            making.make(tmp_path / "meds", tmp_path / "labels", choose(task, **options))
        assert not (tmp_path / "labels").exists()


def icu(subject: int, hour: float, code: str = "ICU_ADMISSION//MICU") -> tuple:
    return row(hour, code, subject=subject)


def test_intensive_care_that_never_ends_on_record_counts_in_its_own_stay_only(tmp_path: Path) -> None:
    rows = [r for s in range(30) for r in (*stay(s, 0, 100), icu(s, 1), *stay(s, 200, 300), *stay(s, 400, 500))]
    later = [icu(s, 450) for s in range(0, 30, 2)]
    write(tmp_path / "meds", frame(rows + later), 2)
    info = making.make(tmp_path / "meds", tmp_path / "labels", choose("icu_transfer"))
    assert sum(counts["labels"] for counts in info["splits"].values()) == 60
    assert sum(counts["positives"] for counts in info["splits"].values()) == 15
    assert set(info["roles"]) == {"admission", "discharge", "icu_admission"}
    # Where the dataset tells of leaving, those of whom it does not are still there.
    write(tmp_path / "told", frame([*rows, *later, icu(30, 0), icu(30, 5, "ICU_DISCHARGE//MICU")]), 2)
    with pytest.raises(InputError, match="intensive care by the prediction time: 90"):
        making.make(tmp_path / "told", tmp_path / "labels", choose("icu_transfer", name="told"))


def test_what_cannot_be_made_is_refused_and_leaves_nothing(hospital: Path, tmp_path: Path) -> None:
    toy = write_meds(tmp_path / "toy", 20)
    copy = Path(shutil.copytree(hospital, tmp_path / "lost"))
    splits = pl.read_parquet(copy / "metadata" / "subject_splits.parquet")
    splits.head(len(splits) - 3).write_parquet(copy / "metadata" / "subject_splits.parquet")
    twice = Path(shutil.copytree(hospital, tmp_path / "twice"))
    shard = next((twice / "data" / "held_out").glob("*.parquet"))
    shutil.copy(shard, shard.with_name("again.parquet"))
    strange = Path(shutil.copytree(hospital, tmp_path / "strange"))
    named = splits.with_columns(pl.col("split").replace("tuning", "validation"))
    named.write_parquet(strange / "metadata" / "subject_splits.parquet")
    broken = Path(shutil.copytree(hospital, tmp_path / "broken"))
    damaged = next((broken / "data" / "train").glob("*.parquet"))
    damaged.write_bytes(damaged.read_bytes()[:1000])
    before = {path.name for path in tmp_path.iterdir()}
    for source, chosen, message in (
        (toy, choose("readmission_30d"), "role 'admission'"),
        (toy, choose("new_diagnosis", predict="every"), "config.codes"),
        (hospital, choose("icu_transfer"), "icu_admission"),
        (hospital, choose("abnormal_lab", labs=("LAB//9",)), "config.labs"),
        (hospital, choose("readmission_30d", roles={"admision": ("X",)}), "did you mean 'admission'"),
        (hospital, choose("new_diagnosis", min_age_years=140.0), "No label of the task new_diagnosis is left"),
        (copy, choose("readmission_30d"), "3 subjects that subject_splits.parquet does not list"),
        (twice, choose("readmission_30d"), "more than one file"),
        (strange, choose("readmission_30d"), "'validation'"),
        (broken, choose("readmission_30d"), str(damaged)),
        (tmp_path / "nowhere", choose("readmission_30d"), "nowhere"),
    ):
        with pytest.raises(InputError) as error:
            making.make(source, tmp_path / "out", chosen)
        assert message in str(error.value)
        assert {path.name for path in tmp_path.iterdir()} == before
    making.make(hospital, tmp_path / "out", choose("readmission_30d"))
    with pytest.raises(InputError, match="already exists"):
        making.make(hospital, tmp_path / "out", choose("readmission_30d"))
    making.make(hospital, tmp_path / "out", choose("readmission_30d", name="again"))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"readmission_30d", "again"}


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("readmision_30d", {}, "did you mean 'readmission_30d'"),
        ("readmission_30d", {"horizon_day": 3.0}, "did you mean 'horizon_days'"),
        ("readmission_30d", {"horizon_days": "x"}, "must be a number"),
        ("readmission_30d", {"horizon_days": 0}, "horizon_days"),
        ("readmission_30d", {"horizon_days": float("nan")}, "horizon_days"),
        ("readmission_30d", {"follow_up": "drop"}, "keep, exclude, complete"),
        ("readmission_30d", {"data_end": "31.12.2020"}, "2024-12-31"),
        ("readmission_30d", {"data_end": "2020-12-31T00:00:00Z"}, "time zone"),
        ("readmission_30d", {"planned": ("(",)}, "no regular expression"),
        ("readmission_30d", {"planned": (3,)}, "list of regular expressions"),
        ("readmission_30d", {"name": "../up"}, "config.name"),
        ("in_hospital_mortality", {"hours": -1.0}, "hours"),
        ("new_diagnosis", {"predict": "yearly"}, "discharge, every"),
        ("new_diagnosis", {"every_days": 0.0}, "every_days"),
        ("abnormal_lab", {"high": None}, "config.low or config.high"),
        ("abnormal_lab", {"low": 9.0}, "above config.high"),
        ("disease_stage", {"thresholds": (1.0, 2.0)}, "must fall"),
        ("disease_stage", {"labs": ()}, "config.stage_codes"),
        ("next_visit_codes", {"extract": "no group"}, "exactly one group"),
        ("next_visit_codes", {"num_codes": 1.5}, "a whole number"),
    ],
)
def test_settings_that_cannot_be_are_refused(task: str, options: dict, message: str) -> None:
    with pytest.raises(InputError) as error:
        choose(task, **options)
    assert message in str(error.value)
