"""One training step and one evaluation step, as pure functions made by factories.

Modules and objectives are closed over (they hold no arrays); every array is an argument.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from ehrjax.core import rng
from ehrjax.training.state import TrainState

Batch = Mapping[str, Array]
Metrics = dict[str, Array]


def _head_apply(objective: Any) -> Callable[..., Array]:
    head = objective.head()
    return lambda params, *inputs: head.apply({"params": params}, *inputs)


def make_train_step(
    model: Any, objective: Any, optimizer: optax.GradientTransformation, schedule: optax.Schedule, accumulate: int
) -> Callable[[TrainState, Batch, Array], tuple[TrainState, Metrics]]:
    """Makes `step(state, batch, key) -> (state, metrics)`.

    The loss is the sum over tokens divided by their weight over the whole batch, also when it is computed
    in `accumulate` micro-batches. `key` is the run's; what is drawn at a step depends on (key, step) only.
    An update that is not finite is not applied, so that the state stays the last good one; `finite` says so.

    Args:
      model: a Linen module: `apply(variables, batch, deterministic=..., rngs=...) -> outputs`.
      objective: see ehrjax.objectives.
      optimizer: the optax optimizer.
      schedule: reported as `learning_rate`.
      accumulate: micro-batches; must divide the rows.
    """
    head_apply = _head_apply(objective)

    def loss_fn(params: Any, batch: Batch, key: Array) -> tuple[Array, tuple[Array, Metrics]]:
        outputs = model.apply({"params": params["model"]}, batch, deterministic=False, rngs={"dropout": key})
        total, weight, sums = objective.loss(head_apply, params.get("head", {}), outputs, batch)
        return total, (weight, sums)

    def step(state: TrainState, batch: Batch, key: Array) -> tuple[TrainState, Metrics]:
        batch = objective.prepare(batch, rng.key_for(key, "objective", state.step))
        dropout = rng.key_for(key, "dropout", state.step)
        gradient = jax.value_and_grad(loss_fn, has_aux=True)
        if accumulate == 1:
            (total, (weight, sums)), grads = gradient(state.params, batch, dropout)
        else:
            # Micro-batch i takes every accumulate-th row, so that each device keeps working on its own rows.
            parts = jax.tree.map(
                lambda x: x.reshape(x.shape[0] // accumulate, accumulate, *x.shape[1:]).swapaxes(0, 1), batch
            )

            def add(carry: Any, part: Any) -> tuple[Any, None]:
                micro, index = part
                (total, (weight, sums)), grads = gradient(state.params, micro, jax.random.fold_in(dropout, index))
                return jax.tree.map(jnp.add, carry, (total, weight, sums, grads)), None

            first = jax.tree.map(lambda x: x[0], parts)
            shapes = jax.eval_shape(gradient, state.params, first, dropout)
            (total, (weight, sums)), grads = shapes
            zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), (total, weight, sums, grads))
            (total, weight, sums, grads), _ = jax.lax.scan(add, zeros, (parts, jnp.arange(accumulate)))
        scale = 1.0 / jnp.maximum(weight, 1.0)
        grads = jax.tree.map(lambda g: g * scale, grads)
        norm = optax.tree.norm(grads)
        finite = jnp.isfinite(total) & jnp.isfinite(norm)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        keep = lambda new, old: jnp.where(finite, new, old)  # noqa: E731
        state = TrainState(
            step=state.step + finite.astype(state.step.dtype),
            params=jax.tree.map(keep, params, state.params),
            opt_state=jax.tree.map(keep, opt_state, state.opt_state),
            extras=state.extras,
        )
        metrics = {
            "loss": total * scale,
            "gradient_norm": norm,
            "learning_rate": schedule(state.step - finite.astype(state.step.dtype)),
            "finite": finite,
            **{name: value * scale for name, value in sums.items()},
        }
        return state, metrics

    return step


def make_eval_step(model: Any, objective: Any) -> Callable[[Any, Batch, Array], tuple[Batch, Metrics, Metrics]]:
    """Makes `evaluate(params, batch, key) -> (prepared batch, sums, per-target predictions)`.

    The sums hold `loss`, `weight` and the objective's own; divide by `weight`.
    """
    head_apply = _head_apply(objective)

    def evaluate(params: Any, batch: Batch, key: Array) -> tuple[Batch, Metrics, Metrics]:
        batch = objective.prepare(batch, key, evaluate=True)
        outputs = model.apply({"params": params["model"]}, batch, deterministic=True)
        total, weight, sums = objective.loss(head_apply, params.get("head", {}), outputs, batch)
        predictions = objective.predictions(head_apply, params.get("head", {}), outputs, batch)
        return batch, {"loss": total, "weight": weight, **sums}, predictions

    return evaluate
