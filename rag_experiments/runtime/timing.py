"""How long the stages of a run take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rag_experiments.runtime import interruption, memory


class Timer:
    """Seconds that each stage of a run took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a block; what it leaves in memory unused is given back at its end."""
        interruption.check()
        start = time.perf_counter()
        yield
        memory.release()  # or the peaks of all stages would add up
        self.seconds[name] = time.perf_counter() - start

    def __str__(self) -> str:
        stages = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in self.seconds.items())
        return f"{sum(self.seconds.values()):.0f} s ({stages})"
