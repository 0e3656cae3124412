"""The processes of one run, as torchrun starts them: all train, the first alone does the rest."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from rag_experiments.contracts import UserError

LONGEST_WAIT = timedelta(days=7)
"""The others wait for the first while it answers and scores whole splits."""


def count() -> int:
    """Processes that work on this run; 1 unless torchrun started it."""
    return _read_number("WORLD_SIZE", "1") if "LOCAL_RANK" in os.environ else 1


def is_first() -> bool:
    """Whether this process records, writes and prints."""
    return count() == 1 or _read_number("RANK", "") == 0


def _read_number(name: str, default: str) -> int:
    value = os.environ.get(name, default)
    if not value.isdecimal():
        raise UserError(
            f"{name}: {value!r}, and LOCAL_RANK is set, as by torchrun; legal: a number; start the "
            "run with torchrun, or without LOCAL_RANK"
        )
    return int(value)


def join(device: str) -> None:
    """Meet the other processes; each takes the GPU of its number."""
    if count() > 1:
        from accelerate import PartialState

        PartialState(cpu=device == "cpu", timeout=LONGEST_WAIT)


def share(value: Any) -> Any:
    """Return the first process's value in every process; they wait for it."""
    if count() == 1:
        return value
    import torch.distributed

    box = [value]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]


def wait() -> None:
    """Go on when all processes are here."""
    if count() > 1:
        import torch.distributed

        torch.distributed.barrier()


@contextmanager
def first_before_others() -> Iterator[None]:
    """Let the first process go through the block, then the others.

    What the first writes to the cache, they find. transformers saves weights in the first
    process only, so none of the others could.
    """
    if not is_first():
        wait()
    yield
    if is_first():
        wait()
