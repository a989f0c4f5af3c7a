"""Both estimators against a Markov chain whose risks can be enumerated."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from ehrjax.data import rows
from ehrjax.generation import decode, estimators, prompts, sampling, schedule
from ehrjax.vocab import vocabulary as vocabularies
from tests.hf import born

# 5 specials, then: a, b (events), t (a time token of 10 days), E (the event), D (death).
STRINGS = ["a", "b", "t", "E", "D"]
A, B, T, E, D = range(5, 10)
CHAIN = np.array(
    [
        [0.30, 0.20, 0.40, 0.06, 0.04],
        [0.10, 0.35, 0.30, 0.20, 0.05],
        [0.45, 0.25, 0.20, 0.07, 0.03],
        [0.20, 0.20, 0.60, 0.00, 0.00],
        [0.20, 0.20, 0.20, 0.20, 0.20],
    ]
)
DAYS10 = 14400


class Nothing(nn.Module):
    """Keeps nothing, as a recurrence would keep its state."""

    @nn.compact
    def __call__(self, tokens):
        if self.has_variable("memory", "hidden"):
            self.put_variable("memory", "hidden", self.get_variable("memory", "hidden"))
        else:
            self.sow("kept", "hidden", jnp.zeros((*tokens.shape, 1)))


class Chain(nn.Module):
    """A 'model' that sees the newest token alone; its head's scores are the log of the chain."""

    @nn.compact
    def __call__(self, batch, *, deterministic=True):
        Nothing(name="nothing")(batch["tokens"])
        return {"hidden": nn.one_hot(batch["tokens"] - 5, 5), "table": None}


class Head(nn.Module):
    @nn.compact
    def __call__(self, hidden, table=None):
        scores = jnp.log(jnp.maximum(hidden @ jnp.asarray(CHAIN, jnp.float32), 1e-30))
        return jnp.pad(scores, [(0, 0)] * (hidden.ndim - 1) + [(5, 0)], constant_values=-1e30)


PLAIN = sampling.Settings()


def vocabulary() -> vocabularies.Vocabulary:
    return born.vocabulary(STRINGS)


def tables(horizon: int, gaps: np.ndarray | None = None) -> decode.Tables:
    one = np.zeros((2, 10), np.int32)
    one[:, T] = DAYS10
    masks = {name: np.arange(10) == token for name, token in (("T", T), ("E", E), ("D", D))}
    return decode.Tables(
        gaps=one if gaps is None else gaps,
        is_time=masks["T"],
        stops=masks["D"],
        never=np.arange(10) < 5,
        tasks=masks["E"][None],
        horizons=np.array([horizon], np.int32),
    )


def truth(start: int, horizon: int, silence: int, budget: int, gaps: np.ndarray) -> float:
    """The risk by enumeration: states are (token, clock), each token's gap one of a few, all equally likely.

    With silence > 0 events (not time tokens) by then are void, and the rest is scaled to 1.
    """
    mass = {(start, 0): 1.0}
    risk = valid = 0.0
    for _ in range(budget):
        new: dict[tuple[int, int], float] = {}
        for (token, clock), p in mass.items():
            for nxt in range(5, 10):
                for gap in gaps[:, nxt]:
                    q = p * CHAIN[token - 5, nxt - 5] / len(gaps)
                    now = clock + int(gap)
                    if not q or (nxt != T and now <= silence):
                        continue
                    inside = silence < now <= silence + horizon
                    if nxt == E and inside:
                        risk, valid = risk + q, valid + q
                    elif nxt == D or now - silence > horizon:
                        valid += q
                    else:
                        new[nxt, now] = new.get((nxt, now), 0.0) + q
        mass = new
    return risk / (valid + sum(mass.values()))


def sampled(
    start: int,
    silence: int,
    samples: int,
    budget: int,
    given: decode.Tables,
    how: sampling.Settings = PLAIN,
    tries: int = 10_000,
) -> estimators.Risks:
    limits = decode.Limits(budget, max_tries=tries)
    drawer = decode.Decoder(Chain(), Head(), {"model": {}}, ("tokens",), limits, how, given)
    subject = rows.subject([start], subject_id=1, times=[0], birth_time=0)
    prompt = prompts.Prompt(subject, 0, 1, silence * 60_000_000)
    found = list(schedule.run(drawer, [prompt], samples=samples, seed=7, shape=schedule.Shape(1, 2000, 1, 8)))
    return estimators.risks(
        np.zeros(len(found), np.int64),
        np.stack([t.happened for t in found]),
        np.stack([t.expected for t in found]),
        np.stack([t.truncated for t in found]),
        np.array([t.end == decode.VOID for t in found]),
        1,
    )


SHORT = np.zeros((2, 10), np.int32)
SHORT[:, T] = DAYS10
VARIED = SHORT.copy()
VARIED[:, T] = 2000, 30_000
VARIED[:, E] = 0, 9000


@pytest.mark.parametrize(
    ("start", "horizon", "silence", "budget", "gaps"),
    [
        (A, 3 * DAYS10, 0, 60, SHORT),
        (B, 3 * DAYS10, 0, 60, SHORT),
        (B, 3 * DAYS10, 0, 3, SHORT),
        (A, 4 * DAYS10, 25 * 1440, 60, SHORT),
        (A, 4 * DAYS10, 0, 60, VARIED),
        (B, 4 * DAYS10, 20 * 1440, 60, VARIED),
    ],
)
def test_risks_are_those_of_the_chain(start, horizon, silence, budget, gaps):
    true = truth(start, horizon, silence, budget, gaps)
    found = sampled(start, silence, 20_000, budget, tables(horizon, gaps))
    for name in ("count", "expected", "combined"):
        value, error = getattr(found, name), getattr(found, f"{name}_error")
        assert abs(value[0, 0] - true) < 4 * error[0, 0], (value, error, true)
    assert 0.05 < true < 0.95
    assert (found.truncated[0, 0] > 0) == (budget == 3)
    # Fewer samples for the same error, wherever a path is more than a single step.
    if budget > 3:
        assert found.expected_error[0, 0] < 0.9 * found.count_error[0, 0]
        assert found.combined_error[0, 0] <= found.expected_error[0, 0]


def test_the_best_token_alone_is_expected_where_it_alone_is_drawn():
    """At temperature 0 a trajectory is certain, and so is what is expected of it."""
    for target in (A, B):  # from A time passes, and A comes again; B never does
        given = tables(3 * DAYS10, SHORT)._replace(tasks=(np.arange(10) == target)[None])
        found = sampled(A, 0, 4, 60, given, sampling.Settings(temperature=0.0))
        assert found.expected[0, 0] == found.count[0, 0] == found.combined[0, 0] == (target == A)


def test_a_shorter_horizon_is_not_truncated_by_a_longer_ones_budget():
    one, both = (np.array(h, np.int32) for h in ([DAYS10], [DAYS10, 40 * DAYS10]))
    alone, beside = (
        sampled(A, 0, 3000, 6, tables(1, SHORT)._replace(tasks=np.stack([np.arange(10) == E] * len(h)), horizons=h))
        for h in (one, both)
    )
    assert 0 < alone.truncated[0, 0] < 0.6 * beside.truncated[0, 1]
    assert beside.truncated[0, 0] == pytest.approx(alone.truncated[0, 0], abs=1e-12)


def test_what_never_reaches_the_prediction_time_is_void():
    """Without time tokens nothing ever gets beyond a silence: nothing is known then, and that is said."""
    still = SHORT.copy()
    still[:] = 1
    found = sampled(A, 50_000, 50, 8, tables(DAYS10, still), tries=3)
    assert found.void[0, 0] > 0.5
    with np.errstate(all="raise"):
        some = estimators.risks(
            np.array([0, 0, 0, 1, 1, 1]),
            np.array([[1], [0], [1], [0], [0], [0]], bool),
            np.array([[0.5], [0.2], [0.9], [0], [0], [0]]),
            np.zeros((6, 1), bool),
            np.array([False, False, True, True, True, True]),
            2,
        )
    assert some.count[0, 0] == 0.5 and some.expected[0, 0] == pytest.approx(0.35)
    assert some.void[:, 0].tolist() == [pytest.approx(1 / 3), 1.0]
    assert np.isnan(some.count[1, 0]) and np.isnan(some.combined[1, 0])


def test_none_of_some_is_not_known_for_sure():
    count = np.zeros((20, 1), bool)
    sums = np.random.default_rng(0).uniform(0, 0.1, (20, 1))
    found = estimators.risks(np.zeros(20, int), count, sums, np.zeros((20, 1), bool), np.zeros(20, bool), 1)
    assert found.count[0, 0] == 0 and 0.02 < found.count_error[0, 0] < 0.1
    # Counts that are flat tell nothing of how to mix: what is expected is all there is.
    assert found.combined[0, 0] == pytest.approx(sums.mean()) and found.combined_error[0, 0] > 0


def test_bad_horizon():
    from ehrjax.core.errors import InputError
    from ehrjax.vocab import events

    assert events.minutes("2y") == 1051920
    for text in ("2", "y", "-1d", "0h", "1 month"):
        with pytest.raises(InputError, match="no duration"):
            events.minutes(text)
    words = vocabulary()
    with pytest.raises(InputError, match="'F', which is no token"):
        events.ends(words, ["F"])
    assert np.flatnonzero(events.tokens_of(words, ["a", "b"], where="here")).tolist() == sorted(
        [words.ids["a"], words.ids["b"]]
    )
