"""What every data option has in common: read, check, split, prepare."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from rag_experiments.contracts import Option, Passage, PreparedData, Question, Runtime, UserError
from rag_experiments.data import corpus
from rag_experiments.data.documents import DocumentColumns, prepare_documents, read_documents
from rag_experiments.data.preparation import Preparation
from rag_experiments.data.problems import Problems, list_names, number, quote
from rag_experiments.data.records import (
    Contexts,
    Located,
    PassageColumns,
    QuestionColumns,
    ReadPassages,
    read_passages,
    read_questions,
)
from rag_experiments.data.splits import SPLITS, assign_splits
from rag_experiments.data.tables import (
    SUFFIXES,
    Table,
    find_file_problem,
    find_folder_problem,
    open_table,
)

log = logging.getLogger(__name__)

Fraction = Annotated[float, Field(ge=0, lt=1)]


@dataclass
class Tables:
    """Where the records of a data option stand."""

    splits: dict[str, Table]
    """A split that the data does not have is absent."""
    columns: QuestionColumns | DocumentColumns = field(default_factory=QuestionColumns)
    """Their kind says what the records are."""
    passages: Table | None = None
    """None: the contexts of the questions are the passages; documents bring their own."""
    passage_columns: PassageColumns = field(default_factory=PassageColumns)
    ids: dict[str, Collection[str]] = field(default_factory=dict)
    """Questions that a split is made of, wherever they stand."""


class Source(Option):
    """Base of the data options: reads its tables and hands over prepared data."""

    passages: Any = None
    """The knowledge source: None for the data's own passages, or a file (JSON lines, CSV,
    Parquet), a folder with a file `passages`, or one of documents (Markdown, text, PDF), so that
    one collection serves several question sets."""
    passage_columns: PassageColumns = PassageColumns()
    """Columns of the file that `passages` names."""
    unknown_passage_ids: Literal["refuse", "drop"] = "refuse"
    """What happens to gold passages that are not in the knowledge source; dropped ones are
    counted."""
    validation_fraction: Fraction = 0.1
    """Part of the training questions that becomes the validation split where there is none."""
    test_fraction: Fraction = 0.2
    """Part of the training questions that becomes the test split where there is none."""
    scope: Literal["document", "examples"] = "document"
    """What is retrieved for a document that is to be summarized: passages of its own, or other
    documents of the train split with their summaries, as examples beside the whole document. For
    documents only: questions are searched in all passages."""
    summary_words: Annotated[int, Field(ge=1)] | None = None
    """Words that a summary of a validation or test document is asked to have; None: the median of
    the training summaries. Training documents ask for as many as their own summary has, so that
    the number means something."""
    preparation: Preparation = Preparation()

    @model_validator(mode="after")
    def _check_fractions(self) -> Source:
        total = self.validation_fraction + self.test_fraction
        if total >= 1:
            raise ValueError(
                f"validation_fraction + test_fraction: {total:g} leaves nothing to train on; "
                "legal: less than 1"
            )
        return self

    @abstractmethod
    def open(self, problems: Problems, runtime: Runtime) -> Tables:
        """Tables of the questions and of the data's own passages."""

    def problems(self) -> list[str]:
        """What is wrong with the paths, found before anything is read."""
        found = find_passages_problems(self.passages)
        if self._reads_corpus() and self.passage_columns != PassageColumns():
            found.append(
                f"passage_columns: are those of a file of records, but passages={self.passages!r} "
                "is a folder of documents; leave them out"
            )
        return found

    def files(self) -> list[Path] | None:
        """Every file that `load` reads, so that data is told by their content before it is read;
        None where the source is elsewhere and may change, or an option does not say."""
        return None

    def passages_files(self) -> list[Path]:
        """The files that `passages` names, where it names some."""
        if not isinstance(self.passages, str):
            return []
        path = Path(self.passages).expanduser()
        if is_corpus(path):
            return list(corpus.list_documents(path).documents)
        return [find_in_folder(path, "passages") or path]

    def not_read(self) -> list[str]:
        """What stands beside the documents of a folder and is not read: notes tell of it."""
        if not self._reads_corpus():
            return []
        return list(corpus.list_documents(Path(self.passages).expanduser()).notes)

    def _reads_corpus(self) -> bool:
        return isinstance(self.passages, str) and is_corpus(Path(self.passages).expanduser())

    def load(self, runtime: Runtime) -> PreparedData:
        """Read every record, check it and prepare it; passages go from file to file in batches.

        Raises UserError with every problem of the records (the first 20 in words, the rest
        counted), each with file, line and field.
        """
        problems = Problems()
        tables = self.open(problems, runtime)
        if isinstance(tables.columns, DocumentColumns):
            if self.passages is not None:
                problems.add(
                    "data.passages",
                    f"{quote(self.passages)}, but the records are documents with summaries, which "
                    "bring their own; set null (data.scope says what is retrieved)",
                )
            given, notes = self._read_documents(tables, tables.columns, problems)
            return prepare_documents(
                given, notes, self.preparation, self.scope, self.summary_words, runtime
            )
        for name in ("scope", "summary_words"):
            if getattr(self, name) != type(self).model_fields[name].default:
                problems.add(
                    f"data.{name}",
                    f"{getattr(self, name)!r} is for documents with summaries, but the records "
                    "are questions; leave it out",
                )
        if isinstance(self.passages, str):
            tables.passages = open_passages(
                Path(self.passages).expanduser(), problems, self._delimiter()
            )
            tables.passage_columns = self.passage_columns
        passages, located, notes = self._read(tables, tables.columns, problems, runtime)
        splits = {name: [row.question for row in rows] for name, rows in located.items()}
        places = {row.question.id: row.place for rows in located.values() for row in rows}
        return replace(self.preparation.prepare(passages, splits, notes, runtime), places=places)

    def _read_documents(
        self, tables: Tables, columns: DocumentColumns, problems: Problems
    ) -> tuple[dict[str, list[Question]], list[str]]:
        notes: list[str] = []
        given: dict[str, list[Located]] = {}
        for name, table in tables.splits.items():
            result = read_documents(table, columns, problems, self._separator())
            notes += result.notes
            given[name] = result.questions
        _check_ids_across(given, columns.id or columns.document, problems)
        splits, split_notes = self._split(given, tables, problems)
        problems.raise_if_any()
        documents = {name: [row.question for row in rows] for name, rows in splits.items()}
        return documents, notes + split_notes

    def _split(
        self, given: dict[str, list[Located]], tables: Tables, problems: Problems
    ) -> tuple[dict[str, list[Located]], list[str]]:
        fractions = {"validation": self.validation_fraction, "test": self.test_fraction}
        return assign_splits(given, fractions, tables.ids, problems)

    def _read(
        self, tables: Tables, columns: QuestionColumns, problems: Problems, runtime: Runtime
    ) -> tuple[Sequence[Passage], dict[str, list[Located]], list[str]]:
        notes: list[str] = []
        read: ReadPassages | None = None
        contexts: Contexts | None = None
        if tables.passages is None:
            contexts = Contexts(runtime.cache_dir)
        else:
            read = read_passages(
                tables.passages, tables.passage_columns, problems, runtime.cache_dir
            )
            notes += read.notes
            self._check_lengths(read.passages, problems)
            if columns.context is not None:
                notes.append("The contexts of the questions are not used: passages are given.")
        passages_are_whole = problems.count == 0

        given: dict[str, list[Located]] = {}
        for name, table in tables.splits.items():
            result = read_questions(table, columns, problems, self._separator(), contexts)
            notes += result.notes
            given[name] = result.questions
        passages: Sequence[Passage] = read.passages if read is not None else ()
        if contexts is not None:
            passages = contexts.writer.finish()
            notes.append(f"{number(len(passages), 'passage')} made from the questions' contexts.")

        _check_ids_across(given, columns.id or columns.question, problems)
        splits, split_notes = self._split(given, tables, problems)
        notes += split_notes
        if passages_are_whole:
            if read is not None and (read.passages or read.left_out):
                self._check_gold(splits, read, columns, problems, notes)
            elif not passages and problems.count == 0:
                name = tables.passages.name if tables.passages else "contexts"
                problems.add(name, "there is no passage in it")
        problems.raise_if_any()
        return passages, splits, notes

    def _check_lengths(self, passages: Sequence[Passage], problems: Problems) -> None:
        """Note documents that would be cut, unless that is what the preparation is told to do."""
        if self.preparation.shortens or not self._reads_corpus():
            return
        long = corpus.describe_long(passages)
        if long is not None:
            problems.add(
                "data.preparation.chunk.unit",
                f"null, but {long}; set data.preparation.chunk.unit=words (100 of them, see "
                "chunk.size), or data.preparation.max_words to read the beginnings alone",
            )

    def _separator(self) -> str:
        return "|"

    def _delimiter(self) -> str:
        return ","

    def _check_gold(
        self,
        splits: dict[str, list[Located]],
        read: ReadPassages,
        columns: QuestionColumns,
        problems: Problems,
        notes: list[str],
    ) -> None:
        examples = [passage.id for passage in read.passages[:3]]
        unknown = left_out = 0
        for name, rows in splits.items():
            for i, (place, question) in enumerate(rows):
                ids = tuple(filter(read.holds, question.passage_ids))
                if len(ids) == len(question.passage_ids):
                    continue
                for identity in question.passage_ids:
                    if read.holds(identity):
                        continue
                    if read.leaves_out(identity):
                        left_out += 1
                    elif self.unknown_passage_ids == "drop":
                        unknown += 1
                    else:
                        problems.add(
                            f"{place}:{columns.passage_ids}",
                            f"{quote(identity)} is no id of a passage; "
                            f"{list_names('', examples)}, ... (data.unknown_passage_ids=drop "
                            "leaves such ids out)",
                        )
                splits[name][i] = Located(place, replace(question, passage_ids=ids))
        if left_out:
            notes.append(f"{number(left_out, 'gold id')} dropped, of passages that are left out.")
        if unknown:
            notes.append(f"{number(unknown, 'gold id')} dropped that no passage has.")


def _check_ids_across(given: dict[str, list[Located]], column: str, problems: Problems) -> None:
    """Note ids that stand in two splits: predictions are joined by id."""
    places: dict[str, str] = {}
    for rows in given.values():
        for place, question in rows:
            if question.id in places:
                where = f"{place}:{column}"
                problems.add(where, f"{quote(question.id)} is also the id of {places[question.id]}")
            places[question.id] = place


def find_passages_problems(passages: Any) -> list[str]:
    """What is wrong with the path of a knowledge source, before it is read."""
    if not isinstance(passages, str):
        return []
    path = Path(passages).expanduser()
    if is_corpus(path):
        found = corpus.find_corpus_problems(path, corpus.list_documents(path))
        return [f"passages: {problem}" for problem in found]
    if path.is_dir():
        if find_in_folder(path, "passages") is None:
            names = sorted(other.name for other in path.iterdir())
            return [
                f"passages: {str(path)!r} holds neither passages.jsonl (.csv, .parquet) nor "
                f"documents ({', '.join(corpus.SUFFIXES)}); {list_names('passages.jsonl', names)}"
            ]
        return [f"passages: {problem}" for problem in _find_stem_problems(path, "passages")]
    problem = find_file_problem(path)
    return [f"passages: {problem}"] if problem else []


def is_corpus(path: Path) -> bool:
    """Whether a path is a folder of documents; a file `passages` in it makes it none."""
    if not path.is_dir() or find_in_folder(path, "passages") is not None:
        return False
    listing = corpus.list_documents(path)
    return bool(listing.documents or listing.problems)


def read_knowledge_source(path: Path, problems: Problems, cache_dir: Path) -> ReadPassages:
    """Read passages by themselves, from what `passages` may name; `problems` takes what is wrong
    with single ones, a file in the cache folder the texts. Raises UserError where there is nothing
    to read."""
    found = find_passages_problems(str(path))
    if found:
        raise UserError([line.removeprefix("passages: ") for line in found])
    table = open_passages(path, problems)
    read = read_passages(table, PassageColumns(), problems, cache_dir)
    if not read.passages and not problems.count:
        problems.add(table.name, "there is no passage in it")
    return read


def open_passages(path: Path, problems: Problems, delimiter: str = ",") -> Table:
    """Table of a file of passages, of the file `passages` in a folder, or of its documents."""
    if is_corpus(path):
        return corpus.open_corpus(path, problems)
    return open_table(find_in_folder(path, "passages") or path, problems, delimiter)


def holds_documents(path: Path) -> bool:
    """Whether the records of a folder are documents with summaries, by the first one's fields."""
    for name in SPLITS:
        file = find_in_folder(path, name)
        row = next(iter(open_table(file, Problems()).rows), None) if file is not None else None
        if row is not None:
            return "document" in row.values and "question" not in row.values
    return False


def open_folder(path: Path, problems: Problems) -> Tables:
    """Tables of a folder: passages, train, validation and test, each a file of any format.

    Documents with summaries bring no passages.
    """
    splits = {}
    for name in SPLITS:
        file = find_in_folder(path, name)
        if file is not None:
            splits[name] = open_table(file, problems)
    if holds_documents(path):
        return Tables(splits, columns=DocumentColumns())
    passages = find_in_folder(path, "passages")
    return Tables(splits, passages=open_table(passages, problems) if passages else None)


def find_in_folder(path: Path, stem: str) -> Path | None:
    """File of that name in the folder, whatever its format; None where there is none."""
    return next((f for s in SUFFIXES if (f := path / f"{stem}{s}").is_file()), None)


def list_folder(path: Path) -> list[Path]:
    """Files of a folder that `open_folder` reads."""
    found = (find_in_folder(path, stem) for stem in ("passages", *SPLITS))
    return [file for file in found if file is not None]


def find_folder_problems(path: Path, own_passages: bool) -> list[str]:
    """What is wrong with a folder in the layout, before it is read."""
    problem = find_folder_problem(path)
    if problem:
        return [problem]
    problems = []
    if own_passages and not holds_documents(path):
        problems += _find_stem_problems(path, "passages")
    found = [name for name in SPLITS if find_in_folder(path, name)]
    if "train" not in found and "test" not in found:
        names = sorted(other.name for other in path.iterdir())
        problems.append(
            f"{str(path)!r} holds neither train.jsonl nor test.jsonl; "
            + list_names("train.jsonl", names)
        )
    for name in found:
        problems += _find_stem_problems(path, name)
    return problems


def _find_stem_problems(path: Path, stem: str) -> list[str]:
    files = [f"{stem}{suffix}" for suffix in SUFFIXES if (path / f"{stem}{suffix}").is_file()]
    if not files:
        names = sorted(other.name for other in path.iterdir())
        return [
            f"{str(path)!r} holds no {stem}.jsonl (.csv, .parquet); "
            + list_names(f"{stem}.jsonl", names)
        ]
    if len(files) > 1:
        return [f"{str(path)!r} holds {' and '.join(files)}; legal: one of them"]
    return []
