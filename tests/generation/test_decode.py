"""The decoding loop against whole passes: within the context, past it, whoever stands beside it."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ehrjax.core import files, rng
from ehrjax.core.errors import InputError
from ehrjax.generation import prompts, sampling, schedule
from ehrjax.training import run as runs
from tests.generation import made

LOGITS = 1e-4
MARGIN = 1e-3
SHAPE = schedule.Shape(groups=2, each=4, prefill=2, chunk=8)


def base_words(prompt: prompts.Prompt, sample: int, seed: int) -> tuple[int, int]:
    """The two words of a trajectory."""
    word = files.stable_hash("trajectory", seed, prompt.subject.subject_id, prompt.prediction_time, sample)
    return word & 0xFFFFFFFF, word >> 32


def words(prompt: prompts.Prompt, sample: int, seed: int, drawn: np.ndarray) -> rng.Words:
    """The randomness of some steps of one trajectory, told again."""
    pair = tuple(np.array([word], np.uint32) for word in base_words(prompt, sample, seed))
    return rng.fold_in(rng.fold_in(pair, drawn), jnp.uint32(1))


def padded(fields: dict[str, np.ndarray], width: int) -> dict[str, np.ndarray]:
    """A window [1, L] with padding behind it, so that few shapes are compiled."""
    return {k: np.pad(v, [(0, 0), (0, width - v.shape[1])]) for k, v in fields.items()}


def whole(prompt: prompts.Prompt, drawn: schedule.Trajectory, width: int = 64) -> dict[str, np.ndarray]:
    """Prompt and drawn tokens as one window."""
    fields, _ = schedule.newest(prompt, drawn.tokens, drawn.clock, len(prompt) + len(drawn.tokens))
    return padded(fields, width)


@functools.cache
def compiled(model):
    return jax.jit(lambda params, fields: model.apply({"params": params}, fields, deterministic=True))


def logits_of(opened: runs.Run, fields: dict[str, np.ndarray], **changes: object) -> np.ndarray:
    """Logits [B, L, V] of a pass over everything, with settings of the model changed."""
    model = type(opened.model)(dataclasses.replace(opened.model.config, **changes), opened.model.policy)
    outputs = compiled(model)(opened.params["model"], fields)
    head = opened.objective.head()
    return np.asarray(head.apply({"params": opened.params.get("head", {})}, outputs["hidden"], outputs["table"]))


def agree(logits: np.ndarray, opened: runs.Run, drawn: schedule.Trajectory, prompt, seed: int, settings) -> int:
    """Compares each drawn token with what these logits [N, V] would draw; returns how many were clear."""
    never = np.arange(logits.shape[1]) == opened.vocabulary.pad
    scores = np.asarray(sampling.scores(jnp.where(never, -1e30, logits), settings))[: len(drawn.tokens)]
    if settings.temperature:
        pair = words(prompt, drawn.sample, seed, np.arange(len(drawn.tokens)))
        scores = scores + np.asarray(sampling.noise(*pair, scores.shape[1]))
    second, first = np.sort(scores)[:, -2:].T
    clear = first - second > MARGIN
    np.testing.assert_array_equal(np.asarray(drawn.tokens)[clear], scores.argmax(axis=1)[clear])
    return clear.sum()


@pytest.mark.parametrize("model", made.MODELS)
def test_a_step_at_a_time_is_a_whole_pass(model, toy_tokens):
    opened = made.run(toy_tokens, model)
    asked = made.asked(toy_tokens, 3, most=30)
    ways = (sampling.Settings(), sampling.Settings(temperature=0.0), sampling.Settings(0.7, 20, 0.9))
    for settings in ways if model == "gpt2" else ways[:1]:
        drawer = made.decoder(opened, max_tokens=33, settings=settings)
        found = list(schedule.run(drawer, asked, samples=3, seed=5, shape=SHAPE))
        assert sorted((t.prompt, t.sample) for t in found) == [(p, s) for p in range(3) for s in range(3)]
        clear = 0
        for drawn in found:
            prompt = asked[drawn.prompt]
            assert len(drawn.tokens) == 33 and drawn.end == 3
            fields = whole(prompt, drawn)
            np.testing.assert_array_equal(fields["tokens"][0, : len(prompt)], prompt.tokens)
            logits = logits_of(opened, fields)[0, len(prompt) - 1 :]
            clear += agree(logits, opened, drawn, prompt, 5, settings)
        assert clear > 0.95 * 9 * 33


@pytest.mark.parametrize("model", made.MODELS)
def test_logits(model, toy_tokens):
    opened = made.run(toy_tokens, model, scale=0.1)
    asked = made.asked(toy_tokens, 2, most=30)
    drawer = made.decoder(opened, max_tokens=20)
    fields, about = prompts.batch(asked, 32, 2)
    hidden, kept = drawer.prefill(drawer.params, fields, jnp.asarray(about["length"]))
    state = drawer.empty(hidden, kept, groups=2, each=2, capacity=64)
    for group in range(2):
        state = drawer.attach(state, hidden, kept, {k: jnp.asarray(v) for k, v in about.items()}, group, group)
    generator = np.random.default_rng(0)
    seeds = generator.integers(0, 2**32, (2, 4), np.uint32)
    state = drawer.begin(state, np.ones(4, bool), *seeds)
    states, tokens, clocks = [np.asarray(state["row"]["hidden"])], [], []
    for _ in range(19):
        state, drawn = drawer.steps(state, 1)
        tokens.append(np.asarray(drawn.token)[0])
        clocks.append(np.asarray(drawn.clock)[0])
        states.append(np.asarray(state["row"]["hidden"]))
    head = opened.objective.head()
    table = opened.params["model"]["embeddings"]["code"]["embedding"]
    own = np.asarray(head.apply({"params": opened.params.get("head", {})}, np.stack(states, 1), table))
    for row in range(4):
        prompt = asked[row // 2]
        drawn, clock = np.array([t[row] for t in tokens]), np.array([c[row] for c in clocks])
        fields, _ = schedule.newest(prompt, drawn, clock, len(prompt) + 19)
        expected = logits_of(opened, padded(fields, 64))[0, len(prompt) - 1 : len(prompt) + 19]
        np.testing.assert_allclose(own[row], expected, atol=LOGITS)


@pytest.mark.parametrize("model", ["sinusoidal", "rotary", "rotary over ages", "sinusoids over times"])
def test_past_the_context_a_window_slides(model, toy_tokens):
    opened = made.run(toy_tokens, model, context=24)
    asked = made.asked(toy_tokens, 2, most=24)
    found = list(schedule.run(made.decoder(opened, max_tokens=100), asked, samples=2, seed=5, shape=SHAPE))
    clear = 0
    for drawn in found:
        prompt = asked[drawn.prompt]
        logits = logits_of(opened, whole(prompt, drawn, 128), window=23)[0, len(prompt) - 1 :]
        clear += agree(logits, opened, drawn, prompt, 5, sampling.Settings())
    assert clear > 0.95 * 4 * 100


def test_past_the_positions_a_row_starts_anew(toy_tokens):
    opened = made.run(toy_tokens, "gpt2", context=32, max_positions=32)
    asked = made.asked(toy_tokens, 3, most=28)
    found = list(schedule.run(made.decoder(opened, max_tokens=90), asked, samples=3, seed=5, shape=SHAPE))
    assert {len(t.tokens) for t in found} == {90}
    clear = 0
    for drawn in found:
        prompt = asked[drawn.prompt]
        windows, ends, held = [], [], len(prompt)
        for step in range(90):
            # 32 places: once they are taken, the newest 16 (static tokens among them) are all that is left.
            if held > 32:
                held = 16
            fields, length = schedule.newest(prompt, drawn.tokens[:step], drawn.clock[:step], held)
            assert length == held
            fields["positions"], fields["segment_ids"] = np.arange(held)[None], np.ones((1, held), np.int32)
            windows.append(padded(fields, 32))
            ends.append(held - 1)
            held += 1
        joined = {k: np.concatenate([w[k] for w in windows]) for k in windows[0]}
        logits = logits_of(opened, joined)[np.arange(90), ends]
        clear += agree(logits, opened, drawn, prompt, 5, sampling.Settings())
    assert clear > 0.95 * 9 * 90


@pytest.mark.parametrize("model", ["gpt2", "rotary", "lstm"])
def test_neighbours_change_nothing(model, toy_tokens):
    opened = made.run(toy_tokens, model)
    asked = made.asked(toy_tokens, 6, most=30)
    stops = np.arange(len(opened.vocabulary)) % 40 == 7
    drawer = made.decoder(opened, max_tokens=33, tables=made.tables(opened.vocabulary, stops=stops))
    every = list(schedule.run(drawer, asked, samples=5, seed=3, shape=SHAPE))
    assert {t.end for t in every} == {1, 3}
    alone = list(schedule.run(drawer, asked[2:3], samples=5, seed=3, shape=SHAPE))
    backward = list(schedule.run(drawer, asked[::-1], samples=5, seed=3, shape=SHAPE))
    by_key = {(t.prompt, t.sample): t for t in every}
    for key, others in ((lambda t: (2, t.sample), alone), (lambda t: (5 - t.prompt, t.sample), backward)):
        for other in others:
            mine = by_key[key(other)]
            np.testing.assert_array_equal(mine.tokens, other.tokens)
            np.testing.assert_array_equal(mine.clock, other.clock)
            assert mine.end == other.end
    assert len({t.tokens.tobytes() for t in every}) > 20


def test_a_row_ends_for_itself(toy_tokens):
    opened = made.run(toy_tokens, "gpt2")
    asked = made.asked(toy_tokens, 3, most=30)
    count = len(opened.vocabulary)
    stops = np.arange(count) % 40 == 7
    tables = made.tables(
        opened.vocabulary, stops=stops, tasks=np.arange(count)[None] == 21, horizons=np.array([20 * 1440], np.int32)
    )
    silences = [p.silence for p in asked]
    for drawn in schedule.run(
        made.decoder(opened, max_tokens=33, tables=tables), asked, samples=6, seed=3, shape=SHAPE
    ):
        stopped = np.flatnonzero(stops[drawn.tokens])
        late = np.flatnonzero(drawn.clock - silences[drawn.prompt] > 20 * 1440)
        assert (len(drawn.tokens) - 1) == min([*stopped, *late, 32])
        assert drawn.end == (1 if len(stopped) else 2)
        inside = drawn.clock - silences[drawn.prompt] <= 20 * 1440
        assert drawn.happened[0] == (drawn.tokens[inside] == 21).any()


def test_events_before_the_prediction_time_are_void(toy_tokens):
    opened = made.run(toy_tokens, "gpt2", scale=0.05)
    split_prompts = made.asked(toy_tokens, 2, most=30)
    late = [dataclasses.replace(p, prediction_time=p.last_time + 40 * 1440 * 60_000_000) for p in split_prompts]
    count = len(opened.vocabulary)
    time = np.arange(count) % 2 == 1
    gaps = np.where(time, 30 * 1440, 0)[None].repeat(4, 0).astype(np.int32)
    tables = made.tables(opened.vocabulary, gaps=gaps, is_time=time)
    drawer = made.decoder(opened, max_tokens=12, tables=tables, max_tries=1000)
    found = list(schedule.run(drawer, late, samples=8, seed=3, shape=SHAPE))
    for drawn in found:
        assert (drawn.clock[~time[drawn.tokens]] > 40 * 1440).all()
    # Two time tokens in a row come about one time in four.
    assert 1 < np.mean([t.tries for t in found]) < 8


def test_bad_input(toy_tokens):
    with pytest.raises(InputError, match="temperature is -1"):
        sampling.Settings(temperature=-1)
    with pytest.raises(InputError, match="top_p is 0"):
        sampling.Settings(top_p=0)
    opened = made.run(toy_tokens, "gpt2")
    masked = dataclasses.replace(opened, config={**opened.config, "objective": dict(name="masked_codes")})
    with pytest.raises(InputError, match="cannot continue a sequence"):
        made.decoder(masked)
    with pytest.raises(InputError, match="static tokens, no room"):
        made.asked(toy_tokens, 2, most=1)


def test_draws_are_fair():
    logits = jax.random.normal(jax.random.key(0), (1, 9)) * 1.5
    rows = 200_000
    scores = jnp.broadcast_to(sampling.scores(logits, sampling.Settings()), (rows, 9))
    drawn = np.asarray(sampling.draw(scores, *rng.split((jnp.uint32(3), jnp.uint32(9)), (rows,)), sampling.Settings()))
    expected = np.asarray(jax.nn.softmax(logits[0]))
    got = np.bincount(drawn, minlength=9) / rows
    assert np.abs(got - expected).max() < 4 * np.sqrt(0.25 / rows)


def test_top_k_and_top_p():
    logits = jnp.log(jnp.array([[0.5, 0.2, 0.15, 0.1, 0.05]]))
    kept = np.asarray(sampling.scores(logits, sampling.Settings(top_k=2)) > -1e29)[0]
    assert kept.tolist() == [True, True, False, False, False]
    for p, count in ((0.4, 1), (0.5, 1), (0.69, 2), (0.86, 4), (1.0, 5)):
        chosen = np.asarray(sampling.scores(logits, sampling.Settings(top_p=p)))[0]
        assert (chosen > -1e29).sum() == count, p


def test_noise_is_finite_whatever_the_bits():
    """Were it infinite for one of 2^24, a token that cannot be drawn would be, some time."""
    bits = jnp.asarray(np.array([0, 255, 511, 512, 2**31, 2**32 - 512, 2**32 - 1], np.uint32))
    between = np.asarray(sampling._between(bits))
    assert (between > 0).all() and (between < 1).all()
    assert np.isfinite(-np.log(-np.log(between.astype(np.float32)))).all()
    rows, width = 400, 60_000
    words = rng.split((jnp.uint32(0), jnp.uint32(1)), (rows,))
    scores = jnp.full((rows, width), -1e30).at[:, 7].set(0.0)
    assert (np.asarray(sampling.draw(scores, *words, sampling.Settings())) == 7).all()
