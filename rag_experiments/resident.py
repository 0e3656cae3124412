"""Networks that stay in memory from one job of a process to the next.

A job takes a network, or lends one that it has loaded, and gives it back when it is done. It stays
only if every bit of it is as it was when it was loaded; one that was trained is dropped and loaded
again. There is one place for each kind: another network frees it first, so memory does not grow.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Hashable
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

log = logging.getLogger(__name__)


class _Loan(NamedTuple):
    kind: str
    name: Hashable
    checksum: int


_lent: WeakKeyDictionary[Any, _Loan] = WeakKeyDictionary()
_waiting: dict[str, tuple[_Loan, Any]] = {}


def take(kind: str, name: Hashable) -> Any:
    """The network of a name, if it waits; None otherwise, and its place is free then."""
    loan, network = _waiting.pop(kind, (None, None))
    if loan is None or loan.name != name:
        return None
    _lent[network] = loan
    log.info("%s: the weights of the job before are in memory still", kind)
    return network


def lend(kind: str, name: Hashable, network: Any) -> None:
    """Note the state of a network that has just been loaded, so that it can be given back."""
    _lent[network] = _Loan(kind, name, _checksum(network))


def give_back(network: Any) -> bool:
    """Keep a network for the next job; False, and it is not kept, where it has changed."""
    loan = _lent.pop(network, None)
    if loan is None or _checksum(network) != loan.checksum:
        return False
    network.zero_grad(set_to_none=True)
    network.requires_grad_(True).eval()  # as it was loaded
    _waiting[loan.kind] = (loan, network)
    return True


def clear() -> None:
    """Forget every network that waits."""
    _waiting.clear()


def name_folder(folder: Path) -> Hashable:
    """A name for the weights in a folder as they are now."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    states = [(path.name, path.stat()) for path in files]
    return (str(folder), *((name, state.st_size, state.st_mtime_ns) for name, state in states))


def _checksum(network: Any) -> int:
    """CRC-32 over the bytes of all parameters and buffers, with their names and types."""
    import torch

    found = 0
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        found = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), found)
        data = tensor.detach().cpu().contiguous().reshape(-1)
        found = zlib.crc32(data.view(torch.uint8).numpy(), found)
    return found
