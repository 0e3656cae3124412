"""Questions without an answer: what is read, trained, scored and said of them."""

from __future__ import annotations

import collections
import json
import sys
from dataclasses import asdict, replace
from types import SimpleNamespace
from typing import Any

import pytest
from datasets import Dataset

from rag_experiments import __main__ as entry
from rag_experiments import serving
from rag_experiments.composition.composer import Composer
from rag_experiments.contracts import (
    Example,
    Passage,
    Prediction,
    PreparedData,
    Question,
    UserError,
)
from rag_experiments.evaluation import coverage, diagnosis
from rag_experiments.functional.attribution import BINS
from rag_experiments.functional.text import normalize_answer
from rag_experiments.metrics.abstention_precision import AbstentionPrecision
from rag_experiments.metrics.abstention_recall import AbstentionRecall
from rag_experiments.metrics.citation_share import CitationShare
from rag_experiments.metrics.exact_match import ExactMatch
from rag_experiments.metrics.f1 import F1
from rag_experiments.metrics.grounded import Grounded
from rag_experiments.metrics.recall import Recall
from rag_experiments.metrics.relevance import Relevance
from rag_experiments.pipeline import RagPipeline
from rag_experiments.shots import Shots
from rag_experiments.task.prompt import Prompt
from rag_experiments.task.question_answering import QuestionAnswering
from rag_experiments.task.yes_no import YesNo
from rag_experiments.trainer.distill import Distill
from rag_experiments.trainer.raft import Raft

NONE = "no answer"
ANSWERED = Question("a", "Which enzyme joins DNA?", ("DNA ligase",), ("p1",))
UNANSWERABLE = Question("b", "Which enzyme joins stones?")
PASSAGES = Dataset.from_list(
    [
        {"id": "p1", "title": "", "text": "DNA ligase joins DNA.", "document_id": "p1"},
        {"id": "p2", "title": "", "text": "There is no answer.", "document_id": "p2"},
    ]
)


def make_prompt(**fields: Any) -> Prompt:
    return Prompt(**{"template": "{context} {question}", "closed_book": "{question}", **fields})


def make_task(abstention: str | None = NONE, **fields: Any) -> QuestionAnswering:
    return QuestionAnswering(prompt=make_prompt(**fields), abstention=abstention)


def make_data(*train: Question, gold: str = "annotated") -> PreparedData:
    test = (ANSWERED, UNANSWERABLE)
    return PreparedData(PASSAGES, train or test, (), test, gold)


def predict(text: str, *answers: str, **fields: Any) -> Prediction:
    """What a task that knows abstentions makes of a text."""
    fields = {"abstained": make_task().abstains(text), **fields}
    return Prediction("q", "Which one is it?", text, answers, **fields)


# -- the task ----------------------------------------------------------------------------------


def test_the_target_of_a_question_without_an_answer_is_the_abstention():
    task = make_task()
    assert task.target(UNANSWERABLE) == NONE
    assert task.target(ANSWERED) == "DNA ligase"
    assert make_task("none", passage="[{number}] {text}").target(
        replace(UNANSWERABLE, passage_ids=("p1",)), [Passage("p1", "", "t")]
    ) == "none"  # it cites nothing  # fmt: skip
    assert [task.abstains(text) for text in ("No answer.", "the no answer", "no", "")] == [
        *(True, True, False, False)
    ]
    assert make_task(None).abstains(NONE) is None


def test_without_the_option_an_answer_is_needed_and_the_option_is_named():
    assert make_task().data_problems([ANSWERED, UNANSWERABLE]) == []
    (problem,) = make_task(None).data_problems([ANSWERED, UNANSWERABLE])
    assert problem.startswith("answers: 1 of 2 questions have no answer (first: 'b')")
    assert "task.abstention=unanswerable" in problem
    # An empty text is no empty list.
    (problem,) = make_task().data_problems([replace(UNANSWERABLE, answers=(" ",)), UNANSWERABLE])
    assert problem.endswith("1 of 2 questions have no answer (first: 'b'); each needs at least one")


def test_an_abstention_that_is_an_accepted_answer_is_refused():
    questions = [replace(ANSWERED, answers=("ligase", "No answer!")), UNANSWERABLE, ANSWERED]
    (problem,) = make_task().data_problems(questions)
    assert problem.startswith("task.abstention: 'no answer' is an accepted answer of 1 of 3")


@pytest.mark.parametrize(
    ("abstention", "fields", "message"),
    [
        ("", {}, "no words left"),
        (" \n", {}, "no words left"),
        ("The...", {}, "no words left"),
        ("not here\nat all", {}, "one line"),
        ("none [1]", {"passage": "[{number}] {text}"}, "numbers in brackets"),
        (None, {"system": "Else say {abstention}."}, "task.abstention is null; set it"),
    ],
)
def test_texts_that_could_not_be_compared_are_refused(abstention, fields, message):
    with pytest.raises(ValueError, match="abstention") as refused:
        make_task(abstention, **fields)
    assert message in str(refused.value)


def test_the_prompt_says_what_to_answer():
    task = make_task(
        system="Else {abstention}.",
        template="{context} {question} (or {abstention})",
        closed_book="{question} (or {abstention})",
    )
    assert task.system == "Else no answer."
    passage = Passage("p", "", "Text.")
    assert task.render(UNANSWERABLE, [passage]) == f"Text. {UNANSWERABLE.question} (or no answer)"
    assert task.render(UNANSWERABLE) == f"{UNANSWERABLE.question} (or no answer)"
    with pytest.raises(ValueError, match="the task yes_no has labels alone"):
        YesNo(prompt=make_prompt(closed_book="{question} {abstention}"))


def test_examples_show_abstentions():
    shots = Shots.gather(make_task(examples=1), make_data(), seed=1)
    assert shots is not None
    assert {shot.answer for _, shot in shots.pool} == {"DNA ligase", NONE}
    # Those that are shown with their gold passages need one.
    with_gold = make_task(examples=1, example="{context} {question} {answer}")
    shots = Shots.gather(with_gold, make_data(), seed=1)
    assert shots is not None
    assert [shot.answer for _, shot in shots.pool] == ["DNA ligase"]


# -- scores ------------------------------------------------------------------------------------


def squad2(text: str, answers: tuple[str, ...], none: str) -> tuple[float, float]:
    """Exact match and F1 by the rules of SQuAD 2.0: an abstention is the empty text, the only
    accepted answer of a question without one, and where a side is empty F1 is equality."""
    said = "" if normalize_answer(text) == normalize_answer(none) else normalize_answer(text)
    accepted = [normalize_answer(answer) for answer in answers] or [""]

    def f1(answer: str) -> float:
        if not said or not answer:
            return float(said == answer)
        common = collections.Counter(said.split()) & collections.Counter(answer.split())
        return 2 * common.total() / (len(said.split()) + len(answer.split()))

    return float(said in accepted), max(map(f1, accepted))


@pytest.mark.parametrize("answers", [(), ("DNA ligase", "ligase"), ("no answer sheet",)])
@pytest.mark.parametrize("text", [NONE, "No answer.", "DNA ligase", "no answer sheet", "no", "x"])
def test_exact_match_and_f1_are_those_of_squad_2(text, answers):
    prediction = predict(text, *answers)
    expected = squad2(text, answers, NONE)
    assert (ExactMatch().score(prediction), F1().score(prediction)) == pytest.approx(expected)


def test_abstentions_by_hand():
    predictions = [
        predict(NONE),
        predict(NONE),
        predict("x"),
        predict(NONE, "x"),
        predict("x", "x"),
    ]
    precision, recall = AbstentionPrecision(), AbstentionRecall()
    assert [precision.score(p) for p in predictions] == [1, 1, None, 0, None]
    assert [recall.score(p) for p in predictions] == [1, 1, 0, None, None]
    assert (precision.aggregate(predictions), recall.aggregate(predictions)) == (2 / 3, 2 / 3)
    assert [ExactMatch().score(p) for p in predictions] == [1, 1, 0, 0, 1]


def test_a_task_without_abstentions_scores_as_before():
    for text, answers in ((NONE, ()), (NONE, (NONE,)), ("x", ())):
        prediction = predict(text, *answers, abstained=None)
        assert AbstentionPrecision().score(prediction) is None
        assert AbstentionRecall().score(prediction) is None
        assert ExactMatch().score(prediction) == (1 if answers else None)
        assert F1().score(prediction) == (1 if answers else None)


def test_other_metrics_leave_abstentions_out():
    shown = {"passages": ("There is no answer.",), "passage_ids": ("p2",)}
    for metric in (Grounded(), CitationShare(), Relevance()):
        assert metric.score(predict(NONE, **shown)) is None
        assert metric.score(predict("an answer", **shown)) is not None
    assert Recall().score(predict(NONE, **shown)) is None  # no gold passage, no recall


def test_they_are_evaluate_metrics_too():
    for metric, expected in ((AbstentionPrecision(), 1 / 2), (AbstentionRecall(), 1)):
        computed = metric.load().compute(
            predictions=[True, True, False], references=[[], ["x"], ["x"]]
        )
        assert computed == {metric.name: expected}


# -- the bins ----------------------------------------------------------------------------------


def explain(*texts: str, gold: str = "ligases", passages: tuple[str, ...] = ("p1",)) -> list[dict]:
    """The rows of `errors.jsonl` for an answerable and an unanswerable question."""
    data, task = make_data(), make_task()
    predictions = [
        Prediction(
            question.id,
            question.question,
            text,
            question.answers,
            passage_ids=passages,
            gold_passage_ids=question.passage_ids,
            abstained=task.abstains(text),
        )
        for question, text in zip(data.test, texts, strict=True)
    ]
    alone = [replace(predictions[0], prediction=gold, abstained=task.abstains(gold))]
    known = diagnosis.find_gold(data, coverage.locate_answers(data))
    return diagnosis.explain(predictions, {"gold": alone, "closed_book": predictions}, known)


@pytest.mark.parametrize(
    ("texts", "bins"),
    [
        (("DNA ligase", NONE), ("right", "right")),
        (("a ligase", "No answer."), ("reading_failure", "right")),
        (("", ""), ("wrong_format", "wrong_format")),
        ((NONE, "DNA ligase"), ("reading_failure", "answered_unanswerable")),
        # An abstention is no answer in other words, whatever words of an answer it holds.
        (("It is DNA ligase", "There is no answer"), ("right_other_form", "answered_unanswerable")),
    ],
)
def test_each_answer_falls_into_one_bin(texts, bins):
    rows = explain(*texts)
    assert tuple(row["bin"] for row in rows) == bins
    assert set(bins) <= set(BINS)
    assert [row["form"] is not None for row in rows] == [name.startswith("right") for name in bins]
    assert [row["abstained"] for row in rows] == [make_task().abstains(text) for text in texts]
    summary = diagnosis.summarize(rows)
    assert sum(summary["bins"].values()) == 2
    forms = sum(summary["forms"].values())
    assert forms == summary["bins"]["right"] + summary["bins"]["right_other_form"]
    right = [row["closed_book_right"] for row in rows]
    assert right == [name.startswith("right") for name in bins]  # the same answers


def test_a_wrong_abstention_falls_through_the_bins_of_retrieval():
    assert explain(NONE, NONE, passages=("p2",))[0]["bin"] == "not_retrieved"
    assert explain(NONE, NONE, gold="DNA ligase")[0]["bin"] == "distracted"
    assert explain(NONE, NONE, gold=NONE)[0]["bin"] == "reading_failure"
    row = explain(NONE, NONE)[1]
    assert (row["answer_length"], row["retrieval_rank"]) == ("no answer", "unknown")


def test_no_gold_passage_is_made_up():
    """Though a passage has the words of the abstention."""
    data = make_data(gold="annotated")
    located = coverage.locate_answers(data)
    assert located["b"] == ()
    found = diagnosis.find_gold(data, located)["b"]
    assert (found.passage_ids, found.source) == ((), "none")
    counted = coverage.measure_answers([predict(NONE, passages=("no answer",))], {"q": ()})
    assert counted["questions"] == 0


# -- trainers ----------------------------------------------------------------------------------


def test_raft_gives_them_distractors_alone():
    shown = (Passage("p1", "", "t"), Passage("p2", "", "t"), Passage("p3", "", "t"))
    prior = (-1.0986,) * 3
    examples = [Example(replace(ANSWERED, id=f"a{n}"), shown, prior) for n in range(4)]
    examples += [Example(replace(UNANSWERABLE, id=f"b{n}"), shown, prior) for n in range(3)]
    retrieve: Any = SimpleNamespace()
    assert Raft().data_problems(make_data()) == []
    made = Raft(gold_share=0.5).distract(examples, retrieve, seed=1)
    gold = ["p1" in [passage.id for passage in example.passages] for example in made[:4]]
    assert sum(gold) == 2  # of those that have one
    for example in made[4:]:
        assert sorted(passage.id for passage in example.passages) == ["p1", "p2"]


def test_distillation_needs_an_answer():
    option = Distill(eval_strategy="no")
    assert option.data_problems(make_data(ANSWERED, UNANSWERABLE)) == []
    (problem,) = option.data_problems(make_data(UNANSWERABLE))
    assert problem.startswith("trainer: Distill learns from what makes answers likely, but no")


# -- command lines and a run -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["task.abstention=unanswerable"], None),
        (["task.abstention=unanswerable", "task/prompt=abstain", "trainer=frozen"], None),
        (
            ["task.abstention=unanswerable", "trainer=frozen"],
            "task.abstention: 'unanswerable', but no {abstention} in the prompt asks for it and "
            "trainer Frozen does not teach it; choose task/prompt=abstain, or trainer=supervised",
        ),
        (
            ["task.abstention=unanswerable", "retriever=dense", "trainer=contrastive"],
            "task.abstention: 'unanswerable', but no {abstention} in the prompt asks for it and "
            "trainer Contrastive does not teach it; choose task/prompt=abstain",
        ),
        (["task.abstention=x", "trainer=frozen", "task.prompt.examples=2"], None),
        (
            ["task/prompt=abstain"],
            "task.prompt: has {abstention}, but task.abstention is null; set it, e.g. "
            "task.abstention=unanswerable, or choose another prompt, e.g. task/prompt=brief",
        ),
        (
            ["metrics=[question_answering,abstention_recall]"],
            "metrics.abstention_recall: scores abstentions, but there is no text for them; set "
            "task.abstention, e.g. task.abstention=unanswerable, or leave the metric out",
        ),
        (["task=yes_no", "task.abstention=no"], "task.abstention: unknown key"),
        (["task.abstention=''"], "task.abstention: '' has no words left"),
    ],
)
def test_what_does_not_go_together_is_refused(overrides, problem):
    line = ["data=bio_qa", "model=concat", "retriever=bm25", *overrides]
    if problem is None:
        assert Composer().plan(line).jobs
        return
    with pytest.raises(UserError) as refused:
        Composer().plan(line)
    assert any(each.startswith(problem) for each in refused.value.problems), refused.value.problems


def test_a_run_that_learns_to_abstain(tmp_path, monkeypatch):
    """All training questions are unanswerable, so that even a tiny model learns what to say."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()

    def write(name: str, *rows: dict[str, Any]) -> None:
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "data" / f"{name}.jsonl").write_text(text, "utf-8")

    def ask(name: str, *answers: str) -> dict[str, Any]:
        gold = ["p1"] if answers else []
        return {"id": name, "question": f"What is {name}?", "answers": answers, "passage_ids": gold}

    write("passages", {"id": "p1", "text": "It is x."}, {"id": "p2", "text": "It is none."})
    write("train", *(ask(f"t{n}") for n in range(8)))
    write("validation", ask("v1"), ask("v2", "x"))
    write("test", ask("q1"), ask("q2"), ask("q3", "x"))
    line = [
        *("data=folder", "data.path=data", "model=concat", "model/generator=tiny_causal"),
        *("retriever=bm25", "retriever.top_k=1", "tracking=none", "device=cpu"),
        *("precision=float32", "cache_dir=cache", "task.abstention=none", "task/prompt=abstain"),
        *("trainer.max_steps=60", "trainer.learning_rate=0.01", "trainer.eval_strategy=no"),
        "metrics=[question_answering,abstention_precision,abstention_recall]",
    ]
    monkeypatch.setattr(sys, "argv", ["rag_experiments", *line])
    with pytest.raises(SystemExit) as ended:
        entry.main()
    assert not ended.value.code
    (run,) = tmp_path.glob("outputs/runs/*/*")
    scores = json.loads((run / "metrics.json").read_text("utf-8"))
    trained = {name: (each["value"], each["n"]) for name, each in scores["trained"].items()}
    assert trained["abstention_recall"] == (1, 2)
    assert trained["abstention_precision"] == (pytest.approx(2 / 3), 3)
    assert trained["exact_match"] == trained["f1"] == (pytest.approx(2 / 3), 3)
    assert trained["recall"][1] == 1
    assert scores["closed_book"]["abstention_recall"]["n"] == 2
    assert scores["untrained"]["abstention_recall"]["value"] == 0
    errors = json.loads((run / "errors.json").read_text("utf-8"))
    assert errors["bins"]["right"] == 2
    assert sum(errors["bins"].values()) == 3
    answered = RagPipeline.load(run).ask("What is q1?")
    assert answered.prediction == "none"
    assert serving.describe(answered)["abstained"] is True
    assert asdict(answered)["abstained"] is True
