"""Named streams, and the statistics of the hash that makes dropout masks."""

from __future__ import annotations

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from ehrjax.core import rng

DEVICES = 8


def draws(number: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.asarray(jax.jit(rng.bits, static_argnums=1)(rng.words(jax.random.key(number)), shape))


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def test_streams_differ_by_seed_name_and_step():
    keys = [rng.key_for(seed, name, step) for seed in (0, 1) for name in ("dropout", "objective") for step in (0, 1, 2)]
    assert len({tuple(np.asarray(jax.random.key_data(key)).tolist()) for key in keys}) == len(keys)
    traced = jax.jit(lambda step: jax.random.key_data(rng.key_for(1, "objective", step)))(2)
    np.testing.assert_array_equal(traced, jax.random.key_data(keys[-1]))
    np.testing.assert_array_equal(
        jax.random.key_data(rng.key_for(jax.random.key(1), "objective", 2)), jax.random.key_data(keys[-1])
    )


def test_streams_are_the_same_in_another_process():
    code = "import jax; from ehrjax.core import rng; print(jax.random.key_data(rng.key_for(3, 'x', 4)).tolist())"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == str(jax.random.key_data(rng.key_for(3, "x", 4)).tolist())


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_share_of_dropped(rate):
    count = 1 << 20
    for number in range(4):
        keep = np.asarray(rng.keep_mask(rng.words(jax.random.key(number)), (count,), rate))
        assert abs(1 - keep.mean() - rate) < 5 * np.sqrt(rate * (1 - rate) / count)


def test_extreme_rates():
    words = rng.words(jax.random.key(0))
    assert rng.keep_mask(words, (1000,), 0.0).all()
    assert not rng.keep_mask(words, (1000,), 1.0).any()


def test_bits_are_uniform():
    for number in range(4):
        x = draws(number, (1 << 20,))
        for counts in (np.bincount(x >> 24, minlength=256), np.bincount(x & 255, minlength=256)):
            chi2 = np.sum((counts - 4096.0) ** 2 / 4096.0)
            assert 150 < chi2 < 370  # 255 degrees of freedom: mean 255, deviation 22.6
        ones = (x[:, None] >> np.arange(32, dtype=np.uint32) & 1).mean(0)
        assert np.abs(ones - 0.5).max() < 5 * 0.5 / np.sqrt(len(x))


def test_neighbours_and_rows_are_independent():
    x = draws(0, (1024, 1024)).astype(np.float64)
    bound = 5 / np.sqrt(x.size)
    for lag in (1, 2, 3, 7, 64, 512):
        assert abs(correlation(x[:, lag:], x[:, :-lag])) < bound
        assert abs(correlation(x[lag:], x[:-lag])) < bound
    # Dropped pairs of neighbours are as frequent as chance has it.
    drop = x < 0.1 * 2**32
    for pair in (drop[:, 1:] & drop[:, :-1], drop[1:] & drop[:-1]):
        assert abs(pair.mean() - 0.01) < 5 * np.sqrt(0.01 / x.size)
    # No row or column has more or fewer than its share.
    for share in (drop.mean(0), drop.mean(1)):
        assert np.abs(share - 0.1).max() < 5.5 * np.sqrt(0.09 / 1024)
        assert 0.9 < share.std() / np.sqrt(0.09 / 1024) < 1.1


def test_keys_are_independent():
    shape = (1 << 18,)
    samples = [draws(number, shape).astype(np.float64) for number in range(6)]
    bound = 5 / np.sqrt(shape[0])
    for i, a in enumerate(samples):
        for b in samples[:i]:
            for lag in (0, 1, 5):
                assert abs(correlation(a[lag:], b[: len(b) - lag])) < bound
    # One key is no shifted copy of another, whatever the shift: the same 32 bits are as rare as chance has
    # them.
    x, y = draws(0, shape), draws(1, shape)
    assert len(np.intersect1d(x, y)) < 60  # 2**36 pairs at 2**-32: 16 expected


def test_first_words_that_differ_in_one_bit():
    first, second = rng.words(jax.random.key(0))
    a = np.asarray(rng.bits((first, second), (1 << 18,))).astype(np.float64)
    for bit in (0, 13, 31):
        b = np.asarray(rng.bits((first ^ jnp.uint32(1 << bit), second), (1 << 18,))).astype(np.float64)
        assert abs(correlation(a, b)) < 0.02


def test_split_gives_one_stream_an_element():
    planes = rng.split(rng.words(jax.random.key(0)), (4, 8, 1, 1))
    x = np.asarray(rng.bits(planes, (1, 1, 64, 64))).reshape(32, -1)
    assert x.shape == (32, 4096)
    correlations = np.corrcoef(x.astype(np.float64)) - np.eye(32)
    assert np.abs(correlations).max() < 5 / np.sqrt(4096)
    # A part of the planes gives that part of the values.
    part = rng.bits(tuple(w[1:3, 2:5] for w in planes), (1, 1, 64, 64))
    np.testing.assert_array_equal(np.asarray(part).reshape(6, -1), x.reshape(4, 8, -1)[1:3, 2:5].reshape(6, -1))


def test_more_than_a_counter_can_count():
    shape = (3, 1 << 31)
    first = jax.eval_shape(lambda: rng.bits(rng.words(jax.random.key(0)), shape))
    assert first.shape == shape
    planes = rng.split(rng.words(jax.random.key(0)), (3, 1))
    assert len({int(w) for w in planes[0].ravel()} | {int(w) for w in planes[1].ravel()}) == 6


def test_values_do_not_depend_on_the_devices():
    mesh = jax.make_mesh((len(jax.devices()),), ("data",), axis_types=(AxisType.Auto,))
    words = rng.words(jax.random.key(0))
    sharded = jax.jit(lambda w: rng.bits(w, (16, 32)), out_shardings=NamedSharding(mesh, PartitionSpec("data")))(words)
    np.testing.assert_array_equal(sharded, rng.bits(words, (16, 32)))
