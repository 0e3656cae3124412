"""Gold passages where nobody marked any: those that contain an accepted answer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from rag_experiments.contracts import Passage, Question
from rag_experiments.functional.text import (
    contains_answer,
    is_label,
    search_forms,
    strip_article,
)


def match_answers(
    questions: Sequence[Question], passages: Sequence[Passage]
) -> list[tuple[str, ...]]:
    """Ids of the passages that contain an accepted answer, for each question.

    A match is one of whole words in title or text, as `contains_answer` has it. Answers that
    are labels (yes, no, maybe, ...) are not looked for. The rarest word of an answer leads to
    the few passages that are compared at all: a word in the forms that `contains_answer`
    compares.
    """
    from tqdm.auto import tqdm

    wanted: set[str] = set()
    forms: dict[str, list[list[str]]] = {}
    for question in questions:
        for answer in question.answers:
            if answer not in forms and not is_label(answer):
                forms[answer] = [strip_article(form.split()) for form in search_forms(answer)]
                wanted.update(word for form in forms[answer] for word in form)

    texts = [f"{passage.title}\n{passage.text}" for passage in passages]
    index: dict[str, list[int]] = defaultdict(list)
    for i, text in enumerate(tqdm(texts, desc="looking for answers", unit=" passages", delay=2)):
        words = {word for form in search_forms(text) for word in form.split()}
        for word in words & wanted:
            index[word].append(i)

    found: dict[str, list[int]] = {}
    for answer, variants in tqdm(forms.items(), desc="matching answers", unit=" answers", delay=2):
        candidates: set[int] = set()
        for words_of_form in variants:
            if words_of_form:
                rarest = min(words_of_form, key=lambda word: len(index.get(word, ())))
                candidates.update(index.get(rarest, ()))
        found[answer] = [i for i in sorted(candidates) if contains_answer(texts[i], answer)]

    result = []
    for question in questions:
        matched = {i for answer in question.answers for i in found.get(answer, ())}
        result.append(tuple(passages[i].id for i in sorted(matched)))
    return result
