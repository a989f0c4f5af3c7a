"""Writes the synthetic hospital as a MEDS dataset, chunk by chunk in bounded memory."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import threadpoolctl

from ehrjax.core import files
from ehrjax.core.errors import InputError
from ehrjax.ingest import meds, roles
from ehrjax.ingest.synthetic import clock
from ehrjax.ingest.synthetic.lives import CHUNK, generator, simulate_lives
from ehrjax.ingest.synthetic.process import VERSION
from ehrjax.ingest.synthetic.record import code_table, record
from ehrjax.ingest.synthetic.sites import site_named
from ehrjax.ingest.synthetic.truth import TruthFiles, true_labels

# Whether a test or a prescription is recorded says nothing of the state, so without some the filter is still exact.
_MAY_MISS = ("LOINC//", "RXNORM//")


@dataclass(frozen=True)
class Hospital:
    """Which synthetic hospital.

    Attributes:
      seed: not negative; with the rest it determines every event.
      site: `first` or `second` (`sites`).
      missing: the share of laboratory values and prescriptions that are not recorded, at random.
    """

    seed: int = 0
    site: str = "first"
    missing: float = 0.0

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise InputError(f"--seed must not be negative, but is {self.seed}.")
        if not 0 <= self.missing < 1:
            raise InputError(f"--missing must be at least 0 and less than 1, not {self.missing:g}.")
        site_named(self.site)

    def chunk(self, number: int, keep: int) -> pl.DataFrame:
        """The events of the first `keep` subjects of a chunk, as the site writes them, in MEDS order."""
        site = site_named(self.site)
        rng = generator(self.seed, number)
        lives = simulate_lives(site.process, rng)
        events = record(site.process, rng, lives, number * CHUNK + 1, keep)
        return site.written(self._without(events, number))

    def _without(self, events: pl.DataFrame, number: int) -> pl.DataFrame:
        if not self.missing:
            return events
        lost = np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, number, 1])))
        # Subjects follow one another, so what is lost does not depend on how many are kept.
        gone = pl.Series(lost.random(len(events)) < self.missing)
        may = pl.any_horizontal(pl.col("code").str.starts_with(family) for family in _MAY_MISS)
        return events.filter(~(may & gone))


def simulate(patients: int, seed: int, *, site: str = "first", missing: float = 0.0) -> Iterator[pl.DataFrame]:
    """Draws subjects 1 to `patients` and yields their events, a chunk of subjects at a time.

    The history of a subject depends on the hospital and its number, not on how many are asked for.

    Args:
      patients: how many, at least 1.
      seed: not negative.
      site: `first` or `second`.
      missing: the share of laboratory values and prescriptions that are not recorded.

    Yields:
      Events with the columns of `meds.EVENT_SCHEMA`, in MEDS order.

    Raises:
      InputError: `patients` is less than 1, or another argument is out of range.
    """
    _check(patients)
    return _chunks(patients, Hospital(seed, site, missing))


def _check(patients: int) -> None:
    if patients < 1:
        raise InputError(f"--patients must be at least 1, not {patients}.")


def _sizes(patients: int) -> list[int]:
    """How many subjects each chunk keeps: the last is drawn in full and cut, so that its random stream is the same."""
    return [min(CHUNK, patients - start) for start in range(0, patients, CHUNK)]


def _chunks(patients: int, hospital: Hospital) -> Iterator[pl.DataFrame]:
    for number, keep in enumerate(_sizes(patients)):
        yield hospital.chunk(number, keep)


def write(
    output: Path,
    *,
    patients: int,
    seed: int = 0,
    site: str = "first",
    missing: float = 0.0,
    labels: bool = False,
    fractions: tuple[float, float] = (0.8, 0.1),
    truth: Sequence[str] = meds.SPLITS,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Writes a MEDS dataset of the synthetic hospital.

    Args:
      output: the folder to make; it must not exist unless empty.
      patients: how many subjects, at least 1.
      seed: not negative; with `patients`, `site` and `missing` it determines every event.
      site: `first` or `second`.
      missing: the share of laboratory values and prescriptions that are not recorded.
      labels: also write the label files with the true probabilities (`truth`), which take most of the time.
      fractions: the shares of patients in train and in tuning; the others are held out.
      truth: the splits whose labels get their true probability; it is null in the others.
      progress: called with (subjects written, patients) after each chunk.

    Returns:
      Counts: subjects, events, codes, shards; with labels, for each task how many, and the oracle's AUROC on
      train if the truth is told there.

    Raises:
      InputError: bad arguments, or `output` exists.
      RunError: the disk is full.
    """
    _check(patients)
    if len(fractions) != 2 or not all(0 <= share <= 1 for share in (*fractions, sum(fractions))):
        raise InputError(f"The shares of train and tuning are {fractions}; they must be two, and at most 1 together.")
    if unknown := [split for split in truth if split not in meds.SPLITS]:
        raise InputError(f"--truth names {unknown[0]!r}; the splits are {', '.join(meds.SPLITS)}.")
    output, hospital = Path(output), Hospital(seed, site, missing)
    with files.written_folder(output, what="MEDS dataset") as folder:
        name = "ehrjax-synthetic-hospital" if site == "first" else f"ehrjax-synthetic-hospital-{site}"
        writer = meds.MedsWriter(folder, dataset_name=name, dataset_version=VERSION, split_fractions=fractions)
        told = TruthFiles(folder) if labels else None
        judged = tuple(truth), fractions
        written = 0
        codes: set[str] = set()
        sizes = _sizes(patients)
        for number, (events, found) in enumerate(_made(hospital, sizes, judged if labels else None)):
            writer.write_shard(events)
            codes.update(events["code"].unique())
            if told:
                told.add(number, found, writer)
            written += sizes[number]
            if progress is not None:
                progress(written, patients)
        writer.finish(
            site_named(site).described(code_table()),
            extra={"roles": roles.SYNTHETIC, "synthetic": _about(patients, hospital)},
        )
        counts: dict[str, Any] = {
            "subjects": patients,
            "events": writer.rows,
            "codes": len(codes),
            "shards": len(sizes),
        }
        if told:
            for task, splits in told.finish().items():
                counts[task] = {
                    "labels": sum(split["labels"] for split in splits.values()),
                    "positives": sum(split["positives"] for split in splits.values()),
                }
                if (best := splits["train"]["oracle_auroc"]) is not None:
                    counts[task]["oracle_auroc_on_train"] = best
        return counts


def _about(patients: int, hospital: Hospital) -> dict[str, Any]:
    more = {} if hospital == Hospital(hospital.seed) else {"site": hospital.site, "missing": hospital.missing}
    return {
        "process_version": VERSION,
        "seed": hospital.seed,
        "patients": patients,
        "end_of_data": (clock.EPOCH.date().isoformat(), clock.END // clock.DAY),
        **more,
    }


# Which splits get true probabilities, and the shares of train and tuning; None: there are no labels.
Judged = tuple[tuple[str, ...], tuple[float, float]] | None


def _make(hospital: Hospital, number: int, keep: int, judged: Judged) -> tuple[pl.DataFrame, dict[str, pl.DataFrame]]:
    """Events and labels of one chunk."""
    events = hospital.chunk(number, keep)
    if judged is None:
        return events, {}
    splits, fractions = judged

    def of(subject_ids: np.ndarray) -> np.ndarray:
        return np.isin(meds.split_of(subject_ids, fractions=fractions), splits)

    # One thread: the filter is made of many short operations, and the last bits of a product depend on how many share
    # the work.
    with threadpoolctl.threadpool_limits(1):
        return events, true_labels(events, site_named(hospital.site), of)


def _made(hospital: Hospital, sizes: list[int], judged: Judged) -> Iterator[tuple[pl.DataFrame, dict]]:
    """Events and labels of every chunk, in order; with labels, which take long, a few chunks are made at a time."""
    workers = min(os.cpu_count() or 1, len(sizes)) if judged else 1
    if workers == 1:
        yield from (_make(hospital, number, keep, judged) for number, keep in enumerate(sizes))
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting: deque[Future] = deque()
        try:
            for number, keep in enumerate(sizes):
                waiting.append(pool.submit(_make, hospital, number, keep, judged))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
