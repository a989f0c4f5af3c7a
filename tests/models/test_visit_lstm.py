"""The visit LSTM against PyTorch, visit by visit."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import torch

from ehrjax.core import rng
from ehrjax.models import visit_lstm
from tests.models.test_every_model import VOCABULARY, pack, subject

E, VISIT, HIDDEN = 10, 14, 12


def torch_lstm(inputs: int, layers: list[dict]) -> torch.nn.LSTM:
    """torch.nn.LSTM with the parameters of some Recurrences."""
    theirs = torch.nn.LSTM(inputs, layers[0]["hidden"].shape[0], len(layers), batch_first=True)
    with torch.no_grad():
        for number, own in enumerate(layers):
            getattr(theirs, f"weight_ih_l{number}").copy_(torch.from_numpy(np.array(own["input"].T)))
            getattr(theirs, f"weight_hh_l{number}").copy_(torch.from_numpy(np.array(own["hidden"].T)))
            getattr(theirs, f"bias_ih_l{number}").copy_(torch.from_numpy(np.array(own["bias"])))
            getattr(theirs, f"bias_hh_l{number}").zero_()
    return theirs


def encoded(kind: str, codes: torch.Tensor, params: dict) -> torch.Tensor:
    """One visit's vector, from its codes [C, E] alone."""
    if kind in ("mean", "sum", "max"):
        return {"mean": codes.mean(0), "sum": codes.sum(0), "max": codes.max(0).values}[kind]
    if kind == "lstm":
        return torch_lstm(E, [params["codes"]])(codes[None])[0][0, -1]
    inner, score = (
        [torch.from_numpy(np.array(params[name][part])) for part in ("kernel", "bias")] for name in ("inner", "score")
    )
    weights = torch.softmax((torch.tanh(codes @ inner[0] + inner[1]) @ score[0] + score[1])[:, 0], 0)
    return weights @ codes


@pytest.mark.parametrize("kind", visit_lstm.ENCODERS)
def test_against_torch(kind):
    config = visit_lstm.Config(VOCABULARY, E, VISIT, HIDDEN, 2, kind, dropout=0.0)
    model = visit_lstm.Model(config)
    one = subject(17, 4)
    one["visit_ids"] = np.sort(np.random.default_rng(0).integers(0, 6, 17)).astype(np.int32)
    batch = pack([[subject(5, 1), one]], 25)
    params = jax.tree.map(np.asarray, model.init(rng.key_for(0, "model"), batch)["params"])
    found = np.asarray(model.apply({"params": params}, batch)["hidden"])[0, 5:22]
    with torch.no_grad():
        table = torch.from_numpy(np.array(params["embeddings"]["code"]["embedding"]))
        codes = table[torch.from_numpy(one["tokens"]).long()]
        visits, days = [], []
        for visit in np.unique(one["visit_ids"]):
            inside = one["visit_ids"] == visit
            visits.append(encoded(kind, codes[torch.from_numpy(inside)], params.get("visits", {})))
            days.append(one["times"][inside].min() / 1440.0)
        kernel, bias = (torch.from_numpy(np.array(params["visit"][part])) for part in ("kernel", "bias"))
        x = torch.stack(visits) @ kernel + bias
        days = torch.tensor(np.array(days, np.float32))
        gaps = torch.diff(days, prepend=days[:1])
        x = torch.cat([x, torch.log1p(torch.stack([gaps, days], 1))], 1)
        states = torch_lstm(VISIT + 2, [params["lstm_0"], params["lstm_1"]])(x[None])[0][0].numpy()
    number = np.unique(one["visit_ids"], return_inverse=True)[1]
    np.testing.assert_allclose(found, states[number], atol=2e-6)
