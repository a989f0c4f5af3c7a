r"""How long until each code comes: piecewise-exponential times to events (MOTOR; Steinberg et al. 2023).

At the end of a visit, every code has a rate a day in each of J pieces of the time ahead, lambda_cj = exp(e_c . W_j h +
b_cj). Where the code next comes at t, or is not seen to come until the record's end T, its log-likelihood is
sum_j [t in piece j] log lambda_cj - lambda_cj |piece j before min(t, T)|. Unlike the next token, which is mostly what
is done next, this asks what will have happened in days, months and years, for all codes at once.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ehrjax.core import rng
from ehrjax.core.errors import InputError
from ehrjax.core.layers import Dense
from ehrjax.core.precision import FP32, Policy, contract
from ehrjax.core.visits import last_codes, of_row
from ehrjax.objectives import observation
from ehrjax.objectives.cross_entropy import HeadApply

NAME = "time_to_events"
FIELDS = ("tokens", "segment_ids", "visit_ids", "times", "ages", "days", "anchors", "ends")
"""The fields of a batch that the objective reads."""
ALLOWS_FUTURE = "visit"
"""A position may see later tokens of its own visit, but not the next one."""
NO_LOGITS = "tells how long until each code comes, not which token is next"
"""Why a run of this objective gives no logits."""

_MINUTES_PER_DAY = 1440.0
# The logarithm of a rate a day of a code that comes every few years: where untrained rates begin.
_RARE = -8.0


@dataclasses.dataclass(frozen=True)
class _Settings:
    """edges_days: ends of the pieces, rising; the first begins at 0, and what comes behind the last is not asked.

    codes: regular expressions of the tokens that are asked for, from their start; none: all. groups: a regular
    expression; tokens in which it finds the same text, from their start, are asked for as one. firsts: regular
    expressions of the tokens that are asked for only while nothing of their group has come in the window. Of the
    vocabulary: ids: the tokens, kinds: the group of each, once: which groups are asked for only once. rank: numbers
    that a code's rates hang on in each piece. visits: of a row that are asked in a step, drawn anew each time;
    chunk_size: visits of all rows that are computed at once.
    """

    edges_days: tuple[float, ...] = (7.0, 30.0, 90.0, 180.0, 365.0, 730.0, 1825.0)
    codes: tuple[str, ...] = ()
    groups: str = ""
    firsts: tuple[str, ...] = ()
    ids: tuple[int, ...] = ()
    kinds: tuple[int, ...] = ()
    once: tuple[bool, ...] = ()
    rank: int = 64
    visits: int = 64
    chunk_size: int = 256

    def __post_init__(self) -> None:
        edges = (0.0, *self.edges_days)
        if len(edges) < 2 or any(b <= a for a, b in zip(edges, edges[1:])):
            raise InputError(f"objective.edges_days is {self.edges_days}; it must be numbers above 0 that rise.")
        if min(self.rank, self.visits, self.chunk_size) < 1:
            raise InputError("objective.rank, visits and chunk_size must be at least 1.")


@dataclasses.dataclass(frozen=True)
class Config(observation.Config, _Settings):
    __doc__ = f"{_Settings.__doc__}\n    And until when everybody was observed (observation.py)."


def of_tokens(settings: Mapping[str, Any], vocabulary: Any) -> dict[str, Any]:
    """The settings with `ids` of the tokens that `codes` name, their `kinds`, and which of these are asked for `once`.

    Args:
      settings: the objective's section of a config.
      vocabulary: the tokens' strings, and below which id they are no codes.

    Raises:
      InputError: a pattern is none, or no token has it, or some tokens of a group have firsts' and others not.
    """
    strings, num_specials = vocabulary.strings, vocabulary.num_specials

    def named(name: str, patterns: Sequence[str]) -> set[int]:
        chosen: set[int] = set()
        for pattern in patterns:
            match = _compiled(name, pattern).match
            found = [i for i, string in enumerate(strings) if i >= num_specials and match(string)]
            if not found and len(strings) > num_specials + 1:  # else it is vocabulary.smallest()
                raise InputError(f"objective.{name} holds {pattern!r}, which no token of the vocabulary has.")
            chosen |= set(found)
        return chosen

    ids = sorted(named("codes", settings.get("codes", ())) or range(num_specials, len(strings)))
    group = _compiled("groups", settings.get("groups", ""))
    names = [found[0] or strings[i] if (found := group.match(strings[i])) else strings[i] for i in ids]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    firsts = named("firsts", settings.get("firsts", ()))
    once = {name: False for name in numbers} | {name: True for i, name in zip(ids, names) if i in firsts}
    for i, name in zip(ids, names):
        if once[name] and i not in firsts:
            raise InputError(f"objective.firsts names tokens of the group {name!r}, but not {strings[i]!r}.")
    kinds = tuple(numbers[name] for name in names)
    return {**settings, "ids": tuple(ids), "kinds": kinds, "once": tuple(once[name] for name in numbers)}


def _compiled(name: str, pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise InputError(f"objective.{name} holds {pattern!r}, which is no regular expression: {error}.") from error


class RatesHead(nn.Module):
    """Log rates a day of every code in every piece."""

    codes: int
    pieces: int
    rank: int
    policy: Policy = FP32

    @nn.compact
    def __call__(self, hidden: Float[Array, "... d"], table: Array | None = None) -> Float[Array, "... pieces codes"]:
        """Float32. table: not used."""
        x = Dense(self.pieces * self.rank, self.policy, name="pieces")(hidden)
        x = x.reshape(*x.shape[:-1], self.pieces, self.rank)
        codes = self.param("codes", nn.initializers.normal(0.02), (self.codes, self.rank), jnp.float32)
        bias = self.param("bias", nn.initializers.constant(_RARE), (self.pieces, self.codes), jnp.float32)
        axes = "abcdefgh"[: x.ndim - 1]
        return contract(f"{axes}r,vr->{axes}v", x, codes, self.policy.compute) + bias


class Objective:
    """The objective as pure functions of (batch, key, parameters, outputs of the model)."""

    def __init__(
        self, config: Config, *, vocab_size: int, num_specials: int, mask_id: int, policy: Policy = FP32
    ) -> None:
        """num_specials: ids below are no codes. mask_id: not needed here."""
        self.config, self.num_specials, self.policy = config, num_specials, policy
        ids = config.ids or tuple(range(num_specials, vocab_size))
        kinds = config.kinds or tuple(range(len(ids)))
        self.codes = max(kinds, default=0) + 1
        self._once = np.asarray(config.once or (False,) * self.codes)
        # Which of the codes each token is; the last for one that is none.
        self._slots = np.full(vocab_size, self.codes, np.int32)
        self._slots[list(ids)] = kinds

    def head(self) -> nn.Module:
        """The head to initialise and apply: `head(hidden [..., D], table) -> log rates [..., J, codes]`."""
        return RatesHead(self.codes, len(self.config.edges_days), self.config.rank, self.policy)

    def prepare(self, batch: Mapping[str, Array], key: Array, *, evaluate: bool = False) -> dict[str, Array]:
        """Adds `asked` [B, P], the last codes of some visits (-1: no more), and `observed` [B, S], minutes from the
        start of each window until when its subject is seen.
        """
        segments = batch["segment_ids"]
        code = (batch["tokens"] >= self.num_specials) & (segments > 0)
        number = jax.vmap(of_row)(segments, batch["visit_ids"]).number
        ends = jax.vmap(last_codes)(code, number)
        last = code & (jnp.take_along_axis(ends, number, axis=1) == jnp.arange(segments.shape[1]))
        anchors = jnp.maximum(batch["anchors"], 0)
        silences = jnp.maximum(observation.silences(self.config, batch), 0)
        observed = jnp.take_along_axis(batch["times"], anchors, axis=1) + silences
        if evaluate:
            # Places all over the row, always the same.
            drawn = jnp.broadcast_to(jnp.asarray(np.arange(segments.shape[1]) * 0.618034 % 1.0), segments.shape)
        else:
            drawn = rng.bits(rng.words(key), segments.shape).astype(jnp.float32) / 2.0**32
        best, places = jax.lax.top_k(jnp.where(last, drawn, -1.0), min(self.config.visits, segments.shape[1]))
        return {**batch, "asked": jnp.where(best >= 0, places, -1).astype(jnp.int32), "observed": observed}

    def loss(
        self, head_apply: HeadApply, head_params: Any, outputs: Mapping[str, Array], batch: Mapping[str, Array]
    ) -> tuple[Float[Array, ""], Float[Array, ""], dict[str, Array]]:
        """Sum over visits and codes of minus the log-likelihood, the number of visits, and `events`: of how many codes
        the time was seen."""

        @jax.checkpoint
        def body(total: tuple[Array, Array], asked: Array) -> tuple[tuple[Array, Array], None]:
            losses, seen = self._losses(head_apply, head_params, outputs["hidden"], batch, asked)
            return (total[0] + losses.sum(), total[1] + seen.sum()), None

        zero = jnp.float32(0)
        (total, seen), _ = jax.lax.scan(body, (zero, zero), self._chunks(batch["asked"]))
        return total, (batch["asked"] >= 0).sum(dtype=jnp.float32), {"events": seen}

    def predictions(
        self, head_apply: HeadApply, head_params: Any, outputs: Mapping[str, Array], batch: Mapping[str, Array]
    ) -> dict[str, Array]:
        """`asked` [B, P], positions, and the `loss` of each."""

        def body(_: None, asked: Array) -> tuple[None, Array]:
            return None, self._losses(head_apply, head_params, outputs["hidden"], batch, asked)[0]

        _, pieces = jax.lax.scan(body, None, self._chunks(batch["asked"]))
        losses = jnp.moveaxis(pieces, 0, 1).reshape(len(batch["asked"]), -1)
        return {"asked": batch["asked"], "loss": losses[:, : batch["asked"].shape[1]]}

    def codes_of(self, tokens: Bool[np.ndarray, " vocabulary"], vocabulary: Any) -> Int[np.ndarray, " n"]:
        """Which of the codes that are asked for some tokens are.

        Raises:
          InputError: one of the tokens is not asked for, or only as one with others.
        """
        slots = self._slots[tokens]
        strings = [string for string, chosen in zip(vocabulary.strings, tokens) if chosen]
        if (slots == self.codes).any():
            unasked = strings[int(np.argmax(slots == self.codes))]
            raise InputError(f"The run was not asked when {unasked} comes (objective.codes), so it has no risk of it.")
        if (also := ~tokens & np.isin(self._slots, slots)).any():
            raise InputError(
                f"The run knows {strings[0]} and {vocabulary.strings[int(np.argmax(also))]} only as one code "
                "(objective.groups); ask for all of the group."
            )
        return np.unique(slots)

    def risks(
        self,
        head_apply: HeadApply,
        head_params: Any,
        hidden: Float[Array, "n d"],
        silent: Float[Array, " n"],
        codes: Int[np.ndarray, " m"],
        days: float,
    ) -> Float[Array, " n"]:
        """The probability that any of some codes comes within so many days of now.

        hidden: of the last visits. silent: days since these, in which none has come. codes: of `codes_of`. The last
        piece's rates are taken to last.
        """
        rates = jnp.exp(head_apply(head_params, hidden, None)[..., codes]).sum(-1)
        ends = np.asarray(self.config.edges_days, np.float32)
        starts = np.concatenate([np.zeros(1, np.float32), ends[:-1]])
        ends[-1] = np.inf
        begin = silent[:, None]
        spent = jnp.clip(jnp.minimum(ends, begin + days) - jnp.maximum(starts, begin), 0.0)
        return -jnp.expm1(-(rates * spent).sum(-1))

    def _chunks(self, asked: Int[Array, "batch visits"]) -> Int[Array, "chunks batch m"]:
        """Along the row, so that rows stay on their devices."""
        rows, visits = asked.shape
        each = max(1, min(visits, self.config.chunk_size // rows))
        padded = jnp.pad(asked, ((0, 0), (0, -visits % each)), constant_values=-1)
        return jnp.moveaxis(padded.reshape(rows, -1, each), 1, 0)

    def _losses(
        self,
        head_apply: HeadApply,
        head_params: Any,
        hidden: Float[Array, "batch length d"],
        batch: Mapping[str, Array],
        asked: Int[Array, "batch m"],
    ) -> tuple[Float[Array, "batch m"], Float[Array, "batch m"]]:
        """Minus the log-likelihood at each position, and how many events it saw."""
        there = asked >= 0
        states = jnp.take_along_axis(hidden, jnp.maximum(asked, 0)[..., None], axis=1)
        rates = head_apply(head_params, states, None)
        days, seen, had = self._days(batch, asked)
        asked_for = ~(self._once & had)
        ends = np.asarray(self.config.edges_days, np.float32)
        starts = np.concatenate([np.zeros(1, np.float32), ends[:-1]])
        spent = jnp.clip(days[:, :, None, :] - starts[:, None], 0.0, (ends - starts)[:, None])
        inside = seen[:, :, None, :] & (days[:, :, None, :] > starts[:, None]) & (days[:, :, None, :] <= ends[:, None])
        spent, inside = spent * asked_for[:, :, None], inside & asked_for[:, :, None]
        losses = (jnp.exp(rates) * spent - jnp.where(inside, rates, 0.0)).sum((-1, -2))
        return jnp.where(there, losses, 0.0), jnp.where(there, inside.sum((-1, -2)).astype(jnp.float32), 0.0)

    def _days(
        self, batch: Mapping[str, Array], asked: Int[Array, "batch m"]
    ) -> tuple[Float[Array, "batch m codes"], Bool[Array, "batch m codes"], Bool[Array, "batch m codes"]]:
        """Days from each asked position until each code comes in a later visit, or until the subject is seen no more;
        which of the two; and whether it has come by then."""
        slots = jnp.asarray(self._slots)[batch["tokens"]]
        names = ("segment_ids", "visit_ids", "times", "observed")
        return jax.vmap(partial(_days_of_row, self.codes))(slots, *(batch[name] for name in names), asked)


def _days_of_row(
    codes: int,
    slots: Int[Array, " length"],
    segments: Int[Array, " length"],
    visits: Int[Array, " length"],
    times: Int[Array, " length"],
    observed: Int[Array, " windows"],
    asked: Int[Array, " m"],
) -> tuple[Float[Array, "m codes"], Bool[Array, "m codes"], Bool[Array, "m codes"]]:
    def one(at: Array) -> tuple[Array, Array, Array]:
        own = segments == segments[at]
        later = own & (visits > visits[at])
        had = jnp.zeros(codes, bool).at[jnp.where(own & ~later, slots, codes)].set(True, mode="drop")
        never = jnp.int32(2**31 - 1)
        slot = jnp.where(later, slots, codes)
        # Minutes; another visit of the same minute is no time at all, which no piece would hold.
        minutes = jnp.maximum(times - times[at], 1)
        comes = jnp.full(codes, never).at[slot].min(minutes, mode="drop")
        left = jnp.maximum(observed[segments[at] - 1] - times[at], 0)
        seen = comes < never
        return jnp.where(seen, comes, left).astype(jnp.float32) / _MINUTES_PER_DAY, seen, had

    return jax.vmap(one)(jnp.maximum(asked, 0))
