"""Normalization of text, so that answers are compared by their words and not their spelling."""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

_ARTICLE = re.compile(r"\b(?:a|an|the)\b")
_NUMBER_SEPARATOR = re.compile(r"(?<=\d)[.,](?=\d)")

ARTICLES = frozenset({"a", "an", "the"})

LABEL_WORDS = frozenset({"yes", "no", "maybe", "true", "false", "unknown"})
"""Answers that are a class and no words of a passage: "no" stands in most texts."""


class _Punctuation(dict[int, "str | None"]):
    """A table for `str.translate`, filled as characters are met: punctuation to `replacement`.

    ASCII follows SQuAD (`string.punctuation`, symbols included); beyond ASCII it is Unicode's
    punctuation, and the minus sign, which stands for a hyphen.
    """

    def __init__(self, replacement: str | None):
        super().__init__()
        self.replacement = replacement

    def __missing__(self, code: int) -> str | None:
        character = chr(code)
        mark = (
            character in string.punctuation
            or character == "\N{MINUS SIGN}"
            or (code > 127 and unicodedata.category(character).startswith("P"))
        )
        self[code] = self.replacement if mark else character
        return self[code]


_DELETED = _Punctuation(None)
_SPACED = _Punctuation(" ")


def _fold(text: str) -> str:
    # An acute accent typed as an apostrophe: NFKC would make it a space and a combining mark.
    text = text.replace("\N{ACUTE ACCENT}", "'")
    # Lowercasing can leave a form that is not NFKC, hence twice.
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).lower())


def normalize_answer(text: str) -> str:
    """Return the text in lower case without punctuation, articles and surplus white space.

    On ASCII text it equals the normalization of SQuAD 1.1 (Rajpurkar et al. 2016,
    https://arxiv.org/abs/1606.05250): punctuation is deleted, not replaced ("IL-2" -> "il2"),
    then the words a, an, the are dropped. Beyond ASCII, Unicode NFKC comes first and Unicode's
    punctuation is deleted too, so curly quotes and long dashes equal the plain ones.
    """
    text = unicodedata.normalize("NFKC", _fold(text).translate(_DELETED))
    return " ".join(_ARTICLE.sub(" ", text).split())


def is_label(answer: str) -> bool:
    """Whether an answer is a class and no words to look for in a passage."""
    return normalize_answer(answer) in LABEL_WORDS


def drop_labels(answers: Sequence[str], labels: Sequence[str] = ()) -> list[str]:
    """Return the answers whose words can be looked for in a passage: no label, which stands in most
    texts and makes none of them right; none at all where the task has `labels` of its own."""
    return [answer for answer in answers if not labels and not is_label(answer)]


def tokenize(text: str) -> list[str]:
    """Return the words of the normalized text: the tokens of word-level metrics."""
    return normalize_answer(text).split()


def list_ngrams(tokens: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """Return the runs of n neighboring tokens, in order; none where there are fewer than n."""
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]


def compute_overlap(predicted: Sequence[str], accepted: Sequence[str]) -> float:
    """Return token F1, 2 P R / (P + R), of two lists of words; the same in both directions.

    With c words in common (repeated words count as often as both have them), P = c / predicted
    and R = c / accepted. Where one has no words, it is 1 if both have none, else 0.
    """
    if not predicted or not accepted:
        return float(len(predicted) == len(accepted))
    common = (Counter(predicted) & Counter(accepted)).total()
    # 2 P R / (P + R) with P = c / p and R = c / a is 2 c / (p + a).
    return 2 * common / (len(predicted) + len(accepted))


def search_forms(text: str) -> tuple[str, str]:
    """Words with punctuation deleted, and with punctuation as a gap; articles are kept.

    Decimal points and thousands separators are no gap: "3.5" does not contain "5".
    """
    return (_keep_forms if len(text) < 1000 else _keep_long_forms)(text)


def _make_forms(text: str) -> tuple[str, str]:
    text = _fold(text)
    gaps = _NUMBER_SEPARATOR.sub("", text).translate(_SPACED)
    return " ".join(text.translate(_DELETED).split()), " ".join(gaps.split())


# Whole documents would fill the memory.
_keep_forms = lru_cache(maxsize=16384)(_make_forms)
_keep_long_forms = lru_cache(maxsize=4)(_make_forms)


def strip_article(words: list[str]) -> list[str]:
    """Words without an article that leads them."""
    return words[1:] if words and words[0] in ARTICLES else words


def contains_answer(text: str, answer: str) -> bool:
    """Tell whether the words of the answer stand in the text, in order and side by side.

    Case and punctuation do not count, and both sides are compared twice: with punctuation
    deleted ("U.S." is in "US troops") and with punctuation as a gap ("DNA" is in "DNA-binding",
    "IL-2" in "IL 2"). A leading article of the answer does not count; inner ones do, so that
    "hepatitis A" is not in "hepatitis B". An answer without words is in no text.
    """
    for haystack, needle in zip(search_forms(text), search_forms(answer), strict=True):
        words = strip_article(needle.split())
        if words and f" {' '.join(words)} " in f" {haystack} ":
            return True
    normalized = normalize_answer(answer)
    return bool(normalized) and normalized == normalize_answer(text)
