"""What the train verb refuses: one sentence, exit code 2, nothing half-written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, behrt_recipe, refused, run_here, verb

SMOKE = ("--config=configs/behrt.py:smoke", "--config.report.enabled=False", "--config.tensorboard=False")


@pytest.fixture(scope="module")
def finished(toy_tokens: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("finished") / "run"
    result = run_here("train", *SMOKE, f"--config.data.path={toy_tokens}", f"--workdir={workdir}")
    assert result.returncode == 0, result.stderr
    return workdir


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--config.data.path=/nowhere/tokens",), "The token dataset /nowhere/tokens does not exist"),
        (("--config.model.num_layrs=3",), "no key 'model.num_layrs'; did you mean 'model.num_layers'"),
        (("--config.model.name=behr",), "config.model.name is 'behr', which does not exist; did you mean 'behrt'"),
        (("--config.objective.name=next",), "config.objective.name is 'next', which does not exist"),
        (("--config.model.num_heads=5",), "not divisible by model.num_heads 5"),
        (("--config.precision=fp8",), "precision is 'fp8'"),
        (("--config.optimizer.name=sgd",), "config.optimizer.name is 'sgd'"),
        (("--config.schedule.name=step",), "config.schedule.name is 'step'"),
        (("--config.data.context_length=256",), "longer than model.max_positions 128"),
        (("--config.seed=-1",), "config.seed is -1; it must not be negative"),
        (("--config.eval_every=-1",), "config.eval_every is -1"),
        (("--config.profile.steps=-1",), "config.profile.steps is -1"),
        (("--config.optimizer.b1=1.5",), "b1 and b2 of at least 0 and below 1"),
        (("--config.batch_size=abc",), "batch_size=abc"),
        (("--config.num_steps=0",), "num_steps and config.num_epochs are both 0"),
        (("--config.init.checkpoint=/nowhere/run",), "The run /nowhere/run does not exist"),
    ],
)
def test_refused(arguments: tuple, message: str, toy_tokens: Path, tmp_path: Path) -> None:
    data = () if "data.path" in arguments[0] else (f"--config.data.path={toy_tokens}",)
    said = refused("train", *SMOKE, *data, *arguments, f"--workdir={tmp_path / 'run'}")
    assert message in said
    assert not (tmp_path / "run" / "checkpoints").exists() and not (tmp_path / "run" / "config.json").exists()


def test_two_runs_in_one_workdir_are_refused(toy_tokens: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    arguments = (*SMOKE, f"--config.data.path={toy_tokens}", f"--workdir={workdir}", "--config.num_steps=100000")
    running = verb("train", *arguments, "--config.log_every=1")
    try:
        assert any(line.startswith("step 1/") for line in running.stdout)
        said = refused("train", *arguments)
        assert f"Another run is working in {workdir}" in said
    finally:
        running.kill()
        running.communicate()
    # A killed run holds nothing.
    result = run_here("train", *arguments[:-1], "--config.num_steps=10")
    assert result.returncode == 0 or "it is at step" in result.stderr, result.stderr


def test_a_changed_config_is_refused(finished: Path, toy_tokens: Path) -> None:
    before = {p: p.read_bytes() for p in finished.rglob("*") if p.is_file()}
    arguments = (*SMOKE, f"--config.data.path={toy_tokens}", f"--workdir={finished}", "--config.model.dropout=0.3")
    said = refused("train", *arguments, process=True)
    assert "model.dropout differ" in said
    assert before == {p: p.read_bytes() for p in finished.rglob("*") if p.is_file()}


def test_another_vocabulary_is_refused(finished: Path, toy_tokens: Path, toy_meds: Path, tmp_path: Path) -> None:
    from ehrjax.core.errors import InputError
    from ehrjax.data import prepare_tokens
    from ehrjax.training import run

    # The same path, prepared anew with other settings while a run on the old tokens exists.
    other = tmp_path / "tokens"
    prepare_tokens.prepare(toy_meds, other, behrt_recipe(drop=(), min_count=9))
    workdir = Path(shutil.copytree(finished, tmp_path / "run"))
    saved = json.loads((workdir / "config.json").read_text())
    saved["config"]["data"]["path"] = str(other)
    (workdir / "config.json").write_text(json.dumps(saved))
    said = refused("train", *SMOKE, f"--config.data.path={other}", f"--workdir={workdir}")
    assert f"The vocabulary of {other} is not the one that {workdir} was trained with" in said
    # And as a starting point.
    said = refused(
        "train",
        *SMOKE,
        f"--config.data.path={other}",
        f"--config.init.checkpoint={finished}",
        f"--workdir={tmp_path / 'new'}",
    )
    assert "is not that of the data" in said
    # And on loading.
    (workdir / "vocab.csv").write_bytes((other / "vocab.csv").read_bytes())
    with pytest.raises(InputError, match="not the vocabulary of this run's checkpoint"):
        run.load(workdir)


def test_load_refuses_what_is_no_run(tmp_path: Path, finished: Path) -> None:
    import ehrjax
    from ehrjax.core.errors import InputError

    with pytest.raises(InputError, match="does not exist"):
        ehrjax.load(tmp_path / "nothing")
    with pytest.raises(InputError, match="is not a run's folder"):
        ehrjax.load(tmp_path)
    workdir = Path(shutil.copytree(finished, tmp_path / "run"))
    shutil.rmtree(workdir / "checkpoints")
    with pytest.raises(InputError, match="no complete checkpoint"):
        ehrjax.load(workdir)


def test_a_truncated_shard_is_refused(toy_tokens: Path, tmp_path: Path) -> None:
    tokens = Path(shutil.copytree(toy_tokens, tmp_path / "tokens"))
    shard = next((tokens / "data" / "tuning").glob("*.arrow"))
    shard.write_bytes(shard.read_bytes()[:-64])
    said = refused("train", *SMOKE, f"--config.data.path={tokens}", f"--workdir={tmp_path / 'run'}")
    assert f"{shard} is truncated or is no Arrow file" in said


def test_a_full_disk_while_checkpointing(toy_tokens: Path, tmp_path: Path) -> None:
    """A limit on the size of a file stands in for a full disk: the same error from the same place."""
    workdir = tmp_path / "run"
    arguments = (*SMOKE, f"--config.data.path={toy_tokens}", f"--workdir={workdir}")
    first = run_here("train", *arguments, "--config.num_steps=10")
    assert first.returncode == 0, first.stderr
    kept = sorted(p.name for p in (workdir / "checkpoints" / "last").iterdir())

    program = (
        "import resource, runpy; resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000));"
        "runpy.run_module('ehrjax.train', run_name='__main__')"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        env={
            **os.environ,
            "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=1",
            "JAX_COMPILATION_CACHE_DIR": "",
        },
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2, (result.stdout, result.stderr)
    assert "Traceback" not in result.stderr
    assert "is full, so a checkpoint could not be written (newest complete step: 10)" in result.stderr
    assert sorted(p.name for p in (workdir / "checkpoints" / "last").iterdir() if p.name.isdigit()) == kept
    # With room again the run goes on from what was kept.
    result = run_here("train", *arguments)
    assert result.returncode == 0 and "continuing from step 10" in result.stdout


def test_a_loss_that_is_not_finite_stops_the_run(toy_tokens: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    result = run_here(
        "train",
        *SMOKE,
        f"--config.data.path={toy_tokens}",
        f"--workdir={workdir}",
        "--config.optimizer.learning_rate=1e30",
        "--config.optimizer.clip_norm=0.0",
        "--config.checkpoint_every=1",
        "--config.eval_every=0",
        "--config.schedule.name=constant",
        "--config.schedule.warmup_steps=0",
    )
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "is not finite at step" in result.stderr and "is kept" in result.stderr
    import jax
    import numpy as np

    import ehrjax

    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(ehrjax.load(workdir).params))
