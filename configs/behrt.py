"""BEHRT, pretrained by masked-code modelling.

    python -m ehrjax.train --config=configs/behrt.py --workdir=runs/behrt
    python -m ehrjax.train --config=configs/behrt.py:smoke --workdir=runs/smoke       # CPU, under 30 s
    python -m ehrjax.train --config=configs/behrt.py:large --config.data.path=TOKENS  # your own token dataset

Arguments: small, medium (default), large (the named sizes), demo (what `make demo` runs), smoke.
Without `data.path` it trains on the embedded synthetic hospital.

Expected of `:demo`: three to five minutes on two cores; 23.7 % of the hidden codes of the tuning split named first
(most frequent code: 8.7 %), tuning loss 3.73.
"""

from ml_collections import ConfigDict

from ehrjax.training import defaults

SIZES = {
    "small": dict(num_layers=2, num_heads=4, hidden_dim=128, embedding_dim=64),
    "medium": dict(num_layers=4, num_heads=8, hidden_dim=256, embedding_dim=128),
    "large": dict(num_layers=6, num_heads=8, hidden_dim=512, embedding_dim=256),
}
SIZES["demo"] = dict(num_layers=2, num_heads=4, hidden_dim=128, embedding_dim=128)
SIZES["smoke"] = dict(num_layers=1, num_heads=2, hidden_dim=32, embedding_dim=32)


def get_config(arg: str = "medium") -> ConfigDict:
    arg = arg or "medium"
    if arg not in SIZES:
        raise ValueError(f"configs/behrt.py has no argument {arg!r}; it has {', '.join(SIZES)}")
    config = defaults.get()
    config.model = ConfigDict(dict(name="behrt", **SIZES[arg]))
    config.model.max_positions = 512
    config.model.max_visits = 512
    config.model.positions = "learned"
    config.model.visit_segments = False
    config.model.dropout = 0.1
    config.model.attention_dropout = 0.1
    config.model.remat = "none"
    config.model.scan = True
    config.model.attention_implementation = "auto"
    config.objective = ConfigDict(dict(name="masked_codes", mask_rate=0.15, tied=False))

    if arg == "demo":
        # A few epochs in minutes on a laptop: short windows, the output tied to the code table (what is learned of a
        # code in one place serves in the other), and no dropout since little is overfitted yet.
        config.num_steps = 1800
        config.batch_size = 12
        config.eval_every = 300
        config.checkpoint_every = 300
        config.log_every = 20
        config.data.context_length = 256
        config.model.max_positions = 256
        config.model.dropout = 0.0
        config.model.attention_dropout = 0.0
        config.objective.tied = True
        config.optimizer.learning_rate = 1.5e-3
        config.schedule.warmup_steps = 100
    if arg == "smoke":
        defaults.shrink(config)
        config.model.max_positions = 128
    return config
