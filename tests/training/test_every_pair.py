"""Every model with every objective: the legal pairs have a step, the others are refused with the reason."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

import jax
import numpy as np
import optax
import pytest

from ehrjax import models, objectives
from ehrjax.core import rng
from ehrjax.core.errors import InputError
from ehrjax.data import rows
from ehrjax.data.notes import SubjectNotes
from ehrjax.training import run as runs
from ehrjax.training import state, step
from ehrjax.vocab import vocabulary as vocabularies

SIZE = {"num_layers": 1, "num_heads": 2, "hidden_dim": 8, "embedding_dim": 8, "max_positions": 16, "note_dim": 3}
LABELS = {"classification": 1, "regression": 1, "hazard": 2}
MASKED = {"masked_codes", "masked_values"}
# What a model may show a position, and what each objective of tokens can stand.
NEVER = {"next_token", "next_event"}


def found(package: object, kind: str) -> list[str]:
    names = [module.name for module in pkgutil.iter_modules(package.__path__)]
    return [name for name in names if hasattr(importlib.import_module(f"{package.__name__}.{name}"), kind)]


MODELS, OBJECTIVES = found(models, "Model"), found(objectives, "Objective")


def cases() -> Iterator[tuple[str, bool, str]]:
    for name in MODELS:
        fields = importlib.import_module(f"ehrjax.models.{name}").Config.__dataclass_fields__
        for bidirectional in (False, True) if "bidirectional" in fields else (False,):
            for objective in OBJECTIVES:
                yield name, bidirectional, objective


def sees(name: str, bidirectional: bool) -> str:
    if bidirectional or name in ("behrt", "bert", "cehr_bert"):
        return "everything"
    return "its visit" if name in ("visit_lstm", "fading") else "the past"


def config(name: str, bidirectional: bool, objective: str) -> dict:
    fields = importlib.import_module(f"ehrjax.models.{name}").Config.__dataclass_fields__
    model = {key: value for key, value in SIZE.items() if key in fields}
    if "bidirectional" in fields:
        model["bidirectional"] = bidirectional
    return {
        "model": {"name": name, **model},
        "objective": {"name": objective},
        "precision": "fp32",
        "data": {"context_length": 16},
    }


def batch(objective: str) -> dict[str, np.ndarray]:
    notes = SubjectNotes(np.array([0, 2]), np.ones((2, 3), np.float32))
    one = dict(num_static=0, birth_time=0, times=[1, 2, 3, 4, 5, 6], visits=[0, 0, 1, 1, 2, 2], values=[1.0] * 6)
    made = rows.collate(
        [rows.subject([2, 1, 3, 4, 1, 2], subject_id=i, notes=notes, **one) for i in range(4)],
        context_length=16,
        max_segments=3,
        note_states=4,
    )
    if objective in LABELS:
        made["labels"] = np.ones((*made["anchors"].shape, LABELS[objective]), np.float32)
        made["weights"] = (made["anchors"] >= 0).astype(np.float32)
    return made


@pytest.mark.parametrize(("name", "bidirectional", "objective"), list(cases()))
def test_a_pair_has_a_step_or_says_why_not(name, bidirectional, objective):
    given = config(name, bidirectional, objective)
    legal = {"the past": True, "its visit": objective not in NEVER}.get(
        sees(name, bidirectional), objective not in NEVER | {"next_visit", "time_to_events"}
    )
    if not legal:
        with pytest.raises(InputError, match="lets a position see later ones, which the objective .* predict"):
            runs.build(given, vocabularies.smallest())
        return
    parts = runs.build(given, vocabularies.smallest())
    chosen = optax.sgd(0.1)
    update = step.make_train_step(parts.model, parts.objective, chosen, optax.constant_schedule(0.1), 1)
    evaluate = step.make_eval_step(parts.model, parts.objective)
    key = jax.random.key(0)

    def whole(given_batch: dict) -> tuple:
        params = parts.init(key)
        fresh = state.TrainState(np.int32(0), params, chosen.init(params), {})
        after, metrics = update(fresh, given_batch, rng.key_for(0, "run"))
        return params, after.params, metrics, evaluate(after.params, given_batch, key)

    before, after, metrics, _ = jax.eval_shape(whole, runs.select(batch(objective), parts.fields))
    assert jax.tree.map(lambda x: x.shape, before) == jax.tree.map(lambda x: x.shape, after)
    assert metrics["loss"].shape == () and metrics["loss"].dtype == np.float32


def test_all_are_here():
    assert {"gpt2", "decoder", "lstm", "lstm_notes", "visit_lstm", "behrt", "bert", "cehr_bert"} <= set(MODELS)
    assert {"next_token", "next_event", "next_visit", "time_to_events", *LABELS, *MASKED} == set(OBJECTIVES)
