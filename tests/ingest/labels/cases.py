"""The tasks with the settings that they are tested with."""

from __future__ import annotations

import datetime

import polars as pl

from ehrjax.ingest.labels import making
from ehrjax.ingest.labels.settings import Chosen
from tests.ingest.labels.histories import EPOCH, record

END = (EPOCH + datetime.timedelta(days=380)).isoformat()
CKD = tuple(rf"DIAGNOSIS//ICD10CM//N18{stage}" for stage in range(1, 6))
CASES = [
    ("readmission_30d", {}),
    ("readmission_30d", {"end_of_day": True, "follow_up": "exclude", "planned": ("HOSPITAL_ADMISSION//ELECTIVE",)}),
    ("readmission_30d", {"transfer_hours": 24.0, "keep_overlaps": True, "horizon_days": 1.0, "follow_up": "complete"}),
    ("readmission_30d", {"follow_up": "complete", "data_end": END}),
    ("in_hospital_mortality", {}),
    ("in_hospital_mortality", {"hours": 48.0}),
    ("in_hospital_mortality", {"hours": 0.0}),
    ("long_length_of_stay", {}),
    ("long_length_of_stay", {"end_of_day": True, "days": 1.0}),
    ("length_of_stay", {}),
    ("length_of_stay", {"remaining": True, "hours": 0.0}),
    ("icu_transfer", {}),
    ("icu_transfer", {"end_of_day": True}),
    ("new_diagnosis", {"codes": ("DIAGNOSIS//ICD10CM//E11",)}),
    ("new_diagnosis", {"codes": ("MEDS_DEATH",), "predict": "every", "every_days": 30.0, "follow_up": "exclude"}),
    (
        "new_diagnosis",
        {
            "codes": ("DIAGNOSIS//",),
            "predict": "every",
            "min_age_years": 18.0,
            "min_history_days": 1.0,
            "follow_up": "complete",
            "data_end": END,
            "horizon_days": 30.0,
            "every_days": 24.0,
        },
    ),
    ("time_to_event", {}),
    ("time_to_event", {"codes": ("DIAGNOSIS//ICD10CM//I10",), "horizon_days": 30.0, "data_end": END}),
    ("time_to_event", {"codes": ("DIAGNOSIS//ICD10CM//I10",), "predict": "every", "every_days": 29.0}),
    ("abnormal_lab", {}),
    ("abnormal_lab", {"low": 1.0, "high": None, "lead_minutes": 90.0}),
    ("abnormal_lab", {"at": "admission", "low": 1.0, "hours": 2.0}),
    ("lab_value", {}),
    ("lab_value", {"at": "admission", "hours": 1.0, "horizon_hours": 720.0}),
    ("next_visit_codes", {"num_codes": 2}),
    ("next_visit_codes", {"extract": r"ICD10CM//([A-Z]\d\d)", "horizon_days": 30.0, "gap_hours": 2.0}),
    ("next_visit_codes", {"codes": ("LAB//", "MEDICATION//")}),
    ("disease_stage", {}),
    ("disease_stage", {"summary": "lowest", "transform": "", "thresholds": (0.9, 1.5, 5.0), "lower_is_worse": False}),
    ("disease_stage", {"summary": "mean", "horizon_days": 30.0, "gap_hours": 1.0}),
    ("disease_stage", {"summary": "highest", "transform": ""}),
    ("disease_stage", {"stage_codes": CKD}),
]
NAMES = [f"{task}-{number}" for number, (task, _) in enumerate(CASES)]


def fast(events: pl.DataFrame, chosen: Chosen) -> pl.DataFrame:
    """The candidates; what is fitted is fitted on these events."""
    made, fitted = record(events), None
    if hasattr(chosen.module, "fit"):
        counts = dict(chosen.module.count(made, chosen.settings).iter_rows())
        fitted = chosen.module.fit(counts, chosen.settings)
    return making.candidates_of(made, chosen, fitted)
