"""Which three-character ICD-10 categories the next visit brings (multi-label).

python -m ehrjax.prepare labels --config=configs/tasks/next_visit_diagnoses.py --input=MEDS --output=LABELS
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.task = "next_visit_codes"
    config.name = "next_visit_diagnoses"
    config.role = "diagnosis"
    config.extract = r"ICD10(?:CM)?//([A-Z]\d[0-9A-Z])"
    config.num_codes = 500
    return config
