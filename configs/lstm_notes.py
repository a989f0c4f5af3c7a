"""An LSTM over tokens beside clinical notes, trained on the next token.

    python -m ehrjax.encode notes --encoder=emilyalsentzer/Bio_ClinicalBERT --input=discharge.csv.gz --output=NOTES
    python -m ehrjax.train --config=configs/lstm_notes.py --config.data.path=TOKENS --config.data.notes=NOTES
    python -m ehrjax.train --config=configs/lstm_notes.py:smoke --workdir=runs/smoke     # CPU, under 30 s

Arguments: base (default), readmission (trained on labels: --config.data.labels=DIR with --config.data.path), smoke.
Without `data.path` it trains on the embedded synthetic hospital, for which notes are written from what the codes of its
visits mean; `data.notes` then names the encoder.
"""

from ml_collections import ConfigDict

from ehrjax.training import defaults


def get_config(arg: str = "base") -> ConfigDict:
    arg = arg or "base"
    if arg not in ("base", "readmission", "smoke"):
        raise ValueError(f"configs/lstm_notes.py has no argument {arg!r}; it has base, readmission, smoke")
    config = defaults.get()
    config.model = ConfigDict(dict(name="lstm_notes", embedding_dim=128, hidden_dim=256, num_layers=2, dropout=0.3))
    config.model.bidirectional = False
    config.model.note_dim = 0  # as the data has them
    config.data.notes = "hashing"
    config.data.newest_notes = 10
    if arg == "readmission":
        config.objective = ConfigDict(dict(name="classification", pooling="last", dropout=0.1))
        config.data.labels = "readmission_30d"  # of the embedded hospital
        config.num_steps = 1000
        config.schedule.warmup_steps = 50
    else:
        config.objective = ConfigDict(dict(name="next_token", tied=False, use_bias=True))
    if arg == "smoke":
        defaults.shrink(config)
        config.model.embedding_dim = config.model.hidden_dim = 32
        config.model.num_layers = 1
    return config
