"""Long passages cut into chunks, each a piece of the original text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from rag_experiments.functional.sentences import Spans

_WORD = re.compile(r"\S+")
_PARAGRAPH = re.compile(r"\S.*?(?=\s*(?:\n[^\S\n]*\n|\Z))", re.DOTALL)


def find_words(text: str) -> Spans:
    """Start and end of every word, that is of every stretch without white space."""
    return [match.span() for match in _WORD.finditer(text)]


def find_paragraphs(text: str) -> Spans:
    """Start and end of every paragraph: what stands between blank lines."""
    return [match.span() for match in _PARAGRAPH.finditer(text)]


def find_tokens(texts: Sequence[str], tokenizer: Any) -> list[Spans]:
    """Start and end of every token of a Hugging Face tokenizer, for each text."""
    encoded = tokenizer(
        list(texts), add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    return [[(start, end) for start, end in spans] for spans in encoded["offset_mapping"]]


def cut(text: str, spans: Spans, size: int, overlap: int) -> list[str]:
    """Pieces of `size` spans; each starts with the last `overlap` spans of the one before.

    The last piece may be shorter. A text with at most `size` spans is one piece, unchanged.
    """
    if len(spans) <= size:
        return [text]
    pieces = []
    for start in range(0, len(spans), size - overlap):
        window = spans[start : start + size]
        piece = text[window[0][0] : window[-1][1]].strip()
        if piece:
            pieces.append(piece)
        if start + size >= len(spans):
            break
    return pieces
