"""Death within a year, predicted once a year from the subject's first event, from age 50.

    python -m ehrjax.prepare labels --config=configs/tasks/death_1y.py --input=MEDS --output=LABELS

The same question as the synthetic hospital's death_1y, whose true probability is known; there add
`--config.data_end=` with the end of its data (`synthetic.end_of_data` in metadata/dataset.json).
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.task = "new_diagnosis"
    config.name = "death_1y"
    config.codes = ("MEDS_DEATH(//|$)",)
    config.horizon_days = 365.0
    config.predict = "every"
    config.every_days = 365.0
    config.min_age_years = 50.0
    config.follow_up = "complete"
    return config
