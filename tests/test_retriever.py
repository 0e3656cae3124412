"""Retrievers on small collections: exact scores, fewer hits, save and load, what is refused."""

import json
import math
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from omegaconf import OmegaConf
from pydantic import ValidationError

from rag_experiments.contracts import Hit, Question, Runtime, UserError
from rag_experiments.retriever import embeddings
from rag_experiments.retriever.bm25 import BM25
from rag_experiments.retriever.dense import Dense
from rag_experiments.retriever.encoder import Encoder
from rag_experiments.retriever.gold import Gold
from rag_experiments.retriever.hybrid import Hybrid
from rag_experiments.retriever.index import Flat, Hnsw, IvfPq
from rag_experiments.retriever.iterative import Iterative
from rag_experiments.retriever.none import NoRetriever
from rag_experiments.retriever.reranker import BiEncoder, CrossEncoder

PASSAGES = [
    ("p1", "Insulin", "Human insulin is made in yeast or in E. coli."),
    ("p2", "Protein 5", "The protein 5 of the phage."),
    ("p3", "Protein 6", "The protein 6 of the phage, and of the other phage."),
    ("p4", "", "Fermentation in large tanks needs oxygen."),
    ("p5", "Yeast", "Yeast, yeast and more yeast: fermentation makes ethanol."),
    ("p6", "PCR", "Polymerase chain reaction copies DNA with primers."),
]
TINY = Encoder(weights="random:bert", max_length=64, batch_size=4)
SHARED = Path(__file__).parents[2] / "shared" / "data"


def make_passages(rows):
    return Dataset.from_list(
        [{"id": i, "title": t, "text": x, "document_id": i} for i, t, x in rows]
    )


def ask(*texts, **fields):
    return [Question(id=f"q{i}", question=text, **fields) for i, text in enumerate(texts)]


@pytest.fixture(scope="module")
def passages():
    return make_passages(PASSAGES)


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    return Runtime(cache_dir=tmp_path_factory.mktemp("cache"))


# --- BM25 -------------------------------------------------------------------------------------


def score_bm25(query, texts, k1, b, method):
    """The formula, term by term (Kamphuis et al., 2020, table 1)."""
    documents = [Counter(re.findall(r"\w+", text.lower())) for text in texts]
    lengths = [sum(counts.values()) for counts in documents]
    mean_length = sum(lengths) / len(lengths)
    scores = []
    for counts, length in zip(documents, lengths, strict=True):
        score = 0.0
        for word in re.findall(r"\w+", query.lower()):
            df = sum(word in other for other in documents)
            if df == 0:
                continue
            if method == "lucene":
                idf, boost = math.log(1 + (len(texts) - df + 0.5) / (df + 0.5)), 1
            else:  # atire
                idf, boost = math.log(len(texts) / df), k1 + 1
            tf = counts[word]
            score += idf * boost * tf / (tf + k1 * (1 - b + b * length / mean_length))
        scores.append(score)
    return scores


@pytest.mark.parametrize("method", ["lucene", "atire"])
@pytest.mark.parametrize(("k1", "b"), [(1.2, 0.75), (0.9, 0.0), (2.0, 1.0)])
def test_bm25_scores_equal_the_formula(passages, runtime, method, k1, b):
    searcher = BM25(k1=k1, b=b, method=method, stopwords="none").build(passages, runtime)
    texts = [f"{title} {text}" if title else text for _, title, text in PASSAGES]
    for query in ("yeast fermentation", "the phage protein 6", "the the Yeast, unknownword"):
        (hits,) = searcher.search(ask(query), top_k=10)
        expected = score_bm25(query, texts, k1, b, method)
        found = {hit.passage_id: hit.score for hit in hits}
        wanted = {row[0]: s for row, s in zip(PASSAGES, expected, strict=True) if s > 0}
        assert found == pytest.approx(wanted, rel=1e-5)
        assert [hit.score for hit in hits] == sorted(found.values(), reverse=True)


def test_bm25_tells_words_of_one_character_apart(passages, runtime):
    searcher = BM25().build(passages, runtime)
    five, six = searcher.search(ask("protein 5", "protein 6"), top_k=1)
    assert (five[0].passage_id, six[0].passage_id) == ("p2", "p3")


def test_bm25_makes_up_no_passage(passages, runtime):
    searcher = BM25().build(passages, runtime)
    found = searcher.search(ask("ethanol", "zebra", "of the", "", "phage"), top_k=100)
    assert [[hit.passage_id for hit in hits] for hits in found] == [
        ["p5"],
        [],
        [],  # stop words
        [],
        ["p3", "p2"],  # twice, once
    ]
    assert searcher.search([], top_k=3) == []


def test_bm25_ties_keep_the_order_of_the_passages(runtime):
    many = make_passages([(f"p{i}", "", "same words") for i in range(50)])
    (hits,) = BM25().build(many, runtime).search(ask("words"), top_k=4)
    assert [hit.passage_id for hit in hits] == ["p0", "p1", "p2", "p3"]


def test_bm25_without_a_word_is_refused(runtime):
    with pytest.raises(UserError, match="no word"):
        BM25().build(make_passages([("p1", "", "..."), ("p2", "", "of the")]), runtime)


# --- Dense ------------------------------------------------------------------------------------


def make_vectors(n, dimension=32, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(n, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def build_dense(vectors, index):
    from rag_experiments.retriever.dense_search import DenseSearcher

    ids = [f"p{i}" for i in range(len(vectors))]
    passages = make_passages([(i, "", "") for i in ids])
    return DenseSearcher(passages, vectors, index.build(vectors), index.refine_factor, "print")


def test_flat_equals_sorting_all_scores():
    vectors, queries = make_vectors(300), make_vectors(7, seed=1)
    searcher = build_dense(vectors, Flat())
    found = searcher.search_vectors(queries, top_k=10)
    scores = queries @ vectors.T
    for hits, row in zip(found, scores, strict=True):
        order = np.argsort(-row, kind="stable")[:10]
        assert [hit.passage_id for hit in hits] == [f"p{i}" for i in order]
        np.testing.assert_allclose([hit.score for hit in hits], row[order], rtol=1e-5)
    np.testing.assert_array_equal(searcher.vectors(["p7", "p3", "p7"]), vectors[[7, 3, 7]])
    assert searcher.search(ask(*"abcdefg"), 10, queries) == found
    assert len(searcher.search_vectors(queries, 1000)[0]) == 300


@pytest.mark.parametrize("index", [Hnsw(), IvfPq(nlist=16, nprobe=8, m=8, nbits=6)])
def test_approximate_indexes_find_most_and_score_exactly(index):
    # Queries near passages, as in retrieval; random directions have no neighbours.
    vectors = make_vectors(2000)
    queries = vectors[:100] + 0.2 * make_vectors(100, seed=1)
    searcher = build_dense(vectors, index)
    found = searcher.search_vectors(queries, top_k=5)
    exact = np.argsort(-(queries @ vectors.T), axis=1)[:, :5]
    kept = 0
    for query, hits, rows in zip(queries, found, exact, strict=True):
        kept += len({hit.passage_id for hit in hits} & {f"p{i}" for i in rows})
        own = [float(query @ vectors[int(hit.passage_id[1:])]) for hit in hits]
        np.testing.assert_allclose([hit.score for hit in hits], own, rtol=1e-4, atol=1e-5)
        assert own == sorted(own, reverse=True)
    assert kept / 500 > (0.95 if isinstance(index, Hnsw) else 0.6)
    assert [hits[0].passage_id for hits in found] == [f"p{i}" for i in range(100)]


def test_an_index_that_finds_less_makes_up_no_passage():
    searcher = build_dense(make_vectors(200), IvfPq(nlist=20, nprobe=1, m=8, nbits=4))
    for hits in searcher.search_vectors(make_vectors(5, seed=1), top_k=150):
        assert 0 < len(hits) < 150
        assert len({hit.passage_id for hit in hits}) == len(hits)


def test_building_twice_gives_the_same_hits():
    vectors, queries = make_vectors(500), make_vectors(20, seed=1)
    for index in (Hnsw(m=4, ef_construction=8, ef_search=4), IvfPq(nlist=8, m=4, nbits=4)):
        first, second = (build_dense(vectors, index).search_vectors(queries, 5) for _ in range(2))
        assert first == second


def test_indexes_that_do_not_fit_are_named_together():
    with pytest.raises(UserError) as caught:
        IvfPq(nlist=64, m=5, nbits=8).build(make_vectors(40))
    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        "retriever.index.nlist",
        "retriever.index.nbits",
        "retriever.index.m",
    ]
    assert "legal: 1, 2, 4, 8, 16, 32" in caught.value.problems[2]


def test_query_vectors_of_another_space_are_refused():
    searcher = build_dense(make_vectors(10), Flat())
    with pytest.raises(UserError, match="query vectors have 8 dimensions, the index 32"):
        searcher.search(ask("a"), 3, make_vectors(1, dimension=8))
    with pytest.raises(ValueError, match="2 questions need as many query vectors, not 1"):
        searcher.search(ask("a", "b"), 3, make_vectors(1))
    with pytest.raises(ValueError, match="not none"):
        searcher.search(ask("a", "b"), 3)


def test_dense_retriever_embeds_title_and_text(passages, runtime):
    searcher = Dense(encoder=TINY).build(passages, runtime)
    encoder = TINY.load(runtime)
    texts = ["Insulin Human insulin is made in yeast or in E. coli.", PASSAGES[3][2]]
    np.testing.assert_allclose(searcher.vectors(["p1", "p4"]), encoder.encode(texts), atol=1e-5)
    (hits,) = searcher.search(ask("x"), 2, encoder.encode(texts[:1]))
    assert hits[0] == Hit("p1", pytest.approx(1.0, abs=1e-5))


# --- Embeddings -------------------------------------------------------------------------------


def test_embeddings_are_kept_by_content(passages, tmp_path, caplog, monkeypatch):
    runtime = Runtime(cache_dir=tmp_path)
    loads = []
    load = Encoder.load
    monkeypatch.setattr(Encoder, "load", lambda self, rt: loads.append(self) or load(self, rt))
    caplog.set_level("INFO", "rag_experiments.store")

    def build(encoder=TINY, data=passages, rt=runtime):
        caplog.clear()
        searcher = Dense(encoder=encoder).build(data, rt)
        return searcher, caplog.text

    first, text = build()
    assert "embeddings: computing, the store has none yet" in text
    again, text = build()
    assert "embeddings: read" in text
    assert len(loads) == 1
    np.testing.assert_array_equal(again.vectors(["p5"]), first.vectors(["p5"]))

    for change, name in (
        ({"batch_size": 1}, "batch_size is new (1, not 4)"),
        ({"max_length": 16}, "max_length is new (16, not 64)"),
        ({"pooling": "cls"}, 'pooling is new ("cls", not "mean")'),
        ({"normalize": False}, "normalize is new (false, not true)"),
        ({"title_separator": ": "}, 'title_separator is new (": ", not " ")'),
    ):
        text = build(TINY.model_copy(update=change))[1]
        assert f"embeddings: computing, encoder.{name}\n" in text
    half = Runtime(cache_dir=tmp_path, dtype="bfloat16")
    assert 'computing, dtype is new ("bfloat16", not "float32")' in build(rt=half)[1]
    changed = make_passages([*PASSAGES[:5], ("p6", "PCR", "Other text.")])
    assert "computing, passages is new\n" in build(data=changed)[1]
    swapped = make_passages([PASSAGES[1], PASSAGES[0], *PASSAGES[2:]])
    assert "computing, passages is new\n" in build(data=swapped)[1]
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "weights" / "random-bert", copy)
    moved = TINY.model_copy(update={"weights": str(copy)})
    assert "computing, encoder.weights is new\n" in build(moved)[1]


def test_damaged_embeddings_are_computed_again(passages, tmp_path, caplog):
    runtime = Runtime(cache_dir=tmp_path)
    expected = Dense(encoder=TINY).build(passages, runtime).vectors(["p1"])
    (file,) = tmp_path.glob("store/embeddings/*/vectors.npy")
    content = bytearray(file.read_bytes())
    content[-1] ^= 0xFF
    file.write_bytes(bytes(content))
    searcher = Dense(encoder=TINY).build(passages, runtime)
    assert "is damaged (vectors.npy: its checksum differs)" in caplog.text
    np.testing.assert_array_equal(searcher.vectors(["p1"]), expected)


# --- Hybrid, gold, none -----------------------------------------------------------------------


class Canned:
    """Searcher with fixed hits."""

    def __init__(self, *hits):
        self.hits = [Hit(*hit) for hit in hits]

    def search(self, questions, top_k, query_vectors=None):
        return [self.hits[:top_k] for _ in questions]


def fuse(**options):
    from rag_experiments.retriever.hybrid import HybridSearcher

    option = Hybrid(lexical=BM25(), dense=Dense(encoder=TINY), top_k=2, **options)
    lexical = Canned(("a", 9.0), ("b", 5.0), ("c", 1.0))
    dense = Canned(("b", 0.9), ("d", 0.8))
    (hits,) = HybridSearcher(option, lexical, dense, "print", 4).search(ask("x"), 10)
    return {hit.passage_id: hit.score for hit in hits}


def test_hybrid_fusion_by_hand():
    """Ranks: a 1; b 2 and 1; c 3; d 2. Scaled scores: a 1; b 1/2 and 1; c 0; d 0."""
    assert fuse(rrf_k=60.0) == pytest.approx(
        {"b": 0.5 / 62 + 0.5 / 61, "a": 0.5 / 61, "d": 0.5 / 62, "c": 0.5 / 63}
    )
    assert list(fuse()) == ["b", "a", "d", "c"]
    assert fuse(fusion="weighted", weight=0.25) == pytest.approx(
        {"a": 3 / 4, "b": 3 / 8 + 1 / 4, "c": 0, "d": 0}
    )
    assert fuse(depth=2).keys() == fuse().keys()  # top_k above depth searches deeper


def test_hybrid_searches_both(passages, runtime):
    retriever = Hybrid(lexical=BM25(), dense=Dense(encoder=TINY))
    searcher = retriever.build(passages, runtime)
    queries = TINY.load(runtime).encode(["ethanol", "zebra"])
    ethanol, zebra = searcher.search(ask("ethanol", "zebra"), 6, queries)
    assert len(ethanol) == len(zebra) == 6  # the dense part ranks all
    dense = searcher.dense.search_vectors(queries[1:], 6)[0]
    assert [hit.passage_id for hit in zebra] == [hit.passage_id for hit in dense]
    assert ethanol[0].score > zebra[0].score
    assert retriever.uses_query_vectors
    assert not retriever.differentiable


def test_settings_without_effect_in_a_hybrid_are_refused():
    with pytest.raises(ValidationError, match="top_k: 7 has no effect in a hybrid"):
        Hybrid(lexical=BM25(top_k=7), dense=Dense(encoder=TINY))
    with pytest.raises(ValidationError, match="depth: 4 is less than top_k 5"):
        Hybrid(lexical=BM25(), dense=Dense(encoder=TINY), depth=4, top_k=5)


def test_gold_returns_known_gold_passages_alike(passages, runtime, caplog):
    caplog.set_level("INFO", "rag_experiments.retriever.gold")
    searcher = Gold().build(passages, runtime)
    questions = [
        Question("q1", "x", passage_ids=("p4", "p2", "p4", "p6")),
        Question("q2", "y", passage_ids=("gone",)),
        Question("q3", "z"),
    ]
    assert searcher.search(questions, top_k=2) == [[Hit("p4", 0.0), Hit("p2", 0.0)], [], []]
    for part in ("2 of 3 questions have none", "1 named passages are not", "1 are beyond"):
        assert part in caplog.text


def test_closed_book_finds_nothing(passages, runtime):
    retriever = NoRetriever()
    assert retriever.build(passages, runtime).search(ask("a", "b"), 5) == [[], []]
    assert retriever.data_problems(0) == []


# --- Rerankers --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cross_encoder_folder(tmp_path_factory, runtime):
    """A random classifier with one logit, saved as on the Hub."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    from rag_experiments.weights import resolve

    folder = tmp_path_factory.mktemp("cross_encoder")
    tokenizer = AutoTokenizer.from_pretrained(resolve("random:bert", runtime.cache_dir))
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_labels=1,
        initializer_range=0.5,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_cross_encoder_rescores_the_first_hits(passages, runtime, cross_encoder_folder):
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    reranker = CrossEncoder(weights=str(cross_encoder_folder), max_length=128, batch_size=2)
    retriever = BM25(top_k=2, reranker=reranker, rerank_depth=3)
    searcher = retriever.build(passages, runtime)
    query = "phage protein yeast fermentation"
    first = BM25().build(passages, runtime).search(ask(query), 3)[0]
    network = AutoModelForSequenceClassification.from_pretrained(cross_encoder_folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(cross_encoder_folder)
    expected = {}
    for hit in first:
        _, title, text = next(row for row in PASSAGES if row[0] == hit.passage_id)
        pair = tokenizer(query, f"{title} {text}".strip(), return_tensors="pt")
        with torch.no_grad():
            expected[hit.passage_id] = network(**pair).logits.item()
    found = searcher.search(ask(query, "zebra"), 2)
    best = sorted(expected, key=lambda name: -expected[name])[:2]
    assert [hit.passage_id for hit in found[0]] == best
    assert [hit.score for hit in found[0]] == pytest.approx([expected[i] for i in best], abs=1e-4)
    assert found[1] == []
    assert searcher.search(ask("zebra"), 2) == [[]]
    assert best != [hit.passage_id for hit in first[:2]]  # the test would see no rescoring


def test_a_bi_encoder_rescores_by_inner_product(passages, runtime):
    reranker = BiEncoder(weights="random:bert", max_length=64)
    searcher = BM25(reranker=reranker).build(passages, runtime)
    (hits,) = searcher.search(ask("yeast fermentation"), 3)
    encoder = TINY.load(runtime)
    question = encoder.encode(["yeast fermentation"])[0]
    texts = {i: f"{title} {text}".strip() for i, title, text in PASSAGES}
    vectors = encoder.encode([texts[hit.passage_id] for hit in hits])
    assert [hit.score for hit in hits] == pytest.approx((vectors @ question).tolist(), abs=1e-5)
    assert [hit.score for hit in hits] == sorted((h.score for h in hits), reverse=True)
    assert {hit.passage_id for hit in hits} == {"p1", "p4", "p5"}


def test_a_reranker_cuts_passages_and_refuses_questions_that_fill_it(
    passages, runtime, cross_encoder_folder, caplog
):
    caplog.set_level("INFO", "rag_experiments.retriever.rescoring")
    reranker = CrossEncoder(weights=str(cross_encoder_folder), max_length=24)
    searcher = BM25(reranker=reranker).build(passages, runtime)
    searcher.search(ask("phage"), 2)
    assert "2 of 2 passages were cut" in caplog.text
    with pytest.raises(UserError, match="leaves no room for a passage"):
        searcher.search(ask("phage " * 10), 2)


def test_a_model_that_is_no_cross_encoder_is_refused(passages, runtime):
    retriever = BM25(reranker=CrossEncoder(weights="random:bert"))
    with pytest.raises(UserError, match=r"^retriever\.reranker\.weights: .* sequence classifier"):
        retriever.build(passages, runtime)
    (problem,) = retriever.question_problems(ask("phage"), runtime)
    assert problem.startswith("reranker.weights: ")


def test_what_does_not_fit_the_weights_is_found_before_anything_is_embedded(
    runtime, cross_encoder_folder, monkeypatch
):
    from rag_experiments.encoder import TextEncoder

    monkeypatch.setattr(TextEncoder, "load", None)  # no weights are loaded
    long = Encoder(weights="random:bert", max_length=4096)
    assert Dense(encoder=TINY, index=IvfPq(m=8)).question_problems([], runtime) == []
    problems = Dense(encoder=long, index=IvfPq(m=5)).question_problems([], runtime)
    assert [line.split(":")[0] for line in problems] == ["encoder.max_length", "index.m"]
    hybrid = Hybrid(lexical=BM25(), dense=Dense(encoder=long))
    assert hybrid.question_problems([], runtime)[0].startswith("dense.encoder.max_length: 4096")

    reranker = CrossEncoder(weights=str(cross_encoder_folder), max_length=24)
    short, filling = ask("phage"), ask("phage " * 10)
    assert BM25(reranker=reranker).question_problems(short, runtime) == []
    (problem,) = BM25(reranker=reranker).question_problems([*short, *filling], runtime)
    needed = int(problem.rpartition(" ")[2]) + 1
    assert "after 1 of 2 questions" in problem
    enough = CrossEncoder(weights=str(cross_encoder_folder), max_length=needed)
    assert BM25(reranker=enough).question_problems(filling, runtime) == []


def test_no_retriever_keeps_no_room_for_passages():
    assert NoRetriever(top_k=3).top_k == 0


def test_a_reranked_dense_retriever_is_not_differentiable():
    assert Dense(encoder=TINY).differentiable
    reranked = Dense(encoder=TINY, reranker=BiEncoder(weights="random:bert"))
    assert not reranked.differentiable
    assert reranked.uses_query_vectors


# --- All of them ------------------------------------------------------------------------------


def make_all(folder):
    return {
        "bm25": BM25(),
        "flat": Dense(encoder=TINY),
        "hnsw": Dense(encoder=TINY, index=Hnsw(m=4)),
        "ivf_pq": Dense(encoder=TINY, index=IvfPq(nlist=2, nprobe=2, m=8, nbits=4)),
        "hybrid": Hybrid(lexical=BM25(), dense=Dense(encoder=TINY)),
        "cross": BM25(reranker=CrossEncoder(weights=str(folder), max_length=128)),
        "bi": Dense(encoder=TINY, reranker=BiEncoder(weights="random:bert")),
        "iterative": Iterative(first=BM25()),
        "none": NoRetriever(),
        "gold": Gold(),
    }


@pytest.mark.parametrize("name", list(make_all("x")))
def test_a_saved_index_loads_from_another_folder(
    name, runtime, tmp_path, cross_encoder_folder, monkeypatch
):
    rows = PASSAGES + [(f"x{i}", "", f"filler number {i}") for i in range(20)]
    passages = make_passages(rows)
    retriever = make_all(cross_encoder_folder)[name]
    searcher = retriever.build(passages, runtime)
    questions = ask("phage protein yeast", "filler 7", passage_ids=("p2",))
    vectors = make_vectors(2) if retriever.uses_query_vectors else None
    expected = searcher.search(questions, 4, vectors)
    searcher.save(tmp_path / "here")
    shutil.move(tmp_path / "here", tmp_path / "there")
    # Nothing but the folder: no cache, and so no passage encoder.
    monkeypatch.setattr("rag_experiments.weights.resolve", None)
    empty = Runtime(cache_dir=tmp_path / "empty")
    loaded = retriever.load(tmp_path / "there", passages, empty)
    assert loaded.search(questions, 4, vectors) == expected
    for file in (tmp_path / "there").rglob("*.json"):
        assert str(runtime.cache_dir) not in file.read_text()
    # Saving over the folder that it was read from.
    loaded.save(tmp_path / "there")
    assert retriever.load(tmp_path / "there", passages, empty).search(questions, 4, vectors) == (
        expected
    )


@pytest.mark.parametrize("name", list(make_all("x")))
def test_an_extended_index_is_as_one_that_is_built_anew(
    name, runtime, cross_encoder_folder, monkeypatch
):
    """With a passage that went, one in the place of another with its id, and new ones."""
    old = [(f"x{i}", "", f"filler number {i}") for i in range(20)] + PASSAGES
    new = [*old[1:-1], ("p6", "PCR", "Another text with the same id."), ("new", "", "Phage text.")]
    retriever = make_all(cross_encoder_folder)[name]
    searcher = retriever.build(make_passages(old), runtime)
    questions = ask("phage protein yeast", "another filler 7", passage_ids=("new",))
    vectors = make_vectors(2) if retriever.uses_query_vectors else None
    expected = retriever.build(make_passages(new), runtime).search(questions, 4, vectors)
    embedded = []
    embed = embeddings.embed_passages

    def counted(passages, *others):
        embedded.extend(passages["id"])
        return embed(passages, *others)

    monkeypatch.setattr(embeddings, "embed_passages", counted)
    kept = frozenset(name for name, *_ in old[1:-1])
    extended = retriever.extend(searcher, make_passages(new), kept, runtime)
    found = extended.search(questions, 4, vectors)
    for hits, wanted in zip(found, expected, strict=True):
        assert [hit.passage_id for hit in hits] == [hit.passage_id for hit in wanted]
        assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in wanted], rel=1e-4)
    assert embedded == (["p6", "new"] if retriever.uses_query_vectors else [])


def test_a_wrong_index_is_refused(passages, runtime, tmp_path):
    BM25().build(passages, runtime).save(tmp_path)
    other = make_passages(PASSAGES[:5])
    with pytest.raises(UserError, match="built from 6 other passages than the 5 given"):
        BM25().load(tmp_path, other, runtime)
    with pytest.raises(UserError, match="holds an index of kind 'bm25', not 'dense'"):
        Dense(encoder=TINY).load(tmp_path, passages, runtime)
    with pytest.raises(UserError, match=r"manifest\.json is missing"):
        BM25().load(tmp_path / "nowhere", passages, runtime)


def test_data_problems_name_the_key_and_what_is_legal():
    assert BM25(top_k=5).data_problems(3) == ["top_k: 5 is more than the 3 passages; legal: 1 to 3"]
    assert BM25(top_k=3).data_problems(3) == []
    ivf = Dense(encoder=TINY, index=IvfPq(nlist=64))
    assert [line.split(":")[0] for line in ivf.data_problems(60)] == ["index.nlist", "index.nbits"]
    hybrid = Hybrid(lexical=BM25(), dense=ivf)
    assert hybrid.data_problems(60)[0].startswith("dense.index.nlist: 64")


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda: BM25(top_k=0), "top_k"),
        (lambda: BM25(b=1.5), "b"),
        (lambda: BM25(temperature=0.0), "temperature"),
        (lambda: BM25(topk=3), "topk"),
        (
            lambda: BM25(top_k=30, reranker=BiEncoder(weights="random:bert")),
            "rerank_depth: 20 is less than top_k 30",
        ),
    ],
)
def test_values_out_of_range_are_refused(make, part):
    with pytest.raises(ValidationError, match=part):
        make()


def test_weights_are_checked_without_loading():
    assert Encoder(weights="random:brt").problems()[0].startswith("weights: 'random:brt'")
    assert CrossEncoder(weights="./nowhere").problems()[0].startswith("weights: './nowhere'")
    assert TINY.problems() == []


def test_options_import_nothing_heavy():
    code = (
        "import sys\n"
        "from rag_experiments.retriever import bm25, dense, hybrid, none, gold\n"
        "e = dense.Encoder(weights='random:bert')\n"
        "hybrid.Hybrid(lexical=bm25.BM25(), dense=dense.Dense(encoder=e))\n"
        "heavy = 'torch transformers datasets numpy faiss bm25s'.split()\n"
        "sys.exit(', '.join(m for m in heavy if m in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


CONF = Path(__file__).parents[1] / "conf" / "retriever"


PARTS = [
    ["retriever/reranker=cross_encoder"],
    ["retriever/encoder=dpr", "retriever/index=ivf_pq"],
    ["retriever/encoder=tiny", "retriever/index=hnsw", "retriever/reranker=bi_encoder"],
]
# Inside a hybrid a part is named with its place.
NESTED = [
    [re.sub(r"(encoder|index)=", r"\1@retriever.dense.\1=", item) for item in parts]
    for parts in PARTS
]


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        *((name, []) for name in ("bm25", "dense", "hybrid", "iterative", "none", "gold")),
        ("bm25", PARTS[0]),
        *(("dense", parts) for parts in PARTS),
        *(("hybrid", parts) for parts in NESTED),
    ],
)
def test_every_config_builds(name, overrides):
    from hydra import compose, initialize_config_dir

    from rag_experiments.options import build

    with initialize_config_dir(str(CONF.parent), version_base="1.3"):
        node = compose(overrides=[f"+retriever={name}", *overrides]).retriever
    option = build(node)
    assert option.top_k == (0 if name == "none" else 3)
    assert (name in ("dense", "hybrid")) == option.uses_query_vectors
    # What the files say is what the classes say by themselves.
    plain = OmegaConf.to_container(node)
    for key, value in plain.items():
        field = type(option).model_fields.get(key)
        if field is not None and not isinstance(value, dict):
            assert value == field.default, key


# --- Real data --------------------------------------------------------------------------------


def read_scifact():
    folder = SHARED / "scifact_full"
    if not folder.is_dir():
        pytest.skip(f"the data set {folder.name} is not beside the project")

    def read(name):
        with (folder / name).open(encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]

    passages = Dataset.from_list(
        [{key: row[key] for key in ("id", "title", "text")} for row in read("passages.jsonl")]
    )
    relevant: dict[str, dict[str, float]] = {}
    for line in (folder / "qrels" / "test.tsv").read_text("utf-8").splitlines()[1:]:
        query, passage, gain = line.split("\t")
        relevant.setdefault(query, {})[passage] = float(gain)
    questions = [Question(row["id"], row["question"]) for row in read("test.jsonl")]
    return passages, [question for question in questions if question.id in relevant], relevant


def measure(found, questions, relevant):
    from rag_experiments.functional.ranking import compute_ndcg

    values = [
        compute_ndcg([hit.passage_id for hit in hits], relevant[question.id], 10)
        for question, hits in zip(questions, found, strict=True)
    ]
    assert len(values) == 300
    return sum(values) / len(values)


@pytest.mark.slow
def test_bm25_on_scifact_is_as_published(runtime):
    """BEIR reports nDCG@10 0.665."""
    passages, questions, relevant = read_scifact()
    found = BM25().build(passages, runtime).search(questions, 10)
    ndcg = measure(found, questions, relevant)
    print(f"SciFact nDCG@10, BM25: {ndcg:.4f}")
    assert ndcg >= 0.66
