"""Passages on their way from file to file: written and read in batches, never all in memory."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, overload

from rag_experiments.contracts import Passage
from rag_experiments.store.scratch import open_unnamed

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

BATCH = 1000
"""Passages that are in memory at once."""

CHARACTERS = 1 << 23
"""Characters that are in memory at once, where passages are long."""

IN_MEMORY = 1 << 24
"""Bytes of passages up to which no file is made for them."""


def join_content(title: str, text: str) -> str:
    """One text for a passage's content, which no other title and text make."""
    return f"{len(title)} {title}{text}"


class StoredPassages(Sequence[Passage]):
    """Passages that a `PassageWriter` wrote, read where they are."""

    def __init__(self, table: pa.Table):
        self.table = table
        """Columns `id`, `title`, `text`, and more."""

    def __len__(self) -> int:
        return self.table.num_rows

    def __iter__(self) -> Iterator[Passage]:
        for identity, title, text in self.read("id", "title", "text"):
            yield Passage(identity, title, text)

    @overload
    def __getitem__(self, key: int) -> Passage: ...
    @overload
    def __getitem__(self, key: slice) -> list[Passage]: ...
    def __getitem__(self, key: int | slice) -> Passage | list[Passage]:
        if isinstance(key, slice):
            return [self[row] for row in range(*key.indices(len(self)))]
        return Passage(*(self.table[name][key].as_py() for name in ("id", "title", "text")))

    def read(self, *names: str) -> Iterator[tuple[str, ...]]:
        """Values of columns, row by row."""
        for batch in self.table.select(list(names)).to_reader(BATCH):
            yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)

    def to_dataset(self) -> Dataset:
        """The same rows as a Dataset, which reads them where they are."""
        from datasets import Dataset
        from datasets.fingerprint import generate_random_fingerprint

        # Without a fingerprint, all texts would be hashed for one that nothing needs.
        return Dataset(self.table, fingerprint=generate_random_fingerprint())


class PassageWriter:
    """Takes passages one by one and writes them, a batch at a time, to a file without a name.

    The file is in the cache folder and is gone with what reads it. Few passages need none.
    """

    def __init__(self, cache_dir: Path, columns: Sequence[str] = ("id", "title", "text")):
        import pyarrow as pa

        self.schema = pa.schema([(name, pa.string()) for name in columns])
        self.cache_dir = cache_dir
        self.rows: list[tuple[str, ...]] = []
        self.characters = 0
        self.batches: list[pa.RecordBatch] = []
        """Those that are in memory; none once there is a file."""
        self.file: IO[bytes] | None = None
        self.stream: Any = None

    def add(self, *row: str) -> None:
        """Take the values of all columns."""
        self.rows.append(row)
        self.characters += sum(map(len, row))
        if len(self.rows) == BATCH or self.characters >= CHARACTERS:
            self._flush()

    def finish(self) -> StoredPassages:
        """Everything that was added."""
        import pyarrow as pa

        self._flush()
        if self.file is None:
            return StoredPassages(pa.Table.from_batches(self.batches, self.schema))
        self.stream.close()
        self.file.flush()
        # The map outlives the file, and the arrays of the table keep the map.
        mapped = mmap.mmap(self.file.fileno(), 0, access=mmap.ACCESS_READ)
        self.file.close()
        return StoredPassages(pa.ipc.open_stream(pa.py_buffer(mapped)).read_all())

    def _flush(self) -> None:
        import pyarrow as pa

        if not self.rows:
            return
        columns = [pa.array(values, pa.string()) for values in zip(*self.rows, strict=True)]
        batch = pa.RecordBatch.from_arrays(columns, schema=self.schema)
        self.rows, self.characters = [], 0
        if self.file is None:
            self.batches.append(batch)
            if sum(batch.nbytes for batch in self.batches) > IN_MEMORY:
                self._open()
        else:
            self.stream.write_batch(batch)

    def _open(self) -> None:
        import pyarrow as pa

        self.file = open_unnamed(self.cache_dir)
        self.stream = pa.ipc.new_stream(pa.PythonFile(self.file, "w"), self.schema)
        for batch in self.batches:
            self.stream.write_batch(batch)
        self.batches = []


def read_rows(passages: Dataset, *columns: str) -> Iterator[tuple[str, ...]]:
    """Values of columns of a knowledge source, row by row, a batch in memory at a time."""
    for batch in passages.select_columns(list(columns)).iter(batch_size=BATCH):
        yield from zip(*(batch[name] for name in columns), strict=True)


def write_passages(
    rows: Iterable[tuple[str, ...]], columns: Sequence[str], cache_dir: Path
) -> StoredPassages:
    """Write rows as they come."""
    writer = PassageWriter(cache_dir, columns)
    for row in rows:
        writer.add(*row)
    return writer.finish()
