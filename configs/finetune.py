"""Fine-tuning: a run of any model goes on with a new head, trained on labels.

    python -m ehrjax.train --config=configs/finetune.py --config.init.checkpoint=RUN --config.data.labels=LABELS \\
        --workdir=runs/finetuned
    ... --config=configs/finetune.py:regression      numbers
    ... --config=configs/finetune.py:hazard          time to event
    ... --config.data.labels=LABELS_A,LABELS_B       several yes-or-no tasks, learnt together
    ... --config.objective.balanced=True             rare outcomes
    ... --config.early_stopping.metric=tuning_auroc  stop by another metric of the tuning split than the loss

Arguments: classification (default: yes or no, classes, codes, several tasks: the labels decide), regression, hazard;
`smoke` behind one of them, or alone, is 20 steps.
The model, its context and its tokens are the run's; every setting of the model that says how it is trained (dropout,
remat, ...) can be changed, those that say what its parameters mean cannot. `--config.data.path=TOKENS` trains on
another token dataset in the same vocabulary. `--config.optimizer.rate_rules="(('model/embeddings/', 0.0), ('', 1.0))"`
freezes what it names.
"""

import json
from pathlib import Path

from ml_collections import ConfigDict

from ehrjax.core import plugins
from ehrjax.training import defaults
from ehrjax.training.run import sees_future

# The checkpoint is handed over in the argument: CHECKPOINT is what stands between the two.
STARTS_FROM_RUN = True
CHECKPOINT = "@"

OBJECTIVES = {
    "classification": dict(name="classification", dropout=0.1, hidden=False, balanced=False, positive_weight=1.0),
    "regression": dict(name="regression", dropout=0.1, hidden=False, loss="squared", non_negative=False),
    "hazard": dict(name="hazard", dropout=0.1, hidden=False, edges_days=(30.0, 90.0, 180.0, 365.0, 730.0, 1825.0)),
}


def get_config(arg: str = "") -> ConfigDict:
    arg, _, checkpoint = (arg or "").partition(CHECKPOINT)
    smoke = arg == "smoke" or arg.endswith("_smoke")
    arg = arg.removesuffix("smoke").removesuffix("_") or "classification"
    if arg not in OBJECTIVES:
        raise ValueError(f"configs/finetune.py has no argument {arg!r}; it has {', '.join(OBJECTIVES)}, smoke")
    if not checkpoint:
        raise ValueError("fine-tuning starts from a run: add --config.init.checkpoint=RUN")
    path = Path(checkpoint) / "config.json"
    if not path.is_file():
        raise ValueError(f"{checkpoint} is no run (it has no config.json)")
    run = json.loads(path.read_text(encoding="utf-8"))["config"]
    config = defaults.get()
    config.model = ConfigDict(run["model"])
    for name, value in run["data"].items():
        if name not in ("labels", "labels_per_window", "whole_visits", "decode", "shuffle", "eval_batches"):
            config.data[name] = tuple(value) if isinstance(value, list) else value
    settings = dict(run["model"])
    module = plugins.find("ehrjax.models", settings.pop("name"), "Model", key="model.name")
    sees = sees_future(module, module.config_from({**settings, module.vocab_size_key: 8}))
    config.objective = ConfigDict(OBJECTIVES[arg])
    # What a causal model knows stands at the end; where every position sees all of it, their mean says more.
    config.objective.pooling = "mean" if sees is True else "last"
    config.objective.prediction_time = True
    # One window then serves all labels of a subject that fit, which is several times faster.
    config.data.labels_per_window = 1 if sees is True else 8
    config.data.whole_visits = sees == "visit"
    config.init.checkpoint = checkpoint
    config.init.skip = ("head/",)
    config.precision = run["precision"]
    config.num_steps = 0
    config.num_epochs = 5
    config.eval_every = 50
    config.checkpoint_every = 200
    config.optimizer.learning_rate = 3e-4
    config.schedule.warmup_steps = 20
    config.early_stopping.patience = 6
    if smoke:
        config.num_steps, config.num_epochs, config.batch_size = 20, 0, 8
        config.log_every, config.eval_every, config.checkpoint_every = 5, 10, 10
        config.schedule.warmup_steps = 5
        config.data.eval_batches = 4
    return config
