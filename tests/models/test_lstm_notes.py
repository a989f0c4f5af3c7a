"""The LSTM beside notes against PyTorch: [embedding; mean of the notes before] -> Linear -> LSTM."""

from __future__ import annotations

import numpy as np
import torch

from tests.models.test_every_model import hidden, made, pack, subject
from tests.models.test_visit_lstm import torch_lstm


def test_against_torch():
    model, params, _ = made("lstm notes")
    one = subject(17, 4)
    found = hidden(model, params, pack([[subject(5, 1), one]], 25))[0, 5:22]
    table = torch.from_numpy(np.array(params["embeddings"]["code"]["embedding"]))
    vectors = torch.from_numpy(np.concatenate([np.zeros((1, 3), np.float32), one["notes"]]))
    kernel, bias = (torch.from_numpy(np.array(params["notes"][part])) for part in ("kernel", "bias"))
    with torch.no_grad():
        codes = table[torch.from_numpy(one["tokens"]).long()]
        x = torch.cat([codes, vectors[torch.from_numpy(one["notes_seen"]).long()]], dim=1) @ kernel + bias
        expected = torch_lstm(16, [params["lstm_0"], params["lstm_1"]])(x[None])[0][0].numpy()
    np.testing.assert_allclose(found, expected, atol=2e-6)
