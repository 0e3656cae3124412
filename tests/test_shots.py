"""Few-shot examples: which training questions are shown, to whom, and that they are kept."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from datasets import Dataset

from rag_experiments.contracts import Hit, Passage, PreparedData, Question, Shot
from rag_experiments.data.splits import place_id
from rag_experiments.pipeline import RagPipeline
from rag_experiments.shots import FILE, Shots
from rag_experiments.task.prompt import Prompt
from rag_experiments.task.question_answering import QuestionAnswering

TRAIN = (
    Question("t1", "Which enzyme joins DNA fragments?", ("ligase",), ("p1",)),
    Question("t2", "Which enzyme copies DNA strands?", ("polymerase",), ("p2",)),
    Question("t3", "What do yeast cells eat?", ("sugar",)),
    Question("t4", "what do  yeast cells EAT?", ("glucose",)),
    Question("t5", "Where do mammals keep genes?", ("nucleus",), ("p1",)),
)
TEST = Question("x1", "Which enzyme joins RNA fragments?", ("T4",))
PASSAGES = Dataset.from_list(
    [
        {"id": "p1", "title": "Ligase", "text": "It joins.", "document_id": "p1"},
        {"id": "p2", "title": "", "text": "It copies.", "document_id": "p2"},
    ]
)


def task(**fields) -> QuestionAnswering:
    fields = {"template": "{context}\nQ: {question}", "closed_book": "Q: {question}"} | fields
    return QuestionAnswering(prompt=Prompt(**fields))


def data(train=TRAIN) -> PreparedData:
    return PreparedData(PASSAGES, tuple(train), (), (TEST,), "annotated")


def shown(shots: Shots | None, question: Question) -> list[str]:
    assert shots is not None
    (asked,) = shots.add([question])
    return [shot.answer for shot in asked.shots]


def test_a_prompt_without_examples_has_none():
    assert Shots.gather(task(), data(), 1) is None


def test_the_drawn_examples_are_the_same_for_all_but_those_who_would_be_their_own():
    shots = Shots.gather(task(examples=2), data(), 1)
    order = sorted(TRAIN, key=lambda q: place_id(q.id, "examples 1"))
    # t3 and t4 have one text: the one drawn first stands for both.
    texts = {q.question.replace("  ", " ").casefold(): q for q in reversed(order)}
    kept = [q for q in order if q in texts.values()]
    assert len(kept) == 4
    first, second, third = (q.answers[0] for q in kept[:3])
    assert shown(shots, TEST) == [second, first]  # the first drawn stands next to the question
    assert shown(shots, replace(TEST, id="x2", question="Why?")) == [second, first]
    assert shown(shots, kept[0]) == [third, second]
    assert shown(shots, Question("x3", kept[0].question.upper())) == [third, second]
    assert shown(shots, Question(f"{kept[0].id}#1", "In other words?")) == [third, second]


def test_the_seed_decides_which_are_drawn():
    drawn = {tuple(shown(Shots.gather(task(examples=2), data(), s), TEST)) for s in range(8)}
    assert len(drawn) > 1


def test_the_nearest_stand_next_to_the_question_and_others_fill_up():
    shots = Shots.gather(task(examples=2, choice="nearest"), data(), 1)
    # Of "enzyme joins fragments" t1 has three words and t2 one.
    assert shown(shots, TEST) == ["polymerase", "ligase"]
    assert shown(shots, TRAIN[0])[-1] == "polymerase"
    assert "ligase" not in shown(shots, TRAIN[0])
    assert len(shown(shots, Question("x2", "Xylophone?"))) == 2


def test_nothing_of_validation_or_test_is_shown():
    shots = Shots.gather(task(examples=3, choice="nearest"), data(), 1)
    other = Question("x2", TEST.question + " Say which.")
    assert "T4" not in shown(shots, other)


def test_too_few_training_questions_are_refused_beforehand():
    shots = Shots.gather(task(examples=4), data(), 1)
    (line,) = shots.problems()
    assert line.startswith("task.prompt.examples: 4, but there are 4 training questions")
    assert line.endswith("at most 3")
    assert Shots.gather(task(examples=3), data(), 1).problems() == []


def test_questions_that_the_task_refuses_are_left_to_its_own_check():
    shots = Shots.gather(task(examples=1), data([Question("t0", "Why?"), *TRAIN[:2]]), 1)
    assert {identity for identity, _ in shots.pool} == {"t1", "t2"}


def test_an_example_with_context_has_its_gold_passage():
    option = task(
        examples=1,
        example="{context} Q: {question} A: {answer}",
        passage="[{number}] {title}: {text}",
    )
    shots = Shots.gather(option, data(), 1)
    assert {identity for identity, _ in shots.pool} == {"t1", "t2", "t5"}
    shot = Shot("Why?", "so", Passage("p1", "Ligase", "It joins."))
    rendered = option.render(Question("x", "How?", shots=(shot,)))
    assert rendered == "[1] Ligase: It joins. Q: Why? A: so [1]\n\nQ: How?"


def test_an_example_without_an_answer_cites_nothing():
    option = task(
        examples=1,
        example="{context} Q: {question} A: {answer}",
        passage="[{number}] {text}",
    ).model_copy(update={"abstention": "unanswerable"})
    unanswerable = Question("t9", "Why?", (), ("p1",))
    shot = Shot("Why?", option.target(unanswerable), Passage("p1", "", "It joins."))
    rendered = option.render(Question("x", "How?", shots=(shot,)))
    assert rendered == "[1] It joins. Q: Why? A: unanswerable\n\nQ: How?"


def test_examples_come_before_the_question_and_its_passages():
    shots = (Shot("One?", "1"), Shot("Two?", "2"))
    asked = Question("x", "Three?", shots=shots)
    assert task().render(asked, [Passage("p", "", "Text.")]) == (
        "Question: One?\nAnswer: 1\n\nQuestion: Two?\nAnswer: 2\n\nText.\nQ: Three?"
    )


@pytest.mark.parametrize("choice", ["drawn", "nearest"])
def test_a_saved_run_shows_the_same(tmp_path, choice):
    option = task(examples=2, choice=choice, example="{context}{question}{answer}")
    shots = Shots.gather(option, data(), 1)
    shots.save(tmp_path)
    loaded = Shots.load(tmp_path, option)
    assert loaded.add([TEST, TRAIN[0]]) == shots.add([TEST, TRAIN[0]])
    assert Shots.load(tmp_path, task()) is None


def test_drawn_examples_leave_other_training_questions_out_of_a_saved_run(tmp_path):
    many = [Question(f"t{i}", f"Question {i}?", (f"{i}",)) for i in range(50)]
    Shots.gather(task(examples=1), data(many), 1).save(tmp_path)
    assert (tmp_path / FILE).read_text().count("Question ") == 3


def test_every_question_that_a_pipeline_reads_has_its_examples():
    option = task(examples=1)
    shots = Shots.gather(option, data(), 1)
    pipeline = RagPipeline(
        option, SimpleNamespace(top_k=1, temperature=1.0), None, None, PASSAGES, shots=shots
    )
    hits = [[Hit("p1", 1.0)], []]
    examples = pipeline.read_hits([TEST, TRAIN[0]], hits)
    assert [e.question for e in examples] == shots.add([TEST, TRAIN[0]])
    assert all(len(example.question.shots) == 1 for example in examples)
