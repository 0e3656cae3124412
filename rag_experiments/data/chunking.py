"""Long passages cut into chunks, each a piece of the original text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

Spans = list[tuple[int, int]]

_WORD = re.compile(r"\S+")
_SENTENCE_END = re.compile(r"[.!?][\"'”’)\]]*\s+(?=[\"'“‘(\[]?[A-Z0-9À-ÖØ-Þ])")
_ABBREVIATION = re.compile(
    r"al|approx|ca|cf|dr|e\.g|eq|etc|figs?|i\.e|jr|mr|mrs|ms|no|nos|prof|refs?|resp|spp?|sr|st|"
    r"subsp|var|vs|vol",
    re.IGNORECASE,
)


def find_words(text: str) -> Spans:
    """Start and end of every word, that is of every stretch without white space."""
    return [match.span() for match in _WORD.finditer(text)]


def find_sentences(text: str) -> Spans:
    """Start and end of every sentence.

    A sentence ends with . ! or ? before a capital or a digit, unless the point belongs to an
    abbreviation or to an initial (Fig. 2, et al. In, J. Smith). A rule, not a model: it needs
    no download and errs at rare abbreviations.
    """
    spans = []
    start = 0
    for match in _SENTENCE_END.finditer(text):
        before = text[start : match.start()].rsplit(None, 1)
        word = before[-1].lstrip("([\"'“‘") if before else ""
        initial = len(word) == 1 and word.isalpha() and word.isupper()
        if text[match.start()] == "." and (initial or _ABBREVIATION.fullmatch(word)):
            continue
        end = len(text[: match.end()].rstrip())
        spans.append((start, end))
        start = match.end()
    rest = text[start:].rstrip()
    if rest:
        spans.append((start, start + len(rest)))
    return spans


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
