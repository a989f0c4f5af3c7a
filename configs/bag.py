"""A log-linear model of bags of codes: what is on record, whenever it was, straight to the rate of every code.

    python -m ehrjax.train --config=configs/bag.py --workdir=runs/bag
    python -m ehrjax.train --config=configs/bag.py:smoke --workdir=runs/smoke    # CPU, under 30 s

It learns the next event and the time to it, so futures can be sampled from it (next_event): a regression of the rates
of all codes on all histories. For some thousand codes at most.
`--config.model.groups="('ICD10//([A-Z][0-9])',)"` counts tokens together that have the bracketed part in common;
`--config.optimizer.l2` is the strength of the prior.
Without `data.path` it trains on the embedded synthetic hospital.
"""

from ml_collections import ConfigDict

from ehrjax.training import defaults


def get_config(arg: str = "") -> ConfigDict:
    if arg not in ("", "smoke"):
        raise ValueError(f"configs/bag.py has no argument {arg!r}; it has smoke")
    config = defaults.get()
    config.model = ConfigDict(dict(name="bag", groups=(), age_knots=tuple(float(year) for year in range(0, 101, 10))))
    config.objective = ConfigDict(dict(name="next_event", tied=True, use_bias=True))
    config.objective.observed_until_age = 0.0  # years, where the data end at an age
    config.objective.observed_until = ""  # a date, where they end at a date
    config.num_steps = 2000
    config.batch_size = 16
    config.optimizer.learning_rate = 0.01
    config.optimizer.weight_decay = 0.0
    config.optimizer.l2 = 1e-4
    config.schedule.warmup_steps = 50
    config.schedule.lr_min_ratio = 0.0
    if arg == "smoke":
        defaults.shrink(config)
    return config
