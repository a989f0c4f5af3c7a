"""The stage of chronic kidney disease that the next visit codes (ICD-10-CM N18), from the stage coded so far.

    python -m ehrjax.prepare labels --config=configs/tasks/ckd_codes.py --input=MEDS --output=LABELS

Stages 0 to 5: N18.1, N18.2, N18.3x, N18.4, N18.5, N18.6. The task's own default takes the stage from creatinine.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.task = "disease_stage"
    config.name = "ckd_codes"
    config.stage_codes = tuple(rf"(?:.*//)?ICD10(?:CM)?//N18\.?{stage}" for stage in range(1, 7))
    return config
