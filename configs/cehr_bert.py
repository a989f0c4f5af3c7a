"""CEHR-BERT, pretrained by masked codes and the values of hidden measurements.

    python -m ehrjax.train --config=configs/cehr_bert.py --workdir=runs/cehr_bert
    python -m ehrjax.train --config=configs/cehr_bert.py:smoke --workdir=runs/smoke  # CPU, under 30 s
    python -m ehrjax.train --config=configs/cehr_bert.py --config.data.path=TOKENS   # of tokens/cehr_bert.py:values

Arguments: small (default), base (the published size), smoke.
Without `data.path` it trains on the embedded synthetic hospital, in the tokens of configs/tokens/cehr_bert.py:values.
"""

from ml_collections import ConfigDict

from ehrjax.training import defaults

SIZES = {
    "small": dict(num_layers=4, num_heads=8, hidden_dim=128, mlp_dim=512),
    "base": dict(num_layers=12, num_heads=8, hidden_dim=128, mlp_dim=2048),
    "smoke": dict(num_layers=1, num_heads=2, hidden_dim=32, mlp_dim=64),
}


def get_config(arg: str = "small") -> ConfigDict:
    arg = arg or "small"
    if arg not in SIZES:
        raise ValueError(f"configs/cehr_bert.py has no argument {arg!r}; it has {', '.join(SIZES)}")
    config = defaults.get()
    config.model = ConfigDict(dict(name="cehr_bert", **SIZES[arg]))
    config.model.time_dim = 16
    config.model.max_positions = 512
    config.model.dropout = 0.1
    config.model.attention_dropout = 0.1
    config.model.remat = "none"
    config.objective = ConfigDict(dict(name="masked_values", mask_rate=0.15, tied=True, layer_norm_epsilon=1e-12))
    config.objective.value_weight = 1.0
    # Post-LN needs the smaller rate.
    config.optimizer.learning_rate = 3e-4
    recipe = ConfigDict(dict(name="cehr_bert_values", min_count=5))
    recipe.steps = ("standardise_values", "prompt", "number_visits", "time_tokens", "visit_tokens", "start")
    recipe.standardise_values = ConfigDict(dict(min_values=50, limit=10.0))
    recipe.prompt = ConfigDict(dict(year=True, age=True, static=("GENDER", "RACE")))
    recipe.number_visits = ConfigDict(dict(gap_hours=24.0))
    recipe.time_tokens = ConfigDict(dict(kind="cehr_bert", between="visits"))
    recipe.visit_tokens = ConfigDict(dict(types=("ENCOUNTER//",)))
    config.embedded.recipe = recipe
    if arg == "smoke":
        defaults.shrink(config)
    return config
