"""ETHOS tokens: values as decile tokens, 19 interval tokens, ICD-10-CM codes split by level, static context in front.

    python -m ehrjax.prepare tokens --config=configs/tokens/ethos.py --input=MEDS --output=TOKENS

After Renc et al. 2024 and 2025 (ethos-ares). ICD-10-CM codes are those of the readers mimic-iv (DIAGNOSIS//ICD10CM)
and synthetic (ICD10CM). Add `map_codes` for ICD-9 (a GEM table) or for drugs to ATC, and `split_codes@atc` for these.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.name = "ethos"
    config.steps = (
        "prompt",
        "number_visits",
        "bin_values",
        "split_codes@mimic",
        "split_codes@icd",
        "time_tokens",
    )
    config.prompt = ConfigDict(dict(year=False, age=True, static=("GENDER", "RACE", "MARITAL_STATUS")))
    config.number_visits = ConfigDict(dict(gap_hours=24.0))
    config.bin_values = ConfigDict(dict(num_bins=10, min_values=50, separate=True))
    config["split_codes@mimic"] = ConfigDict(dict(family="DIAGNOSIS//ICD10CM", lengths=(3, 3)))
    config["split_codes@icd"] = ConfigDict(dict(family="ICD10CM", lengths=(3, 3)))
    config.time_tokens = ConfigDict(dict(kind="ethos", between="events"))
    config.min_count = 5
    config.rare = "unk"
    config.min_events = 1
    return config
