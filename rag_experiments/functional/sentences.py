"""Sentences of a text, and the words that carry what they say."""

from __future__ import annotations

import re

from rag_experiments.functional.text import tokenize

Spans = list[tuple[int, int]]
"""Start and end of pieces of a text."""

_SENTENCE_END = re.compile(r"[.!?][\"'”’)\]]*\s+(?=[\"'“‘(\[]?[A-Z0-9À-ÖØ-Þ])")
_ABBREVIATION = re.compile(
    r"al|approx|ca|cf|dr|e\.g|eq|etc|figs?|i\.e|jr|mr|mrs|ms|no|nos|prof|refs?|resp|spp?|sr|st|"
    r"subsp|var|vs|vol",
    re.IGNORECASE,
)

_WORDS = """
a an the this that these those some any no each every either neither both all such other another
i me my mine we us our ours you your yours he him his she her hers it its they them their theirs
myself ourselves yourself himself herself itself themselves one ones
who whom whose which what when where why how whether
am is are was were be been being do does did doing done have has had having
can could will would shall should may might must
and or but nor so yet if then than as because while although though since until unless
of in on at by for with from to into onto over under about above below between among through
during before after against within without upon toward towards per via out up down off
not also only just very too more most much many few less least own same there here
however therefore thus hence moreover furthermore i.e e.g
"""
FUNCTION_WORDS = frozenset(_WORDS.split())
"""Words of English that hold sentences together and carry no subject of their own."""


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


def content_words(text: str) -> list[str]:
    """Return the words of the normalized text that are no function words, without a plural s.

    A rule, not a stemmer: "cells" equals "cell", "genes" equals "gene", but "divides" and
    "division" stay two words.
    """
    return [_singular(word) for word in tokenize(text) if word not in FUNCTION_WORDS]


def _singular(word: str) -> str:
    if len(word) > 3 and word.endswith("ies"):
        return f"{word[:-3]}y"
    plural = len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is"))
    return word[:-1] if plural else word
