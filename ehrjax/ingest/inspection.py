"""What a MEDS dataset holds, in numbers: counted piece by piece, so that memory is bounded by a piece."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from ehrjax.core.codes import SEPARATOR
from ehrjax.ingest.meds import BIRTH, SPLITS, TRAIN, VISIT_COLUMN, MedsDataset

CHUNK_EVENTS = 1_000_000
MEASURED = 12
# Where the measured codes have more distinct values than this in all, values are kept to so many significant digits.
MOST_VALUES, DIGITS = 500_000, 4
# Edges of the histograms: gaps in days, lengths of visits in hours, by factors of the tenth root of ten.
FAMILY = pl.col("code").str.split(SEPARATOR).list.first().alias("family")
EDGES = 10 ** np.arange(-3, 5.01, 0.1)

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Inspection:
    """The numbers.

    Attributes:
      splits: split, subjects, events, static (events without a time), with_value, first and last time.
      codes: code, family, description, events (of all splits), subjects, one column of events a split and one of
        subjects ("train subjects"); the most frequent first.
      families: family, codes, events, subjects; the most frequent first.
      coverage: split -> share of its events whose code occurs in train.
      lengths: split -> [subjects] int64, events a subject.
      values: code -> value, count: the values of the most frequently measured codes, each with how often it occurs.
      gaps: [len(EDGES) - 1] int64, days from the end of all earlier visits to the next one's start; without visits:
        between days with events.
      overlaps: how many visits begin before an earlier one of the subject has ended.
      stays: [len(EDGES) - 1] int64, hours that visits last; those of a moment are left out.
      visits: how many visits there are; 0 where the dataset has none.
      timeline: one subject's events, or None.
    """

    splits: pl.DataFrame
    codes: pl.DataFrame
    families: pl.DataFrame
    coverage: dict[str, float]
    lengths: dict[str, np.ndarray]
    values: dict[str, pl.DataFrame]
    gaps: np.ndarray
    overlaps: int
    stays: np.ndarray
    visits: int
    timeline: pl.DataFrame | None


def inspect(
    dataset: MedsDataset, *, subject: int | None = None, typical: bool = False, progress: Progress | None = None
) -> Inspection:
    """Counts what a dataset holds.

    Args:
      dataset: opened.
      subject: whose events to keep for a timeline.
      typical: keep those of a subject with a middling number of events.
      progress: called as progress(stage, pieces done, pieces in all).

    Raises:
      InputError: a file is damaged, or `subject` is not in the dataset.
    """
    frames: list[pl.DataFrame] = []
    per_subject: list[pl.DataFrame] = []
    by_family: list[pl.DataFrame] = []
    gaps, stays, visits, overlaps = np.zeros(len(EDGES) - 1, np.int64), np.zeros(len(EDGES) - 1, np.int64), 0, 0
    for events in _pieces(dataset, "counting events", progress):
        value = pl.col("numeric_value").is_finite().fill_null(False)
        # A subject's events lie in one piece: subjects add up.
        subjects = pl.col("subject_id").n_unique().cast(pl.Int64).alias("subjects")
        by_family.append(events.group_by(FAMILY).agg(subjects))
        counted = events.group_by("split", "code").agg(
            pl.len().alias("events"),
            subjects,
            pl.col("time").is_null().sum().alias("static"),
            value.sum().alias("with_value"),
            pl.col("time").filter(pl.col("code") != BIRTH).min().alias("first"),
            pl.col("time").max().alias("last"),
        )
        frames = [_added([*frames, counted])]
        per_subject.append(events.group_by("subject_id", "split", maintain_order=True).agg(pl.len().alias("events")))
        more_gaps, more_stays, count, overlapping = _visits(events)
        gaps, stays, visits, overlaps = gaps + more_gaps, stays + more_stays, visits + count, overlaps + overlapping
    subjects = pl.concat(per_subject)
    counts = frames[0]
    codes = _codes(counts, dataset)
    measured = counts.group_by("code").agg(pl.col("with_value").sum()).filter(pl.col("with_value") > 0)
    wanted = measured.sort("with_value", "code", descending=[True, False]).head(MEASURED)["code"].to_list()
    if subject is None and typical and len(subjects):
        middle = subjects.sort("events", "subject_id")[int(0.7 * (len(subjects) - 1))]
        subject = int(middle["subject_id"][0])
    values, timeline = _values(dataset, wanted, subject, progress)
    return Inspection(
        splits=_splits(counts, subjects),
        codes=codes,
        families=_families(codes, by_family),
        coverage=_coverage(codes),
        lengths={split: subjects.filter(pl.col("split") == split)["events"].to_numpy() for split in SPLITS},
        values=values,
        gaps=gaps,
        overlaps=overlaps,
        stays=stays,
        visits=visits,
        timeline=timeline,
    )


def _pieces(dataset: MedsDataset, stage: str, progress: Progress | None) -> Iterator[pl.DataFrame]:
    chunks, splits = list(dataset.chunks(CHUNK_EVENTS)), dataset.splits.select("subject_id", "split")
    for number, chunk in enumerate(chunks):
        events = dataset.read_chunk(chunk)
        yield events.join(splits, on="subject_id", how="left", maintain_order="left")
        if progress:
            progress(stage, number + 1, len(chunks))


def _added(parts: list[pl.DataFrame]) -> pl.DataFrame:
    sums = (pl.col(name).sum() for name in ("events", "subjects", "static", "with_value"))
    return pl.concat(parts).group_by("split", "code").agg(*sums, pl.col("first").min(), pl.col("last").max())


def _codes(counts: pl.DataFrame, dataset: MedsDataset) -> pl.DataFrame:
    by_split = [
        pl.col(what).filter(pl.col("split") == split).sum().cast(pl.Int64).alias(split + name)
        for what, name in (("events", ""), ("subjects", " subjects"))
        for split in SPLITS
    ]
    total = counts.group_by("code").agg(pl.col("events", "subjects").sum().cast(pl.Int64), *by_split)
    described = dataset.codes.select("code", "description")
    frame = total.with_columns(FAMILY).join(described, on="code", how="left", maintain_order="left")
    return frame.sort("events", "code", descending=[True, False])


def _families(codes: pl.DataFrame, parts: list[pl.DataFrame]) -> pl.DataFrame:
    grouped = codes.group_by("family").agg(pl.len().alias("codes"), pl.col("events").sum())
    people = pl.concat(parts).group_by("family").agg(pl.col("subjects").sum())
    return grouped.join(people, on="family").sort("events", "family", descending=[True, False])


def _coverage(codes: pl.DataFrame) -> dict[str, float]:
    seen = codes.filter(pl.col(TRAIN) > 0)
    return {split: float(seen[split].sum() / codes[split].sum()) for split in SPLITS if codes[split].sum()}


def _splits(counts: pl.DataFrame, subjects: pl.DataFrame) -> pl.DataFrame:
    sums = (pl.col(name).sum() for name in ("events", "static", "with_value"))
    events = counts.group_by("split").agg(*sums, pl.col("first").min(), pl.col("last").max())
    order = pl.DataFrame({"split": SPLITS})
    people = subjects.group_by("split").agg(pl.len().alias("subjects"))
    return order.join(people, on="split", how="inner", maintain_order="left").join(
        events, on="split", how="left", maintain_order="left"
    )


def _visits(events: pl.DataFrame) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Histograms of gaps and lengths, how many visits, and how many of them overlap."""
    timed = events.filter(pl.col("time").is_not_null() & (pl.col("code") != BIRTH))
    visits = (
        timed.filter(pl.col(VISIT_COLUMN).is_not_null())
        .group_by("subject_id", VISIT_COLUMN)
        .agg(pl.col("time").min().alias("start"), pl.col("time").max().alias("end"))
    )
    count = len(visits)
    if not count:
        day = pl.col("time").dt.truncate("1d")
        visits = timed.select("subject_id", day.alias("start"), day.alias("end")).unique()
    visits = visits.sort("subject_id", "start", "end")
    previous = pl.col("end").cum_max().shift(1).over("subject_id")
    between = visits.select((pl.col("start") - previous).dt.total_seconds() / 86_400).to_series().drop_nulls()
    lasted = visits.select((pl.col("end") - pl.col("start")).dt.total_seconds() / 3600).to_series()
    lasting = _histogram(lasted.to_numpy()) if count else _histogram(np.zeros(0))
    return _histogram(between.to_numpy()), lasting, count, int((between < 0).sum())


def _histogram(values: np.ndarray) -> np.ndarray:
    return np.histogram(np.clip(values[values > 0], EDGES[0], EDGES[-1]), EDGES)[0].astype(np.int64)


def _values(
    dataset: MedsDataset, wanted: list[str], subject: int | None, progress: Progress | None
) -> tuple[dict[str, pl.DataFrame], pl.DataFrame | None]:
    """How often each value of some codes occurs, and one subject's events."""
    from ehrjax.core.errors import InputError

    held: pl.DataFrame | None = None
    timeline, rounded = None, False
    for events in _pieces(dataset, "reading values", progress):
        part = events.filter(pl.col("code").is_in(wanted) & pl.col("numeric_value").is_finite())
        part = part.group_by("code", pl.col("numeric_value").alias("value")).agg(pl.len().cast(pl.Int64).alias("count"))
        parts = [part] if held is None else [held, part]
        held = pl.concat(parts).group_by("code", "value").agg(pl.col("count").sum())
        if rounded or len(held) > MOST_VALUES:
            rounded = True
            kept = pl.col("value").round_sig_figs(DIGITS)
            held = held.group_by("code", kept).agg(pl.col("count").sum())
        if subject is not None and timeline is None:
            own = events.filter(pl.col("subject_id") == subject)
            timeline = own if len(own) else None
    if subject is not None and timeline is None:
        raise InputError(f"--timeline={subject}: the dataset has no such subject.")
    if held is None:
        return {}, timeline
    return {
        code: held.filter(pl.col("code") == code).select("value", "count").sort("value") for code in wanted
    }, timeline


def is_open(metadata: dict[str, Any]) -> bool:
    """Whether a dataset's people are made up, so that anything of them may be shown."""
    return bool(metadata.get("synthetic"))
