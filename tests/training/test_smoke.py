"""Every config's `:smoke`, without data, on the embedded hospital, to a report; one in a process of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import ROOT, run_here, run_verb

# Fine-tuning starts from a run; tests/evals/test_evaluate_verb.py has one.
CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("*.py") if path.stem != "finetune")
# What does not depend on the model is looked at in one.
ONE = "behrt"


@pytest.fixture(scope="module", params=CONFIGS)
def smoke(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    workdir = tmp_path_factory.mktemp(request.param) / "run"
    given = [f"--config=configs/{request.param}.py:smoke", f"--workdir={workdir}"]
    if request.param == ONE:  # as a user runs it
        result = run_verb("train", *given, "--config.profile.start=3", "--config.profile.steps=2", devices=2)
        assert result.returncode == 0, result.stderr
        return workdir, result.stdout
    result = run_here("train", *given)
    assert result.returncode == 0, result.stderr
    return workdir, result.stdout


def test_metrics_have_loss_speed_and_learning_rate(smoke: tuple[Path, str]) -> None:
    workdir, _ = smoke
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    trained = [line for line in lines if "loss" in line]
    assert [line["step"] for line in trained] == [5, 10, 15, 20]
    for line in trained:
        assert line["loss"] > 0 and line["tokens_per_second"] > 0 and line["learning_rate"] > 0
    assert [line["step"] for line in lines if "tuning_loss" in line] == [10, 20]


def test_the_last_line_is_the_digest(smoke: tuple[Path, str]) -> None:
    workdir, out = smoke
    final = json.loads((workdir / "final.json").read_text())
    assert out.splitlines()[-1] == f"params sha256: {final['params_sha256']}"
    assert final["step"] == 20 and final["reason"] == "finished"


def test_progress_names_steps_loss_speed_and_time_left(smoke: tuple[Path, str]) -> None:
    _, out = smoke
    line = next(line for line in out.splitlines() if line.startswith("step 10/20"))
    assert all(word in line for word in ("loss", "tokens/s", "left"))


def test_the_workdir_is_complete(smoke: tuple[Path, str]) -> None:
    workdir, out = smoke
    saved = json.loads((workdir / "config.json").read_text())
    assert saved["config"]["num_steps"] == 20 and saved["versions"]["jax"] and saved["dataset"]["fingerprint"]
    for name in ("vocab.csv", "report/index.html", "checkpoints/last/20", "checkpoints/best", "data/tokens"):
        assert (workdir / name).exists(), name
    assert any((workdir / "tensorboard").iterdir())
    profiled = any(path.name.endswith(".xplane.pb") for path in (workdir / "profile").rglob("*"))
    assert profiled == (saved["config"]["profile"]["steps"] > 0)
    assert f"report: {workdir / 'report' / 'index.html'}" in out


@pytest.mark.parametrize("smoke", ["bag"], indirect=True)
def test_the_seed_alone_decides(smoke: tuple[Path, str], tmp_path: Path) -> None:
    workdir, _ = smoke
    config = json.loads((workdir / "config.json").read_text())["config"]
    digests = {}
    for seed in (0, 1):
        result = run_here(
            "train",
            f"--config=configs/{config['model']['name']}.py:smoke",
            f"--workdir={tmp_path / str(seed)}",
            f"--config.data.path={workdir / 'data' / 'tokens'}",
            f"--config.seed={seed}",
            "--config.report.enabled=False",
            "--config.deterministic=True",
        )
        assert result.returncode == 0, result.stderr
        digests[seed] = result.stdout.splitlines()[-1]
    final = json.loads((workdir / "final.json").read_text())
    assert digests[0].endswith(final["params_sha256"]) and digests[1] != digests[0]
