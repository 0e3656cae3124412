"""Servers that tests start on this machine, and end with all their processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(address: str) -> bool:
    """Whether a server says at an address that it is well."""
    try:
        with urllib.request.urlopen(address, timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


@contextmanager
def serving(
    command: Sequence[str], log: Path, end: signal.Signals = signal.SIGTERM, **others: Any
) -> Iterator[subprocess.Popen]:
    """A server in a session of its own, because it starts further processes."""
    with log.open("w") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=file, start_new_session=True, **others
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):  # it ended by itself: its log says why
            os.killpg(process.pid, end)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout=30)


def wait_for(
    condition: Callable[[], Any],
    seconds: float,
    evidence: Callable[[], str],
    process: subprocess.Popen | None = None,
) -> None:
    """Wait until a condition holds, as long as there is time and a process, if given, lives."""
    end = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, evidence()
        assert time.monotonic() < end, evidence()
        time.sleep(0.5)
