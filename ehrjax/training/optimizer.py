"""Optimizers and learning-rate schedules from a config, with decay and rates by parameter path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import optax

from ehrjax.core import trees
from ehrjax.core.errors import InputError


@dataclass(frozen=True)
class ScheduleSettings:
    """The `schedule` section: how the learning rate runs.

    Attributes:
      name: 'warmup_cosine', 'linear' (both warm up, then fall to lr_min_ratio at the last step) or 'constant'
        (warms up, then stays).
      warmup_steps: optimizer steps from 0 to the full rate.
      lr_min_ratio: the last rate as a share of the full one.
    """

    name: str = "warmup_cosine"
    warmup_steps: int = 0
    lr_min_ratio: float = 0.0


@dataclass(frozen=True)
class Settings:
    """The `optimizer` section.

    Attributes:
      name: 'adamw', 'adam' or 'lion'.
      learning_rate: the full rate.
      b1, b2: decay of the moments; b2 of None takes 0.999 (Adam) or 0.99 (Lion).
      eps: Adam's epsilon.
      weight_decay: decoupled; 'adam' has none and refuses it.
      decay_rules: (pattern, factor) over parameter paths, first match wins: the share of weight_decay.
      rate_rules: (pattern, factor) likewise: the share of the learning rate; 0 freezes.
      l2: of l2 / 2 times the squares of the parameters, which are added to the loss: at the minimum, what a normal
        prior of variance 1 / (l2 x targets in train) gives. Decoupled decay has no such minimum under Adam.
      l2_rules: (pattern, factor) likewise: the share of l2.
      clip_norm: gradients are scaled down to this global norm; 0 does not clip.
      accumulate: micro-batches a step; their losses are added by token, so the result is that of one batch.
    """

    name: str = "adamw"
    learning_rate: float = 1e-3
    b1: float = 0.9
    b2: float | None = None
    eps: float = 1e-8
    weight_decay: float = 0.01
    decay_rules: tuple[tuple[str, float], ...] = ((r"(bias|scale|embedding)$", 0.0), ("", 1.0))
    rate_rules: tuple[tuple[str, float], ...] = (("", 1.0),)
    l2: float = 0.0
    l2_rules: tuple[tuple[str, float], ...] = ((r"(bias|scale)$", 0.0), ("", 1.0))
    clip_norm: float = 1.0
    accumulate: int = 1

    def __post_init__(self) -> None:
        if self.name not in ("adamw", "adam", "lion"):
            raise InputError(f"config.optimizer.name is {self.name!r}; choose adamw, adam or lion.")
        if self.name == "adam" and self.weight_decay:
            raise InputError("config.optimizer.weight_decay needs adamw or lion; set it to 0 for adam.")
        if min(self.learning_rate, self.weight_decay, self.l2, self.clip_norm) < 0 or self.accumulate < 1:
            raise InputError("config.optimizer holds a negative rate, decay, l2 or norm, or accumulate below 1.")
        if not all(0 <= b < 1 for b in (self.b1, self.b2 or 0.0)) or self.eps <= 0:
            raise InputError("config.optimizer needs b1 and b2 of at least 0 and below 1, and eps above 0.")


def make_schedule(settings: ScheduleSettings, learning_rate: float, num_steps: int) -> optax.Schedule:
    """The learning rate as a function of the step (0-based).

    Raises:
      InputError: unknown name, or a warm-up as long as the run.
    """
    warmup, least = settings.warmup_steps, learning_rate * settings.lr_min_ratio
    if warmup < 0 or not 0 <= settings.lr_min_ratio <= 1:
        raise InputError("config.schedule needs warmup_steps >= 0 and lr_min_ratio between 0 and 1.")
    if settings.name == "constant":
        return optax.warmup_constant_schedule(0.0 if warmup else learning_rate, learning_rate, max(warmup, 1))
    if warmup >= num_steps:
        raise InputError(f"config.schedule.warmup_steps={warmup} is not below the run's {num_steps} steps.")
    if settings.name == "warmup_cosine":
        fall = optax.cosine_decay_schedule(learning_rate, num_steps - warmup, alpha=settings.lr_min_ratio)
    elif settings.name == "linear":
        fall = optax.linear_schedule(learning_rate, least, num_steps - warmup)
    else:
        raise InputError(f"config.schedule.name is {settings.name!r}; choose warmup_cosine, linear or constant.")
    if not warmup:
        return fall
    return optax.join_schedules([optax.linear_schedule(0.0, learning_rate, warmup), fall], [warmup])


def scale_by_factors(factors: Mapping[str, Any]) -> optax.GradientTransformation:
    """Multiplies each update by its factor (a scalar, or one a layer); factors of 1 everywhere cost nothing."""
    return optax.stateless(lambda updates, _: jax.tree.map(lambda u, f: u * f, updates, factors))


def _pulled(strength: float, factors: Mapping[str, Any]) -> optax.GradientTransformation:
    """Adds to each update its parameter times strength and factor."""
    return optax.stateless(
        lambda updates, params: jax.tree.map(lambda u, f, w: u + strength * f * w, updates, factors, params)
    )


def make(settings: Settings, schedule: optax.Schedule, params: Mapping[str, Any]) -> optax.GradientTransformation:
    """The optimizer for these parameters: l2, clip, moments, decoupled decay by path, rates by path, schedule.

    Args:
      settings: the config section.
      schedule: from `make_schedule`.
      params: the parameter tree, or its shapes.

    Raises:
      InputError: a rule that matches no parameter, or a parameter that no rule covers.
    """
    parts = []
    if settings.l2:
        parts.append(_pulled(settings.l2, trees.multipliers(settings.l2_rules, params)))
    if settings.clip_norm:
        parts.append(optax.clip_by_global_norm(settings.clip_norm))
    if settings.name == "lion":
        parts.append(optax.scale_by_lion(settings.b1, 0.99 if settings.b2 is None else settings.b2))
    else:
        b2 = 0.999 if settings.b2 is None else settings.b2
        parts.append(optax.scale_by_adam(settings.b1, b2, settings.eps))
    if settings.weight_decay:
        parts.append(_pulled(settings.weight_decay, trees.multipliers(settings.decay_rules, params)))
    rates = trees.multipliers(settings.rate_rules, params)
    if any((leaf != 1).any() for leaf in jax.tree.leaves(rates)):
        parts.append(scale_by_factors(rates))
    parts.append(optax.scale_by_learning_rate(schedule))
    return optax.chain(*parts)
