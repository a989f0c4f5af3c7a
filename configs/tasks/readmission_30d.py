"""Readmission within 30 days, predicted at every discharge alive.

    python -m ehrjax.prepare labels --config=configs/tasks/readmission_30d.py --input=MEDS --output=LABELS

`:ehrshot` predicts at the end of the day of discharge, as EHRSHOT does. On the MIMIC-IV demo: 259 labels, 52 positive
(one more discharge falls into another stay; `--config.keep_overlaps=true` asks there too: 260 and 53).
"""

from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    config = ConfigDict()
    config.task = "readmission_30d"
    config.horizon_days = 30.0
    config.end_of_day = variant == "ehrshot"
    config.follow_up = "exclude" if variant == "ehrshot" else "keep"
    return config
