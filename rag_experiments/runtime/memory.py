"""The memory of this process: its peak, and giving back what is free."""

from __future__ import annotations

import ctypes
import gc
import sys
from contextlib import suppress
from pathlib import Path


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
