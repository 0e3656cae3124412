"""Retrieval is done once for each question of a run, whatever is done with what it found."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from rag_experiments import __main__ as entry
from rag_experiments.retriever.bm25_search import BM25Searcher

LINE = [
    "data=folder",
    "data.path=data",
    "retriever=bm25",
    "retriever.top_k=2",
    "model/generator=tiny_seq2seq",
    "model.decoding.num_beams=2",
    "trainer.max_steps=2",
    "trainer.eval_strategy=steps",
    "trainer.eval_steps=1",
    "task.max_answer_tokens=4",
    "tracking=none",
]


@pytest.fixture
def searched(tmp_path, monkeypatch):
    """Ids of the questions of each search."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    passages = [{"id": f"p{n}", "text": f"Word{n} is a word, as word{n + 1} is."} for n in range(4)]
    write("passages", passages)
    for split in ("train", "validation", "test"):
        write(split, questions(split))
    calls = []
    search = BM25Searcher.search

    def counted(self, questions, top_k, query_vectors=None):
        calls.append([question.id for question in questions])
        return search(self, questions, top_k, query_vectors)

    monkeypatch.setattr(BM25Searcher, "search", counted)
    return calls


def write(name, lines):
    text = "".join(json.dumps(line) + "\n" for line in lines)
    Path(f"data/{name}.jsonl").write_text(text, "utf-8")


def questions(split):
    return [
        {
            "id": f"{split} {n}",
            "question": f"What is word{n} to {split}?",
            "answers": [f"{split} {n}"],
            "passage_ids": [f"p{n}"],
        }
        for n in range(3)
    ]


def ids(split):
    return [question["id"] for question in questions(split)]


def start(monkeypatch, *overrides):
    monkeypatch.setattr(sys, "argv", ["rag_experiments", *LINE, *overrides])
    with pytest.raises(SystemExit) as ended:
        entry.main()
    assert not ended.value.code


@pytest.mark.parametrize(
    "overrides",
    [
        ["model=rag_sequence"],  # beams of every passage, rescored under all of them
        ["model=concat", "retriever.temperature=1"],
    ],
)
def test_each_split_is_searched_once(overrides, searched, monkeypatch):
    """For the temperature, both tests, validation at every step, the references."""
    start(monkeypatch, "trainer=supervised", *overrides)
    assert sorted(searched) == sorted([ids("train"), ids("validation"), ids("test")])


def test_train_is_searched_once_where_it_stands_in_for_validation(searched, monkeypatch):
    write("validation", [])
    start(
        monkeypatch,
        "model=rag_token",
        "trainer=supervised",
        "trainer.eval_strategy=no",
        "trainer.eval_steps=null",
        "data.validation_fraction=0",
    )
    assert sorted(searched) == sorted([ids("train"), ids("test")])
