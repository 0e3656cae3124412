"""Records are read, checked, and every problem is named by file, line and field."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rag_experiments.contracts import PreparedData, Question, Runtime, UserError
from rag_experiments.data.bio_qa import FOLDER, BioQA
from rag_experiments.data.fields import get_field, is_absent
from rag_experiments.data.files import Files
from rag_experiments.data.fingerprint import fingerprint
from rag_experiments.data.folder import Folder
from rag_experiments.data.problems import Problems
from rag_experiments.data.records import Located, PassageColumns, QuestionColumns
from rag_experiments.data.splits import assign_splits

PASSAGES = [
    {"id": "p1", "title": "Taq", "text": "Taq polymerase comes from Thermus aquaticus."},
    {"id": "p2", "title": "", "text": "Pfu polymerase proofreads."},
    {"id": "p3", "text": "Insulin is made in Escherichia coli."},
]
QUESTIONS = [
    {"id": "q1", "question": "Where is Taq from?", "answers": ["Thermus aquaticus"]},
    {"id": "q2", "question": "What does Pfu do?", "answers": "proofreads", "passage_ids": ["p2"]},
]


def write_lines(path: Path, records: list) -> Path:
    lines = [r if isinstance(r, str) else json.dumps(r, ensure_ascii=False) for r in records]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def write_folder(path: Path, **files: list) -> Path:
    path.mkdir(exist_ok=True)
    test = [{"id": "q9", "question": "Host of insulin?", "answers": ["E. coli"]}]
    content = {"passages": PASSAGES, "train": QUESTIONS, "validation": [], "test": test, **files}
    for name, records in content.items():
        write_lines(path / f"{name}.jsonl", records)
    return path


def load(source, tmp_path: Path) -> PreparedData:
    assert source.problems() == []
    return source.load(Runtime(cache_dir=tmp_path / "cache"))


def problems_of(source, tmp_path: Path) -> list[str]:
    with pytest.raises(UserError) as caught:
        load(source, tmp_path)
    return [line.replace(f"{tmp_path}/", "") for line in caught.value.problems]


def test_folder_reads_the_layout(tmp_path):
    data = load(Folder(path=str(write_folder(tmp_path / "d"))), tmp_path)
    assert data.passages.column_names == ["id", "title", "text", "document_id"]
    assert data.passages[2] == {
        "id": "p3",
        "title": "",
        "text": "Insulin is made in Escherichia coli.",
        "document_id": "p3",
    }
    assert data.train == (
        Question("q1", "Where is Taq from?", ("Thermus aquaticus",)),
        Question("q2", "What does Pfu do?", ("proofreads",), ("p2",)),
    )
    assert data.validation == ()
    assert data.gold == "annotated"
    assert "2 of 3 questions have no gold passage; retrieval is scored without them." in data.notes


def test_byte_order_mark_windows_line_ends_and_blank_lines_are_fine(tmp_path):
    folder = write_folder(tmp_path / "d")
    plain = load(Folder(path=str(folder)), tmp_path)
    for file in folder.iterdir():
        text = file.read_text(encoding="utf-8").replace("\n", "\r\n\r\n")
        file.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert fingerprint(load(Folder(path=str(folder)), tmp_path)) == fingerprint(plain)


def test_every_problem_is_reported_at_once_with_file_line_and_field(tmp_path):
    folder = write_folder(
        tmp_path / "d",
        passages=[
            *PASSAGES,
            {"id": "p1", "text": "again"},
            {"id": "p5", "text": "  "},
            {"id": ["p6"], "text": "x"},
        ],
        train=[
            '{"id": "q1", "question": ',
            {"id": "q2", "question": "What?", "answer": ["x"]},
            {"id": "q3", "question": 7, "answers": ["x"]},
            {"id": "q4", "question": "Who?", "answers": ["x", None, " "]},
            ["q5"],
        ],
    )
    assert problems_of(Folder(path=str(folder)), tmp_path) == [
        "d/passages.jsonl:4:id: 'p1' is also the id of d/passages.jsonl:1",
        "d/passages.jsonl:5:text: '  ' is empty; legal: a text that is not empty",
        "d/passages.jsonl:6:id: ['p6'] is of type list; legal: a string or a whole number",
        "d/train.jsonl:1: not JSON: Expecting value at column 25",
        "d/train.jsonl:2:answers: the field is missing; did you mean 'answer'? "
        "there are: id, question, answer",
        "d/train.jsonl:3:question: 7 is of type int; legal: a text that is not empty",
        "d/train.jsonl:4:answers: null; legal: a text or a list of texts",
        "d/train.jsonl:4:answers: ' ' is empty; legal: a text or a list of texts",
        "d/train.jsonl:5: ['q5'] is not a JSON object; legal: {...}",
    ]


def test_the_list_of_problems_is_capped_and_the_rest_counted(tmp_path):
    bad = [{"id": f"q{i}", "question": "", "answers": ["x"]} for i in range(33)]
    lines = problems_of(Folder(path=str(write_folder(tmp_path / "d", train=bad))), tmp_path)
    assert len(lines) == 21
    assert lines[-1] == "and 13 more problems in the data; mend these first"


def test_unknown_gold_ids_are_refused_or_dropped_and_counted(tmp_path):
    train = [{"id": "q1", "question": "a?", "answers": ["x"], "passage_ids": ["p1", "pp2"]}]
    folder = str(write_folder(tmp_path / "d", train=train))
    (line,) = problems_of(Folder(path=folder), tmp_path)
    assert line.startswith(
        "d/train.jsonl:1:passage_ids: 'pp2' is no id of a passage; there are: p1"
    )
    data = load(Folder(path=folder, unknown_passage_ids="drop"), tmp_path)
    assert data.train[0].passage_ids == ("p1",)
    assert "1 gold id dropped that no passage has." in data.notes


def test_an_id_in_two_splits_is_refused(tmp_path):
    folder = write_folder(tmp_path / "d", test=QUESTIONS[:1])
    (line,) = problems_of(Folder(path=str(folder)), tmp_path)
    assert line == "d/test.jsonl:1:id: 'q1' is also the id of d/train.jsonl:1"


def test_bytes_that_are_not_utf8_are_placed(tmp_path):
    folder = write_folder(tmp_path / "d")
    with (folder / "train.jsonl").open("ab") as file:
        file.write('{"id": "q3", "question": "é?", "answers": ["x"]}\n'.encode("latin-1"))
    (line,) = problems_of(Folder(path=str(folder)), tmp_path)
    assert line == (
        "d/train.jsonl:3: byte 0xe9 at position 27 is not UTF-8; save the file as UTF-8"
    )


def test_a_json_list_is_recognized(tmp_path):
    folder = write_folder(tmp_path / "d", train=[json.dumps(QUESTIONS, indent=1)])
    (line,) = problems_of(Folder(path=str(folder)), tmp_path)
    assert line == (
        "d/train.jsonl:1: starts a JSON list; legal: JSON lines, that is one object a line"
    )


def test_what_spoils_every_line_is_said_once(tmp_path):
    folder = write_folder(tmp_path / "d", train=[json.dumps(QUESTIONS[0], indent=1)])
    (folder / "test.jsonl").write_bytes("\n".join(["{}"] * 9).encode("utf-16"))
    assert problems_of(Folder(path=str(folder)), tmp_path) == [
        "d/train.jsonl:1: starts an object that goes over several lines; legal: JSON lines, that "
        "is one object a line",
        "d/test.jsonl:1: byte 0xff at position 1 is not UTF-8; save the file as UTF-8",
    ]


def test_half_of_a_character_is_refused_and_a_whole_one_is_read(tmp_path):
    half = r'{"id": "a", "question": "\ud83e?", "answers": ["x"], "passage_ids": ["p2"]}'
    whole = r'{"id": "b", "question": "\ud83e\uddec?", "answers": ["x"], "passage_ids": ["p2"]}'
    folder = write_folder(tmp_path / "d", train=[half, whole])
    assert problems_of(Folder(path=str(folder)), tmp_path) == [
        r"d/train.jsonl:1: half of a character (\ud800 to \udfff alone) is not a text"
    ]
    write_lines(folder / "train.jsonl", [whole])
    assert load(Folder(path=str(folder)), tmp_path).train[0].question == "\U0001f9ec?"


def test_an_empty_knowledge_source_is_one_problem(tmp_path):
    folder = write_folder(tmp_path / "d", passages=[])
    assert problems_of(Folder(path=str(folder)), tmp_path) == [
        "d/passages.jsonl: there is no passage in it"
    ]


def test_csv_of_a_spreadsheet_says_how_it_can_be_read(tmp_path):
    questions = [f"{i}?;x" for i in range(20)]
    write_lines(tmp_path / "q.csv", ["question;answers", *questions])
    write_lines(tmp_path / "p.csv", ["id;title;text", "p1;Taq;Taq polymerase is x."])
    paths = {"train": f"{tmp_path}/q.csv", "passages": f"{tmp_path}/p.csv"}
    assert problems_of(Files(**paths), tmp_path) == [
        f"{name}:1: {header!r} is one column; legal: columns divided by ',', or set "
        "data.delimiter='\";\"' (data=files)"
        for name, header in (("q.csv", "question;answers"), ("p.csv", "id;title;text"))
    ]
    assert problems_of(Files(**paths, delimiter=";"), tmp_path) == [
        "q.csv:id: no such column; there are: question, answers (id=null in the map of columns "
        "makes ids of the content)"
    ]
    data = load(Files(**paths, delimiter=";", columns=QuestionColumns(id=None)), tmp_path)
    assert data.gold == "answer_match"
    assert len(data.train) + len(data.validation) + len(data.test) == 20


def test_fields_that_are_not_used_are_named_with_a_hint(tmp_path):
    train = [{**QUESTIONS[0], "passage_id": ["p1"], "source": "x"}]
    data = load(Folder(path=str(write_folder(tmp_path / "d", train=train))), tmp_path)
    (note,) = [note for note in data.notes if "not used" in note]
    assert note.endswith(
        "fields that are not used: passage_id (did you mean passage_ids?), source."
    )


def test_paths_are_checked_before_anything_is_read(tmp_path):
    folder = write_folder(tmp_path / "data")
    (line,) = Folder(path=str(tmp_path / "dat")).problems()
    assert line.startswith(f"path: '{tmp_path}/dat' does not exist; in '{tmp_path}'")
    assert "did you mean 'data'?" in line
    (line,) = Folder(path=str(folder / "train.jsonl")).problems()
    assert "is a file; a folder is expected" in line
    (line,) = Folder(path=str(folder), passages=str(folder / "passages.txt")).problems()
    assert line.startswith("passages: ")
    assert "did you mean 'passages.jsonl'?" in line
    (folder / "passages.jsonl").unlink()
    (line,) = Folder(path=str(folder)).problems()
    assert "holds no passages.jsonl" in line
    assert len(Files(train=str(folder), columns=QuestionColumns()).problems()) == 2
    assert Files(passages=str(folder / "test.jsonl")).problems() == [
        "train: null, and test too; legal: the path of a file in one of them"
    ]


def test_one_collection_serves_several_question_sets(tmp_path):
    other = write_lines(tmp_path / "other.csv", ["key,body", "007,Taq is from Thermus aquaticus."])
    folder = write_folder(tmp_path / "d", train=QUESTIONS[:1])
    (folder / "passages.jsonl").unlink()
    source = Folder(
        path=str(folder),
        passages=str(other),
        passage_columns=PassageColumns(id="key", text="body"),
    )
    data = load(source, tmp_path)
    assert data.passages["id"][:] == ["007"]  # an id stays text
    assert data.gold == "answer_match"
    assert data.train[0].passage_ids == ("007",)
    whole_folder = write_folder(tmp_path / "whole")
    data = load(Folder(path=str(folder), passages=str(whole_folder)), tmp_path)
    assert len(data.passages) == 3


def test_csv_cells_hold_lists_and_lines_are_counted_over_line_breaks(tmp_path):
    write_lines(
        tmp_path / "train.csv",
        [
            "Q,A,gold,nr",
            'What?,"[""x, y"", ""z""]",p1|p2,01',
            '"Two\nlines?",a|b,,02',
            "How?,[18F]FDG,[p1],3",
        ],
    )
    passages = write_lines(
        tmp_path / "p.jsonl", [*PASSAGES, {"id": "[p1]", "text": "Brackets in the id."}]
    )
    columns = QuestionColumns(id="nr", question="Q", answers="A", passage_ids="gold")
    source = Files(
        train=str(tmp_path / "train.csv"),
        passages=str(passages),
        columns=columns,
        validation_fraction=0,
        test_fraction=0,
    )
    data = load(source, tmp_path)
    assert data.train == (
        Question("01", "What?", ("x, y", "z"), ("p1", "p2")),
        Question("02", "Two lines?", ("a", "b")),
        Question("3", "How?", ("[18F]FDG",), ("[p1]",)),
    )
    with (tmp_path / "train.csv").open("a") as file:
        file.write(",x,,04\nWhy?,x,05\n")
    assert problems_of(source, tmp_path) == [
        "train.csv:6:Q: '' is empty; legal: a text that is not empty",
        "train.csv:7: 3 cells; legal: 4, as in the first line",
    ]


def test_a_missing_csv_column_is_named_once(tmp_path):
    write_lines(tmp_path / "train.csv", ["id;question;answer", *["1;a?;x"] * 30])
    passages = write_lines(tmp_path / "p.jsonl", PASSAGES)
    source = Files(train=str(tmp_path / "train.csv"), passages=str(passages), delimiter=";")
    assert problems_of(source, tmp_path) == [
        "train.csv:answers: no such column; did you mean 'answer'? there are: id, question, answer"
    ]
    named = QuestionColumns(answers="answer", passage_ids="gold")
    assert problems_of(source.model_copy(update={"columns": named}), tmp_path) == [
        "train.csv:gold: no such column; there are: id, question, answer"
    ]
    write_lines(tmp_path / "train.jsonl", QUESTIONS)
    lines = Files(
        train=f"{tmp_path}/train.jsonl",
        passages=str(passages),
        columns=QuestionColumns(group="set"),
    )
    assert problems_of(lines, tmp_path) == [
        "train.jsonl:set: no record has this field; there are: id, question, answers, passage_ids"
    ]


def test_parquet_with_nested_columns(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {"qid": 5, "text": "a?", "answers": {"text": ["x", "y"], "start": [1, 2]}},
        {"qid": 6, "text": "b?", "answers": {"text": ["z"], "start": [0]}},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    passages = write_lines(tmp_path / "p.jsonl", PASSAGES)
    columns = QuestionColumns(id="qid", question="text", answers="answers.text")
    source = Files(test=str(tmp_path / "t.parquet"), passages=str(passages), columns=columns)
    data = load(source, tmp_path)
    assert data.train == ()
    assert data.test == (Question("5", "a?", ("x", "y")), Question("6", "b?", ("z",)))
    (tmp_path / "t.parquet").write_bytes(b"no parquet")
    (line,) = problems_of(source, tmp_path)
    assert line.startswith("t.parquet: not a Parquet file")


def test_contexts_of_questions_become_passages(tmp_path):
    rows = [
        {"question": "a?", "answers": "x", "context": "Shared text x."},
        {"question": "b?", "answers": "y", "context": ["Shared text x.", "Own text y."]},
        {"question": "b?", "answers": "y", "context": "Third."},
    ]
    columns = QuestionColumns(id=None, context="context", join_contexts=False)
    source = Files(
        train=str(write_lines(tmp_path / "t.jsonl", rows)),
        columns=columns,
        validation_fraction=0,
        test_fraction=0,
    )
    data = load(source, tmp_path)
    assert data.gold == "annotated"
    assert data.passages["text"][:] == ["Shared text x.", "Own text y.", "Third."]
    first, second, third = data.train
    assert second.passage_ids == (first.passage_ids[0], f"{second.id}-1")
    assert third.id == f"{second.id}-2"  # the same question twice: ids stay apart
    joined = columns.model_copy(update={"join_contexts": True})
    data = load(source.model_copy(update={"columns": joined}), tmp_path)
    assert data.passages["text"][1] == "Shared text x. Own text y."


def test_missing_splits_are_taken_from_train_and_stay_stable(tmp_path):
    def split(count: int) -> dict[str, set[str]]:
        rows = [{"id": i, "question": f"{i}?", "answers": ["x"]} for i in range(count)]
        train = write_lines(tmp_path / "t.jsonl", rows[::-1])
        passages = write_lines(tmp_path / "p.jsonl", PASSAGES)
        data = load(Files(train=str(train), passages=str(passages)), tmp_path)
        return {
            name: {q.id for q in getattr(data, name)} for name in ("train", "validation", "test")
        }

    small, large = split(500), split(1000)
    assert sum(map(len, large.values())) == 1000
    assert 70 < len(large["validation"]) < 130  # a tenth
    assert 160 < len(large["test"]) < 240  # a fifth
    for name in small:
        assert small[name] < large[name]


def test_fractions_leave_something_to_train_on():
    with pytest.raises(ValueError, match=r"leaves nothing to train on; legal: less than 1"):
        Files(validation_fraction=0.5, test_fraction=0.5)


def test_bio_qa_reads_groups_from_the_package(tmp_path, monkeypatch):
    assert FOLDER.parent.name == "data"
    test = [{**QUESTIONS[0], "id": "q9", "group": "held_out_passage"}]
    folder = write_folder(tmp_path / "bio_qa", test=test)
    monkeypatch.setattr("rag_experiments.data.bio_qa.FOLDER", folder)
    assert load(BioQA(), tmp_path).test[0].group == "held_out_passage"
    (folder / "passages.jsonl").unlink()
    (line,) = BioQA().problems()
    assert line.startswith("bio_qa: ")
    assert line.endswith("install the package again")


def test_fingerprint_follows_content_and_nothing_else(tmp_path):
    folder = write_folder(tmp_path / "d")
    before = fingerprint(load(Folder(path=str(folder)), tmp_path))
    moved = write_folder(tmp_path / "e", passages=[{**p, "extra": 1} for p in PASSAGES])
    assert fingerprint(load(Folder(path=str(moved)), tmp_path)) == before
    for change in (
        {"passages": [{**PASSAGES[0], "title": "taq"}, *PASSAGES[1:]]},
        {"train": QUESTIONS[:1], "test": QUESTIONS[1:]},
        {"train": [{**QUESTIONS[0], "group": "g"}, *QUESTIONS[1:]]},
    ):
        other = write_folder(tmp_path / "f", **change)
        assert fingerprint(load(Folder(path=str(other)), tmp_path)) != before


def test_dotted_paths():
    row = {"a": {"b": [{"c": 1}, {"c": 2}]}, "a.d": 3, "l": ["x"]}
    assert get_field(row, "a.b.c") == [1, 2]
    assert get_field(row, "a.b.1.c") == 2
    assert get_field(row, "a.d") == 3
    assert get_field(row, "l.0") == "x"
    for path in ("b", "a.x", "a.b.2.c", "a.b.x", "l.0.y"):
        assert is_absent(get_field(row, path))


def test_a_misspelled_field_of_a_column_map_is_refused():
    with pytest.raises(ValueError, match="tittle"):
        PassageColumns(tittle="x")
    with pytest.raises(ValueError, match="at least 1 character"):
        QuestionColumns(question="")


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_few_questions_leave_no_split_empty_by_chance(count):
    """At 10 and 20 percent a hash would often give small data no question to validate or test."""
    rows = [Located(f"row {i}", Question(f"q{i}", "Why?", ("so",))) for i in range(count)]
    fractions = {"validation": 1e-9, "test": 1e-9}
    splits, notes = assign_splits({"train": rows}, fractions, {}, Problems())
    sizes = {name: len(found) for name, found in splits.items()}
    drawn = {"test": min(1, count - 1), "validation": min(1, max(0, count - 2))}
    assert sizes == {"train": count - sum(drawn.values()), **drawn}
    assert sum("none fell to it, so one was drawn" in note for note in notes) == sum(drawn.values())
    again, _ = assign_splits({"train": rows[::-1]}, fractions, {}, Problems())
    assert [row.place for row in again["test"]] == [row.place for row in splits["test"]]
    none, _ = assign_splits({"train": rows}, dict.fromkeys(fractions, 0.0), {}, Problems())
    assert len(none["train"]) == count
