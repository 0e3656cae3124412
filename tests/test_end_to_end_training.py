"""Training of generator and both encoders: its gradient by hand, the index that lags behind, and
what a saved run makes of the trained passage encoder."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from entry_calls import start
from trainings import TASK, WORDS, Killed, go_on

from rag_experiments import __main__ as entry
from rag_experiments import add_passages, evaluate, export
from rag_experiments.composition.composer import Composer
from rag_experiments.contracts import Example, Question, Runtime, Training, UserError
from rag_experiments.encoder import TextEncoder
from rag_experiments.model.generator import Generator
from rag_experiments.model.query_encoder import QueryEncoder
from rag_experiments.model.rag_sequence import RagSequence
from rag_experiments.model.rag_token import RagToken
from rag_experiments.pipeline import RagPipeline
from rag_experiments.retriever.bm25 import BM25
from rag_experiments.retriever.dense import Dense
from rag_experiments.retriever.encoder import Encoder
from rag_experiments.retriever.index import Hnsw
from rag_experiments.trainer.end_to_end import EndToEnd
from rag_experiments.trainer.end_to_end_loop import (
    VECTORS,
    EndToEndLoop,
    EndToEndModel,
    share_changed,
)
from rag_experiments.trainer.loop import Checkpoints, SearchingModel, _arguments

pytestmark = pytest.mark.usefixtures("nothing_waits")

QUESTIONS = tuple(
    Question(f"q{i}", f"What is {word} for?", (f"for {i}",), (f"p{i}",))
    for i, word in enumerate(WORDS)
)

FAST = {
    "num_train_epochs": 2.0,
    "per_device_train_batch_size": 5,
    "learning_rate": 1e-3,
    "query_learning_rate": 1e-3,
    "passage_learning_rate": 3e-3,
    "logging_steps": 1,
}


@pytest.fixture(scope="module")
def passages():
    """Ten passages; the last is a document of its own, so that a question can be left with it."""
    count = len(WORDS)
    return Dataset.from_dict(
        {
            "id": [f"p{i}" for i in range(count)],
            "title": ["" if i % 2 else word.title() for i, word in enumerate(WORDS)],
            "text": [f"Notes on {word}{', and more' * (i % 3)}." for i, word in enumerate(WORDS)],
            "document_id": ["many"] * (count - 1) + ["one"],
        }
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def make_pipeline(cache, passages):
    """A pipeline of tiny models; encoders of questions and passages begin with the same weights."""

    def make(kind=RagToken, top_k=3, dtype="float32", index=None, **space):
        runtime = Runtime(cache_dir=cache, dtype=dtype)
        retriever = Dense(
            encoder=Encoder(weights="random:bert", max_length=64, **space),
            top_k=top_k,
            **({} if index is None else {"index": index}),
        )
        torch.manual_seed(0)
        option = kind(
            generator=Generator(weights="random:llama", kind="causal"),
            query_encoder=QueryEncoder(weights="random:bert", **space),
        )
        model = option.load(TASK, runtime, encode_queries=True)
        searcher = retriever.build(passages, runtime)
        return RagPipeline(TASK, retriever, model, searcher, passages, temperature=0.05)

    return make


@pytest.fixture
def make_training(make_pipeline, tmp_path):
    """A training on ten questions."""

    def make(folder="checkpoints", log=lambda *_: None, validate=None, questions=QUESTIONS, **more):
        pipeline = make_pipeline(**more)
        return Training(
            model=pipeline.model,
            examples=[Example(question) for question in questions],
            retrieve=pipeline,
            validate=None if validate is None else lambda: validate(pipeline),
            objective="f1",
            weigh=pipeline.model.weigh,
            log=log,
            folder=tmp_path / folder,
            runtime=pipeline.model.query_encoder.runtime,
        )

    return make


def make_loop(training, **settings):
    option = EndToEnd(**settings)
    training.model.train_query_encoder(True)
    return EndToEndLoop(option, training, _arguments(option, training, validated=False))


def weights(module):
    return {name: value.detach().clone() for name, value in module.named_parameters()}


def same(found, wanted):
    return all(torch.equal(found[name], wanted[name]) for name in wanted)


def texts_of(passages):
    return [
        f"{title} {text}" if title else text
        for title, text in zip(passages["title"], passages["text"], strict=True)
    ]


def vectors_of(pipeline):
    return pipeline.passage_vectors(list(pipeline.passages["id"]))


# --- The gradient -----------------------------------------------------------------------------


def embed_by_hand(encoder, text):
    """Vector of one text, without padding and mask."""
    ids = encoder.tokenizer(text, truncation=True, max_length=encoder.max_length)["input_ids"]
    states = encoder.network(input_ids=torch.tensor([ids])).last_hidden_state[0]
    vector = states[0] if encoder.pooling == "cls" else states.sum(0) / len(ids)
    return vector / (vector**2).sum().sqrt() if encoder.normalize else vector


def loss_by_hand(pipeline, questions, hits):
    """Nats a target token: -log p(y|x) of the formulas in the README, one row at a time."""
    model, total, tokens = pipeline.model, 0, 0
    texts = dict(zip(pipeline.passages["id"], texts_of(pipeline.passages), strict=True))
    for question, names in zip(questions, hits, strict=True):
        found = [pipeline.passage(name) for name in names]
        answer = model.prompts.encode_answer(
            model.prompts.target(Example(question, tuple(found), ()))
        )
        tokens += len(answer)
        query = embed_by_hand(model.query_encoder, question.query)
        weights = [
            (embed_by_hand(model.passage_encoder, texts[name]) @ query / 0.05).exp()
            for name in names
        ]
        priors = [weight / sum(weights) for weight in weights] if names else [1.0]
        each = []
        for shown in [(passage,) for passage in found] or [()]:
            (prompt,) = model.prompts.encode([(question, shown)])
            logits = model.generator.network(input_ids=torch.tensor([[*prompt, *answer]])).logits[0]
            shares = torch.softmax(logits[len(prompt) - 1 : -1], dim=-1)
            each.append(shares[torch.arange(len(answer)), torch.tensor(answer)])
        if isinstance(model.option, RagToken):
            mixed = sum(prior * own for prior, own in zip(priors, each, strict=True))
            total = total - mixed.log().sum()
        else:
            mixed = sum(prior * own.prod() for prior, own in zip(priors, each, strict=True))
            total = total - mixed.log()
    return total / tokens


SPACES = [
    {"pooling": "mean", "normalize": True},
    {"pooling": "mean", "normalize": False},
    {"pooling": "cls", "normalize": True},
]

ASKED = (
    QUESTIONS[0],
    replace(QUESTIONS[1], within="one", answers=("longer",)),  # one passage
    replace(QUESTIONS[2], within="none"),  # none at all
    QUESTIONS[3],
)
"""Questions with three, one and no passages, so that absent ones are filled up in a batch."""


@pytest.fixture
def make_exact(make_training):
    """What is trained, all of it in fp64, with weights so large that passages matter."""

    def make(kind, **space):
        training = make_training(kind=kind, **space)
        loop = make_loop(training)
        generator = torch.Generator().manual_seed(1)
        model = training.model.double().eval()
        # Eager attention of this family takes its softmax in fp32, whatever the network's type.
        model.generator.network.set_attn_implementation("sdpa")
        for parameter in model.parameters():
            if parameter.ndim > 1:
                # The encoders apart, as after some steps, and the index behind both.
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.data += 0.3 * noise
        return training, loop.model.double().eval()

    return make


@pytest.mark.parametrize("kind", [RagToken, RagSequence])
@pytest.mark.parametrize("space", SPACES, ids=lambda space: "-".join(map(str, space.values())))
def test_loss_and_gradients_are_those_of_the_formula(kind, space, make_exact):
    training, module = make_exact(kind, **space)
    pipeline, model = training.retrieve, training.model
    found = []
    examples = pipeline.examples
    pipeline.examples = lambda *given: found.append(examples(*given)) or found[-1]
    loss = module(list(ASKED))["loss"]
    hits = [[passage.id for passage in example.passages] for example in found[0]]
    assert list(map(len, hits)) == [3, 1, 0, 3]
    expected = loss_by_hand(pipeline, ASKED, hits)
    assert loss.dtype == torch.float64
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-10)
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    actual, wanted = (
        dict(
            zip(
                parameters,
                torch.autograd.grad(value, list(parameters.values()), allow_unused=True),
                strict=True,
            )
        )
        for value in (loss, expected)
    )
    for part in ("query_network", "passage_network", "generator"):
        own = [n for n in parameters if n.startswith(part) and wanted[n] is not None]
        largest = max(float(wanted[name].abs().max()) for name in own)
        assert largest > 1e-4, part  # there is something to compare
        for name in own:
            torch.testing.assert_close(actual[name], wanted[name], rtol=1e-7, atol=1e-9 * largest)
    # And along a direction of each encoder, by what the loss itself does there.
    pipeline.examples = lambda *_: found[0]
    generator = torch.Generator().manual_seed(2)
    for part in ("query_network", "passage_network"):
        own = {n: p for n, p in parameters.items() if n.startswith(part) and wanted[n] is not None}
        ways = {
            n: torch.randn(p.shape, generator=generator, dtype=torch.float64)
            for n, p in own.items()
        }
        slope = sum(float((actual[n] * ways[n]).sum()) for n in own)
        ends = []
        for step in (1e-6, -2e-6):  # forth, and back beyond the start
            for n, p in own.items():
                p.data += step * ways[n]
            ends.append(float(module(list(ASKED))["loss"].detach()))
        for n, p in own.items():
            p.data += 1e-6 * ways[n]
        assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(slope, rel=1e-4), part


@pytest.mark.parametrize("kind", [SearchingModel, EndToEndModel])
def test_a_question_that_no_passage_may_answer_is_read_alone(kind, make_training):
    training = make_training()
    make_loop(training)
    model = training.model.eval()
    alone = replace(QUESTIONS[2], within="none")
    found = kind(training).eval()([alone])["loss"]
    expected = model(**model.collate([Example(alone)]))["loss"]
    assert found.isfinite()
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    beside = kind(training).eval()([alone, QUESTIONS[0]])["loss"]
    assert beside.isfinite()


def test_scores_of_mixed_precision_are_not_rounded(make_training):
    """bf16 keeps three digits, and cosines of passages that were retrieved differ in the third."""
    training = make_training()
    module = make_loop(training).model.eval()
    pipeline, encoder = training.retrieve, training.model.query_encoder
    asked = list(QUESTIONS[:3])
    with torch.no_grad():
        queries = encoder.forward_texts([q.query for q in asked])
        examples = pipeline.examples(asked, queries.numpy())
        expected = module.log_prior(examples, queries)
        for example, row in zip(examples, expected, strict=True):
            assert row.tolist() == pytest.approx(list(example.log_prior), abs=1e-4)
        vectors = module.passage_vectors(examples)
        module.passage_vectors = lambda _: vectors
        with torch.autocast("cpu", torch.bfloat16):
            found = module.log_prior(examples, queries)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


# --- The index, which lags behind -------------------------------------------------------------


def test_vectors_of_before_decide_what_is_read_and_those_of_now_how_it_is_weighed(make_training):
    training = make_training()
    loop = make_loop(training, **FAST)
    module, pipeline, model = loop.model.eval(), training.retrieve, training.model
    with torch.no_grad():
        for parameter in model.passage_network.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    queries = model.query_encoder.encode([q.query for q in QUESTIONS])
    pretrained = vectors_of(pipeline)
    collated = []
    collate = model.collate
    model.collate = lambda examples: collated.append(examples) or collate(examples)
    module(list(QUESTIONS))
    hits = [[passage.id for passage in example.passages] for example in collated[0]]
    order = [[f"p{row}" for row in np.argsort(-(pretrained @ query))[:3]] for query in queries]
    assert hits == order
    now = model.passage_encoder.encode(texts_of(pipeline.passages))
    with torch.no_grad():
        prior = module.log_prior(collated[0], torch.as_tensor(queries))
    for row, names, query in zip(prior, hits, queries, strict=True):
        scores = torch.as_tensor([float(now[int(name[1:])] @ query) for name in names]) / 0.05
        assert row.tolist() == pytest.approx(torch.log_softmax(scores, 0).tolist(), abs=1e-3)

    loop.refresh()
    assert np.array_equal(vectors_of(pipeline), now)
    module(list(QUESTIONS))
    again = [[passage.id for passage in example.passages] for example in collated[1]]
    assert again == [[f"p{row}" for row in np.argsort(-(now @ query))[:3]] for query in queries]
    assert again != hits


def test_a_passage_is_encoded_once_in_a_batch(make_training):
    training = make_training()
    module = make_loop(training).model.eval()
    read = []
    forward = training.model.passage_encoder.forward_texts
    training.model.passage_encoder.forward_texts = lambda texts: (
        read.append(texts) or forward(texts)
    )
    module(list(QUESTIONS))
    (texts,) = read
    assert len(texts) == len(set(texts)) <= len(WORDS)
    assert set(texts) <= set(texts_of(training.retrieve.passages))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [2, 4]),  # of two batches an epoch
        ({"refresh_steps": 3}, [3, 4]),  # and at the end
        ({"max_steps": 5, "refresh_steps": 2}, [2, 4, 5]),
        ({"max_steps": 3}, [2, 3]),
        ({"gradient_accumulation_steps": 2}, [1, 2]),
    ],
)
def test_the_index_is_made_anew_when_it_is_due(settings, expected, make_training):
    curve = []
    training = make_training(log=lambda values, step: curve.append((step, values)))
    EndToEnd(**FAST | {"eval_strategy": "no"} | settings).fit(training)
    points = [(step, values) for step, values in curve if "train/staleness" in values]
    assert [step for step, _ in points] == expected
    assert all(set(values) == {"train/staleness", "train/hits_changed"} for _, values in points)
    pipeline = training.retrieve
    now = training.model.passage_encoder.encode(texts_of(pipeline.passages))
    assert np.array_equal(vectors_of(pipeline), now)


@pytest.mark.parametrize("strategy", ["epoch", "steps"])
def test_each_validation_sees_the_passage_encoder_as_it_is(strategy, make_training):
    seen, curve = [], []

    def validate(pipeline):
        now = pipeline.model.passage_encoder.encode(texts_of(pipeline.passages))
        assert np.array_equal(vectors_of(pipeline), now)
        seen.append(now)
        return {"f1": [0.1, 0.9, 0.2, 0.3][len(seen) - 1]}

    training = make_training(
        validate=validate, log=lambda values, step: curve.append((step, values))
    )
    settings = {"eval_strategy": "steps", "eval_steps": 3} if strategy == "steps" else {}
    settings |= {"max_steps": 9} if strategy == "steps" else {"num_train_epochs": 3.0}
    result = EndToEnd(**FAST | settings, refresh_steps=100).fit(training)
    assert len(seen) == 3
    assert not np.array_equal(seen[0], seen[1])
    # A validation makes the index anew, for the steps that follow as well.
    steps = [step for step, values in curve if "train/staleness" in values]
    assert steps == ([3, 6, 9] if strategy == "steps" else [2, 4, 6])
    # The best checkpoint is left with its own index.
    assert result.best_step == steps[1]
    assert np.array_equal(vectors_of(training.retrieve), seen[1])
    now = training.model.passage_encoder.encode(texts_of(training.retrieve.passages))
    assert np.array_equal(now, seen[1])


def test_what_is_logged_of_a_refresh_is_what_it_changed(make_training):
    curve = []
    training = make_training(log=lambda values, step: curve.append(values))
    pipeline, model = training.retrieve, training.model
    versions, queries = [vectors_of(pipeline)], []
    reindex = pipeline.reindex

    def record(vectors):
        queries.append(model.query_encoder.encode([q.query for q in QUESTIONS]))
        reindex(vectors)
        versions.append(vectors_of(pipeline))

    pipeline.reindex = record
    EndToEnd(**FAST | {"eval_strategy": "no", "passage_learning_rate": 1e-2}).fit(training)
    points = [values for values in curve if "train/staleness" in values]
    assert len(points) == len(queries) == 2
    for point, asked, old, new in zip(points, queries, versions[:-1], versions[1:], strict=True):
        moved, changed = [], []
        for query in asked:
            before, after = (np.argsort(-(vectors @ query))[:3] for vectors in (old, new))
            for row in before:
                cosine = (
                    old[row] @ new[row] / math.sqrt(old[row] @ old[row] * (new[row] @ new[row]))
                )
                moved.append(1 - cosine)
            changed += [row not in before for row in after]
        assert point["train/staleness"] == pytest.approx(np.mean(moved), rel=1e-2, abs=1e-6)
        assert point["train/hits_changed"] == pytest.approx(np.mean(changed))
    assert points[0]["train/staleness"] > 1e-3
    assert max(point["train/hits_changed"] for point in points) > 0


def test_hits_that_changed_are_counted_whatever_their_order():
    assert share_changed([["a", "b"], ["c"]], [["b", "a"], ["c"]]) == 0
    assert share_changed([["a", "b"], ["c"]], [["b", "d"], ["e"]]) == pytest.approx(2 / 3)
    assert share_changed([[]], [[]]) == 0


def digests(folder):
    return {
        path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "entry.json"  # whose time says when it was used
    }


@pytest.mark.parametrize("index", [None, Hnsw()])
def test_the_store_is_left_as_it_was(index, make_training, cache):
    training = make_training(index=index)
    before = digests(cache)
    assert any("embeddings" in str(name) for name in before)
    pretrained = vectors_of(training.retrieve).copy()
    EndToEnd(**FAST, refresh_steps=1, eval_strategy="no").fit(training)
    assert not np.array_equal(vectors_of(training.retrieve), pretrained)
    assert digests(cache) == before
    again = training.retrieve.retriever.build(training.retrieve.passages, training.runtime)
    assert np.array_equal(again.vectors(training.retrieve.passages["id"]), pretrained)


# --- What is trained --------------------------------------------------------------------------


def test_all_three_parts_learn_and_the_encoders_apart(make_training):
    training = make_training()
    model = training.model
    generator, query = weights(model.generator), weights(model.query_network)
    loop_weights = weights(training.retrieve.load_passage_encoder().network)
    assert same(query, loop_weights)  # they begin alike
    EndToEnd(**FAST, eval_strategy="no").fit(training)
    assert not same(weights(model.generator), generator)
    assert not same(weights(model.query_network), query)
    assert not same(weights(model.passage_network), query)
    assert not same(weights(model.passage_network), weights(model.query_network))
    assert model.passage_network is not model.query_network


def test_each_part_has_a_learning_rate_of_its_own(make_training):
    training = make_training()
    rates = {"learning_rate": 1e-3, "query_learning_rate": 1e-5, "passage_learning_rate": 1e-6}
    groups = make_loop(training, **rates, weight_decay=0.1).create_optimizer().param_groups
    found = {
        id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]
    }
    model = training.model
    assert len(found) == sum(p.requires_grad for p in model.parameters())
    for name, parameter in model.named_parameters():
        part = name.partition(".")[0].partition("_")[0]
        rate = {"query": 1e-5, "passage": 1e-6, "generator": 1e-3}[part]
        plain = "norm" in name.lower() or name.endswith("bias")
        assert found[id(parameter)] == (rate, 0.0 if plain else 0.1), name


def test_a_passage_encoder_kept_in_16_bits_is_trained_in_32(make_training):
    training = make_training(dtype="bfloat16")
    EndToEnd(**FAST, eval_strategy="no").fit(training)
    network = training.model.passage_network
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert all(parameter.isfinite().all() for parameter in network.parameters())


def test_the_next_job_of_a_sweep_finds_the_pretrained_weights(make_training, make_pipeline):
    training = make_training()
    encoder = training.retrieve.load_passage_encoder()
    pretrained = weights(encoder.network)
    encoder.release()  # as after the passages were embedded
    waiting = encoder.network
    EndToEnd(**FAST, eval_strategy="no").fit(training)
    assert training.model.passage_network is waiting
    training.model.release()
    again = make_pipeline().load_passage_encoder().network
    assert again is not waiting
    assert same(weights(again), pretrained)


def test_a_retriever_without_a_passage_encoder_says_so(make_pipeline, passages, cache):
    pipeline = make_pipeline()
    pipeline.retriever = BM25()
    with pytest.raises(TypeError, match="BM25 has no passage encoder to be trained"):
        pipeline.load_passage_encoder()


# --- Interruptions ----------------------------------------------------------------------------


@pytest.fixture
def every_step_is_kept(monkeypatch):
    """Checkpoints as if they took no time to write, so that most lie between two refreshes."""
    monkeypatch.setattr(Checkpoints, "timed", lambda _: nullcontext())


INTERRUPTED = {
    "no validation": {"eval_strategy": "no", "refresh_steps": 4},
    "an epoch": {},
    "a graph": {"eval_strategy": "no", "refresh_steps": 3},
    "steps": {"eval_strategy": "steps", "eval_steps": 3, "refresh_steps": 2},
}


@pytest.mark.usefixtures("every_step_is_kept")
@pytest.mark.parametrize("name", INTERRUPTED)
def test_a_training_that_is_cut_short_goes_on_to_the_same_bits(name, make_training):
    settings = FAST | {"per_device_train_batch_size": 3, "save_seconds": 0, "num_train_epochs": 2.0}
    option = EndToEnd(**settings | INTERRUPTED[name])

    def score(pipeline):  # by the weights alone
        torch.rand(3)
        parameters = pipeline.model.passage_network.parameters()
        total = sum(float(p.detach().double().abs().sum()) for p in parameters)
        return {"f1": int(total * 1e6) % 7 / 7}

    def train(folder, limit):
        curve = []

        def log(values, step):
            if len(curve) == limit:
                raise Killed
            curve.append((step, values))

        training = make_training(
            folder=folder,
            log=log,
            validate=score if option.eval_strategy != "no" else None,
            index=Hnsw() if name == "a graph" else None,
        )
        result = option.fit(training)
        return result, weights(training.model), vectors_of(training.retrieve), curve

    result, wanted, vectors, curve = train("whole", 99)
    refreshed = [step for step, values in curve if "train/staleness" in values]
    assert len(refreshed) >= 2
    # Each attempt gets a few points further than the checkpoint before.
    (again, found, others, last), killed = go_on(lambda _: train("cut", 3))
    assert killed >= 2
    assert again == result
    assert same(found, wanted)
    assert np.array_equal(others, vectors)
    assert last == curve[len(curve) - len(last) :]
    ended, found, others, none = train("cut", 0)  # it had ended already
    assert (ended, none) == (result, [])
    assert same(found, wanted)
    assert np.array_equal(others, vectors)


@pytest.mark.usefixtures("every_step_is_kept")
def test_a_checkpoint_has_the_vectors_that_it_was_searched_with(make_training):
    """Those of the last refresh, and not of another one that the process had come to."""
    option = EndToEnd(**FAST, eval_strategy="no", refresh_steps=3, save_seconds=0, max_steps=5)
    training = make_training()
    versions = [vectors_of(training.retrieve).copy()]
    reindex = training.retrieve.reindex
    training.retrieve.reindex = lambda given: (reindex(given), versions.append(np.array(given)))[0]
    option.fit(training)
    folders = sorted(training.folder.glob("checkpoint-*"))
    assert [folder.name for folder in folders] == ["checkpoint-4", "checkpoint-5"]
    assert len(versions) == 3
    for folder, vectors in zip(folders, versions[1:], strict=True):
        assert np.array_equal(np.load(folder / VECTORS), vectors)
    # One before the first refresh has none: the index is that of the store.
    shutil.rmtree(folders[1])
    (folders[0] / VECTORS).unlink()
    again = make_training()
    (again.folder / VECTORS).write_bytes(b"of a refresh that is in no checkpoint")
    make_loop(again).load_weights(folders[0])
    assert np.array_equal(vectors_of(again.retrieve), versions[0])
    assert not (again.folder / VECTORS).exists()


# --- What is refused beforehand ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        (["retriever=bm25"], "which retriever BM25 does not allow; legal: a retriever that"),
        (["retriever=none"], "which retriever NoRetriever does not allow; legal: a retri"),
        (["retriever=gold"], "which retriever Gold does not allow; legal: a retriever that"),
        (["retriever=hybrid"], "which retriever Hybrid does not allow; legal: a retriever"),
        (["retriever=iterative"], "which retriever Iterative does not allow; legal: a retr"),
        (
            ["retriever=dense", "retriever/reranker=bi_encoder"],
            "which retriever Dense does not allow; legal: a retriever that searches by vector "
            "without a reranker (retriever=dense), or trainer=supervised",
        ),
        (["retriever=dense", "model=concat"], "through the marginal likelihood, which model Con"),
        (["retriever=dense"], None),
        (["retriever=dense", "model=rag_sequence", "retriever/index=hnsw"], None),
        (["retriever=dense", "retriever/encoder=dpr", "model/query_encoder=dpr"], None),
    ],
)
def test_retrievers_and_models_that_do_not_fit_are_refused(others, expected):
    line = ["model=rag_token", "trainer=end_to_end", *others]
    if expected is None:
        assert Composer().plan(line).jobs
        return
    with pytest.raises(UserError) as refused:
        Composer().plan(line)
    (problem,) = refused.value.problems
    assert problem.startswith("trainer: EndToEnd trains ")
    assert expected in problem


# --- A whole run ------------------------------------------------------------------------------

LINE = [
    "+experiment=smoke",
    "trainer=end_to_end",
    "trainer.max_steps=3",
    "trainer.query_learning_rate=1e-2",
    "trainer.passage_learning_rate=1e-2",
    "retriever.encoder.normalize=true",
    "metrics=question_answering",
    "test={samples: 0, rewordings: false, references: false}",
    "data.preparation.limit={train: 8, validation: 2, test: 4, passages: 12}",
    "task.max_answer_tokens=4",
    "tracking=none",
    "cache_dir=cache",
    "device=cpu",
    "precision=float32",
]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Where a run was trained end to end."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert start(patch, entry.main, "rag_experiments", *LINE) == 0
    return folder


@pytest.fixture
def run(home, monkeypatch):
    monkeypatch.chdir(home)
    (found,) = home.glob("outputs/runs/*/*")
    return found


@pytest.fixture
def copy(run, tmp_path):
    """A copy of the saved model that a test may change."""
    shutil.copytree(run / "model", tmp_path / "copy")
    return tmp_path / "copy"


def rows(file):
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def load(folder, **more):
    return RagPipeline.load(folder, device="cpu", precision="float32", **more)


def trained_encoder(folder, pipeline):
    return TextEncoder.load(
        folder / "passage_encoder", pipeline.model.query_encoder.runtime, max_length=256
    )


def test_a_run_saves_the_passage_encoder_with_its_vectors(run):
    curves = rows(run / "curves.jsonl")
    assert [point["step"] for point in curves if "train/staleness" in point] == [2, 3]
    assert not (run / "checkpoints").exists()
    pipeline = load(run)
    read = texts_of(pipeline.passages)
    assert np.array_equal(
        trained_encoder(run / "model", pipeline).encode(read), vectors_of(pipeline)
    )
    pretrained = Encoder(weights="random:bert").load(pipeline.model.query_encoder.runtime)
    assert not np.allclose(pretrained.encode(read), vectors_of(pipeline), atol=1e-2)
    answered = rows(run / "predictions_trained.jsonl")
    questions = [Question(row["id"], row["question"]) for row in answered]
    found = pipeline.search(questions)
    assert [[hit.passage_id for hit in hits] for hits in found] == [
        row["passage_ids"] for row in answered
    ]
    assert [[hit.score for hit in hits] for hits in found] == [
        pytest.approx(row["retrieval_scores"]) for row in answered
    ]
    # Passages that are indexed anew are embedded with the trained encoder.
    again = load(run, passages=pipeline.passages)
    assert np.array_equal(vectors_of(again), vectors_of(pipeline))
    facts = json.loads((run / "model" / "pipeline.json").read_text())
    assert facts["whole"] == {"retriever.encoder.weights": "passage_encoder"}
    assert "retriever.encoder.weights" not in facts["weights"]


def test_passages_are_added_by_the_trained_encoder(copy, tmp_path):
    before = load(copy)
    file = tmp_path / "more.jsonl"
    new = {"id": "new", "title": "Ligase", "text": "DNA ligase joins DNA fragments."}
    file.write_text(json.dumps(new) + "\n", "utf-8")
    for _ in range(2):  # what was given more can be given more
        add_passages.add_passages(copy, file, device="cpu")
        after = load(copy)
        wanted = trained_encoder(copy, after).encode([f"{new['title']} {new['text']}"])
        assert np.allclose(after.passage_vectors([new["id"]]), wanted, atol=1e-6)
        assert np.array_equal(after.passage_vectors(before.passages["id"]), vectors_of(before))
        new["id"] = "newer"
        file.write_text(json.dumps(new) + "\n", "utf-8")


def test_a_run_is_evaluated_with_the_trained_encoder(run, monkeypatch):
    line = ["evaluate", str(run), "data.preparation.limit.test=4", "tracking=none"]
    assert start(monkeypatch, evaluate.main, *line) == 0
    (folder,) = Path("outputs/evaluations").glob("*/*")
    old, new = (rows(place / "predictions_trained.jsonl") for place in (run, folder))
    for one, other in zip(old, new, strict=True):
        assert one["passage_ids"] == other["passage_ids"]
        assert one["retrieval_scores"] == pytest.approx(other["retrieval_scores"], abs=1e-5)
        assert one["prediction"] == other["prediction"]


def test_what_is_given_away_has_the_trained_encoder(copy, tmp_path, monkeypatch):
    assert start(monkeypatch, export.main, "export", "--whole", str(copy), str(tmp_path / "w")) == 0
    given, pipeline = load(tmp_path / "w"), load(copy)
    assert given.ask("Why?") == pipeline.ask("Why?")
    again = load(tmp_path / "w", passages=pipeline.passages)
    assert np.array_equal(vectors_of(again), vectors_of(pipeline))


def test_another_passage_encoder_than_that_of_the_vectors_is_refused(copy, cache):
    other = Encoder(weights="random:bert").load(Runtime(cache_dir=cache))
    kept = copy.with_name("kept")
    shutil.copytree(copy / "passage_encoder", kept)
    other.save(copy / "passage_encoder")
    with pytest.raises(UserError) as refused:
        RagPipeline.load(copy)
    (problem,) = refused.value.problems
    assert problem.startswith(
        f"{copy / 'passage_encoder'}: not the passage encoder that this model"
    )
    shutil.rmtree(copy / "passage_encoder")
    with pytest.raises(UserError, match=r"passage_encoder: missing; copy the whole folder again"):
        RagPipeline.load(copy)
    with pytest.raises(UserError, match=r"passage_encoder: missing"):
        add_passages.add_passages(copy, kept)
    shutil.copytree(kept, copy / "passage_encoder")
    RagPipeline.load(copy)
