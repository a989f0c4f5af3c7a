"""Any causal model, trained on how long until each code comes (MOTOR's objective), instead of on the next token.

    python -m ehrjax.train --config=configs/time_to_events.py --workdir=runs/times
    python -m ehrjax.train --config=configs/time_to_events.py:visit_lstm --workdir=runs/times
    python -m ehrjax.train --config=configs/time_to_events.py:smoke --workdir=runs/smoke    # CPU, under 30 s

Arguments: decoder (default; rotary positions over the age in days), gpt2, lstm, fading, visit_lstm, each as its own
config has it; smoke, or smoke behind one of them, such as gpt2_smoke.
Tell it until when everybody was observed, where the data end for all at once: `--config.objective.observed_until=DATE`
or `observed_until_age=YEARS`. `--config.objective.codes="('ENCOUNTER//', 'ICD10CM//')"` asks for the tokens that begin
so (regular expressions); without it, for all. It is meant to be fine-tuned (configs/finetune.py) or probed; it does not
generate.
Without `data.path` it trains on the embedded synthetic hospital.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

# The argument of each model's own config: at full size, and for smoke.
MODELS = {
    "decoder": ("ages", "smoke"),
    "gpt2": ("", "smoke"),
    "lstm": ("", "smoke"),
    "fading": ("", "smoke"),
    "visit_lstm": ("next_visit", "next_visit_smoke"),
}
EDGES_DAYS = (7.0, 30.0, 90.0, 180.0, 365.0, 730.0, 1825.0)


def get_config(arg: str = "decoder") -> ConfigDict:
    arg = arg or "decoder"
    smoke = arg == "smoke" or arg.endswith("_smoke")
    name = arg.removesuffix("smoke").removesuffix("_") or "decoder"
    if name not in MODELS:
        raise ValueError(f"configs/time_to_events.py has no argument {arg!r}; it has {', '.join(MODELS)}, smoke")
    own = runpy.run_path(str(Path(__file__).with_name(f"{name}.py")))
    config = own["get_config"](MODELS[name][smoke])
    config.objective = ConfigDict(dict(name="time_to_events", edges_days=EDGES_DAYS, codes=(), rank=64, visits=64))
    config.objective.groups = ""  # what tokens share in front that are asked for as one
    config.objective.firsts = ()  # tokens asked for only until they have come
    config.objective.observed_until_age = 0.0  # years, where the data end at an age
    config.objective.observed_until = ""  # a date, where they end at a date
    return config
