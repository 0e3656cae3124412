"""Gold passages where nobody marked any: those that contain an accepted answer."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import chain

from rag_experiments.contracts import Passage, Question
from rag_experiments.functional.text import (
    ARTICLES,
    contains_answer,
    is_label,
    search_forms,
    strip_article,
)

_SAMPLE = 1 << 20
"""Characters of passages that tell which words are rare."""


def match_answers(
    questions: Sequence[Question], passages: Iterable[Passage]
) -> list[tuple[str, ...]]:
    """Ids of the passages that contain an accepted answer, for each question.

    A match is one of whole words in title or text, as `contains_answer` has it. Answers that
    are labels (yes, no, maybe, ...) are not looked for. Passages are read once, and compared
    with the answers alone that a rare word of theirs leads to: a word in the forms that
    `contains_answer` compares.
    """
    from tqdm.auto import tqdm

    forms: dict[str, set[frozenset[str]]] = {}
    for question in questions:
        for answer in question.answers:
            if answer not in forms and not is_label(answer):
                split = (frozenset(strip_article(form.split())) for form in search_forms(answer))
                # `contains_answer` may do without articles, where there are other words.
                forms[answer] = {own - ARTICLES or own for own in split if own}

    passages = iter(passages)
    sample, room = [], _SAMPLE
    while room > 0 and (passage := next(passages, None)) is not None:
        sample.append(passage)
        room -= len(passage.text)
    known = Counter(word for passage in sample for word in _words(_text(passage)))
    led: dict[str, list[tuple[frozenset[str], str]]] = defaultdict(list)
    for answer, variants in forms.items():
        for own in variants:
            led[min(own, key=lambda word: (known[word], -len(word), word))].append((own, answer))

    found: dict[str, list[str]] = defaultdict(list)
    """Passages by answer."""
    rows: dict[str, int] = {}
    """Place of those that are found."""
    every = chain(sample, passages)
    for row, passage in enumerate(
        tqdm(every, desc="looking for answers", unit=" passages", delay=2)
    ):
        text = _text(passage)
        words = _words(text)
        answers = {
            answer for word in words & led.keys() for own, answer in led[word] if own <= words
        }
        for answer in answers:
            if contains_answer(text, answer):
                found[answer].append(passage.id)
                rows[passage.id] = row

    result = []
    for question in questions:
        matched = {name for answer in question.answers for name in found.get(answer, ())}
        result.append(tuple(sorted(matched, key=rows.__getitem__)))
    return result


def _text(passage: Passage) -> str:
    return f"{passage.title}\n{passage.text}"


def _words(text: str) -> set[str]:
    return {word for form in search_forms(text) for word in form.split()}
