"""Questions that are put again: which passages are read, what is drawn, what is refused."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset

from rag_experiments import config
from rag_experiments.conflicts import find_conflicts
from rag_experiments.contracts import Answer, Example, Hit, Question, Runtime
from rag_experiments.evaluation.variation import add_rewordings, add_samples
from rag_experiments.metrics.consistency import RewordingConsistency, SampleConsistency
from rag_experiments.model.concat import Concat
from rag_experiments.model.generator import Generator
from rag_experiments.model.rag_token import RagToken
from rag_experiments.pipeline import RagPipeline
from rag_experiments.task.prompt import Prompt
from rag_experiments.task.question_answering import QuestionAnswering
from rag_experiments.task.yes_no import YesNo

PASSAGES = Dataset.from_list(
    [{"id": f"p{n}", "title": "", "text": f"text {n}", "document_id": "d"} for n in range(4)]
)
QUESTIONS = [
    Question("which", "Which enzyme joins DNA?", ("ligase",), ("p1",)),
    Question("none", "Name an enzyme.", ("ligase",)),
    Question("who", "Who is it?", ("Taq",)),
]
PROMPT = Prompt(template="{context}\n{question}", closed_book="{question}")
TASK = QuestionAnswering(prompt=PROMPT, max_answer_tokens=6)


class Searcher:
    """Finds a passage by the length of the question."""

    def search(self, questions, top_k, query_vectors=None):
        return [[Hit(f"p{len(q.question) % 4}", 1.0)] for q in questions]


class Model:
    """Answers with what it was asked and given."""

    def answer(self, examples, progress=None):
        return [Answer(f" {e.question.question} {e.passages[0].id}") for e in examples]

    def sample(self, examples, count, seed, progress=None):
        return [
            tuple(f" {e.question.id} {e.passages[0].id} {seed + n}" for n in range(count))
            for e in examples
        ]


def make_pipeline(model, task=TASK) -> RagPipeline:
    retriever = SimpleNamespace(top_k=1, temperature=1.0, uses_query_vectors=False)
    return RagPipeline(task, retriever, model, Searcher(), PASSAGES)


def test_rewordings_are_answered_from_passages_of_their_own():
    pipeline = make_pipeline(Model())
    own = pipeline.predict(QUESTIONS)
    found = add_rewordings(own, pipeline, QUESTIONS)
    assert [p.prediction for p in found] == [p.prediction for p in own]
    which, none, who = found
    assert len(which.rewordings) == 3
    assert which.rewordings[2] == "What enzyme joins DNA?"
    for prediction in found:
        assert prediction.reworded_answers == tuple(
            f"{text} p{len(text) % 4}" for text in prediction.rewordings
        )
    assert len({text[-2:] for text in which.reworded_answers}) > 1  # not the hits of the question
    assert none.rewordings == none.reworded_answers == ()
    assert who.rewordings[0] == "Tell me: who is it?"
    only = add_rewordings(own[1:2], pipeline, QUESTIONS[1:2])
    assert only == own[1:2]


def test_samples_read_the_hits_that_are_given():
    pipeline = make_pipeline(Model())
    own = pipeline.predict(QUESTIONS)
    hits = [[Hit("p3", 1.0)], [Hit("p2", 1.0)], [Hit("p0", 1.0)]]
    found = add_samples(own, pipeline, QUESTIONS, hits, count=2, seed=5)
    assert [p.samples for p in found] == [
        ("which p3 5", "which p3 6"),
        ("none p2 5", "none p2 6"),
        ("who p0 5", "who p0 6"),
    ]


@pytest.fixture(scope="module")
def runtime(tmp_path_factory) -> Runtime:
    return Runtime(cache_dir=tmp_path_factory.mktemp("cache"))


def make_model(runtime, task=TASK, option=RagToken):
    generator = Generator(weights="random:llama", kind="causal")
    return option(generator=generator).load(task, runtime, encode_queries=False)


def test_drawing_depends_on_its_seed_alone_and_changes_nothing_else(runtime):
    pipeline = make_pipeline(make_model(runtime))
    hits = [[Hit("p0", 2.0), Hit("p1", 1.0)], [Hit("p2", 1.0)], []]
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    first = pipeline.sample(QUESTIONS, hits, 3, seed=1)
    assert torch.equal(torch.rand(3), expected)
    torch.manual_seed(7)
    assert pipeline.sample(QUESTIONS, hits, 3, seed=1) == first
    assert pipeline.sample(QUESTIONS, hits, 3, seed=2) != first
    assert [len(texts) for texts in first] == [3, 3, 3]
    assert len({text for texts in first for text in texts}) > 3  # a random model says anything
    greedy = [p.prediction for p in pipeline.predict(QUESTIONS, hits)]
    assert [p.prediction for p in pipeline.predict(QUESTIONS, hits)] == greedy


def test_labels_are_not_drawn(runtime):
    task = YesNo(prompt=PROMPT)
    model = make_model(runtime, task, Concat)
    with pytest.raises(ValueError, match="nothing to draw"):
        model.sample([Example(QUESTIONS[0])], 2, seed=1)


@pytest.mark.parametrize(
    ("test", "labels", "problems"),
    [
        ({}, (), ["test.samples is 0", "test.rewordings is false"]),
        ({"samples": 2}, (), ["test.rewordings is false"]),
        ({"rewordings": True}, (), ["test.samples is 0"]),
        ({"samples": 2, "rewordings": True}, (), []),
        ({"samples": 2, "rewordings": True}, ("yes", "no"), ["takes the likeliest label"]),
    ],
)
def test_what_is_compared_has_to_be_made(test, labels, problems):
    metrics = {"samples": SampleConsistency(), "rewordings": RewordingConsistency()}
    task = SimpleNamespace(name="question_answering", objective="f1", labels=labels)
    rooms = {"test": config.Test(**test), "task": task, "metrics": metrics}
    found = [line for line in find_conflicts(rooms) if "objective" not in line]
    assert len(found) == len(problems)
    assert all(part in line for part, line in zip(problems, found, strict=True))


def test_options_of_the_test_are_checked():
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        config.Test(samples=-1)
