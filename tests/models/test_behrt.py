"""BEHRT: against PyTorch, packed against unpacked, scanned against unrolled, one device against eight."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from ehrjax.core import precision, rng
from ehrjax.core.errors import InputError
from ehrjax.models import behrt

DEVICES = 8
VOCABULARY = 50
SMALL = dict(
    vocab_size=VOCABULARY,
    num_layers=3,
    num_heads=4,
    hidden_dim=32,
    embedding_dim=16,
    max_positions=40,
    max_visits=20,
)


def subject(length: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "tokens": rng.integers(1, VOCABULARY, length).astype(np.int32),
        "positions": np.arange(length, dtype=np.int32),
        "visit_ids": (np.arange(length) // 3).astype(np.int32),
        "ages": np.sort(rng.uniform(0, 110, length)).astype(np.float32),
    }


def pack(rows: list[list[dict[str, np.ndarray]]], length: int) -> dict[str, jnp.ndarray]:
    """Rows of subjects as one packed batch."""
    dtypes = dict(tokens=np.int32, positions=np.int32, segment_ids=np.int32, visit_ids=np.int32, ages=np.float32)
    batch = {name: np.zeros((len(rows), length), dtype) for name, dtype in dtypes.items()}
    for row, subjects in enumerate(rows):
        start = 0
        for number, one in enumerate(subjects):
            stop = start + len(one["tokens"])
            for name, values in one.items():
                batch[name][row, start:stop] = values
            batch["segment_ids"][row, start:stop] = number + 1
            start = stop
    return {name: jnp.asarray(values) for name, values in batch.items()}


@functools.cache
def made(policy: precision.Policy = precision.FP32, **changes: object):
    """A model and its parameters, biases and scales moved off their initial zeros and ones."""
    model = behrt.Model(behrt.config_from({**SMALL, **changes}), policy)
    batch = pack([[subject(8, 0)]], 12)
    params = model.init(rng.key_for(0, "model"), batch)["params"]
    noise = np.random.default_rng(0)
    return model, jax.tree.map(lambda x: x + 0.1 * noise.normal(size=x.shape).astype(np.float32), params)


def hidden(model, params, batch, **options: object) -> np.ndarray:
    return np.asarray(jax.jit(lambda p, b: model.apply({"params": p}, b, **options)["hidden"])(params, batch))


def test_against_torch():
    model, params = made(num_layers=2)
    rows = [[subject(12, 1)], [subject(7, 2)], [subject(10, 3)]]
    batch = pack(rows, 12)

    def tensor(x: object) -> object:
        return torch.from_numpy(np.array(x))

    def linear(x, p):
        return x @ tensor(p["kernel"]) + tensor(p["bias"])

    def norm(x, p):
        return torch.nn.functional.layer_norm(x, x.shape[-1:], tensor(p["scale"]), tensor(p["bias"]), 1e-5)

    layers = torch.nn.TransformerEncoder(
        torch.nn.TransformerEncoderLayer(32, 4, 128, 0.0, "gelu", 1e-5, batch_first=True, norm_first=True),
        2,
        enable_nested_tensor=False,
    )
    state = {}
    for i in range(2):
        one = jax.tree.map(lambda x, i=i: np.asarray(x[i]), params["layers"])
        attention = [one["attention"][name] for name in ("query", "key", "value")]
        state[f"layers.{i}.self_attn.in_proj_weight"] = np.concatenate([p["kernel"].T for p in attention])
        state[f"layers.{i}.self_attn.in_proj_bias"] = np.concatenate([p["bias"] for p in attention])
        for ours, theirs in (
            (one["attention"]["out"], "self_attn.out_proj"),
            (one["mlp"]["up"], "linear1"),
            (one["mlp"]["down"], "linear2"),
        ):
            state[f"layers.{i}.{theirs}.weight"], state[f"layers.{i}.{theirs}.bias"] = (
                ours["kernel"].T,
                ours["bias"],
            )
        for ours, theirs in ((one["attention_norm"], "norm1"), (one["mlp_norm"], "norm2")):
            state[f"layers.{i}.{theirs}.weight"], state[f"layers.{i}.{theirs}.bias"] = (
                ours["scale"],
                ours["bias"],
            )
    layers.load_state_dict({name: tensor(value) for name, value in state.items()})
    layers.eval()

    tables = {name: tensor(p["embedding"]) for name, p in params["embeddings"].items() if "embedding" in p}
    code = torch.nn.functional.embedding(tensor(batch["tokens"]).long(), tables["code"])
    code = code * (tensor(batch["tokens"]) != 0)[..., None]
    ages = np.minimum(np.asarray(batch["ages"]) // 5, 20).astype(np.int64)
    x = code + tables["age"][tensor(ages)] + tables["visit"][tensor(batch["visit_ids"]).long()]
    x = x + tables["position"][tensor(batch["positions"]).long()]
    x = linear(norm(x, params["embeddings"]["norm"]), params["embeddings"]["project"])
    with torch.no_grad():
        x = layers(x, src_key_padding_mask=tensor(batch["segment_ids"]) == 0)
    expected = norm(x, params["final_norm"]).numpy()
    real = np.asarray(batch["segment_ids"]) > 0
    got = hidden(model, params, batch)
    assert np.abs(got - expected)[real].max() < 1e-5


def test_packed_is_unpacked():
    model, params = made()
    rows = [[subject(9, 1), subject(5, 2), subject(18, 3)], [subject(30, 4)], [subject(1, 5), subject(2, 6)]]
    packed = hidden(model, params, pack(rows, 36))
    for row, subjects in enumerate(rows):
        start = 0
        for one in subjects:
            stop = start + len(one["tokens"])
            alone = hidden(model, params, pack([[one]], len(one["tokens"])))[0]
            np.testing.assert_allclose(packed[row, start:stop], alone, atol=1e-5)
            start = stop


@pytest.mark.parametrize("implementation", ["rows", "xla"])
def test_another_segment_changes_no_bit(implementation):
    model, params = made(attention_implementation=implementation)
    before = hidden(model, params, pack([[subject(9, 1), subject(10, 2), subject(8, 3)]], 32))
    after = hidden(model, params, pack([[subject(9, 1), subject(10, 9), subject(8, 3)]], 32))
    np.testing.assert_array_equal(before[0, :9], after[0, :9])
    np.testing.assert_array_equal(before[0, 19:27], after[0, 19:27])
    assert (before[0, 9:19] != after[0, 9:19]).any(axis=-1).all()


def losses_and_grads(model, params, batch):
    def loss(params):
        rngs = {"dropout": rng.key_for(0, "dropout", 5)}
        out = model.apply({"params": params}, batch, deterministic=False, rngs=rngs)
        real = (batch["segment_ids"] > 0)[..., None]
        return jnp.sum(jnp.where(real, jnp.sin(out["hidden"].astype(jnp.float32)), 0.0))

    return jax.jit(jax.value_and_grad(loss))(params)


BATCH = [[subject(9, 1), subject(10, 2)], [subject(25, 3)]]


def test_scan_is_unrolled_and_remat_is_none_also_with_dropout():
    batch = pack(BATCH, 28)
    model, params = made(unroll=False)
    loss, grads = losses_and_grads(model, params, batch)
    unrolled, _ = made(scan=False)
    parts = {str(i): jax.tree.map(lambda x, i=i: x[i], params["layers"]) for i in range(3)}
    loss_unrolled, grads_unrolled = losses_and_grads(unrolled, {**params, "layers": parts}, batch)
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *(grads_unrolled["layers"][str(i)] for i in range(3)))
    results = [(loss_unrolled, {**grads_unrolled, "layers": stacked})]
    for changes in ({"unroll": True}, {"remat": "full"}, {"remat": "dots", "unroll": False}):
        results.append(losses_and_grads(made(**changes)[0], params, batch))
    for other_loss, other_grads in results:
        np.testing.assert_allclose(other_loss, loss, rtol=1e-5)
        assert jax.tree.structure(other_grads) == jax.tree.structure(grads)
        for a, b in zip(jax.tree.leaves(other_grads), jax.tree.leaves(grads)):
            np.testing.assert_allclose(a, b, atol=2e-4)


def test_parameter_paths():
    _, params = made()
    paths = {
        "/".join(key.key for key in path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    expected = {f"layers/attention/{name}/kernel": (3, 32, 32) for name in ("query", "key", "value", "out")}
    expected |= {f"layers/attention/{name}/bias": (3, 32) for name in ("query", "key", "value", "out")}
    expected |= {"layers/mlp/up/kernel": (3, 32, 128), "layers/mlp/up/bias": (3, 128)}
    expected |= {"layers/mlp/down/kernel": (3, 128, 32), "layers/mlp/down/bias": (3, 32)}
    norms = {"embeddings/norm": (16,), "final_norm": (32,)}
    norms |= {"layers/attention_norm": (3, 32), "layers/mlp_norm": (3, 32)}
    expected |= {f"{name}/{leaf}": shape for name, shape in norms.items() for leaf in ("scale", "bias")}
    expected |= {"embeddings/project/kernel": (16, 32), "embeddings/project/bias": (32,)}
    tables = dict(code=VOCABULARY, age=22, visit=20, position=40)
    expected |= {f"embeddings/{name}/embedding": (rows, 16) for name, rows in tables.items()}
    assert paths == expected


def test_padding_row_of_the_table_is_zero_and_gets_no_gradient():
    batch = pack(BATCH, 28)
    model, params = made()
    assert not np.asarray(model.apply({"params": params}, batch)["table"][0]).any()

    def loss(params):
        out = model.apply({"params": params}, batch)
        return jnp.sum(jnp.sin(out["hidden"])) + jnp.sum(jnp.sin(out["table"]))

    grads = jax.grad(loss)(params)["embeddings"]["code"]["embedding"]
    assert not np.asarray(grads[0]).any() and np.asarray(grads[1:]).any(axis=-1).all()
    moved = jax.tree.map(lambda x: x, params)
    moved["embeddings"]["code"]["embedding"] = params["embeddings"]["code"]["embedding"].at[0].add(7.0)
    np.testing.assert_array_equal(hidden(model, params, batch), hidden(model, moved, batch))


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_bf16_is_close_to_fp32(platform):
    batch = pack(BATCH, 28)
    exact, params = made(dropout=0.0, attention_dropout=0.0)
    rounded, _ = made(precision.policy("bf16", platform), dropout=0.0, attention_dropout=0.0)
    real = np.asarray(batch["segment_ids"]) > 0
    a, b = (hidden(model, params, batch)[real].astype(np.float32) for model in (rounded, exact))
    assert np.linalg.norm(a - b) / np.linalg.norm(b) < 0.02
    got, expected = (jax.tree.leaves(losses_and_grads(model, params, batch)[1]) for model in (rounded, exact))
    assert {x.dtype for x in got} == {jnp.dtype(jnp.float32)}
    # Against the whole: some gradients, such as that of the key's bias, are zero but for rounding.
    whole = np.sqrt(sum(np.sum(np.square(x)) for x in expected))
    for a, b in zip(got, expected):
        assert np.linalg.norm(a - b) < 0.05 * np.linalg.norm(b) + 0.002 * whole


def test_one_device_is_eight():
    assert len(jax.devices()) == 8
    rows = [[subject(10 + i, 2 * i), subject(12, 2 * i + 1)] for i in range(8)]
    batch = pack(rows, 32)
    model, params = made()
    results = []
    for shape in ((1, 1, 1), (8, 1, 1), (2, 4, 1), (2, 2, 2)):
        devices = jax.devices()[: int(np.prod(shape))]
        mesh = jax.make_mesh(shape, ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3, devices=devices)
        with jax.set_mesh(mesh):
            by_row = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
            placed = {name: jax.device_put(x, by_row) for name, x in batch.items()}
            loss, grads = losses_and_grads(model, jax.device_put(params, NamedSharding(mesh, PartitionSpec())), placed)
            results.append((float(loss), jax.tree.map(np.asarray, grads)))
    for loss, grads in results[1:]:
        np.testing.assert_allclose(loss, results[0][0], rtol=1e-5)
        for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(results[0][1])):
            np.testing.assert_allclose(a, b, atol=2e-4)


def test_options_of_the_embeddings():
    batch = pack(BATCH, 28)
    model, params = made(positions="sinusoidal", visit_segments=True, embedding_dim=32)
    assert set(params["embeddings"]) == {"code", "age", "visit", "segment", "norm"}
    assert np.isfinite(hidden(model, params, batch)).all()
    table = behrt.sinusoids(10, 6)
    np.testing.assert_allclose(table[3, :2], [np.sin(3), np.cos(3)], rtol=1e-6)
    np.testing.assert_allclose(table[3, 4], np.sin(3 / 10_000 ** (4 / 6)), rtol=1e-6)


def test_ages_and_visits_at_their_ends():
    config = behrt.config_from(SMALL)
    ages = jnp.array([-1.0, 0.0, 4.99, 5.0, 99.0, 100.0, 130.0, np.nan])
    assert behrt.age_bins(ages, config).tolist() == [0, 0, 0, 1, 19, 20, 20, 21]
    assert behrt.num_age_bins(config) == 22
    model, params = made()
    batch = pack(BATCH, 28)
    late, last = ({**batch, "visit_ids": jnp.full_like(batch["visit_ids"], n)} for n in (1000, 19))
    np.testing.assert_array_equal(hidden(model, params, late), hidden(model, params, last))


def test_sizes_and_bad_configs():
    for size in behrt.SIZES.values():
        behrt.config_from({**size, "vocab_size": 10})
    cases = {
        "model.hidden is not a setting of behrt": {"hidden": 3},
        "model.hidden_dim 32 is not divisible by model.num_heads 5": {"num_heads": 5},
        "model.remat is 'some'; it must be one of none, full, dots": {"remat": "some"},
        "model.num_layers is 0; it must be at least 1": {"num_layers": 0},
        "model.dropout is 1.0; it must be": {"dropout": 1.0},
    }
    for message, change in cases.items():
        with pytest.raises(InputError, match=message):
            behrt.config_from({**SMALL, **change})
    with pytest.raises(InputError, match="vocab_size is missing"):
        behrt.config_from({})
    behrt.check(behrt.config_from(SMALL), 40)
    with pytest.raises(InputError, match="41 tokens is longer than model.max_positions 40"):
        behrt.check(behrt.config_from(SMALL), 41)
