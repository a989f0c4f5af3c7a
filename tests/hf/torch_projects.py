"""The PyTorch models that ehrjax replaces, written again from their equations and the names of their tensors."""

from __future__ import annotations

import math
from types import SimpleNamespace

import torch
from torch import nn


class Rows(nn.Module):
    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(rows, width)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.embedding(ids)


class BehrtEmbeddings(nn.Module):
    def __init__(self, c: SimpleNamespace) -> None:
        super().__init__()
        self.code_embedding = nn.Embedding(c.vocab, c.embedding, padding_idx=0)
        self.age_embedding = Rows(22, c.embedding)
        self.visit_embedding = Rows(c.visits, c.embedding)
        self.position_embedding = Rows(c.positions, c.embedding)
        self.layer_norm = nn.LayerNorm(c.embedding)

    def forward(self, codes, ages, visits):
        places = torch.arange(codes.shape[1])[None].expand_as(codes)
        bins = (ages.clamp(0, 100) / 5).floor().long()
        x = self.code_embedding(codes) + self.age_embedding(bins)
        return self.layer_norm(x + self.visit_embedding(visits) + self.position_embedding(places))


class Behrt(nn.Module):
    def __init__(self, c: SimpleNamespace) -> None:
        super().__init__()
        self.embeddings = BehrtEmbeddings(c)
        self.embedding_projection = nn.Linear(c.embedding, c.hidden) if c.embedding != c.hidden else nn.Identity()
        layer = nn.TransformerEncoderLayer(
            c.hidden, c.heads, 4 * c.hidden, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, c.layers, enable_nested_tensor=False)
        self.layer_norm = nn.LayerNorm(c.hidden)

    def forward(self, codes, ages, visits):
        return self.layer_norm(self.encoder(self.embedding_projection(self.embeddings(codes, ages, visits))))


class BehrtForMLM(nn.Module):
    def __init__(self, c: SimpleNamespace) -> None:
        super().__init__()
        self.behrt = Behrt(c)
        self.mlm_head = nn.Sequential(
            nn.Linear(c.hidden, c.hidden), nn.GELU(), nn.LayerNorm(c.hidden), nn.Linear(c.hidden, c.vocab)
        )

    def forward(self, codes, ages, visits):
        return self.mlm_head(self.behrt(codes, ages, visits))


class NanoBlock(nn.Module):
    def __init__(self, c: SimpleNamespace) -> None:
        super().__init__()
        self.heads = c.heads
        norm = lambda: nn.LayerNorm(c.hidden, bias=c.bias)  # noqa: E731
        self.ln_1, self.ln_2 = norm(), norm()
        self.attn = nn.ModuleDict(
            {
                "c_attn": nn.Linear(c.hidden, 3 * c.hidden, bias=c.bias),
                "c_proj": nn.Linear(c.hidden, c.hidden, bias=c.bias),
            }
        )
        self.mlp = nn.ModuleDict(
            {
                "c_fc": nn.Linear(c.hidden, 4 * c.hidden, bias=c.bias),
                "c_proj": nn.Linear(4 * c.hidden, c.hidden, bias=c.bias),
            }
        )

    def forward(self, x):
        b, n, d = x.shape
        parts = self.attn["c_attn"](self.ln_1(x)).split(d, dim=2)
        q, k, v = (p.view(b, n, self.heads, -1).transpose(1, 2) for p in parts)
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attn["c_proj"](y.transpose(1, 2).reshape(b, n, d))
        return x + self.mlp["c_proj"](nn.functional.gelu(self.mlp["c_fc"](self.ln_2(x))))


class NanoGPT(nn.Module):
    def __init__(self, c: SimpleNamespace) -> None:
        super().__init__()
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(c.vocab, c.hidden),
                "wpe": nn.Embedding(c.positions, c.hidden),
                "h": nn.ModuleList([NanoBlock(c) for _ in range(c.layers)]),
                "ln_f": nn.LayerNorm(c.hidden, bias=c.bias),
            }
        )
        self.lm_head = nn.Linear(c.hidden, c.vocab, bias=False)
        self.lm_head.weight = self.transformer["wte"].weight

    def forward(self, ids):
        x = self.transformer["wte"](ids) + self.transformer["wpe"](torch.arange(ids.shape[1]))
        for block in self.transformer["h"]:
            x = block(x)
        return self.lm_head(self.transformer["ln_f"](x))


class TokenLSTM(nn.Module):
    def __init__(self, c: SimpleNamespace) -> None:
        super().__init__()
        self.embedding = nn.Embedding(c.vocab, c.embedding)
        self.lstm = nn.LSTM(c.embedding, c.hidden, c.layers, batch_first=True)
        self.fc = nn.Linear(c.hidden, c.vocab)

    def forward(self, ids):
        return self.fc(self.lstm(self.embedding(ids))[0])


class Head(nn.Module):
    def __init__(self, width: int, head: int) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(width, head) for _ in range(3))

    def forward(self, x):
        scores = self.q(x) @ self.k(x).transpose(1, 2) / math.sqrt(self.q.out_features)
        later = torch.ones(x.shape[1], x.shape[1]).triu(1).bool()
        return scores.masked_fill(later, float("-inf")).softmax(-1) @ self.v(x)


class DecoderBlock(nn.Module):
    def __init__(self, c: SimpleNamespace) -> None:
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(c.hidden), nn.LayerNorm(c.hidden)
        self.attn = nn.Module()
        self.attn.heads = nn.ModuleList([Head(c.hidden, c.hidden // c.heads) for _ in range(c.heads)])
        self.attn.out_proj = nn.Linear(c.hidden, c.hidden)
        self.mlp = nn.Sequential(nn.Linear(c.hidden, 4 * c.hidden), nn.GELU(), nn.Linear(4 * c.hidden, c.hidden))

    def forward(self, x):
        y = self.ln1(x)
        x = x + self.attn.out_proj(torch.cat([head(y) for head in self.attn.heads], dim=-1))
        return x + self.mlp(self.ln2(x))


class TokenDecoder(nn.Module):
    def __init__(self, c: SimpleNamespace) -> None:
        super().__init__()
        self.embedding = nn.Embedding(c.vocab, c.hidden)
        self.pos_encoding = nn.Module()
        rates = torch.exp(torch.arange(0, c.hidden, 2) * (-math.log(10000.0) / c.hidden))
        angles = torch.arange(c.positions)[:, None] * rates
        waves = torch.stack([angles.sin(), angles.cos()], dim=2).reshape(c.positions, c.hidden)
        self.pos_encoding.register_buffer("pe", waves[None])
        self.layers = nn.ModuleList([DecoderBlock(c) for _ in range(c.layers)])
        self.linear = nn.Linear(c.hidden, c.vocab)

    def forward(self, ids):
        x = self.embedding(ids) + self.pos_encoding.pe[:, : ids.shape[1]]
        for layer in self.layers:
            x = layer(x)
        return self.linear(x)


def config(**changes) -> SimpleNamespace:
    base = dict(vocab=41, embedding=32, hidden=48, layers=2, heads=3, positions=40, visits=20, bias=True)
    return SimpleNamespace(**{**base, **changes})


def randomised(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()
