"""CEHR-BERT tokens: a demographic prompt, [VS] and [VE] around visits, time tokens between them.

    python -m ehrjax.prepare tokens --config=configs/tokens/cehr_bert.py --input=MEDS --output=TOKENS
    python -m ehrjax.prepare tokens --config=configs/tokens/cehr_bert.py:values --input=MEDS --output=TOKENS

Pang et al. 2021. `time_tokens.kind` is cehr_bert (W0..W3, M0..M11, LT), day or mix; add `bin_values` to `steps` for
values as part of the token. Each token's value travels beside it in any case: as it is, or with `:values` as a z-score
of its code, which is what `configs/cehr_bert.py` is trained on. Needs real dates.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    if arg not in ("", "values"):
        raise ValueError(f"configs/tokens/cehr_bert.py has no argument {arg!r}; it has values")
    config = ConfigDict()
    config.name = "cehr_bert"
    config.steps = ("prompt", "number_visits", "time_tokens", "visit_tokens", "start")
    if arg == "values":
        config.name = "cehr_bert_values"
        config.steps = ("standardise_values", *config.steps)
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
