"""The whole of a generation: prompts in blocks, each block kept as it is done, then the files that people read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ehrjax.core import config as configs
from ehrjax.core import files, trees
from ehrjax.generation import clock, decode, estimators, outputs, prompts, sampling, schedule
from ehrjax.vocab.events import NO_HORIZON, Event

BLOCK = 256
"""Prompts whose trajectories are kept together: what a killed generation loses at most."""
FILES = 256
"""Files of trajectories that are open at once."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Settings:
    """Attributes:
    samples: trajectories a prompt.
    max_tokens: of a trajectory.
    seed: of all randomness.
    sampling: how tokens are drawn.
    shape: how many rows decode at once.
    trajectories: whether they are written, and rollouts; otherwise a row ends once every event has happened.
    estimator: whose risks are the predictions: 'combined', 'expected' or 'count'.
    prompt_tokens: of a prompt at most; 0: as many as leave room (see `room`).
    horizon: trajectories go on for so many minutes behind the prediction time at least; 0: as far as the events'
      horizons, without events without an end.
    """

    samples: int
    max_tokens: int
    seed: int = 0
    sampling: sampling.Settings = sampling.Settings()
    shape: schedule.Shape = schedule.Shape()
    trajectories: bool = True
    estimator: str = "combined"
    prompt_tokens: int = 0
    horizon: int = 0


def room(limits: decode.Limits, context: int, settings: Settings) -> int:
    """Tokens of a prompt at most: the context, or, where positions are learned, less so that what is drawn fits behind.

    At most a quarter of the positions is kept free; longer futures start anew behind half of them (schedule.newest).
    """
    if settings.prompt_tokens:
        return min(settings.prompt_tokens, context)
    if not limits.positions:
        return context
    return min(context, limits.positions - min(settings.max_tokens, limits.positions // 4))


def generate(
    run: Any,
    asked: pl.DataFrame,
    made: Sequence[prompts.Prompt],
    output: str | Path,
    settings: Settings,
    *,
    ticks: clock.Clock,
    stops: np.ndarray,
    events: Sequence[Event],
    truth_of: str = "",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Samples futures of every prompt and writes the folder `output` (outputs.py).

    A killed generation goes on where it was, by the block. Same arguments, same bytes.

    Args:
      run: as `ehrjax.load` gives it.
      asked: subject_id, prediction_time and perhaps boolean_value, the truth; a row a prompt.
      made: the prompts.
      output: a folder that does not exist yet.
      settings: see Settings.
      ticks: how tokens move the clock.
      stops: [V] bool, tokens that end a trajectory.
      events: whose risks are told; the largest horizon ends a trajectory.
      truth_of: the event that boolean_value is the truth of.
      progress: called with (what, done, total).

    Returns:
      What generation.json says.

    Raises:
      InputError: the output exists, or the model cannot continue a sequence.
    """
    vocabulary = run.vocabulary
    never = np.zeros(len(vocabulary), bool)
    never[[vocabulary.pad, vocabulary.cls, vocabulary.mask]] = True
    tables = decode.Tables(
        gaps=ticks.gaps,
        is_time=ticks.is_time,
        stops=stops,
        never=never,
        tasks=np.array([event.tokens for event in events], bool).reshape(len(events), len(vocabulary)),
        horizons=np.array([event.horizon for event in events], np.int32),
    )
    limits = decode.limits(run, settings.max_tokens, decided=not settings.trajectories, horizon=settings.horizon)
    decoder = decode.of_run(run, limits, settings.sampling, tables)
    keys = [(p.subject.subject_id, p.prediction_time, len(p), int(p.tokens[-1])) for p in made]
    arrays = [[str(a.dtype), a.shape, files.stable_hash(a.tobytes())] for a in tables]
    about = configs.to_dict(dataclasses.asdict(settings))
    about.pop("shape")  # decides what is decoded together, not what comes of it
    mark = configs.fingerprint([trees.sha256(run.params), about, keys, arrays])
    horizon = max([settings.horizon, *(event.horizon for event in events)]) or NO_HORIZON
    with files.resumable_folder(output, what="generation", fingerprint=mark) as folder:
        (folder / "blocks").mkdir(exist_ok=True)
        paths = list(_blocks(folder / "blocks", decoder, made, settings, progress))
        if settings.trajectories:
            # A system lets a process open so many files only.
            for first in range(0, settings.samples, FILES):
                some = range(first, min(first + FILES, settings.samples))
                with outputs.Trajectories(folder / "trajectories", some, vocabulary, ticks.is_time) as writer:
                    for number, path in enumerate(paths):
                        part = [_local(t, number * BLOCK) for t in outputs.read_block(path)]
                        writer.add(made[number * BLOCK : (number + 1) * BLOCK], part, horizon)
        columns = ["prompt", "end", "tries", "happened", "expected", "truncated"]
        every = pl.concat([pl.read_parquet(path, columns=columns) for path in paths])
        if events:
            width = len(events)
            risks = estimators.risks(
                every["prompt"].to_numpy(),
                np.array(every["happened"].to_list(), bool).reshape(-1, width),
                np.array(every["expected"].to_list(), np.float64).reshape(-1, width),
                np.array(every["truncated"].to_list(), bool).reshape(-1, width),
                every["end"].to_numpy() == decode.VOID,
                len(made),
            )
            outputs.write_risks(folder, asked, events, risks, settings.estimator, truth_of)
        told = None
        if settings.trajectories:
            drawn = (t for path in paths for t in outputs.read_block(path))
            told = outputs.rollouts(made, drawn, stops, vocabulary, horizon)
            told.write_parquet(folder / "rollouts.parquet")
        summary = _summary(run, settings, made, every, told, events, stops)
        files.write_json(folder / "generation.json", summary)
        for path in paths:
            path.unlink()
        (folder / "blocks").rmdir()
    return summary


def _blocks(
    folder: Path, decoder: decode.Decoder, made: Sequence[prompts.Prompt], settings: Settings, progress: Progress | None
) -> Iterator[Path]:
    """The files of all blocks; those that an earlier, killed run has finished are not made again."""
    done, total = 0, len(made) * settings.samples

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress:
            progress("sampling futures", done, total)

    for number, first in enumerate(range(0, len(made), BLOCK)):
        path = folder / f"{number:05d}.parquet"
        part = made[first : first + BLOCK]
        if path.exists():
            advance(len(part) * settings.samples)
        else:
            drawn = schedule.run(
                decoder, part, samples=settings.samples, seed=settings.seed, shape=settings.shape, progress=advance
            )
            outputs.write_block(path, list(drawn), first)
        yield path


def _local(trajectory: schedule.Trajectory, first: int) -> schedule.Trajectory:
    return dataclasses.replace(trajectory, prompt=trajectory.prompt - first)


def _summary(run, settings, made, every, told, events, stops) -> dict[str, Any]:
    """Settings and counts, without anything that hangs on the clock or the machine."""
    ends = every["end"]
    strings = run.vocabulary.strings
    return {
        "kind": "ehrjax generation",
        "model": run.config["model"]["name"],
        "step": run.step,
        "settings": configs.to_dict(dataclasses.asdict(settings)),
        "prompts": len(made),
        "trajectories": len(every),
        "ended_by": {
            name: int((ends == code).sum())
            for name, code in (("stop", 1), ("horizon", 2), ("max_tokens", 3), ("all_decided", 4), ("void", 5))
        },
        "began_anew": int(every["tries"].sum()),
        "stops": [strings[i] for i in np.flatnonzero(stops)][:100],
        "tasks": [
            {
                "name": event.name,
                "tokens": int(event.tokens.sum()),
                "horizon_minutes": None if event.horizon == NO_HORIZON else event.horizon,
            }
            for event in events
        ],
        **({} if told is None else {"rollouts": _rollouts(told)}),
    }


def _rollouts(told: pl.DataFrame) -> dict[str, Any]:
    known = told.filter(pl.col("truth").is_not_null())
    return {
        "with_a_true_end": len(known),
        "first_end_right": int((known["truth"] == known["predicted"]).fill_null(False).sum()),
        "mean_share_of_truth": known["share_of_truth"].mean(),
    }
