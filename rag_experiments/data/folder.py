"""A folder of files: passages, train, validation and test."""

from __future__ import annotations

from pathlib import Path

from rag_experiments.contracts import Runtime
from rag_experiments.data.problems import Problems
from rag_experiments.data.source import (
    Source,
    Tables,
    find_folder_problems,
    list_folder,
    open_folder,
)


class Folder(Source):
    """A data set in one layout, each file JSON lines, CSV or Parquet with fixed fields.

    - `passages.jsonl`: `id`, `title` (may be absent or empty), `text`
    - `train.jsonl`, `validation.jsonl`, `test.jsonl`: `id`, `question`, `answers` (a text or a
      list), `passage_ids` (gold passages; may be absent or empty), `group` (may be absent)

    or, for documents that are to be summarized, no passages file and

    - `train.jsonl`, `validation.jsonl`, `test.jsonl`: `id`, `title` (may be absent or empty),
      `document`, `summaries` (a text or a list), `group` (may be absent)

    Where validation or test is absent it is taken from train, by a stable hash of the id.
    """

    path: str
    passages: str | None = None

    def problems(self) -> list[str]:
        """What is wrong with the paths."""
        found = find_folder_problems(Path(self.path).expanduser(), self.passages is None)
        return [f"path: {problem}" for problem in found] + super().problems()

    def files(self) -> list[Path] | None:
        """The folder's files, and those of `passages`."""
        return [*list_folder(Path(self.path).expanduser()), *self.passages_files()]

    def open(self, problems: Problems, runtime: Runtime) -> Tables:
        """Tables of the folder's files."""
        return open_folder(Path(self.path).expanduser(), problems)
