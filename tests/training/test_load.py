"""`ehrjax.load`: which checkpoint it opens, and that encoding does not depend on how subjects are packed."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np
import pytest

import ehrjax
from ehrjax import data
from ehrjax.core import checkpoint, trees
from ehrjax.core.errors import InputError
from tests.conftest import run_here


@pytest.fixture(scope="module")
def workdir(toy_tokens: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("load") / "run"
    result = run_here(
        "train",
        "--config=configs/behrt.py:smoke",
        f"--config.data.path={toy_tokens}",
        f"--workdir={folder}",
        "--config.report.enabled=False",
        "--config.tensorboard=False",
        "--config.optimizer.learning_rate=0.05",  # so that the best checkpoint is not the last
        "--config.eval_every=5",
    )
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture(scope="module")
def run(workdir: Path) -> ehrjax.training.run.Run:
    return ehrjax.load(workdir)


def test_the_best_checkpoint_is_opened(workdir: Path, run: object) -> None:
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["tuning_loss"] for line in lines if "tuning_loss" in line}
    best = min(losses, key=losses.get)
    final = json.loads((workdir / "final.json").read_text())
    assert run.step == best == final["best_step"]
    assert checkpoint.steps(workdir / "checkpoints" / "best") == [best]


def test_the_last_checkpoint_on_request(workdir: Path) -> None:
    last = ehrjax.load(workdir, checkpoint_name="last")
    final = json.loads((workdir / "final.json").read_text())
    assert last.step == final["step"] == 20
    assert trees.sha256(last.params) == final["params_sha256"]


def test_loaded_parameters_are_host_arrays(run: object) -> None:
    assert all(isinstance(leaf, np.ndarray) and leaf.dtype == np.float32 for leaf in jax.tree.leaves(run.params))
    assert run.config["model"]["name"] == "behrt" and len(run.vocabulary) == run.parts.objective.vocab_size


def subjects(toy_tokens: Path, count: int, longest: int) -> list:
    split = data.open_tokens(toy_tokens).split("train")
    return [split.subject(int(i)) for i in np.flatnonzero(split.lengths <= longest)[:count]]


def test_encoding_does_not_depend_on_packing(run: object, toy_tokens: Path) -> None:
    context = run.parts.context_length
    chosen = subjects(toy_tokens, 24, context)
    packed = data.collate(chosen, context_length=context)
    assert packed["segment_ids"].max() > 1, "several subjects share a row"
    hidden, scores = np.asarray(run.encode(packed)), np.asarray(run.logits(packed))
    assert scores.shape == (*packed["tokens"].shape, len(run.vocabulary)) and scores.dtype == np.float32
    seen = 0
    for subject in chosen:
        alone = data.collate([subject], context_length=context)
        length = len(subject.tokens)
        row, segment = np.argwhere(packed["subject_id"] == subject.subject_id)[0]
        here = packed["segment_ids"][row] == segment + 1
        np.testing.assert_allclose(hidden[row][here], np.asarray(run.encode(alone))[0, :length], atol=1e-5)
        np.testing.assert_allclose(scores[row][here], np.asarray(run.logits(alone))[0, :length], atol=1e-4)
        seen += 1
    assert seen == 24


def test_collate_of_plain_lists_and_dicts(run: object) -> None:
    ids = run.vocabulary.ids
    plain = [ids["[CLS]"], ids["DX//0"], ids["DX//1"]]
    batch = data.collate([plain, {"tokens": plain, "subject_id": 7, "birth_time": 0}], context_length=16)
    assert batch["tokens"].shape == (1, 16) and batch["segment_ids"][0].tolist() == [1] * 3 + [2] * 3 + [0] * 10
    assert batch["subject_id"][0, :2].tolist() == [0, 7]
    assert np.isnan(batch["ages"][0, :3]).all() and (batch["ages"][0, 3:6] == 0).all()
    assert run.encode(batch).shape == (1, 16, run.config["model"]["hidden_dim"])


def test_collate_refuses_what_does_not_fit() -> None:
    with pytest.raises(InputError, match="3 tokens but 2 times"):
        data.collate([{"tokens": [1, 2, 3], "times": [0, 1]}])
    with pytest.raises(InputError, match="fill 2 rows of 8, more than batch_size=1"):
        data.collate([[5] * 8, [6] * 8], context_length=8, batch_size=1)


def test_encode_names_the_field_that_is_missing(run: object) -> None:
    with pytest.raises(InputError, match="needs the batch field 'ages'"):
        run.encode({"tokens": np.zeros((1, 4), np.int32)})


def test_a_run_starts_from_another(workdir: Path, toy_tokens: Path, tmp_path: Path) -> None:
    """`init.checkpoint` takes over the parameters (the best ones), except those named in `init.skip`."""
    folder = tmp_path / "run"
    result = run_here(
        "train",
        "--config=configs/behrt.py:smoke",
        f"--config.data.path={toy_tokens}",
        f"--workdir={folder}",
        "--config.report.enabled=False",
        "--config.tensorboard=False",
        f"--config.init.checkpoint={workdir}",
        "--config.init.skip=('^head/',)",
        "--config.seed=1",
        "--config.num_steps=1",
        "--config.schedule.warmup_steps=0",
        "--config.optimizer.learning_rate=1e-12",
        "--config.optimizer.weight_decay=0.0",
        "--config.eval_every=0",
    )
    assert result.returncode == 0, result.stderr
    old, new = ehrjax.load(workdir).params, ehrjax.load(folder).params
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-9), old["model"], new["model"])
    kernels = [leaf for leaf in zip(jax.tree.leaves(old["head"]), jax.tree.leaves(new["head"])) if leaf[0].ndim == 2]
    assert kernels and all(np.abs(a - b).max() > 1e-3 for a, b in kernels)
