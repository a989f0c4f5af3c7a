"""CEHR-BERT tokens with values beside them: as cehr_bert, and each measurement's value as a z-score of its code.

    python -m ehrjax.prepare tokens --config=configs/tokens/cehr_bert_values.py --input=MEDS --output=TOKENS

What `configs/cehr_bert.py` is trained on. Needs real dates.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.name = "cehr_bert_values"
    config.steps = ("standardise_values", "prompt", "number_visits", "time_tokens", "visit_tokens", "start")
    config.standardise_values = ConfigDict(dict(min_values=50, limit=10.0))
    config.prompt = ConfigDict(dict(year=True, age=True, static=("GENDER", "RACE")))
    config.number_visits = ConfigDict(dict(gap_hours=24.0))
    config.time_tokens = ConfigDict(dict(kind="cehr_bert", between="visits"))
    # The codes with which readers open a visit; its type is their code.
    config.visit_tokens = ConfigDict(dict(types=("HOSPITAL_ADMISSION//", "ENCOUNTER//", "VISIT//", "ED_REGISTRATION")))
    config.min_count = 5
    config.rare = "unk"
    config.min_events = 1
    return config
