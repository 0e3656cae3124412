"""Rows of token ids: padded to one length, and parted by length.

Legend: r rows, p tokens of the longest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

START = 128
"""Tokens of padding that are worth another call, which reads all weights again."""


class Part(NamedTuple):
    """Prompts that are read in one call: some `rows` of a batch, without the columns that are
    padding in all of them (not `used`)."""

    rows: Tensor
    used: Tensor
    ids: Tensor
    mask: Tensor


def pad(rows: Sequence[Sequence[int]], pad_id: int, *, left: bool) -> tuple[Tensor, Tensor]:
    """Ids and boolean mask [r, longest] of rows of token ids."""
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), pad_id, dtype=torch.long)
    mask = torch.zeros((len(rows), longest), dtype=torch.bool)
    for i, row in enumerate(rows):
        place = slice(longest - len(row), longest) if left else slice(0, len(row))
        ids[i, place] = torch.tensor(row, dtype=torch.long)
        mask[i, place] = True
    return ids, mask


def split_by_length(lengths: Sequence[int], limit: int) -> list[list[int]]:
    """Rows of each part, the part with the longest first: what costs least padding and starts.

    A part is as wide as its longest row, and holds no more than `limit` tokens or a single row.
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    cost, begin = [0], [0]  # of the best parts of the first so many rows; where their last begins
    for end in range(1, len(order) + 1):
        first = end - 1
        best = (cost[first] + lengths[order[first]] + START, first)
        while first > 0 and (tokens := lengths[order[first - 1]] * (end - first + 1)) <= limit:
            first -= 1
            best = min(best, (cost[first] + tokens + START, first))
        cost.append(best[0])
        begin.append(best[1])
    parts, end = [], len(order)
    while end:
        parts.append(sorted(order[begin[end] : end]))
        end = begin[end]
    return parts[::-1]


def join_rows(values: Sequence[Tensor], rows: Sequence[Tensor]) -> Tensor:
    """What was made of some rows of a batch each, as rows of the whole batch."""
    return torch.cat(list(values))[torch.cat(list(rows)).argsort()]


def positions(mask: Tensor) -> Tensor:
    """Position of each token among the tokens of its row that are not padding."""
    return (mask.long().cumsum(1) - 1).clamp(min=0)
