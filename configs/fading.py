"""Fading memories: sums of the visits' vectors that fade at several speeds, and a network on them. Fast, for few cores.

    python -m ehrjax.train --config=configs/fading.py --workdir=runs/fading
    python -m ehrjax.train --config=configs/fading.py:smoke --workdir=runs/smoke    # CPU, under 30 s
    python -m ehrjax.train --config=configs/time_to_events.py:fading --workdir=runs/times

Trained on the codes of the next visit; configs/time_to_events.py trains it on how long until each code comes, and
configs/finetune.py either on labels.
Without `data.path` it trains on the embedded synthetic hospital.
"""

from ml_collections import ConfigDict

from ehrjax.models.fading import Config
from ehrjax.training import defaults


def get_config(arg: str = "") -> ConfigDict:
    if arg not in ("", "smoke"):
        raise ValueError(f"configs/fading.py has no argument {arg!r}; it has smoke")
    config = defaults.get()
    own = Config(vocab_size=1)
    config.model = ConfigDict(dict(name="fading", embedding_dim=64, hidden_dim=128, num_layers=1, dropout=0.1))
    config.model.token_dropout = 0.1
    config.model.half_lives_days = own.half_lives_days
    config.model.own_vectors = False
    config.model.num_means = own.num_means
    config.model.age_knots = own.age_knots
    config.model.gelu = "tanh"
    config.objective = ConfigDict(dict(name="next_visit", tied=False, use_bias=True))
    if arg == "smoke":
        defaults.shrink(config)
        config.model.embedding_dim, config.model.hidden_dim, config.model.num_layers = 32, 32, 1
    return config
