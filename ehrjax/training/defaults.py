"""The sections and values that recipes have in common; a recipe file adds its model and objective and changes some.

ml-collections configs: every value can be given as `--config.KEY=VALUE`.
"""

from __future__ import annotations

from ml_collections import ConfigDict


def get() -> ConfigDict:
    """A config without `model` and `objective`: 10,000 steps of 32 packed rows on the embedded synthetic hospital."""
    config = ConfigDict()
    config.seed = 0
    config.precision = "fp32"
    config.deterministic = False
    config.num_steps = 10_000
    config.num_epochs = 0  # used where num_steps is 0
    config.batch_size = 32
    config.log_every = 50
    config.eval_every = 500
    config.eval_at = ()  # further steps
    config.checkpoint_every = 500

    config.init = ConfigDict(dict(checkpoint="", skip=()))
    config.data = ConfigDict()
    config.data.path = ""
    config.data.context_length = 512
    config.data.max_segments = 16
    config.data.num_workers = 0
    config.data.prefetch = 8
    config.data.eval_batches = 0
    config.data.shuffle = True
    config.data.labels = ""  # a label folder, for supervised objectives
    config.data.labels_per_window = 1
    config.data.whole_visits = False
    config.data.decode = ""
    config.data.notes = ""  # a folder of note vectors, for models that read notes
    config.data.newest_notes = 0
    config.data.note_states = 0

    config.embedded = ConfigDict()
    config.embedded.patients = 5000
    config.embedded.seed = 0
    config.embedded.task = ConfigDict()  # settings of the task that data.labels names, if it is not the hospital's own
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
    config.optimizer.l2 = 0.0
    config.optimizer.l2_rules = ((r"(bias|scale)$", 0.0), ("", 1.0))
    config.optimizer.clip_norm = 1.0
    config.optimizer.accumulate = 1

    config.schedule = ConfigDict(dict(name="warmup_cosine", warmup_steps=500, lr_min_ratio=0.1))
    config.early_stopping = ConfigDict(dict(patience=0, metric="tuning_loss"))
    config.mesh = ConfigDict(dict(data=-1, fsdp=1, tensor=1))
    config.profile = ConfigDict(dict(start=10, steps=0))
    config.tensorboard = True
    config.wandb = ConfigDict(dict(project="", name="", mode="online"))
    config.report = ConfigDict(dict(enabled=True))
    return config


def shrink(config: ConfigDict) -> ConfigDict:
    """The same recipe as a smoke test: 20 steps on 200 synthetic patients, under 30 s on a CPU."""
    config.num_steps = 20
    config.batch_size = 8
    config.log_every = 5
    config.eval_every = 10
    config.checkpoint_every = 10
    config.schedule.warmup_steps = 5
    config.data.context_length = 128
    config.embedded.patients = 200
    config.data.eval_batches = 4
    return config
