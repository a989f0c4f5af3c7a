"""What generation leaves behind: trajectories as MEDS, risks, predictions, rollouts.

DIR/trajectories/0000.parquet     one file a sample: MEDS events, `prediction_time` added
DIR/risks.parquet                 subject_id, prediction_time, task, horizon_days, three estimates, errors, truncated,
                                  void
DIR/predictions/TASK.parquet      the MEDS prediction schema (meds-evaluation), with the label where there is one; rows
                                  whose risk is not known are left out
DIR/rollouts.parquet              which stop token comes first, in truth and in the samples
DIR/generation.json               settings and counts
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ehrjax.core import files
from ehrjax.core.batch import MICROSECONDS_PER_MINUTE
from ehrjax.core.errors import InputError
from ehrjax.generation.decode import VOID
from ehrjax.generation.estimators import Risks
from ehrjax.generation.prompts import Prompt
from ehrjax.generation.schedule import Trajectory
from ehrjax.vocab.events import NO_HORIZON, Event
from ehrjax.vocab.vocabulary import Vocabulary

TRAJECTORY = pa.schema(
    [
        pa.field("subject_id", pa.int64(), nullable=False),
        pa.field("prediction_time", pa.timestamp("us"), nullable=False),
        pa.field("time", pa.timestamp("us")),
        pa.field("code", pa.string(), nullable=False),
        pa.field("numeric_value", pa.float32()),
        pa.field("text_value", pa.string()),
    ]
)
BLOCK = pa.schema(
    [
        pa.field("prompt", pa.int64()),
        pa.field("sample", pa.int32()),
        pa.field("tokens", pa.list_(pa.int32())),
        pa.field("clock", pa.list_(pa.int32())),
        pa.field("end", pa.int8()),
        pa.field("tries", pa.int32()),
        pa.field("happened", pa.list_(pa.bool_())),
        pa.field("expected", pa.list_(pa.float32())),
        pa.field("truncated", pa.list_(pa.bool_())),
    ]
)
DAYS = 1440.0


def write_block(path: Path, trajectories: Sequence[Trajectory], first: int) -> None:
    """Writes the trajectories of a block of prompts whose first has the number `first`, in order, atomically."""
    ordered = sorted(trajectories, key=lambda t: (t.prompt, t.sample))
    columns = {name: [getattr(t, name) for t in ordered] for name in BLOCK.names}
    columns["prompt"] = [prompt + first for prompt in columns["prompt"]]
    with files.written_file(path) as temporary:
        pq.write_table(pa.table(columns, schema=BLOCK), temporary, compression="zstd")


def read_block(path: Path) -> list[Trajectory]:
    """Reads a block.

    Raises:
      InputError: it is damaged.
    """
    try:
        rows = pq.read_table(path, schema=BLOCK).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is damaged; remove it and run the same command again.") from error
    types = {"tokens": np.int32, "clock": np.int32, "happened": bool, "expected": np.float32, "truncated": bool}
    return [Trajectory(**{k: np.asarray(v, types[k]) if k in types else v for k, v in row.items()}) for row in rows]


class Trajectories:
    """The files of some samples' trajectories under way: one writer a sample."""

    def __init__(self, folder: Path, samples: range, vocabulary: Vocabulary, is_time: np.ndarray) -> None:
        self._folder, self._samples = folder, samples
        table = vocabulary.table
        self._codes = table.select(pl.coalesce("code", "str"))["code"].to_numpy()
        self._strings = table["str"].to_numpy()
        low, high = table["low"].to_numpy(), table["high"].to_numpy()
        middle = (low.astype(np.float64) + high) / 2
        self._values = np.where(np.isfinite(middle), middle, np.where(np.isfinite(low), low, high)).astype(np.float32)
        self._event = ~is_time & (np.arange(len(vocabulary)) >= vocabulary.num_specials)

    def __enter__(self) -> Trajectories:
        self._folder.mkdir(exist_ok=True)
        with contextlib.ExitStack() as stack:
            self._writers = {
                n: stack.enter_context(
                    pq.ParquetWriter(self._folder / f"{n:04d}.parquet", TRAJECTORY, compression="zstd")
                )
                for n in self._samples
            }
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def add(self, prompts: Sequence[Prompt], trajectories: Sequence[Trajectory], horizon: int) -> None:
        """Writes what was drawn within `horizon` minutes of the prediction times: events, not time tokens or specials.

        A value's token becomes its code with the middle of its bin, and its string as the text.
        """
        for sample in self._samples:
            own = [t for t in trajectories if t.sample == sample]
            parts: dict[str, list[np.ndarray]] = {name: [] for name in TRAJECTORY.names}
            for drawn in own:
                prompt = prompts[drawn.prompt]
                kept = self._event[drawn.tokens] & (drawn.clock.astype(np.int64) - prompt.silence <= horizon)
                tokens, clock = drawn.tokens[kept], drawn.clock[kept].astype(np.int64)
                parts["subject_id"].append(np.full(len(tokens), prompt.subject.subject_id, np.int64))
                parts["prediction_time"].append(np.full(len(tokens), prompt.prediction_time, np.int64))
                parts["time"].append(prompt.last_time + clock * MICROSECONDS_PER_MINUTE)
                parts["code"].append(tokens)
            tokens = np.concatenate(parts["code"]) if own else np.zeros(0, np.int32)
            codes, strings = self._codes[tokens], self._strings[tokens]
            values = self._values[tokens]
            columns = {
                "subject_id": np.concatenate(parts["subject_id"]) if own else np.zeros(0, np.int64),
                "prediction_time": np.concatenate(parts["prediction_time"]) if own else np.zeros(0, np.int64),
                "time": np.concatenate(parts["time"]) if own else np.zeros(0, np.int64),
                "code": codes,
                "numeric_value": pa.array(values, pa.float32(), mask=np.isnan(values)),
                "text_value": pa.array(strings, pa.string(), mask=codes == strings),
            }
            table = pa.table(
                {name: pa.array(column).cast(TRAJECTORY.field(name).type) for name, column in columns.items()}
            )
            self._writers[sample].write_table(table.cast(TRAJECTORY))


def write_risks(
    folder: Path, asked: pl.DataFrame, events: Sequence[Event], risks: Risks, estimator: str, truth_of: str
) -> None:
    """Writes risks.parquet, and predictions/TASK.parquet by an estimator: `combined`, `expected` or `count`.

    Args:
      folder: where to.
      asked: subject_id, prediction_time and, where the truth is known, boolean_value; a row a prompt.
      events: the columns of `risks`.
      risks: see estimators.py.
      estimator: whose probabilities are the predictions (clipped to 1).
      truth_of: the event that boolean_value is the truth of.
    """
    keys = asked.select("subject_id", "prediction_time")
    frames = []
    for task, event in enumerate(events):
        days = None if event.horizon == NO_HORIZON else event.horizon / DAYS
        numbers = {
            "count": risks.count,
            "count_error": risks.count_error,
            "expected": risks.expected,
            "expected_error": risks.expected_error,
            "combined": risks.combined,
            "combined_error": risks.combined_error,
            "truncated": risks.truncated,
            "void": risks.void,
        }
        columns = [pl.Series(name, values[:, task]) for name, values in numbers.items()]
        frames.append(
            keys.with_columns(
                pl.lit(event.name).alias("task"), pl.lit(days, pl.Float64).alias("horizon_days"), *columns
            )
        )
        probability = np.clip(getattr(risks, estimator)[:, task], 0, 1)
        known = event.name == truth_of and "boolean_value" in asked.columns
        truth = asked["boolean_value"] if known else pl.repeat(None, len(keys), eager=True)
        prediction = keys.with_columns(
            truth.cast(pl.Boolean).alias("boolean_value"),
            pl.Series("predicted_boolean_value", probability >= 0.5),
            pl.Series("predicted_boolean_probability", probability),
        ).filter(pl.col("predicted_boolean_probability").is_not_nan())
        path = folder / "predictions" / f"{event.name}.parquet"
        path.parent.mkdir(exist_ok=True)
        prediction.write_parquet(path)
    if frames:
        pl.concat(frames).write_parquet(folder / "risks.parquet")


def rollouts(
    prompts: Sequence[Prompt],
    trajectories: Iterator[Trajectory],
    stops: np.ndarray,
    vocabulary: Vocabulary,
    horizon: int,
) -> pl.DataFrame:
    """Which stop token comes first within `horizon` minutes: in the true future and in each prompt's samples.

    Void trajectories do not count.

    Returns:
      A row a prompt: subject_id, prediction_time, `truth` (null where the record has none), `predicted` (the
      commonest among the samples, of equal ones the lower id; null where none was drawn), `share` of the samples with
      it, and `share_of_truth`.
    """
    strings = vocabulary.strings
    counts = [np.zeros(len(stops), np.int64) for _ in prompts]
    drawn = np.zeros(len(prompts), np.int64)
    for trajectory in trajectories:
        if trajectory.end == VOID:
            continue
        drawn[trajectory.prompt] += 1
        inside = trajectory.clock.astype(np.int64) - prompts[trajectory.prompt].silence <= horizon
        first = np.flatnonzero(stops[trajectory.tokens] & inside)
        if len(first):
            counts[trajectory.prompt][trajectory.tokens[first[0]]] += 1
    rows: list[dict[str, Any]] = []
    for number, prompt in enumerate(prompts):
        future = prompt.subject.tokens[prompt.stop :]
        ahead = (prompt.subject.times[prompt.stop :] - prompt.prediction_time) // MICROSECONDS_PER_MINUTE
        true = future[stops[future] & (ahead <= horizon)][:1]
        of = max(int(drawn[number]), 1)
        best = int(np.argmax(counts[number]))
        some = counts[number][best] > 0
        rows.append(
            {
                "subject_id": prompt.subject.subject_id,
                "prediction_time": prompt.prediction_time,
                "truth": strings[int(true[0])] if len(true) else None,
                "predicted": strings[best] if some else None,
                "share": counts[number][best] / of,
                "share_of_truth": counts[number][int(true[0])] / of if len(true) else None,
            }
        )
    schema = {
        "subject_id": pl.Int64,
        "prediction_time": pl.Int64,
        "truth": pl.String,
        "predicted": pl.String,
        "share": pl.Float64,
        "share_of_truth": pl.Float64,
    }
    return pl.DataFrame(rows, schema=schema).with_columns(pl.col("prediction_time").cast(pl.Datetime("us")))
