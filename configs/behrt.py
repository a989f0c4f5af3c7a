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
    config = ConfigDict()
    config.seed = 0
    config.precision = "fp32"
    config.deterministic = False
    config.num_steps = 10_000
    config.num_epochs = 0  # used where num_steps is 0
    config.batch_size = 32
    config.log_every = 50
    config.eval_every = 500
    config.checkpoint_every = 500

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

    config.init = ConfigDict(dict(checkpoint="", skip=()))
    config.objective = ConfigDict(dict(name="masked_codes", mask_rate=0.15, tied=False))

    config.data = ConfigDict()
    config.data.path = ""
    config.data.context_length = 512
    config.data.max_segments = 16
    config.data.num_workers = 0
    config.data.prefetch = 8
    config.data.eval_batches = 0

    config.embedded = ConfigDict()
    config.embedded.patients = 5000
    config.embedded.seed = 0
    config.embedded.recipe = ConfigDict(dict(name="behrt", min_count=5))
    config.embedded.recipe.steps = ("filter_codes", "bin_values", "number_visits", "separate_visits", "start")
    config.embedded.recipe.filter_codes = ConfigDict(dict(drop=("MEDS_BIRTH",), keep=()))
    config.embedded.recipe.bin_values = ConfigDict(dict(num_bins=10, min_values=50, separate=False))
    config.embedded.recipe.number_visits = ConfigDict(dict(gap_hours=24.0))

    config.optimizer = ConfigDict()
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.b1 = 0.9
    config.optimizer.b2 = 0.98
    config.optimizer.eps = 1e-6
    config.optimizer.weight_decay = 0.01
    config.optimizer.decay_rules = ((r"(bias|scale|embedding)$", 0.0), ("", 1.0))
    config.optimizer.rate_rules = (("", 1.0),)
    config.optimizer.clip_norm = 1.0
    config.optimizer.accumulate = 1

    config.schedule = ConfigDict(dict(name="warmup_cosine", warmup_steps=500, lr_min_ratio=0.1))
    config.early_stopping = ConfigDict(dict(patience=0))
    config.mesh = ConfigDict(dict(data=-1, fsdp=1, tensor=1))
    config.profile = ConfigDict(dict(start=10, steps=0))
    config.tensorboard = True
    config.wandb = ConfigDict(dict(project="", name="", mode="online"))
    config.report = ConfigDict(dict(enabled=True))

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
        config.num_steps = 20
        config.batch_size = 8
        config.log_every = 5
        config.eval_every = 10
        config.checkpoint_every = 10
        config.schedule.warmup_steps = 5
        config.data.context_length = 128
        config.model.max_positions = 128
        config.embedded.patients = 200
        config.data.eval_batches = 4
    return config
