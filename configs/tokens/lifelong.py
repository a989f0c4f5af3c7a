"""Tokens of lifelong histories: sex in front, one token an event, time tokens between events.

    python -m ehrjax.prepare tokens --config=configs/tokens/lifelong.py --input=MEDS --output=TOKENS

Arguments: intervals (default), ages (no time tokens, for models that read ages and learn gaps: decoder.py:timed).

For sources of ages and diagnoses without visits (Delphi's simulated histories, UK Biobank).
"""

from ml_collections import ConfigDict


def get_config(arg: str = "intervals") -> ConfigDict:
    arg = arg or "intervals"
    if arg not in ("intervals", "ages"):
        raise ValueError(f"configs/tokens/lifelong.py has no argument {arg!r}; it has intervals, ages")
    config = ConfigDict()
    config.name = "lifelong"
    config.steps = ("prompt", "filter_codes") + (("time_tokens",) if arg == "intervals" else ())
    config.prompt = ConfigDict(dict(year=False, age=False, static=("GENDER",)))
    config.filter_codes = ConfigDict(dict(drop=("MEDS_BIRTH",), keep=()))
    if arg == "intervals":
        config.time_tokens = ConfigDict(dict(kind="ethos", between="events"))
    config.min_count = 5
    config.rare = "unk"
    config.min_events = 1
    return config
