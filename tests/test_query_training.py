"""Training of the query encoder alone: its losses by hand, what it is taught, and what it leaves
as it was."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from trainings import TASK, WORDS, train_whole_and_cut

from rag_experiments import __main__ as entry
from rag_experiments.composition.composer import Composer
from rag_experiments.contracts import (
    Example,
    Hit,
    Passage,
    PreparedData,
    Question,
    Runtime,
    Training,
    TrainingResult,
    UserError,
)
from rag_experiments.evaluation.retrieval import score_retrieval
from rag_experiments.functional.ranking_loss import distillation_loss, info_nce
from rag_experiments.model.generator import Generator
from rag_experiments.model.query_encoder import QueryEncoder
from rag_experiments.model.rag_sequence import RagSequence
from rag_experiments.model.rag_token import RagToken
from rag_experiments.trainer.contrastive import Contrastive
from rag_experiments.trainer.distill import Distill
from rag_experiments.trainer.ranking_loop import Contrast, ContrastiveModel, Ranker, mine

# --- Losses -----------------------------------------------------------------------------------


def contrast_by_hand(scores, gold):
    """Each gold passage against what is not gold, with plain sums of exponentials."""
    losses = []
    for row, right in zip(scores, gold, strict=True):
        wrong = sum(math.exp(s) for s, g in zip(row, right, strict=True) if not g)
        own = [
            -math.log(math.exp(s) / (math.exp(s) + wrong))
            for s, g in zip(row, right, strict=True)
            if g
        ]
        losses.append(sum(own) / len(own))
    return sum(losses) / len(losses)


def test_the_contrastive_loss_is_that_of_the_formula():
    scores = torch.randn(4, 6, dtype=torch.float64, generator=torch.manual_seed(0)) * 3
    gold = torch.tensor([[1, 0, 0, 0, 0, 0], [0, 1, 1, 0, 0, 0], [0, 0, 0, 1, 0, 1], [1] * 6]) > 0
    scores.requires_grad_()
    loss = info_nce(scores, gold)
    expected = contrast_by_hand(scores.tolist(), gold.tolist())
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-12)
    loss.backward()
    assert scores.grad is not None
    assert scores.grad.isfinite().all()
    assert (scores.grad[3] == 0).all()  # nothing to be told from
    # Where there is one gold passage a question, it is cross-entropy.
    single = torch.tensor([2, 0, 5, 1])
    plain = torch.nn.functional.cross_entropy(scores, single)
    one_hot = torch.nn.functional.one_hot(single, 6) > 0
    torch.testing.assert_close(info_nce(scores, one_hot), plain)


def test_a_second_gold_passage_is_no_negative():
    gold = torch.tensor([[True, True, False]])
    near, far = torch.tensor([[1.0, 5.0, 0.0]]), torch.tensor([[1.0, -5.0, 0.0]])
    near.requires_grad_()
    info_nce(near, gold).backward()
    assert near.grad is not None
    assert near.grad[0, 0] < 0
    assert near.grad[0, 1] < 0  # it goes up as well
    first = math.log(1 + math.exp(-1.0))
    assert info_nce(far, gold) == pytest.approx((first + math.log(1 + math.exp(5.0))) / 2)


def test_the_distillation_loss_is_that_of_the_formula():
    scores = torch.tensor([[1.0, 2.0, -math.inf], [0.5, -1.0, 3.0]], requires_grad=True)
    teacher = torch.tensor([[0.75, 0.25, 0.0], [0.0, 0.0, 1.0]])
    expected = []
    for row, weights in zip(scores.tolist(), teacher.tolist(), strict=True):
        total = sum(math.exp(s) for s in row)
        expected.append(
            sum(
                w * math.log(w / (math.exp(s) / total))
                for s, w in zip(row, weights, strict=True)
                if w
            )
        )
    loss = distillation_loss(scores, teacher)
    assert float(loss.detach()) == pytest.approx(sum(expected) / 2, rel=1e-6)
    loss.backward()
    # The gradient of a row is (softmax - teacher) / b, and none for what is not there.
    wanted = (torch.softmax(scores.detach(), 1) - teacher) / 2
    torch.testing.assert_close(scores.grad, wanted)
    same = torch.softmax(scores.detach(), 1)
    assert float(distillation_loss(scores.detach(), same)) == pytest.approx(0, abs=1e-7)


# --- What is learned from ---------------------------------------------------------------------


def make_example(answer, gold, *texts):
    passages = tuple(Passage(f"p{i}", "", text) for i, text in enumerate(texts))
    return Example(Question("q", "Why?", (answer,), gold), passages)


def test_hard_negatives_are_neither_gold_nor_hold_the_answer():
    texts = ("The enzyme ligase.", "Gold.", "A ligases text.", "Ligase again.", "None.")
    assert mine(make_example("ligase", ("p1",), *texts)) == ("p2", "p4")
    # A label stands everywhere and is no answer to look for.
    assert mine(make_example("no", ("p1",), "There is no cure.", "Gold.")) == ("p0",)
    own = make_example("increase", ("p1",), "An increase in cost.", "Gold.")
    assert mine(own) == ()
    assert mine(own, labels=("increase", "decrease")) == ("p0",)


class Shelf:
    """Retrieval over fixed vectors, as a pipeline has it."""

    temperature = 1.0

    def __init__(self, passages, vectors, encoder):
        self.passages = {passage.id: passage for passage in passages}
        self.rows = {passage.id: vector for passage, vector in zip(passages, vectors, strict=True)}
        self.encoder = encoder
        self.searches = 0

    def search(self, questions, top_k):
        queries = self.encoder.encode([q.query for q in questions])
        self.searches += 1
        ranked = []
        for query in queries:
            scores = {name: float(vector @ query) for name, vector in self.rows.items()}
            best = sorted(scores, key=lambda name: -scores[name])[:top_k]
            ranked.append([Hit(name, scores[name]) for name in best])
        return ranked

    def examples(self, questions, query_vectors=None, top_k=None):
        return [
            Example(q, tuple(self.passages[hit.passage_id] for hit in hits), (0.0,) * len(hits))
            for q, hits in zip(questions, self.search(questions, top_k or 3), strict=True)
        ]

    def passage_vectors(self, passage_ids):
        return np.stack([self.rows[name] for name in passage_ids])


@pytest.fixture
def make_training(tmp_path):
    """A training of a random query encoder on ten questions, each with a passage of its own."""
    runtime = Runtime(cache_dir=tmp_path / "cache")

    def make(kind=RagToken, folder="checkpoints", log=lambda *_: None):
        torch.manual_seed(0)
        option = kind(
            generator=Generator(weights="random:llama", kind="causal"),
            query_encoder=QueryEncoder(weights="random:bert"),
        )
        model = option.load(TASK, runtime, encode_queries=True)
        passages = [Passage(f"p{i}", "", f"All of {word}.") for i, word in enumerate(WORDS)]
        vectors = torch.nn.functional.normalize(
            torch.randn(len(passages), model.query_encoder.dimension), dim=1
        ).numpy()
        shelf = Shelf(passages, vectors, model.query_encoder)
        questions = [
            Question(f"q{i}", f"What is {word} for?", (f"for {i}",), (f"p{i}",))
            for i, word in enumerate(WORDS)
        ]
        return Training(
            model=model,
            examples=[Example(question) for question in questions],
            retrieve=shelf,  # type: ignore[arg-type]
            validate=lambda: score_retrieval(questions, shelf.search(questions, 3)),
            objective="mrr",
            weigh=model.weigh,
            log=log,
            folder=tmp_path / folder,
            runtime=runtime,
        )

    return make


def test_a_batch_ranks_all_its_passages_once(make_training):
    training = make_training()
    training.model.eval()
    asked = [example.question for example in training.examples[:3]]
    lessons = [
        Contrast(asked[0], ("p5", "p1")),  # p1 is gold for the next question
        Contrast(asked[1], ("p5",)),
        Contrast(replace(asked[2], passage_ids=("p2", "p1")), ()),
    ]
    loss = ContrastiveModel(training, temperature=0.2)(lessons)["loss"]
    queries = training.model.query_encoder.encode([q.query for q in asked])
    names = ["p0", "p1", "p2", "p5"]
    scores = queries @ training.retrieve.passage_vectors(names).T / 0.2
    gold = [[True, False, False, False], [False, True, False, False], [False, True, True, False]]
    assert float(loss.detach()) == pytest.approx(contrast_by_hand(scores.tolist(), gold), rel=1e-4)


def test_scores_of_mixed_precision_are_not_rounded(make_training):
    """bf16 keeps three digits, and cosines of passages that were retrieved differ in the third."""
    training = make_training()
    training.model.eval()
    ranker = Ranker(training, temperature=0.05)
    asked, names = [example.question for example in training.examples[:3]], ["p0", "p1", "p5"]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        scores = ranker.score(asked, names)
        queries = ranker.encoder.forward_texts([question.query for question in asked])
    passages = torch.as_tensor(ranker.passage_vectors(names))
    expected = queries.double() @ passages.double().T / 0.05
    torch.testing.assert_close(scores.double(), expected, rtol=1e-5, atol=1e-5)


FAST = {
    "num_train_epochs": 12.0,
    "per_device_train_batch_size": 5,
    "learning_rate": 3e-3,
    "logging_steps": 1,
}


def weights(module):
    return {name: value.detach().clone() for name, value in module.named_parameters()}


def test_contrastive_training_ranks_gold_passages_first_and_leaves_the_generator(make_training):
    training = make_training()
    before = training.validate()
    generator, encoder = weights(training.model.generator), weights(training.model.query_network)
    result = Contrastive(**FAST, hard_negatives=2, mining_depth=6).fit(training)
    assert result.steps == 24
    after = training.validate()
    assert before["mrr"] < 0.6
    assert after["mrr"] > before["mrr"] + 0.3
    assert result.best_score == pytest.approx(after["mrr"])  # the best is what is left
    now = weights(training.model.generator)
    assert all(torch.equal(now[name], generator[name]) for name in generator)
    moved = weights(training.model.query_network)
    assert any(not torch.equal(moved[name], encoder[name]) for name in encoder)
    for folder in training.folder.glob("checkpoint-*"):
        assert (folder / "query_encoder" / "model.safetensors").is_file()
        assert not (folder / "generator").exists()


def test_questions_without_gold_passages_are_left_out_and_counted(make_training, caplog):
    training = make_training()
    first, *others = training.examples
    examples = [Example(replace(first.question, passage_ids=())), *others]
    training = replace(training, examples=examples)
    option = Contrastive(**FAST | {"num_train_epochs": 1.0}, hard_negatives=0)
    with caplog.at_level("WARNING"):
        assert option.fit(training).steps == 2  # of 9 questions
    assert "1 of 10 training questions name no gold passage and are left out" in caplog.text
    assert training.retrieve.searches == 1  # the validation, nothing is mined


@pytest.mark.parametrize("kind", [Contrastive, Distill])
def test_a_training_that_is_cut_short_goes_on_to_the_same_weights(kind, make_training):
    option = kind(**FAST | {"num_train_epochs": 3.0}, save_seconds=0)
    whole, again = train_whole_and_cut(option, make_training)
    wanted, found = weights(whole.model.query_network), weights(again.model.query_network)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


# --- Distillation -----------------------------------------------------------------------------


def test_passages_are_weighed_by_how_likely_they_make_the_answer(make_training):
    training = make_training(RagSequence)
    model = training.model.eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.generator.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0, 0.3, generator=generator)
    found = training.retrieve.examples([e.question for e in training.examples[:4]], top_k=3)
    counts = [3, 2, 1, 3]
    examples = [
        replace(e, passages=e.passages[:n], log_prior=(-math.log(n),) * n)
        for e, n in zip(found, counts, strict=True)
    ]
    weighed = model.weigh(examples, temperature=2.0)
    for example, shares in zip(examples, weighed, strict=True):
        logs = []
        for passage in example.passages:
            batch = model.collate([replace(example, passages=(passage,), log_prior=(0.0,))])
            with torch.no_grad():
                logs.append(-float(model(**batch)["loss"]) * int(batch["answer_mask"].sum()) / 2.0)
        expected = torch.softmax(torch.tensor(logs), 0).tolist()
        assert shares == pytest.approx(expected, rel=1e-3)
    assert max(weighed[0]) - min(weighed[0]) > 0.01  # passages matter


@pytest.mark.parametrize("kind", [RagToken, RagSequence])
def test_distillation_brings_the_prior_near_to_the_posterior(kind, make_training):
    training = make_training(kind)
    model = training.model
    calls = []

    def judge(examples, temperature, progress):
        """In place of a generator that knows something: the gold passage has it all."""
        calls.append(len(examples))
        real = model.weigh(examples, temperature=temperature)
        assert all(sum(own) == pytest.approx(1) for own in real)
        assert all(e.log_prior == pytest.approx([-math.log(10)] * 10) for e in examples)
        return [tuple(float(p.id in e.question.passage_ids) for p in e.passages) for e in examples]

    training = replace(training, weigh=judge)
    before = training.validate()
    generator = weights(model.generator)
    Distill(**FAST, passages=10).fit(training)
    assert calls == [10]  # once, before the first step
    assert training.validate()["mrr"] > before["mrr"] + 0.3
    now = weights(model.generator)
    assert all(torch.equal(now[name], generator[name]) for name in generator)


# --- What is refused beforehand ---------------------------------------------------------------


def make_data(train_gold, validation_gold):
    def ask(gold):
        return (Question("q", "Why?", ("so",), ("p",) if gold else ()),)

    return PreparedData(None, ask(train_gold), ask(validation_gold), (), "none")  # type: ignore[arg-type]


def test_data_without_gold_passages_is_refused():
    (problem,) = Contrastive().data_problems(make_data(False, False))
    assert problem.startswith("trainer: Contrastive learns from gold passages, but no training")
    (problem,) = Contrastive().data_problems(make_data(True, False))
    assert problem.startswith("trainer.objective: 'mrr' needs gold passages, but no validation")
    assert Contrastive(eval_strategy="no").data_problems(make_data(True, False)) == []
    assert Contrastive().data_problems(make_data(True, True)) == []
    (problem,) = Distill().data_problems(make_data(True, False))
    assert problem.startswith("trainer.objective: 'mrr'")
    assert Distill(eval_strategy="no").data_problems(make_data(False, False)) == []


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"hard_negatives": 0, "per_device_train_batch_size": 1}, "hard_negatives: 0, but a batch"),
        ({"mining_depth": 3}, "mining_depth: 3 is less than hard_negatives 4"),
    ],
)
def test_settings_that_leave_nothing_to_learn_from_are_refused(settings, expected):
    with pytest.raises(ValidationError, match=expected):
        Contrastive(**settings)


@pytest.mark.parametrize(
    ("trainer", "others", "expected"),
    [
        ("contrastive", [], "Contrastive trains the query encoder, which retriever BM25 does not"),
        ("contrastive", ["retriever=hybrid"], None),
        ("contrastive", ["retriever=dense", "model=concat"], None),
        ("contrastive", ["retriever=dense", "retriever/reranker=bi_encoder"], None),
        ("distill", ["retriever=dense", "model=rag_token"], None),
        ("distill", ["retriever=dense", "model=concat"], "Distill trains through p(z|x,y), which"),
    ],
)
def test_retrievers_and_models_that_do_not_fit_are_refused(trainer, others, expected):
    composer = Composer()
    if expected is None:
        assert composer.plan([f"trainer={trainer}", *others]).jobs
        return
    with pytest.raises(UserError) as refused:
        composer.plan([f"trainer={trainer}", *others])
    (problem,) = refused.value.problems
    assert problem.startswith(f"trainer: {expected}")


# --- A whole run ------------------------------------------------------------------------------


def start(folder, monkeypatch, trainer):
    """A whole run on tiny models; its folder."""
    monkeypatch.chdir(folder)
    line = ["+experiment=smoke", f"trainer={trainer}", "tracking=none", "test.references=false"]
    line += ["test.samples=0", "test.rewordings=false", "metrics=question_answering"]
    line += ["trainer.max_steps=3", "trainer.learning_rate=1e-2"]
    monkeypatch.setattr(sys, "argv", ["rag_experiments", *line])
    with pytest.raises(SystemExit) as ended:
        entry.main()
    assert not ended.value.code
    (run,) = (path.parent for path in folder.glob("outputs/runs/*/*/metrics.json"))
    return run


@pytest.mark.slow
@pytest.mark.parametrize("trainer", ["contrastive", "distill"])
def test_a_run_trains_the_query_encoder_and_saves_it(trainer, tmp_path, monkeypatch):
    run = start(tmp_path, monkeypatch, trainer)
    assert (run / "model" / "query_encoder" / "model.safetensors").is_file()
    curves = [json.loads(row) for row in (run / "curves.jsonl").open()]
    assert any("validation/mrr" in point for point in curves[1:])
    assert curves[0].keys() > {"step", "validation/mrr"}
    assert curves[0]["step"] == 0  # the untrained ranking
    assert not any("validation/f1" in point for point in curves)  # nothing was answered for it
    asked, answered = (
        [json.loads(row)["retrieval_scores"] for row in (run / f"predictions_{n}.jsonl").open()]
        for n in ("untrained", "trained")
    )
    assert asked != answered

    from rag_experiments.pipeline import RagPipeline

    rows = [json.loads(row) for row in (run / "predictions_trained.jsonl").open()]
    pipeline = RagPipeline.load(run)
    found = pipeline.search([Question(row["id"], row["question"]) for row in rows])
    assert [[h.passage_id for h in hits] for hits in found] == [row["passage_ids"] for row in rows]
    assert SimpleNamespace(**json.loads((run / "model" / "pipeline.json").read_text())).temperature


@pytest.mark.slow
@pytest.mark.parametrize("better", [True, False])
def test_a_ranking_that_training_made_worse_is_said(better, tmp_path, monkeypatch):
    result = TrainingResult(steps=3, best_step=3, best_score=1.1 if better else -0.1)
    monkeypatch.setattr(Contrastive, "fit", lambda self, training: result)
    run = start(tmp_path, monkeypatch, "contrastive")
    said = (run / "rag_experiments.log").read_text("utf-8")
    (curve,) = [json.loads(row) for row in (run / "curves.jsonl").open()]
    before = f"validation mrr was {curve['validation/mrr']:.3f} before training, so that it has"
    assert (before in said) is not better
