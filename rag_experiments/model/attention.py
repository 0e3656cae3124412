"""Eager attention that does not copy keys and values for each head of the queries.

Legend: b rows, h heads of queries, k heads of keys (h / k queries' heads share one), q and t
positions of queries and keys, d dimension of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

GROUPED = "grouped"
"""Its name, beside transformers' own `eager`, `sdpa` and so on."""

FAMILIES = (
    "granite",
    "llama",
    "mistral",
    "olmo2",
    "phi3",
    "qwen2",
    "qwen3",
    "smollm3",
)
"""Model types whose `eager` attention is what is computed here."""


def grouped_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """Return softmax(query key^T scaling + mask) value [b, q, h, d], and no weights.

    query [b, h, q, d], key and value [b, k, t, d], attention_mask [b, 1, q, t] or None, added.
    What `eager` of the `FAMILIES` computes, operation for operation; that one repeats keys and
    values h / k times first, which takes half the time of a decoding step.
    """
    b, h, q, d = query.shape
    k, t = key.shape[1:3]
    keys, values = key.reshape(b * k, t, d), value.reshape(b * k, t, d)
    weights = torch.bmm(query.reshape(b * k, h // k * q, d), keys.transpose(1, 2))
    weights = weights.view(b, k, h // k, q, t) * scaling
    if attention_mask is not None:
        weights = weights + attention_mask[:, :, None]
    weights = torch.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, dropout, module.training)
    read = torch.bmm(weights.view(b * k, h // k * q, t), values).view(b, h, q, d)
    return read.transpose(1, 2).contiguous(), None


def group_heads(attention: str, config: Any) -> str:
    """Return `GROUPED` in the place of `eager` where a causal model's heads share keys."""
    heads = getattr(config, "num_attention_heads", None)
    shares = getattr(config, "num_key_value_heads", heads) != heads
    return (
        GROUPED if attention == "eager" and config.model_type in FAMILIES and shares else attention
    )


AttentionInterface.register(GROUPED, grouped_attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(GROUPED, ALL_MASK_ATTENTION_FUNCTIONS["eager"])
