"""Optimizers and schedules: the update is the textbook's, decay and rates follow the rules over paths."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ehrjax.core.errors import InputError
from ehrjax.training import optimizer

PARAMS = {
    "model": {"layers": {"mlp": {"kernel": jnp.ones((3, 2, 2)), "bias": jnp.ones((3, 2))}}},
    "head": {"kernel": jnp.ones((2, 2))},
}
GRADS = jax.tree.map(lambda x: jnp.arange(x.size, dtype=jnp.float32).reshape(x.shape) * 0.1 + 0.1, PARAMS)


def update(**settings: object) -> dict:
    chosen = optimizer.make(optimizer.Settings(**{"clip_norm": 0.0, **settings}), optax.constant_schedule(0.1), PARAMS)
    updates, _ = chosen.update(GRADS, chosen.init(PARAMS), PARAMS)
    return updates


def test_adamw_equals_torch() -> None:
    import torch

    kernel = torch.nn.Parameter(torch.ones(2, 2))
    peer = torch.optim.AdamW([kernel], lr=0.1, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.05)
    chosen = optimizer.make(
        optimizer.Settings(b2=0.98, eps=1e-6, weight_decay=0.05, clip_norm=0.0), optax.constant_schedule(0.1), PARAMS
    )
    params, state = PARAMS, chosen.init(PARAMS)
    for _ in range(5):
        kernel.grad = torch.from_numpy(np.array(GRADS["head"]["kernel"]))
        peer.step()
        updates, state = chosen.update(GRADS, state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params["head"]["kernel"], kernel.detach().numpy(), rtol=1e-5)


def test_l2_is_part_of_the_loss() -> None:
    import torch

    kernel = torch.nn.Parameter(torch.ones(2, 2))
    # What torch calls weight_decay of Adam is added to the gradient.
    peer = torch.optim.Adam([kernel], lr=0.1, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.3)
    settings = dict(b2=0.98, eps=1e-6, weight_decay=0.0, clip_norm=0.0)
    chosen = optimizer.make(optimizer.Settings(l2=0.3, **settings), optax.constant_schedule(0.1), PARAMS)
    plain = optimizer.make(optimizer.Settings(**settings), optax.constant_schedule(0.1), PARAMS)
    params, state, free, free_state = PARAMS, chosen.init(PARAMS), PARAMS, plain.init(PARAMS)
    for _ in range(5):
        kernel.grad = torch.from_numpy(np.array(GRADS["head"]["kernel"]))
        peer.step()
        updates, state = chosen.update(GRADS, state, params)
        params = optax.apply_updates(params, updates)
        updates, free_state = plain.update(GRADS, free_state, free)
        free = optax.apply_updates(free, updates)
    np.testing.assert_allclose(params["head"]["kernel"], kernel.detach().numpy(), rtol=1e-5)
    assert (np.asarray(free["head"]["kernel"]) != np.asarray(params["head"]["kernel"])).all()
    mlp, untouched = params["model"]["layers"]["mlp"], free["model"]["layers"]["mlp"]
    np.testing.assert_array_equal(mlp["bias"], untouched["bias"])


def test_lion_moves_by_sign() -> None:
    moved = update(name="lion", weight_decay=0.0)
    np.testing.assert_allclose(moved["head"]["kernel"], -0.1, rtol=1e-6)


def test_decay_follows_the_rules() -> None:
    plain, decayed = update(weight_decay=0.0), update(weight_decay=0.5)
    difference = jax.tree.map(lambda a, b: np.asarray(a - b), plain, decayed)
    np.testing.assert_allclose(difference["head"]["kernel"], 0.05, rtol=1e-4)
    np.testing.assert_allclose(difference["model"]["layers"]["mlp"]["bias"], 0.0)


def test_rates_by_layer_and_freezing() -> None:
    moved = update(weight_decay=0.0, rate_rules=((r"layers/0/", 0.0), (r"layers/", 0.5), ("", 1.0)))
    whole = update(weight_decay=0.0)
    kernel = np.asarray(moved["model"]["layers"]["mlp"]["kernel"] / whole["model"]["layers"]["mlp"]["kernel"])
    np.testing.assert_allclose(kernel[:, 0, 0], [0.0, 0.5, 0.5], atol=1e-6)
    np.testing.assert_allclose(moved["head"]["kernel"], whole["head"]["kernel"])


def test_clipping() -> None:
    settings = optimizer.Settings(name="adamw", clip_norm=1e-3, weight_decay=0.0, eps=1.0)
    chosen = optimizer.make(settings, optax.constant_schedule(1.0), PARAMS)
    updates, _ = chosen.update(GRADS, chosen.init(PARAMS), PARAMS)
    # With a large epsilon Adam's first update is close to the clipped gradient itself.
    assert float(optax.tree.norm(updates)) < 1.1e-3


def test_schedules() -> None:
    cosine = optimizer.make_schedule(optimizer.ScheduleSettings("warmup_cosine", 10, 0.1), 1.0, 110)
    assert [round(float(cosine(s)), 4) for s in (0, 5, 10, 60, 110)] == [0.0, 0.5, 1.0, 0.55, 0.1]
    linear = optimizer.make_schedule(optimizer.ScheduleSettings("linear", 10, 0.2), 1.0, 110)
    assert [round(float(linear(s)), 4) for s in (0, 5, 10, 60, 110)] == [0.0, 0.5, 1.0, 0.6, 0.2]
    constant = optimizer.make_schedule(optimizer.ScheduleSettings("constant", 4), 1.0, 1)
    assert [float(constant(s)) for s in (0, 2, 4, 1000)] == [0.0, 0.5, 1.0, 1.0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(name="sgd"), "choose adamw, adam or lion"),
        (dict(name="adam", weight_decay=0.1), "needs adamw or lion"),
        (dict(learning_rate=-1.0), "negative"),
        (dict(accumulate=0), "accumulate below 1"),
    ],
)
def test_bad_settings(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        optimizer.Settings(**settings)


def test_bad_rules_and_schedules() -> None:
    with pytest.raises(InputError, match="matches no parameter"):
        update(rate_rules=(("layer/0", 0.0), ("", 1.0)))
    with pytest.raises(InputError, match="not below the run's 10 steps"):
        optimizer.make_schedule(optimizer.ScheduleSettings("linear", 10), 1.0, 10)
