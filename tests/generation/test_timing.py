"""Gaps that the model says: their draws, and risks from trajectories whose times they make."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from ehrjax.core import rng
from ehrjax.core.errors import InputError
from ehrjax.generation import decode, estimators, sampling, schedule, timing
from ehrjax.objectives.gaps import EDGES
from tests.generation import made


@pytest.mark.parametrize("least", [-1, 0, 100, 5000])
def test_draws_are_those_of_the_bins_beyond_what_is_known(least):
    rows = 100_000
    scores = np.random.default_rng(0).normal(size=len(EDGES) - 1) * 2
    words = rng.split((jnp.uint32(1), jnp.uint32(2)), (rows,))
    given = jnp.broadcast_to(jnp.asarray(scores, jnp.float32), (rows, len(scores)))
    bins, gap = timing.draw_gap(given, jnp.full(rows, least, jnp.int32), *words, sampling.Settings())
    bins, gap = np.asarray(bins), np.asarray(gap)
    assert (gap > least).all() and (gap >= EDGES[bins]).all() and (gap < EDGES[bins + 1]).all()
    low, high = EDGES[:-1].astype(float), EDGES[1:].astype(float)
    mass = np.exp(scores) * np.clip((high - np.maximum(low, least + 1)) / (high - low), 0, 1)
    mass /= mass.sum()
    found = np.bincount(bins, minlength=len(mass)) / rows
    assert np.abs(found - mass).max() < 4 * np.sqrt(0.25 / rows)
    wide = int(np.argmax(mass * (high - low > 50)))
    inside = gap[bins == wide]
    middle = (max(low[wide], least + 1) + high[wide] - 1) / 2
    assert inside.mean() == pytest.approx(middle, abs=4 * inside.std() / np.sqrt(len(inside)))


def test_estimates_agree_and_no_event_is_before_the_prediction_time(toy_tokens):
    opened = made.run(toy_tokens, "rotary over ages", objective="next_event", scale=0.1)
    asked = [
        dataclasses.replace(p, prediction_time=p.last_time + days * 1440 * 60_000_000)
        for p, days in zip(made.asked(toy_tokens, 3, most=30), (0, 3, 400))
    ]
    count = len(opened.vocabulary)
    horizon = 3000 * 1440
    tables = made.tables(
        opened.vocabulary, tasks=(np.arange(count) % 30 == 7)[None], horizons=np.array([horizon], np.int32)
    )
    drawer = made.decoder(opened, max_tokens=40, tables=tables)
    found = list(schedule.run(drawer, asked, samples=400, seed=3, shape=schedule.Shape(3, 100, 3, 8)))
    assert all(t.tries == 0 and t.clock[0] > asked[t.prompt].silence for t in found)
    assert all((np.diff(t.clock) >= 0).all() for t in found)
    for drawn in found[::20]:
        late = drawn.clock - asked[drawn.prompt].silence
        hits = np.isin(drawn.tokens, np.flatnonzero(np.arange(count) % 30 == 7)) & (late <= horizon)
        assert drawn.happened[0] == hits.any()
    risks = estimators.risks(
        np.array([t.prompt for t in found]),
        np.stack([t.happened for t in found]),
        np.stack([t.expected for t in found]),
        np.stack([t.truncated for t in found]),
        np.array([t.end == decode.VOID for t in found]),
        3,
    )
    error = np.hypot(risks.count_error, risks.expected_error)
    assert (np.abs(risks.count - risks.expected) < 4 * error).all() and (risks.count > 0.01).all()
    assert (risks.combined_error <= 1.02 * np.minimum(risks.count_error, risks.expected_error)).sum() >= 2


def test_a_step_at_a_time_is_a_whole_pass(toy_tokens):
    """Gaps and tokens that were drawn are those that a whole pass over prompt and future would draw."""
    from ehrjax.objectives import gaps
    from tests.generation import test_decode as whole

    opened = made.run(toy_tokens, "rotary over ages", objective="next_event")
    asked = made.asked(toy_tokens, 2, most=30)
    drawer = made.decoder(opened, max_tokens=30)
    clear = 0
    for drawn in schedule.run(drawer, asked, samples=3, seed=5, shape=whole.SHAPE):
        prompt = asked[drawn.prompt]
        fields = whole.whole(prompt, drawn)
        outputs = whole.compiled(opened.model)(opened.params["model"], fields)
        hidden = outputs["hidden"][0, len(prompt) - 1 : len(prompt) + 29]
        clocks = np.concatenate([[0], drawn.clock])
        pair = tuple(np.array([word], np.uint32) for word in whole.base_words(prompt, drawn.sample, 5))
        words = rng.fold_in(pair, np.arange(30))
        least = np.where(clocks[:30] <= prompt.silence, prompt.silence - clocks[:30], -1)
        scores = gaps.gap_scores(opened.params["head"], hidden)
        bins, gap = timing.draw_gap(scores, jnp.asarray(least), *rng.fold_in(words, jnp.uint32(2)), sampling.Settings())
        clear += (np.asarray(gap) == np.diff(clocks[:31])).sum()
        known = gaps.given(opened.params["head"], hidden, bins)
        logits = opened.objective.head().apply({"params": opened.params["head"]}, known, outputs["table"])
        logits = jnp.where(np.arange(logits.shape[1]) == 0, -1e30, logits)
        tokens = sampling.draw(logits, *rng.fold_in(words, jnp.uint32(1)), sampling.Settings())
        clear += (np.asarray(tokens) == np.asarray(drawn.tokens[:30])).sum()
    assert clear > 0.97 * 6 * 30 * 2


def test_scores_need_the_gap(toy_tokens):
    opened = made.run(toy_tokens, "gpt2", objective="next_event")
    with pytest.raises(InputError, match="only given the gap"):
        opened.logits({})
