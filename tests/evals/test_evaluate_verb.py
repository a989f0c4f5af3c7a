"""From a pretrained run to a report: fine-tuning, predictions, the page, and what is refused."""

from __future__ import annotations

import json
import shutil

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

import ehrjax
from ehrjax import evaluate, train
from ehrjax.core.errors import InputError
from ehrjax.data import prepare_tokens, token_dataset
from ehrjax.evals import joined, past, prediction_files
from ehrjax.hf import resize
from ehrjax.ingest import synthetic
from tests.conftest import behrt_recipe, refused
from tests.hf import born

TASKS = ("readmission_30d", "death_1y")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A small hospital, its tokens, a pretrained run, and one fine-tuned on two tasks."""
    folder = tmp_path_factory.mktemp("evaluate")
    synthetic.write(folder / "events", patients=400, seed=0, labels=True)
    prepare_tokens.prepare(folder / "events", folder / "tokens", behrt_recipe(min_count=2))
    quick = ["--config.report.enabled=False", "--config.tensorboard=False", "--config.data.eval_batches=0"]
    train.main(
        [
            "--config=configs/behrt.py:smoke",
            f"--workdir={folder / 'pretrained'}",
            f"--config.data.path={folder / 'tokens'}",
            *quick,
        ]
    )
    labels = ",".join(str(folder / "events" / "labels" / task) for task in TASKS)
    train.main(
        [
            "--config=configs/finetune.py:smoke",
            f"--config.init.checkpoint={folder / 'pretrained'}",
            f"--config.data.labels={labels}",
            "--config.early_stopping.metric=tuning_auroc",
            "--config.objective.balanced=True",
            f"--workdir={folder / 'two'}",
            *quick,
        ]
    )
    return folder


@pytest.fixture(scope="module")
def report(made):
    evaluate.main(
        [
            f"--workdir={made / 'two'}",
            f"--labels={made / 'events' / 'labels' / TASKS[0]}",
            f"--events={made / 'events'}",
            f"--output={made / 'report'}",
            "--probe=linear,trees",
            "--together=both=counts_lr,two",
            "--together=more=both,two",
            "--stacked=weighted=counts_lr,more",
            "--few_shot=1,4",
            "--robustness",
            "--resamples=50",
        ]
    )
    return made / "report"


def test_what_a_fine_tuned_run_knows(made):
    saved = json.loads((made / "two" / "config.json").read_text())["config"]
    base = json.loads((made / "pretrained" / "config.json").read_text())["config"]
    assert saved["model"] == base["model"] and saved["objective"]["pooling"] == "mean"
    assert json.loads((made / "two" / "target.json").read_text()) == {
        "kind": "tasks", "names": list(TASKS), "tasks": list(TASKS),
    }  # fmt: skip
    assert len(saved["objective"]["class_weights"]) == 2 and min(saved["objective"]["class_weights"]) > 1
    final = json.loads((made / "two" / "final.json").read_text())
    lines = [json.loads(line) for line in (made / "two" / "metrics.jsonl").read_text().splitlines()]
    told = [line["tuning_auroc"] for line in lines if "tuning_auroc" in line]
    assert final["best_metric"] == "tuning_auroc" and final["best_value"] == max(told)


def test_metrics_are_those_of_the_written_predictions(report):
    told = json.loads((report / "metrics.json").read_text())
    names = [model["name"] for model in told["result"]["models"]]
    assert names == [
        "majority",
        "age_sex",
        "counts_lr",
        "counts_gbm",
        "two",
        "probe_two",
        "trees_two",
        "both",
        "more",
        "weighted",
        "oracle",
    ]
    for model in told["result"]["models"]:
        own = prediction_files.read(report / "predictions" / model["name"] / "held_out.parquet")
        assert len(own) == told["result"]["labels"]
        expected = roc_auc_score(own.truth[:, 0], own.values[:, 0].astype(np.float64))
        assert model["metrics"]["auroc"]["value"] == pytest.approx(expected, abs=1e-9)
        decided = pl.read_parquet(report / "predictions" / model["name"] / "held_out.parquet")
        yes = decided["predicted_boolean_probability"] >= np.float32(model["threshold"])
        assert decided["predicted_boolean_value"].equals(yes.alias("predicted_boolean_value"))
        assert (report / "predictions" / model["name"] / "tuning.parquet").is_file()
    assert told["result"]["reference"] == "counts_lr"


def test_several_together_are_their_mean_log_odds(report):
    for split in ("tuning", "held_out"):
        risk = {
            name: prediction_files.read(report / "predictions" / name / f"{split}.parquet").values.astype(np.float64)
            for name in ("both", "more", "counts_lr", "two")
        }
        odds = {name: np.log(values / (1 - values)) for name, values in risk.items()}
        np.testing.assert_allclose(odds["both"], (odds["counts_lr"] + odds["two"]) / 2, atol=1e-4)
        np.testing.assert_allclose(odds["more"], (odds["both"] + odds["two"]) / 2, atol=1e-4)


def test_stacked_models_are_weighted_by_tuning(report):
    told = json.loads((report / "metrics.json").read_text())
    model = next(m for m in told["result"]["models"] if m["name"] == "weighted")
    risk = {
        name: prediction_files.read(report / "predictions" / name / "tuning.parquet")
        for name in ("weighted", "counts_lr", "more")
    }
    odds = {name: np.log(own.values / (1 - own.values)).astype(np.float64) for name, own in risk.items()}
    weights, offset = joined.fit(np.hstack([odds["counts_lr"], odds["more"]]), risk["more"].truth[:, 0] > 0)
    assert model["told"]["log odds of"] == f"{weights[0]:.3f} counts_lr, {weights[1]:.3f} more"
    expected = odds["counts_lr"] * weights[0] + odds["more"] * weights[1] + offset
    np.testing.assert_allclose(odds["weighted"], expected, atol=1e-4)


def test_risks_without_labels(made, tmp_path):
    run, labels = tmp_path / "rates", f"--labels={made / 'events' / 'labels' / TASKS[0]}"
    train.main(
        [
            "--config=configs/time_to_events.py:smoke",
            f"--workdir={run}",
            f"--config.data.path={made / 'tokens'}",
            "--config.num_steps=20",
            "--config.schedule.warmup_steps=2",
            "--config.report.enabled=False",
            "--config.tensorboard=False",
        ]
    )
    given = [f"--workdir={run}", labels, "--events=", "--resamples=20", f"--output={tmp_path / 'out'}"]
    assert "do not say which code" in one_sentence([*given, "--zero_shot"])
    assert "no token" in one_sentence([*given, "--zero_shot=ENCOUNTER//NOWHERE@30d"])
    assert "no time within" in one_sentence([*given, "--zero_shot=ENCOUNTER//INPATIENT"])
    evaluate.main([*given, "--zero_shot=ENCOUNTER//INPATIENT@30d", "--reference=zero_shot_rates"])
    told = json.loads((tmp_path / "out" / "metrics.json").read_text())
    model = told["result"]["models"][0]
    assert model["name"] == "zero_shot_rates" and 0 < model["metrics"]["auroc"]["value"] < 1
    assert "ENCOUNTER//INPATIENT within 30 days" in json.dumps(told)
    assert told["efficiency"]["rates"]["windows_per_second"] > 0  # of its states
    assert (tmp_path / "out" / "predictions" / "zero_shot_rates" / "tuning.parquet").exists()


def test_oracle_groups_robustness_cost_and_shots_are_told(report):
    told = json.loads((report / "metrics.json").read_text())
    result = told["result"]
    assert set(result["oracle"]["models"]) == {
        "majority", "age_sex", "counts_lr", "counts_gbm", "two", "probe_two", "trees_two",
        "both", "more", "weighted",
    }  # fmt: skip
    assert not any(found["leak"] for found in result["oracle"]["models"].values())
    for column in ("sex", "age", "race", "insurance"):
        assert sum(group["labels"] for group in result["groups"][column].values()) == result["labels"]
    for kind, found in told["robustness"]["degraded"].items():
        points = found["models"]["two"]
        assert [p["level"] for p in points][0] == 0 and len(points) == 5, kind
        whole = next(m for m in result["models"] if m["name"] == "two")["metrics"]["auroc"]["value"]
        assert points[0]["value"] == pytest.approx(whole, abs=1e-6)
    cost = told["efficiency"]["two"]
    assert cost["parameters"] == cost["trainable_parameters"] > 0 and cost["windows_per_second"] > 0
    assert cost["training_seconds"] > 0 and cost["peak_memory_bytes"] > 0
    assert {"counts", "probe on two"} == set(told["few_shot"]["curves"])
    for points in told["few_shot"]["curves"].values():
        assert [p["k"] for p in points] == [1, 4] and all(p["low"] <= p["mean"] <= p["high"] for p in points)
    assert len(told["about"]["label files"]) == len(told["about"]["events"]) == 16


def test_the_page_needs_no_network_and_names_everything(report):
    page = (report / "index.html").read_text()
    assert "cdn.plot.ly" not in page.split("</script>")[-1] and '<script src="http' not in page
    for heading in ("Result", "Against the best possible", "Groups", "Robustness", "Few examples", "Cost", "Curves"):
        assert f">{heading}</h2>" in page
    assert "subjects show very little" in page and "too few subjects to say" in page and ">better<" not in page


def test_predictions_of_others_beside_a_run(made, report):
    folder = report / "predictions" / "counts_lr"
    evaluate.main(
        [
            f"--workdir={made / 'two'}",
            f"--predictions=theirs={folder}",
            f"--labels={made / 'events' / 'labels' / TASKS[0]}",
            "--events=",
            f"--output={made / 'beside'}",
            "--resamples=50",
        ]
    )
    first = json.loads((report / "metrics.json").read_text())["result"]["models"]
    second = json.loads((made / "beside" / "metrics.json").read_text())["result"]["models"]
    by_name = {m["name"]: m for m in first}
    assert [m["name"] for m in second] == ["two", "theirs", "oracle"]
    for model, other in zip(second, ("two", "counts_lr", "oracle")):
        assert model["threshold"] == by_name[other]["threshold"]
        for name, found in model["metrics"].items():
            assert found["value"] == pytest.approx(by_name[other]["metrics"][name]["value"], abs=1e-9), name


def test_a_file_alone_is_judged_by_its_own_truth(made, report):
    file = report / "predictions" / "age_sex" / "held_out.parquet"
    evaluate.main([f"--predictions=one={file}", f"--output={made / 'alone'}", "--resamples=50"])
    (model,) = json.loads((made / "alone" / "metrics.json").read_text())["result"]["models"]
    assert model["threshold"] == 0.5 and model["threshold_from"] == "fixed" and not model["recalibrated"]


def test_somebody_s_labels_in_one_file(made, report, tmp_path):
    file = report / "predictions" / "age_sex" / "held_out.parquet"
    labels = pl.read_parquet(file).select("subject_id", "prediction_time", "boolean_value")
    labels.write_parquet(tmp_path / "labels.parquet")
    evaluate.main(
        [f"--predictions=lr0.1={file}", f"--labels={tmp_path / 'labels.parquet'}", f"--output={tmp_path / 'out'}",
         "--resamples=20"]
    )  # fmt: skip
    told = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert told["result"]["labels"] == len(labels) and "do not say their split" in told["warnings"][0]


def test_a_label_without_history_is_judged_in_none(made, report, tmp_path):
    """A file may predict what a run has no window for; then nobody is judged by it."""
    file = report / "predictions" / "age_sex" / "held_out.parquet"
    frame = pl.read_parquet(file)
    early = frame.head(1).with_columns(pl.lit(-(10**16)).cast(pl.Datetime("us")).alias("prediction_time"))
    pl.concat([frame, early]).write_parquet(tmp_path / "p.parquet")
    told = pl.concat([frame, early]).select("subject_id", "prediction_time", "boolean_value")
    told.with_columns(pl.lit("held_out").alias("split")).write_parquet(tmp_path / "readmission_30d.parquet")
    evaluate.main(
        [f"--workdir={made / 'two'}", f"--predictions=theirs={tmp_path / 'p.parquet'}", "--events=", "--resamples=20",
         f"--labels={tmp_path / 'readmission_30d.parquet'}", f"--output={tmp_path / 'out'}"]
    )  # fmt: skip
    told = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert told["result"]["labels"] == len(frame) and told["about"]["two: labels set aside"].startswith("1 ")


def test_tuning_is_judged_with_a_warning_and_nothing_chosen_by_itself_is_hidden(made, tmp_path):
    labels = f"--labels={made / 'events' / 'labels' / TASKS[0]}"
    given = [f"--workdir={made / 'two'}", labels, "--events=", "--resamples=20", "--split=tuning"]
    evaluate.main([*given, f"--output={tmp_path / 'out'}"])
    told = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert "too good" in told["warnings"][0] and "too good" in (tmp_path / "out" / "index.html").read_text()


def test_subjects_seen_before_fine_tuning_are_noticed(made, tmp_path):
    """Pretraining on other tokens of the same people, whose train split holds the judged ones."""
    events = _resplit(made / "events", tmp_path / "events", "train")
    prepare_tokens.prepare(events, tmp_path / "tokens", behrt_recipe(min_count=2), fitted_from=made / "tokens")
    _moved(made / "pretrained", tmp_path / "before", data=tmp_path / "tokens")
    _moved(made / "two", tmp_path / "after", start=tmp_path / "before")
    given = [f"--workdir={tmp_path / 'after'}", f"--labels={made / 'events' / 'labels' / TASKS[0]}", "--events="]
    assert "or what it started from" in one_sentence([*given, f"--output={tmp_path / 'out'}"])


def test_another_site_is_judged_and_one_that_was_trained_on_is_not(made, tmp_path):
    task, home = TASKS[0], made / "events" / "labels" / TASKS[0]
    synthetic.write(tmp_path / "events", patients=80, seed=3, site="second", labels=True)
    recipe = behrt_recipe(min_count=2)
    prepare_tokens.prepare(tmp_path / "events", tmp_path / "tokens", recipe, fitted_from=made / "tokens")
    given = [f"--workdir={made / 'two'}", f"--labels={home}", "--events=", "--resamples=20"]
    rows = pl.concat([pl.read_parquet(p) for p in (tmp_path / "events" / "labels" / task).glob("*/*.parquet")])
    rows.filter(~pl.col("boolean_value")).write_parquet(tmp_path / "never.parquet")
    sites = {"second": tmp_path / "events" / "labels" / task, "never": tmp_path / "never.parquet"}
    site = [f"--site={name}={tmp_path / 'tokens'},{labels}" for name, labels in sites.items()]
    evaluate.main([*given, *site, f"--output={tmp_path / 'out'}"])
    told = json.loads((tmp_path / "out" / "metrics.json").read_text())
    found, never = told["robustness"]["sites"]
    # Where it never happens nothing is said of how well it is foreseen.
    assert never["labels"] == (~rows["boolean_value"]).sum() and never["metric"]["value"] is None
    assert never["metric"]["reason"] == "only one class"
    assert found["labels"] == len(rows) and found["subjects"] == rows["subject_id"].n_unique()
    assert found["name"] == "second" and 0 <= found["metric"]["value"] <= 1
    assert "they must be other people" in told["robustness"]["notes"][0]
    assert "Other sites" in (tmp_path / "out" / "index.html").read_text()
    # Its own people, under other labels' names, and numbers where yes or no is asked.
    parts = [pl.read_parquet(p) for p in home.glob("*/*.parquet")]
    pl.concat(parts).write_parquet(tmp_path / "again.parquet")
    again = f"--site=again={made / 'tokens'},{tmp_path / 'again.parquet'}"
    out = f"--output={tmp_path / 'again'}"
    assert "or what it started from, was trained on" in one_sentence([*given, again, out])
    evaluate.main([*given, again, "--force", out])
    notes = json.loads((tmp_path / "again" / "metrics.json").read_text())["robustness"]["notes"]
    assert "they must be about the same" in notes[0] and "its numbers there are too good" in notes[1]
    numbers = pl.concat(parts).select("subject_id", "prediction_time", float_value=pl.lit(1.0))
    numbers.write_parquet(tmp_path / "numbers.parquet")
    wrong = f"--site=wrong={tmp_path / 'tokens'},{tmp_path / 'numbers.parquet'}"
    assert "are number, those that judge at home are yes_no" in one_sentence(
        [*given, wrong, f"--output={tmp_path / 'w'}"]
    )


def test_a_site_that_a_run_started_from_is_its_own(made, tmp_path):
    """Pretrained at the other site, fine-tuned at home: the other site's people are known."""
    synthetic.write(tmp_path / "events", patients=80, seed=3, site="second", labels=True)
    recipe = behrt_recipe(min_count=2)
    prepare_tokens.prepare(tmp_path / "events", tmp_path / "tokens", recipe, fitted_from=made / "tokens")
    _moved(made / "pretrained", tmp_path / "before", data=tmp_path / "tokens")
    _moved(made / "two", tmp_path / "after", start=tmp_path / "before")
    given = [f"--workdir={tmp_path / 'after'}", f"--labels={made / 'events' / 'labels' / TASKS[0]}", "--events="]
    site = f"--site=second={tmp_path / 'tokens'},{tmp_path / 'events' / 'labels' / TASKS[0]}"
    known = past.of(ehrjax.load(tmp_path / "after"))
    info = json.loads((tmp_path / "tokens" / "dataset.json").read_text())
    assert known.whole and known.knows(info) and not past.of(ehrjax.load(made / "two")).knows(info)
    # The same tokens under a run that was trained on others: who these were cannot be told.
    _moved(tmp_path / "after", tmp_path / "later", start=made / "two", fingerprint="0123456789abcdef")
    assert not past.of(ehrjax.load(tmp_path / "later")).whole
    message = one_sentence([*given, site, f"--output={tmp_path / 'out'}"])
    assert str(tmp_path / "tokens") in message and "what it started from, was trained on" in message


def test_tuning_subjects_of_another_split_are_told(made, tmp_path):
    events = _resplit(made / "events", tmp_path / "events", "tuning")
    prepare_tokens.prepare(events, tmp_path / "tokens", behrt_recipe(min_count=2), fitted_from=made / "tokens")
    _moved(made / "pretrained", tmp_path / "before", data=tmp_path / "tokens")
    _moved(made / "two", tmp_path / "after", start=tmp_path / "before")
    labels = f"--labels={made / 'events' / 'labels' / TASKS[0]}"
    evaluate.main(
        [f"--workdir={tmp_path / 'after'}", labels, "--events=", "--resamples=20", f"--output={tmp_path / 'o'}"]
    )
    warnings = json.loads((tmp_path / "o" / "metrics.json").read_text())["warnings"]
    assert any("stopped by" in line and "too good" in line for line in warnings)


def test_dates_that_are_made_up_are_no_periods(made, report, tmp_path):
    shutil.copytree(made / "events", tmp_path / "events")
    path = tmp_path / "events" / "metadata" / "dataset.json"
    pseudo = {"pseudo_dates": {"good_for": "intervals", "why": "ages only"}}
    path.write_text(json.dumps(json.loads(path.read_text()) | pseudo))
    given = [f"--predictions={report / 'predictions' / 'counts_lr'}", "--baselines=none", "--resamples=20"]
    for events, there in ((made / "events", True), (tmp_path / "events", False)):
        out = tmp_path / str(there)
        evaluate.main([*given, f"--events={events}", f"--output={out}"])
        groups = json.loads((out / "metrics.json").read_text())["result"]["groups"]
        assert "sex" in groups and ("period" in groups) == there
    told = one_sentence([*given, f"--events={events}", "--since=2015-01-01", f"--output={tmp_path / 'no'}"])
    assert "are made up" in told


def test_a_converted_run_is_probed_on_tokens_that_are_named(made, tmp_path):
    born.write(tmp_path / "born", "bert")
    vocabulary = token_dataset.open_tokens(made / "tokens").vocabulary
    resize.resize(tmp_path / "born", vocabulary, tmp_path / "converted")
    labels = f"--labels={made / 'events' / 'labels' / TASKS[0]}"
    given = [f"--workdir={tmp_path / 'converted'}", labels, "--probe=linear", "--resamples=20"]
    given += ["--events=", f"--output={tmp_path / 'out'}"]
    assert "name some as --input" in one_sentence(given)
    evaluate.main([*given, f"--input={made / 'tokens'}"])
    told = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert [m["name"] for m in told["result"]["models"]] == ["probe_converted", "oracle"]
    cost = told["efficiency"]["converted"]
    assert cost["parameters"] == cost["trainable_parameters"] and cost["training_seconds"] is None
    assert any("still there as it was" in line for line in told["warnings"])


def _moved(run, folder, *, data=None, start=None, fingerprint=None):
    """A copy of a run that says it had other tokens, or started elsewhere."""
    shutil.copytree(run, folder)
    path = folder / "config.json"
    saved = json.loads(path.read_text())
    if data:
        saved["config"]["data"]["path"] = str(data)
        fingerprint = json.loads((data / "dataset.json").read_text())["fingerprint"]
    if fingerprint:
        saved["dataset"]["fingerprint"] = fingerprint
    if start:
        saved["config"]["init"]["checkpoint"] = str(start)
    path.write_text(json.dumps(saved))


def _resplit(events, output, split):
    """The same events with everybody in one split."""
    shutil.copytree(events, output)
    path = output / "metadata" / "subject_splits.parquet"
    pl.read_parquet(path).with_columns(pl.lit(split).alias("split")).write_parquet(path)
    return output


def test_bad_input(made, report, tmp_path):
    labels = f"--labels={made / 'events' / 'labels' / TASKS[0]}"
    run, out = f"--workdir={made / 'two'}", f"--output={tmp_path / 'out'}"
    file = report / "predictions" / "age_sex" / "held_out.parquet"
    frame = pl.read_parquet(file)
    frame.head(5).write_parquet(tmp_path / "few.parquet")
    stranger = frame.head(1).with_columns(pl.lit(10**9, pl.Int64).alias("subject_id"))
    pl.concat([frame, stranger]).write_parquet(tmp_path / "stranger.parquet")
    frame.with_columns(~pl.col("boolean_value")).write_parquet(tmp_path / "turned.parquet")
    halves = frame.with_columns((pl.col("subject_id") + 0.5).alias("subject_id"))
    halves.write_parquet(tmp_path / "half.parquet")
    (tmp_path / "one").mkdir()
    shutil.copy(file, tmp_path / "one")
    (tmp_path / "g.csv").write_text("subject_id,period\n1,a\n")
    synthetic.write(made / "fewer", patients=20, seed=0)
    # Seen before anything is predicted.
    in_a_file = f"--output={tmp_path / 'few.parquet' / 'out'}"
    assert "Cannot write the evaluation" in one_sentence([f"--predictions={tmp_path / 'none'}", labels, in_a_file])
    for arguments, message in (
        ([run, labels, "--split=train"], "--force"),
        ([run], "--labels"),
        ([f"--workdir={made / 'pretrained'}", labels], "was not trained on labels"),
        ([f"--workdir={made / 'pretrained'}", labels, "--zero_shot=ENCOUNTER//INPATIENT@30d"], "ehrjax.generate"),
        ([f"--workdir={made / 'two'}", f"--labels={made / 'events' / 'labels' / 'new_diabetes_1y'}"], "none of which"),
        ([f"--predictions={tmp_path / 'few.parquet'}", labels], "lacks predictions"),
        ([f"--predictions={tmp_path / 'stranger.parquet'}", labels], "a subject without labels"),
        ([f"--predictions={tmp_path / 'turned.parquet'}", labels], "another truth"),
        ([run, labels, "--baselines=magic", f"--events={made / 'events'}"], "magic"),
        ([run, labels, "--events=", "--probe=forest"], "forest"),
        ([run, labels, "--events=", "--together=all=two,three"], "three"),
        ([run, labels, "--events=", "--together=two"], "at least two"),
        (
            [run, labels, "--split=tuning", "--stacked=s=counts_lr,two", f"--events={made / 'events'}"],
            "cannot be judged",
        ),
        ([f"--predictions=a={tmp_path / 'one'}", run, labels, "--events=", "--stacked=s=a,two"], "which a has no"),
        ([run, labels, "--events=", "--partial"], "--predictions"),
        ([run, labels, "--reference=nobody", "--events="], "nobody"),
        ([run, labels, "--events=", f"--groups={tmp_path / 'g.csv'}:period"], "of its own"),
        ([run, labels, f"--events={made / 'fewer'}"], "subjects with labels"),
        ([run, labels, f"--events={made / 'fewer'}", "--baselines=none", "--few_shot=1"], "subjects with labels"),
        ([run, labels, "--since=0001-01-01T00:00+05:00"], "write a date"),
        ([f"--predictions={tmp_path / 'none.parquet'}", labels], "do not exist"),
        ([f"--predictions=..={tmp_path / 'few.parquet'}", labels], "NAME=PATH"),
        ([f"--predictions={tmp_path / 'half.parquet'}", labels], "not whole"),
    ):
        assert message in one_sentence([*arguments, out]), message
        assert not (tmp_path / "out").exists()
    # Once as a user meets it: exit code 2, no traceback.
    said = refused("evaluate", f"--predictions={tmp_path / 'few.parquet'}", labels, out, process=True)
    assert "lacks predictions" in said


def one_sentence(arguments) -> str:
    with pytest.raises(InputError) as caught:
        evaluate.evaluate(evaluate._parser().parse_args(arguments))
    assert "\n" not in str(caught.value)
    return str(caught.value)
