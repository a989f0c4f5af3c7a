"""The codes of the next visit, against plain Python, visit by visit."""

from __future__ import annotations

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ehrjax import train
from ehrjax.core.errors import InputError
from ehrjax.core.writer import read_metrics
from ehrjax.objectives import next_visit
from ehrjax.training import run as runs
from tests.models.test_every_model import made, pack, subject

VOCABULARY, WIDTH, SPECIALS = 14, 4, 5
visit = st.lists(st.integers(1, VOCABULARY - 1), min_size=1, max_size=4)
windows = st.lists(st.lists(visit, min_size=1, max_size=5), min_size=1, max_size=3)


def laid(rows: list, length: int) -> dict[str, np.ndarray]:
    names = ("tokens", "segment_ids", "visit_ids")
    batch = {name: np.zeros((len(rows), length), np.int32) for name in names}
    for row, segments in enumerate(rows):
        at = 0
        for number, visits in enumerate(segments):
            for index, codes in enumerate(visits):
                span = slice(at, at + len(codes))
                batch["tokens"][row, span] = codes
                batch["segment_ids"][row, span] = number + 1
                batch["visit_ids"][row, span] = index
                at += len(codes)
    batch["ends"] = np.ones((len(rows), 4), np.int32)
    return batch


def expected(rows: list, scores: np.ndarray) -> tuple[float, int, int, dict]:
    """Loss, visits told, those whose best code occurs; and the loss at each place."""
    total, count, best, at_place = 0.0, 0, 0, {}
    for row, segments in enumerate(rows):
        at = 0
        for visits in segments:
            before = None
            for codes in visits:
                places = [at + i for i, code in enumerate(codes) if code >= SPECIALS]
                real = {code for code in codes if code >= SPECIALS}
                if before is not None and real:
                    z = scores[row, before].astype(np.float64)
                    there = np.isin(np.arange(VOCABULARY), list(real))
                    loss = float(np.where(there, np.logaddexp(0, -z), np.logaddexp(0, z)).sum())
                    at_place[row, before] = loss
                    total, count, best = total + loss, count + 1, best + int(there[z.argmax()])
                before = places[-1] if places else None
                at += len(codes)
    return total, count, best, at_place


def objective(chunk: int = 512, tied: bool = False) -> next_visit.Objective:
    config = next_visit.Config(tied=tied, use_bias=not tied, chunk_size=chunk)
    return next_visit.Objective(config, vocab_size=VOCABULARY, num_specials=SPECIALS, mask_id=4)


@functools.cache
def told_by(chunk: int, tied: bool, length: int):
    """Scores, loss, weight, sums and predictions of a batch of three rows, as one program."""
    rng, own = np.random.default_rng(0), objective(chunk, tied)
    hidden = jnp.asarray(rng.normal(size=(3, length, WIDTH)), jnp.float32)
    table = jnp.asarray(rng.normal(size=(VOCABULARY, WIDTH)), jnp.float32)
    head = own.head()
    variables = head.init(jax.random.key(0), hidden[:1, :1], table)
    params = jax.tree.map(lambda x: x + rng.normal(size=x.shape).astype(np.float32), variables.get("params", {}))
    apply = lambda p, *inputs: head.apply({"params": p}, *inputs)  # noqa: E731
    outputs = {"hidden": hidden, "table": table}

    def told(batch):
        prepared = own.prepare(batch, jax.random.key(0))
        found = own.predictions(apply, params, outputs, prepared)
        return apply(params, hidden, table if tied else None), *own.loss(apply, params, outputs, prepared), found

    return jax.jit(told)


@given(st.lists(windows, min_size=1, max_size=3), st.sampled_from([1, 7, 512]), st.booleans())
def test_loss_is_that_of_every_code_of_the_next_visit(rows, chunk, tied):
    length = 64
    batch = laid(rows + [[]] * (3 - len(rows)), length)
    scores, total, weight, sums, told = jax.tree.map(np.asarray, told_by(chunk, tied, length)(batch))
    loss, count, best, places = expected(rows, scores)
    assert float(weight) == count and float(sums["top1"]) == best
    assert float(total) == pytest.approx(loss, rel=1e-5, abs=1e-4)
    found, recall = told["loss"], told["recall10"]
    for place, value in places.items():
        assert found[place] == pytest.approx(value, rel=1e-5, abs=1e-4)
    assert np.count_nonzero(found) == len(places)
    assert ((recall >= 0) & (recall <= 1)).all() and (recall[found == 0] == 0).all()


def test_the_gradient_is_that_of_the_loss():
    rows = [[[[5, 6], [7], [8, 8, 2], [9]]], [[[5], [6, 7, 8]], [[11, 12], [13]]]]
    batch, rng = laid(rows, 16), np.random.default_rng(0)
    own = objective(6)
    hidden = jnp.asarray(rng.normal(size=(2, 16, WIDTH)), jnp.float32)
    head = own.head()
    params = head.init(jax.random.key(0), hidden[:1, :1], None)["params"]
    apply = lambda p, *inputs: head.apply({"params": p}, *inputs)  # noqa: E731
    prepared = own.prepare(batch, jax.random.key(0))

    def loss(h):
        return own.loss(apply, params, {"hidden": h, "table": None}, prepared)[0]

    found = np.asarray(jax.grad(loss)(hidden))
    direction = jnp.asarray(rng.normal(size=hidden.shape), jnp.float32)
    slope = (loss(hidden + 1e-2 * direction) - loss(hidden - 1e-2 * direction)) / 2e-2
    assert float((found * direction).sum()) == pytest.approx(float(slope), rel=1e-2)
    told = {(0, 1), (0, 2), (0, 4), (1, 0), (1, 5)}
    assert {tuple(place) for place in np.argwhere(np.abs(found).max(-1) > 0).tolist()} == told


def test_a_visit_that_the_window_may_have_cut_is_not_told():
    rows = [[[[5, 6], [7], [8, 9]], [[5], [6, 7]]]]
    batch = laid(rows, 16)
    batch["ends"] = np.array([[0, 1, 0, 0]], np.int32)
    prepared = objective().prepare({name: jnp.asarray(values) for name, values in batch.items()}, jax.random.key(0))
    assert np.flatnonzero(np.asarray(prepared["predicts"])[0]).tolist() == [1, 5]
    assert np.asarray(prepared["told_at"])[0].tolist() == [-1, -1, 1, -1, -1, -1, 5, 5, *[-1] * 8]


def test_what_a_visit_is_told_from_does_not_depend_on_it():
    """A visit LSTM sees whole visits: what tells a visit must change neither with that visit nor with a later one."""
    model, params, sees = made("visit lstm, mean")
    assert sees == "visit"
    one = subject(18, 1)
    other = {name: values.copy() for name, values in one.items()}
    other["tokens"][12:] = other["tokens"][12:] % 49 + 1
    own = next_visit.Objective(next_visit.Config(), vocab_size=50, num_specials=1, mask_id=4)
    hidden = []
    for x in (one, other):
        batch = {**pack([[x]], 20), "ends": jnp.ones((1, 1), jnp.int32)}
        prepared = own.prepare(batch, jax.random.key(0))
        places = np.flatnonzero(np.asarray(prepared["predicts"])[0])
        assert places.tolist() == [2, 5, 8, 11, 14]
        hidden.append(np.asarray(model.apply({"params": params}, batch)["hidden"])[0, places])
    np.testing.assert_array_equal(hidden[0][:4], hidden[1][:4])
    assert (hidden[0][4] != hidden[1][4]).any()


def test_legal_and_illegal_pairs():
    objective_module = importlib.import_module("ehrjax.objectives.next_visit")
    for name, settings, legal in (
        ("visit_lstm", {}, True),
        ("visit_lstm", {"bidirectional": True}, False),
        ("lstm", {}, True),
        ("lstm", {"bidirectional": True}, False),
        ("gpt2", {}, True),
        ("behrt", {}, False),
    ):
        module = importlib.import_module(f"ehrjax.models.{name}")
        config = module.config_from({"vocab_size": 9, **settings})
        if legal:
            runs.check_pair(module, objective_module, config)
        else:
            with pytest.raises(InputError, match="lets a position see later ones"):
                runs.check_pair(module, objective_module, config)
    visits = importlib.import_module("ehrjax.models.visit_lstm")
    tokens = importlib.import_module("ehrjax.objectives.next_token")
    with pytest.raises(InputError, match="lets a position see later ones"):
        runs.check_pair(visits, tokens, visits.config_from({"vocab_size": 9}))


def test_it_learns(toy_tokens, tmp_path):
    settings = [
        "--config=configs/visit_lstm.py:next_visit",
        f"--workdir={tmp_path / 'run'}",
        f"--config.data.path={toy_tokens}",
        "--config.data.context_length=64",
        "--config.model.embedding_dim=16",
        "--config.model.visit_dim=16",
        "--config.model.hidden_dim=16",
        "--config.batch_size=8",
        "--config.num_steps=40",
        "--config.eval_every=20",
        "--config.schedule.warmup_steps=5",
        "--config.optimizer.learning_rate=1e-2",
        "--config.report.enabled=False",
    ]
    train.main(settings)
    losses = [line["tuning_loss"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if "tuning_loss" in line]
    assert losses[-1] < 0.75 * losses[0], losses
