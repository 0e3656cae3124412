"""What embedding and indexing a corpus will take, said before they start; refused if it cannot fit.

Time is measured on `SAMPLE` passages and by a calibration of the index, and extrapolated. Memory
and disk are counted: what is computed and written is known.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rag_experiments.contracts import UserError
from rag_experiments.runtime import disk, memory
from rag_experiments.runtime.disk import write_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rag_experiments.encoder import TextEncoder
    from rag_experiments.retriever.index import Flat, Hnsw, IvfPq

log = logging.getLogger(__name__)

SAMPLE = 128
"""Passages that are embedded to measure the time."""

MEASURED = 40 * SAMPLE
"""Passages from which on time is measured; it would take too large a part of fewer."""

_PASSAGE = 16_000  # bytes of a passage that is in memory: its text, its tokens, its vector


@dataclass(frozen=True)
class Work:
    """What is left to do for a corpus of which some may be done."""

    count: int
    """Passages of the corpus."""
    dimension: int
    """Numbers in a vector."""
    embedded: int
    """Passages that are to be embedded."""
    written: int
    """Passages whose vectors are to be written."""
    held: int
    """Passages that are in memory at once."""


class Estimate(NamedTuple):
    """What work takes."""

    embedding: float | None
    """Seconds; None: not measured."""
    indexing: float | None
    """Seconds; None: not measured."""
    memory: int
    """Bytes, at most, beyond what the process holds already."""
    disk: int
    """Bytes of the cache folder."""


def estimate(
    work: Work, index: Flat | Hnsw | IvfPq, pace: float | None, indexing: float | None
) -> Estimate:
    """What work takes, where a passage takes `pace` seconds to embed, and the index `indexing`."""
    return Estimate(
        None if pace is None else pace * work.embedded,
        indexing,
        max(work.held * _PASSAGE, index.memory(work.count, work.dimension)),
        4 * work.dimension * work.written + index.disk(work.count, work.dimension),
    )


def announce(
    work: Work,
    index: Flat | Hnsw | IvfPq,
    cache_dir: Path | None,
    encoder: TextEncoder | None = None,
    texts: Sequence[str] = (),
    batch_size: int = 32,
) -> Estimate:
    """Log what work will take; UserError, in a line each, where memory or disk cannot do.

    Without a `cache_dir` the disk may be full: what does not fit is not kept then. `texts` are
    those that `encoder` is timed with, in batches of `batch_size`.
    """
    pace: float | None = None
    seconds: float | None = None
    if work.count >= MEASURED:
        pace = _time_encoder(encoder, texts, batch_size) if encoder and texts else None
        seconds = index.measure_seconds(work.count, work.dimension)
    found = estimate(work, index, pace, seconds)
    memory_free, disk_free = memory.available(), disk.free(cache_dir) if cache_dir else None
    log.info("%s", _describe(found, work, index, memory_free, disk_free))
    problems = find_problems(found, work, index, cache_dir, memory_free, disk_free)
    if problems:
        raise UserError(problems)
    return found


def find_problems(
    found: Estimate,
    work: Work,
    index: Flat | Hnsw | IvfPq,
    cache_dir: Path | None,
    memory_free: int,
    disk_free: int | None,
) -> list[str]:
    """What cannot fit, one line each, with what to do."""
    problems = []
    name = _name(index)
    if index.memory(work.count, work.dimension) > memory_free:
        less = "" if name == "ivf_pq" else "choose retriever/index=ivf_pq, "
        problems.append(
            f"retriever.index: {name} over {work.count:,} passages of {work.dimension} dimensions "
            f"takes {write_size(found.memory)} of memory to build, {write_size(memory_free)} are "
            f"free; {less}free some, or take a machine with more"
        )
    elif found.memory > memory_free:
        problems.append(
            f"retriever.encoder: embedding {work.embedded:,} passages takes "
            f"{write_size(found.memory)} of memory, {write_size(memory_free)} are free; free some, "
            "or take a machine with more"
        )
    if disk_free is not None and found.disk > disk_free:
        problems.append(
            f"cache_dir: vectors and index of {work.count:,} passages take "
            f"{write_size(found.disk)} of disk, {str(cache_dir)!r} has {write_size(disk_free)}; "
            "make room (python -m rag_experiments.store prune), or choose another folder with "
            "cache_dir="
        )
    return problems


def _describe(
    found: Estimate, work: Work, index: Flat | Hnsw | IvfPq, memory_free: int, disk_free: int | None
) -> str:
    parts = []
    if found.embedding is not None:
        parts.append(
            f"{_write_time(found.embedding)} to embed {work.embedded:,} of them ({SAMPLE} were "
            "timed)"
        )
    if found.indexing:
        parts.append(f"{_write_time(found.indexing)} to index them (by a calibration)")
    if work.count < MEASURED:
        parts.append(f"no time (it is not measured for fewer than {MEASURED:,})")
    parts += [
        f"{write_size(found.memory)} of memory ({write_size(memory_free)} free)",
        f"{write_size(found.disk)} of disk"
        + ("" if disk_free is None else f" ({write_size(disk_free)} free)"),
    ]
    return (
        f"{work.count:,} passages of {work.dimension} dimensions with index {_name(index)} will "
        f"take about {'; '.join(parts)}"
    )


def _name(index: Flat | Hnsw | IvfPq) -> str:
    return {"Flat": "flat", "Hnsw": "hnsw", "IvfPq": "ivf_pq"}[type(index).__name__]


def _time_encoder(encoder: TextEncoder, texts: Sequence[str], batch_size: int) -> float:
    encoder.encode(texts[:batch_size], batch_size)  # the first batch is slower
    start = time.perf_counter()
    encoder.encode(texts, batch_size)
    return (time.perf_counter() - start) / len(texts)


def _write_time(seconds: float) -> str:
    for limit, unit, size in ((120, "s", 1), (7200, "min", 60), (48 * 3600, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86400:.1f} days"
