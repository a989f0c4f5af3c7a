"""BEHRT tokens: one token an event (numeric values as train deciles), [CLS] first, [SEP] between visits.

    python -m ehrjax.prepare tokens --config=configs/tokens/behrt.py --input=MEDS --output=TOKENS

Ages and times travel beside the tokens, so births are not tokens.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.name = "behrt"
    config.drop = ("MEDS_BIRTH",)
    config.min_count = 5
    config.num_bins = 10
    config.min_values = 50
    config.visit_gap_hours = 24.0
    config.start = True
    config.separate_visits = True
    config.min_events = 1
    return config
