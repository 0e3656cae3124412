"""Documents with summaries: read, checked, and made into what is retrieved for them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rag_experiments.contracts import PreparedData, Runtime, UserError
from rag_experiments.data import chunking
from rag_experiments.data.documents import DocumentColumns
from rag_experiments.data.files import Files
from rag_experiments.data.fingerprint import fingerprint
from rag_experiments.data.folder import Folder
from rag_experiments.data.hub import Hub, HubSplits
from rag_experiments.data.preparation import Chunk, Limit, Preparation

SENTENCES = Chunk(unit="sentences", size=1, overlap=0)
TRAIN = [
    {
        "id": "a",
        "title": "On yeast",
        "document": "Yeast makes ethanol.\n\nIt needs no oxygen. It  likes sugar.",
        "summaries": ["Yeast ferments."],
    },
    {"id": "b", "document": "Phages kill cells. So do toxins.", "summaries": "Phages and toxins."},
    {"id": "c", "title": "", "document": "Cells divide.", "summaries": ["Cells make two of one."]},
]
TEST = [
    {
        "id": "t",
        "title": "On plasmids",
        "document": "A plasmid is a ring. It carries genes.",
        "summaries": ["Plasmids carry genes.", "Rings of DNA."],
    }
]


def write(path: Path, **files: list) -> Path:
    path.mkdir(exist_ok=True)
    for name, records in {"train": TRAIN, "validation": [], "test": TEST, **files}.items():
        text = "".join(json.dumps(record) + "\n" for record in records)
        (path / f"{name}.jsonl").write_text(text, "utf-8")
    return path


def load(source) -> PreparedData:
    assert source.problems() == []
    return source.load(Runtime(cache_dir=Path("unused")))


def problems_of(source) -> list[str]:
    with pytest.raises(UserError) as caught:
        load(source)
    return list(caught.value.problems)


def chunked(path: Path, **fields) -> Folder:
    return Folder(path=str(path), preparation=Preparation(chunk=SENTENCES), **fields)


def test_a_document_becomes_a_question_that_is_bound_to_its_own_passages(tmp_path):
    data = load(chunked(write(tmp_path)))
    assert data.passages.column_names == ["id", "title", "text", "document_id"]
    rows = zip(*(data.passages[c] for c in ("id", "text", "document_id")), strict=True)
    assert list(rows) == [
        ("a#0", "Yeast makes ethanol.", "a"),
        ("a#1", "It needs no oxygen.", "a"),
        ("a#2", "It likes sugar.", "a"),
        ("b#0", "Phages kill cells.", "b"),
        ("b#1", "So do toxins.", "b"),
        ("c", "Cells divide.", "c"),
        ("t#0", "A plasmid is a ring.", "t"),
        ("t#1", "It carries genes.", "t"),
    ]
    assert data.gold == "none"
    (test,) = data.test
    assert (test.question, test.query) == ("On plasmids", "On plasmids")
    assert test.answers == ("Plasmids carry genes.", "Rings of DNA.")
    assert (test.within, test.without) == ("t", "")
    assert test.document == "A plasmid is a ring. It carries genes."
    # Without a title, the first sentence stands in.
    assert [d.question for d in data.train] == ["On yeast", "Phages kill cells.", "Cells divide."]
    assert any("2 documents without a title: the first sentence" in note for note in data.notes)
    assert "4 documents in 8 passages, 1 to 3 each; 1 are one passage" in "\n".join(data.notes)


def test_the_length_asked_for_is_the_median_and_never_that_of_a_test_summary(tmp_path):
    folder = write(tmp_path)
    data = load(Folder(path=str(folder)))
    assert [d.words for d in data.train] == [2, 3, 5]  # what their own summaries have
    assert [d.words for d in data.test] == [3]  # the median, though it has 3 and 3 words itself
    longer = [{**TEST[0], "summaries": ["one two three four five six seven"]}]
    assert load(Folder(path=str(write(tmp_path, test=longer)))).test[0].words == 3
    chosen = load(Folder(path=str(folder), summary_words=40))
    assert [d.words for d in (*chosen.train, *chosen.test)] == [2, 3, 5, 40]
    # Of all training documents, so that a learning curve asks for one length.
    limited = Preparation(limit=Limit(train=1))
    assert load(Folder(path=str(folder), preparation=limited)).test[0].words == 3
    write(tmp_path, train=[])
    assert load(Folder(path=str(folder))).test[0].words == 0


def test_training_documents_become_examples_that_are_not_shown_to_themselves(tmp_path):
    again = {**TEST[0], "id": "same", "title": "On YEAST again", "document": TRAIN[0]["document"]}
    data = load(Folder(path=str(write(tmp_path, test=[*TEST, again])), scope="examples"))
    assert data.passages[0] == {
        "id": "a",
        "title": "On yeast",
        "text": "Yeast makes ethanol. It needs no oxygen. It likes sugar.",
        "document_id": "a",
        "summary": "Yeast ferments.",
    }
    assert data.passages["id"][:] == ["a", "b", "c"]
    assert data.passages["title"][:] == ["On yeast", "", ""]  # a first sentence is no title
    assert [d.without for d in data.train] == ["a", "b", "c"]
    # By the text: else the test document would be shown a summary of itself.
    assert [d.without for d in data.test] == ["", "a"]
    assert not any(d.within for d in (*data.train, *data.test))
    assert data.test[0].query == "On plasmids A plasmid is a ring. It carries genes."
    assert data.train[1].query == "Phages kill cells. So do toxins."
    assert any("1 document of train in test as well" in note for note in data.notes)


def test_repeated_examples_are_merged_and_kept_from_each_other(tmp_path):
    twice = [*TRAIN, {**TRAIN[0], "id": "a2"}]
    source = Folder(path=str(write(tmp_path, train=twice)), scope="examples")
    data = load(source)
    assert data.passages["id"][:] == ["a", "b", "c"]
    assert [d.without for d in data.train] == ["a", "b", "c", "a"]
    assert "1 duplicate example merged into the first." in data.notes
    kept = load(source.model_copy(update={"preparation": Preparation(deduplicate=False)}))
    assert kept.passages["document_id"][:] == ["a", "b", "c", "a"]


def test_what_has_no_effect_in_a_scope_is_said(tmp_path):
    folder = write(tmp_path)
    data = load(chunked(folder, scope="examples"))
    assert "chunk has no effect: examples and documents are read whole." in data.notes
    limited = Preparation(limit=Limit(passages=1))
    data = load(Folder(path=str(folder), preparation=limited))
    assert len(data.passages) == 4
    assert any(note.startswith("limit.passages has no effect") for note in data.notes)
    data = load(Folder(path=str(folder), preparation=limited, scope="examples"))
    assert len(data.passages) == 1
    assert "limited to 1 of 3 examples." in data.notes


def test_paragraphs_are_chunks_and_the_rest_stays_one_line(tmp_path):
    text = "One.\n \nTwo\nlines.\n\n\n Three. "
    assert [text[a:b] for a, b in chunking.find_paragraphs(text)] == [
        "One.",
        "Two\nlines.",
        "Three.",
    ]
    assert chunking.find_paragraphs(" \n\n ") == []
    paragraphs = Preparation(chunk=Chunk(unit="paragraphs", size=1, overlap=0))
    data = load(Folder(path=str(write(tmp_path)), preparation=paragraphs))
    assert data.passages["text"][:2] == [
        "Yeast makes ethanol.",
        "It needs no oxygen. It likes sugar.",
    ]
    pairs = Preparation(chunk=Chunk(unit="paragraphs", size=2, overlap=0))
    data = load(Folder(path=str(tmp_path), preparation=pairs))
    assert data.passages["text"][0].count("\n\n") == 1


def test_files_and_the_hub_read_documents_through_a_column_map(tmp_path):
    records = [
        {"paper": {"key": i, "name": f"T{i}"}, "source": ["First.", "Second."], "target": ["S."]}
        for i in range(8)
    ]
    (tmp_path / "papers.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    columns = DocumentColumns(
        id="paper.key", title="paper.name", document="source", summaries="target"
    )
    file = str(tmp_path / "papers.jsonl")
    data = load(Files(train=file, columns=columns, test_fraction=0.3))
    (first, *_) = sorted((*data.train, *data.validation, *data.test), key=lambda d: d.id)
    assert (first.id, first.question, first.document) == ("0", "T0", "First. Second.")
    assert len(data.train) + len(data.validation) + len(data.test) == 8
    hub = Hub(
        dataset=str(write(tmp_path / "d")),
        columns=DocumentColumns(),
        splits=HubSplits(train="train", test="test"),
        validation_fraction=0,
    )
    assert [d.id for d in load(hub).test] == ["t"]
    local = Hub(dataset="some/papers", columns=columns, path=str(tmp_path / "d"))
    assert fingerprint(load(local)) == fingerprint(load(Folder(path=str(tmp_path / "d"))))


def test_a_csv_of_documents(tmp_path):
    (tmp_path / "papers.csv").write_text(
        'Document,Summary\n"One | two. Three.",Short.|Brief.\nFour.,Five.\nFour.,Six.\n'
    )
    columns = DocumentColumns(id=None, title=None, document="Document", summaries="Summary")
    source = Files(
        train=str(tmp_path / "papers.csv"), columns=columns, test_fraction=0, validation_fraction=0
    )
    first, second, third = load(source).train
    assert first.document == "One | two. Three."  # one text, whatever is in it
    assert first.answers == ("Short.", "Brief.")
    assert third.id == f"{second.id}-2"


def test_what_is_wrong_with_a_record_is_named_by_file_line_and_field(tmp_path):
    broken = [
        {"id": "x", "document": " ", "summaries": ["s"]},
        {"id": "x1", "document": "d", "summaries": []},
        {"id": "x2", "document": ["d", 3], "summaries": ["s"]},
        {"id": "x3", "summaries": ["s"]},
        {"id": "x4", "document": "d", "summaries": [""]},
        {"id": "a", "document": "d", "summaries": ["s"]},
    ]
    found = problems_of(Folder(path=str(write(tmp_path, test=[*TEST, *broken]))))
    place = f"{tmp_path}/test.jsonl"
    assert found[0].startswith(f"{place}:2:document: ' ' is empty; legal: a text")
    assert found[1] == f"{place}:3:summaries: [] is empty; legal: one summary or more"
    assert found[2].startswith(f"{place}:4:document: ['d', 3] is of type list")
    assert found[3].startswith(f"{place}:5:document: the field is missing")
    assert found[4].startswith(f"{place}:6:summaries: '' is empty")
    assert found[5] == f"{place}:7:id: 'a' is also the id of {tmp_path}/train.jsonl:1"


def test_what_does_not_go_with_documents_is_refused(tmp_path):
    folder = write(tmp_path)
    (tmp_path / "passages.jsonl").write_text('{"id": "p", "text": "x"}\n')
    given = Folder(path=str(folder), passages=str(tmp_path / "passages.jsonl"))
    (line,) = problems_of(given)
    assert line.startswith("data.passages: '")
    assert "bring their own; set null" in line
    (tmp_path / "passages.jsonl").unlink()
    (line,) = problems_of(Folder(path=str(write(tmp_path, train=[])), scope="examples"))
    assert line.startswith("data.scope: 'examples' shows documents of the train split")
    clash = [*TRAIN, {"id": "a#0", "document": "d", "summaries": ["s"]}]
    (line,) = problems_of(chunked(write(tmp_path, train=clash)))
    assert "'a#0' is that of a document and of a passage of 'a'" in line


def test_what_does_not_go_with_questions_is_refused(tmp_path):
    question = [{"id": "q", "question": "?", "answers": ["a"]}]
    write(tmp_path, train=question, test=[{**question[0], "id": "q2"}])
    (tmp_path / "passages.jsonl").write_text('{"id": "p", "text": "x"}\n')
    source = Folder(path=str(tmp_path), scope="examples", summary_words=3)
    first, second = problems_of(source)
    assert first.startswith("data.scope: 'examples' is for documents with summaries")
    assert second.startswith("data.summary_words: 3 is for documents")


def test_a_folder_without_passages_that_holds_no_documents_is_refused_as_before(tmp_path):
    write(tmp_path, train=[{"id": "q", "question": "?", "answers": ["a"]}])
    (line,) = Folder(path=str(tmp_path)).problems()
    assert "holds no passages.jsonl" in line


def test_the_fingerprint_follows_summaries_of_examples_and_the_scope(tmp_path):
    folder = write(tmp_path)
    sources = [Folder(path=str(folder)), Folder(path=str(folder), scope="examples")]
    before = [fingerprint(load(source)) for source in sources]
    assert before[0] != before[1]
    write(tmp_path, train=[{**TRAIN[0], "summaries": ["Other."]}, *TRAIN[1:]])
    assert [fingerprint(load(source)) for source in sources] != before
