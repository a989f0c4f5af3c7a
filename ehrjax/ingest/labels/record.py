"""What tasks ask of the events of some subjects: their lives, hospital stays, visits, and events by code."""

from __future__ import annotations

import functools

import numpy as np
import polars as pl

from ehrjax.core.codes import SEPARATOR
from ehrjax.ingest.meds import BIRTH, DEATH, VISIT_COLUMN
from ehrjax.ingest.roles import Roles, matching

ROW = "row"
HOUR = 3_600_000_000
DAY = 24 * HOUR


class Record:
    """The events of whole subjects, as tasks see them.

    Attributes:
      events: MEDS rows in MEDS order (a subject's rows together, static ones first, then by time), with `row`.
      roles: which codes mean what.
    """

    def __init__(self, events: pl.DataFrame, roles: Roles) -> None:
        """`events` has the columns of `meds.EVENT_SCHEMA` in MEDS order; text values are not needed."""
        self.events = events.with_row_index(ROW)
        self.roles = roles
        self._codes = events["code"].unique()
        self._visits: dict[float, tuple[pl.Series, pl.DataFrame]] = {}

    def having(self, patterns: tuple[str, ...]) -> pl.DataFrame:
        """All rows, static ones too, whose code matches one of the patterns from its start; in order."""
        codes = self._codes.filter(matching(self._codes, patterns))
        return self.events.filter(pl.col("code").is_in(codes.implode()))

    def timed(self, patterns: tuple[str, ...]) -> pl.DataFrame:
        """The rows of `having` that have a time."""
        return self.having(patterns).filter(pl.col("time").is_not_null())

    def role(self, name: str) -> pl.DataFrame:
        """The rows with a time whose code has a role."""
        return self.timed(self.roles.get(name))

    def _named(self, code: str) -> pl.DataFrame:
        """The rows with a time of a code that MEDS defines, which may also stand before `//`."""
        return self.timed((f"{code}(?:{SEPARATOR}|$)",))

    @functools.cached_property
    def subjects(self) -> pl.DataFrame:
        """One row a subject, in order of subject_id.

        Returns:
          subject_id; birth, death (the first of each); entry, the first event that is neither; last, the last
          event. Times are datetime[us], null where there is none.
        """
        births, deaths = self._named(BIRTH), self._named(DEATH)
        marks = pl.concat([births["row"], deaths["row"]])
        timed = pl.col("time").is_not_null()
        others = timed & ~pl.col(ROW).is_in(marks.implode())
        frame = self.events.group_by("subject_id").agg(
            pl.col("time").filter(others).min().alias("entry"), pl.col("time").max().alias("last")
        )
        for name, rows in (("birth", births), ("death", deaths)):
            first = rows.group_by("subject_id").agg(pl.col("time").min().alias(name))
            frame = frame.join(first, on="subject_id", how="left")
        return frame.select("subject_id", "birth", "death", "entry", "last").sort("subject_id")

    @functools.cached_property
    def stays(self) -> pl.DataFrame:
        """One row a hospital stay, in order of subject, admission and row.

        Admissions and discharges with a visit id belong together by it: a stay lasts from the first admission of its
        id to the first discharge of its id at or after that. Without an id a discharge closes the admission that
        stands directly before it among the subject's admissions and discharges. Neither looks further than the
        discharge itself.

        Returns:
          subject_id, visit_id, stay (0, 1, ... within the subject), admission, admission_code, discharge (null where
          none is recorded), death (the subject's), end (the earlier of discharge and death; for a stay without a
          discharge the death, if it is the subject's last stay before it, else null), died (whether the stay ended
          in death).
        """
        dead = self.having(self.roles.get("discharge_dead"))["row"]
        admissions = self.role("admission").select(ROW, "subject_id", "time", "code", VISIT_COLUMN)
        discharges = self.role("discharge").select(
            ROW, "subject_id", "time", VISIT_COLUMN, pl.col(ROW).is_in(dead.implode()).alias("dead")
        )
        pairs = pl.concat([_by_id(admissions, discharges), _by_order(admissions, discharges)])
        stays = pairs.join(self.subjects.select("subject_id", "death"), on="subject_id", how="left")
        stays = stays.sort("subject_id", "admission", ROW).with_columns(
            pl.int_range(pl.len(), dtype=pl.Int32).over("subject_id").alias("stay")
        )
        before = pl.col("admission") <= pl.col("death")
        at_death = pl.col("discharge").is_null() & (
            pl.col("stay") == pl.col("stay").filter(before).max().over("subject_id")
        )
        at_death = at_death.fill_null(False)
        by_discharge = pl.col("discharge").is_not_null() & (
            pl.col("dead") | (pl.col("death") <= pl.col("discharge")).fill_null(False)
        )
        return stays.select(
            "subject_id",
            VISIT_COLUMN,
            "stay",
            "admission",
            "admission_code",
            "discharge",
            "death",
            pl.when(at_death | pl.col("discharge").is_not_null())
            .then(pl.min_horizontal("discharge", "death"))
            .alias("end"),
            (by_discharge | at_death).alias("died"),
        )

    def visits(self, gap_hours: float) -> pl.DataFrame:
        """One row a visit, in order of subject and start.

        Events with a visit id belong to the visit of that id. Those without one form visits of their own, which end
        where the next such event comes more than `gap_hours` later.

        Returns:
          subject_id, visit_id (null where the events have none), start, end (of the first and the last event), and
          first_row (the row number of the first event).
        """
        return self._visit_rows(gap_hours)[1]

    def in_visits(self, rows: pl.DataFrame, gap_hours: float) -> pl.DataFrame:
        """Adds `visit`, the row number of `visits`, to some rows of `events` that have a time."""
        numbers, _ = self._visit_rows(gap_hours)
        return rows.with_columns(numbers.gather(rows[ROW]).alias("visit"))

    def _visit_rows(self, gap_hours: float) -> tuple[pl.Series, pl.DataFrame]:
        if gap_hours not in self._visits:
            self._visits[gap_hours] = self._find_visits(gap_hours)
        return self._visits[gap_hours]

    def _find_visits(self, gap_hours: float) -> tuple[pl.Series, pl.DataFrame]:
        """For each event the row number of its visit in the table of visits (null if static), and the table."""
        timed = self.events.filter(pl.col("time").is_not_null()).select(ROW, "subject_id", "time", VISIT_COLUMN)
        alone = timed.filter(pl.col(VISIT_COLUMN).is_null())
        far = (pl.col("subject_id") != pl.col("subject_id").shift(1)) | (
            pl.col("time").diff().dt.total_microseconds() > int(gap_hours * HOUR)
        )
        alone = alone.select(ROW, far.fill_null(True).cum_sum().cast(pl.Int64).alias("session"))
        keyed = timed.join(alone, on=ROW, how="left", maintain_order="left")
        keys = ["subject_id", VISIT_COLUMN, "session"]
        table = (
            keyed.group_by(keys)
            .agg(
                pl.col("time").min().alias("start"),
                pl.col("time").max().alias("end"),
                pl.col(ROW).min().alias("first_row"),
            )
            .sort("subject_id", "start", "first_row")
            .with_row_index("visit")
        )
        placed = keyed.join(table.select(*keys, "visit"), on=keys, how="left", nulls_equal=True)
        numbers = np.full(len(self.events), -1)
        numbers[placed[ROW].to_numpy()] = placed["visit"].to_numpy()
        series = pl.Series("visit", numbers)
        return series.set(series < 0, None), table.select("subject_id", VISIT_COLUMN, "start", "end", "first_row")


_STAY = (ROW, "subject_id", VISIT_COLUMN, "admission", "admission_code", "discharge", "dead")


def _by_id(admissions: pl.DataFrame, discharges: pl.DataFrame) -> pl.DataFrame:
    """The stays of admissions that have a visit id."""
    keys = ["subject_id", VISIT_COLUMN]
    opened = (
        admissions.filter(pl.col(VISIT_COLUMN).is_not_null())
        .unique(keys, keep="first", maintain_order=True)
        .rename({"time": "admission", "code": "admission_code"})
    )
    closing = opened.select(*keys, "admission").join(
        discharges.filter(pl.col(VISIT_COLUMN).is_not_null()), on=keys, how="inner"
    )
    closing = (
        closing.filter(pl.col("time") >= pl.col("admission"))
        .sort(ROW)
        .unique(keys, keep="first", maintain_order=True)
        .select(*keys, pl.col("time").alias("discharge"), "dead")
    )
    return opened.join(closing, on=keys, how="left", maintain_order="left").select(_STAY)


def _by_order(admissions: pl.DataFrame, discharges: pl.DataFrame) -> pl.DataFrame:
    """The stays of admissions that have no visit id."""
    opened = admissions.filter(pl.col(VISIT_COLUMN).is_null()).with_columns(pl.lit(True).alias("opens"))
    closing = discharges.filter(pl.col(VISIT_COLUMN).is_null()).with_columns(pl.lit(False).alias("opens"))
    both = pl.concat([opened, closing], how="diagonal").sort(ROW)
    # Two admission codes at one time open one stay.
    again = pl.col("opens") & pl.col("opens").shift(1) & (pl.col("time") == pl.col("time").shift(1))
    both = both.filter(~again.over("subject_id").fill_null(False))
    closes = pl.col("opens").shift(-1).over("subject_id") == False  # noqa: E712
    return (
        both.with_columns(
            pl.when(closes).then(pl.col("time").shift(-1).over("subject_id")).alias("discharge"),
            pl.when(closes).then(pl.col("dead").shift(-1).over("subject_id")).alias("dead"),
        )
        .filter("opens")
        .rename({"time": "admission", "code": "admission_code"})
        .select(_STAY)
    )
