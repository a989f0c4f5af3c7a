"""Flat tokens: code plus value bin, in order, times in whole days; no visits, no separators.

python -m ehrjax.prepare tokens --config=configs/tokens/flat.py --input=MEDS --output=TOKENS
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.name = "flat"
    config.steps = ("filter_codes", "bin_values", "day_times")
    config.filter_codes = ConfigDict(dict(drop=("MEDS_BIRTH",), keep=()))
    config.bin_values = ConfigDict(dict(num_bins=10, min_values=50, separate=False))
    config.min_count = 5
    config.rare = "unk"
    config.min_events = 1
    return config
