"""Tokens to generate with: static context in front, a value in its code's token, time tokens between visits.

    python -m ehrjax.prepare tokens --config=configs/tokens/generative.py --input=MEDS --output=TOKENS

Shorter than ETHOS's grammar, so that sampled futures reach further with fewer tokens: one token an event, and intervals
(ETHOS's, Renc et al. 2024) only from one visit to the next.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.name = "generative"
    config.steps = ("prompt", "filter_codes", "number_visits", "bin_values", "time_tokens")
    config.filter_codes = ConfigDict(dict(drop=("MEDS_BIRTH",), keep=()))
    config.prompt = ConfigDict(dict(year=False, age=True, static=("GENDER", "RACE")))
    config.number_visits = ConfigDict(dict(gap_hours=24.0))
    config.bin_values = ConfigDict(dict(num_bins=10, min_values=50, separate=False))
    config.time_tokens = ConfigDict(dict(kind="ethos", between="visits"))
    config.min_count = 5
    config.rare = "unk"
    config.min_events = 1
    return config
