"""`python -m ehrjax.prepare labels`: what it prints and writes, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ehrjax.core.errors import InputError
from ehrjax.ingest.labels.reading import read_labels
from ehrjax.ingest.labels.settings import from_arguments, tasks
from tests.conftest import ROOT, refused, run_verb
from tests.ingest.labels.histories import frame, stay
from tests.ingest.labels.test_making import write

CONFIGS = sorted((ROOT / "configs" / "tasks").glob("*.py"))


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [r for s in range(40) for r in (*stay(s, 0, 50), *stay(s, 100, 200), *stay(s, 300, 500, died=s % 3 == 0))]
    return write(tmp_path_factory.mktemp("verb") / "meds", frame(rows), 1)


def test_a_task_by_name_and_by_config(hospital: Path, tmp_path: Path) -> None:
    arguments = (f"--input={hospital}", f"--output={tmp_path / 'labels'}")
    result = run_verb("prepare", "labels", "--task=readmission_30d", *arguments, "--config.horizon_days=3")
    assert result.returncode == 0, result.stderr
    info = json.loads((tmp_path / "labels" / "readmission_30d" / "task.json").read_text())
    assert info["settings"]["horizon_days"] == 3.0
    assert f"labels: {info['splits']['train']['labels']}" in result.stdout
    assert f"positives: {info['splits']['train']['positives']}" in result.stdout
    config = "--config=configs/tasks/in_hospital_mortality_48h.py"
    result = run_verb("prepare", "labels", config, *arguments, "--config.name=deaths", "--config.hours=49")
    assert result.returncode == 0, result.stderr
    labels = read_labels(tmp_path / "labels" / "deaths")
    assert labels.info["settings"] == {"end_of_day": False, "hours": 49.0}
    assert len(labels.frame) == 3 * 40 and labels.frame["boolean_value"].sum() == 14


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "No task was named; add --task=NAME, one of abnormal_lab"),
        (("--task=readmission",), "did you mean 'readmission_30d'"),
        (("--task=readmission_30d", "--config.horizn_days=3"), "did you mean 'horizon_days'"),
        (("--task=readmission_30d", "--config=configs/tasks/none.py"), "does not exist"),
        (("--task=readmission_30d", "--config=configs/tasks/death_1y.py"), "--task is readmission_30d but"),
        (("--task=icu_transfer",), "'icu_admission'"),
    ],
)
def test_refused(arguments: tuple[str, ...], message: str, hospital: Path, tmp_path: Path) -> None:
    said = refused("prepare", "labels", *arguments, f"--input={hospital}", f"--output={tmp_path / 'labels'}")
    assert message in said
    assert not list(tmp_path.iterdir()), "nothing is left behind"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_is_a_task_with_settings(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    chosen = from_arguments(None, [f"--config=configs/tasks/{path.name}"])
    assert chosen.task in tasks() and chosen.name == path.stem
    assert f"--config=configs/tasks/{path.name}" in path.read_text()


def test_values_of_every_type() -> None:
    def settings(*arguments: str) -> object:
        return from_arguments("new_diagnosis", arguments).settings

    assert settings("--config.codes=ICD10CM//E11").codes == ("ICD10CM//E11",)
    assert settings("--config.codes=('A', 'B//[0-9]{2}')").codes == ("A", "B//[0-9]{2}")
    assert settings("--config.codes='A'").codes == ("A",)
    assert settings("--config.codes=I1[0-3]").codes == ("I1[0-3]",)
    assert settings("--config.min_age_years=50", "--config.predict=every").min_age_years == 50.0
    assert from_arguments("readmission_30d", ["--config.end_of_day=TRUE"]).settings.end_of_day is True
    lab = from_arguments("abnormal_lab", ["--config.low=3", "--config.high=None"]).settings
    assert (lab.low, lab.high) == (3.0, None)
    chosen = from_arguments("readmission_30d", ["--config.roles.admission=X", "--config.name=other"])
    assert chosen.roles == {"admission": ("X",)} and chosen.name == "other"
    for argument, message in (
        ("--config.end_of_day=perhaps", "true or false"),
        ("--config.horizon_days=month", "a number"),
        ("--config.roles.admission=(", "no regular expression"),
        ("--horizon_days=3", "Unknown argument"),
        ("--config.task", "Unknown argument"),
    ):
        with pytest.raises(InputError) as error:
            from_arguments("readmission_30d", [argument])
        assert message in str(error.value)
