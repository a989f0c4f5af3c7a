"""Tokens of lifelong histories: sex in front, one token an event, time tokens between events.

    python -m ehrjax.prepare tokens --config=configs/tokens/lifelong.py --input=MEDS --output=TOKENS

For sources of ages and diagnoses without visits (Delphi's simulated histories, UK Biobank).
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.name = "lifelong"
    config.steps = ("prompt", "filter_codes", "time_tokens")
    config.prompt = ConfigDict(dict(year=False, age=False, static=("GENDER",)))
    config.filter_codes = ConfigDict(dict(drop=("MEDS_BIRTH",), keep=()))
    config.time_tokens = ConfigDict(dict(kind="ethos", between="events"))
    config.min_count = 5
    config.rare = "unk"
    config.min_events = 1
    return config
