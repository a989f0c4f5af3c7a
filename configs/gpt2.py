"""GPT-2, trained on the next token: from scratch, or from a converted checkpoint.

    python -m ehrjax.train --config=configs/gpt2.py --workdir=runs/gpt2
    python -m ehrjax.train --config=configs/gpt2.py:smoke --workdir=runs/smoke       # CPU, under 30 s
    python -m ehrjax.train --config=configs/gpt2.py:small --config.init.checkpoint=CONVERTED --config.data.path=TOKENS

Arguments: nano, micro, mini (default), small, medium, large, xl (GPT-2's own), smoke.
Without `data.path` it trains on the embedded synthetic hospital.
"""

from ml_collections import ConfigDict

from ehrjax.models.gpt2 import SIZES as NAMED
from ehrjax.training import defaults

SIZES = {**NAMED, "smoke": dict(num_layers=1, num_heads=2, hidden_dim=32)}


def get_config(arg: str = "mini") -> ConfigDict:
    arg = arg or "mini"
    if arg not in SIZES:
        raise ValueError(f"configs/gpt2.py has no argument {arg!r}; it has {', '.join(SIZES)}")
    config = defaults.get()
    config.model = ConfigDict(dict(name="gpt2", **SIZES[arg]))
    config.model.max_positions = 512
    config.model.use_bias = True
    config.model.dropout = 0.1
    config.model.attention_dropout = 0.1
    config.model.gelu = "tanh"
    config.model.remat = "none"
    config.objective = ConfigDict(dict(name="next_token", tied=True, use_bias=False))
    if arg == "smoke":
        defaults.shrink(config)
        config.model.max_positions = 128
    return config
