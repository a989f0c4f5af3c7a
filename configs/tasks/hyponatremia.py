"""Sodium below 135 mmol/L, asked a minute before each result (EHRSHOT's lab_hyponatremia, yes or no).

python -m ehrjax.prepare labels --config=configs/tasks/hyponatremia.py --input=MEDS --output=LABELS
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.task = "abnormal_lab"
    config.name = "hyponatremia"
    config.labs = (r"LOINC//2951-2//mmol/L$", r"LAB//50983//mEq/L$")
    config.low = 135.0
    config.high = placeholder(float)
    return config
