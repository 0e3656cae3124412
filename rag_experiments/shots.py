"""Few-shot examples: training questions with their answers, shown in the prompts of others."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from rag_experiments.contracts import Passage, PreparedData, Question, Shot, Task
from rag_experiments.data.passages import read_rows
from rag_experiments.data.splits import place_id

if TYPE_CHECKING:
    from rag_experiments.retriever.bm25_search import BM25Searcher

FILE = "shots.json"
"""File of a saved run with the training questions that its prompts may show."""


class Shots:
    """Training questions that prompts may show, with their ids, in the order they are drawn in.

    No two of them have the same text. `count` of them are shown with each question: the first,
    or those most like it by BM25 (`nearest`), which come first and fill up with the others where
    too few share a word with it.
    """

    def __init__(self, pool: Sequence[tuple[str, Shot]], count: int, nearest: bool):
        self.pool = pool
        self.count = count
        self.nearest = nearest
        self._found: dict[str, list[int]] = {}

    @classmethod
    def gather(cls, task: Task, data: PreparedData, seed: int) -> Shots | None:
        """Take them from the training questions; None where the prompt shows none.

        Those that the task refuses are not shown: `check_data` names them.
        """
        prompt = getattr(task, "prompt", None)
        count = getattr(prompt, "examples", 0)
        if prompt is None or not count:
            return None
        gold = _read_passages(data) if prompt.shows_gold else {}
        pool: dict[str, tuple[str, Shot]] = {}
        for question in sorted(data.train, key=lambda q: place_id(q.id, f"examples {seed}")):
            passage = next((gold[name] for name in question.passage_ids if name in gold), None)
            fits = passage is not None or not prompt.shows_gold
            if fits and not task.data_problems([question]):
                shot = Shot(question.question, task.target(question), passage)
                pool.setdefault(_simplify(question.question), (question.id, shot))
        nearest = prompt.choice == "nearest"
        # Of those that are drawn no more are looked at: one may have the id of a question, and
        # one its text.
        kept = list(pool.values())[: None if nearest else count + 2]
        return cls(kept, count, nearest)

    @classmethod
    def load(cls, folder: Path, task: Task) -> Shots | None:
        """Read what `save` wrote; None where the prompt shows none."""
        prompt = getattr(task, "prompt", None)
        count = getattr(prompt, "examples", 0)
        if prompt is None or not count:
            return None
        pool = []
        for identity, row in json.loads((folder / FILE).read_text("utf-8")):
            passage = row["passage"] and Passage(**row["passage"])
            pool.append((identity, Shot(row["question"], row["answer"], passage)))
        return cls(pool, count, prompt.choice == "nearest")

    def save(self, folder: Path) -> None:
        """Write the training questions that may be shown."""
        rows = [(identity, asdict(shot)) for identity, shot in self.pool]
        (folder / FILE).write_text(json.dumps(rows), "utf-8")

    def problems(self) -> list[str]:
        """Say where there are too few; a question is never shown with itself."""
        if len(self.pool) > self.count:
            return []
        return [
            f"task.prompt.examples: {self.count}, but there are {len(self.pool)} training "
            "questions of different text to show (with their gold passages, where "
            "task.prompt.example has {context}), and none is its own example; legal: at most "
            f"{max(0, len(self.pool) - 1)}"
        ]

    def add(self, questions: Iterable[Question]) -> list[Question]:
        """Questions with their examples; those that have some keep them."""
        questions = list(questions)
        if self.nearest:
            self._search([question for question in questions if not question.shots])
        return [
            question if question.shots else replace(question, shots=self._choose(question))
            for question in questions
        ]

    def _choose(self, question: Question) -> tuple[Shot, ...]:
        text = _simplify(question.question)
        chosen: dict[int, Shot] = {}
        for i in chain(self._found.get(question.question, ()), range(len(self.pool))):
            identity, shot = self.pool[i]
            # A question in other words has the id of its own with a number: q7#1.
            own = question.id == identity or question.id.startswith(f"{identity}#")
            if not own and _simplify(shot.question) != text:
                chosen[i] = shot
            if len(chosen) == self.count:
                break
        return tuple(chosen.values())[::-1]

    def _search(self, questions: Sequence[Question]) -> None:
        new = {q.question: q for q in questions if q.question not in self._found}
        if not new:
            return
        hits = self._searcher.search(list(new.values()), self.count + 2)
        for text, found in zip(new, hits, strict=True):
            self._found[text] = [int(hit.passage_id) for hit in found]

    @cached_property
    def _searcher(self) -> BM25Searcher:
        from datasets import Dataset

        from rag_experiments.retriever.bm25 import BM25
        from rag_experiments.retriever.bm25_search import BM25Searcher

        rows = [
            {"id": str(i), "title": "", "text": shot.question, "document_id": str(i)}
            for i, (_, shot) in enumerate(self.pool)
        ]
        usual = BM25()
        return BM25Searcher.build(
            Dataset.from_list(rows), usual.k1, usual.b, usual.method, usual.stopwords
        )


def _simplify(text: str) -> str:
    return " ".join(text.split()).casefold()


def _read_passages(data: PreparedData) -> dict[str, Passage]:
    wanted = {name for question in data.train for name in question.passage_ids}
    ids = (name for (name,) in read_rows(data.passages, "id"))
    rows = [i for i, name in enumerate(ids) if name in wanted]
    return {
        row["id"]: Passage(row["id"], row["title"], row["text"])
        for row in data.passages.select(rows)
    }
