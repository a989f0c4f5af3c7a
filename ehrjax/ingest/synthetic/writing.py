"""Writes the synthetic hospital as a MEDS dataset, chunk by chunk in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl

from ehrjax.core import files
from ehrjax.core.errors import InputError
from ehrjax.ingest.meds import MedsWriter
from ehrjax.ingest.synthetic import clock
from ehrjax.ingest.synthetic.lives import CHUNK, generator, simulate_lives
from ehrjax.ingest.synthetic.process import VERSION, build
from ehrjax.ingest.synthetic.record import code_table, record


def simulate(patients: int, seed: int) -> Iterator[pl.DataFrame]:
    """Draws subjects 1 to `patients` and yields their events, a chunk of subjects at a time.

    The history of a subject depends on the seed and its number, not on how many are asked for.

    Args:
      patients: how many, at least 1.
      seed: not negative.

    Yields:
      Events with the columns of `meds.EVENT_SCHEMA`, in MEDS order.

    Raises:
      InputError: `patients` is less than 1 or `seed` is negative.
    """
    if patients < 1:
        raise InputError(f"--patients must be at least 1, not {patients}.")
    if seed < 0:
        raise InputError(f"--seed must not be negative, but is {seed}.")
    return _chunks(patients, seed)


def _chunks(patients: int, seed: int) -> Iterator[pl.DataFrame]:
    process = build()
    for chunk in range(-(-patients // CHUNK)):
        # A last chunk is drawn in full and cut, so that its random stream is the same as in a larger run.
        rng = generator(seed, chunk)
        lives = simulate_lives(process, rng)
        yield record(process, rng, lives, chunk * CHUNK + 1, min(CHUNK, patients - chunk * CHUNK))


def write(
    output: Path, *, patients: int, seed: int, progress: Callable[[int, int], None] | None = None
) -> dict[str, int]:
    """Writes a MEDS dataset of the synthetic hospital.

    Args:
      output: the folder to make; it must not exist unless empty.
      patients: how many subjects, at least 1.
      seed: not negative; with `patients` it determines every event.
      progress: called with (subjects written, patients) after each chunk.

    Returns:
      Counts: subjects, events, codes, shards.

    Raises:
      InputError: bad arguments, or `output` exists.
      RunError: the disk is full.
    """
    output = Path(output)
    chunks = simulate(patients, seed)
    with files.written_folder(output, what="MEDS dataset") as folder:
        writer = MedsWriter(folder, dataset_name="ehrjax-synthetic-hospital", dataset_version=VERSION)
        written = shards = 0
        codes: set[str] = set()
        for events in chunks:
            writer.write_shard(events)
            codes.update(events["code"].unique())
            written = min(written + CHUNK, patients)
            shards += 1
            if progress is not None:
                progress(written, patients)
        writer.finish(
            code_table(),
            extra={
                "synthetic": {
                    "process_version": VERSION,
                    "seed": seed,
                    "patients": patients,
                    "end_of_data": (clock.EPOCH.date().isoformat(), clock.END // clock.DAY),
                }
            },
        )
        return {"subjects": patients, "events": writer.rows, "codes": len(codes), "shards": shards}
