"""The text of PDF files, with pypdf (the extra `pdf`)."""

from __future__ import annotations

import logging
import re
import unicodedata
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

_LIGATURE = re.compile("[\ufb00-\ufb06]")
_BROKEN_WORD = re.compile(r"(?<=[^\W\d_])-\n(?=[a-zß-öø-ÿ])")


@dataclass(frozen=True)
class Pdf:
    """What was read of a file."""

    title: str
    """Empty where the file names none."""
    text: str
    """The pages, parted by blank lines."""
    pages: int
    bare: int
    """Pages without text, e.g. scanned ones."""


def is_readable() -> bool:
    """Whether the library is installed."""
    return find_spec("pypdf") is not None


def read_pdf(path: Path) -> Pdf:
    """Title and text of a PDF file, in the order in which the file has its text.

    Words that are broken at the end of a line are joined, and ligatures are written as letters.
    Headers, footers and page numbers stay, images are not read. Raises ValueError with the
    reason where a password is needed or the file is damaged.
    """
    from pypdf import PdfReader
    from pypdf.errors import FileNotDecryptedError

    logging.getLogger("pypdf").setLevel(logging.ERROR)  # it reads on where a file is not in order
    try:
        reader = PdfReader(path)
        pages = [_clean(page.extract_text()) for page in reader.pages]
        title = _clean(str((reader.metadata and reader.metadata.title) or ""))
    except FileNotDecryptedError:
        raise ValueError("is encrypted with a password; save it without one") from None
    # What is damaged makes pypdf fail in any of its parts.
    except Exception as error:
        reason = " ".join(f"{type(error).__name__} {error}".split())[:100]
        raise ValueError(f"is no PDF that can be read ({reason})") from error
    with_text = [page for page in pages if page]
    return Pdf(title, "\n\n".join(with_text), len(pages), len(pages) - len(with_text))


def _clean(text: str) -> str:
    # Halves of a character that a font's table has side by side are one; others are none.
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\0", "")
    text = _LIGATURE.sub(lambda found: unicodedata.normalize("NFKC", found[0]), text)
    return _BROKEN_WORD.sub("", text).strip()
