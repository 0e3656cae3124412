"""The data set of invented papers that ships with the package keeps what its card promises."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from pathlib import Path
from statistics import mean

import pytest

import rag_experiments.data

FOLDER = Path(rag_experiments.data.__file__).parent / "bio_papers"
SPLITS = ("train", "validation", "test")
HEADINGS = ("Introduction", "Methods", "Results", "Discussion")
HELD_OUT = {"abstract": (28, 14), "full_paper": (4, 2)}  # test, validation


@pytest.fixture(scope="module")
def splits() -> dict[str, list[dict]]:
    return {
        name: [
            json.loads(line)
            for line in (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        for name in SPLITS
    }


@pytest.fixture(scope="module")
def papers(splits) -> list[dict]:
    return [paper for split in splits.values() for paper in split]


def words(text: str) -> list[str]:
    return re.findall(r"\d+(?:[.,]\d+)*|[^\W_]+", text.lower())


def grams(text: str, n: int) -> set[tuple[str, ...]]:
    tokens = words(text)
    return {tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)}


def numbers(text: str) -> set[str]:
    return set(re.findall(r"\d+(?:[.,]\d+)*", text))


def test_fields_are_complete_and_nothing_stands_twice(papers):
    for paper in papers:
        assert list(paper) == ["id", "title", "document", "summaries", "group"], paper["id"]
        for text in (paper["title"], paper["document"], *paper["summaries"]):
            assert text == text.strip() != ""
            assert "  " not in text, paper["id"]
    for values in (
        [paper["id"] for paper in papers],
        [paper["title"] for paper in papers],
        [paper["document"] for paper in papers],
        [summary for paper in papers for summary in paper["summaries"]],
    ):
        assert [value for value, count in Counter(values).items() if count > 1] == []


def test_counts_and_the_rule_of_the_split(splits, papers):
    assert Counter(paper["group"] for paper in papers) == {"abstract": 128, "full_paper": 12}
    for group, (test, validation) in HELD_OUT.items():
        ids = sorted(
            (paper["id"] for paper in papers if paper["group"] == group),
            key=lambda name: hashlib.sha256(name.encode()).hexdigest(),
        )
        expected = {
            "test": ids[:test],
            "validation": ids[test : test + validation],
            "train": ids[test + validation :],
        }
        for name, split in splits.items():
            found = [paper["id"] for paper in split if paper["group"] == group]
            assert found == sorted(expected[name])


def test_lengths(papers):
    for paper in papers:
        count = len(paper["document"].split())
        if paper["group"] == "abstract":
            assert 120 <= count <= 200, paper["id"]
        else:
            assert 1500 <= count <= 2000, paper["id"]
        for summary in paper["summaries"]:
            assert 15 <= len(summary.split()) <= 40, paper["id"]
            assert 1 <= len(re.findall(r"[.?!](?:\s|$)", summary)) <= 2, paper["id"]


def test_full_papers_have_their_sections_in_order_and_abstracts_are_one_paragraph(papers):
    for paper in papers:
        paragraphs = paper["document"].split("\n\n")
        if paper["group"] == "abstract":
            assert len(paragraphs) == 1, paper["id"]
            continue
        assert [p for p in paragraphs if p in HEADINGS] == list(HEADINGS), paper["id"]
        assert paragraphs[0] == HEADINGS[0]
        assert all(len(p.split()) >= 8 for p in paragraphs if p not in HEADINGS), paper["id"]


def test_held_out_papers_have_two_references_of_their_own_wording(splits, papers):
    assert {len(paper["summaries"]) for paper in papers} == {1, 2}
    for paper in splits["validation"] + splits["test"]:
        assert len(paper["summaries"]) == 2, paper["id"]
    pairs = [paper["summaries"] for paper in papers if len(paper["summaries"]) == 2]
    assert len(pairs) >= len(papers) / 2
    for first, second in pairs:
        assert len(grams(first, 3) & grams(second, 3)) <= len(grams(second, 3)) / 4, second


def test_summaries_are_abstractive_and_name_only_numbers_of_the_document(papers):
    shares = []
    for paper in papers:
        source = grams(paper["document"], 2)
        for summary in paper["summaries"]:
            copied = grams(summary, 2)
            shares.append(len(copied & source) / len(copied))
            assert shares[-1] <= 0.5, summary
            assert numbers(summary) <= numbers(paper["document"]), summary
            assert not grams(summary, 9) & grams(paper["document"], 9), summary
    assert mean(shares) <= 0.3


def test_summaries_of_full_papers_need_more_than_the_first_300_words(papers):
    for paper in papers:
        if paper["group"] != "full_paper":
            continue
        tokens = paper["document"].split()
        opening, rest = " ".join(tokens[:300]), " ".join(tokens[300:])
        for summary in paper["summaries"]:
            named = set(words(summary))
            assert len(named & set(words(rest))) > len(named & set(words(opening))), paper["id"]
        late = set().union(*map(numbers, paper["summaries"])) - numbers(opening)
        assert late or not numbers(" ".join(paper["summaries"])), paper["id"]


def test_no_document_resembles_another(papers):
    seen = [(paper["id"], grams(paper["document"], 5)) for paper in papers]
    for position, (name, own) in enumerate(seen):
        for other, its in seen[:position]:
            shared = len(own & its) / min(len(own), len(its))
            assert shared <= 0.03, (name, other)
