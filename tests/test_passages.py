"""Passages go from file to file in batches: the same ones, wherever they are, and no text stays."""

from __future__ import annotations

import csv
import json
import logging
import random
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_experiments.contracts import Passage, PreparedData, Question, Runtime, UserError
from rag_experiments.data import passages as stored
from rag_experiments.data.chunking import cut, find_words
from rag_experiments.data.files import Files
from rag_experiments.data.fingerprint import fingerprint
from rag_experiments.data.folder import Folder
from rag_experiments.data.hub import Hub, HubPassages
from rag_experiments.data.mixture import Mixture
from rag_experiments.data.preparation import Chunk, Preparation, normalize
from rag_experiments.data.records import QuestionColumns
from rag_experiments.evaluation.coverage import locate_answers, measure_passages
from rag_experiments.functional import first_places
from rag_experiments.functional.first_places import FirstPlaces
from rag_experiments.functional.text import contains_answer
from rag_experiments.store import scratch

CHUNKS = Preparation(chunk=Chunk(unit="words", size=5, overlap=2))


@pytest.fixture
def small_batches(monkeypatch):
    """Files and many batches for the few passages of a test; gives the files that were made."""
    files = []

    def opened(cache_dir: Path):
        files.append(scratch.open_unnamed(cache_dir))
        return files[-1]

    monkeypatch.setattr(stored, "open_unnamed", opened)
    monkeypatch.setattr(stored, "BATCH", 3)
    monkeypatch.setattr(stored, "IN_MEMORY", 0)
    return files


# --- The same as with everything in memory -----------------------------------------------------


@given(st.lists(st.sampled_from(["", "a", "b", "ab", "\ud800", "c" * 300]), max_size=40))
def test_the_first_place_of_a_text_is_kept(texts):
    first: dict[str, int] = {}
    places = FirstPlaces()
    for number, text in enumerate(texts):
        known = first.get(text)
        assert places.find(text) == known
        assert places.add(text, -number) == known
        first.setdefault(text, -number)
    assert {text: places.find(text) for text in first} == first
    assert len(places) == len(first)


def test_texts_that_share_a_bucket_are_kept_apart(monkeypatch):
    digests = iter(["aa" * 16, "aa" * 15 + "ab", "aa" * 16, "aa" * 15 + "ac", "aa" * 15 + "ab"])
    monkeypatch.setattr(first_places, "_digest", lambda _: bytes.fromhex(next(digests)))
    places = FirstPlaces()
    # A number whose bytes look like the beginning of a digest.
    alike = int.from_bytes(b"\xaa" * 8, "little", signed=True)
    assert [places.add("", number) for number in (alike, 1, 2, 3, 4)] == [
        None,
        None,
        alike,
        None,
        1,
    ]


@given(st.text())
def test_a_normalized_text_stays_as_it_is(text):
    assert normalize(normalize(text)) == normalize(text)


def prepare_in_memory(passages, questions, size, overlap):
    """Normalize, merge and chunk as the words say, all at once: rows, and gold passages."""
    first: dict[tuple[str, str], str] = {}
    merged = {
        p.id: first.setdefault((normalize(p.title), normalize(p.text)), p.id) for p in passages
    }
    parts: dict[str, dict[str, str]] = {}
    rows = []
    for (title, text), name in first.items():
        pieces = cut(text, find_words(text), size, overlap)
        whole = len(pieces) == 1
        parts[name] = {name if whole else f"{name}#{i}": piece for i, piece in enumerate(pieces)}
        rows += [(part, title, piece, name) for part, piece in parts[name].items()]
    gold = []
    for question in questions:
        found = []
        for name in dict.fromkeys(merged[name] for name in question.passage_ids):
            of_passage = parts[name]
            with_answer = [
                part
                for part, piece in of_passage.items()
                if any(contains_answer(piece, answer) for answer in question.answers)
            ]
            found += with_answer or list(of_passage)
        gold.append(tuple(dict.fromkeys(found)))
    return rows, gold


WORDS = st.lists(st.sampled_from(["ab", "c", "d", "e\u0301", "\n", " "]), max_size=9)
TEXTS = st.tuples(st.sampled_from(["", "t"]), WORDS.map(" ".join))


@settings(max_examples=30, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=12), st.data())
def test_passages_are_prepared_as_in_memory(tmp_path_factory, texts, data):
    passages = [Passage(f"p{i}", title, text) for i, (title, text) in enumerate(texts)]
    ids = st.lists(st.sampled_from([p.id for p in passages]), max_size=3, unique=True)
    asked = data.draw(st.lists(st.tuples(st.sampled_from(["c", "ab d", "x"]), ids), max_size=4))
    train = [
        Question(str(i), f"{i}?", (answer,), tuple(gold)) for i, (answer, gold) in enumerate(asked)
    ]
    size = data.draw(st.integers(1, 5))
    overlap = data.draw(st.integers(0, size - 1))
    preparation = Preparation(chunk=Chunk(unit="words", size=size, overlap=overlap))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stored, "BATCH", 2)
        patch.setattr(stored, "IN_MEMORY", data.draw(st.sampled_from([0, 1 << 24])))
        runtime = Runtime(tmp_path_factory.getbasetemp() / "prepared")
        splits = {"train": train, "validation": (), "test": ()}
        prepared = preparation.prepare(passages, splits, (), runtime)
    rows, gold = prepare_in_memory(passages, train, size, overlap)
    columns = ("id", "title", "text", "document_id")
    assert list(zip(*(prepared.passages[name] for name in columns), strict=True)) == rows
    if prepared.gold == "annotated":
        assert [question.passage_ids for question in prepared.train] == gold


def make_rows(count: int) -> tuple[list[dict], list[dict]]:
    """Passages with repeats, some without a title, and questions on them."""
    draw = random.Random(13)
    words = ["DNA", "the", "ligase", "IL-2", "joins", "e\u0301", "Caf\u00e9", "3.5", "a"]
    passages = [
        {
            "id": f"p{i}",
            "title": draw.choice(["", "T"]),
            "text": " ".join(draw.choices(words, k=draw.randint(1, 12))),
        }
        for i in range(count)
    ]
    questions = [
        {
            "id": f"q{i}",
            "question": f"What is {i}?",
            "answers": draw.choices(words, k=2),
            "passage_ids": draw.sample([row["id"] for row in passages], 2),
        }
        for i in range(count)
    ]
    return passages, questions


def write_rows(rows: list[dict], path: Path) -> None:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=7)
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            for row in rows:
                cells = {k: json.dumps(v) if isinstance(v, list) else v for k, v in row.items()}
                writer.writerow(cells)
    else:
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


@pytest.fixture
def home(tmp_path):
    """The same data in every format, and passages as documents."""
    passages, questions = make_rows(20)
    for suffix in ("jsonl", "csv", "parquet"):
        folder = tmp_path / suffix
        folder.mkdir()
        write_rows(passages, folder / f"passages.{suffix}")
        write_rows(questions[:14], folder / f"train.{suffix}")
        write_rows(questions[14:], folder / f"test.{suffix}")
    unanswered = [{**row, "passage_ids": [], "context": row["answers"]} for row in questions]
    write_rows(unanswered, tmp_path / "plain.jsonl")
    (tmp_path / "documents").mkdir()
    for row in passages:
        (tmp_path / "documents" / f"{row['id']}.txt").write_text(row["text"], encoding="utf-8")
    for name in ("passages", "train"):
        (tmp_path / "hub" / name).mkdir(parents=True)
        (tmp_path / "hub" / name / "train.jsonl").write_bytes(
            (tmp_path / "jsonl" / f"{name}.jsonl").read_bytes()
        )
    return tmp_path


def make_option(shape: str, home: Path, preparation: Preparation):
    plain, hub = str(home / "plain.jsonl"), home / "hub"
    if shape == "documents":
        documents = str(home / "documents")
        return Files(train=plain, passages=documents, preparation=preparation)
    if shape == "contexts":
        columns = QuestionColumns(context="context", join_contexts=False)
        return Files(train=plain, columns=columns, preparation=preparation)
    if shape == "hub":
        source = HubPassages(dataset=str(hub / "passages"))
        return Hub(dataset=str(hub / "train"), passages=source, preparation=preparation)
    if shape == "mixture":
        parts = {name: make_option(name, home, preparation) for name in ("csv", "contexts")}
        return Mixture(parts=parts)
    return Folder(path=str(home / shape), preparation=preparation)


def load(option, home: Path) -> PreparedData:
    return option.load(Runtime(cache_dir=home / "cache"))


@pytest.mark.parametrize("preparation", [Preparation(), CHUNKS], ids=["whole", "chunks"])
@pytest.mark.parametrize(
    "shape", ["jsonl", "csv", "parquet", "documents", "contexts", "hub", "mixture"]
)
def test_files_in_between_change_nothing(shape, preparation, home, request):
    option = make_option(shape, home, preparation)
    expected = load(option, home)
    files = request.getfixturevalue("small_batches")
    found = load(option, home)
    assert files
    assert fingerprint(found) == fingerprint(expected)
    assert found.notes == expected.notes
    if shape in ("csv", "parquet"):
        assert fingerprint(found) == fingerprint(
            load(make_option("jsonl", home, preparation), home)
        )


def test_the_files_in_between_have_no_name(home, small_batches):
    data = load(make_option("csv", home, CHUNKS), home)
    assert len(small_batches) == 3  # read, cleaned, chunked
    assert list((home / "cache").iterdir()) == []
    assert any("#" in name for name in data.passages["id"])


def test_where_the_cache_takes_no_file_another_place_does(home, small_batches, caplog):
    (home / "cache").write_text("a file")
    option = make_option("csv", home, Preparation())
    with caplog.at_level(logging.WARNING):
        data = load(option, home)
    assert len(data.passages) > 0
    (warning,) = [r.getMessage() for r in caplog.records if "prepared elsewhere" in r.getMessage()]
    assert str(home / "cache") in warning


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_a_repeated_id_is_refused_with_both_places(suffix, home, small_batches):
    passages, _ = make_rows(20)
    passages[17]["id"] = passages[2]["id"]
    file = home / suffix / f"passages.{suffix}"
    write_rows(passages, file)
    first, second = {"jsonl": (3, 18), "csv": (4, 19), "parquet": ("row 3", "row 18")}[suffix]
    with pytest.raises(UserError) as caught:
        load(Folder(path=str(home / suffix), unknown_passage_ids="drop"), home)
    assert caught.value.problems == (f"{file}:{second}:id: 'p2' is also the id of {file}:{first}",)


def test_bytes_that_are_no_text_are_named_by_line_and_position(home):
    file = home / "csv" / "passages.csv"
    content = b"id,title,text\r\np0,,x\r\np1,,M\xf6\r\n"
    for mark in (b"", b"\xef\xbb\xbf"):
        file.write_bytes(mark + content)
        with pytest.raises(UserError) as caught:
            load(make_option("csv", home, Preparation()), home)
        reason = "byte 0xf6 at position 28 is not UTF-8; save the file as UTF-8"
        assert caught.value.problems == (f"{file}:3: {reason}",)


# --- What stays in memory ----------------------------------------------------------------------

MIB = 1 << 20
LONG = 100_000
"""Characters of a text; 200 of them are 19 MiB."""

ROOM = 14
"""MiB that reading and preparing them may take."""


@contextmanager
def watch() -> Iterator[dict[str, float]]:
    """Give the most memory that a block took, of Python's and of Arrow's, in MiB."""
    usual, most = pa.default_memory_pool(), {}
    pool = pa.proxy_memory_pool(usual)
    pa.set_memory_pool(pool)
    tracemalloc.start()
    try:
        yield most
        most |= {"python": tracemalloc.get_traced_memory()[1] / MIB}
        most |= {"arrow": pool.max_memory() / MIB}
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(usual)


@pytest.fixture
def small_room(monkeypatch):
    monkeypatch.setattr(stored, "CHARACTERS", MIB)
    monkeypatch.setattr(stored, "IN_MEMORY", MIB)
    monkeypatch.setattr(stored, "BATCH", 4)


def make_long(folder: Path, suffix: str, gold: str | None = None) -> None:
    """A folder of long passages, and of questions with answers, and perhaps with gold passages."""
    folder.mkdir(exist_ok=True)
    word = "protein" * 20  # few words, as each is an object for a while
    text = f"{word} " * (LONG // (len(word) + 1))
    rows = [{"id": f"p{i}", "text": f"{text} number {i}"} for i in range(200)]
    write_rows(rows, folder / f"passages.{suffix}")
    questions = [
        {"id": f"q{i}", "question": f"{i}?", "answers": f"number {i}", "passage_ids": gold}
        for i in range(4)
    ]
    write_rows(questions, folder / "train.jsonl")


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_texts_do_not_stay_in_memory(suffix, tmp_path, small_room):
    make_long(tmp_path / "data", suffix)
    chunks = Chunk(unit="words", size=500, overlap=0)
    path = str(tmp_path / "data")
    option = Folder(path=path, preparation=Preparation(chunk=chunks))
    with watch() as most:
        data = load(Mixture(parts={"a": option}), tmp_path)
    assert sum(map(len, data.passages["text"])) > 200 * 0.98 * LONG
    gold = {q.id: q.passage_ids for q in data.train}
    assert gold["a/q3"] == ("a/p3#1",)
    assert most["python"] < ROOM
    assert most["arrow"] < ROOM


def test_texts_of_documents_and_contexts_do_not_stay_in_memory(tmp_path, small_room):
    make_long(tmp_path / "data", "jsonl", gold="p0.txt")
    (tmp_path / "documents").mkdir()
    rows = [json.loads(line) for line in (tmp_path / "data/passages.jsonl").open()]
    for row in rows:
        (tmp_path / "documents" / f"{row['id']}.txt").write_text(row["text"])
    asked = [
        {"id": r["id"], "question": f"{r['id']}?", "answers": "x", "context": r["text"]}
        for r in rows
    ]
    write_rows(asked, tmp_path / "asked.jsonl")
    del rows, asked
    questions = str(tmp_path / "data" / "train.jsonl")
    whole = Preparation(max_words=10**6)
    columns = QuestionColumns(context="context")
    for option in (
        Files(train=questions, passages=str(tmp_path / "documents"), preparation=whole),
        Files(train=str(tmp_path / "asked.jsonl"), columns=columns, preparation=whole),
    ):
        with watch() as most:
            data = load(option, tmp_path)
        assert len(data.passages) == 200
        assert most["python"] < ROOM
        assert most["arrow"] < ROOM


def test_what_coverage_reads_does_not_stay_in_memory(tmp_path, small_room):
    make_long(tmp_path / "data", "jsonl", gold="p0")
    data = load(Folder(path=str(tmp_path / "data")), tmp_path)
    asked = PreparedData(data.passages, (), (), data.train, "annotated")
    with watch() as most:
        found = locate_answers(asked)
        measured = measure_passages(data.passages)
    assert found == {q.id: (f"p{q.id[1:]}",) for q in data.train}
    assert measured["passages"] == 200
    assert most["python"] < ROOM
    assert most["arrow"] < ROOM
