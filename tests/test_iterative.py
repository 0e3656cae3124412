"""Iterative retrieval: what is asked in each hop, what is kept, and that it finds what one search
does not."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from datasets import Dataset
from pydantic import ValidationError

from rag_experiments.composition.composer import Composer
from rag_experiments.conflicts import find_conflicts
from rag_experiments.contracts import Hit, Question, Runtime
from rag_experiments.pipeline import RagPipeline
from rag_experiments.retriever.bm25 import BM25
from rag_experiments.retriever.dense import Dense
from rag_experiments.retriever.encoder import Encoder
from rag_experiments.retriever.hybrid import Hybrid
from rag_experiments.retriever.iterative import (
    Iterative,
    IterativeSearcher,
    new_words,
    share_out,
    take_in_turn,
)

TINY = Encoder(weights="random:bert", max_length=64, batch_size=4)


def make_passages(*rows):
    return Dataset.from_list(
        [{"id": i, "title": t, "text": x, "document_id": i} for i, t, x in rows]
    )


@pytest.fixture
def runtime(tmp_path):
    return Runtime(cache_dir=tmp_path)


class Scripted:
    """Searcher that finds what a script says for each query, and notes what it is asked."""

    def __init__(self, script):
        self.script = script
        self.asked = []

    def search(self, questions, top_k, query_vectors=None):
        self.asked.append(([q.query for q in questions], top_k, query_vectors))
        found = [self.script.get(q.query, "") for q in questions]
        return [[Hit(name, 9.0 - i) for i, name in enumerate(names)][:top_k] for names in found]


LETTERS = make_passages(*((name, "", f"about X{name}") for name in "abcdefgh"))


def search(script, top_k, questions=("q",), passages=LETTERS, **options):
    first = Scripted(script)
    option = Iterative(first=BM25(), top_k=top_k, **options)
    searcher = IterativeSearcher(option, first, passages, "print")
    found = searcher.search([Question(text, text) for text in questions], top_k)
    return ["".join(hit.passage_id for hit in hits) for hits in found], first.asked, found


def test_the_number_of_passages_is_shared_out_evenly():
    assert [share_out(n, 2) for n in (2, 3, 4, 7)] == [[1, 1], [2, 1], [2, 2], [4, 3]]
    assert share_out(7, 3) == [3, 2, 2]


def test_rankings_take_turns_and_give_nothing_twice():
    assert take_in_turn(["abx", "acd"], 4, "z") == ["a", "c", "b", "d"]
    assert take_in_turn(["abx", "acd"], 9, "ax") == ["b", "c", "d"]
    assert take_in_turn(["abx"], 0, "") == []
    assert take_in_turn([], 3, "") == []


def test_each_passage_asks_for_one_that_is_not_there():
    script = {"q": "abcd", "q Xa": "aef", "q Xb": "aeg", "other": "h"}
    (one, other), asked, hits = search(script, 4, ("q", "other"))
    assert one == "abeg"  # e went to a, whose query is the first
    assert other == "h"
    assert [texts for texts, _, _ in asked] == [
        ["q", "other"],
        ["q Xa", "q Xb", "other Xh"],
    ]
    assert [hit.score for hit in hits[0]] == pytest.approx([1 / 61, 1 / 62, 1 / 63, 1 / 64])


def test_what_later_hops_leave_open_is_filled_from_the_first():
    assert search({"q": "abcd", "q Xa": "ab", "q Xb": "e"}, 5)[0] == ["abced"]
    assert search({"q": "abcd"}, 4)[0] == ["abcd"]
    assert search({}, 4)[0] == [""]


def test_a_third_hop_follows_what_the_second_brought():
    script = {"q": "ab", "q Xa": "c", "q Xc": "d", "q Xb": "h"}
    found, asked, _ = search(script, 3, hops=3)
    assert found == ["acd"]
    assert [texts for texts, _, _ in asked] == [["q"], ["q Xa"], ["q Xc"]]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"query": "names"}, "Whose film? Red Dr Nobody Rome"),
        ({"query": "names", "words": 2}, "Whose film? Red Dr"),
        ({"query": "sentence"}, "Whose film? Red Dr Nobody"),
        ({"query": "text"}, "Whose film? Red Dr Nobody born Rome"),
    ],
)
def test_what_of_a_passage_follows_the_question(options, expected):
    passages = make_passages(("a", "Red Film", "It is by Dr. Nobody. He was born in Rome."))
    _, asked, _ = search({"Whose film?": "a"}, 2, ("Whose film?",), passages, **options)
    assert asked[1][0] == [expected]


def test_a_document_alone_is_searched_in_every_hop(runtime):
    rows = [
        {"id": i, "title": "", "text": text, "document_id": document}
        for i, document, text in (
            ("1", "here", "sugar from beets"),
            ("2", "there", "beets grow"),
            ("3", "here", "beets are red"),
            ("4", "here", "nothing else"),
        )
    ]
    retriever = Iterative(first=BM25(), top_k=2, query="text")
    searcher = retriever.build(Dataset.from_list(rows), runtime)
    (hits,) = searcher.search([Question("q", "sugar", document="x", within="here")], 2)
    assert [hit.passage_id for hit in hits] == ["1", "3"]
    (hits,) = searcher.search([Question("q", "sugar", document="x", without="there")], 2)
    assert [hit.passage_id for hit in hits] == ["1", "3"]


FILMS = make_passages(
    ("film", "Silent Harbour", "Silent Harbour is a 1932 drama directed by Augusto Rinaldi."),
    ("man", "Augusto Rinaldi", "Augusto Rinaldi, 1890 to 1957, lived in Turin."),
    ("one", "A director", "The director of the film was born."),
    ("two", "Where", "Where was the director of the film born?"),
    ("three", "Harbour", "A harbour is where ships lie."),
)


def test_the_second_hop_finds_what_the_question_does_not_name(runtime):
    questions = [Question("q", "Where was the director of Silent Harbour born?")]
    single = BM25().build(FILMS, runtime).search(questions, 4)
    assert "man" not in [hit.passage_id for hit in single[0]]
    (hits,) = Iterative(first=BM25(), top_k=4).build(FILMS, runtime).search(questions, 4)
    assert {"film", "man"} <= {hit.passage_id for hit in hits}
    assert len(hits) == 4


@pytest.mark.parametrize("kind", ["dense", "hybrid"])
def test_queries_of_later_hops_become_vectors(kind, runtime):
    first = Dense(encoder=TINY)
    first = Hybrid(lexical=BM25(), dense=first) if kind == "hybrid" else first
    option = Iterative(first=first, top_k=4)
    assert option.uses_query_vectors
    assert not option.differentiable
    searcher = option.build(FILMS, runtime)
    encoder = TINY.load(runtime)
    asked = []

    def encode(texts):
        asked.append(list(texts))
        return encoder.encode(texts)

    model = SimpleNamespace(query_encoder=SimpleNamespace(encode=encode))
    task = SimpleNamespace(temperature=None)
    pipeline = RagPipeline(task, option, model, searcher, FILMS)  # type: ignore[arg-type]
    questions = [Question("q", "Who lived in Turin?")]
    (hits,) = pipeline.search(questions)
    assert len({hit.passage_id for hit in hits}) == 4
    assert asked[0] == ["Who lived in Turin?"]
    rows = {row["id"]: f"{row['title']} {row['text']}" for row in FILMS}
    sources = [new_words(rows[hit.passage_id], "Who lived in Turin?") for hit in hits[:2]]
    names = [[word for word in words if word[0].isupper()] for words in sources]
    assert asked[1] == [" ".join(["Who lived in Turin?", *own]) for own in names]
    # The third is what a search with the first of these queries ranks first, but for the two.
    (by_hand,) = searcher.first.search(
        [Question("q", asked[1][0])], 5, encoder.encode(asked[1][:1])
    )
    ranked = [hit.passage_id for hit in by_hand]
    there = [hit.passage_id for hit in hits[:2]]
    assert hits[2].passage_id == next(name for name in ranked if name not in there)
    np.testing.assert_array_equal(
        pipeline.passage_vectors(["man", "film"]),
        Dense(encoder=TINY).build(FILMS, runtime).vectors(["man", "film"]),
    )
    with pytest.raises(ValueError, match="need an encoder"):
        searcher.search(questions, 4, encoder.encode(["Who lived in Turin?"]))


def test_settings_without_effect_are_refused():
    with pytest.raises(ValidationError, match=r"first\.top_k: 7 has no effect in iterative"):
        Iterative(first=BM25(top_k=7))
    with pytest.raises(ValidationError, match="hops: 4 is more than top_k 3"):
        Iterative(first=BM25(), hops=4)


def test_problems_of_what_searches_are_named_with_their_place(runtime):
    option = Iterative(first=Dense(encoder=Encoder(weights="random:bert", max_length=4096)))
    (problem,) = option.question_problems([], runtime)
    assert problem.startswith("first.encoder.max_length: 4096")
    assert Iterative(first=BM25(), top_k=5).data_problems(4)[0].startswith("top_k: 5")


def test_what_searches_is_chosen_on_the_command_line():
    composer = Composer()
    lines = ["retriever=iterative", "retriever@retriever.first=hybrid"]
    (run,) = composer.plan([*lines, "retriever.first.weight=0.3"]).jobs
    assert isinstance(run.retriever, Iterative)
    assert isinstance(run.retriever.first, Hybrid)
    assert run.retriever.first.weight == 0.3


def test_vectors_of_two_spaces_are_refused_with_the_place():
    composed = Composer().plan(["retriever=iterative", "retriever@retriever.first=dense"]).jobs[0]
    first = composed.retriever.first.model_copy(update={"encoder": TINY})
    retriever = composed.retriever.model_copy(update={"first": first})
    problems = find_conflicts({"retriever": retriever, "model": composed.model})
    assert len(problems) == 1
    assert "but retriever.first.encoder.weights is 'random:bert'" in problems[0]
    assert problems[0].endswith("model/query_encoder and retriever/encoder@retriever.first.encoder")
