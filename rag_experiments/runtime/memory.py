"""The memory of this process: its peak, what more it may take, and giving back what is free."""

from __future__ import annotations

import ctypes
import gc
import math
import sys
from contextlib import suppress
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")


def reset_peak() -> bool:
    """Make `peak` count from now on; False where the system cannot (only Linux can)."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def peak() -> float:
    """Return the most memory that this process has held since the last reset, in MiB."""
    import resource

    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        status = ""
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / (1024**2 if sys.platform == "darwin" else 1024)


def available() -> int:
    """Return the bytes that this process may take without others having to give them up.

    Where it runs in a control group (a container, a job of Slurm), its limit counts too.
    """
    import psutil

    free = psutil.virtual_memory().available
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return free
    own = next((line[3:] for line in lines if line.startswith("0::")), None)
    if own is None:
        return free
    group = _GROUPS / own.lstrip("/")
    return int(min([free, *map(_room, (group, *group.parents))]))


def _room(group: Path) -> float:
    """Bytes below the limit of a control group; pages of files do not count, they can go."""
    try:
        limit = (group / "memory.max").read_text(encoding="utf-8").strip()
        used = int((group / "memory.current").read_text(encoding="utf-8"))
        stat = (group / "memory.stat").read_text(encoding="utf-8")
    except OSError:
        return math.inf
    files = int(dict(line.split() for line in stat.splitlines()).get("file", 0))
    return math.inf if limit == "max" else int(limit) - used + files


def release() -> None:
    """Give back to the system, and to other users of the device, what is no longer in use."""
    gc.collect()
    torch = sys.modules.get("torch")
    for kind in ("cuda", "xpu", "mps"):
        backend = getattr(torch, kind, None)
        if backend is not None and backend.is_available():
            backend.empty_cache()
    trim()


def trim() -> None:
    """Give back to the system what was freed between blocks that live on; takes 50 ms.

    glibc keeps it: gigabytes after one training, whose batches all differ in size.
    """
    if sys.platform == "linux":
        # Other libraries, as musl, have no such call.
        with suppress(AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
