"""BERT (post-LN), pretrained by masked-code modelling: from scratch, or from a converted checkpoint.

    python -m ehrjax.train --config=configs/bert.py --workdir=runs/bert
    python -m ehrjax.train --config=configs/bert.py:smoke --workdir=runs/smoke       # CPU, under 30 s
    python -m ehrjax.train --config=configs/bert.py:base --config.init.checkpoint=CONVERTED --config.data.path=TOKENS

Arguments: small (default), base (BERT-base), smoke. Without `data.path` it trains on the embedded synthetic hospital.
"""

from ml_collections import ConfigDict

from ehrjax.training import defaults

SIZES = {
    "small": dict(num_layers=4, num_heads=8, hidden_dim=256),
    "base": dict(num_layers=12, num_heads=12, hidden_dim=768),
    "smoke": dict(num_layers=1, num_heads=2, hidden_dim=32),
}


def get_config(arg: str = "small") -> ConfigDict:
    arg = arg or "small"
    if arg not in SIZES:
        raise ValueError(f"configs/bert.py has no argument {arg!r}; it has {', '.join(SIZES)}")
    config = defaults.get()
    config.model = ConfigDict(dict(name="bert", **SIZES[arg]))
    config.model.mlp_dim = 4 * config.model.hidden_dim
    config.model.max_positions = 512
    config.model.position_offset = 0
    config.model.num_types = 2
    config.model.types = "alternate"
    config.model.dropout = 0.1
    config.model.attention_dropout = 0.1
    config.model.layer_norm_epsilon = 1e-12
    config.model.gelu = "erf"
    config.model.remat = "none"
    config.objective = ConfigDict(dict(name="masked_codes", mask_rate=0.15, tied=True, layer_norm_epsilon=1e-12))
    # Post-LN needs the smaller rate.
    config.optimizer.learning_rate = 3e-4
    if arg == "smoke":
        defaults.shrink(config)
        config.model.max_positions = 128
    return config
