"""Requests to end a run, by Ctrl-C or by SIGTERM, that do not get lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_requested: signal.Signals | None = None


@contextmanager
def watched() -> Iterator[None]:
    """Raise KeyboardInterrupt at Ctrl-C and at SIGTERM within the block, so that a process that
    is asked to end leaves through its `with` blocks.

    The request is remembered as well, because the exception may come to nothing: a signal that
    arrives during garbage collection is raised in the first finalizer that runs, where Python
    ignores it, and libraries make other errors of it. `check` raises it again.
    """
    global _requested
    if threading.current_thread() is not threading.main_thread():
        yield  # the system gives signals to the main thread alone
        return
    numbers = [signal.SIGINT, signal.SIGTERM]
    # nohup and a shell's & have Ctrl-C ignored, and so it stays
    before = {n: signal.getsignal(n) for n in numbers if signal.getsignal(n) != signal.SIG_IGN}
    if _interrupt not in before.values():
        _requested = None
    for number in before:
        signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def check() -> None:
    """Raise KeyboardInterrupt where this process has been asked to end."""
    if _requested is not None:
        raise KeyboardInterrupt(name())


def name() -> str:
    """Return what asked for the end: `SIGTERM`, else `Ctrl-C`."""
    return "SIGTERM" if _requested == signal.SIGTERM else "Ctrl-C"


def exit_code() -> int:
    """Return the exit code by which shells and schedulers know the request."""
    return 128 + (_requested or signal.SIGINT)


def _interrupt(number: int, frame: Any) -> None:
    global _requested
    _requested = signal.Signals(number)
    raise KeyboardInterrupt(name())
