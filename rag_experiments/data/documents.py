"""Documents that are to be summarized: read, checked, and made into what is retrieved for them."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from rag_experiments.contracts import Option, Passage, PreparedData, Question, Runtime, UserError
from rag_experiments.data.fields import Fields
from rag_experiments.data.passages import write_passages
from rag_experiments.data.preparation import (
    Preparation,
    assemble,
    cut_texts,
    limit_records,
    normalize,
    normalize_long,
    truncate,
)
from rag_experiments.data.problems import Problems, number, quote
from rag_experiments.data.records import Column, Located, ReadQuestions
from rag_experiments.data.splits import SPLITS, place_id
from rag_experiments.data.tables import Table
from rag_experiments.functional.sentences import find_sentences

log = logging.getLogger(__name__)

Scope = Literal["document", "examples"]


class DocumentColumns(Option):
    """Where the fields of a document stand: a column, or a dotted path into nested fields."""

    id: Column | None = "id"
    """None: the id is a hash of the document."""
    title: Column | None = "title"
    """Optional field; None: documents have no title."""
    document: Column = "document"
    """A text, or a list of texts (sentences, paragraphs), which are joined by spaces."""
    summaries: Column = "summaries"
    """A text or a list of texts: the reference summaries. The first is trained on."""
    group: Column | None = "group"
    """Optional field: a named part of a split that is also scored by itself."""


def read_documents(
    table: Table, columns: DocumentColumns, problems: Problems, separator: str = "|"
) -> ReadQuestions:
    """Read and check the documents of a table; each is a question for its summary.

    In CSV a cell with several summaries is a JSON list or separated by `separator`.
    """
    result = ReadQuestions()
    reader = Fields(table, columns, problems, ("id", "document", "summaries"), separator)
    places: dict[str, str] = {}
    untitled = 0
    for row in reader.rows():
        text = reader.joined(row, "document")
        if columns.id is None:
            identity: str | None = reader.hashed_identity(text)
        else:
            identity = reader.identity(row, "id")
        title = reader.optional_text(row, "title")
        summaries = reader.texts(row, "summaries")
        group = reader.optional_text(row, "group")
        if summaries == ():
            place = f"{table.place(row.number)}:{columns.summaries}"
            problems.add(place, "[] is empty; legal: one summary or more")
        if identity is None or text is None or not summaries:
            continue
        if identity in places:
            place = f"{table.place(row.number)}:{columns.id or columns.document}"
            problems.add(place, f"{quote(identity)} is also the id of {places[identity]}")
            continue
        places[identity] = table.place(row.number)
        untitled += not title
        document = Question(
            identity, title or _first_sentence(text), summaries, group=group, document=text
        )
        result.questions.append(Located(places[identity], document))
    reader.check_optional()
    if untitled:
        result.notes.append(
            f"{table.name}: {number(untitled, 'document')} without a title: the first sentence "
            "stands in for it, also in what is searched with."
        )
    result.notes += reader.notes(other=())
    return result


def _first_sentence(text: str) -> str:
    text = text.strip()
    start, end = find_sentences(text)[0]
    return text[start:end]


def prepare_documents(
    splits: Mapping[str, Sequence[Question]],
    notes: Sequence[str],
    preparation: Preparation,
    scope: Scope,
    summary_words: int | None,
    runtime: Runtime,
) -> PreparedData:
    """Normalize, limit, and make the knowledge source that `scope` asks for.

    Raises UserError where there is nothing to make it of. Gold passages are not known.
    """
    steps = _Steps({name: list(splits[name]) for name in SPLITS}, notes, preparation)
    if preparation.normalize:
        steps.normalize()
    steps.report_repeated()
    steps.ask_for_words(summary_words)
    steps.limit()
    if scope == "document":
        steps.cut(runtime)
    else:
        steps.show_examples()
    for note in steps.notes:
        log.info("%s", note)
    columns = ("id", "title", "text", "document_id", *(["summary"] * (scope == "examples")))
    rows = (
        (p.id, p.title, p.text, document_id, p.summary)[: len(columns)]
        for p, document_id in zip(steps.passages, steps.documents, strict=True)
    )
    passages = write_passages(rows, columns, runtime.cache_dir)
    return assemble(passages, steps.splits, "none", steps.notes)


class _Steps:
    """Documents on their way, with what was done to them."""

    def __init__(
        self, splits: dict[str, list[Question]], notes: Sequence[str], preparation: Preparation
    ):
        self.splits = splits
        self.notes = list(notes)
        self.preparation = preparation
        self.passages: list[Passage] = []
        self.documents: list[str] = []
        """Document of each passage."""

    def normalize(self) -> None:
        chunk = self.preparation.chunk
        for name, documents in self.splits.items():
            self.splits[name] = [
                replace(
                    document,
                    question=normalize(document.question),
                    answers=tuple(dict.fromkeys(map(normalize, document.answers))),
                    document=normalize_long(document.document, chunk),
                )
                for document in documents
            ]

    def report_repeated(self) -> None:
        texts = {
            name: [_content(document) for document in documents]
            for name, documents in self.splits.items()
        }
        for name, own in texts.items():
            if len(set(own)) < len(own):
                repeated = number(len(own) - len(set(own)), "document")
                self.notes.append(f"{name}: {repeated} with the text of another.")
        for i, name in enumerate(SPLITS):
            for other in SPLITS[i + 1 :]:
                shared = len(set(texts[name]) & set(texts[other]))
                if shared:
                    self.notes.append(
                        f"{number(shared, 'document')} of {name} in {other} as well: figures of "
                        f"{other} are too good by that."
                    )

    def ask_for_words(self, summary_words: int | None) -> None:
        lengths = sorted(len(d.answers[0].split()) for d in self.splits["train"])
        asked = summary_words or (round(statistics.median(lengths)) if lengths else 0)
        for name, documents in self.splits.items():
            self.splits[name] = [
                replace(d, words=len(d.answers[0].split()) if name == "train" else asked)
                for d in documents
            ]
        if lengths:
            self.notes.append(
                f"train: summaries of {lengths[0]} to {lengths[-1]} words, "
                f"{statistics.median(lengths):g} at the median."
            )
        if asked:
            origin = "data.summary_words" if summary_words else "that median"
            self.notes.append(
                f"Summaries of about {asked} words are asked for ({origin}); in training, of as "
                "many as the summary has."
            )

    def limit(self) -> None:
        for name, documents in self.splits.items():
            limit = getattr(self.preparation.limit, name)
            if limit is not None and limit < len(documents):
                self.splits[name] = limit_records(documents, limit)
                self.notes.append(f"{name}: limited to {limit} of {len(documents)} documents.")

    def cut(self, runtime: Runtime) -> None:
        """Make the passages of each document, and bind it to them."""
        chunk = self.preparation.chunk
        documents = [document for name in SPLITS for document in self.splits[name]]
        texts = [document.document for document in documents]
        pieces = [[text] for text in texts]
        if chunk.unit is not None:
            pieces = list(cut_texts(texts, chunk, runtime))
        places: dict[str, str] = {}
        for document, own in zip(documents, pieces, strict=True):
            for i, text in enumerate(own):
                identity = document.id if len(own) == 1 else f"{document.id}#{i}"
                if identity in places:
                    raise UserError(
                        f"data: the id {quote(identity)} is that of a document and of a passage of "
                        f"{quote(places[identity])}; rename the document"
                    )
                places[identity] = document.id
                self._add(Passage(identity, "", text), document.id)
        for name in SPLITS:
            self.splits[name] = [replace(d, within=d.id) for d in self.splits[name]]
        counts = [len(own) for own in pieces]
        whole = sum(count == 1 for count in counts)
        if documents:
            self.notes.append(
                f"{number(len(documents), 'document')} in {number(len(self.passages), 'passage')}, "
                f"{min(counts)} to {max(counts)} each; {whole} are one passage, and retrieval has "
                "nothing to choose in them."
            )
        if self.preparation.limit.passages is not None:
            self.notes.append(
                "limit.passages has no effect: every document keeps its own passages."
            )
        self._truncate()

    def show_examples(self) -> None:
        """Make the training documents examples of each other and of the rest."""
        if not self.splits["train"]:
            raise UserError(
                "data.scope: 'examples' shows documents of the train split with their summaries, "
                "but it is empty; give training documents, or data.scope=document"
            )
        first: dict[str, str] = {}
        repeated = 0
        for document in self.splits["train"]:
            content = _content(document)
            known = first.setdefault(content, document.id)
            if known != document.id and self.preparation.deduplicate:
                repeated += 1
                continue
            # A document whose first sentence stands in for a title has that in its text.
            titled = not document.document.startswith(document.question)
            title = document.question if titled else ""
            self._add(
                Passage(document.id, title, document.document, summary=document.answers[0]), known
            )
        for name in SPLITS:
            # By the content, so that nothing is shown its own summary by another id.
            self.splits[name] = [
                replace(d, without=first.get(_content(d), "")) for d in self.splits[name]
            ]
        self.notes.append(
            f"{number(len(self.passages), 'training document')} with a summary to show as "
            "examples; none is shown to itself."
        )
        if repeated:
            self.notes.append(f"{number(repeated, 'duplicate example')} merged into the first.")
        if self.preparation.chunk.unit is not None:
            self.notes.append("chunk has no effect: examples and documents are read whole.")
        self._limit_examples(self.preparation.limit.passages)
        self._truncate()

    def _limit_examples(self, limit: int | None) -> None:
        if limit is None or limit >= len(self.passages):
            return
        order = sorted(self.passages, key=lambda passage: place_id(passage.id, "limit"))
        kept = {passage.id for passage in order[:limit]}
        rows = [i for i, passage in enumerate(self.passages) if passage.id in kept]
        self.notes.append(f"limited to {limit} of {len(self.passages)} examples.")
        self.passages = [self.passages[i] for i in rows]
        self.documents = [self.documents[i] for i in rows]

    def _add(self, passage: Passage, document_id: str) -> None:
        self.passages.append(passage)
        self.documents.append(document_id)

    def _truncate(self) -> None:
        max_words = self.preparation.max_words
        if max_words is None:
            return
        shorter = [replace(p, text=truncate(p.text, max_words)) for p in self.passages]
        cut = sum(p.text != old.text for p, old in zip(shorter, self.passages, strict=True))
        self.passages = shorter
        if cut:
            self.notes.append(f"{cut} of {len(shorter)} passages cut after {max_words} words.")


def _content(document: Question) -> str:
    return normalize(document.document).casefold()
