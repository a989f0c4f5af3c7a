"""An LSTM over visits, trained on labels: by default readmission within 30 days of a discharge.

    python -m ehrjax.train --config=configs/visit_lstm.py --workdir=runs/visit_lstm
    python -m ehrjax.train --config=configs/visit_lstm.py:smoke --workdir=runs/smoke    # CPU, under 30 s
    python -m ehrjax.train --config=configs/visit_lstm.py:regression --config.data.path=TOKENS --config.data.labels=DIR

Arguments: yes_no (default; also classes such as stages, and sets of codes: the labels decide), regression, hazard (time
to event), next_visit (the codes of the next visit, from the visits themselves without labels), smoke; and smoke behind
another one, such as hazard_smoke. Without
`data.path` it trains on the embedded synthetic hospital: its readmissions, lengths of stay, deaths, or visits.
"""

from ml_collections import ConfigDict

from ehrjax.training import defaults

OBJECTIVES = {
    "yes_no": dict(name="classification", pooling="last", dropout=0.3),
    "regression": dict(name="regression", pooling="last", dropout=0.3),
    "next_visit": dict(name="next_visit", tied=False, use_bias=True),
    "hazard": dict(name="hazard", pooling="last", dropout=0.3, edges_days=(30.0, 90.0, 180.0, 365.0, 730.0)),
}
LABELS = {"regression": "length_of_stay", "hazard": "time_to_event", "next_visit": ""}


def get_config(arg: str = "yes_no") -> ConfigDict:
    arg = arg or "yes_no"
    smoke = arg == "smoke" or arg.endswith("_smoke")
    arg = arg.removesuffix("smoke").removesuffix("_") or "yes_no"
    if arg not in OBJECTIVES:
        raise ValueError(f"configs/visit_lstm.py has no argument {arg!r}; it has {', '.join(OBJECTIVES)}, smoke")
    config = defaults.get()
    config.model = ConfigDict(dict(name="visit_lstm", embedding_dim=128, visit_dim=256, hidden_dim=256, num_layers=2))
    config.model.encoder = "mean"
    config.model.time_features = True
    config.model.dropout = 0.3
    config.model.bidirectional = False
    config.model.timescale = 0
    config.model.code_std = 1.0
    config.objective = ConfigDict(OBJECTIVES[arg])
    config.data.labels = LABELS.get(arg, "readmission_30d")  # of the embedded hospital
    if arg == "hazard":
        config.embedded.task = ConfigDict(dict(predict="every", every_days=365.0, min_age_years=50.0))
    config.num_steps = 1000
    config.schedule.warmup_steps = 50
    config.early_stopping.patience = 3
    config.eval_every = 100
    if smoke:
        defaults.shrink(config)
        config.model.embedding_dim = config.model.visit_dim = config.model.hidden_dim = 32
        config.model.num_layers = 1
    return config
