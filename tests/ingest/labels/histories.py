"""Made-up histories for the label tests: few codes, a coarse clock, so that ties and boundaries are common."""

from __future__ import annotations

import datetime
import math
import random

import polars as pl
from hypothesis import strategies as st

from ehrjax.ingest import meds, roles
from ehrjax.ingest.labels.record import Record

ROLES = roles.Roles({name: tuple(patterns) for name, patterns in roles.DEFAULTS.items()})
EPOCH = datetime.datetime(1969, 12, 1, 20)
DIAGNOSES = tuple(f"DIAGNOSIS//ICD10CM//{name}" for name in ("E119", "I10", "N183", "N185"))
LABS = ("LAB//50971//mEq/L", "LAB//50912//mg/dL")
ICU = ("ICU_ADMISSION//MICU", "ICU_DISCHARGE//MICU")
ADMISSIONS = ("HOSPITAL_ADMISSION//EMERGENCY", "HOSPITAL_ADMISSION//ELECTIVE")
HOME, DIED = "HOSPITAL_DISCHARGE//HOME", "HOSPITAL_DISCHARGE//DIED"
NUMBERS = (None, 0.5, 0.9, 1.0, 1.5, 3.0, 5.5, 6.0, 8.0, math.nan, math.inf)
# Hours from one thing to the next: at once, a day, two, a week, 30 days, a year, and a bit beside each.
GAPS = (0, 0, 1, 2, 4, 23, 24, 25, 48, 49, 96, 168, 169, 719, 720, 721, 8760, 8761)
ROWS = {
    "subject_id": pl.Int64,
    "time": pl.Datetime("us"),
    "code": pl.String,
    "numeric_value": pl.Float32,
    "text_value": pl.String,
    "visit_id": pl.Int64,
}


@st.composite
def subjects(draw: st.DrawFn) -> pl.DataFrame:
    """Events of one to three subjects in MEDS order: stays whole, open and overlapping, and much between them."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    return frame([row for subject in range(rng.randint(1, 3)) for row in _life(subject, rng)])


def _life(subject: int, rng: random.Random) -> list[tuple]:
    rows: list[tuple] = []

    def add(hour: float, code: str, visit: int | None = None) -> None:
        value = rng.choice(NUMBERS) if code.startswith("LAB") else None
        rows.append((subject, EPOCH + datetime.timedelta(hours=hour), code, value, None, visit))

    for name in rng.choices(("GENDER//F", "GENDER//M", DIAGNOSES[0]), (5, 5, 1), k=rng.choice((0, 1, 1, 1, 2))):
        rows.append((subject, None, name, None, None, None))
    if rng.random() < 0.8:
        add(-24 * rng.choice((0, 400, 18 * 366, 60 * 366)), "MEDS_BIRTH")
    has_ids = rng.choice((True, False, None))
    hour = 0
    for visit in range(rng.randint(0, 6)):
        hour += rng.choice(GAPS)
        named = visit if has_ids or (has_ids is None and rng.random() < 0.5) else None
        kind, length = rng.random(), rng.choice(GAPS)
        if kind < 0.65:
            for _ in range(rng.choice((1, 1, 1, 2))):
                add(hour, rng.choice(ADMISSIONS), named)
        for _ in range(rng.randint(0, 5)):
            code = rng.choice(rng.choice((DIAGNOSES, LABS, LABS, ICU, ("MEDICATION//X",))))
            add(hour + rng.choice((0, length, rng.randint(0, 48))), code, rng.choice((named, named, None)))
        if kind < 0.6:
            add(hour + length, rng.choice((HOME, HOME, HOME, DIED)), named)
        # The next one may begin before this one is over.
        hour += rng.choice((length, length, length // 2))
    if rng.random() < 0.35:
        add(rng.choice((0, hour // 2, hour, hour, hour + rng.choice(GAPS))), "MEDS_DEATH")
    for _ in range(rng.randint(0, 4)):
        stray = (*DIAGNOSES, *LABS, *ICU, *ADMISSIONS, HOME, DIED, "MEDICATION//X")
        add(rng.randint(0, max(hour, 1) + 100), rng.choice(stray), rng.choice((None, None, 0, 1)))
    rng.shuffle(rows)
    return rows


def frame(rows: list[tuple]) -> pl.DataFrame:
    """MEDS events from (subject, time, code, value, text, visit)."""
    return meds.order_events(pl.DataFrame(rows, schema=ROWS, orient="row"))


def record(events: pl.DataFrame) -> Record:
    return Record(events, ROLES)


def by_subject(events: pl.DataFrame) -> dict[int, list[dict]]:
    """Each subject's events as dicts, in order, for loops in plain Python."""
    people: dict[int, list[dict]] = {}
    for row in events.iter_rows(named=True):
        people.setdefault(row["subject_id"], []).append(row)
    return people


def row(hour: float | None, code: str, value: float | None = None, visit: int | None = None, subject: int = 1) -> tuple:
    """A row for `frame`, so many hours from EPOCH; static where there is no hour."""
    time = None if hour is None else EPOCH + datetime.timedelta(hours=hour)
    return (subject, time, code, value, None, visit)


def stay(subject: int, admitted: float, left: float, *, died: bool = False) -> list[tuple]:
    """The rows of a stay, in hours from EPOCH."""
    rows = [row(admitted, ADMISSIONS[0], subject=subject), row(left, DIED if died else HOME, subject=subject)]
    return rows + ([row(left, "MEDS_DEATH", subject=subject)] if died else [])
