"""Training among distractors: which passages a training question gets."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest

from rag_experiments.contracts import Example, Passage, Question, Runtime, Training, UserError
from rag_experiments.trainer.raft import Raft


def passage(name: str) -> Passage:
    return Passage(name, "", f"text of {name}")


RETRIEVE = SimpleNamespace(passage=passage)


def example(number: int, *found: str, gold: tuple[str, ...] = ("g",)) -> Example:
    question = Question(f"q{number}", "Why?", ("so",), gold)
    log_prior = tuple([math.log(1 / len(found))] * len(found)) if found else ()
    return Example(question, tuple(map(passage, found)), log_prior)


def names(example: Example) -> list[str]:
    return [passage.id for passage in example.passages]


@pytest.mark.parametrize(
    ("found", "gold", "distractors", "expected"),
    [
        (("a", "g", "b"), ("g",), None, {"a", "b", "g"}),
        (("a", "b", "c"), ("g",), None, {"a", "b", "g"}),  # not retrieved: in the last's place
        (("a", "h", "g"), ("g", "h"), None, {"a", "h"}),  # the best of two that were retrieved
        (("a", "b", "c"), ("g", "h"), None, {"a", "b", "g"}),
        (("a", "g", "b"), ("g",), 1, {"a", "g"}),
        (("a", "b", "c"), ("g",), 3, {"a", "b", "c", "g"}),
        ((), ("g",), None, {"g"}),
    ],
)
def test_the_gold_passage_stands_among_distractors(found, gold, distractors, expected):
    option = Raft(gold_share=1.0, distractors=distractors)
    (made,) = option.distract([example(1, *found, gold=gold)], RETRIEVE, seed=1)
    assert set(names(made)) == expected
    assert len(made.passages) == len(expected)
    assert made.log_prior == pytest.approx([-math.log(len(expected))] * len(expected))


def test_a_share_has_distractors_alone():
    examples = [example(i, "a", "g", "b", "c") for i in range(10)]
    made = Raft(gold_share=0.7).distract(examples, RETRIEVE, seed=1)
    assert [m.question.id for m in made] == [e.question.id for e in examples]
    with_gold = [m for m in made if "g" in names(m)]
    assert len(with_gold) == 7
    assert all(len(m.passages) == 4 for m in with_gold)
    assert all(set(names(m)) == {"a", "b", "c"} for m in made if m not in with_gold)


def test_questions_without_an_answer_have_distractors_alone_whatever_passage_they_name():
    asked = Question("q", "Why?", (), ("g",))
    found = replace(example(1, "a", "b", "c"), question=asked)
    (made,) = Raft(gold_share=1.0, distractors=2).distract([found], RETRIEVE, seed=1)
    assert set(names(made)) == {"a", "b"}
    near = replace(example(1, "g", "b", "c"), question=asked)
    (made,) = Raft(gold_share=1.0, distractors=2).distract([near], RETRIEVE, seed=1)
    assert set(names(made)) == {"g", "b"}  # retrieved, and none of its words answer


def test_the_seed_decides_on_the_order_and_on_who_has_gold():
    examples = [example(i, "a", "g", "b") for i in range(12)]
    option = Raft(gold_share=0.5)
    first = option.distract(examples, RETRIEVE, seed=1)
    assert first == option.distract(examples, RETRIEVE, seed=1)
    assert first != option.distract(examples, RETRIEVE, seed=2)
    places = {names(m).index("g") for m in first if "g" in names(m)}
    assert len(places) > 1  # it does not always stand in one place


def test_unknown_gold_passages_are_named_beforehand():
    known, unknown = Question("q1", "Why?", ("so",), ("g",)), Question("q2", "Who?", ("I",))
    assert Raft().data_problems(SimpleNamespace(train=(known,))) == []
    (line,) = Raft().data_problems(SimpleNamespace(train=(known, unknown)))
    assert line.startswith(
        "trainer.gold_share: 0.8, but 1 of 2 training questions have no known gold"
    )
    assert "'q2'" in line
    unanswerable = Question("q3", "Where?")
    assert Raft().data_problems(SimpleNamespace(train=(known, unanswerable))) == []


def make_training(examples, folder):
    return Training(
        model=None,
        examples=examples,
        retrieve=RETRIEVE,
        validate=dict,
        objective="f1",
        weigh=lambda *_: [],
        log=print,
        folder=folder,
        runtime=Runtime(folder),
    )


def test_training_without_any_distractor_is_refused(tmp_path):
    examples = [example(1, "g"), example(2)]
    training = make_training(examples, tmp_path)
    with pytest.raises(UserError, match="no distractor for any training question"):
        Raft(gold_share=0.5).fit(training)


def test_training_is_on_these_examples_and_validation_is_left_alone(monkeypatch, tmp_path):
    from rag_experiments.trainer import loop

    given = []
    monkeypatch.setattr(loop, "fit", lambda option, training, kind: given.append(training))
    examples = [example(1, "a", "b")]
    training = make_training(examples, tmp_path)
    Raft(gold_share=1.0).fit(training)
    (seen,) = given
    assert set(names(seen.examples[0])) == {"a", "g"}
    assert seen.validate is training.validate
    assert training.examples == examples
