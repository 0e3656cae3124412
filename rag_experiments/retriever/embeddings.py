"""Passage vectors, computed once and kept by the content that they depend on.

A corpus is embedded in shards of `SHARD` passages, one after the other, so that memory does not
grow with it, a run that was killed goes on with the shard that it was at, and a corpus that
passages were added to embeds the new shards alone. All shards are in one file, as readers want one
memory map: a file each would have to be copied into one, or kept open by the hundred.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rag_experiments.contracts import Runtime
from rag_experiments.retriever.base import fingerprint_shards
from rag_experiments.retriever.estimate import SAMPLE, Work, announce
from rag_experiments.retriever.index import Flat
from rag_experiments.runtime.disk import write_whole
from rag_experiments.store.entries import Store
from rag_experiments.store.keys import Key, describe, libraries, make_key

if TYPE_CHECKING:
    from datasets import Dataset

    from rag_experiments.encoder import TextEncoder
    from rag_experiments.retriever.encoder import Encoder
    from rag_experiments.retriever.index import Hnsw, IvfPq

log = logging.getLogger(__name__)

SHARD = 1 << 15
"""Passages; a multiple of what the encoder sorts by length, so that no vector depends on it."""

_VERSION = 2  # raise it when the same inputs give other vectors
_FILE = "vectors.npy"
_RECORD = "shards.json"


class Embeddings(NamedTuple):
    """Passage vectors and what they are of."""

    vectors: np.ndarray
    """`[passages, dimension]` float32, a memory map."""
    passages: str
    """Fingerprint of the passages."""
    key: Key


class Shard(NamedTuple):
    """What a shard is of, and what its vectors are, each as a SHA-256."""

    passages: str
    vectors: str


def embed_passages(
    passages: Dataset, encoder: Encoder, runtime: Runtime, index: Flat | Hnsw | IvfPq | None = None
) -> Embeddings:
    """Vectors of passages, in an entry of the store that all retrievers share.

    Shards that an earlier process finished, or that are in the entry of another corpus, are not
    computed again. Before the first is computed, the log says what that and building `index`
    (None: a flat one) will take; UserError where it cannot fit.
    """
    fingerprint, names = fingerprint_shards(passages, SHARD)
    key = embeddings_key(fingerprint, encoder, runtime)
    store = Store(runtime.cache_dir)

    def make(folder: Path) -> None:
        text_encoder = encoder.load(runtime)
        elsewhere = _find_shards(store, key)
        with _open_shards(folder, (len(passages), text_encoder.dimension)) as file:
            if file.shards:
                log.info("embeddings: %d of %d shards are there", len(file.shards), len(names))
            rows = {
                number: range(number * SHARD, min((number + 1) * SHARD, len(passages)))
                for number in range(len(file.shards), len(names))
            }
            new = sum(len(rows[number]) for number in rows if names[number] not in elsewhere)
            work = Work(
                count=len(passages),
                dimension=text_encoder.dimension,
                embedded=new,
                written=sum(map(len, rows.values())),
                held=min(new, SHARD),
            )
            step = max(1, len(passages) // SAMPLE)
            sample = passages.select(range(0, len(passages), step)[:SAMPLE])
            texts = _PassageTexts(sample, encoder)
            size = encoder.batch_size
            announce(work, index or Flat(), folder.parents[2], text_encoder, texts, size)
            for number, own in rows.items():
                vectors = _take(elsewhere, names[number])
                if vectors is None:
                    texts = _PassageTexts(passages.select(own), encoder)
                    place = f", shard {number + 1} of {len(names)}" if len(names) > 1 else ""
                    vectors = text_encoder.encode(texts, size, f"embedding passages{place}")
                file.append(names[number], vectors)
        text_encoder.release()

    folder = store.folder(key, make, resumable=True)
    return Embeddings(np.load(folder / _FILE, mmap_mode="r"), fingerprint, key)


def write_vectors(
    passages: Dataset, encoder: Encoder, text_encoder: TextEncoder, file: Path
) -> None:
    """Write the vectors `[passages, dimension]` float32 that an encoder in training gives passages
    as it is now, to a file apart from the store, which is there when it is whole."""
    partial = file.with_name(f".{file.name}.partial")
    shape = (len(passages), text_encoder.dimension)
    vectors = np.lib.format.open_memmap(partial, "w+", np.float32, shape)
    texts = _PassageTexts(passages, encoder)
    text_encoder.encode(texts, encoder.batch_size, "embedding passages anew", vectors)
    vectors.flush()
    partial.replace(file)


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


class _ShardFile:
    """Vectors that are appended shard by shard; each is on the disk before it is recorded."""

    def __init__(self, stream: IO[bytes], record: Path, shape: tuple[int, int]):
        self.stream = stream
        self.record = record
        self.shards: list[Shard] = []
        """Those that are there."""
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, header)
        end = stream.tell()
        for shard in _read_record(record):
            content = stream.read(SHARD * shape[1] * 4)
            if hashlib.sha256(content).hexdigest() != shard.vectors:
                log.warning("embeddings: a shard is damaged; it and those behind are made again")
                break
            self.shards.append(shard)
            end = stream.tell()
        stream.seek(end)
        stream.truncate()

    def append(self, passages: str, vectors: np.ndarray) -> None:
        """Write the vectors `[n, dimension]` of the passages with a given fingerprint."""
        content = _bytes(vectors)
        self.stream.write(content)
        self.stream.flush()
        os.fsync(self.stream.fileno())
        self.shards.append(Shard(passages, hashlib.sha256(content).hexdigest()))
        write_whole(self.record, json.dumps([shard._asdict() for shard in self.shards]))


@contextmanager
def _open_shards(folder: Path, shape: tuple[int, int]) -> Iterator[_ShardFile]:
    """The vectors in a folder of the store that is being made, with what is there already."""
    for leftover in folder.glob(f".{_RECORD}.*"):  # of a process that was killed
        leftover.unlink()
    file = folder / _FILE
    with file.open("r+b" if file.is_file() else "w+b") as stream:
        yield _ShardFile(stream, folder / _RECORD, shape)


def _find_shards(store: Store, key: Key) -> dict[str, tuple[np.ndarray, Shard]]:
    """Vectors of shards that entries of other corpora hold, by the passages' fingerprint."""
    found = {}
    for folder, entry in store.entries():
        if entry is None or entry.key.stage != key.stage:
            continue
        if {**entry.key.parts, "passages": key.parts["passages"]} != key.parts:
            continue
        try:
            vectors = np.load(folder / _FILE, mmap_mode="r")
        except (OSError, ValueError):  # damaged, or pruned in this very moment
            continue
        for number, shard in enumerate(_read_record(folder / _RECORD)):
            own = vectors[number * SHARD : (number + 1) * SHARD]
            found[shard.passages] = (own, shard)
    return found


def _take(shards: dict[str, tuple[np.ndarray, Shard]], passages: str) -> np.ndarray | None:
    if passages not in shards:
        return None
    vectors, shard = shards[passages]
    return vectors if hashlib.sha256(_bytes(vectors)).hexdigest() == shard.vectors else None


def _read_record(file: Path) -> list[Shard]:
    try:
        return [Shard(**row) for row in json.loads(file.read_text("utf-8"))]
    except (OSError, ValueError, TypeError):  # there is none, or it is damaged
        return []


def _bytes(vectors: np.ndarray) -> memoryview:
    return np.ascontiguousarray(vectors, "<f4").data.cast("B")


class _PassageTexts(Sequence[str]):
    """Texts of passages, read in slices, so that they never are in memory all at once."""

    def __init__(self, passages: Dataset, encoder: Encoder):
        self.passages = passages
        self.encoder = encoder

    def __len__(self) -> int:
        return len(self.passages)

    def __getitem__(self, key: Any) -> Any:
        rows = self.passages[key]
        if isinstance(key, int):
            return self.encoder.read(rows["title"], rows["text"])
        return [
            self.encoder.read(title, text)
            for title, text in zip(rows["title"], rows["text"], strict=True)
        ]
