"""YAML configs of token-based pipelines: every key does something, and the run leaves the pipeline's files."""

from __future__ import annotations

import copy
import csv
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

import ehrjax
from ehrjax import train
from ehrjax.core import trees
from ehrjax.core.errors import InputError
from ehrjax.data import pipeline, token_dataset
from ehrjax.training import yaml_configs, yaml_runs
from tests.conftest import ROOT
from tests.data import token_files_layout as layout

LSTM = {"type": "lstm", "vocab_size": 9, "embedding_dim": 8, "hidden_dim": 12, "n_layers": 2, "dropout": 0.1}
GPT2 = {"type": "gpt2", "vocab_size": 9, "model_dim": 8, "n_heads": 2, "n_layers": 1, "dropout": 0.1, "bias": True}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("token_files")
    rng = np.random.default_rng(0)
    for name, first, count in (("train", 0, 40), ("val", 100, 10), ("other", 200, 12)):
        (folder / name).mkdir()
        records = [layout.record(rng, first + n) for n in range(count)]
        (folder / name / "0.pkl").write_bytes(pickle.dumps(records))
    (folder / "notes").mkdir()
    (folder / "other_notes").mkdir()
    (folder / "vocab.csv").write_text(layout.vocabulary())
    renamed = layout.vocabulary().replace("LAB//GLUCOSE", "LAB//SODIUM")
    (folder / "vocab2.csv").write_text(renamed)
    return folder


def base(files: Path, model: dict = LSTM) -> dict:
    return {
        "name": "first",
        "model": dict(model),
        "data": {
            "train_dataset_dir": str(files / "train"),
            "val_dataset_dir": str(files / "val"),
            "vocab_path": str(files / "vocab.csv"),
            "batch_size": 8,
            "sequence_length": 16,
            "shuffle": True,
            "insert_static_demographic_tokens": True,
        },
        "optimiser": {
            "type": "adamw",
            "lr": 0.001,
            "scheduler": {"type": "warmup_cosine", "warmup_steps": 2, "lr_min_ratio": 0.1},
        },
        "loss_function": {"type": "cross_entropy"},
        "training": {"epochs": 2, "device": "cpu"},
    }


def written(given: dict, path: Path) -> Path:
    path.write_text(yaml.safe_dump(given))
    return path


def changed(given: dict, key: str, value: object) -> dict:
    given = copy.deepcopy(given)
    *parents, last = key.split(".")
    node = given
    for parent in parents:
        node = node[parent]
    node[last] = value
    return given


def test_a_run_leaves_the_pipeline_s_files(files, tmp_path, capsys):
    path, workdir = written(base(files), tmp_path / "first.yaml"), tmp_path / "run"
    train.main([f"--yaml={path}", f"--workdir={workdir}"])
    assert (workdir / "config.yaml").read_bytes() == path.read_bytes()
    rows = list(csv.DictReader((workdir / "loss.log").open()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert all(0 < float(row["train_loss"]) < 5 and 0 < float(row["val_loss"]) < 5 for row in rows)
    log = (workdir / "training.log").read_text()
    assert "tuning_loss" in log and "params sha256" in log
    run = ehrjax.load(workdir)
    best = trees.flatten(run.params)
    kept = load_file(workdir / "model.safetensors")
    assert kept.keys() == best.keys() and all(np.array_equal(kept[name], best[name]) for name in best)
    assert set(layout.STRINGS[3:]) <= set(run.vocabulary.strings)
    assert best[trees.CODE_TABLE].shape[1] == 8 and run.model.config.num_layers == 2
    splits = json.loads((workdir / "data" / "tokens" / "dataset.json").read_text())["splits"]
    assert splits["train"]["subjects"] == 40 and splits["tuning"]["subjects"] == 10
    # The same command goes on: there is nothing left to do. Other data in the same folder are refused.
    train.main([f"--yaml={path}", f"--workdir={workdir}"])
    other = written(changed(base(files), "data.train_dataset_dir", str(files / "other")), tmp_path / "other.yaml")
    with pytest.raises(SystemExit):
        train.main([f"--yaml={other}", f"--workdir={workdir}"])
    assert "was made of other files or other settings of data" in capsys.readouterr().err
    assert (workdir / "config.yaml").read_bytes() == path.read_bytes()


def test_every_epoch_has_its_losses(files, tmp_path):
    """Epochs differ in length, since windows are cut at another place in each; all steps are in one."""
    given = changed(base(files), "training.epochs", 5)
    given["data"]["sequence_length"] = 8
    workdir = tmp_path / "run"
    train.main([f"--yaml={written(given, tmp_path / 'five.yaml')}", f"--workdir={workdir}"])
    rows = list(csv.DictReader((workdir / "loss.log").open()))
    assert [row["epoch"] for row in rows] == list("12345") and all(float(row["val_loss"]) > 0 for row in rows)
    config = json.loads((workdir / "config.json").read_text())["config"]
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    ends = config["eval_at"]
    assert len({b - a for a, b in zip([0, *ends], ends)}) > 1, "all epochs of one length show nothing"
    assert [line["step"] for line in lines if "tuning_loss" in line] == ends
    assert json.loads((workdir / "final.json").read_text())["step"] == ends[-1]


def test_a_number_without_a_point(files, tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(yaml.safe_dump(base(files)).replace("lr: 0.001", "lr: 1e-3"))
    assert yaml_configs.read(path).config["optimizer"]["learning_rate"] == 1e-3


# key -> (another value, what it is seen in)
CHANGES = {
    "name": ("second", lambda t: t.config["wandb"]["name"]),
    "model.type": ("transformer", lambda t: t.config["model"]["name"]),
    "model.vocab_size": (10, lambda t: t.vocabulary_size),
    "model.embedding_dim": (16, lambda t: t.config["model"]["embedding_dim"]),
    "model.model_dim": (16, lambda t: t.config["model"]["hidden_dim"]),
    "model.hidden_dim": (24, lambda t: t.config["model"]["hidden_dim"]),
    "model.n_layers": (3, lambda t: t.config["model"]["num_layers"]),
    "model.n_heads": (4, lambda t: t.config["model"]["num_heads"]),
    "model.dropout": (0.3, lambda t: (t.config["model"]["dropout"], t.config["model"].get("attention_dropout"))),
    "model.context_length": (32, lambda t: t.config["model"]["max_positions"]),
    "model.bias": (False, lambda t: t.config["model"]["use_bias"]),
    "data.train_dataset_dir": ("other", lambda t: t.train),
    "data.val_dataset_dir": ("other", lambda t: t.tuning),
    "data.vocab_path": ("vocab2.csv", lambda t: t.vocabulary),
    "data.batch_size": (2, lambda t: t.config["batch_size"]),
    "data.sequence_length": (12, lambda t: t.config["data"]["context_length"]),
    "data.shuffle": (False, lambda t: t.config["data"]["shuffle"]),
    "data.insert_static_demographic_tokens": (False, lambda t: t.static_tokens),
    "data.clinical_notes.dir": ("other_notes", lambda t: t.notes.folder),
    "data.clinical_notes.max_note_count": (3, lambda t: t.config["data"]["newest_notes"]),
    "data.clinical_notes.max_tokens_per_note": (64, lambda t: t.notes.max_tokens),
    "data.clinical_notes.encoder": ("hashing", lambda t: t.notes.encoder),
    "optimiser.type": ("adam", lambda t: t.config["optimizer"]["weight_decay"]),
    "optimiser.lr": (0.01, lambda t: t.config["optimizer"]["learning_rate"]),
    "optimiser.scheduler.warmup_steps": (5, lambda t: t.config["schedule"]["warmup_steps"]),
    "optimiser.scheduler.lr_min_ratio": (0.5, lambda t: t.config["schedule"]["lr_min_ratio"]),
    "training.epochs": (3, lambda t: t.config["num_epochs"]),
    "training.device": ("cuda", lambda t: t.device),
}
ONE_VALUE = {"optimiser.scheduler.type", "loss_function.type"}


def test_the_table_of_keys_is_whole():
    assert set(CHANGES) | ONE_VALUE == set(yaml_configs.KEYS)
    page = (ROOT / "docs" / "yaml.md").read_text()
    for key, meaning in yaml_configs.KEYS.items():
        assert f"| `{key}` | {meaning} |" in page, key


@pytest.mark.parametrize("key", CHANGES)
def test_every_key_changes_something(key, files, tmp_path):
    value, seen = CHANGES[key]
    own = key in ("model.model_dim", "model.n_heads", "model.context_length", "model.bias")
    given = base(files, {**GPT2, "context_length": 16} if own else LSTM)
    if key.startswith("data.clinical_notes"):
        given = base(files, {**LSTM, "type": "lstm_note"})
        given["data"]["clinical_notes"] = {"dir": str(files / "notes"), "max_note_count": 2}
    if key == "model.type":
        given = base(files, {k: v for k, v in GPT2.items() if k != "bias"})
    if isinstance(value, str) and value in ("other", "other_notes", "vocab2.csv"):
        value = str(files / value)
    before = yaml_configs.read(written(given, tmp_path / "a.yaml"))
    after = yaml_configs.read(written(changed(given, key, value), tmp_path / "b.yaml"))
    assert seen(before) != seen(after)


def test_without_a_scheduler_the_rate_stays(files, tmp_path):
    given = base(files)
    del given["optimiser"]["scheduler"]
    assert yaml_configs.read(written(given, tmp_path / "a.yaml")).config["schedule"]["name"] == "constant"


def test_data_keys_reach_the_tokens_and_the_order(files, tmp_path):
    made = {}
    for name, key, value in (
        ("base", "name", "base"),
        ("static", "data.insert_static_demographic_tokens", False),
        ("train", "data.train_dataset_dir", str(files / "other")),
        ("vocab", "data.vocab_path", str(files / "vocab2.csv")),
    ):
        given = yaml_configs.read(written(changed(base(files), key, value), tmp_path / f"{name}.yaml"))
        made[name] = token_dataset.open_tokens(yaml_runs.tokens(given, tmp_path / name))
    assert made["base"].split("train").num_static.min() > made["static"].split("train").num_static.max()
    assert len(made["train"].split("train")) == 12 and len(made["base"].split("train")) == 40
    assert "LAB//SODIUM" in made["vocab"].vocabulary.ids and "LAB//SODIUM" not in made["base"].vocabulary.ids
    plans = []
    for shuffle in (True, False):
        settings = pipeline.Settings(str(made["base"].folder), 16, 4, shuffle=shuffle)
        split = made["base"].split("train")
        plans.append([pipeline.plan_epoch(split, settings, seed=0, epoch=e).plan.order.tolist() for e in (0, 1)])
    assert plans[0][0] != plans[0][1] and plans[1][0] == plans[1][1]
    with pytest.raises(InputError, match="model.vocab_size is 10, but .* has 9 rows"):
        yaml_runs.tokens(
            yaml_configs.read(written(changed(base(files), "model.vocab_size", 10), tmp_path / "c.yaml")),
            tmp_path / "c",
        )


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model.type", "mamba", "model.type is 'mamba'; it must be one of lstm, lstm_note, transformer, gpt2"),
        ("model.layers", 2, "unknown key 'model.layers'; did you mean model.n_layers?"),
        ("model.n_heads", 2, "model.n_heads is no setting of the model lstm"),
        ("model.bias", True, "model.bias is no setting of the model lstm"),
        ("model.n_layers", "two", "model.n_layers is 'two'; it must be a whole number"),
        ("model.n_layers", 0, "model.n_layers is 0; it must be positive"),
        ("data.shuffle", 1, "data.shuffle is 1; it must be true or false"),
        ("data.train_dataset_dir", "/nowhere", "data.train_dataset_dir is /nowhere, which is no folder"),
        ("optimiser.type", "sgd", "optimiser.type is 'sgd'; it must be adam or adamw"),
        ("optimiser.scheduler.type", "step", "optimiser.scheduler.type is 'step'; it must be warmup_cosine"),
        ("loss_function.type", "focal", "loss_function.type is 'focal'; only cross_entropy is known"),
        ("training.device", "tpu", "training.device is 'tpu'; it must be cuda or cpu"),
        ("training.epochs", None, "lacks the key training.epochs"),
        ("optimiser.lr", float("nan"), "optimiser.lr is nan"),
        ("optimiser.lr", "fast", "optimiser.lr is 'fast'; it must be a number"),
        ("data.sequence_length", 4, "data.sequence_length is 4; it must be at least 8"),
        ("model.dropout", 1.5, "model.dropout is 1.5"),
        ("data.clinical_notes", {"dir": "x"}, "data.clinical_notes.dir is no setting of the model lstm"),
    ],
)
def test_bad_input(key, value, message, files, tmp_path, capsys):
    path = written(changed(base(files), key, value), tmp_path / "bad.yaml")
    with pytest.raises(SystemExit) as stopped:
        train.main([f"--yaml={path}", f"--workdir={tmp_path / 'run'}"])
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and message in error and error.count("\n") == 1, error
    assert not (tmp_path / "run").exists()


def test_bad_files(files, tmp_path, capsys):
    (tmp_path / "list.yaml").write_text("- a\n- b\n")
    (tmp_path / "broken.yaml").write_text("model: [\n")
    good = written(base(files), tmp_path / "good.yaml")
    for arguments, message in (
        ([f"--yaml={tmp_path / 'none.yaml'}"], "none.yaml does not exist"),
        ([f"--yaml={tmp_path / 'list.yaml'}"], "holds no keys"),
        ([f"--yaml={tmp_path / 'broken.yaml'}"], "cannot be read as YAML"),
        ([f"--yaml={good}", "--config.seed=1"], "takes no other settings"),
    ):
        with pytest.raises(SystemExit) as stopped:
            train.main([*arguments, f"--workdir={tmp_path / 'run'}"])
        error = capsys.readouterr().err
        assert stopped.value.code == 2 and message in error and error.count("\n") == 1, error
