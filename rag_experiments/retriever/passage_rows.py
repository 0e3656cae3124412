"""Which row of a knowledge source a passage is, without its ids in memory."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from datasets import Dataset


class PassageRows:
    """Ids of passages by row, and rows by id; the ids stay on disk.

    Rows are found by a hash of the id, with 16 bytes a passage, when the first is asked for.
    """

    def __init__(self, passages: Dataset):
        self._ids = passages.select_columns(["id"])

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, passage_id: str) -> bool:
        try:
            self.find_one(passage_id)
        except KeyError:
            return False
        return True

    def name(self, rows: Sequence[int] | np.ndarray) -> list[str]:
        """Ids of the passages in given rows."""
        return list(self._ids[np.asarray(rows).tolist()]["id"]) if len(rows) else []

    def find(self, passage_ids: Sequence[str]) -> list[int]:
        """Rows of passages, in their order; KeyError where one is not there."""
        if not passage_ids:
            return []
        if not len(self):
            raise KeyError(passage_ids[0])
        hashes, rows = self._table
        keys = np.fromiter(map(hash, passage_ids), np.int64, len(passage_ids))
        places = np.minimum(np.searchsorted(hashes, keys), len(hashes) - 1)
        found = rows[places].tolist()
        for i, name in enumerate(self.name(found)):
            if name != passage_ids[i]:
                found[i] = self._search(passage_ids[i])
        return found

    def find_one(self, passage_id: str) -> int:
        """Row of a passage; KeyError where it is not there."""
        return self.find([passage_id])[0]

    def _search(self, passage_id: str) -> int:
        """Row of a passage among all whose ids have the same hash."""
        hashes, rows = self._table
        first, last = (
            np.searchsorted(hashes, hash(passage_id), side) for side in ("left", "right")
        )
        same = rows[first:last].tolist()
        for row, name in zip(same, self.name(same), strict=True):
            if name == passage_id:
                return row
        raise KeyError(passage_id)

    @cached_property
    def _table(self) -> tuple[np.ndarray, np.ndarray]:
        """Hashes in ascending order, and the rows that they are of."""
        hashes = np.empty(len(self._ids), np.int64)
        start = 0
        for batch in self._ids.iter(batch_size=10_000):
            own = batch["id"]
            hashes[start : start + len(own)] = np.fromiter(map(hash, own), np.int64, len(own))
            start += len(own)
        order = np.argsort(hashes, kind="stable")
        return hashes[order], order
