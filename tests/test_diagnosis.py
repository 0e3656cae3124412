"""What a run says about its errors and its data, on a small data set made by hand."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from datasets import Dataset

from rag_experiments.contracts import Prediction, PreparedData, Question
from rag_experiments.evaluation import coverage, diagnosis
from rag_experiments.functional.attribution import BINS, Gold

TEXTS = {
    "p1": "Ligase joins DNA.",
    "p2": "Watson and Crick found it in 1953.",
    "p3": "ligase joins   the DNA",
    "p4": "Nothing of use.",
}
TEST = (
    Question("a", "Which enzyme joins DNA?", ("ligase",), ("p1",), "seen"),
    Question("b", "When was it found?", ("1953",), (), "new"),  # not annotated; p2 has it
    Question("c", "Who sequenced it?", ("Sanger",), ("gone",), "new"),
    Question("d", "Is it a protein?", ("no",)),
)
TRAIN = (
    Question("t", "which enzyme joins DNA", ("Ligase", "DNA ligase"), ("p1",)),
    Question("u", "Where is the DNA?", ("nucleus",), ("p4",)),
)


def make_data(gold="annotated", test=TEST):
    rows = [{"id": i, "title": "T", "text": t, "document_id": i} for i, t in TEXTS.items()]
    return PreparedData(Dataset.from_list(rows), TRAIN, (), test, gold)


def predict(answers, passages=("p2", "p4")):
    return [
        Prediction(q.id, q.question, text, q.answers, q.group, passages,
                   tuple(TEXTS[i] for i in passages), gold_passage_ids=q.passage_ids)
        for q, text in zip(TEST, answers, strict=True)
    ]  # fmt: skip


DATA = make_data()
LOCATED = coverage.locate_answers(DATA)


def test_answers_are_located_and_stand_in_for_gold_passages_that_nobody_named():
    assert LOCATED == {"a": ("p1", "p3"), "b": ("p2",), "c": (), "d": ()}
    assert diagnosis.find_gold(DATA, LOCATED) == {
        "a": Gold(("p1",), "annotated"),
        "b": Gold(("p2",), "answer_match"),
        "c": Gold((), "annotated"),
        "d": Gold((), "none"),  # "no" is no word to look for
    }


def test_labels_are_not_looked_for():
    found = diagnosis.find_gold(DATA, LOCATED, labels=("1953", "no"))
    assert found["b"] == Gold((), "none")


def test_weak_gold_is_not_searched_for_again():
    weak = make_data("answer_match", tuple(replace(q, passage_ids=("p4",)) for q in TEST))
    located = coverage.locate_answers(weak)
    assert set(located.values()) == {("p4",)}
    assert diagnosis.find_gold(weak, located)["a"] == Gold(("p4",), "answer_match")
    nothing = make_data("none", tuple(replace(q, passage_ids=()) for q in TEST))
    located = coverage.locate_answers(nothing)
    found = diagnosis.find_gold(nothing, located)
    assert found["a"] == Gold((), "answer_match")  # looked for, and not there
    assert found["d"] == Gold((), "none")


def explained(answers=("polymerase", "in 1950", "Watson", "Yes"), gold=("ligase", "It was 1953.")):
    alone = [replace(p, prediction=text) for p, text in zip(predict(answers), gold, strict=False)]
    references = {"closed_book": predict(("x", "1953", "x", "no")), "gold": alone}
    return diagnosis.explain(predict(answers), references, diagnosis.find_gold(DATA, LOCATED))


def test_each_question_has_its_row():
    rows = {row["id"]: row for row in explained()}
    assert {name: row["bin"] for name, row in rows.items()} == {
        "a": "not_retrieved",
        "b": "distracted",
        "c": "not_in_knowledge_source",
        "d": "unattributed",
    }
    assert rows["b"]["gold_rank"] == 1
    assert rows["b"]["gold"] == "It was 1953."
    assert [rows["b"][key] for key in ("form", "gold_right", "closed_book_right")] == [
        None,
        True,
        True,
    ]
    assert rows["c"]["gold"] is None
    assert rows["c"]["gold_right"] is None
    assert [rows[i]["retrieval_rank"] for i in "abcd"] == [
        "not retrieved", "1", "not in the knowledge source", "unknown",
    ]  # fmt: skip


def test_the_summary_counts_every_question_once_in_every_breakdown():
    rows = explained()
    content = json.loads(json.dumps(diagnosis.summarize(rows)))
    assert list(content["bins"]) == list(BINS)
    assert sum(content["bins"].values()) == content["questions"] == 4
    assert content["closed_book_right"] == {"right": 2, "asked": 4}
    assert content["gold_right"] == {"right": 2, "asked": 2}
    assert content["examples"]["distracted"] == ["b"]
    assert set(content["breakdowns"]) == {
        "question_type",
        "answer_length",
        "retrieval_rank",
        "group",
    }
    for parts in content["breakdowns"].values():
        assert sum(sum(part.values()) for part in parts.values()) == 4
    assert content["breakdowns"]["question_type"]["when"]["distracted"] == 1
    ungrouped = diagnosis.summarize([{**row, "group": ""} for row in rows])
    assert "group" not in ungrouped["breakdowns"]


def test_without_references_only_what_needs_them_is_open():
    rows = diagnosis.explain(
        predict(("a ligase", "in 1950", "", "no")), {}, diagnosis.find_gold(DATA, LOCATED)
    )
    assert [row["bin"] for row in rows] == [
        "right_other_form", "unattributed", "wrong_format", "right",
    ]  # fmt: skip
    assert [row["form"] for row in rows] == ["normalization", None, None, "exact"]
    assert diagnosis.summarize(rows)["gold_right"] == {"right": 0, "asked": 0}


def test_coverage_and_leakage_are_counted():
    found = coverage.measure_coverage(DATA, predict(("", "", "", "")), LOCATED)
    leakage = found["leakage"]
    assert {name: leakage[name] for name in leakage if name not in ("examples", "threshold")} == {
        "test": 4,
        "train": 2,
        "repeated_questions": 1,
        "near_questions": 1,
        "with_gold": 2,
        "shared_gold": 1,
        "shared_answers": 1,
    }
    assert [(e["id"], e["train_id"], e["similarity"]) for e in leakage["examples"]] == [
        ("a", "t", 1.0)
    ]
    assert found["passages"] == {"passages": 4, "repeated": 1, "examples": [["p1", "p3"]]}
    assert found["answers"] == {"questions": 3, "in_knowledge_source": 2, "in_passages": 1}
    shares = coverage.list_shares(found)
    assert shares["coverage/in_passages"] == pytest.approx(1 / 3)
    assert shares["leakage/shared_gold"] == 0.5


def test_shares_of_nothing_are_left_out():
    found = coverage.measure_coverage(DATA, predict(("",) * 4), LOCATED, labels=("yes", "no"))
    assert found["answers"]["questions"] == 0
    assert not [name for name in coverage.list_shares(found) if name.startswith("coverage/in_")]
