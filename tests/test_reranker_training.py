"""Training of the reranker: its loss by hand, what it is taught, and what it leaves as it was."""

from __future__ import annotations

import gc
import json
import math
import sys
from dataclasses import replace
from functools import partial

import pytest
import torch
from datasets import Dataset
from trainings import TASK, WORDS, train_whole_and_cut

from rag_experiments import __main__ as entry
from rag_experiments.composition.composer import Composer
from rag_experiments.contracts import Example, PreparedData, Question, Runtime, Training, UserError
from rag_experiments.encoder import TextEncoder
from rag_experiments.evaluation.retrieval import score_retrieval
from rag_experiments.model.generator import Generator
from rag_experiments.model.query_encoder import QueryEncoder
from rag_experiments.model.rag_token import RagToken
from rag_experiments.pipeline import RagPipeline
from rag_experiments.retriever.bm25 import BM25
from rag_experiments.retriever.dense import Dense
from rag_experiments.retriever.encoder import Encoder
from rag_experiments.retriever.iterative import Iterative
from rag_experiments.retriever.reranker import BiEncoder, CrossEncoder
from rag_experiments.trainer.ranking_loop import Contrast, RerankerLoop, RerankerModel
from rag_experiments.trainer.reranker import Reranker
from rag_experiments.weights import resolve

pytestmark = pytest.mark.usefixtures("nothing_waits")

QUESTIONS = tuple(
    Question(f"q{i}", f"Notes about {word}?", (f"answer {i}",), (f"p{(i + 3) % len(WORDS)}",))
    for i, word in enumerate(WORDS)
)
"""Each with a gold passage of its own, that no words in common tell."""

FAST = {
    "num_train_epochs": 12.0,
    "per_device_train_batch_size": 5,
    "learning_rate": 3e-3,
    "logging_steps": 1,
}


@pytest.fixture(scope="module")
def passages():
    return Dataset.from_dict(
        {
            "id": [f"p{i}" for i in range(len(WORDS))],
            "title": [""] * len(WORDS),
            "text": [f"Notes on {word}, {i}." for i, word in enumerate(WORDS)],
        }
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def classifier(cache, tmp_path_factory):
    """Folder of a random classifier with one logit, saved as on the Hub."""
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    folder = tmp_path_factory.mktemp("classifier")
    tokenizer = AutoTokenizer.from_pretrained(resolve("random:bert", cache))
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_labels=1,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def make_reranker(classifier):
    def make(kind):
        if kind == "cross":
            return CrossEncoder(weights=str(classifier), max_length=128)
        return BiEncoder(weights="random:bert", max_length=64)

    return make


@pytest.fixture
def make_pipeline(cache, passages, make_reranker):
    """A pipeline of tiny models over ten passages that the first retriever finds all."""

    def make(kind="bi", dtype="float32", first="bm25"):
        runtime = Runtime(cache_dir=cache, dtype=dtype)
        encoder = Encoder(weights="random:bert")
        retriever = {
            "bm25": lambda: BM25(reranker=make_reranker(kind)),
            "dense": lambda: Dense(encoder=encoder, reranker=make_reranker(kind)),
            "iterative": lambda: Iterative(first=BM25(reranker=make_reranker(kind))),
        }[first]()
        torch.manual_seed(0)
        option = RagToken(
            generator=Generator(weights="random:llama", kind="causal"),
            query_encoder=QueryEncoder(weights="random:bert"),
        )
        model = option.load(TASK, runtime, encode_queries=True)
        return RagPipeline(TASK, retriever, model, retriever.build(passages, runtime), passages)

    return make


@pytest.fixture
def make_training(make_pipeline, tmp_path):
    """A training of the reranker on ten questions, each with a passage of its own."""

    def make(kind="bi", folder="checkpoints", log=lambda *_: None, dtype="float32", first="bm25"):
        pipeline = make_pipeline(kind, dtype, first)
        return Training(
            model=pipeline.model,
            examples=[Example(question) for question in QUESTIONS],
            retrieve=pipeline,
            validate=lambda: score_retrieval(QUESTIONS, pipeline.search(QUESTIONS)),
            objective="mrr",
            weigh=pipeline.model.weigh,
            log=log,
            folder=tmp_path / folder,
            runtime=pipeline.model.query_encoder.runtime,
        )

    return make


def weights(module):
    return {name: value.detach().clone() for name, value in module.named_parameters()}


def same(found, wanted):
    return all(torch.equal(found[name], wanted[name]) for name in wanted)


# --- The loss ---------------------------------------------------------------------------------


def cross_entropy(scores, gold_count):
    """Of each gold score against those of what is not gold, with plain sums of exponentials."""
    wrong = sum(math.exp(score) for score in scores[gold_count:])
    golds = [math.exp(score) for score in scores[:gold_count]]
    return sum(-math.log(gold / (gold + wrong)) for gold in golds) / gold_count


@pytest.mark.parametrize("kind", ["bi", "cross"])
def test_each_question_is_scored_among_its_own_candidates(kind, make_pipeline, passages):
    pipeline = make_pipeline(kind)
    reranking = pipeline.reranking
    first = replace(QUESTIONS[0], passage_ids=("p0",))
    second = replace(QUESTIONS[1], passage_ids=("p1", "p7"))
    lessons = [Contrast(first, ("p5", "p1", "p3")), Contrast(second, ("p5",))]
    loss = RerankerModel(reranking, temperature=0.1).eval()(lessons)["loss"]
    texts = dict(zip(passages["id"], passages["text"], strict=True))
    expected = []
    for lesson, names in zip(lessons, (["p0", "p5", "p1", "p3"], ["p1", "p7", "p5"]), strict=True):
        scores = [
            float(reranking.rescorer.score([lesson.question.query], [texts[name]])[0]) / 0.1
            for name in names
        ]
        expected.append(cross_entropy(scores, len(lesson.question.passage_ids)))
    assert abs(expected[0] - expected[1]) > 0.01
    assert float(loss.detach()) == pytest.approx(sum(expected) / 2, rel=1e-3)
    loss.backward()
    assert all(
        parameter.grad is None or parameter.grad.isfinite().all()
        for parameter in reranking.rescorer.network.parameters()
    )
    assert any(p.grad is not None and p.grad.any() for p in reranking.rescorer.network.parameters())


@pytest.mark.parametrize(("kind", "temperature"), [("bi", 0.05), ("cross", 1.0)])
def test_scores_are_divided_by_what_fits_them(kind, temperature, make_training):
    from rag_experiments.trainer.loop import _arguments

    for given, expected in ((None, temperature), (0.3, 0.3)):
        training, option = make_training(kind), Reranker(temperature=given)
        loop = RerankerLoop(option, training, _arguments(option, training, validated=False))
        assert loop.model.temperature == expected


# --- What is learned from ---------------------------------------------------------------------


def make_lessons(training, **settings):
    from rag_experiments.trainer.loop import _arguments

    option = Reranker(**settings)
    return RerankerLoop(option, training, _arguments(option, training, False)).train_dataset


def test_negatives_are_drawn_from_what_the_first_retriever_finds(make_training):
    training = make_training()
    found = {
        question.id: [passage.id for passage in example.passages]
        for question, example in zip(
            QUESTIONS, training.retrieve.candidates(QUESTIONS, 6), strict=True
        )
    }
    first = training.retrieve.searcher.first.search(QUESTIONS, 6)
    assert list(found.values()) == [[hit.passage_id for hit in hits] for hits in first]
    lessons = make_lessons(training, hard_negatives=3, mining_depth=6)
    ranks = set()
    for lesson in lessons:
        hits, own = found[lesson.question.id], lesson.question.passage_ids
        assert len(set(lesson.negatives)) == 3
        assert set(lesson.negatives) <= set(hits) - set(own)
        ranks |= {hits.index(name) for name in lesson.negatives}
    assert len(ranks) > 3  # not the first ones alone
    assert make_lessons(training, hard_negatives=3, mining_depth=6) == lessons  # with the seed


def test_gold_passages_without_end_are_drawn_as_well(make_training):
    training = make_training()
    many = tuple(f"p{i}" for i in range(6))
    examples = [Example(replace(question, passage_ids=many)) for question in QUESTIONS]
    lessons = make_lessons(replace(training, examples=examples), hard_negatives=2)
    assert {len(lesson.question.passage_ids) for lesson in lessons} == {2}
    assert all(set(lesson.question.passage_ids) < set(many) for lesson in lessons)
    assert all(not set(lesson.negatives) & set(many) for lesson in lessons)
    assert len({lesson.question.passage_ids for lesson in lessons}) > 1


def test_questions_that_nothing_can_be_learned_from_are_left_out_and_counted(make_training, caplog):
    training = make_training()
    everywhere = replace(QUESTIONS[0], answers=("notes",))  # every passage contains it
    nowhere = replace(QUESTIONS[1], passage_ids=())
    examples = [Example(question) for question in (everywhere, nowhere, *QUESTIONS[2:])]
    lessons = make_lessons(replace(training, examples=examples))
    assert [lesson.question.id for lesson in lessons] == [f"q{i}" for i in range(2, 10)]
    assert "1 of 10 training questions name no gold passage and are left out" in caplog.text
    assert "1 of 9 training questions have no hard negative and are left out" in caplog.text
    with pytest.raises(UserError, match=r"^trainer\.mining_depth: 20, but each of the first hits"):
        make_lessons(replace(training, examples=examples[:1]))


# --- What is taught, and what stays -----------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "first"), [("bi", "bm25"), ("cross", "bm25"), ("bi", "dense"), ("bi", "iterative")]
)
def test_gold_passages_are_ranked_first_and_the_rest_stays(kind, first, make_training, tmp_path):
    training = make_training(kind, first=first)
    pipeline = training.retrieve
    iterative = first == "iterative"
    before = training.validate()["mrr"]
    model, reranker = weights(training.model), weights(pipeline.reranking.rescorer.network)
    pipeline.reranking.first.save(tmp_path / "first")
    result = Reranker(**FAST).fit(training)
    assert result.steps == 24
    after = training.validate()["mrr"]
    # In later hops others are found first, and a second passage of the question comes last.
    assert after > before + (0.05 if iterative else 0.2)
    assert result.best_score == pytest.approx(after)  # the best is what is left
    assert same(weights(training.model), model)
    assert not same(weights(pipeline.reranking.rescorer.network), reranker)
    pipeline.reranking.first.save(tmp_path / "again")
    for file in (path for path in (tmp_path / "first").rglob("*") if path.is_file()):
        assert (
            file.read_bytes()
            == (tmp_path / "again" / file.relative_to(tmp_path / "first")).read_bytes()
        )
    for folder in training.folder.glob("checkpoint-*"):
        assert (folder / "reranker" / "model.safetensors").is_file()
        assert not (folder / "generator").exists()
        assert not (folder / "query_encoder").exists()
    found = pipeline.search(QUESTIONS)
    pipeline.searcher.save(tmp_path / "index")
    loaded = pipeline.retriever.load(tmp_path / "index", pipeline.passages, training.runtime)
    pipeline.searcher = loaded
    assert pipeline.search(QUESTIONS) == found


@pytest.mark.parametrize("kind", ["bi", "cross"])
def test_a_training_that_is_cut_short_goes_on_to_the_same_weights(kind, make_training):
    option = Reranker(**FAST | {"num_train_epochs": 3.0}, save_seconds=0)
    trainings = train_whole_and_cut(option, partial(make_training, kind))
    wanted, found = (weights(t.retrieve.reranking.rescorer.network) for t in trainings)
    assert same(found, wanted)


def test_a_frozen_reranker_in_16_bits_is_trained_and_kept_in_32(make_training, tmp_path):
    training = make_training(dtype="bfloat16")
    pipeline = training.retrieve
    narrow = pipeline.reranking.rescorer.network
    assert narrow.dtype == torch.bfloat16
    Reranker(**FAST | {"num_train_epochs": 2.0}).fit(training)
    network = pipeline.reranking.rescorer.network
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    exact = TextEncoder.load(resolve("random:bert", training.runtime.cache_dir), training.runtime)
    moved = max(
        float((value - exact.network.state_dict()[name]).abs().max())
        for name, value in weights(network).items()
    )
    assert 0 < moved < 0.1  # from the weights' own digits, not from rounded ones
    found = pipeline.search(QUESTIONS)
    pipeline.searcher.save(tmp_path / "index")
    loaded = pipeline.retriever.load(tmp_path / "index", pipeline.passages, training.runtime)
    assert same(weights(loaded.rescorer.network), weights(network))
    pipeline.searcher = loaded
    assert pipeline.search(QUESTIONS) == found


def test_the_next_job_of_a_sweep_finds_the_pretrained_weights(make_training, make_pipeline):
    """The reranker takes over the network that embedded the passages, and trains it."""
    encoder = Encoder(weights="random:bert")
    runtime = make_training().runtime
    waiting = encoder.load(runtime)
    pretrained, network = weights(waiting.network), waiting.network
    waiting.release()
    training = make_training(first="dense")
    assert training.retrieve.reranking.rescorer.network is network
    Reranker(**FAST | {"num_train_epochs": 1.0}).fit(training)
    assert not same(weights(network), pretrained)
    training.model.release()
    del training
    gc.collect()
    again = make_pipeline(first="dense")
    assert same(weights(again.reranking.rescorer.network), pretrained)
    assert same(weights(encoder.load(runtime).network), pretrained)


# --- What is refused beforehand ---------------------------------------------------------------


def test_data_without_gold_passages_is_refused():
    def ask(*gold):
        return (Question("q", "Why?", ("so",), gold),)

    none = PreparedData(None, ask(), ask(), (), "none")  # type: ignore[arg-type]
    (problem,) = Reranker().data_problems(none)
    assert problem == (
        "trainer: Reranker learns from gold passages, but no training question names one "
        "(passage_ids); give some, or use trainer=supervised"
    )
    (problem,) = Reranker().data_problems(replace(none, train=ask("p")))
    assert problem.startswith("trainer.objective: 'mrr' needs gold passages, but no validation")
    assert Reranker().data_problems(replace(none, train=ask("p"), validation=ask("p"))) == []


RERANKED = "retriever/reranker=bi_encoder"


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ([], "BM25 has none; choose one with retriever/reranker=bi_encoder (or cross_encoder), or"),
        (["retriever=iterative"], "Iterative has none; choose one with retriever/reranker@retrie"),
        (["retriever=none"], "NoRetriever has none; choose one with retriever/reranker=bi_encod"),
        ([RERANKED], None),
        (["retriever=hybrid", RERANKED], None),
        (["retriever=dense", "retriever/reranker=cross_encoder", "model=concat"], None),
        (["retriever=iterative", "retriever/reranker@retriever.first.reranker=bi_encoder"], None),
    ],
)
def test_a_retriever_without_a_reranker_is_refused(others, expected):
    if expected is None:
        assert Composer().plan(["trainer=reranker", *others]).jobs
        return
    with pytest.raises(UserError) as refused:
        Composer().plan(["trainer=reranker", *others])
    (problem,) = refused.value.problems
    start = "trainer: Reranker trains the retriever's reranker, but retriever "
    assert problem.startswith(start + expected)


# --- A whole run ------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_trains_the_reranker_and_saves_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = ["+experiment=smoke", "trainer=reranker", "tracking=none", "test.references=false"]
    line += ["test.samples=0", "test.rewordings=false", "metrics=question_answering"]
    line += ["retriever=bm25", RERANKED, "retriever.reranker.weights=random:bert"]
    line += ["trainer.max_steps=3", "trainer.learning_rate=1e-2", "device=cpu", "precision=float32"]
    monkeypatch.setattr(sys, "argv", ["rag_experiments", *line])
    with pytest.raises(SystemExit) as ended:
        entry.main()
    assert not ended.value.code
    (run,) = (path.parent for path in tmp_path.glob("outputs/runs/*/*/metrics.json"))
    curves = [json.loads(row) for row in (run / "curves.jsonl").open()]
    assert any("validation/mrr" in point for point in curves)
    assert not any("validation/f1" in point for point in curves)  # nothing was answered for it
    asked, rows = (
        [json.loads(row) for row in (run / f"predictions_{name}.jsonl").open()]
        for name in ("untrained", "trained")
    )
    assert [row["retrieval_scores"] for row in asked] != [row["retrieval_scores"] for row in rows]

    pipeline = RagPipeline.load(run, device="cpu", precision="float32")
    questions = [Question(row["id"], row["question"]) for row in rows]
    found = pipeline.search(questions)
    assert [[h.passage_id for h in hits] for hits in found] == [row["passage_ids"] for row in rows]
    scores = [row["retrieval_scores"] for row in rows]
    assert [[hit.score for hit in hits] for hits in found] == scores
    # Over other passages it is the trained one that rescores.
    again = RagPipeline.load(run, device="cpu", precision="float32", passages=pipeline.passages)
    assert again.search(questions) == found
