"""What is on record, straight to the score of every token: a log-linear model of bags of codes.

A position's features are log2(1 + how often each token has come so far), the same of groups of tokens (an ICD block, a
chapter), and the age between knots; every token's score is linear in them. Where histories are few that is most of what
can be learnt, and the optimizer's l2 on the weights is a normal prior on them. With next_event it is a regression of
the rates of all codes on all histories at once, whatever the age, from which futures can be sampled.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ehrjax.core.errors import InputError
from ehrjax.core.layers import Table, constrain_batch
from ehrjax.core.precision import FP32, Policy
from ehrjax.models import memory, settings

FIELDS = ("tokens", "segment_ids", "ages")
"""The fields of a batch that the model reads."""
SEES_FUTURE = False
"""Whether a position's hidden state depends on later tokens of its segment."""
vocab_size_key = "vocab_size"
"""The field of Config that the size of the vocabulary goes into."""


# Rates change a hundredfold with age, and much less with any code: with this the same l2 leaves both their room.
NEAR = 10.0


@dataclasses.dataclass(frozen=True)
class Config:
    """What defines a bag. Its hidden state is as wide as the vocabulary, so this is for some thousand codes at most.

    groups: regular expressions with one group in brackets; tokens for which a pattern matches the same text are counted
    together ("ICD10//([A-Z][0-9])": an ICD block; "(ICD10)//": how many diagnoses there are). group_ids: for each
    pattern the group of each token, -1 for none (set from the vocabulary). age_knots: years between which a score is
    linear in the age (none: the age is not known).
    """

    vocab_size: int
    groups: tuple[str, ...] = ()
    group_ids: tuple[tuple[int, ...], ...] = ()
    age_knots: tuple[float, ...] = tuple(float(year) for year in range(0, 101, 10))


def config_from(values: Mapping[str, Any]) -> Config:
    """The Config of a mapping of its fields. Raises InputError, in one sentence, for what cannot be."""
    config = settings.parse(Config, values, {}, model="bag")
    if any(b <= a for a, b in zip(config.age_knots, config.age_knots[1:])):
        raise InputError(f"model.age_knots is {config.age_knots}; it must be years that rise.")
    return config


def of_tokens(values: Mapping[str, Any], vocabulary: Any) -> dict[str, Any]:
    """The settings with `group_ids` from `groups` and the vocabulary's strings.

    Raises:
      InputError: a pattern is none, has not one group, or no token has it.
    """
    strings, num_specials = vocabulary.strings, vocabulary.num_specials
    found = []
    for pattern in values.get("groups", ()):
        try:
            compiled = re.compile(pattern)
        except re.error as error:
            raise InputError(f"model.groups holds {pattern!r}, which is no regular expression: {error}.") from error
        if compiled.groups != 1:
            raise InputError(f"model.groups holds {pattern!r}; put the part that names a group in brackets, once.")
        names = [compiled.search(string) if i >= num_specials else None for i, string in enumerate(strings)]
        known = {name: i for i, name in enumerate(sorted({name[1] for name in names if name}))}
        if not known and len(strings) > num_specials + 1:  # else it is vocabulary.smallest()
            raise InputError(f"model.groups names {pattern!r}, which no token of the vocabulary has.")
        found.append(tuple(known[name[1]] if name else -1 for name in names))
    return {**values, "group_ids": tuple(found)}


def check(config: Config, context_length: int) -> None:
    """Any context will do."""


def most_places(config: Config) -> int | None:
    """How many places a window can have when it is continued token by token; None: any number."""
    return None


class Model(nn.Module):
    """Hidden states of a packed batch: the features of each position."""

    config: Config
    policy: Policy = FP32

    @nn.compact
    def __call__(self, batch: Mapping[str, Array], *, deterministic: bool = True) -> dict[str, Array]:
        """batch: FIELDS, each [B, L].

        Returns `hidden` [B, L, F], the features of each position, in the residual dtype, and `table` [V, F] in float32,
        the weights of each token's score, for a tied head.
        """
        counts = Counts(self.config, name="counts")(batch["tokens"], batch["segment_ids"])
        features = jnp.concatenate([jnp.log2(1.0 + counts), between(batch["ages"], self.config.age_knots)], axis=-1)
        table = Embeddings((self.config.vocab_size, features.shape[-1]), name="embeddings")()
        return {"hidden": constrain_batch(features.astype(self.policy.residual)), "table": table}


class Counts(nn.Module):
    """How often each token, and each group of tokens, has come up to each position, [B, L, F] float32."""

    config: Config

    def __call__(
        self, tokens: Int[Array, "batch length"], segment_ids: Int[Array, "batch length"]
    ) -> Float[Array, "batch length f"]:
        """Counting begins anew with each segment."""
        parts = [jax.nn.one_hot(tokens, self.config.vocab_size)]
        for ids in self.config.group_ids:
            parts.append(jax.nn.one_hot(jnp.asarray(np.array(ids, np.int32))[tokens], max(ids) + 1))
        return memory.running_sum(self, jnp.concatenate(parts, axis=-1), segment_ids)


class Embeddings(nn.Module):
    """The weights [V, F] of every token's score, all 0 at first: nothing on record tells anything yet."""

    shape: tuple[int, int]

    @nn.compact
    def __call__(self) -> Float[Array, "vocabulary f"]:
        return Table(*self.shape, std=0.0, name="code")()


def between(ages: Float[Array, "batch length"], knots: Sequence[float]) -> Float[Array, "batch length knots"]:
    """How near each age is to each knot, linearly from 0 at its neighbours to NEAR at itself; unknown ages are 0."""
    if not knots:
        return jnp.zeros((*ages.shape, 0), jnp.float32)
    rising = [jnp.interp(ages, jnp.asarray(knots, jnp.float32), one) for one in np.eye(len(knots), dtype=np.float32)]
    return NEAR * jnp.where(jnp.isnan(ages)[..., None], 0.0, jnp.stack(rising, axis=-1))
