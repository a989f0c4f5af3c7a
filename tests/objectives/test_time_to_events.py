"""Times until codes come, against plain Python, visit by visit and code by code."""

from __future__ import annotations

import functools
import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ehrjax
from ehrjax import train
from ehrjax.core.errors import InputError
from ehrjax.core.writer import read_metrics
from ehrjax.data.rows import collate
from ehrjax.objectives import time_to_events

VOCABULARY, SPECIALS, WIDTH, LENGTH = 11, 5, 4, 30
EDGES = (10.0, 40.0, 400.0)
visit = st.tuples(st.integers(0, 300_000), st.lists(st.integers(1, VOCABULARY - 1), min_size=1, max_size=3))
# All codes; some; groups of them, one asked for only until it has come.
ASKED = (
    (),
    (("ids", (6, 9, 10)),),
    (("ids", (5, 6, 8, 9)), ("kinds", (0, 1, 0, 2)), ("once", (True, False, False))),
)
windows = st.lists(st.lists(visit, min_size=1, max_size=4), min_size=1, max_size=2)


def laid(rows: list) -> dict[str, np.ndarray]:
    """Windows of visits as (minutes since the visit before, codes); each window starts on day 0."""
    names = ("tokens", "segment_ids", "visit_ids", "times", "days")
    batch = {name: np.zeros((len(rows), LENGTH), np.int32) for name in names}
    batch["ages"] = np.full((len(rows), LENGTH), np.nan, np.float32)
    batch["anchors"] = np.full((len(rows), 3), -1, np.int32)
    batch["ends"] = np.zeros((len(rows), 3), np.int32)
    for row, segments in enumerate(rows):
        at = 0
        for number, visits in enumerate(segments):
            now = 0
            for index, (gap, codes) in enumerate(visits):
                now += gap if index else 0
                span = slice(at, at + len(codes))
                batch["tokens"][row, span] = codes
                batch["segment_ids"][row, span] = number + 1
                batch["visit_ids"][row, span] = index
                batch["times"][row, span] = now
                batch["days"][row, span] = now // 1440
                at += len(codes)
            batch["anchors"][row, number] = at - 1
            batch["ends"][row, number] = 1
    return batch


def made(**given_settings):
    config = time_to_events.Config(
        **{"edges_days": EDGES, "visits": LENGTH, "rank": 3, "chunk_size": 7, **given_settings}
    )
    objective = time_to_events.Objective(config, vocab_size=VOCABULARY, num_specials=SPECIALS, mask_id=4)
    head = objective.head()
    params = head.init(jax.random.key(0), jnp.zeros((1, 1, WIDTH)), None)["params"]
    params = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(jax.random.key(1), x.shape), params)
    params["bias"] = params["bias"] + 6.0
    return objective, (lambda p, *inputs: head.apply({"params": p}, *inputs)), params


def expected(
    rows: list, rates: np.ndarray, groups: list[set[int]], once: tuple[bool, ...], end_day: int | None
) -> dict[tuple[int, int], float]:
    """Minus the log-likelihood at the last code of each visit; rates [B, L, J, groups], logarithms a day."""
    told = {}
    for row, segments in enumerate(rows):
        at = 0
        for visits in segments:
            times = np.cumsum([0 if i == 0 else gap for i, (gap, _) in enumerate(visits)])
            last_day = int(times[-1]) // 1440
            end = int(times[-1])
            if end_day is not None and end_day > last_day:
                end += (end_day - last_day) * 1440
            for i, (_, own) in enumerate(visits):
                places = [at + k for k, code in enumerate(own) if code >= SPECIALS]
                at += len(own)
                if not places:
                    continue
                loss = 0.0
                for c, group in enumerate(groups):
                    has = [bool(group & set(codes)) for _, codes in visits]
                    if once and once[c] and any(has[: i + 1]):
                        continue
                    later = [k for k in range(i + 1, len(visits)) if has[k]]
                    minutes = max(int(times[later[0]] - times[i]), 1) if later else end - int(times[i])
                    days, low = minutes / 1440, 0.0
                    for j, high in enumerate(EDGES):
                        rate = float(rates[row, places[-1], j, c])
                        loss += math.exp(rate) * min(max(days - low, 0.0), high - low)
                        if later and low < days <= high:
                            loss -= rate
                        low = high
                told[row, places[-1]] = loss
    return told


@functools.cache
def told_by(codes: tuple[tuple[str, tuple], ...], end_day: int | None):
    """Rates, loss, weight and predictions of (batch, hidden), as one program."""
    until = {} if end_day is None else {"observed_until": str(np.datetime64("1970-01-01") + end_day)}
    objective, apply, params = made(**dict(codes), **until)

    def told(batch, hidden):
        outputs, prepared = {"hidden": hidden, "table": None}, objective.prepare(batch, jax.random.key(3))
        total, weight, _ = objective.loss(apply, params, outputs, prepared)
        found = objective.predictions(apply, params, outputs, prepared)
        return apply(params, hidden, None), total, weight, found

    return jax.jit(told)


@settings(max_examples=40, deadline=None)
@given(st.lists(windows, min_size=1, max_size=2), st.sampled_from(ASKED), st.sampled_from([None, 700]))
def test_losses_are_those_of_plain_python(rows, codes, end_day):
    hidden = jax.random.normal(jax.random.key(2), (2, LENGTH, WIDTH))
    batch = laid(rows + [[]] * (2 - len(rows)))
    rates, total, weight, found = jax.tree.map(np.asarray, told_by(codes, end_day)(batch, hidden))
    named = dict(codes)
    ids = named.get("ids", tuple(range(SPECIALS, VOCABULARY)))
    groups: dict[int, set[int]] = {}
    for i, kind in zip(ids, named.get("kinds", range(len(ids)))):
        groups.setdefault(kind, set()).add(i)
    told = expected(rows, rates.astype(np.float64), list(groups.values()), named.get("once", ()), end_day)
    assert int(weight) == len(told)
    np.testing.assert_allclose(float(total), sum(told.values()), rtol=2e-4)
    for row in range(2):
        for at, loss in zip(found["asked"][row], found["loss"][row]):
            if at >= 0:
                np.testing.assert_allclose(loss, told[row, int(at)], rtol=2e-4, atol=1e-4)
            else:
                assert loss == 0


def test_some_visits_are_drawn_anew_in_training_and_the_same_in_evaluation():
    visits = [(500, [6]) for _ in range(LENGTH)]
    objective, _, _ = made(visits=8)
    batch = laid([[visits]])
    drawn = [np.asarray(objective.prepare(batch, jax.random.key(i))["asked"]) for i in range(3)]
    assert all(len(set(one[0])) == 8 and one.min() >= 0 for one in drawn)
    assert set(drawn[0][0]) != set(drawn[1][0])
    fixed = [np.asarray(objective.prepare(batch, jax.random.key(i), evaluate=True)["asked"]) for i in range(2)]
    np.testing.assert_array_equal(*fixed)
    assert len(set(fixed[0][0] // 8)) >= 3  # from all over the row


def test_what_another_window_holds_changes_nothing():
    rows = [[[(0, [6, 7]), (9000, [8])], [(0, [9]), (1000, [6])]]]
    other = [[[(0, [6, 7]), (9000, [8])], [(0, [6]), (2000, [10])]]]
    objective, apply, params = made()
    hidden = jax.random.normal(jax.random.key(2), (1, LENGTH, WIDTH))
    losses = []
    for content in (rows, other):
        prepared = objective.prepare(laid(content), jax.random.key(3), evaluate=True)
        found = objective.predictions(apply, params, {"hidden": hidden}, prepared)
        losses.append({int(a): float(x) for a, x in zip(found["asked"][0], found["loss"][0])})
    assert losses[0][1] == losses[1][1] and losses[0][2] == losses[1][2]
    assert losses[0][3] != losses[1][3]


def test_rates_are_learnt_and_a_run_has_no_logits(tmp_path, toy_tokens):
    quick = ("--config.report.enabled=False", "--config.tensorboard=False", "--config.data.eval_batches=0")
    train.main(
        [
            "--config=configs/time_to_events.py:gpt2_smoke",
            f"--config.data.path={toy_tokens}",
            "--config.num_steps=60",
            "--config.eval_every=20",
            "--config.optimizer.learning_rate=0.01",
            f"--workdir={tmp_path / 'run'}",
            *quick,
        ]
    )
    losses = [line["tuning_loss"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if "tuning_loss" in line]
    assert len(losses) == 3 and losses[-1] < losses[0] - 1
    opened = ehrjax.load(tmp_path / "run")
    with pytest.raises(InputError, match="no logits"):
        opened.logits(collate([[5, 6, 7]], context_length=16))


def test_codes_are_named_by_what_tokens_begin_with():
    strings = ["[PAD]", "[MASK]", "ICD//E11.9", "ICD//I10", "LAB//1//Q1", "LAB//1//Q2"]
    vocabulary = SimpleNamespace(strings=strings, num_specials=2)
    settings = {"codes": ("ICD//E11", "LAB//"), "rank": 3}
    told = time_to_events.of_tokens(settings, vocabulary)
    assert told == {**settings, "ids": (2, 4, 5), "kinds": (0, 1, 2), "once": (False,) * 3}
    grouped = time_to_events.of_tokens({"groups": r"ICD//[A-Z]\d|LAB//\d+", "firsts": ("ICD//",)}, vocabulary)
    assert grouped["ids"] == (2, 3, 4, 5) and grouped["kinds"] == (0, 1, 2, 2)
    assert grouped["once"] == (True, True, False)
    for pattern, message in (("(", "no regular expression"), ("E11", "no token"), ("\\[PAD", "no token")):
        for name in ("codes", "firsts"):
            with pytest.raises(InputError, match=f"{name}.*{message}"):
                time_to_events.of_tokens({name: (pattern,)}, vocabulary)
    with pytest.raises(InputError, match="groups.*no regular expression"):
        time_to_events.of_tokens({"groups": "("}, vocabulary)
    with pytest.raises(InputError, match="ICD//.*not .ICD//I10"):
        time_to_events.of_tokens({"groups": "ICD//", "firsts": ("ICD//E",)}, vocabulary)


@pytest.mark.parametrize(
    ("given_settings", "message"),
    [
        ({"edges_days": (30.0, 30.0)}, "rise"),
        ({"rank": 0}, "rank"),
        ({"observed_until": "soon"}, "date"),
        ({"observed_until": "2015-06-30", "observed_until_age": 80.0}, "keep one"),
    ],
)
def test_settings_that_cannot_be(given_settings, message):
    with pytest.raises(InputError, match=message):
        time_to_events.Config(**given_settings)
