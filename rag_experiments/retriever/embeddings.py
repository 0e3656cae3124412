"""Passage vectors, computed once and kept by the content that they depend on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rag_experiments.contracts import Runtime
from rag_experiments.retriever.base import fingerprint_passages, join_title
from rag_experiments.store.entries import Store
from rag_experiments.store.keys import Key, describe, libraries, make_key

if TYPE_CHECKING:
    from datasets import Dataset

    from rag_experiments.retriever.encoder import Encoder

_VERSION = 2  # raise it when the same inputs give other vectors
_FILE = "vectors.npy"


class Embeddings(NamedTuple):
    """Passage vectors and what they are of."""

    vectors: np.ndarray
    """`[passages, dimension]` float32, a memory map."""
    passages: str
    """Fingerprint of the passages."""
    key: Key


def embed_passages(passages: Dataset, encoder: Encoder, runtime: Runtime) -> Embeddings:
    """Vectors of passages.

    They are written to disk as they are computed, into an entry of the store, and shared by all
    retrievers that search them.
    """
    fingerprint = fingerprint_passages(passages)
    key = embeddings_key(fingerprint, encoder, runtime)

    def make(folder: Path) -> None:
        text_encoder = encoder.load(runtime)
        shape = (len(passages), text_encoder.dimension)
        vectors = np.lib.format.open_memmap(folder / _FILE, "w+", np.float32, shape)
        texts = _PassageTexts(passages, encoder.title_separator)
        text_encoder.encode(texts, encoder.batch_size, "embedding passages", out=vectors)
        vectors.flush()
        text_encoder.release()

    folder = Store(runtime.cache_dir).folder(key, make)
    return Embeddings(np.load(folder / _FILE, mmap_mode="r"), fingerprint, key)


def embeddings_key(passages: str, encoder: Encoder, runtime: Runtime) -> Key:
    """Key of the vectors of passages with a given fingerprint."""
    return make_key(
        "embeddings",
        _VERSION,
        {
            "passages": passages,
            "dtype": runtime.dtype,
            "device": runtime.device.partition(":")[0],
            **describe(encoder, "encoder", runtime.cache_dir),
            **libraries("torch", "transformers", "tokenizers"),
        },
    )


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
