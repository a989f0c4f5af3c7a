"""Configs: overrides are typed, unknown keys are one sentence, and what may change on resume is a list."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from ehrjax.core import config
from ehrjax.core.errors import InputError
from tests.conftest import ROOT

FILE = f"--config={ROOT}/configs/behrt.py"


def test_argument_and_overrides() -> None:
    made = config.from_argv([f"{FILE}:large", "--config.optimizer.learning_rate=3e-4", "--config.model.num_layers=2"])
    assert made.model.hidden_dim == 512 and made.model.num_layers == 2 and made.optimizer.learning_rate == 3e-4


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "No config was named"),
        (["--config=nowhere.py"], "nowhere.py does not exist"),
        ([f"{FILE}:huge"], "no argument 'huge'"),
        ([FILE, "--config.optimizer.learnig_rate=1"], "did you mean 'optimizer.learning_rate'"),
        ([FILE, "--config.batch_size=many"], "many"),
        ([FILE, "--confg.batch_size=4"], "Unknown argument"),
        ([FILE, "stray"], "Unknown argument stray"),
    ],
)
def test_refusals(argv: list[str], message: str) -> None:
    with pytest.raises(InputError) as caught:
        config.from_argv(argv)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@dataclass(frozen=True)
class Section:
    rate: float
    steps: int = 3


def test_into_dataclass() -> None:
    assert config.into(Section, {"rate": 0.5}, where="x") == Section(0.5, 3)
    with pytest.raises(InputError, match="did you mean x.steps"):
        config.into(Section, {"rate": 0.5, "stepz": 1}, where="x")
    with pytest.raises(InputError, match="lacks the key 'rate'"):
        config.into(Section, {}, where="x")


def test_what_may_change_on_resume() -> None:
    old = config.to_dict(config.from_argv([FILE]))
    new = config.to_dict(
        config.from_argv([FILE, "--config.num_steps=7", "--config.mesh.fsdp=2", "--config.eval_every=1"])
    )
    assert config.changed_keys(old, new) == []
    new = config.to_dict(config.from_argv([FILE, "--config.seed=7", "--config.model.dropout=0.2"]))
    assert config.changed_keys(old, new) == ["model.dropout", "seed"]
    assert config.changed_keys(old, {**old, "more": 1}) == ["more"]


@dataclass(frozen=True)
class Settings:
    concepts: str = "source"
    days: int = 30
    share: float = 0.5
    notes: bool = False


def test_options_take_the_types_of_their_fields() -> None:
    arguments = ["--concepts=standard", "--days=7", "--share=0.25", "--notes=true"]
    (settings,) = config.from_options(Settings, arguments, verb="the source x")
    assert settings == Settings("standard", 7, 0.25, True)
    assert config.from_options(Settings, [], verb="the source x") == (Settings(),)
    assert config.from_options(None, [], verb="the source x") == ()


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--concept=a", "did you mean --concepts="),
        ("--days=x", "not a whole number"),
        ("--share=x", "not a number"),
        ("--notes=maybe", "must be true or false"),
        ("days=3", "Unknown argument days=3"),
        ("--days", "Unknown argument --days"),
    ],
)
def test_bad_options_are_refused(argument: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        config.from_options(Settings, [argument], verb="the source x")
    with pytest.raises(InputError, match="has no options"):
        config.from_options(None, [argument], verb="the source x")
