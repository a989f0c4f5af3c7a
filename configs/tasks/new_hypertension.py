"""A first diagnosis of hypertension within a year, predicted at every discharge alive.

    python -m ehrjax.prepare labels --config=configs/tasks/new_hypertension.py --input=MEDS --output=LABELS

ICD-10 I10 to I13, I15 and I16, ICD-9 401 to 405, whatever the dataset writes in front of them.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.task = "new_diagnosis"
    config.name = "new_hypertension"
    config.codes = (r"(?:.*//)?ICD10(?:CM)?//I1[012356]", r"(?:.*//)?ICD9(?:CM)?//40[1-5]")
    config.horizon_days = 365.0
    config.follow_up = "exclude"
    return config
