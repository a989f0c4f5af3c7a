"""Who decodes when: prompts are given to groups, samples to rows, and rows that end are filled again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from ehrjax.core import files
from ehrjax.generation import memories
from ehrjax.generation.decode import BUDGET, VOID, Decoder, State
from ehrjax.generation.prompts import Prompt, batch

# Slots for own tokens: what is not used yet is neither stored nor read, and each size is compiled once.
CAPACITIES = (64, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 8192, 16384)
WIDTHS = (32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)


@dataclass(frozen=True)
class Shape:
    """How many rows decode at once.

    Attributes:
      groups: prompts at once; each: rows a prompt.
      prefill: prompts that are computed in one pass.
      chunk: steps between two looks at who has ended.
    """

    groups: int = 4
    each: int = 16
    prefill: int = 4
    chunk: int = 16


@dataclass(frozen=True)
class Trajectory:
    """One sampled future.

    Attributes:
      prompt: index of its prompt; sample: its number.
      tokens: [N] int32; clock: [N] int32 minutes behind the prompt's last token.
      end: 1 a stop token, 2 time, 3 the budget of tokens, 4 all tasks' events have happened, 5 void (decode.VOID).
      tries: how often it began anew because an event fell before the prediction time.
      happened, expected, truncated: [T]: see estimators.py.
    """

    prompt: int
    sample: int
    tokens: np.ndarray
    clock: np.ndarray
    end: int
    tries: int
    happened: np.ndarray
    expected: np.ndarray
    truncated: np.ndarray


def run(
    decoder: Decoder,
    prompts: Sequence[Prompt],
    *,
    samples: int,
    seed: int,
    shape: Shape,
    progress: Callable[[int], None] = lambda finished: None,
) -> Iterator[Trajectory]:
    """Samples every prompt `samples` times; trajectories come as they end.

    What a trajectory holds depends on (parameters, settings, seed, subject, prediction time, sample) alone, not on
    which others are under way.
    """
    widths = np.array([_at_least(WIDTHS, len(prompt)) for prompt in prompts], np.int64)
    for width in sorted(set(widths.tolist())):
        yield from _Bucket(
            decoder, prompts, np.flatnonzero(widths == width), width, samples, seed, shape, progress
        ).run()


class _Bucket:
    """Prompts of about one length, so that all shapes are static."""

    def __init__(self, decoder, prompts, indices, width, samples, seed, shape, progress) -> None:
        self._decoder, self._prompts, self._width = decoder, prompts, int(width)
        self._samples, self._seed, self._shape, self._progress = samples, seed, shape, progress
        self._waiting = indices.tolist()
        rows = shape.groups * shape.each
        self._group_prompt = [-1] * shape.groups
        self._next_sample = [samples] * shape.groups
        self._prompt, self._sample = np.full(rows, -1), np.zeros(rows, np.int64)
        self._pieces: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in range(rows)]
        self._pool: list[tuple[int, int]] = []  # (prompt, index in what was computed last)
        limits = decoder.limits
        # A row's own tokens, or after a new start (prime) as many as there are positions.
        longest = limits.positions or limits.max_tokens + 1
        self._most = min(longest, limits.window or longest)

    def run(self) -> Iterator[Trajectory]:
        self._compute()
        state = self._decoder.empty(
            self._hidden, self._kept, groups=self._shape.groups, each=self._shape.each, capacity=CAPACITIES[0]
        )
        own = np.zeros(len(self._prompt), np.int64)
        while True:
            state = self._fill(state)
            running = self._prompt >= 0
            if not running.any():
                return
            needed = min(int(own[running].max(initial=0)) + self._shape.chunk + 1, _at_least(CAPACITIES, self._most))
            state = self._roomy(state, needed)
            state, drawn = self._decoder.steps(state, self._shape.chunk)
            drew, tokens, clocks, again, row = jax.device_get((*drawn, state["row"]))
            self._record(drew, tokens, clocks, again)
            for r in np.flatnonzero(running & row["full"]):
                state = self._primed(state, int(r))
            for r in np.flatnonzero(running & ~row["alive"]):
                yield self._ended(int(r), row)
            own = np.asarray(state["row"]["own"])

    def _roomy(self, state: State, needed: int, shrink: bool = True) -> State:
        """The state with room for so many own tokens, and not much more."""
        now, wanted = memories.capacity(state["memory"]), _at_least(CAPACITIES, needed)
        if now and (wanted > now or (shrink and wanted < now // 2)):
            return self._decoder.resize(state, wanted)
        return state

    def _compute(self) -> None:
        """Computes the next waiting prompts."""
        chosen, self._waiting = self._waiting[: self._shape.prefill], self._waiting[self._shape.prefill :]
        fields, about = batch([self._prompts[i] for i in chosen], self._width, self._shape.prefill)
        self._about = {name: jnp.asarray(values) for name, values in about.items()}
        self._hidden, self._kept = self._decoder.prefill(self._decoder.params, fields, self._about["length"])
        self._pool = [(prompt, index) for index, prompt in enumerate(chosen)]

    def _fill(self, state: State) -> State:
        """Gives free groups a prompt and idle rows a sample."""
        each = self._shape.each
        rows = len(self._prompt)
        begun = np.zeros(rows, bool)
        words = np.zeros((2, rows), np.uint32)
        for group in range(self._shape.groups):
            span = slice(group * each, (group + 1) * each)
            if self._next_sample[group] >= self._samples and (self._prompt[span] < 0).all():
                if not self._pool and self._waiting:
                    self._compute()
                if not self._pool:
                    continue
                prompt, index = self._pool.pop(0)
                state = self._decoder.attach(
                    state, self._hidden, self._kept, self._about, jnp.int32(index), jnp.int32(group)
                )
                self._group_prompt[group], self._next_sample[group] = prompt, 0
            for row in np.flatnonzero(self._prompt[span] < 0) + group * each:
                if self._next_sample[group] < self._samples:
                    self._prompt[row], self._sample[row] = self._group_prompt[group], self._next_sample[group]
                    self._next_sample[group] += 1
                    self._pieces[row] = []
                    asked = self._prompts[self._prompt[row]]
                    word = files.stable_hash(
                        "trajectory", self._seed, asked.subject.subject_id, asked.prediction_time, self._sample[row]
                    )
                    words[:, row] = word & 0xFFFFFFFF, word >> 32
                    begun[row] = True
        return self._decoder.begin(state, begun, words[0], words[1]) if begun.any() else state

    def _record(self, drew: np.ndarray, tokens: np.ndarray, clocks: np.ndarray, again: np.ndarray) -> None:
        """Keeps what each row drew in a chunk [S, R]."""
        for row in np.flatnonzero((drew | again).any(axis=0)):
            first = 0
            if again[:, row].any():
                first = int(np.flatnonzero(again[:, row])[-1]) + 1
                self._pieces[row] = []
            chosen = drew[first:, row]
            self._pieces[row].append((tokens[first:, row][chosen], clocks[first:, row][chosen]))

    def _drawn(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        tokens, clocks = zip(*self._pieces[row])
        return np.concatenate(tokens), np.concatenate(clocks)

    def _ended(self, row: int, state: dict[str, np.ndarray]) -> Trajectory:
        end, prompt = int(state["end"][row]), int(self._prompt[row])
        tokens, clocks = (np.zeros(0, np.int32),) * 2 if end == VOID else self._drawn(row)
        happened = state["happened"][row].copy()
        reached = int(clocks[-1]) - self._prompts[prompt].silence if len(clocks) else 0
        done = Trajectory(
            prompt,
            int(self._sample[row]),
            tokens,
            clocks,
            end,
            int(state["tries"][row]),
            happened,
            state["expected"][row].copy(),
            (end == BUDGET) & ~happened & (reached <= np.asarray(self._decoder.tables.horizons)),
        )
        self._prompt[row] = -1
        self._progress(1)
        return done

    def _primed(self, state: State, row: int) -> State:
        """Starts a row anew behind its static tokens and its newest ones, half of all positions."""
        prompt = self._prompts[self._prompt[row]]
        drawn, clocks = self._drawn(row)
        fields, length = newest(prompt, drawn, clocks, self._decoder.limits.positions // 2)
        hidden, kept = self._decoder.prefill(self._decoder.params, fields, jnp.array([len(fields["tokens"][0])]))
        state = self._roomy(state, length + 1, shrink=False)
        return self._decoder.prime(state, hidden, kept, jnp.int32(0), jnp.int32(row), jnp.int32(length))


def newest(prompt: Prompt, drawn: np.ndarray, clocks: np.ndarray, width: int) -> tuple[dict[str, np.ndarray], int]:
    """A prompt with what was drawn behind it, cut to its static tokens and its newest ones.

    Args:
      prompt: the prompt.
      drawn, clocks: [N] tokens and minutes behind the prompt's end.
      width: tokens to keep.

    Returns:
      A device batch [1, width] that ends in the newest token, with padding in front, and how many tokens it holds.
    """
    fields, about = batch([prompt], len(prompt), 1)
    static = prompt.subject.num_static
    tail = {
        "tokens": drawn,
        "ages": about["age"][0] + clocks.astype(np.float32) / np.float32(365.25 * 1440),
        "times": about["time"][0] + clocks,
    }
    result = {}
    total = len(prompt) + len(drawn)
    length = min(total, width)
    kept = np.concatenate([np.arange(static), np.arange(total - (length - static), total)])
    for name, more in tail.items():
        joined = np.concatenate([fields[name][0], more])[kept]
        result[name] = np.zeros((1, width), fields[name].dtype)
        result[name][0, width - length :] = joined
    result["positions"] = np.maximum(np.arange(width, dtype=np.int32) - (width - length), 0)[None]
    result["segment_ids"] = (np.arange(width) >= width - length).astype(np.int32)[None]
    return result, length


def _at_least(sizes: Sequence[int], number: int) -> int:
    """The first of the sizes that is large enough; behind the last one they go on doubling."""
    largest = sizes[-1]
    while largest < number:
        largest *= 2
    return next((size for size in sizes if size >= number), largest)
