"""Single files with columns of any name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from rag_experiments.contracts import Runtime
from rag_experiments.data.documents import DocumentColumns
from rag_experiments.data.problems import Problems
from rag_experiments.data.records import QuestionColumns
from rag_experiments.data.source import Source, Tables
from rag_experiments.data.splits import SPLITS
from rag_experiments.data.tables import find_file_problem, open_table


class Files(Source):
    """Questions in JSON lines, CSV (`.tsv`: tab-separated) or Parquet, one file a split.

    Where validation or test is absent it is taken from train, by a stable hash of the id.
    The passages are the file or the folder of documents that `passages` names, or the contexts of
    the questions (`columns.context`).
    """

    train: str | None = None
    """None: nothing to train on, for runs that evaluate only."""
    validation: str | None = None
    test: str | None = None
    passages: str | None = None
    columns: QuestionColumns | DocumentColumns = QuestionColumns()
    """Their kind says what the records are: questions, or documents with summaries."""
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","
    """Between the cells of CSV files."""
    list_separator: Annotated[str, Field(min_length=1)] = "|"
    """Between the items of a CSV cell that holds several answers or ids; a JSON list works
    as well."""

    def problems(self) -> list[str]:
        """What is wrong with the paths, and whether there are passages at all."""
        found = []
        if self.train is None and self.test is None:
            found.append("train: null, and test too; legal: the path of a file in one of them")
        for name in SPLITS:
            path = getattr(self, name)
            problem = find_file_problem(Path(path).expanduser()) if path is not None else None
            if problem:
                found.append(f"{name}: {problem}")
        context = not isinstance(self.columns, QuestionColumns) or self.columns.context
        if self.passages is None and context is None:
            found.append(
                "passages: null; legal: a file of passages, a folder of documents, or null with "
                "columns.context, the field of the questions that holds their passages"
            )
        return found + super().problems()

    def files(self) -> list[Path] | None:
        """The files that are given."""
        given = [path for path in (self.train, self.validation, self.test) if path is not None]
        return [*(Path(path).expanduser() for path in given), *self.passages_files()]

    def open(self, problems: Problems, runtime: Runtime) -> Tables:
        """Tables of the files that are given."""
        splits = {}
        for name in SPLITS:
            path = getattr(self, name)
            if path is not None:
                splits[name] = open_table(Path(path).expanduser(), problems, self.delimiter)
        return Tables(splits, columns=self.columns)

    def _separator(self) -> str:
        return self.list_separator

    def _delimiter(self) -> str:
        return self.delimiter
