"""A run that is killed and started again ends in the same bits as one that was not."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import run_here, run_verb, verb

ARGUMENTS = (
    "--config=configs/behrt.py:smoke",
    "--config.report.enabled=False",
    "--config.tensorboard=False",
    "--config.num_steps=40",
    "--config.eval_every=7",
    "--config.checkpoint_every=5",
    "--config.log_every=1",
    "--config.optimizer.accumulate=2",
    "--config.model.dropout=0.1",
    "--config.early_stopping.patience=50",
    "--config.data.eval_batches=0",
)


def sha(workdir: Path) -> str:
    return json.loads((workdir / "final.json").read_text())["params_sha256"]


def lines(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def without_speed(rows: list[dict]) -> list[dict]:
    return [{key: value for key, value in row.items() if key not in ("tokens_per_second", "seconds")} for row in rows]


@pytest.fixture(scope="module")
def whole(toy_tokens: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    result = run_verb("train", *ARGUMENTS, f"--config.data.path={toy_tokens}", f"--workdir={workdir}")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == f"params sha256: {sha(workdir)}"
    assert not (workdir / "report").exists() and "report:" not in result.stdout, "config.report.enabled is False"
    return workdir


def kill_when(ready: Callable[[str], bool], *arguments: object) -> bool:
    """Starts a run and kills it with SIGKILL once `ready(line of stdout)`; False if it ended before."""
    process = verb("train", *arguments)
    for line in process.stdout:
        if ready(line):
            process.kill()
            process.communicate()
            return True
    process.communicate()
    return False


def saving(workdir: Path) -> bool:
    folder = workdir / "checkpoints" / "last"
    return folder.is_dir() and any("tmp" in path.name for path in folder.iterdir())


def test_ended_anywhere_ends_in_the_same_bits(whole: Path, toy_tokens: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    arguments = (
        *ARGUMENTS,
        f"--config.data.path={toy_tokens}",
        f"--workdir={workdir}",
        "--config.data.num_workers=2",  # the whole run has none
    )
    # Before the first checkpoint.
    assert kill_when(lambda line: line.startswith("step 3/"), *arguments)
    # A signal to end saves first.
    process = verb("train", *arguments)
    for line in process.stdout:
        if line.startswith("step 8/"):
            process.send_signal(signal.SIGTERM)
            break
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "interrupted; saved step" in out and "sha256" not in out
    # While evaluating: its line is printed last before.
    assert kill_when(lambda line: line.startswith("step 14/"), *arguments)
    # While a checkpoint is being written in the background.
    process = verb("train", *arguments)
    until = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < until and not saving(workdir):
        time.sleep(0.0005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    result = run_verb("train", *arguments)
    assert result.returncode == 0, result.stderr
    assert "continuing from step" in result.stdout
    assert sha(workdir) == sha(whole)
    assert without_speed(lines(workdir)) == without_speed(lines(whole))


def test_longer_run_continues_a_shorter_one(toy_tokens: Path, tmp_path: Path) -> None:
    arguments = (
        *ARGUMENTS,
        f"--config.data.path={toy_tokens}",
        "--config.schedule.name=constant",
        "--config.eval_every=4",
        "--config.early_stopping.patience=3",
    )
    short, long = tmp_path / "short", tmp_path / "long"
    assert run_here("train", *arguments, f"--workdir={short}", "--config.num_steps=10").returncode == 0
    assert run_here("train", *arguments, f"--workdir={short}", "--config.num_steps=20").returncode == 0
    assert run_here("train", *arguments, f"--workdir={long}", "--config.num_steps=20").returncode == 0
    assert sha(short) == sha(long)


def test_early_stopping_survives_a_restart(toy_tokens: Path, tmp_path: Path) -> None:
    arguments = (
        *ARGUMENTS,
        f"--config.data.path={toy_tokens}",
        "--config.optimizer.learning_rate=0.0",
        "--config.eval_every=3",
        "--config.early_stopping.patience=2",
    )
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    result = run_here("train", *arguments, f"--workdir={whole}")
    assert result.returncode == 0, result.stderr
    final = json.loads((whole / "final.json").read_text())
    # Without learning nothing improves after the first evaluation, at step 3: two more end the run.
    assert (final["reason"], final["step"], final["best_step"]) == ("stopped early", 9, 3)
    assert kill_when(lambda line: line.startswith("step 8/"), *arguments, f"--workdir={killed}")
    assert run_here("train", *arguments, f"--workdir={killed}").returncode == 0
    assert json.loads((killed / "final.json").read_text()) == final
    assert run_here("train", *arguments, f"--workdir={killed}").returncode == 0
    assert json.loads((killed / "final.json").read_text()) == final
