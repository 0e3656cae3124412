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


_NUMBERS = ("LOCAL_RANK", "RANK", "WORLD_SIZE")


def count() -> int:
    """Processes that work on this run; 1 unless torchrun started it."""
    if "LOCAL_RANK" not in os.environ:
        return 1
    lacking = [name for name in _NUMBERS if not os.environ.get(name, "").isdecimal()]
    if lacking:
        found = ", ".join(f"{name} is {os.environ.get(name)!r}" for name in lacking)
        raise UserError(
            f"LOCAL_RANK is set, as by torchrun, but {found}; legal: a number each; start the run "
            "with torchrun, or without LOCAL_RANK"
        )
    return int(os.environ["WORLD_SIZE"])


def is_first() -> bool:
    """Whether this process records, writes and prints."""
    return count() == 1 or os.environ["RANK"] == "0"


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
