"""Death in the stay, predicted 48 hours after the admission.

python -m ehrjax.prepare labels --config=configs/tasks/in_hospital_mortality_48h.py --input=MEDS --output=LABELS
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.task = "in_hospital_mortality"
    config.name = "in_hospital_mortality_48h"
    config.hours = 48.0
    return config
