"""Passage vectors, computed once and kept by the content that they depend on."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock

from rag_experiments import weights
from rag_experiments.contracts import Runtime
from rag_experiments.retriever.base import fingerprint_passages, join_title

if TYPE_CHECKING:
    from datasets import Dataset

    from rag_experiments.retriever.encoder import Encoder

log = logging.getLogger(__name__)

_VERSION = 1  # raise it when the same inputs give other vectors


def embed_passages(passages: Dataset, encoder: Encoder, runtime: Runtime) -> tuple[np.ndarray, str]:
    """Vectors `[passages, dimension]` float32 (a memory map), and the passages' fingerprint.

    They are kept in `cache_dir/embeddings` under a hash of all that they depend on: the
    passages' content, weights, pooling, normalization, length, title separator and dtype. An
    entry is written to a partial folder and renamed when whole; one whose file does not match
    its checksum is computed again. The log says hit or miss, and why.
    """
    fingerprint = fingerprint_passages(passages)
    parts = {
        "version": _VERSION,
        "passages": fingerprint,
        "weights": weights.fingerprint(
            encoder.weights, runtime.cache_dir, "retriever.encoder.weights"
        ),
        "pooling": encoder.pooling,
        "normalize": encoder.normalize,
        "max_length": encoder.max_length,
        "title_separator": encoder.title_separator,
        "dtype": runtime.dtype,
    }
    root = runtime.cache_dir / "embeddings"
    root.mkdir(parents=True, exist_ok=True)
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]
    folder = root / key
    with FileLock(root / f".{key}.lock"):  # jobs of a sweep wait for the first
        reason = _find_damage(folder, len(passages))
        if reason is None:
            log.info("embeddings: hit, %d vectors from %s", len(passages), folder)
        else:
            if not folder.exists():
                reason = _explain_miss(root, parts)
            log.info("embeddings: miss, %s; computing %d vectors", reason, len(passages))
            _write_entry(folder, parts, passages, encoder, runtime)
    return np.load(folder / "vectors.npy", mmap_mode="r"), fingerprint


class _PassageTexts(Sequence[str]):
    """Texts of passages, read in slices, so that they never are in memory all at once."""

    def __init__(self, passages: Dataset, separator: str):
        self.passages = passages
        self.separator = separator

    def __len__(self) -> int:
        return len(self.passages)

    def __getitem__(self, key: Any) -> Any:
        rows = self.passages[key]
        if isinstance(key, int):
            return join_title(rows["title"], rows["text"], self.separator)
        return [
            join_title(title, text, self.separator)
            for title, text in zip(rows["title"], rows["text"], strict=True)
        ]


def _write_entry(
    folder: Path, parts: dict[str, Any], passages: Dataset, encoder: Encoder, runtime: Runtime
) -> None:
    partial = folder.with_name(f".{folder.name}.partial")
    for leftover in (partial, folder):  # of a process that was killed, or damaged
        if leftover.exists():
            shutil.rmtree(leftover)
    partial.mkdir()
    text_encoder = encoder.load(runtime)
    vectors = np.lib.format.open_memmap(
        partial / "vectors.npy", "w+", np.float32, (len(passages), text_encoder.dimension)
    )
    text_encoder.encode(
        _PassageTexts(passages, encoder.title_separator),
        encoder.batch_size,
        "embedding passages",
        out=vectors,
    )
    vectors.flush()
    entry = {"parts": parts, "sha256": weights.hash_file(partial / "vectors.npy")}
    (partial / "entry.json").write_text(json.dumps(entry, indent=2) + "\n", encoding="utf-8")
    partial.rename(folder)


def _find_damage(folder: Path, count: int) -> str | None:
    """Why an entry cannot be used, or None."""
    try:
        entry = json.loads((folder / "entry.json").read_text(encoding="utf-8"))
        if weights.hash_file(folder / "vectors.npy") != entry["sha256"]:
            return f"the entry {folder} is damaged (its checksum differs)"
        if len(np.load(folder / "vectors.npy", mmap_mode="r")) != count:
            return f"the entry {folder} is damaged (its length differs)"
    except (OSError, ValueError, KeyError) as error:
        return f"the entry {folder} is damaged ({type(error).__name__})"
    return None


def _explain_miss(root: Path, parts: dict[str, Any]) -> str:
    """In what the nearest entry differs."""
    differences: list[list[str]] = []
    for file in root.glob("*/entry.json"):
        try:
            other = json.loads(file.read_text(encoding="utf-8"))["parts"]
        except (OSError, ValueError, KeyError):
            continue
        differences.append(
            [
                name
                if name in ("passages", "weights")
                else f"{name} ({value!r}, there {other.get(name)!r})"
                for name, value in parts.items()
                if other.get(name) != value
            ]
        )
    if not differences:
        return "the cache holds no embeddings yet"
    fewest = min(len(names) for names in differences)
    nearest = next(names for names in differences if len(names) == fewest)
    return f"the nearest entry differs in {', '.join(nearest)}"
