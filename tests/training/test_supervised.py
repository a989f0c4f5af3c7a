"""Training on labels: what a run knows of them, what it predicts, what is refused."""

from __future__ import annotations

import json
import shutil

import numpy as np
import polars as pl
import pytest

import ehrjax
from ehrjax import train
from ehrjax.core.errors import InputError
from ehrjax.data import labelled, pipeline, token_dataset
from ehrjax.ingest.labels import reading
from ehrjax.training import targets

DEVICES = 8
STAGES = ("integer_value", pl.Int64, lambda i: i % 3)
NUMBERS = ("float_value", pl.Float32, lambda i: 10.0 + i % 7)
ANSWERS = ("boolean_value", pl.Boolean, lambda i: i % 4 == 0)


def labels(tokens, path, kind) -> str:
    value, dtype, made = kind
    rows = []
    for name in ("train", "tuning"):
        split = token_dataset.open_tokens(tokens).split(name)
        for i in range(len(split)):
            subject = split.subject(i)
            rows.append((subject.subject_id, int(subject.times[len(subject.times) // 2 + 1]), made(i)))
    schema = {"subject_id": pl.Int64, "prediction_time": pl.Int64, value: dtype}
    frame = pl.DataFrame(rows, schema=schema, orient="row").with_columns(
        pl.col("prediction_time").cast(pl.Datetime("us"))
    )
    frame.write_parquet(path)
    return str(path)


def arguments(tokens, workdir, *more: str) -> list[str]:
    return [
        "--config=configs/lstm.py:readmission",
        f"--workdir={workdir}",
        f"--config.data.path={tokens}",
        "--config.data.context_length=64",
        "--config.model.embedding_dim=16",
        "--config.model.hidden_dim=16",
        "--config.batch_size=8",
        "--config.num_steps=6",
        "--config.eval_every=3",
        "--config.checkpoint_every=3",
        "--config.log_every=3",
        "--config.schedule.warmup_steps=2",
        "--config.report.enabled=False",
        "--config.tensorboard=False",
        *more,
    ]


def test_a_run_on_stages(toy_tokens, tmp_path):
    path = labels(toy_tokens, tmp_path / "stage.parquet", STAGES)
    given = arguments(toy_tokens, tmp_path / "run", f"--config.data.labels={path}")
    train.main(given)
    saved = json.loads((tmp_path / "run" / "config.json").read_text())["config"]["objective"]
    assert saved["kind"] == "classes" and saved["outputs"] == 3
    assert json.loads((tmp_path / "run" / "target.json").read_text())["names"] == ["0", "1", "2"]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {"tuning_loss", "tuning_accuracy"} <= set(lines[-1])
    run = ehrjax.load(tmp_path / "run")
    dataset = token_dataset.open_tokens(toy_tokens)
    told = {}
    # The same windows, packed and one a row.
    for segments in (8, 1):
        settings = pipeline.Settings(str(toy_tokens), 64, segments, labels=path)
        part = pipeline.open_split(dataset, "tuning", settings)
        epoch = pipeline.plan_epoch(part, settings, seed=None)
        rows = len(epoch.plan)
        batch = pipeline.make_batch(part, epoch, settings, rows=range(rows), batch_size=rows, index=0)
        found = np.asarray(run.predictions(batch)["probabilities"])[batch["weights"] > 0]
        told[segments] = dict(zip(batch["subject_id"][batch["weights"] > 0].tolist(), found))
    assert told[8].keys() == told[1].keys() and len(told[1]) == len(part)
    for subject_id, value in told[1].items():
        np.testing.assert_allclose(value, told[8][subject_id], atol=1e-6)
        assert value.sum() == pytest.approx(1, abs=1e-5)
    with pytest.raises(InputError, match="use run.predictions"):
        run.logits(batch)
    # The same command goes on (there is nothing left to do); other labels are another run.
    train.main(given)
    other = labels(toy_tokens, tmp_path / "other.parquet", STAGES)
    with pytest.raises(SystemExit):
        train.main(arguments(toy_tokens, tmp_path / "run", f"--config.data.labels={other}"))


def test_regression_knows_the_scale_of_its_labels(toy_tokens, tmp_path):
    path = labels(toy_tokens, tmp_path / "number.parquet", NUMBERS)
    # The objective's section is another one than the recipe's, so the config is changed as a recipe file would.
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        "import sys; sys.path.insert(0, 'configs')\n"
        "from ml_collections import ConfigDict\n"
        "import importlib.util\n"
        "spec = importlib.util.spec_from_file_location('lstm_recipe', 'configs/lstm.py')\n"
        "lstm = importlib.util.module_from_spec(spec); spec.loader.exec_module(lstm)\n"
        "def get_config():\n"
        "    config = lstm.get_config('readmission')\n"
        "    config.objective = ConfigDict(dict(name='regression', pooling='last'))\n"
        "    return config\n"
    )
    given = arguments(toy_tokens, tmp_path / "run", f"--config.data.labels={path}")
    train.main([f"--config={recipe}", *given[1:]])
    saved = json.loads((tmp_path / "run" / "config.json").read_text())["config"]["objective"]
    assert saved["centre"] == pytest.approx(13, abs=0.2) and saved["scale"] == pytest.approx(2, abs=0.2)
    assert ehrjax.load(tmp_path / "run").objective.config.centre == saved["centre"]


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ([1.0, 3.0], (2.0, 1.0)),
        ([1e-7, 5e-7], (3e-7, 2e-7)),
        ([4.0, 4.0], (4.0, 1.0)),
        ([1e9, 1e9 + 1e-6], (1e9, 1.0)),
        ([123456.7891234, 123458.7891234], (123457.789123, 1.0)),
    ],
)
def test_numbers_of_any_unit_can_be_learnt(numbers, expected):
    assert targets.centre_and_scale(np.array(numbers)[:, None]) == pytest.approx(expected, rel=1e-12)


def test_labels_have_one_name_wherever_they_lie(toy_labels, tmp_path):
    """`prepare labels` writes a folder a task into the folder it is given; either may be named."""
    folder = tmp_path / "all" / "readmission_30d"
    folder.mkdir(parents=True)
    (folder / "task.json").write_text("{}")
    shutil.copy(toy_labels, folder / "labels.parquet")
    for path in (tmp_path / "all", folder):
        targets.write(tmp_path, labelled.Target("yes_no"), str(path))
        told = json.loads((tmp_path / "target.json").read_text())
        assert told["tasks"] == ["readmission_30d"] == [reading.read_labels(path).name]


def test_a_tuning_loss_that_is_infinite_is_one_sentence(toy_tokens, tmp_path, capsys):
    path = labels(toy_tokens, tmp_path / "number.parquet", NUMBERS)
    tuning = token_dataset.open_tokens(toy_tokens).split("tuning")
    here = pl.col("subject_id") == tuning.subject(0).subject_id
    far = pl.when(here).then(pl.lit(3e38, pl.Float32)).otherwise("float_value").alias("float_value")
    pl.read_parquet(path).with_columns(far).write_parquet(path)
    objective = "--config.objective.name=regression", f"--config.data.labels={path}"
    with pytest.raises(SystemExit) as stopped:
        train.main(arguments(toy_tokens, tmp_path / "run", *objective))
    error = capsys.readouterr().err
    assert stopped.value.code == 1 and "tuning_loss is inf on the tuning split" in error and "Traceback" not in error


def test_bad_input(toy_tokens, tmp_path, capsys):
    path = labels(toy_tokens, tmp_path / "number.parquet", NUMBERS)
    cases = (
        ([f"--config.data.labels={path}"], "are of the kind number, which the objective classification"),
        (["--config.data.labels="], "The objective classification needs labels"),
        (["--config.data.labels=nowhere"], "nowhere do not exist"),
    )
    for more, message in cases:
        with pytest.raises(SystemExit) as stopped:
            train.main(arguments(toy_tokens, tmp_path / "run", *more))
        error = capsys.readouterr().err
        assert stopped.value.code == 2 and message in error and error.count("\n") == 1, error
    with pytest.raises(SystemExit):
        train.main(
            [
                "--config=configs/lstm.py:base",
                *arguments(toy_tokens, tmp_path / "run", f"--config.data.labels={path}")[1:],
            ]
        )
    assert "has no use for labels" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["regression", "hazard"])
def test_configs_run_on_the_embedded_hospital(kind, tmp_path):
    """Labels that are not the hospital's own are made on the spot."""
    settings = [
        f"--config=configs/visit_lstm.py:{kind}_smoke",
        f"--workdir={tmp_path / 'run'}",
        "--config.num_steps=6",
        "--config.eval_every=4",
        "--config.report.enabled=False",
        "--config.tensorboard=False",
    ]
    train.main(settings)
    target = json.loads((tmp_path / "run" / "target.json").read_text())
    assert target["kind"] == {"regression": "number", "hazard": "time"}[kind]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    told = [line["step"] for line in lines if "tuning_loss" in line]
    assert told == [4, 6], "the last step is evaluated too"
    train.main(settings)
