"""Fading memories: sums of the visits' vectors that fade at several speeds, and a network on them.

A visit's vector is the sum of its codes'. The end of a visit sees, for each half-life, the sum of all vectors so far,
each halved for every half-life that has passed since: what logistic regression on counts in windows of time sees, with
learnt vectors, at every visit at once. With own vectors each half-life has sums of vectors of its own: what a code says
now and what it says as history are then learnt apart. Unlike attention, which averages, sums tell how much there is;
unlike the gates of an LSTM, how fast they fade is fixed and in days. A code's vector is its own and those of the
shorter codes it begins with. A value adds a slope and a curve of its code's, so that sums tell how high the values
were; of the commonest codes their fading means are seen beside the sums.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ehrjax.core import visits
from ehrjax.core.codes import prefixes
from ehrjax.core.errors import InputError
from ehrjax.core.layers import STATES, Dense, LayerNorm, Table, activate, constrain_batch, dropout
from ehrjax.core.precision import FP32, Policy
from ehrjax.models import settings
from ehrjax.models.bag import NEAR, between

FIELDS = ("tokens", "segment_ids", "visit_ids", "times", "ages", "values")
"""The fields of a batch that the model reads."""
SEES_FUTURE = "visit"
"""A token's hidden state is its visit's, which depends on the visit's later tokens."""
vocab_size_key = "vocab_size"
"""The field of Config that the size of the vocabulary goes into."""

_MINUTES_PER_DAY = 1440.0
# Shares of a code's values that the lowest and the highest stand for at least.
_LEAST = 0.005
# A mean counts as if so many values of 0 stood beside those it is of: where all have faded it is 0.
_DOUBT = 0.1
# Parts of a row's places, of which the smallest that is enough for its visits is computed.
_PARTS = (16, 8, 4, 2, 1)


@dataclasses.dataclass(frozen=True)
class Config:
    """What defines one. half_lives_days: rising; beside these stands a sum that does not fade. own_vectors: a code has
    a vector of embedding_dim for each of these sums instead of one for all. num_means: of how many codes with values,
    the commonest, the fading means of the values are seen beside the sums. num_layers: residual MLPs, twice as wide
    inside, on the linear map of the sums. age_knots: as the bag's. token_dropout: of whole tokens.

    Of the vocabulary: num_specials: ids below are no codes, and are not seen. above: for each token the numbers of the
    shorter codes that its code begins with, and of the code whose bin it is. bins: for each token of a value the number
    of its code, the commonest first, and where its bin begins and ends: as a share of the code's values, and in their
    unit; empty for others.
    """

    vocab_size: int
    embedding_dim: int = 64
    hidden_dim: int = 128
    num_layers: int = 1
    half_lives_days: tuple[float, ...] = (7.0, 30.0, 180.0, 730.0)
    own_vectors: bool = False
    num_means: int = 64
    age_knots: tuple[float, ...] = tuple(float(year) for year in range(0, 101, 10))
    token_dropout: float = 0.1
    dropout: float = 0.1
    gelu: str = "tanh"
    num_specials: int = 0
    above: tuple[tuple[int, ...], ...] = ()
    bins: tuple[tuple[float, ...], ...] = ()


_CHOICES = {"gelu": ("tanh", "erf")}


def config_from(values: Mapping[str, Any]) -> Config:
    """The Config of a mapping of its fields. Raises InputError, in one sentence, for what cannot be."""
    config = settings.parse(Config, values, _CHOICES, model="fading")
    for name, numbers in (("half_lives_days", (0.0, *config.half_lives_days)), ("age_knots", config.age_knots)):
        if any(b <= a for a, b in zip(numbers, numbers[1:])):
            raise InputError(f"model.{name} is {getattr(config, name)}; it must be numbers that rise.")
    return config


def of_tokens(values: Mapping[str, Any], vocabulary: Any) -> dict[str, Any]:
    """The settings with what they need of the vocabulary."""
    # Which tokens are bins the table says; a string may only look so (ICD10CM//Q90 is no bin).
    columns = ("code", "bin", "low", "high", "count")
    tokens = list(zip(*(vocabulary.table[column] for column in columns)))
    most: dict[str, int] = {}
    met: Counter[str] = Counter()
    for code, number, _, _, count in tokens:
        if number is not None:
            most[code] = max(most.get(code, 0), number)
            met[code] += count
    numbers = {code: i for i, code in enumerate(sorted(most, key=lambda code: (-met[code], code)))}
    bins: list[tuple[float, ...]] = []
    shorter: list[list[str]] = []
    for i, (code, number, low, high, _) in enumerate(tokens):
        known = [] if i < vocabulary.num_specials else prefixes(code)
        if number is None:
            bins.append(())
            shorter.append(known)
        else:
            bins.append((numbers[code], (number - 1) / most[code], number / most[code], low or 0.0, high or 0.0))
            shorter.append([code, *known])
    places = {code: i for i, code in enumerate(dict.fromkeys(code for codes in shorter for code in codes))}
    above = tuple(tuple(places[code] for code in codes) for codes in shorter)
    return {**values, "num_specials": vocabulary.num_specials, "above": above, "bins": tuple(bins)}


def check(config: Config, context_length: int) -> None:
    """Any context will do."""


class Model(nn.Module):
    """Hidden states of a packed batch: each token has that of its visit."""

    config: Config
    policy: Policy = FP32

    @nn.compact
    def __call__(self, batch: Mapping[str, Array], *, deterministic: bool = True) -> dict[str, Array]:
        """batch: FIELDS, each [B, L]. Needs the rng 'dropout' unless deterministic.

        Returns `hidden` [B, L, hidden_dim] in the residual dtype and `table`, the code embeddings [V, e] in float32,
        for tied heads: e is embedding_dim, or with own_vectors that for each sum. Where the collection STATES is asked
        for, it holds what the network sees behind its hidden state: sums and means say more to a probe than what the
        network makes of them.
        """
        config = self.config
        shown = self.is_mutable_collection(STATES)
        key = None if deterministic else self.make_rng("dropout")
        keys = (None, None) if key is None else jax.random.split(key)
        own, scores = measured(config, batch)
        num_sums = len(config.half_lives_days) + 1
        wide = config.embedding_dim * (num_sums if config.own_vectors else 1)
        vectors, table = Embeddings(config, wide, name="embeddings")(batch["tokens"], own, scores)
        code = batch["tokens"] >= config.num_specials
        means = jax.nn.one_hot(own, min(config.num_means, number_of_codes(config)))
        given = [vectors, means * scores[..., None], means]
        ends = np.cumsum([x.shape[-1] for x in given])[:-1]
        # Whole tokens, for all visits that see them.
        seen = dropout(code.astype(vectors.dtype)[..., None], config.token_dropout, keys[0])
        there = jax.vmap(visits.of_row)(batch["segment_ids"], batch["visit_ids"])
        given = constrain_batch(jax.vmap(visits.total)(jnp.concatenate(given, axis=-1) * seen, there.number))
        times, facts = _facts(batch, there, code, config.age_knots)
        network = Network(config, self.policy)
        width = (config.embedding_dim + means.shape[-1]) * num_sums + facts.shape[-1]
        weights = self.param("network", lambda key: network.init(key, jnp.zeros((1, width)), None)["params"])
        rates = jnp.asarray([0.0, *(math.log(2) / days for days in config.half_lives_days)], jnp.float32)
        rows, length = there.number.shape

        def of_first(size: int, weights: Any, given: Array, facts: Array, times: Array, segments: Array) -> Array:
            """The hidden states of the first visits of each row, and 0 for the others."""
            vectors, told = given[:, :size, : ends[0]], given[:, :size, None, ends[0] :]
            # With vectors of its own each sum has its part, otherwise all of them sum the same.
            vectors = vectors.reshape(rows, size, -1, config.embedding_dim)
            told = jnp.broadcast_to(told, (*vectors.shape[:3], told.shape[-1]))
            summed = fading_sums(jnp.concatenate([vectors, told], axis=-1), rates, times[:, :size], segments[:, :size])
            summed, scores, counts = jnp.split(summed, (ends - wide + config.embedding_dim), axis=-1)
            known = [jnp.arcsinh(summed), scores / (counts + _DOUBT)]
            known = jnp.concatenate([*(x.reshape(rows, size, -1) for x in known), facts[:, :size]], axis=-1)
            hidden = network.apply({"params": weights}, known, keys[1])
            hidden = jnp.concatenate([hidden, known.astype(hidden.dtype)], axis=-1) if shown else hidden
            return jnp.pad(hidden, ((0, 0), (0, length - size), (0, 0)))

        # A row has a visit for every few tokens; the places behind the last one of all rows should cost nothing.
        sizes = sorted({-(-length // part) for part in _PARTS})
        enough = sum((there.number[:, -1].max() >= size).astype(jnp.int32) for size in sizes[:-1])
        # Computed anew for the gradient, or the switch would keep what that needs for all sizes.
        choices = [jax.checkpoint(partial(of_first, size)) for size in sizes]
        hidden = jax.lax.switch(enough, choices, weights, given, facts, times, there.segments)
        hidden = jnp.take_along_axis(hidden, there.number[..., None], axis=1)
        if shown:
            self.sow(STATES, "states", hidden)
            hidden = hidden[..., : config.hidden_dim]
        return {"hidden": constrain_batch(hidden), "table": table}


def fading_sums(
    x: Float[Array, "batch n 1 e"] | Float[Array, "batch n k e"],
    rates: Float[Array, " k"],
    times: Int[Array, "batch n"],
    segments: Int[Array, "batch n"],
) -> Float[Array, "batch n k e"]:
    """At each of n visits the sums of x over the visits of its segment so far, fading at k rates a day.

    x: what is summed at all rates, or at each.
    times: minutes, not falling within a segment.
    """
    passed = jnp.diff(times, axis=1, prepend=times[:, :1]).astype(jnp.float32) / _MINUTES_PER_DAY
    begins, _ = jax.vmap(visits.edges)(segments)
    # Where a segment begins the times fall.
    keeps = jnp.exp(-rates * jnp.maximum(passed, 0.0)[..., None])
    keeps = jnp.where(begins[..., None], 0.0, keeps)[..., None]
    given = jnp.broadcast_to(x.astype(jnp.float32), (*keeps.shape[:3], x.shape[-1]))
    return jax.lax.associative_scan(lambda a, b: (a[0] * b[0], a[1] * b[0] + b[1]), (keeps, given), axis=1)[1]


def measured(
    config: Config, batch: Mapping[str, Array]
) -> tuple[Int[Array, "batch length"], Float[Array, "batch length"]]:
    """Of which code with bins each token is, -1 for none, and where its value stands in a standard normal distribution
    that has the code's quantiles: within the bin by the value itself, or in its middle where that is not told."""
    if not any(config.bins):
        return jnp.full(batch["tokens"].shape, -1), jnp.zeros(batch["tokens"].shape)
    table = np.asarray([told or (-1, 0.0, 1.0, 0.0, 0.0) for told in config.bins], np.float32)
    own, begins, ends, low, high = jnp.moveaxis(jnp.asarray(table)[batch["tokens"]], -1, 0)
    part = jnp.clip((batch["values"] - low) / jnp.maximum(high - low, 1e-6), 0.0, 1.0)
    share = begins + (ends - begins) * jnp.where((high > low) & ~jnp.isnan(part), part, 0.5)
    scores = jax.scipy.special.ndtri(jnp.clip(share, _LEAST, 1.0 - _LEAST))
    return own.astype(jnp.int32), jnp.where(own >= 0, scores, 0.0)


def number_of_codes(config: Config) -> int:
    """How many codes have bins."""
    return 1 + max((int(told[0]) for told in config.bins if told), default=-1)


def _facts(
    batch: Mapping[str, Array], there: visits.Visits, code: Array, age_knots: Sequence[float]
) -> tuple[Int[Array, "batch length"], Float[Array, "batch length f"]]:
    """When each visit ended, minutes, and what is known beside its codes: log(1 + days) since the visit before, of
    itself, and since the segment's first; and the age between the knots."""
    begins = jnp.maximum(jax.vmap(visits.begins)(batch["times"], there.number), 0)
    last = jax.vmap(visits.last_codes)(code, there.number)
    at_last = {name: jnp.take_along_axis(batch[name], jnp.maximum(last, 0), axis=1) for name in ("times", "ages")}
    ends = jnp.where(last >= 0, at_last["times"], begins)
    first, _ = jax.vmap(visits.edges)(there.segments)
    before = jnp.where(first, begins, jnp.roll(ends, 1, axis=1))
    spans = jnp.stack([begins - before, ends - begins, ends], axis=-1)
    spans = jnp.log1p(jnp.maximum(spans, 0).astype(jnp.float32) / _MINUTES_PER_DAY)
    ages = between(jnp.where(last >= 0, at_last["ages"], jnp.nan), age_knots) / NEAR
    return ends, jnp.concatenate([spans, ages], axis=-1)


class Network(nn.Module):
    """From what is known at a visit to its hidden state."""

    config: Config
    policy: Policy = FP32

    @nn.compact
    def __call__(self, known: Float[Array, "... n"], key: Array | None) -> Float[Array, "... d"]:
        """key: for dropout; None: none."""
        config = self.config
        keys = [None] * config.num_layers if key is None else jax.random.split(key, config.num_layers)
        x = Dense(config.hidden_dim, self.policy, name="entry")(known.astype(self.policy.residual))
        for number in range(config.num_layers):
            h = LayerNorm(policy=self.policy, name=f"norm_{number}")(x)
            h = activate(Dense(2 * config.hidden_dim, self.policy, name=f"inner_{number}")(h), config.gelu)
            h = Dense(config.hidden_dim, self.policy, name=f"outer_{number}")(h)
            x = x + dropout(h, config.dropout, keys[number])
        return x


class Embeddings(nn.Module):
    """Codes, and values."""

    config: Config
    width: int

    @nn.compact
    def __call__(
        self, tokens: Int[Array, "batch length"], own: Int[Array, "batch length"], scores: Float[Array, "batch length"]
    ) -> tuple[Float[Array, "batch length e"], Float[Array, "vocabulary e"]]:
        """own, scores: as `measured` tells. Returns each token's vector, and all codes' without values."""
        config = self.config
        table = Table(config.vocab_size, self.width, std=0.1, name="code")()
        if any(config.above):
            # The last stands for none.
            number = max(i for above in config.above for i in above) + 1
            depth = max(len(above) for above in config.above)
            above = np.asarray([(*above, *(number,) * (depth - len(above))) for above in config.above])
            shorter = jnp.pad(Table(number, self.width, std=0.1, name="shorter")(), ((0, 1), (0, 0)))
            table = table + sum(shorter[column] for column in above.T)
        vectors = table[tokens]
        if codes := number_of_codes(config):
            lines = Table(codes, 2 * self.width, std=0.1, name="value")()
            slopes, curves = jnp.split(jnp.where(own[..., None] >= 0, lines[own], 0.0), 2, axis=-1)
            scores = scores[..., None]
            vectors = vectors + scores * slopes + (scores**2 - 1.0) * curves
        return vectors, table
