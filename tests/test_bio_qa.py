"""The data set that ships with the package keeps what its card promises."""

from __future__ import annotations

import json
from collections import Counter

import bm25s
import pytest

from rag_experiments.data.bio_qa import FOLDER
from rag_experiments.functional.text import normalize_answer

SPLITS = ("train", "validation", "test")


def read(name: str) -> list[dict]:
    lines = (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def passages() -> dict[str, dict]:
    return {passage["id"]: passage for passage in read("passages")}


@pytest.fixture(scope="module")
def splits() -> dict[str, list[dict]]:
    return {name: read(name) for name in SPLITS}


def test_counts_and_lengths(passages, splits):
    assert len(passages) >= 240
    assert sum(map(len, splits.values())) >= 960
    assert len(splits["test"]) >= 96
    for passage in passages.values():
        assert 40 <= len(passage["text"].split()) <= 80, passage["id"]


def test_every_answer_stands_in_its_passage_and_not_in_its_question(passages, splits):
    for question in (q for split in splits.values() for q in split):
        (gold,) = question["passage_ids"]
        answer = question["answers"][0]
        assert answer in passages[gold]["text"], question["id"]
        assert len(answer.split()) <= 6, question["id"]
        assert f" {answer.lower()} " not in f" {question['question'].lower()} ", question["id"]


def test_nothing_stands_twice(passages, splits):
    questions = [q for split in splits.values() for q in split]
    for values in (
        [q["id"] for q in questions],
        [normalize_answer(q["question"]) for q in questions],
        [normalize_answer(p["title"]) for p in passages.values()],
        [normalize_answer(p["text"]) for p in passages.values()],
    ):
        assert [value for value, count in Counter(values).items() if count > 1] == []
    for question in questions:
        forms = [answer.strip() for answer in question["answers"]]
        assert len(set(forms)) == len(forms), question["id"]


@pytest.mark.parametrize("name", ["validation", "test"])
def test_half_of_the_questions_are_on_passages_that_training_never_asks_about(splits, name):
    trained = {p for question in splits["train"] for p in question["passage_ids"]}
    groups = Counter(question["group"] for question in splits[name])
    assert groups["seen_passage"] == groups["held_out_passage"] == len(splits[name]) // 2
    for question in splits[name]:
        seen = set(question["passage_ids"]) <= trained
        assert question["group"] == ("seen_passage" if seen else "held_out_passage")


def test_held_out_passages_of_validation_and_test_differ(splits):
    held_out = [
        {p for q in splits[name] if q["group"] == "held_out_passage" for p in q["passage_ids"]}
        for name in ("validation", "test")
    ]
    assert held_out[0].isdisjoint(held_out[1])


def test_close_distractors_mislead_a_keyword_search_but_not_always(passages, splits):
    pattern = r"(?u)\b\w+\b"
    texts = [f"{p['title']} {p['text']}" for p in passages.values()]
    ids = list(passages)
    index = bm25s.BM25()
    index.index(
        bm25s.tokenize(texts, token_pattern=pattern, stopwords="en", show_progress=False),
        show_progress=False,
    )
    questions = [q for split in splits.values() for q in split]
    tokens = bm25s.tokenize(
        [q["question"] for q in questions],
        token_pattern=pattern,
        stopwords="en",
        show_progress=False,
    )
    rows, _ = index.retrieve(tokens, k=1, show_progress=False)
    right = [
        ids[row[0]] in q["passage_ids"] for row, q in zip(rows.tolist(), questions, strict=True)
    ]
    assert 0.5 <= sum(right) / len(right) <= 0.85
