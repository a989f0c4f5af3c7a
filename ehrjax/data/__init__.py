"""L2, the bridge: token datasets, windows, packing, and the batches that models see."""

from ehrjax.data.rows import collate, subject
from ehrjax.data.token_dataset import TokenDataset, open_tokens

__all__ = ["TokenDataset", "collate", "open_tokens", "subject"]
