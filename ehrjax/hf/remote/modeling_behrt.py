"""BEHRT in PyTorch (Li et al. 2020, pre-LN), as `python -m ehrjax.convert to-hf` exports it.

    model = AutoModelForMaskedLM.from_pretrained(folder, trust_remote_code=True)
    model(input_ids, ages=ages, visit_ids=visit_ids, attention_mask=mask).logits

ages: years, NaN where unknown. visit_ids: 0, 1, ... from the first visit of the sequence.
"""

import math

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, MaskedLMOutput

PAD = 0


class BehrtConfig(PretrainedConfig):
    model_type = "ehrjax_behrt"

    def __init__(
        self,
        vocab_size=1000,
        num_hidden_layers=4,
        num_attention_heads=8,
        hidden_size=256,
        embedding_size=128,
        intermediate_size=1024,
        max_position_embeddings=512,
        max_visits=512,
        age_bin_years=5,
        max_age=100,
        position_type="learned",
        visit_segments=False,
        layer_norm_eps=1e-5,
        hidden_act="gelu",
        head_act="gelu",
        head_layer_norm_eps=1e-5,
        hidden_dropout_prob=0.1,
        attention_probs_dropout_prob=0.1,
        tie_word_embeddings=False,
        **kwargs,
    ):
        self.vocab_size = vocab_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.hidden_size = hidden_size
        self.embedding_size = embedding_size
        self.intermediate_size = intermediate_size
        self.max_position_embeddings = max_position_embeddings
        self.max_visits = max_visits
        self.age_bin_years = age_bin_years
        self.max_age = max_age
        self.position_type = position_type
        self.visit_segments = visit_segments
        self.layer_norm_eps = layer_norm_eps
        self.hidden_act = hidden_act
        self.head_act = head_act
        self.head_layer_norm_eps = head_layer_norm_eps
        self.hidden_dropout_prob = hidden_dropout_prob
        self.attention_probs_dropout_prob = attention_probs_dropout_prob
        super().__init__(tie_word_embeddings=tie_word_embeddings, **kwargs)


def activation(name):
    return {"gelu": nn.GELU(), "gelu_new": nn.GELU(approximate="tanh"), "relu": nn.ReLU(), "silu": nn.SiLU()}[name]


def sinusoids(length, width):
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    angles = torch.arange(length)[:, None] * rates
    table = torch.zeros(length, width)
    table[:, 0::2] = angles.sin()
    table[:, 1::2] = angles.cos()[:, : width // 2]
    return table


class Rows(nn.Module):
    def __init__(self, rows, width):
        super().__init__()
        self.embedding = nn.Embedding(rows, width)

    def forward(self, ids):
        return self.embedding(ids)


class BehrtEmbeddings(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        width = config.embedding_size
        self.code_embedding = nn.Embedding(config.vocab_size, width, padding_idx=PAD)
        self.age_embedding = Rows(config.max_age // config.age_bin_years + 2, width)
        self.visit_embedding = Rows(config.max_visits, width)
        if config.position_type == "learned":
            self.position_embedding = Rows(config.max_position_embeddings, width)
        if config.visit_segments:
            self.segment_embedding = Rows(2, width)
        self.layer_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, input_ids, ages, visit_ids, position_ids):
        config = self.config
        top = config.max_age // config.age_bin_years
        bins = (torch.nan_to_num(ages) / config.age_bin_years).floor().clamp(0, top).long()
        bins = torch.where(ages.isnan(), torch.full_like(bins, top + 1), bins)
        x = self.code_embedding(input_ids) * (input_ids != PAD)[..., None]
        x = x + self.age_embedding(bins) + self.visit_embedding(visit_ids.clamp(0, config.max_visits - 1))
        if config.position_type == "learned":
            x = x + self.position_embedding(position_ids)
        else:
            x = x + sinusoids(config.max_position_embeddings, config.embedding_size).to(x)[position_ids]
        if config.visit_segments:
            x = x + self.segment_embedding(visit_ids % 2)
        return self.dropout(self.layer_norm(x))


class BehrtPreTrainedModel(PreTrainedModel):
    config_class = BehrtConfig
    base_model_prefix = "behrt"

    def _init_weights(self, module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


class BehrtModel(BehrtPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.embeddings = BehrtEmbeddings(config)
        if config.embedding_size != config.hidden_size:
            self.embedding_projection = nn.Linear(config.embedding_size, config.hidden_size)
        layer = nn.TransformerEncoderLayer(
            config.hidden_size,
            config.num_attention_heads,
            config.intermediate_size,
            config.hidden_dropout_prob,
            activation(config.hidden_act),
            layer_norm_eps=config.layer_norm_eps,
            batch_first=True,
            norm_first=True,
        )
        self.encoder = nn.TransformerEncoder(layer, config.num_hidden_layers, enable_nested_tensor=False)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def get_input_embeddings(self):
        return self.embeddings.code_embedding

    def set_input_embeddings(self, value):
        self.embeddings.code_embedding = value

    def forward(self, input_ids, ages=None, visit_ids=None, attention_mask=None, position_ids=None, **kwargs):
        if ages is None:
            ages = torch.full(input_ids.shape, float("nan"), device=input_ids.device)
        if visit_ids is None:
            visit_ids = torch.zeros_like(input_ids)
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
        x = self.embeddings(input_ids, ages, visit_ids, position_ids)
        if self.config.embedding_size != self.config.hidden_size:
            x = self.embedding_projection(x)
        padding = None if attention_mask is None else attention_mask == 0
        return BaseModelOutput(last_hidden_state=self.layer_norm(self.encoder(x, src_key_padding_mask=padding)))


class BehrtForMaskedLM(BehrtPreTrainedModel):
    _tied_weights_keys = {"mlm_head.3.weight": "behrt.embeddings.code_embedding.weight"}

    def __init__(self, config):
        super().__init__(config)
        self.behrt = BehrtModel(config)
        self.mlm_head = nn.Sequential(
            nn.Linear(config.hidden_size, config.hidden_size),
            activation(config.head_act),
            nn.LayerNorm(config.hidden_size, eps=config.head_layer_norm_eps),
            nn.Linear(config.hidden_size, config.vocab_size),
        )
        self.post_init()

    def get_output_embeddings(self):
        return self.mlm_head[3]

    def set_output_embeddings(self, value):
        self.mlm_head[3] = value

    def forward(self, input_ids, labels=None, **kwargs):
        kwargs.pop("output_hidden_states", None)
        hidden = self.behrt(input_ids, **kwargs).last_hidden_state
        logits = self.mlm_head(hidden)
        if self.config.tie_word_embeddings:
            # The row of [PAD] counts as zeros.
            logits[..., PAD] = self.mlm_head[3].bias[PAD]
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return MaskedLMOutput(loss=loss, logits=logits, hidden_states=(hidden,))
