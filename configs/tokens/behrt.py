"""BEHRT tokens: one token an event (numeric values as train deciles), [CLS] first, [SEP] between visits.

    python -m ehrjax.prepare tokens --config=configs/tokens/behrt.py --input=MEDS --output=TOKENS

Ages and times travel beside the tokens, so births are not tokens.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.name = "behrt"
    config.steps = ("filter_codes", "bin_values", "number_visits", "separate_visits", "start")
    config.filter_codes = ConfigDict(dict(drop=("MEDS_BIRTH",), keep=()))
    config.bin_values = ConfigDict(dict(num_bins=10, min_values=50, separate=False))
    config.number_visits = ConfigDict(dict(gap_hours=24.0))
    config.min_count = 5
    config.rare = "unk"
    config.min_events = 1
    return config
