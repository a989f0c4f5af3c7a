"""Few-shot draws are what they say, EHRSHOT's file gives them back, and more shots tell more."""

from __future__ import annotations

import copy
import dataclasses
import json

import numpy as np
import polars as pl
import pytest
from scipy import sparse
from sklearn.metrics import roc_auc_score

from ehrjax.core.errors import InputError
from ehrjax.evals.baselines import shots
from ehrjax.evals.baselines.fitting import Task
from tests.evals.baselines import planted, recount

MINUTE = 60_000_000


@pytest.fixture(scope="module")
def found():
    return planted.features()


@pytest.fixture(scope="module")
def task(found) -> Task:
    return planted.task("yes_no", found)


@pytest.fixture(scope="module")
def labels(task) -> pl.DataFrame:
    """Each subject has labels seconds apart, some of one minute."""
    size = len(task.split)
    subjects = np.repeat(np.arange(size // 2), 2)
    times = [
        recount.START + recount.datetime.timedelta(days=int(s), seconds=40 * (i % 2)) for i, s in enumerate(subjects)
    ]
    return recount.labels(list(zip(subjects.tolist(), times, task.split.tolist())))


def file_of(drawn: list[shots.Shots], labels: pl.DataFrame, task: Task, path) -> dict:
    """What EHRSHOT publishes of the same draws: times without seconds, places within the sorted split."""
    table: dict = {}
    for shot in drawn:
        entry = {}
        for short, split, rows in (("train", "train", shot.train), ("val", "tuning", shot.tuning)):
            places = planted.where(task, split)
            entry[f"patient_ids_{short}_k"] = labels["subject_id"].gather(rows).to_list()
            times = labels["prediction_time"].gather(rows).dt.truncate("1m").to_list()
            entry[f"label_times_{short}_k"] = [time.isoformat() for time in times]
            entry[f"label_values_{short}_k"] = [bool(task.values[row, 0]) for row in rows]
            entry[f"{short}_idxs"] = np.searchsorted(places, rows).tolist()
        table.setdefault(str(shot.k), {})[str(shot.replicate)] = entry
    path.write_text(json.dumps({"new_lupus": table, "other": {}}))
    return {"new_lupus": table}


def test_draws_are_k_and_k_of_their_splits(task):
    drawn, skipped = shots.draw_shots(task, shots=(1, 4, 64, 5000, shots.ALL))
    yes = task.values[:, 0] > 0
    assert [(s.k, s.replicate) for s in drawn] == [(k, r) for k in (1, 4, 64) for r in range(5)] + [(shots.ALL, 0)]
    assert list(skipped) == [5000] and "positives" in skipped[5000]
    for shot in drawn[:-1]:
        for rows, split in ((shot.train, "train"), (shot.tuning, "tuning")):
            assert yes[rows].sum() == (~yes[rows]).sum() == shot.k and len(set(rows)) == 2 * shot.k
            assert (task.split[rows] == split).all() and (np.diff(rows) > 0).all()
    assert np.array_equal(drawn[-1].train, task.train) and np.array_equal(drawn[-1].tuning, task.tuning)
    assert set(drawn[0].train) < set(drawn[5].train) < set(drawn[10].train), "nested"
    assert len({tuple(shot.train) for shot in drawn}) == len(drawn), "replicates differ"
    again, _ = shots.draw_shots(task, shots=(1, 4, 64, 5000, shots.ALL))
    other, _ = shots.draw_shots(dataclasses.replace(task, seed=1), shots=(64,))
    assert all(np.array_equal(a.train, b.train) and np.array_equal(a.tuning, b.tuning) for a, b in zip(drawn, again))
    assert not np.array_equal(other[0].train, drawn[10].train)


def test_fewer_tuning_labels_are_taken_where_there_are_no_more(task):
    yes = np.flatnonzero((task.split == "tuning") & (task.values[:, 0] > 0))
    rare = planted.with_values(task, yes[3:], 0.0)
    (shot,), _ = shots.draw_shots(rare, shots=(8,), replicates=1)
    assert rare.values[shot.tuning, 0].sum() == 3 and len(shot.tuning) == 11


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_more_shots_tell_more_and_held_out_labels_nothing(kind, found, task):
    vectors = found.counts if kind == "sparse" else np.nan_to_num(found.counts.toarray())
    drawn, _ = shots.draw_shots(task, shots=(1, 64, shots.ALL), replicates=3)
    results = shots.few_shot(vectors, task, drawn)
    held_out = planted.where(task, "held_out")
    scores: dict[int, list[float]] = {}
    for result in results:
        assert np.array_equal(result.rows, held_out)
        scores.setdefault(result.k, []).append(roc_auc_score(task.values[held_out, 0], result.values))
    assert np.mean(scores[1]) < np.mean(scores[64]) < scores[shots.ALL][0] and scores[shots.ALL][0] > 0.65
    # Labels that were not drawn may be anything.
    drawn_rows = np.concatenate([drawn[3].train, drawn[3].tuning])
    others = np.setdiff1d(np.arange(len(task.split)), drawn_rows)
    wild = planted.with_values(task, others, 1 - task.values[others])
    assert np.array_equal(shots.few_shot(vectors, wild, [drawn[3]])[0].values, results[3].values)


def test_tuning_of_one_class_does_not_choose(found, task):
    (shot,), _ = shots.draw_shots(task, shots=(4,), replicates=1)
    for tuning in (shot.tuning[:0], shot.tuning[task.values[shot.tuning, 0] > 0]):
        (result,) = shots.few_shot(found.counts, task, [dataclasses.replace(shot, tuning=tuning)])
        assert result.chosen["tuning_loss"] is None and np.isfinite(result.values).all()


def test_published_shots_come_back(tmp_path, task, labels):
    drawn, _ = shots.draw_shots(task, shots=(2, 16, shots.ALL), replicates=2)
    file_of(drawn, labels, task, tmp_path / "all_shots_data.json")
    read = shots.read_shots(tmp_path / "all_shots_data.json", "new_lupus", labels, task)
    assert [(s.k, s.replicate) for s in read] == [(s.k, s.replicate) for s in drawn]
    minute = labels["prediction_time"].dt.truncate("1m").to_list()
    subjects = labels["subject_id"].to_list()

    def said(rows: np.ndarray) -> list[tuple]:
        return sorted((subjects[row], minute[row], task.values[row, 0]) for row in rows)

    for mine, theirs in zip(drawn, read):
        # Labels of one minute and value cannot be told apart, and need not be.
        assert said(mine.train) == said(theirs.train) and said(mine.tuning) == said(theirs.tuning)
        assert len(set(theirs.train)) == len(theirs.train)


def test_malformed_shots_are_refused(tmp_path, task, labels):
    drawn, _ = shots.draw_shots(task, shots=(2,), replicates=1)
    path = tmp_path / "shots.json"
    whole = file_of(drawn, labels, task, path)
    mine = whole["new_lupus"]["2"]["0"]

    def refused(change, match: str) -> None:
        broken = copy.deepcopy(whole)
        change(broken, broken["new_lupus"]["2"]["0"])
        path.write_text(json.dumps(broken))
        with pytest.raises(InputError, match=match):
            shots.read_shots(path, "new_lupus", labels, task)

    path.write_text(json.dumps(whole))
    shots.read_shots(path, "new_lupus", labels, task)
    refused(lambda w, s: w.pop("new_lupus"), "no shots for")
    refused(lambda w, s: w["new_lupus"].update(two={}), "no file of shots")
    refused(lambda w, s: w.update(new_lupus=[1]), "objects by k")
    refused(lambda w, s: s.pop("label_values_val_k"), "needs the lists")
    refused(lambda w, s: s["label_times_train_k"].pop(), "differ in length")
    refused(lambda w, s: s["label_times_train_k"].__setitem__(0, "once"), "no file of shots")
    refused(lambda w, s: s["patient_ids_train_k"].__setitem__(0, None), "no file of shots")
    refused(lambda w, s: s["patient_ids_train_k"].__setitem__(0, 10**9), "not among the labels of train")
    refused(lambda w, s: s["label_values_val_k"].__setitem__(0, not mine["label_values_val_k"][0]), "not among")
    refused(lambda w, s: s.update({n: [] for n in s if n.endswith("train_k")}), "no shots of train")
    # What is drawn from tuning cannot be train.
    swapped = {n.replace("val", "train"): v for n, v in mine.items() if "_val_" in n}
    refused(lambda w, s: s.update(swapped), "not among the labels of train")
    path.write_text("{")
    with pytest.raises(InputError, match="JSON"):
        shots.read_shots(path, "new_lupus", labels, task)


def test_few_shot_is_for_yes_or_no(found):
    number = planted.task("number", found)
    with pytest.raises(InputError, match="yes-or-no"):
        shots.draw_shots(number)
    with pytest.raises(InputError, match="yes-or-no"):
        shots.few_shot(sparse.csr_matrix((len(found), 2)), number, [])
    with pytest.raises(InputError, match="replicate"):
        shots.draw_shots(planted.task("yes_no", found), shots=(0,))
