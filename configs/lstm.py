"""An LSTM over tokens, trained on the next token; the token pipeline's baseline.

    python -m ehrjax.train --config=configs/lstm.py --workdir=runs/lstm
    python -m ehrjax.train --config=configs/lstm.py:smoke --workdir=runs/smoke       # CPU, under 30 s

Arguments: base (default), masked (bidirectional, by masked-code modelling), readmission (bidirectional, trained on
labels: --config.data.labels=DIR with --config.data.path=TOKENS), smoke.
Without `data.path` it trains on the embedded synthetic hospital.
"""

from ml_collections import ConfigDict

from ehrjax.training import defaults

KINDS = {
    "base": dict(embedding_dim=128, hidden_dim=512, num_layers=2),
    "readmission": dict(embedding_dim=128, hidden_dim=128, num_layers=1),
    "masked": dict(embedding_dim=128, hidden_dim=256, num_layers=2),
    "smoke": dict(embedding_dim=32, hidden_dim=32, num_layers=1),
}


def get_config(arg: str = "base") -> ConfigDict:
    arg = arg or "base"
    if arg not in KINDS:
        raise ValueError(f"configs/lstm.py has no argument {arg!r}; it has {', '.join(KINDS)}")
    config = defaults.get()
    config.model = ConfigDict(dict(name="lstm", dropout=0.3, **KINDS[arg]))
    config.model.bidirectional = arg in ("masked", "readmission")
    config.model.timescale = 0
    config.model.code_std = 1.0
    if arg == "masked":
        config.objective = ConfigDict(dict(name="masked_codes", mask_rate=0.15, tied=False))
    elif arg == "readmission":
        config.objective = ConfigDict(dict(name="classification", pooling="mean", dropout=0.1))
        config.data.labels = "readmission_30d"  # of the embedded hospital
        config.num_steps = 1000
        config.schedule.warmup_steps = 50
    else:
        config.objective = ConfigDict(dict(name="next_token", tied=False, use_bias=True))
    if arg == "smoke":
        defaults.shrink(config)
    return config
