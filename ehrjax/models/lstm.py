"""LSTM: layers of recurrence over the tokens of a window (Hochreiter and Schmidhuber 1997), in PyTorch's form."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ehrjax.core.layers import Table, constrain_batch, dropout
from ehrjax.core.precision import FP32, Policy, matmul
from ehrjax.models import memory, settings

FIELDS = ("tokens", "segment_ids")
"""The fields of a batch that the model reads."""
vocab_size_key = "vocab_size"
"""The field of Config that the size of the vocabulary goes into."""

# Steps of the loop that are compiled as one: more cost compile time, fewer cost a loop's overhead a step.
_UNROLL = 4
# Places that are left out together where none is used.
_PIECE = 32


@dataclasses.dataclass(frozen=True)
class Config:
    """What defines an LSTM. dropout is between layers, as torch.nn.LSTM has it.

    bidirectional: a second recurrence from the end; each direction has hidden_dim units. timescale: for how many
    places the state is meant to last at first (Recurrence; 0: PyTorch's start, one or two). code_std: of the codes'
    first vectors; 1 is that of torch.nn.Embedding.
    """

    vocab_size: int
    embedding_dim: int = 128
    hidden_dim: int = 256
    num_layers: int = 2
    dropout: float = 0.3
    bidirectional: bool = False
    timescale: int = 0
    code_std: float = 1.0


def config_from(values: Mapping[str, Any]) -> Config:
    """The Config of a mapping of its fields. Raises InputError, in one sentence, for what cannot be."""
    return settings.parse(Config, values, {}, model="lstm")


def sees_future(config: Config) -> bool:
    """Whether a position's hidden state depends on later tokens of its segment."""
    return config.bidirectional


def check(config: Config, context_length: int) -> None:
    """Any context will do."""


def most_places(config: Config) -> int | None:
    """How many places a window can have when it is continued token by token; None: any number."""
    return None


class Model(nn.Module):
    """Hidden states of a packed batch."""

    config: Config
    policy: Policy = FP32

    @nn.compact
    def __call__(self, batch: Mapping[str, Array], *, deterministic: bool = True) -> dict[str, Array]:
        """batch: FIELDS, each [B, L]. Needs the rng 'dropout' unless deterministic.

        The state begins anew with each segment, in either direction.

        Returns `hidden` [B, L, hidden_dim (x 2 if bidirectional)] in the residual dtype and `table`, the code
        embeddings [V, embedding_dim] in float32, for tied heads.
        """
        config = self.config
        key = None if deterministic else self.make_rng("dropout")
        x, table = Embeddings(config, name="embeddings")(batch)
        x = constrain_batch(x.astype(self.policy.residual))
        x = layers(config, self.policy, x, batch["segment_ids"], key)
        return {"hidden": constrain_batch(x), "table": table}


def layers(
    config: Config, policy: Policy, x: Float[Array, "batch length n"], segment_ids: Array, key: Array | None
) -> Float[Array, "batch length units"]:
    """The layers of a model that is being called, `lstm_0`, ...; the state begins anew with each segment."""
    change = segment_ids[:, 1:] != segment_ids[:, :-1]
    edge = jnp.ones((segment_ids.shape[0], 1), bool)
    starts, ends = jnp.concatenate([edge, change], axis=1), jnp.concatenate([change, edge], axis=1)
    for number in range(config.num_layers):
        if number:
            x = dropout(x, config.dropout, None if key is None else jax.random.fold_in(key, number))
        name = f"lstm_{number}"
        recurrence = partial(Recurrence, config.hidden_dim, policy, config.timescale)
        outputs = [recurrence(name=name)(x, starts)]
        if config.bidirectional:
            back = recurrence(reverse=True, name=f"{name}_reverse")
            outputs.append(back(x, ends))
        x = jnp.concatenate(outputs, axis=-1)
    return x


class Embeddings(nn.Module):
    """Codes."""

    config: Config

    @nn.compact
    def __call__(
        self, batch: Mapping[str, Array]
    ) -> tuple[Float[Array, "batch length e"], Float[Array, "vocabulary e"]]:
        config = self.config
        table = Table(config.vocab_size, config.embedding_dim, std=config.code_std, name="code")()
        return table[batch["tokens"]], table


class Recurrence(nn.Module):
    """One layer in one direction. Gates stand in PyTorch's order: input, forget, cell, output.

    timescale: the units' forget gates start as if they were to last for 1 to so many places, spread evenly, and the
    input gates against them (chrono initialisation, Tallec and Ollivier 2018); 0: PyTorch's start, from which what was
    long ago is hard to learn.
    """

    units: int
    policy: Policy = FP32
    timescale: int = 0
    reverse: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch length n"],
        resets: Bool[Array, "batch length"],
        used: Bool[Array, " length"] | None = None,
    ) -> Float[Array, "batch length units"]:
        """resets: where the state begins anew. used: places that mean something; what others get means nothing, and
        costs nothing where there are many of them in a row (None: all are used)."""
        bound = self.units**-0.5
        start = lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)  # noqa: E731
        inputs = self.param("input", start, (x.shape[-1], 4 * self.units), jnp.float32)
        recurrent = self.param("hidden", start, (self.units, 4 * self.units), jnp.float32)
        bias = self.param("bias", partial(_biases, self.timescale, start), (4 * self.units,), jnp.float32)
        remembers = self.has_variable(memory.MEMORY, "hidden")
        if remembers:
            resets = jnp.zeros_like(resets)

        def step(state: tuple[Array, Array], now: tuple[Array, Array]) -> tuple[tuple[Array, Array], Array]:
            hidden, cell = (jnp.where(now[1][:, None], 0.0, part) for part in state)
            gates = now[0] + matmul(hidden, recurrent, self.policy).astype(jnp.float32)
            i, f, g, o = jnp.split(gates, 4, axis=-1)
            cell = jax.nn.sigmoid(f) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
            hidden = jax.nn.sigmoid(o) * jnp.tanh(cell)
            return (hidden, cell), (hidden, cell)

        def along(first: tuple[Array, Array], x: Array, resets: Array) -> tuple[tuple, tuple[Array, Array]]:
            # What does not wait for the state is one matmul over all places.
            given = matmul(x, inputs, self.policy).astype(jnp.float32) + bias
            now = given.swapaxes(0, 1), resets.swapaxes(0, 1)
            last, kept = jax.lax.scan(step, first, now, reverse=self.reverse, unroll=_UNROLL)
            return last, tuple(part.swapaxes(0, 1) for part in kept)

        zeros = jnp.zeros((x.shape[0], self.units), jnp.float32)
        first = (zeros, zeros)
        if remembers:
            first = tuple(self.get_variable(memory.MEMORY, name) for name in ("hidden", "cell"))
        if used is None:
            last, (out, cells) = along(first, x, resets)
        else:
            last, (out, cells) = _where_used(along, first, x, resets, used, reverse=self.reverse)
        if remembers:
            for name, value in zip(("hidden", "cell"), last):
                self.put_variable(memory.MEMORY, name, value)
        elif self.is_mutable_collection(memory.KEPT):
            self.sow(memory.KEPT, "hidden", out)
            self.sow(memory.KEPT, "cell", cells)
        return out.astype(self.policy.residual)


def _biases(timescale: int, start: Callable[..., Array], key: Array, shape: tuple[int], dtype: Any) -> Array:
    """The first biases of the gates."""
    if not timescale:
        return start(key, shape, dtype)
    units = shape[0] // 4
    lasting = jnp.log(jnp.linspace(1.0, max(timescale - 1.0, 1.0), units, dtype=dtype))
    return jnp.concatenate([-lasting, lasting, jnp.zeros(2 * units, dtype)])


def _where_used(
    along: Callable[..., Any], first: tuple[Array, Array], x: Array, resets: Array, used: Array, *, reverse: bool
) -> tuple[Any, tuple[Array, Array]]:
    """`along` piece by piece, leaving out the pieces without a used place: the state passes them unchanged."""
    rows, length = resets.shape
    count = -(-length // _PIECE)

    def pieces(array: Array) -> Array:
        padded = jnp.pad(array, [(0, 0), (0, count * _PIECE - length)] + [(0, 0)] * (array.ndim - 2))
        return jnp.moveaxis(padded.reshape(rows, count, _PIECE, *array.shape[2:]), 1, 0)

    def skipped(state: tuple[Array, Array], x: Array, resets: Array) -> tuple[tuple, tuple[Array, Array]]:
        return state, tuple(jnp.zeros((*resets.shape, part.shape[-1]), part.dtype) for part in state)

    def piece(state: tuple[Array, Array], now: tuple[Array, Array, Array]) -> tuple[tuple, tuple[Array, Array]]:
        return jax.lax.cond(now[2], along, skipped, state, *now[:2])

    there = jnp.pad(used, (0, count * _PIECE - length)).reshape(count, _PIECE).any(axis=1)
    last, kept = jax.lax.scan(piece, first, (pieces(x), pieces(resets), there), reverse=reverse)
    out, cells = (jnp.moveaxis(part, 0, 1).reshape(rows, -1, part.shape[-1])[:, :length] for part in kept)
    return last, (out, cells)
