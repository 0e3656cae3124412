"""The reference conditions: which passages they read, and which answers are not made twice."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from datasets import Dataset

from rag_experiments import config, options
from rag_experiments.contracts import Answer, Hit, Question, UserError
from rag_experiments.evaluation import references
from rag_experiments.evaluation.references import predict_references
from rag_experiments.functional.attribution import Gold
from rag_experiments.metrics.f1 import F1
from rag_experiments.metrics.recall import Recall
from rag_experiments.pipeline import RagPipeline

PASSAGES = Dataset.from_list(
    [{"id": f"p{n}", "title": "", "text": f"text {n}", "document_id": "d"} for n in range(6)]
)
QUESTIONS = [
    Question("one", "Who?", ("x",), ("p1",)),
    Question("several", "What?", ("x",), ("p0", "p3", "p4", "p5")),
    Question("stranger", "When?", ("x",), ("elsewhere",)),
    Question("unknown", "Where?", ("x",)),
]
FOUND = {
    "one": [Hit("p1", 2.0)],
    "several": [Hit("p2", 2.0), Hit("p4", 1.0)],
    "stranger": [Hit("p0", 2.0)],
    "unknown": [],
}


class Model:
    """Answers with what it was given; keeps what it was asked."""

    def __init__(self):
        self.asked: list[tuple[str, tuple[str, ...]]] = []

    def answer(self, examples, progress=None):
        given = [(e.question.id, tuple(p.id for p in e.passages)) for e in examples]
        self.asked += given
        return [Answer(" ".join(ids) or "nothing") for _, ids in given]


def run(top_k: int = 2, found=FOUND, questions=QUESTIONS):
    pipeline = RagPipeline(
        SimpleNamespace(parse=str.strip, labels=(), temperature=None, abstains=lambda _: None),
        SimpleNamespace(top_k=top_k, temperature=0.5),
        Model(),
        searcher=None,  # nothing may be searched again
        passages=PASSAGES,
    )
    own = pipeline.predict(questions, [found[question.id] for question in questions])
    pipeline.model.asked.clear()
    known = set(PASSAGES["id"])
    gold = {
        q.id: Gold(tuple(i for i in q.passage_ids if i in known), "annotated") for q in questions
    }
    return predict_references(pipeline, questions, own, gold), pipeline.model.asked


def read(predictions):
    return {p.id: p.passage_ids for p in predictions}


def test_closed_book_shows_no_passage_and_gold_shows_gold_ones_alone():
    found, asked = run()
    assert read(found["closed_book"]) == {question.id: () for question in QUESTIONS}
    # Those that the run retrieved come first; top_k bounds them; no question without any.
    assert read(found["gold"]) == {"one": ("p1",), "several": ("p4", "p0")}
    assert asked == [
        ("one", ()),
        ("several", ()),
        ("stranger", ()),
        ("several", ("p4", "p0")),
    ]  # "unknown" was answered without passages, "one" from its gold passage alone


def test_gold_passages_are_equally_likely():
    found, _ = run()
    several = found["gold"][1]
    assert several.prior == pytest.approx((0.5, 0.5))
    assert several.gold_passage_ids == ("p0", "p3", "p4", "p5")  # as the question has them


def test_the_same_passages_with_another_prior_are_answered_again():
    found = {"several": [Hit("p4", 2.0), Hit("p0", 1.0)]}
    conditions, asked = run(found=found, questions=QUESTIONS[1:2])
    assert asked == [("several", ()), ("several", ("p4", "p0"))]
    assert read(conditions["gold"]) == {"several": ("p4", "p0")}


def test_a_closed_book_run_is_its_own_reference_and_still_reads_gold_passages():
    found, asked = run(top_k=0, found={q.id: [] for q in QUESTIONS})
    assert [name for name, ids in asked if not ids] == []
    assert read(found["gold"]) == {"one": ("p1",), "several": ("p0", "p3", "p4")}


def test_a_gold_run_is_its_own_reference():
    gold = {
        q.id: [Hit(i, 0.0) for i in q.passage_ids[:2] if i in PASSAGES["id"]] for q in QUESTIONS
    }
    found, asked = run(found=gold)
    assert [ids for _, ids in asked if ids] == []
    assert read(found["gold"]) == {"one": ("p1",), "several": ("p0", "p3")}
    assert found["gold"][0].prediction == "p1"


def test_without_gold_passages_there_is_closed_book_alone():
    found, _ = run(questions=QUESTIONS[2:])
    assert list(found) == ["closed_book"]


def test_metrics_of_retrieval_do_not_score_what_was_put_in():
    assert [m.name for m in references.metrics_of_answers([F1(), Recall()])] == ["f1"]


def test_the_switch_is_checked():
    assert config.Test().references
    node = {"_target_": "rag_experiments.config.Test", "references": "maybe"}
    with pytest.raises(UserError, match=r"test\.references: 'maybe'"):
        options.build(node, "test")
