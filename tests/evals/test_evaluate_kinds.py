"""Reports on anybody's files of every kind of labels: numbers against scikit-learn, groups, splits, times."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime

import numpy as np
import polars as pl
import pytest
from sklearn import metrics

from ehrjax import evaluate
from ehrjax.core.errors import InputError
from ehrjax.data.labelled import Target
from ehrjax.evals import judged, prediction_files
from ehrjax.evals.prediction_files import Predictions

NAMES = ("a", "b", "c")
ROWS, SUBJECTS = 600, 180
KINDS = ("yes_no", "classes", "codes", "number", "time")


def predictions(kind: str, seed: int, *, noise: float, edges=(30.0, 90.0, 365.0), first: int = 0) -> Predictions:
    """Of the same truth for every noise; `seed` makes another split."""
    truths, rng = np.random.default_rng(seed), np.random.default_rng(int(10 * noise))
    subjects = first + np.sort(truths.integers(0, SUBJECTS, ROWS))
    times = datetime(2019, 1, 1).timestamp() * 10**6 + np.arange(ROWS) * 86_400 * 10**6
    keys = pl.DataFrame({"subject_id": subjects, "prediction_time": times.astype(np.int64)})
    keys = keys.with_columns(pl.col("prediction_time").cast(pl.Datetime("us")))
    score = truths.normal(size=(ROWS, 3))
    said = score + noise * rng.normal(size=(ROWS, 3))
    risk = 1 / (1 + np.exp(-said))
    exact = np.exp(said) / np.exp(said).sum(axis=1, keepdims=True)
    days = 200 * np.exp(-score[:, 0]) * truths.exponential(size=ROWS)
    alive = np.exp(-np.array(edges) / (200 * np.exp(-said[:, :1])))
    truth, values = {
        "yes_no": (score[:, :1] + 0.3 * truths.normal(size=(ROWS, 1)) > 0.5, risk[:, :1]),
        "classes": (score.argmax(axis=1)[:, None], exact),
        "codes": (score > 0.5, risk),
        "number": (score[:, :1], said[:, :1]),
        "time": (np.stack([np.minimum(days, 400), days < 400], 1), np.hstack([1 - alive[:, -1:], alive])),
    }[kind]
    names = NAMES if kind in ("classes", "codes") else ()
    given = edges if kind == "time" else ()
    return Predictions(Target(kind, names), keys, truth.astype(np.float32), values.astype(np.float32), given)


def put(folder, name: str, kind: str, *, noise: float, **changes) -> str:
    prediction_files.write(folder / name / "held_out.parquet", predictions(kind, 1, noise=noise, **changes))
    tuning = predictions(kind, 2, noise=noise, first=1000, **changes)
    prediction_files.write(folder / name / "tuning.parquet", tuning)
    return f"--predictions={name}={folder / name}"


def told(folder, *arguments: str) -> dict:
    evaluate.main([*arguments, f"--output={folder}", "--resamples=40"])
    return json.loads((folder / "metrics.json").read_text())


def refusal(*arguments: str) -> str:
    with pytest.raises(InputError) as caught:
        evaluate.evaluate(evaluate._parser().parse_args(list(arguments)))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_two_files_side_by_side_by_a_column_of_the_user(kind, tmp_path):
    given = [put(tmp_path, "good", kind, noise=0.3), put(tmp_path, "poor", kind, noise=2.0)]
    wards = pl.DataFrame({"subject_id": range(SUBJECTS), "ward": ["east", "west", "tent"] * (SUBJECTS // 3)})
    wards = wards.with_columns(pl.when(pl.col("subject_id") < 3).then(pl.lit("roof")).otherwise("ward").alias("ward"))
    wards.write_csv(tmp_path / "wards.csv")
    result = told(tmp_path / "out", *given, f"--groups={tmp_path / 'wards.csv'}:ward", "--reference=poor")
    found, warnings = result["result"], result["warnings"]
    own = predictions(kind, 1, noise=0.3)
    truth, values = own.truth, own.values.astype(np.float64)
    name, expected = {
        "yes_no": ("auroc", lambda: metrics.roc_auc_score(truth[:, 0], values[:, 0])),
        "classes": ("macro_auroc", lambda: metrics.roc_auc_score(truth[:, 0], values, multi_class="ovr")),
        "codes": ("micro_auroc", lambda: metrics.roc_auc_score(truth.ravel(), values.ravel())),
        "number": ("mae", lambda: metrics.mean_absolute_error(truth[:, 0], values[:, 0])),
        "time": ("harrell_c", lambda: None),
    }[kind]
    model = next(m for m in found["models"] if m["name"] == "good")
    assert found["kind"] == kind and found["primary"] == name and found["labels"] == ROWS
    if kind != "time":  # tests/metrics has scikit-survival's
        tolerance = 1e-6 if kind == "classes" else 1e-9  # scikit-learn wants sums of exactly 1
        assert model["metrics"][name]["value"] == pytest.approx(expected(), abs=tolerance)
    better = found["differences"]["good"][name]
    assert better["high"] < 0 if name == "mae" else better["low"] > 0
    wards = found["groups"]["ward"]
    assert set(wards) == {"east", "west", "tent", "roof"} and wards["roof"]["too_small"]
    assert any("ward roof" in line for line in warnings)
    gap = found["gaps"]["ward"]["good"]
    assert (
        name in gap
        and (len(gap) > 1 or kind == "time")
        and gap[name]["value"] >= 0
        and "roof" not in gap[name].values()
    )
    assert bool(model.get("recalibrated")) == (kind in ("yes_no", "classes"))
    page = (tmp_path / "out" / "index.html").read_text()
    assert ">Groups</h2>" in page and "too few" in page and result["about"]["good: predictions"] in page
    back = prediction_files.read(tmp_path / "out" / "predictions" / "good" / "held_out.parquet")
    np.testing.assert_array_equal(back.values, own.values)


def test_survival_is_compared_at_the_times_that_both_tell(tmp_path):
    given = [
        put(tmp_path, "few", "time", noise=0.3),
        put(tmp_path, "many", "time", noise=0.3, edges=(30.0, 60.0, 90.0)),
    ]
    labels = []
    for split, seed, first in (("train", 3, 5000), ("tuning", 2, 1000), ("held_out", 1, 0)):
        own = predictions("time", seed, noise=0.3, first=first)
        days, event = own.truth.T
        more = {"event_time_days": days.astype(np.float64), "censored": event == 0, "boolean_value": event > 0}
        labels.append(own.keys.with_columns(**{n: pl.Series(v) for n, v in more.items()}, split=pl.lit(split)))
    pl.concat(labels).write_parquet(tmp_path / "labels.parquet")
    found = told(tmp_path / "out", *given, f"--labels={tmp_path / 'labels.parquet'}", "--reference=few")["result"]
    difference = found["differences"]["many"]["integrated_brier"]
    # The same survival at 30 and 90 days: other times in between would make it another mean.
    assert difference["value"] == pytest.approx(0, abs=1e-9)
    assert found["models"][0]["metrics"]["mean_auc"]["value"] > 0.6
    lonely = put(tmp_path, "lonely", "time", noise=0.3, edges=(10.0, 20.0))
    found = told(tmp_path / "apart", given[0], lonely, f"--labels={tmp_path / 'labels.parquet'}")["result"]
    assert found["differences"]["lonely"]["integrated_brier"]["value"] is None


def test_only_labels_of_a_time_are_judged(tmp_path):
    given = put(tmp_path, "good", "yes_no", noise=0.3)
    both = told(tmp_path / "out", given, "--since=2019-07-01", "--until=2020-01-01")
    own = predictions("yes_no", 1, noise=0.3)
    times = own.keys["prediction_time"]
    kept = ((times >= datetime(2019, 7, 1)) & (times < datetime(2020, 1, 1))).to_numpy()
    (model,) = both["result"]["models"]
    assert both["result"]["labels"] == kept.sum() == 184 and both["settings"]["since"] == "2019-07-01T00:00:00"
    expected = metrics.roc_auc_score(own.truth[kept, 0], own.values[kept, 0].astype(np.float64))
    assert model["metrics"]["auroc"]["value"] == pytest.approx(expected, abs=1e-9)
    assert "184 of the 600" in both["warnings"][0]
    zoned = told(tmp_path / "zoned", given, "--since=2019-07-01T02:00:00+02:00", "--until=2020-01-01")
    assert zoned["result"]["labels"] == 184
    assert "of the time asked for" in refusal(given, "--since=2033-01-01", f"--output={tmp_path / 'none'}")
    assert "--since is 'May'" in refusal(given, "--since=May", f"--output={tmp_path / 'none'}")


def test_subjects_of_two_splits_are_refused(tmp_path):
    given, out = put(tmp_path, "good", "yes_no", noise=0.3), f"--output={tmp_path / 'out'}"
    prediction_files.write(tmp_path / "good" / "tuning.parquet", predictions("yes_no", 1, noise=1.0))
    assert "what is chosen on tuning must not know" in refusal(given, out)
    own = predictions("yes_no", 1, noise=0.3)
    frame = own.keys.with_columns(boolean_value=pl.Series(own.truth[:, 0] > 0))
    halves = frame.with_columns(split=pl.when(pl.int_range(pl.len()) % 2 == 0).then(pl.lit("train")).otherwise(
        pl.lit("held_out")))  # fmt: skip
    halves.write_parquet(tmp_path / "halves.parquet")
    file = f"--predictions=good={tmp_path / 'good' / 'held_out.parquet'}"
    assert "in several splits" in refusal(file, f"--labels={tmp_path / 'halves.parquet'}", "--partial", out)
    some = frame.with_columns(split=pl.when(pl.col("subject_id") < 90).then(pl.lit("held_out")))
    some.write_parquet(tmp_path / "some.parquet")
    result = told(tmp_path / "some", file, f"--labels={tmp_path / 'some.parquet'}", "--partial")
    told_of = (own.keys["subject_id"] < 90).sum()
    assert result["result"]["labels"] == told_of
    assert any(f"{ROWS - told_of} labels do not say their split" in line for line in result["warnings"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--robustness"], "--robustness needs a run"),
        (["--site=a=.,."], "--site needs a run"),
        (["--probe"], "--probe is fitted on what runs know"),
        (["--input=."], "--input is the tokens of runs"),
        (["--shots=."], "add --few_shot"),
        (["--decode=chexpert"], "--decode is about labels"),
        (["--few_shot=1"], "--few_shot needs a run or events"),
        (["--few_shot=0"], "from 1 on"),
        (["--zero_shot=X@1y"], "--zero_shot needs a run"),
        (["--together=../x=good,good"], "called .._x"),
        (["--together=..=good,good"], "no name that a folder could have"),
        (["--together=t=good,good", "--together=t=good,good"], "Two are called t"),
        (["--together=good=good,good"], "Two models are called good"),
        ([f"--predictions={'x' * 300}=p.parquet"], "no name that a folder could have"),
        (["--groups=g.csv:a,a"], "--groups names 'a'"),
        (["--seed=4294967296"], "below 2^32"),
        (["--groups=g.csv:subject_id"], "--groups names 'subject_id'"),
    ],
)
def test_options_that_mean_nothing_here(arguments, message, tmp_path):
    given = [put(tmp_path, "good", "yes_no", noise=0.3), f"--output={tmp_path / 'out'}"]
    if message == "called .._x":  # it stays inside the folder of the report
        told(tmp_path / "out", given[0], *arguments)
        assert (tmp_path / "out" / "predictions" / ".._x").is_dir() and not (tmp_path / "x").exists()
    else:
        assert message in refusal(*given, *arguments) and not (tmp_path / "out").exists()


def test_tuning_of_a_folder_counts_where_labels_do_not_say_their_split(tmp_path):
    given = put(tmp_path, "good", "yes_no", noise=0.3)
    own = predictions("yes_no", 1, noise=0.3)
    own.keys.with_columns(boolean_value=pl.Series(own.truth[:, 0] > 0)).write_parquet(tmp_path / "labels.parquet")
    alone, labelled = (
        told(tmp_path / name, given, *more)
        for name, more in (("alone", ()), ("labelled", (f"--labels={tmp_path / 'labels.parquet'}",)))
    )
    assert any("do not say which are tuning" in line for line in labelled["warnings"])
    one, other = (both["result"]["models"][0] for both in (alone, labelled))
    assert one["threshold"] == other["threshold"] != 0.5 and one["recalibrated"] == other["recalibrated"] != {}


def test_tuning_of_another_kind_than_what_judges(tmp_path):
    given = put(tmp_path, "good", "yes_no", noise=0.3)
    other = predictions("number", 2, noise=0.3, first=1000)
    prediction_files.write(tmp_path / "good" / "tuning.parquet", other)
    assert "other labels of tuning than of held_out (number and yes_no)" in refusal(given, f"--output={tmp_path / 'o'}")
    assert not (tmp_path / "o").exists()


def test_subjects_that_the_events_have_in_train_are_refused(tmp_path, toy_meds):
    given, events = put(tmp_path, "good", "yes_no", noise=0.3), f"--events={toy_meds}"
    arguments = [given, events, "--baselines=none"]
    assert "are in the split train of" in refusal(*arguments, f"--output={tmp_path / 'out'}")
    assert not (tmp_path / "out").exists()
    forced = told(tmp_path / "forced", *arguments, "--force")
    assert any("are in the split train of" in line for line in forced["warnings"])


def test_the_two_files_of_a_folder_tell_survival_by_the_same_times(tmp_path):
    given = put(tmp_path, "good", "time", noise=0.3)
    other = predictions("time", 2, noise=0.3, first=1000, edges=(30.0, 90.0))
    prediction_files.write(tmp_path / "good" / "tuning.parquet", other)
    assert "by other times" in refusal(given, f"--output={tmp_path / 'out'}")


def test_groups_of_a_file(tmp_path):
    given = put(tmp_path, "good", "yes_no", noise=0.3)
    subjects = pl.DataFrame({"subject_id": np.arange(SUBJECTS)})
    one = subjects.with_columns(
        a=pl.when(pl.col("subject_id") < 60).then(float("nan")).otherwise(pl.col("subject_id") // 100).cast(pl.Float64),
        b=pl.lit("same"), c=pl.lit([1, 2], dtype=pl.List(pl.Int64)),
    )  # fmt: skip
    one.write_parquet(tmp_path / "g.parquet")
    result = told(tmp_path / "out", given, f"--groups={tmp_path / 'g.parquet'}:a,b")
    assert set(result["result"]["groups"]["a"]) == {"unknown", "0.0", "1.0"} and "b" not in result["result"]["groups"]
    assert any("one group by b" in line for line in result["warnings"])
    refused = [given, f"--output={tmp_path / 'none'}"]
    assert "holds no names of groups" in refusal(*refused, f"--groups={tmp_path / 'g.parquet'}:c")
    one.with_columns(pl.col("subject_id") + 10_000).write_parquet(tmp_path / "others.parquet")
    assert "has no row of a labelled" in refusal(*refused, f"--groups={tmp_path / 'others.parquet'}:a")


def test_nothing_but_the_best_possible_is_no_comparison(tmp_path):
    own = predictions("yes_no", 1, noise=0.3)
    frame = own.keys.with_columns(boolean_value=pl.Series(own.truth[:, 0] > 0), split=pl.lit("held_out"))
    frame.write_parquet(tmp_path / "labels.parquet")
    assert "Nothing is to be compared" in refusal(
        f"--labels={tmp_path / 'labels.parquet'}", f"--output={tmp_path / 'o'}"
    )


def test_a_truth_that_contradicts_the_labels(tmp_path):
    for kind in ("codes", "classes", "number"):
        own = predictions(kind, 1, noise=0.3)
        turned = own.truth + 1 if kind == "number" else 1 - own.truth if kind == "codes" else (own.truth + 1) % 3
        with pytest.raises(InputError, match="another truth than the labels"):
            judged.foreign(own, replace(own, truth=turned.astype(np.float32)), "file", partial=False)
