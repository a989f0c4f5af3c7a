"""The decoding loop on the device: many rows, one token a step, each row ending for itself.

Rows stand in groups; a group shares one prompt, computed once. All of it is pure functions of a state (a pytree), so
that the scheduler (schedule.py) may start rows, give groups new prompts and read what happened between chunks.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from ehrjax.core import rng, trees
from ehrjax.core.errors import InputError
from ehrjax.core.precision import contract
from ehrjax.generation import memories, sampling, timing
from ehrjax.models.memory import KEPT, MEMORY
from ehrjax.objectives import gaps

MINUTES_PER_YEAR = 365.25 * 1440.0
_GIVEN = {"tokens", "positions", "segment_ids", "ages", "times"}
NO_END = np.iinfo(np.int32).max
BUDGET, VOID = 3, 5
"""Ends of a row: it ran out of tokens; or its events fell before the prediction time at every try."""
State = dict[str, Any]


class Tables(NamedTuple):
    """What the loop looks up, as arrays.

    gaps: [Q, V] int32 minutes before each token; is_time [V]; stops [V]: tokens that end a row; never [V]: tokens that
    are not drawn; tasks [T, V]: the tokens of each task's event; horizons [T] int32 minutes behind the prediction time.
    """

    gaps: Array
    is_time: Array
    stops: Array
    never: Array
    tasks: Array
    horizons: Array


class Drawn(NamedTuple):
    """What happened in a step, each [R]: whether a token was drawn, which, when (minutes behind the prompt's end), and
    whether the row began anew (all that it had drawn is void)."""

    drew: Array
    token: Array
    clock: Array
    again: Array


@dataclasses.dataclass(frozen=True)
class Limits:
    """Attributes:
    max_tokens: of a row. max_tries: how often a row whose event falls before its prediction time begins anew.
    window: how many tokens a token sees, itself included; 0: all. positions: at which tokens can stand; 0: any.
    decided: a row ends once every task's event has happened. horizon: rows go on for so many minutes behind the
    prediction time at least, whatever the tasks' horizons are; NO_END: until something else ends them.
    """

    max_tokens: int
    max_tries: int = 64
    window: int = 0
    positions: int = 0
    decided: bool = False
    horizon: int = 0


def limits(run: Any, max_tokens: int, **others: Any) -> Limits:
    """The limits of a run's model: a window of its context where it attends, its positions where these are learned.

    Raises:
      InputError: the model or its objective cannot continue a sequence.
    """
    name, objective = run.config["model"]["name"], run.config["objective"]["name"]
    module = sys.modules[type(run.model).__module__]
    lacking = set(run.parts.model_fields) - _GIVEN
    if objective not in ("next_token", "next_event") or not hasattr(module, "most_places") or lacking:
        raise InputError(
            f"A run of the model {name} with the objective {objective} cannot continue a sequence; train a causal "
            "model (gpt2, decoder, lstm) with next_token or next_event."
        )
    places = module.most_places(run.model.config) or 0
    own = getattr(run.model.config, "window", None)
    context = run.config["data"]["context_length"]
    window = 0 if places or not hasattr(run.model.config, "num_heads") else min(context, own + 1 if own else context)
    return Limits(max_tokens, window=window, positions=places, **others)


def of_run(run: Any, limits: Limits, settings: sampling.Settings, tables: Tables) -> Decoder:
    """The decoder of a run as `ehrjax.load` gives it."""
    changes: dict[str, Any] = {"scan": False} if hasattr(run.model.config, "scan") else {}
    if hasattr(run.model.config, "max_positions") and not limits.positions:
        # Sinusoids of any place: their table is made to order, it is no parameter.
        changes["max_positions"] = run.model.config.max_positions + limits.max_tokens + 1
    model = type(run.model)(dataclasses.replace(run.model.config, **changes), run.model.policy)
    params = trees.unstack(run.params)
    return Decoder(model, run.objective.head(), params, run.parts.model_fields, limits, settings, tables)


class Decoder:
    """A model with its head as functions that are compiled once a shape; see `empty`, `attach`, `begin`, `steps`."""

    def __init__(
        self,
        model: Any,
        head: Any,
        params: Any,
        fields: Sequence[str],
        limits: Limits,
        settings: sampling.Settings,
        tables: Tables,
    ) -> None:
        """model: a causal one that keeps its memory (models/memory.py), with unstacked layers; params: {"model": ...,
        "head": ...}; fields: of a batch that the model reads."""
        self.limits, self.settings = limits, settings
        self.tables = Tables(*(jnp.asarray(table) for table in tables))
        self._model, self._head, self._fields = model, head, tuple(fields)
        self._timed = isinstance(head, gaps.TimedHead)
        self._eventful = np.flatnonzero(np.asarray(tables.tasks).any(axis=0))
        self._horizons = sorted(set(np.asarray(tables.horizons).tolist()))
        self.params = jax.device_put(params)
        self.prefill = jax.jit(self._prefill)
        self.attach = jax.jit(self._attach, donate_argnums=0)
        self.begin = jax.jit(self._begin, donate_argnums=0)
        self.prime = jax.jit(self._prime, donate_argnums=0)
        self.resize = jax.jit(self._resize, static_argnums=1)
        self._steps = jax.jit(self._run, static_argnums=2, donate_argnums=1)

    def steps(self, state: State, count: int) -> tuple[State, Drawn]:
        """`count` steps of every living row; Drawn is [count, R]."""
        return self._steps(self.params, state, count, self.tables)

    def _prefill(
        self, params: Any, batch: Mapping[str, Array], lengths: Int[Array, " prompts"]
    ) -> tuple[Float[Array, "prompts d"], memories.Memory]:
        """A pass over prompts [F, P]: the hidden state of each one's last token, and what the model keeps."""
        batch = {name: batch[name] for name in self._fields}
        outputs, left = self._model.apply({"params": params["model"]}, batch, deterministic=True, mutable=[KEPT])
        return outputs["hidden"][jnp.arange(len(lengths)), lengths - 1], memories.kept(left, lengths)

    def empty(self, hidden: Array, prompts: memories.Memory, *, groups: int, each: int, capacity: int) -> State:
        """A state without any prompt or living row, for prompts like these."""
        rows, tasks = groups * each, len(self.tables.horizons)
        number, fraction = partial(jnp.zeros, dtype=jnp.int32), partial(jnp.zeros, dtype=jnp.float32)
        return {
            "memory": memories.empty(prompts, groups=groups, each=each, capacity=capacity),
            "step": number(()),
            "prompt": {
                "hidden": jnp.zeros((groups, hidden.shape[-1]), hidden.dtype),
                "length": number(groups),
                "age": fraction(groups),
                "time": number(groups),
                "silence": number(groups),
            },
            "row": {
                "hidden": jnp.zeros((rows, hidden.shape[-1]), hidden.dtype),
                "alive": jnp.zeros(rows, bool),
                "alone": jnp.zeros(rows, bool),  # what it saw last is all among its own tokens
                "own": number(rows),
                "position": number(rows),
                "drawn": number(rows),
                "clock": number(rows),
                "tries": number(rows),
                "full": jnp.zeros(rows, bool),  # waits for `prime`: there is no position for its newest token
                "first": jnp.zeros(rows, jnp.uint32),
                "second": jnp.zeros(rows, jnp.uint32),
                "happened": jnp.zeros((rows, tasks), bool),
                "expected": fraction((rows, tasks)),
                "end": number(rows),
            },
        }

    def _attach(
        self,
        state: State,
        hidden: Array,
        prompts: memories.Memory,
        about: Mapping[str, Array],
        index: Array,
        group: Array,
    ) -> State:
        """Gives a group another prompt: entry `index` of what `prefill` returned, and of `about` (the prompts'
        length, age in years and minutes since the window's start at the last token, and silence: minutes from there to
        the prediction time)."""
        prompt = {
            name: values.at[group].set(about[name][index])
            for name, values in state["prompt"].items()
            if name != "hidden"
        }
        prompt["hidden"] = state["prompt"]["hidden"].at[group].set(hidden[index])
        return {**state, "prompt": prompt, "memory": memories.attach(state["memory"], prompts, index, group)}

    def _begin(
        self, state: State, rows: Bool[Array, " rows"], first: UInt32[Array, " rows"], second: UInt32[Array, " rows"]
    ) -> State:
        """Starts these rows behind their groups' prompts, each with its own words of randomness."""
        state = self._behind_prompt(state, rows)
        row = state["row"]
        fresh = dict(alive=True, tries=0, end=0, first=first, second=second)
        return {**state, "row": {**row, **{k: jnp.where(rows, v, row[k]) for k, v in fresh.items()}}}

    def _behind_prompt(self, state: State, rows: Bool[Array, " rows"]) -> State:
        prompt = self._prompts_of_rows(state)
        row = dict(state["row"])
        fresh = dict(
            hidden=prompt["hidden"],
            alone=False,
            own=0,
            position=prompt["length"],
            drawn=0,
            clock=0,
            full=False,
            happened=False,
            expected=0.0,
        )
        for name, value in fresh.items():
            chosen = rows[:, None] if row[name].ndim == 2 else rows
            row[name] = jnp.where(chosen, value, row[name])
        return {**state, "row": row, "memory": memories.begun(state["memory"], rows)}

    def _prompts_of_rows(self, state: State) -> dict[str, Array]:
        groups, rows = len(state["prompt"]["length"]), len(state["row"]["alive"])
        return {name: jnp.repeat(values, rows // groups, axis=0) for name, values in state["prompt"].items()}

    def _prime(
        self, state: State, hidden: Array, prompts: memories.Memory, index: Array, row: Array, length: Array
    ) -> State:
        """Gives a full row a new start: entry `index` of `prefill`, of `length` tokens that end in the last column."""
        old = state["row"]
        new = dict(hidden=hidden[index], alone=True, own=length, position=length, full=False)
        memory = memories.primed(state["memory"], prompts, index, row, state["step"])
        return {**state, "memory": memory, "row": {**old, **{k: old[k].at[row].set(v) for k, v in new.items()}}}

    def _resize(self, state: State, capacity: int) -> State:
        """The state with room for `capacity` own tokens a row; those that live must not have more."""
        return {**state, "memory": memories.resized(state["memory"], state["step"], capacity)}

    def _run(self, params: Any, state: State, count: int, tables: Tables) -> tuple[State, Drawn]:
        return jax.lax.scan(lambda state, _: self._step(params, tables, state), state, None, length=count)

    def _step(self, params: Any, tables: Tables, state: State) -> tuple[State, Drawn]:
        """Draws a token for every living row, moves its clock, keeps its accounts, and feeds the token."""
        row, prompt = state["row"], self._prompts_of_rows(state)
        going = row["alive"] & ~row["full"]
        words = rng.fold_in((row["first"], row["second"]), row["tries"] * self.limits.max_tokens + row["drawn"])
        aside, hidden = rng.fold_in(words, jnp.uint32(2)), row["hidden"]
        if self._timed:
            # The gap first, given that nothing happens before the prediction time; then the token given the gap.
            least = jnp.where(row["clock"] <= prompt["silence"], prompt["silence"] - row["clock"], -1)
            bins, gap = timing.draw_gap(gaps.gap_scores(params["head"], hidden), least, *aside, self.settings)
            hidden = gaps.given(params["head"], hidden, bins)
        logits = self._logits(params, hidden)
        scores = sampling.scores(jnp.where(tables.never, -1e30, logits), self.settings)
        token = sampling.draw(scores, *rng.fold_in(words, jnp.uint32(1)), self.settings)
        if self._timed:
            ahead = gap[:, None]
        else:
            quantile = (sampling.uniform(*aside) * len(tables.gaps)).astype(jnp.int32)
            gap, ahead = tables.gaps[quantile, token], tables.gaps[quantile][:, self._eventful]
        clock = _later(row["clock"], gap)

        early = going & ~tables.is_time[token] & (clock <= prompt["silence"])
        again = early & (row["tries"] < self.limits.max_tries)
        void = early & ~again
        drew = going & ~early
        row = {**row, **self._accounts(tables, row, prompt["silence"], scores, ahead, token, clock, drew)}
        row["clock"] = jnp.where(drew, clock, row["clock"])
        row["drawn"] = row["drawn"] + drew
        row["tries"] = row["tries"] + again
        row, ended = self._ends(tables, row, prompt["silence"], token, drew)
        row["end"] = jnp.where(void, VOID, row["end"])
        row["alive"] = row["alive"] & ~ended & ~void
        if self.limits.positions:
            row["full"] = row["full"] | (drew & ~ended & (row["position"] >= self.limits.positions))
        state = self._feed(params, {**state, "row": row}, prompt, token, drew & ~ended & ~row["full"])
        state = self._behind_prompt(state, again)
        return {**state, "step": state["step"] + 1}, Drawn(drew, token, clock, again)

    def _logits(self, params: Any, hidden: Float[Array, "rows d"]) -> Float[Array, "rows v"]:
        table = trees.flatten(params).get(trees.CODE_TABLE)
        return self._head.apply({"params": params.get("head", {})}, hidden, table)

    def _accounts(self, tables, row, silence, scores, ahead, token, clock, drew) -> dict[str, Array]:
        """Which tasks' events have happened, and how often they were to be expected (estimators.py).

        ahead: [R, E or 1] the gap before each eventful token, if it were drawn. While it is open whether the row
        begins anew, the event itself is counted and not its probability.
        """
        if not len(tables.horizons):
            return {}
        open_ = drew[:, None] & ~row["happened"]
        hit = open_ & tables.tasks[:, token].T & self._within(tables, silence, clock)
        # Only the tokens of events are looked at, not the whole vocabulary.
        if self.settings.temperature:
            probabilities = jnp.exp(scores[:, self._eventful] - jax.nn.logsumexp(scores, axis=-1, keepdims=True))
        else:
            probabilities = (token[:, None] == self._eventful[None]).astype(jnp.float32)
        times = _later(row["clock"][:, None], ahead) - silence[:, None]
        expected = jnp.zeros_like(row["expected"])
        for horizon in self._horizons:
            inside = jnp.where((times > 0) & (times <= horizon), probabilities, 0.0)
            own = tables.tasks[:, self._eventful] & (tables.horizons == horizon)[:, None]
            expected = expected + contract("re,te->rt", inside, own.astype(jnp.float32), jnp.float32)
        sure = (row["clock"] > silence)[:, None] | self._timed
        added = jnp.where(sure, expected, hit.astype(jnp.float32))
        return {
            "happened": row["happened"] | hit,
            "expected": row["expected"] + jnp.where(open_, added, 0.0),
        }

    def _within(self, tables: Tables, silence: Array, clock: Array) -> Bool[Array, "rows tasks"]:
        return (clock[:, None] > silence[:, None]) & (clock[:, None] - silence[:, None] <= tables.horizons[None])

    def _ends(self, tables, row, silence, token, drew) -> tuple[dict[str, Array], Array]:
        """Why rows end, as `end`: 1 a stop token, 2 time, BUDGET, 4 all tasks decided."""
        horizon = max([self.limits.horizon, *self._horizons]) or NO_END
        reasons = [
            (BUDGET, row["drawn"] >= self.limits.max_tokens),
            (2, row["clock"] - silence > horizon),
            (4, row["happened"].all(axis=1)) if self.limits.decided and len(tables.horizons) else None,
            (1, tables.stops[token]),
        ]
        end = jnp.zeros_like(row["end"])
        for reason in reasons:
            if reason is not None:
                end = jnp.where(reason[1], reason[0], end)
        return {**row, "end": jnp.where(drew, end, row["end"])}, drew & (end > 0)

    def _feed(self, params: Any, state: State, prompt: Mapping[str, Array], token: Array, fed: Array) -> State:
        """Shows each row's newest token to the model; rows that are not `fed` stay as they are."""
        row, memory = state["row"], state["memory"]
        fields = {
            "tokens": token,
            "positions": row["position"],
            "segment_ids": jnp.ones_like(token),
            "ages": prompt["age"] + row["clock"] / MINUTES_PER_YEAR,
            "times": prompt["time"] + row["clock"],
        }
        batch = {name: fields[name][:, None] for name in self._fields}
        variables = {"params": params["model"], **memories.variables(memory, self._visible(state, prompt))}
        outputs, changed = self._model.apply(variables, batch, deterministic=True, mutable=[MEMORY])
        new = memories.of_variables(changed, memory)
        # Recurrent states of rows that were not fed must not move; own keys are forgotten by the row's count.
        for path in new:
            if new[path].ndim == 2 and not path.rsplit("/", 1)[1].startswith("prompt_"):
                new[path] = jnp.where(fed[:, None], new[path], memory[path])
        row = {
            **row,
            "hidden": jnp.where(fed[:, None], outputs["hidden"][:, 0], row["hidden"]),
            "own": row["own"] + fed,
            "position": row["position"] + fed,
        }
        return {**state, "row": row, "memory": new}

    def _visible(self, state: State, prompt: Mapping[str, Array]) -> dict[str, Array]:
        """Which columns of the prompt and which slots the newest token sees, and the slot that it goes to."""
        row, memory = state["row"], state["memory"]
        size = memories.capacity(memory)
        if not size:
            return {}
        slot = state["step"] % size
        ago = (slot - jnp.arange(size)) % size
        own = ago[None] <= row["own"][:, None]
        width = next(x.shape[2] for path, x in memory.items() if path.endswith("/prompt_keys"))
        column = jnp.arange(width)[None]
        shown = (column < prompt["length"][:, None]) & ~row["alone"][:, None]
        if self.limits.window:
            own &= ago[None] < self.limits.window
            shown &= row["position"][:, None] - column < self.limits.window
        return {"slot": slot, "own_visible": own, "prompt_visible": shown}


def _later(clock: Array, gap: Array) -> Array:
    """clock + gap minutes, without running over."""
    most = np.iinfo(np.int32).max
    return jnp.where(clock > most - gap, most, clock + gap)
