"""Caches of keys and values that several decoding states share."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache


def share_cache(cache: Cache) -> Cache:
    """A cache that grows by itself and shares what is there: layers grow into new tensors."""
    if isinstance(cache, EncoderDecoderCache):
        return EncoderDecoderCache(
            share_cache(cache.self_attention_cache), share_cache(cache.cross_attention_cache)
        )
    assert isinstance(cache, DynamicCache)
    shared = copy.copy(cache)
    shared.layers = [copy.copy(layer) for layer in cache.layers]
    return shared


def select_cache(cache: Cache, rows: Tensor | slice) -> Cache:
    """A cache of the given rows that leaves the original as it is."""
    selected: Any = share_cache(cache)
    selected.batch_select_indices(rows)
    return selected


def join_caches(caches: Sequence[Cache], rows: Sequence[Tensor]) -> Cache:
    """One cache of all rows: `rows` says where those of each cache stand. The first has the longest
    prompt; the others are padded on the left."""
    if len(caches) == 1:
        return caches[0]
    joined = share_cache(caches[0])
    for i, layer in enumerate(joined.layers):
        for name in ("keys", "values"):
            parts = [getattr(cast(DynamicCache, cache).layers[i], name) for cache in caches]
            _, heads, tokens, width = parts[0].shape
            whole = parts[0].new_zeros(sum(map(len, rows)), heads, tokens, width)
            for own, part in zip(rows, parts, strict=True):
                whole[own, :, tokens - part.shape[2] :] = part
            setattr(layer, name, whole)
    return joined
