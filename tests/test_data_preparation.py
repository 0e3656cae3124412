"""Preparation: what is changed is what was asked for, and it is counted."""

from __future__ import annotations

import hashlib
import time
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_experiments.contracts import Passage, Question, Runtime, UserError
from rag_experiments.data import chunking
from rag_experiments.data.gold import match_answers
from rag_experiments.data.preparation import Chunk, Limit, Preparation
from rag_experiments.data.splits import place_id
from rag_experiments.functional.text import contains_answer

RUNTIME = Runtime(cache_dir=Path("unused"))


def prepare(preparation: Preparation, passages, train=(), validation=(), test=()):
    splits = {"train": train, "validation": validation, "test": test}
    return preparation.prepare(passages, splits, (), RUNTIME)


def test_text_is_normalized():
    passages = [Passage("p", " A\ttitle", "Cafe\u0301  au\n lait ")]
    train = [Question("q", "What\n is  it?", ("Cafe\u0301", "Caf\u00e9"), ("p",))]
    data = prepare(Preparation(), passages, train)
    assert data.passages[0]["text"] == "Caf\u00e9 au lait"
    assert data.passages[0]["title"] == "A title"
    assert data.train[0].question == "What is it?"
    assert data.train[0].answers == ("Caf\u00e9",)
    raw = prepare(Preparation(normalize=False), passages, train)
    assert raw.passages[0]["text"] == "Cafe\u0301  au\n lait "
    assert raw.train == tuple(train)


def test_duplicates_are_merged_and_gold_follows():
    passages = [
        Passage("a", "", "Same text."),
        Passage("b", "", "Same  text."),
        Passage("c", "Another title", "Same text."),
        Passage("d", "", "Other."),
    ]
    train = [Question("q", "?", ("x",), ("b", "a", "d"))]
    data = prepare(Preparation(), passages, train)
    assert data.passages["id"][:] == ["a", "c", "d"]
    assert data.train[0].passage_ids == ("a", "d")
    assert data.notes == ("1 duplicate passage merged into the first.",)
    kept = prepare(Preparation(deduplicate=False), passages, train)
    assert len(kept.passages) == 4


def test_repeated_questions_are_reported_within_and_across_splits():
    same = [Question(str(i), "What  is IT?", ("x",), ("p",)) for i in range(3)]
    data = prepare(Preparation(), [Passage("p", "", "x")], same[:2], (), same[2:])
    assert data.notes == (
        "train: 1 question with the text of another question.",
        "1 question of train in test as well: figures of test are too good by that.",
    )
    assert len(data.train) == 2


@given(st.integers(0, 60), st.integers(1, 12), st.data())
def test_chunks_cover_every_word_with_the_overlap_asked_for(count, size, data):
    overlap = data.draw(st.integers(0, size - 1))
    words = [f"w{i}" for i in range(count)]
    text = " ".join(words)
    pieces = [p.split() for p in chunking.cut(text, chunking.find_words(text), size, overlap)]
    assert all(len(piece) <= size for piece in pieces)
    assert all(len(piece) == size for piece in pieces[:-1])
    rebuilt = pieces[0]
    for before, after in pairwise(pieces):
        assert before[len(before) - overlap :] == after[:overlap]
        assert len(after) > overlap  # never a chunk without anything new
        rebuilt = rebuilt + after[overlap:]
    assert rebuilt == words


def test_chunks_have_ids_documents_and_gold():
    passages = [
        Passage("long", "T", "one two three four five six seven"),
        Passage("short", "", "one two three"),
    ]
    train = [
        Question("stands", "?", ("six",), ("long", "short")),
        Question("does not", "??", ("nine",), ("long",)),
        Question("across", "???", ("three four",), ("long",)),
    ]
    chunk = Chunk(unit="words", size=3, overlap=1)
    data = prepare(Preparation(chunk=chunk), passages, train)
    assert list(zip(*(data.passages[c] for c in ("id", "text", "document_id")), strict=True)) == [
        ("long#0", "one two three", "long"),
        ("long#1", "three four five", "long"),
        ("long#2", "five six seven", "long"),
        ("short", "one two three", "short"),
    ]
    assert data.passages["title"][:] == ["T", "T", "T", ""]
    gold = [question.passage_ids for question in data.train]
    assert gold == [("long#2", "short"), ("long#0", "long#1", "long#2"), ("long#1",)]
    assert data.notes == (
        "1 of 2 passages cut into chunks of at most 3 words with 1 words of overlap; "
        "4 passages after it.",
    )


def test_a_label_makes_no_chunk_the_right_one():
    passages = [Passage("p", "", "No fever. Tumours shrank.")]
    train = [Question(answer, f"{answer}?", (answer,), ("p",)) for answer in ("no", "Yes", "fever")]
    chunk = Chunk(unit="sentences", size=1, overlap=0)
    data = prepare(Preparation(chunk=chunk), passages, train)
    assert [q.passage_ids for q in data.train] == [("p#0", "p#1"), ("p#0", "p#1"), ("p#0",)]


def test_labels_of_a_task_make_no_passage_and_no_chunk_gold():
    labels = ("increase", "decrease")
    passages = [Passage("p", "", "An increase. A drop."), Passage("q", "", "Costs increase.")]
    chunk = Chunk(unit="sentences", size=1, overlap=0)
    named = [Question("a", "?", ("increase",), ("p",))]
    data = prepare(Preparation(chunk=chunk, labels=labels), passages, named)
    assert data.train[0].passage_ids == ("p#0", "p#1")
    data = prepare(Preparation(labels=labels), passages, [Question("a", "?", ("increase",))])
    assert (data.gold, data.train[0].passage_ids) == ("none", ())


def test_a_chunk_never_takes_the_id_of_a_passage():
    passages = [Passage("a#0", "", "x"), Passage("a", "", "one two")]
    with pytest.raises(UserError, match="'a#0' is that of a passage and of a chunk of 'a'"):
        prepare(Preparation(chunk=Chunk(unit="words", size=1, overlap=0)), passages)


def test_tokens_are_counted_by_a_tokenizer(tmp_path):
    chunk = Chunk(unit="tokens", size=16, overlap=4, tokenizer="random:bert")
    assert chunk.problems() == []
    preparation = Preparation(chunk=chunk)
    splits = {"train": (), "validation": (), "test": ()}
    text = "abcdefghijklmnopqrstuvwxyz"  # a byte is a token
    data = preparation.prepare([Passage("p", "", text)], splits, (), Runtime(tmp_path))
    assert data.passages["text"][:] == ["abcdefghijklmnop", "mnopqrstuvwxyz"]
    assert Chunk(unit="tokens", tokenizer="random:none").problems()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"unit": "words", "size": 20}, "overlap: 20 is not less than size; legal: 0 to 19"),
        ({"unit": "tokens"}, "tokenizer: null; legal with unit=tokens"),
        ({"unit": "words", "tokenizer": "a/b"}, "tokenizer: 'a/b' is not used with unit=words"),
        ({"unit": "pages"}, "'words', 'sentences', 'paragraphs' or 'tokens'"),
        ({"size": 0}, "greater than or equal to 1"),
    ],
)
def test_illegal_chunking_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Chunk(**fields)


def test_truncation_cuts_passages_and_is_counted():
    passages = [Passage("a", "", "one two  three"), Passage("b", "", "one two")]
    data = prepare(Preparation(max_words=2), passages)
    assert data.passages["text"][:] == ["one two", "one two"]
    assert data.notes[0] == "1 of 2 passages cut after 2 words."


def test_limits_nest_and_keep_gold_passages():
    passages = [Passage(f"p{i}", "", f"text {i}") for i in range(50)]
    train = [Question(f"q{i}", f"{i}?", ("x",), (f"p{i}",)) for i in range(20)]

    def limited(**limits: int):
        data = prepare(Preparation(limit=Limit(**limits)), passages, train)
        return [q.id for q in data.train], set(data.passages["id"]), data.notes

    questions = [limited(train=n)[0] for n in (0, 3, 7, 20, 30)]
    assert [len(ids) for ids in questions] == [0, 3, 7, 20, 20]
    for smaller, larger in pairwise(questions):
        assert [identity for identity in larger if identity in smaller] == smaller

    kept = [limited(train=3, passages=n)[1] for n in (1, 5, 10, 50)]
    assert [len(ids) for ids in kept] == [3, 5, 10, 50]
    assert {f"p{identity[1:]}" for identity in questions[1]} == kept[0]
    for smaller, larger in pairwise(kept):
        assert smaller < larger
    assert any("limit.passages is 1, but there are 3" in n for n in limited(train=3, passages=1)[2])


@settings(max_examples=200)
@given(st.text(max_size=20), st.sampled_from(["split", "limit"]))
def test_places_lie_in_the_unit_interval(identity, purpose):
    assert 0 <= place_id(identity, purpose) < 1


def test_places_are_the_same_on_every_machine():
    # SHA-256 of "split:q1" begins with these digits (sha256sum); another value would move
    # questions between splits of results that are already published.
    digits = hashlib.sha256(b"split:q1").hexdigest()[:16]
    assert place_id("q1", "split") == pytest.approx(int(digits, 16) / 2**64, abs=1e-12)


def test_passages_with_an_answer_stand_in_for_gold():
    passages = [
        Passage("a", "", "The enzyme is Taq-polymerase."),
        Passage("b", "", "Taqman probes"),
        Passage("c", "Taq", "From a hot spring."),
    ]
    train = [Question("q", "?", ("taq",)), Question("r", "?", ("Pfu",))]
    data = prepare(Preparation(), passages, train)
    assert data.gold == "answer_match"
    assert [q.passage_ids for q in data.train] == [("a", "c"), ()]
    assert "(1 of 2 questions, 2.0 passages each)" in data.notes[-1]


def test_labels_are_not_looked_for_in_passages():
    data = prepare(Preparation(), [Passage("a", "", "No. Yes.")], [Question("q", "?", ("No",))])
    assert data.gold == "none"
    assert data.train[0].passage_ids == ()


def test_some_annotated_questions_mean_annotated():
    passages = [Passage("a", "", "x y")]
    train = [Question("q", "?", ("x",), ("a",)), Question("r", "??", ("y",))]
    data = prepare(Preparation(), passages, train)
    assert data.gold == "annotated"
    assert data.train[1].passage_ids == ()
    assert data.notes == (
        "1 of 2 questions have no gold passage; retrieval is scored without them.",
    )


WORDS = st.sampled_from(
    ["DNA", "dna-binding", "IL-2", "the", "a", "U.S.", "3.5", "5", "Il", "2", "α", "µm", "US"]
)
TEXTS = st.lists(WORDS, min_size=1, max_size=5).map(" ".join)


@settings(max_examples=300, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=6), st.lists(TEXTS, min_size=1, max_size=4))
def test_the_index_finds_what_a_full_scan_finds(texts, answers):
    passages = [Passage(str(i), "title", text) for i, text in enumerate(texts)]
    expected = tuple(
        passage.id
        for passage in passages
        if any(contains_answer(f"title\n{passage.text}", answer) for answer in answers)
    )
    assert match_answers([Question("q", "?", tuple(answers))], passages) == [expected]


def test_matching_is_fast_for_many_questions_and_passages():
    # 10,000 passages and 1,000 questions; a full scan would compare 10 million pairs (minutes).
    words = [f"word{i}" for i in range(5000)]
    passages = [
        Passage(str(i), "", " ".join(words[(i * 7 + j * 13) % 5000] for j in range(40)))
        for i in range(10_000)
    ]
    questions = [Question(str(i), "?", (f"{words[i]} {words[i + 13]}",)) for i in range(1000)]
    start = time.perf_counter()
    found = match_answers(questions, passages)
    assert all(found)
    assert time.perf_counter() - start < 20
