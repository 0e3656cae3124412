"""A folder of documents as passages: Markdown, plain text and PDF."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rag_experiments.contracts import Passage
from rag_experiments.data.markdown import read_markdown
from rag_experiments.data.pdf import Pdf, is_readable, read_pdf
from rag_experiments.data.problems import Problems, number, quote
from rag_experiments.data.tables import Row, Table, describe_bytes

SUFFIXES = (".md", ".txt", ".pdf")
"""Endings of the files that are documents, in small or capital letters."""

LONG = 200
"""Words of a document that encoders and prompts begin to cut: it wants to be chunked."""

_SHOWN = 3


@dataclass(frozen=True)
class Listing:
    """What a folder holds, at any depth."""

    documents: tuple[Path, ...]
    """By their paths."""
    notes: tuple[str, ...]
    """What is not read, counted: other files, hidden ones, links."""
    problems: tuple[str, ...] = ()
    """Folders that cannot be looked into."""


def list_documents(folder: Path) -> Listing:
    """Find the documents of a folder and of those in it.

    Hidden files and folders are passed over, and so are links to folders, which may lead in a
    circle; a link to a file is that file.
    """
    documents: list[Path] = []
    errors: list[OSError] = []
    others: Counter[str] = Counter()
    hidden = 0
    links: list[str] = []
    for place, folders, names in os.walk(folder, onerror=errors.append):
        here = Path(place)
        hidden += sum(name.startswith(".") for name in (*folders, *names))
        shown = [name for name in folders if not name.startswith(".")]
        links += [_within(folder, here / name) for name in shown if (here / name).is_symlink()]
        folders[:] = [name for name in shown if not (here / name).is_symlink()]
        for file in (here / name for name in names if not name.startswith(".")):
            if not file.is_file():
                links.append(_within(folder, file))
            elif file.suffix.lower() in SUFFIXES:
                documents.append(file)
            else:
                others[file.suffix.lower() or "without an ending"] += 1
    documents.sort(key=lambda file: file.relative_to(folder).parts)
    notes = []
    if others:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(others.items()))
        notes.append(f"{number(others.total(), 'file')} of other kinds not read: {kinds}.")
    if hidden:
        notes.append(f"Hidden files and folders not read: {hidden}.")
    if links:
        notes.append(f"{number(len(links), 'link')} not followed: {_name(sorted(links))}.")
    refused = (f"{quote(str(e.filename))} cannot be read: {e.strerror}" for e in errors)
    return Listing(
        tuple(documents), tuple(f"{folder}: {note}" for note in notes), tuple(sorted(refused))
    )


def find_corpus_problems(folder: Path, listing: Listing) -> list[str]:
    """What is wrong with the documents of a folder, before they are read."""
    problems = list(listing.problems)
    count = sum(file.suffix.lower() == ".pdf" for file in listing.documents)
    if count and not is_readable():
        problems.append(
            f"{number(count, 'PDF file')} in {str(folder)!r} cannot be read without the package "
            "pypdf: pip install 'rag-experiments[pdf]'"
        )
    return problems


@dataclass(frozen=True)
class DocumentTable(Table):
    """Documents, each a row."""

    files: tuple[Path, ...] = ()

    def place(self, number: int) -> str:
        """The file of a document."""
        return str(self.files[number - 1])


def open_corpus(folder: Path, problems: Problems) -> Table:
    """Open the documents of a folder, each as a row: its path within the folder as `id`, `title`
    and `text`.

    The title is that of a Markdown document or PDF, else the file's name without its ending.
    Documents without any text are left out and named in the notes; what cannot be read is noted
    as a problem when the rows are read.
    """
    listing = list_documents(folder)
    found = find_corpus_problems(folder, listing)
    for problem in found:
        problems.add("passages", problem)
    if found:
        return Table(str(folder), (), readable=False)
    notes = list(listing.notes)
    rows = _read_documents(folder, listing.documents, problems, notes)
    return DocumentTable(
        str(folder),
        rows,
        columns=("id", "title", "text"),
        count=len(listing.documents),
        notes=notes,
        files=listing.documents,
    )


def _read_documents(
    folder: Path, files: Sequence[Path], problems: Problems, notes: list[str]
) -> Iterator[Row]:
    empty, bare = [], 0
    for row, file in enumerate(files, start=1):
        try:
            title, text, pages = _read(file)
        except ValueError as error:
            problems.add(str(file), f"{error}, or take it out of the folder")
            continue
        identity = _within(folder, file)
        if not text.strip():
            empty.append(identity)
            continue
        bare += pages
        title = " ".join(title.split()) or file.stem
        yield Row(row, {"id": identity, "title": title, "text": text})
    if empty:
        notes.append(
            f"{folder}: {number(len(empty), 'document')} without text left out (scanned pages are "
            f"not read): {_name(empty)}."
        )
    if bare:
        notes.append(f"{folder}: {number(bare, 'page')} without text in PDF files with text.")


def describe_long(passages: Iterable[Passage]) -> str | None:
    """Which of the documents are too long to be read whole, in words; None: none is."""
    count = long = longest = 0
    for passage in passages:
        length = len(passage.text.split())
        count, long, longest = count + 1, long + (length > LONG), max(longest, length)
    if not long:
        return None
    return (
        f"{long} of {number(count, 'document')} are longer than {LONG} words, up to "
        f"{longest}, and would be cut wherever they are read"
    )


def _read(file: Path) -> tuple[str, str, int]:
    """Title, text, and pages without text of a document; ValueError with the reason."""
    if file.suffix.lower() == ".pdf":
        pdf: Pdf = read_pdf(file)
        return pdf.title, pdf.text, pdf.bare
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(describe_bytes(error)) from error
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror})") from error
    if file.suffix.lower() == ".md":
        return (*read_markdown(text), 0)
    return "", text, 0


def _within(folder: Path, file: Path) -> str:
    return file.relative_to(folder).as_posix()


def _name(names: Sequence[str]) -> str:
    shown = ", ".join(quote(name, 80) for name in names[:_SHOWN])
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
