"""For every model: packed is unpacked, segments are apart, causal ones see no future, scanned is unrolled."""

from __future__ import annotations

import importlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ehrjax.core import batch as batches
from ehrjax.core import rng
from ehrjax.core.errors import InputError
from ehrjax.training import run as runs

VOCABULARY = 50
SMALL = dict(num_layers=2, num_heads=3, hidden_dim=24)
CASES = {
    "behrt": ("behrt", dict(embedding_dim=16, max_positions=40, **SMALL)),
    "bert": ("bert", dict(max_positions=42, position_offset=2, num_types=4, types="visit", **SMALL)),
    "cehr_bert": ("cehr_bert", dict(mlp_dim=48, time_dim=8, **SMALL)),
    "gpt2": ("gpt2", dict(max_positions=40, **SMALL)),
    "gpt2 without biases": ("gpt2", dict(max_positions=40, use_bias=False, **SMALL)),
    "decoder": ("decoder", dict(max_positions=40, **SMALL)),
    "decoder sinusoids over times": ("decoder", dict(over="times", **SMALL)),
    "decoder rotary over ages": ("decoder", dict(positions="rotary", over="ages", **SMALL)),
    "decoder llama": (
        "decoder",
        dict(
            positions="rotary", norm="rms", gated=True, kv_heads=1, head_dim=4, final_norm=True, use_bias=False, **SMALL
        ),
    ),
    "decoder with a bag": ("decoder", dict(positions="rotary", bag=True, **SMALL)),
    "bag": ("bag", dict(group_ids=(tuple(i % 7 - 1 for i in range(VOCABULARY)),), age_knots=(0.0, 30.0, 60.0))),
    "fading": ("fading", dict(embedding_dim=8, hidden_dim=12, num_layers=1)),
    "decoder with a window": ("decoder", dict(positions="rotary", window=4, **SMALL)),
    "lstm": ("lstm", dict(embedding_dim=16, hidden_dim=24, num_layers=2)),
    **{
        f"visit lstm, {kind}": ("visit_lstm", dict(embedding_dim=8, visit_dim=12, hidden_dim=12, encoder=kind))
        for kind in ("mean", "sum", "max", "attention", "lstm")
    },
    "visit lstm bidirectional": (
        "visit_lstm",
        dict(embedding_dim=8, visit_dim=None, hidden_dim=6, bidirectional=True, time_features=False),
    ),
    "lstm notes": ("lstm_notes", dict(embedding_dim=16, hidden_dim=24, num_layers=2, note_dim=3)),
    "lstm bidirectional": ("lstm", dict(embedding_dim=16, hidden_dim=12, num_layers=2, bidirectional=True)),
}


def subject(length: int, seed: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    values = generator.normal(size=length).astype(np.float32)
    values[generator.random(length) < 0.5] = np.nan
    days = np.sort(generator.integers(10_000, 12_000, length)).astype(np.int32)
    return {
        "tokens": generator.integers(1, VOCABULARY, length).astype(np.int32),
        "positions": np.arange(length, dtype=np.int32),
        "visit_ids": (np.arange(length) // 3).astype(np.int32),
        "ages": ((days + 8_000) / 365.25).astype(np.float32),
        "times": ((days - days[0]) * 1440).astype(np.int32),
        "days": days,
        "values": values,
        "notes": generator.normal(size=(4, 3)).astype(np.float32),
        "notes_seen": (np.arange(length) // 4 % 5).astype(np.int32),  # 0: none
    }


def pack(rows: list[list[dict[str, np.ndarray]]], length: int) -> dict[str, jnp.ndarray]:
    names = ("tokens", "positions", "segment_ids", "visit_ids", "ages", "times", "days", "values", "notes_seen")
    batch = {name: np.zeros((len(rows), length), batches.FIELDS[name].device) for name in names}
    batch["values"][:] = np.nan
    batch["notes"] = np.zeros((len(rows), 1 + 4 * 4, 3), np.float32)
    for row, subjects in enumerate(rows):
        start = 0
        for number, one in enumerate(subjects):
            stop = start + len(one["tokens"])
            for name, values in one.items():
                if name != "notes":
                    batch[name][row, start:stop] = values
            first = 1 + 4 * number
            batch["notes"][row, first : first + 4] = one["notes"]
            seen = one["notes_seen"]
            batch["notes_seen"][row, start:stop] = np.where(seen > 0, seen - 1 + first, 0)
            batch["segment_ids"][row, start:stop] = number + 1
            start = stop
    return {name: jnp.asarray(values) for name, values in batch.items()}


def made(case: str, **changes):
    name, settings = CASES[case]
    module = importlib.import_module(f"ehrjax.models.{name}")
    config = module.config_from({"vocab_size": VOCABULARY, **settings, **changes})
    model = module.Model(config)
    params = model.init(rng.key_for(0, "model"), pack([[subject(8, 0)]], 12))["params"]
    noise = np.random.default_rng(0)
    moved = jax.tree.map(lambda x: x + 0.1 * noise.normal(size=x.shape).astype(np.float32), params)
    sees = module.sees_future(config) if hasattr(module, "sees_future") else module.SEES_FUTURE
    return model, moved, sees


@partial(jax.jit, static_argnums=0)
def applied(model, params, batch):
    return model.apply({"params": params}, batch)["hidden"]


def hidden(model, params, batch) -> np.ndarray:
    return np.asarray(applied(model, params, batch))


@pytest.mark.parametrize("case", CASES)
def test_packed_is_unpacked(case):
    model, params, _ = made(case)
    rows = [[subject(9, 1), subject(5, 2), subject(18, 3)], [subject(30, 4)], [subject(1, 5), subject(2, 6)]]
    packed = hidden(model, params, pack(rows, 36))
    for row, subjects in enumerate(rows):
        start = 0
        for one in subjects:
            stop = start + len(one["tokens"])
            alone = hidden(model, params, pack([[one], [], []], 36))[0, : stop - start]
            np.testing.assert_allclose(packed[row, start:stop], alone, atol=2e-5)
            start = stop


@pytest.mark.parametrize("case", CASES)
def test_another_segment_changes_no_bit(case):
    model, params, _ = made(case)
    before = hidden(model, params, pack([[subject(9, 1), subject(10, 2), subject(8, 3)], [], []], 36))
    after = hidden(model, params, pack([[subject(9, 1), subject(10, 9), subject(8, 3)], [], []], 36))
    np.testing.assert_array_equal(before[0, :9], after[0, :9])
    np.testing.assert_array_equal(before[0, 19:27], after[0, 19:27])
    assert (before[0, 9:19] != after[0, 9:19]).any()


@pytest.mark.parametrize("case", CASES)
def test_what_comes_later_changes_nothing_before_it_unless_the_model_says_so(case):
    model, params, sees = made(case)
    one = subject(20, 1)
    other = {name: values.copy() for name, values in one.items()}
    # The second token of a visit, and what comes after it.
    other["tokens"][13] = other["tokens"][13] % (VOCABULARY - 1) + 1
    other["values"][13], other["visit_ids"][15:], other["ages"][13:] = 3.0, 9, 99.0
    other["notes_seen"][15:] = 2
    before, after = (hidden(model, params, pack([[x], [], []], 36)) for x in (one, other))
    assert (before[0, 13] != after[0, 13]).any()
    assert (before[0, :13] != after[0, :13]).any() == bool(sees)
    if sees == "visit":
        np.testing.assert_array_equal(before[0, :12], after[0, :12])


@pytest.mark.parametrize("case", [case for case in CASES if "lstm" not in case and case not in ("bag", "fading")])
def test_scanned_is_unrolled(case):
    model, params, _ = made(case, unroll=False)
    batch = pack([[subject(9, 1), subject(10, 2)], [subject(25, 3)]], 28)
    unrolled = type(model)(made(case, unroll=True)[0].config)
    np.testing.assert_allclose(hidden(model, params, batch), hidden(unrolled, params, batch), atol=1e-5)


def test_a_window_of_four_sees_four():
    model, params, _ = made("decoder with a window", num_layers=1)
    one = subject(20, 1)
    other = {name: values.copy() for name, values in one.items()}
    other["tokens"][6] = other["tokens"][6] % (VOCABULARY - 1) + 1
    before, after = (hidden(model, params, pack([[x]], 20))[0] for x in (one, other))
    assert [i for i in range(20) if (before[i] != after[i]).any()] == [6, 7, 8, 9, 10]


def test_forget_gates_start_as_if_to_last_for_the_timescale():
    key, units = rng.key_for(0, "model"), 24
    module = importlib.import_module("ehrjax.models.lstm")
    biases = {}
    for timescale in (0, 50):
        config = module.config_from({"vocab_size": VOCABULARY, "hidden_dim": units, "timescale": timescale})
        params = module.Model(config).init(key, pack([[subject(8, 0)]], 12))["params"]
        biases[timescale] = np.split(np.asarray(params["lstm_1"]["bias"]), 4)
    i, f, g, o = biases[50]
    # How many places a unit lasts: 1 / (1 - forget gate).
    np.testing.assert_allclose(1 / (1 - 1 / (1 + np.exp(-f))), np.linspace(2, 50, units), rtol=1e-4)
    np.testing.assert_allclose(i, -f, rtol=1e-6)
    assert not g.any() and not o.any()
    assert max(np.abs(part).max() for part in biases[0]) <= units**-0.5


def test_a_bidirectional_lstm_is_torchs():
    import torch

    model, params, _ = made("lstm bidirectional")
    theirs = torch.nn.LSTM(16, 12, 2, batch_first=True, bidirectional=True)
    with torch.no_grad():
        for layer in range(2):
            for ours, suffix in ((f"lstm_{layer}", ""), (f"lstm_{layer}_reverse", "_reverse")):
                own = params[ours]
                for name, leaf in (
                    ("weight_ih", own["input"].T),
                    ("weight_hh", own["hidden"].T),
                    ("bias_ih", own["bias"]),
                ):
                    getattr(theirs, f"{name}_l{layer}{suffix}").copy_(torch.from_numpy(np.array(leaf)))
                getattr(theirs, f"bias_hh_l{layer}{suffix}").zero_()
    one = subject(17, 4)
    table = torch.from_numpy(np.array(params["embeddings"]["code"]["embedding"]))
    with torch.no_grad():
        expected = theirs(table[torch.from_numpy(one["tokens"]).long()][None])[0][0].numpy()
    np.testing.assert_allclose(hidden(model, params, pack([[one]], 20))[0, :17], expected, atol=1e-5)


def test_what_sees_the_future_may_not_predict_it():
    from ehrjax.vocab import vocabulary as vocabularies

    def config(**model):
        return {
            "model": model,
            "objective": {"name": "next_token"},
            "precision": "fp32",
            "data": {"context_length": 16},
        }

    runs.build(config(name="lstm"), vocabularies.smallest())
    with pytest.raises(InputError, match="model.bidirectional = False"):
        runs.build(config(name="lstm", bidirectional=True), vocabularies.smallest())
    with pytest.raises(InputError, match="choose a causal model"):
        runs.build(config(name="bert"), vocabularies.smallest())


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        ("gpt2", {"heads": 3}, "model.heads is not a setting of gpt2"),
        ("gpt2", {"num_heads": 5}, "hidden_dim 24 is not divisible by model.num_heads 5"),
        ("decoder llama", {"kv_heads": 2}, "num_heads 3 is not divisible by model.kv_heads 2"),
        ("decoder", {"positions": "learned"}, "model.positions is 'learned'"),
        ("bert", {"dropout": 1.0}, "model.dropout is 1.0"),
        ("bert", {"num_types": -1}, "model.num_types is -1; it must be at least 0"),
        ("lstm", {"num_layers": 0}, "model.num_layers is 0; it must be at least 1"),
    ],
)
def test_bad_configs(case, changes, message):
    with pytest.raises(InputError, match=message):
        made(case, **changes)


def test_a_context_beyond_the_positions_is_refused():
    for settings in CASES.values():
        module = importlib.import_module(f"ehrjax.models.{settings[0]}")
        config = module.config_from({"vocab_size": VOCABULARY, **settings[1]})
        if "max_positions" in settings[1]:
            module.check(config, 40)
            with pytest.raises(InputError, match="longer than model.max_positions 40"):
                module.check(config, 41)
        else:
            module.check(config, 100_000)
