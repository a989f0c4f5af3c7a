"""A causal transformer decoder, trained on the next token: the token pipeline's, or a Llama.

    python -m ehrjax.train --config=configs/decoder.py --workdir=runs/decoder
    python -m ehrjax.train --config=configs/decoder.py:llama --workdir=runs/llama
    python -m ehrjax.train --config=configs/decoder.py:smoke --workdir=runs/smoke    # CPU, under 30 s

Arguments: base (default; sinusoidal positions, LayerNorm, untied output with a bias), llama (rotary positions, RMSNorm,
gated MLP, tied output), ages (as base, with rotary positions over the age in days), timed (sinusoids over the age, and
the gap before each token is learned too: next_event), smoke.
Without `data.path` it trains on the embedded synthetic hospital.
"""

from ml_collections import ConfigDict

from ehrjax.training import defaults

KINDS = {
    "base": dict(num_layers=4, num_heads=4, hidden_dim=256, positions="sinusoidal"),
    "llama": dict(num_layers=4, num_heads=4, hidden_dim=256, positions="rotary"),
    "ages": dict(num_layers=4, num_heads=4, hidden_dim=256, positions="rotary", over="ages"),
    # Faster waves than one a year would tell events apart by their days, which means nothing and is learnt by heart.
    "timed": dict(num_layers=4, num_heads=4, hidden_dim=256, positions="sinusoidal", over="ages", unit_days=365.25),
    "smoke": dict(num_layers=1, num_heads=2, hidden_dim=32, positions="rotary"),
}


def get_config(arg: str = "base") -> ConfigDict:
    arg = arg or "base"
    if arg not in KINDS:
        raise ValueError(f"configs/decoder.py has no argument {arg!r}; it has {', '.join(KINDS)}")
    config = defaults.get()
    llama = arg == "llama"
    config.model = ConfigDict(dict(name="decoder", over="places", unit_days=1.0, bag=False))
    config.model.update(KINDS[arg])
    config.model.max_positions = 512
    config.model.kv_heads = config.model.num_heads
    config.model.mlp_dim = (8 if llama else 12) * config.model.hidden_dim // 3
    config.model.rotary_base = 10_000.0
    config.model.norm = "rms" if llama else "layer"
    config.model.final_norm = llama
    config.model.gated = llama
    config.model.use_bias = not llama
    config.model.dropout = 0.1
    config.model.attention_dropout = 0.1
    config.model.layer_norm_epsilon = 1e-6 if llama else 1e-5
    config.model.gelu = "silu" if llama else "erf"
    config.model.init = "normal" if llama else "xavier"
    config.model.remat = "none"
    config.objective = ConfigDict(dict(name="next_token", tied=llama, use_bias=not llama))
    if arg == "timed":
        config.objective.name = "next_event"
        config.objective.observed_until_age = 0.0  # years, where the data end at an age
        config.objective.observed_until = ""  # a date, where they end at a date
    if arg == "smoke":
        defaults.shrink(config)
        config.model.max_positions = 128
    return config
