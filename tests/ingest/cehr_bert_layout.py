"""Made-up persons in the layout of CEHR-BERT's patient_sequence, and the events that they tell."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

INPATIENT, OUTPATIENT = "9201", "9202"
LISTS = (
    "concept_ids visit_segments orders dates ages visit_concept_orders concept_value_masks number_as_values "
    "concept_as_values is_numeric_types mlm_skip_values priorities visit_concept_ids visit_rank_orders concept_orders "
    "record_ranks units epoch_times"
).split()
TYPES = {
    **dict.fromkeys(LISTS, pl.List(pl.Int32)),
    **dict.fromkeys(("concept_ids", "concept_as_values", "visit_concept_ids", "units"), pl.List(pl.String)),
    **dict.fromkeys(("number_as_values", "epoch_times"), pl.List(pl.Float64)),
    "cohort_member_id": pl.Int64,
    "person_id": pl.Int64,
    "num_of_visits": pl.Int64,
    "num_of_concepts": pl.Int64,
    "label": pl.Int64,
    "index_date": pl.Float64,
}


@dataclass
class Person:
    """One row under way: its lists, and what they tell as (time, code, number, text)."""

    row: dict[str, list] = field(default_factory=lambda: {name: [] for name in LISTS})
    told: Counter = field(default_factory=Counter)

    def add(
        self, concept: str, time: datetime, *, visit: int = 0, kind: str = "0", age: int = -1, **more: object
    ) -> None:
        seconds = (time - datetime(1970, 1, 1)).total_seconds()
        values = {
            "concept_ids": concept,
            "visit_segments": 0 if not visit else 1 + visit % 2,
            "dates": int(seconds // (7 * 86400)),
            "ages": age,
            "concept_value_masks": 0,
            "number_as_values": 0.0,
            "concept_as_values": "0",
            "is_numeric_types": 0,
            "visit_concept_ids": kind,
            "visit_rank_orders": visit,
            "units": "N/A",
            "epoch_times": seconds,
            **more,
        }
        for name in LISTS:
            self.row[name].append(values.get(name, len(self.row["concept_ids"])))

    def tell(self, time: datetime | None, code: str, number: float | None = None, text: str | None = None) -> None:
        self.told[time, code, None if number is None else float(np.float32(number)), text] += 1


def end_of_day(time: datetime) -> datetime:
    return datetime(time.year, time.month, time.day) + timedelta(days=1) - timedelta(microseconds=1)


def person(rng: np.random.Generator, *, prompt: bool, source_codes: bool = False) -> Person:
    """One person with some visits, in the order [VS] type events (discharge) [VE] ATT."""
    made = Person()
    birth_year = int(rng.integers(1920, 1965))
    at = datetime(int(rng.integers(1966, 2010)), int(rng.integers(1, 13)), 3, 9, 30)
    if prompt:
        for concept in (f"year:{at.year}", f"age:{at.year - birth_year}", "8532", "8527"):
            made.add(concept, at)
        made.tell(None, "GENDER//8532")
        made.tell(None, "RACE//8527")
    made.tell(datetime(birth_year, 1, 1), "MEDS_BIRTH")
    visits = int(rng.integers(1, 5))
    for visit in range(1, visits + 1):
        inpatient = bool(rng.random() < 0.5)
        kind = INPATIENT if inpatient else OUTPATIENT
        # Outpatient visits are known by their day only.
        at = datetime(at.year, at.month, at.day, 9, 30) if inpatient else datetime(at.year, at.month, at.day)
        same = {"visit": visit, "kind": kind}
        known = at if inpatient else end_of_day(at)
        made.add("[VS]", at, **same, age=at.year - birth_year)
        made.add(kind, at, **same, age=at.year - birth_year)
        made.tell(known, f"VISIT//{kind}")
        for _ in range(int(rng.integers(0, 6))):
            if inpatient:
                at += timedelta(minutes=int(rng.integers(1, 300)), microseconds=500_000)
            known, age = (at if inpatient else end_of_day(at)), at.year - birth_year
            draw, number = rng.random(), round(float(rng.normal(50, 20)), 3)
            concept, code = str(rng.integers(200_000, 200_009)), "OMOP_CONCEPT//{}"
            if source_codes:
                concept, code = f"ICD10CM/D{rng.integers(10, 14)}", "{}"
            shown = code.format(concept.replace("/", "//", 1) if source_codes else concept)
            if draw < 0.3:
                unit = str(rng.choice(["mg/dL", "N/A"]))
                made.add(
                    *(concept, at),
                    **same,
                    age=age,
                    concept_value_masks=1,
                    number_as_values=number,
                    is_numeric_types=1,
                    units=unit,
                )
                made.tell(known, f"{shown}//{unit if unit != 'N/A' else 'UNK'}", number)
            elif draw < 0.4 and not source_codes:
                made.add(concept, at, **same, age=age, concept_value_masks=1, concept_as_values="45884084")
                made.tell(known, shown, None, "45884084")
            else:
                made.add(concept, at, **same, age=age)
                made.tell(known, shown)
        age = at.year - birth_year
        if inpatient:
            made.add("8536", at, **same, age=age)
            at += timedelta(hours=2)
            made.tell(at, "DISCHARGE//8536")
        made.add("[VE]", at, **same, age=age)
        gap = int(rng.integers(2, 900))
        at += timedelta(days=gap)
        if visit < visits:
            made.add(f"W{gap // 7}" if gap < 28 else f"M{gap // 30}" if gap < 360 else "LT", at)
    if rng.random() < 0.2:
        made.add("[DEATH]", at, age=at.year - birth_year, visit=visits + 1, kind="0")
        made.tell(at if (at.hour, at.minute) != (0, 0) else end_of_day(at), "MEDS_DEATH")
    return made


def generate(
    seed: int, *, persons: int = 12, prompt: bool = True, meds_path: bool = False
) -> tuple[pl.DataFrame, dict[int, Counter]]:
    """The table, and person -> events.

    Args:
      seed: of the generator.
      persons: how many.
      prompt: whether sequences begin with year, age, gender and race.
      meds_path: source codes and `concept_values` as from MEDS, instead of OMOP concepts and `number_as_values`.
    """
    rng = np.random.default_rng(seed)
    rows, told = [], {}
    for number in range(persons):
        made, subject = person(rng, prompt=prompt, source_codes=meds_path), 10 + 3 * number
        told[subject] = made.told
        last = made.row["epoch_times"][-1]
        count = len(made.row["concept_ids"])
        rows.append(
            {
                "cohort_member_id": subject,
                "person_id": subject,
                **made.row,
                "num_of_visits": len(set(made.row["visit_rank_orders"])),
                "num_of_concepts": count,
                "label": int(rng.integers(2)),
                "index_date": last + 60.0,
            }
        )
    frame = pl.DataFrame(rows, schema=TYPES)
    if meds_path:
        values = [[v if m else -1.0 for v, m in zip(r["number_as_values"], r["concept_value_masks"])] for r in rows]
        frame = frame.with_columns(pl.Series("concept_values", values, pl.List(pl.Float64)))
        frame = frame.drop("number_as_values", "is_numeric_types", "concept_as_values", "visit_rank_orders")
    return frame, told


def write(frame: pl.DataFrame, folder: Path, *, parts: int = 2) -> Path:
    """The folder patient_sequence with some files."""
    folder = folder / "patient_sequence"
    folder.mkdir(parents=True)
    size = -(-len(frame) // parts) or 1
    for number in range(parts):
        frame[number * size : (number + 1) * size].write_parquet(folder / f"part-{number:05d}.parquet")
    return folder


def posix(time: datetime) -> float:
    """Seconds since 1970 of a time without a zone."""
    return time.replace(tzinfo=UTC).timestamp()
