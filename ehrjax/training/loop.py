"""The training loop: batches in, metrics and checkpoints out. Every decision in it survives a kill and a restart."""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ehrjax.core import batch as batches
from ehrjax.core import checkpoint
from ehrjax.core import mesh as meshes
from ehrjax.core.errors import RunError
from ehrjax.core.writer import Writer
from ehrjax.data import pipeline
from ehrjax.training.run import Parts, select
from ehrjax.training.state import TrainState

# Beginnings of the names of metrics that rise as a model gets better.
RISING = ("auroc", "average_precision", "accuracy", "c_index", "top", "r2")

# Called with the parameters; gives named numbers about the tuning split.
Evaluator = Callable[[Any], Mapping[str, float]]


@dataclass(frozen=True)
class Cadence:
    """How long a run is and how often something happens, in steps; 0 means never.

    Attributes:
      num_steps: the last step.
      log_every, eval_every, checkpoint_every: cadences. Where there is evaluation at all the last step has one too.
      eval_at: further steps to evaluate at.
      patience: evaluations without improvement of `metric` after which the run stops; 0 never stops early.
      metric: the tuning metric that decides which checkpoint is best; see `rises`.
      profile_start, profile_steps: trace these steps into DIR/profile.
    """

    num_steps: int
    log_every: int = 50
    eval_every: int = 500
    checkpoint_every: int = 500
    patience: int = 0
    metric: str = "tuning_loss"
    profile_start: int = 0
    profile_steps: int = 0
    eval_at: tuple[int, ...] = ()

    @property
    def rises(self) -> bool:
        """Whether more of the metric is better; of losses and errors less is."""
        return self.metric.removeprefix("tuning_").startswith(RISING)

    def better(self, value: float, best: float | None) -> bool:
        """Whether a value of the metric is better than the best so far (None: there is none); NaN and inf never are."""
        if not math.isfinite(value):
            return False
        return best is None or (value > best if self.rises else value < best)

    def evaluates(self, step: int) -> bool:
        """Whether there is an evaluation after a step."""
        if not self.eval_every and not self.eval_at:
            return False
        regular = bool(self.eval_every) and step % self.eval_every == 0
        return regular or step in self.eval_at or step == self.num_steps


@dataclass
class Progress:
    """The host-side part of a checkpoint: where the data stands and what the evaluations have shown.

    Attributes:
      epoch, batch_in_epoch: the next batch to train on.
      best: the best value of the tuning metric so far (None: none yet), and `best_step` where it was.
      bad_evals: evaluations since then.
      stopped: whether the run has ended early.
    """

    epoch: int = 0
    batch_in_epoch: int = 0
    best: float | None = None
    best_step: int = 0
    bad_evals: int = 0
    stopped: bool = False


@dataclass(frozen=True)
class Result:
    """How a run ended: the state, host-side progress, and why ('finished', 'stopped early', 'interrupted')."""

    state: TrainState
    progress: Progress
    reason: str


@contextlib.contextmanager
def _termination() -> Iterator[Callable[[], bool]]:
    """Yields a function that says whether SIGTERM has arrived since."""
    received: list[int] = []
    try:
        old = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    except ValueError:  # not the main thread (a notebook's kernel may run cells elsewhere)
        yield lambda: False
        return
    try:
        yield lambda: bool(received)
    finally:
        signal.signal(signal.SIGTERM, old)


def _anywhere(flag: bool) -> bool:
    """Whether the flag is set in any process, so that all of them act at the same step."""
    if jax.process_count() == 1:
        return flag
    from jax.experimental import multihost_utils

    return bool(np.max(multihost_utils.process_allgather(np.int32(flag))))


class _Reporter:
    """Fetches the metrics of a step once the next one is under way, so that the device never waits for the host."""

    def __init__(
        self, writer: Writer, cadence: Cadence, checkpoints: checkpoint.Checkpoints, start: int, quiet: bool
    ) -> None:
        self._writer, self._cadence, self._checkpoints, self._quiet = writer, cadence, checkpoints, quiet
        self._pending: tuple[int, int, Mapping[str, jax.Array]] | None = None
        self._tokens, self._seconds, self._mark, self._logged = 0, 0.0, time.perf_counter(), start

    def pause(self) -> None:
        """Stops the clock: what follows (evaluation, saving) is not training."""
        self._seconds += time.perf_counter() - self._mark

    def proceed(self) -> None:
        """Starts the clock again."""
        self._mark = time.perf_counter()

    def after(self, step: int, tokens: int, metrics: Mapping[str, jax.Array]) -> None:
        """Notes a dispatched step and reports the one before it."""
        self.flush()
        self._pending = step, tokens, metrics

    def flush(self) -> None:
        """Waits for the last dispatched step and reports it.

        Raises:
          RunError: its loss or gradient is not finite.
        """
        if self._pending is None:
            return
        (step, tokens, metrics), self._pending = self._pending, None
        values = {name: np.asarray(value).item() for name, value in metrics.items()}
        self._tokens += tokens
        if not values.pop("finite"):
            self._checkpoints.wait()
            kept = self._checkpoints.latest
            raise RunError(
                f"The loss or its gradient is not finite at step {step} (loss {values['loss']}, gradient norm "
                f"{values['gradient_norm']}); "
                + (
                    f"the checkpoint of step {kept} is kept. "
                    if kept is not None
                    else "no checkpoint was written yet. "
                )
                + "Lower optimizer.learning_rate, set optimizer.clip_norm, or look at the data."
            )
        if self._cadence.log_every and (step % self._cadence.log_every == 0 or step == self._cadence.num_steps):
            now = time.perf_counter()
            seconds = self._seconds + now - self._mark
            rate = self._tokens / max(seconds, 1e-9)
            self._writer.write(step, **values, tokens_per_second=rate, seconds=seconds)
            if not self._quiet:
                left = (self._cadence.num_steps - step) * seconds / max(step - self._logged, 1)
                print(
                    f"step {step}/{self._cadence.num_steps}  loss {values['loss']:.4f}  "
                    f"{rate:,.0f} tokens/s  {_clock(left)} left",
                    flush=True,
                )
            self._tokens, self._seconds, self._mark, self._logged = 0, 0.0, now, step


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def fit(
    parts: Parts,
    step_fn: Callable[..., tuple[TrainState, Mapping[str, jax.Array]]],
    state: TrainState,
    like: TrainState,
    *,
    mesh: jax.sharding.Mesh,
    key: jax.Array,
    folder: str,
    settings: pipeline.Settings,
    seed: int,
    batch_size: int,
    cadence: Cadence,
    evaluators: list[Evaluator],
    workdir: Path,
    make_writer: Callable[[int], Writer],
    quiet: bool = False,
) -> Result:
    """Trains from the newest checkpoint in the workdir (or from `state`) to the end.

    The order after each step is fixed: evaluate, then save. A kill between the two repeats both.

    Args:
      parts: model and objective.
      step_fn: from `make_train_step`, not yet jitted.
      state: the first state.
      like: its shapes and shardings, for restoring.
      mesh: the device mesh.
      key: the run's key; steps fold their number into it.
      folder: the token dataset.
      settings: the data section.
      seed: orders the data.
      batch_size: rows a step, over all devices.
      cadence: length and cadences.
      evaluators: run every `cadence.eval_every` steps on the tuning split.
      workdir: the run's folder.
      make_writer: step to continue from -> Writer.
      quiet: print nothing (processes other than the first).

    Raises:
      RunError: a loss that is not finite, or a checkpoint that cannot be written.
    """
    progress = Progress()
    saved = checkpoint.Checkpoints(workdir / "checkpoints" / "last")
    start = 0
    if saved.latest is not None:
        state, plain = saved.restore(like)
        progress, start = Progress(**plain), int(saved.latest)
        if not quiet:
            print(f"continuing from step {start}", flush=True)
    best_folder = workdir / "checkpoints" / "best"
    if jax.process_index() == 0:
        checkpoint.drop_after(best_folder, start)
    best = checkpoint.Checkpoints(best_folder, keep=1)
    writer = make_writer(start)
    rows = meshes.local_rows(mesh, batch_size)
    source = pipeline.Batches(
        folder,
        "train",
        settings,
        batch_size=batch_size,
        seed=seed,
        rows=rows,
        epoch=progress.epoch,
        batch_in_epoch=progress.batch_in_epoch,
        count=0 if progress.stopped else max(cadence.num_steps - start, 0),
    )
    jitted = jax.jit(step_fn, donate_argnums=0)
    reporter = _Reporter(writer, cadence, saved, start, quiet)
    reason, number = "stopped early" if progress.stopped else "finished", start
    tracing = False
    try:
        with (
            _termination() as terminated,
            jax.set_mesh(mesh),
            contextlib.closing(pipeline.iterate(source, settings)) as stream,
        ):
            for offset, (epoch, index, batch) in enumerate(stream):
                number = start + offset + 1
                if cadence.profile_steps and number == cadence.profile_start + 1:
                    jax.profiler.start_trace(str(workdir / "profile"))
                    tracing = True
                device = meshes.to_devices(mesh, select(batch, parts.fields), rows=rows, batch_size=batch_size)
                state, metrics = jitted(state, device, key)
                reporter.after(number, _global_tokens(batch), metrics)
                progress.epoch, progress.batch_in_epoch = epoch, index + 1
                if tracing and number >= cadence.profile_start + cadence.profile_steps:
                    reporter.flush()
                    jax.profiler.stop_trace()
                    tracing = False
                interrupted = _anywhere(terminated())
                last = number == cadence.num_steps
                if cadence.evaluates(number):
                    reporter.flush()
                    reporter.pause()
                    _evaluate(evaluators, state, number, progress, cadence, best, writer, quiet)
                    reporter.proceed()
                if (
                    last
                    or interrupted
                    or progress.stopped
                    or (cadence.checkpoint_every and number % cadence.checkpoint_every == 0)
                ):
                    reporter.flush()
                    reporter.pause()
                    writer.sync()
                    saved.save(number, state, asdict(progress))
                    reporter.proceed()
                if progress.stopped:
                    reason = "stopped early"
                    break
                if interrupted and not last:
                    reason = "interrupted"
                    break
        reporter.flush()
        saved.wait()
        best.wait()
    finally:
        if tracing:
            jax.profiler.stop_trace()
        writer.close()
    saved.close()
    best.close()
    return Result(state, progress, reason)


def _global_tokens(batch: Mapping[str, np.ndarray]) -> int:
    """Real tokens of the batch over all processes (each holds its own rows)."""
    tokens = batches.num_tokens(batch)
    if jax.process_count() == 1:
        return tokens
    from jax.experimental import multihost_utils

    return int(np.sum(multihost_utils.process_allgather(np.int64(tokens))))


def _evaluate(
    evaluators: list[Evaluator],
    state: TrainState,
    step: int,
    progress: Progress,
    cadence: Cadence,
    best: checkpoint.Checkpoints,
    writer: Writer,
    quiet: bool,
) -> None:
    """Runs the evaluators, keeps the best checkpoint, and decides whether to stop early."""
    values: dict[str, float] = {}
    for evaluator in evaluators:
        values.update(evaluator(state.params))
    if not values:
        return
    # JSON has neither NaN nor inf: what is not defined (an AUROC of one class) is left out.
    writer.write(step, **{name: value for name, value in values.items() if math.isfinite(value)})
    if not quiet:
        print(f"step {step}  " + "  ".join(f"{name} {value:.4f}" for name, value in values.items()), flush=True)
    if cadence.metric not in values:
        raise RunError(
            f"config.early_stopping.metric is {cadence.metric!r}, but the tuning split gives {', '.join(values)}; "
            "choose one of those."
        )
    metric = values[cadence.metric]
    if math.isinf(metric) and progress.best is None:
        raise RunError(
            f"{cadence.metric} is {metric} on the tuning split: some of its values or labels are too large to compute "
            "with; correct them, or choose another config.early_stopping.metric."
        )
    if math.isnan(metric) and progress.best is None:
        raise RunError(
            f"{cadence.metric} is undefined on the tuning labels (they may have one answer only); choose another "
            "config.early_stopping.metric."
        )
    if cadence.better(metric, progress.best):
        progress.best, progress.best_step, progress.bad_evals = metric, step, 0
        best.save(step, {"params": state.params}, {"step": step, cadence.metric: metric})
    else:
        progress.bad_evals += 1
        progress.stopped = bool(cadence.patience) and progress.bad_evals >= cadence.patience
