"""What the data itself says about a result: leakage from training, and the ceiling of retrieval.

A run's folder holds `coverage.json` with three parts, each count beside what it is a part of:

- `leakage` of train into test: `test` and `train` (questions, or documents that are to be
  summarized, which are compared by their whole text), `repeated_questions` (the same words),
  `near_questions` (words alike to at least `threshold`, the repeated included),
  `shared_gold` of `with_gold` (a gold passage is one of a training question, too),
  `shared_answers` (an accepted answer is one of a training question; Lewis et al. 2021,
  https://aclanthology.org/2021.eacl-main.86), and `examples` to read: near questions are alike in
  their words, which one word can turn into another question, and paraphrases are not found;
- `passages` of the knowledge source: `passages`, `repeated` (the words of an earlier passage,
  titles aside), `examples`;
- `answers`: `questions` whose answers are words to look for, `in_knowledge_source` and
  `in_passages` (an accepted answer stands in some passage, in one of those retrieved): what a
  model can at most copy. An answer may stand in a passage about something else. Summaries are not
  looked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rag_experiments.contracts import Passage, Prediction, PreparedData, Question
from rag_experiments.data.gold import match_answers
from rag_experiments.data.passages import read_rows
from rag_experiments.functional.overlap import find_nearest, find_repeats
from rag_experiments.functional.text import contains_answer, drop_labels, normalize_answer

if TYPE_CHECKING:
    from datasets import Dataset

THRESHOLD = 0.8
"""Share of words from which two questions are near."""

EXAMPLES = 10


def locate_answers(data: PreparedData) -> dict[str, tuple[str, ...]]:
    """Return the ids of the passages that contain an accepted answer, by test question."""
    if data.gold == "answer_match":  # that is what they are
        return {question.id: question.passage_ids for question in data.test}
    if data.gold == "none":  # preparation looked for them
        return {question.id: () for question in data.test}
    rows = read_rows(data.passages, "id", "title", "text")
    passages = (Passage(name, title, text) for name, title, text in rows)
    found = match_answers(data.test, passages)
    return {question.id: ids for question, ids in zip(data.test, found, strict=True)}


def measure_leakage(test: Sequence[Question], train: Sequence[Question]) -> dict[str, Any]:
    """Return how much of the test questions training has seen."""
    nearest = find_nearest(list(map(_text, test)), list(map(_text, train)), THRESHOLD)
    gold = {passage_id for question in train for passage_id in question.passage_ids}
    answers = {normalize_answer(answer) for question in train for answer in question.answers}
    known = {normalize_answer(_text(question)) for question in train}
    examples: list[dict[str, Any]] = [
        {
            "id": question.id,
            "question": question.question,
            "train_id": train[near[0]].id,
            "train_question": train[near[0]].question,
            "similarity": round(near[1], 3),
        }
        for question, near in zip(test, nearest, strict=True)
        if near is not None
    ]
    return {
        "test": len(test),
        "train": len(train),
        "threshold": THRESHOLD,
        "repeated_questions": sum(normalize_answer(_text(q)) in known for q in test),
        "near_questions": len(examples),
        "with_gold": sum(bool(q.passage_ids) for q in test),
        "shared_gold": sum(not gold.isdisjoint(q.passage_ids) for q in test),
        "shared_answers": sum(any(normalize_answer(a) in answers for a in q.answers) for q in test),
        "examples": sorted(examples, key=lambda example: -example["similarity"])[:EXAMPLES],
    }


def measure_passages(passages: Dataset) -> dict[str, Any]:
    """Return how many passages repeat an earlier one."""
    repeats = find_repeats(text for (text,) in read_rows(passages, "text"))
    shown = [[first, i] for i, first in list(repeats.items())[:EXAMPLES]]
    return {
        "passages": len(passages),
        "repeated": len(repeats),
        "examples": [passages.select(rows)["id"][:] for rows in shown],
    }


def measure_answers(
    predictions: Sequence[Prediction],
    located: Mapping[str, Sequence[str]],
    labels: Sequence[str] = (),
) -> dict[str, int]:
    """Return for how many questions an accepted answer stands in a passage."""
    wanted = {
        p.id: answers
        for p in predictions
        if not p.document and (answers := drop_labels(p.answers, labels))
    }
    return {
        "questions": len(wanted),
        "in_knowledge_source": sum(bool(located[name]) for name in wanted),
        "in_passages": sum(
            any(contains_answer(text, a) for text in p.passages for a in wanted.get(p.id, ()))
            for p in predictions
        ),
    }


def _text(question: Question) -> str:
    return question.document or question.question


def measure_coverage(
    data: PreparedData,
    predictions: Sequence[Prediction],
    located: Mapping[str, Sequence[str]],
    labels: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the content of `coverage.json`."""
    return {
        "leakage": measure_leakage(data.test, data.train),
        "passages": measure_passages(data.passages),
        "answers": measure_answers(predictions, located, labels),
    }


def list_shares(coverage: Mapping[str, Any]) -> dict[str, float]:
    """Return the counts as shares, by the names that tracking has for them."""
    leakage, passages, answers = (coverage[n] for n in ("leakage", "passages", "answers"))
    counts = {
        "leakage/repeated_questions": (leakage["repeated_questions"], leakage["test"]),
        "leakage/near_questions": (leakage["near_questions"], leakage["test"]),
        "leakage/shared_gold": (leakage["shared_gold"], leakage["with_gold"]),
        "leakage/shared_answers": (leakage["shared_answers"], leakage["test"]),
        "coverage/repeated_passages": (passages["repeated"], passages["passages"]),
        "coverage/in_knowledge_source": (answers["in_knowledge_source"], answers["questions"]),
        "coverage/in_passages": (answers["in_passages"], answers["questions"]),
    }
    return {name: count / total for name, (count, total) in counts.items() if total}
