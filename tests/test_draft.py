"""Questions drafted on a folder of documents, judged in a table, and collected for training."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from rag_experiments.contracts import Answer, Passage, Runtime, UserError
from rag_experiments.data.files import Files
from rag_experiments.draft import __main__ as entry
from rag_experiments.draft import origins, sheet
from rag_experiments.draft.origins import asks_for, read_question
from rag_experiments.draft.passages import read_passages
from rag_experiments.spreadsheet import read_table, write_table

LIGASE = "DNA ligase is an enzyme that joins fragments of DNA."
PLASMID = "A plasmid is a small ring of DNA."
PEPSIN = "Proteins are broken by pepsin in the stomach of Claude Bernard within 30 minutes."
BROKEN = "What are Proteins broken by in the stomach of Claude Bernard within 30 minutes?"


@pytest.fixture
def documents(tmp_path) -> Path:
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / "dna.md").write_text(f"# DNA\n\nA heading that is none\n\n{LIGASE}\n\n{PLASMID}\n")
    (folder / "food.txt").write_text(PEPSIN)
    return folder


def run(*words: str, monkeypatch) -> int:
    monkeypatch.setattr(sys, "argv", ["draft", *words])
    try:
        entry.main()
    except SystemExit as ended:
        return int(ended.code or 0)
    finally:
        GlobalHydra.instance().clear()
    return 0


def judge(table: Path, *rows: dict[str, str]) -> None:
    """Fill in a table as a person does: `rows` are cells by column, from the first row on."""
    content = [*read_table(table, sheet.COLUMNS).values()]
    for row, cells in zip(content, rows, strict=False):
        row.update(cells)
    write_table(table, sheet.COLUMNS, content)


def test_documents_are_parted_into_paragraphs(documents):
    (documents / "long.txt").write_text(" ".join(f"Sentence {i} is here." for i in range(12)))
    read = read_passages(documents)
    assert [(p.id, p.title, p.text) for p in read.passages[:4]] == [
        ("dna.md", "DNA", "A heading that is none"),
        ("dna.md", "DNA", LIGASE),
        ("dna.md", "DNA", PLASMID),
        ("food.txt", "food", PEPSIN),
    ]
    assert [len(p.text.split(". ")) for p in read.passages[4:]] == [5, 5, 2]


def test_drafts_are_judged_and_train(documents, tmp_path, monkeypatch, capsys):
    table, output = tmp_path / "drafts.csv", tmp_path / "questions.jsonl"
    line = ["sheet", str(documents), "--output", str(table)]
    assert run(*line, monkeypatch=monkeypatch) == 0
    said = capsys.readouterr().out
    assert "2 documents in 4 passages" in said
    assert "rules: 4 questions, 4 of them find their passage among 3, 4 are in the table" in said
    assert table.read_bytes().startswith(b"\xef\xbb\xbfkeep,question,answer,passage_id,passage,")
    rows = [*read_table(table, sheet.COLUMNS).values()]
    assert [(row["question"], row["answer"], row["passage_id"]) for row in rows] == [
        ("What is DNA ligase?", "an enzyme that joins fragments of DNA", "dna.md"),
        ("Which enzyme joins fragments of DNA?", "DNA ligase", "dna.md"),
        ("What is a plasmid?", "a small ring of DNA", "dna.md"),
        (
            BROKEN,
            "pepsin",
            "food.txt",
        ),
    ]
    assert {row["keep"] for row in rows} == {""}
    assert rows[1]["passage"] == LIGASE
    assert rows[1]["origin"] == "rule: class"

    judge(
        table,
        {"keep": "no"},
        {"keep": "Yes ", "question": "Which  enzyme joins DNA?", "answer": "ligase"},
        {},
        {"keep": "yes"},
    )
    line = ["collect", str(table), "--output", str(output)]
    assert run(*line, monkeypatch=monkeypatch) == 0
    assert capsys.readouterr().out == f"2 questions in {output}; 1 dropped, 1 undecided\n"
    examples = [json.loads(text) for text in output.read_text("utf-8").splitlines()]
    assert [{**example, "id": ""} for example in examples] == [
        {
            "id": "",
            "question": "Which enzyme joins DNA?",
            "answers": ["ligase"],
            "passage_ids": ["dna.md"],
        },
        {
            "id": "",
            "question": BROKEN,
            "answers": ["pepsin"],
            "passage_ids": ["food.txt"],
        },
    ]
    source = Files(train=str(output), passages=str(documents), test_fraction=0)
    data = source.load(Runtime(cache_dir=tmp_path / "cache"))
    assert data.gold == "annotated"
    assert len(data.train) + len(data.validation) == 2


def test_nothing_is_overwritten(documents, tmp_path, monkeypatch, capsys):
    table = tmp_path / "drafts.csv"
    table.write_text("mine")
    line = ["sheet", str(documents), "--output", str(table)]
    assert run(*line, monkeypatch=monkeypatch) == 2
    assert capsys.readouterr().err == f"--output: {table} exists already; give a new file\n"
    assert table.read_text() == "mine"
    with pytest.raises(UserError, match="exists already"):
        sheet.collect(tmp_path / "gone.csv", table)


def test_rows_that_are_wrong_are_named(documents, tmp_path):
    table, output = tmp_path / "drafts.csv", tmp_path / "questions.jsonl"
    sheet.make(documents, table, 100, ["rules"], 3, [])
    judge(
        table,
        {"keep": "perhaps"},
        {"keep": "yes", "answer": "a polymerase"},
        {"keep": "yes", "question": " "},
        {"keep": "yes", "answer": ""},
    )
    with pytest.raises(UserError) as caught:
        sheet.collect(table, output)
    assert [line.replace(str(table), "") for line in caught.value.problems] == [
        ":row 2:keep: 'perhaps'; legal: yes, no, or empty",
        ":row 3:answer: 'a polymerase' does not stand in the passage; use its words, or write no "
        "under keep",
        ":row 4:question: is empty; write one, or no under keep",
        ":row 5:answer: is empty; write one, or no under keep",
    ]
    assert not output.exists()
    judge(table, *[{"keep": "yes", "question": "What?", "answer": "DNA"}] * 2, {"keep": ""}, {})
    with pytest.raises(UserError) as caught:
        sheet.collect(table, output)
    assert "row 3:question: is that of row 2 as well" in caught.value.problems[0]
    judge(table, *[{"keep": ""}] * 4)
    with pytest.raises(UserError, match="no row has yes under keep; 4 are undecided"):
        sheet.collect(table, output)


@pytest.mark.parametrize(
    "text",
    ["=1+1", "+49", "-20 °C", "@home", "'=1", "''-5", "'tis", "\t=1", "plain", 'a, "b"\n=c', ""],
    ids=repr,
)
def test_no_cell_is_a_formula_and_every_text_comes_back(text, tmp_path):
    file = tmp_path / "table.csv"
    write_table(file, ["a", "b"], [{"a": text, "b": "x"}])
    assert read_table(file, ["a", "b"]) == {2: {"a": text, "b": "x"}}
    with file.open(encoding="utf-8-sig", newline="") as opened:
        (_, (cell, _)) = list(csv.reader(opened))
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))


def test_a_table_that_a_program_saved_otherwise(tmp_path):
    file = tmp_path / "table.csv"
    file.write_text("a;b\n=1;x\n;y\n")  # as a person may type it
    assert read_table(file, ["a"]) == {2: {"a": "=1", "b": "x"}, 3: {"a": "", "b": "y"}}
    file.write_text('"sep=;"\na;b\n1,5;x\n\n3')  # the second row of three is empty
    assert read_table(file, ["a"]) == {2: {"a": "1,5", "b": "x"}, 4: {"a": "3", "b": ""}}
    with pytest.raises(UserError, match="columns are missing: c; legal: all of a, c"):
        read_table(file, ["a", "c"])
    file.write_text("")
    with pytest.raises(UserError, match="columns are missing: a"):
        read_table(file, ["a"])
    file.write_bytes("a,b\nMöhre,1\n".encode("latin-1"))
    with pytest.raises(UserError, match="save it as CSV in UTF-8"):
        read_table(file, ["a"])
    with pytest.raises(UserError, match=r"gone\.csv: cannot be read"):
        read_table(tmp_path / "gone.csv", ["a"])


def test_a_text_that_a_comma_has_cut_is_refused_by_its_row(tmp_path):
    file = tmp_path / "t.csv"
    file.write_text("a,b\n1,two,,\n3,In yeast, what?\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"row 3: has more cells .* ' what\?'; a text that has ','"):
        read_table(file, ["a", "b"])
    file.write_text("a,b\n1,two,,\n", encoding="utf-8")
    assert read_table(file, ["a", "b"]) == {2: {"a": "1", "b": "two"}}


def test_a_question_that_does_not_find_its_passage_is_left_out(tmp_path):
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / "other.txt").write_text("Plasmid after plasmid.")
    (folder / "ring.txt").write_text("A plasmid is a ring of DNA. It is used in many cells today.")
    notes = sheet.make(folder, tmp_path / "two.csv", 100, ["rules"], 2, [])
    assert notes[-1].startswith("rules: 1 question, 1 of them find their passage among 2, 1 are")
    with pytest.raises(UserError) as caught:
        sheet.make(folder, tmp_path / "one.csv", 100, ["rules"], 1, [])
    assert caught.value.problems[-2].startswith("rules: 1 question, 0 of them find their passage")
    assert "nothing was drafted" in caught.value.problems[-1]
    assert not (tmp_path / "one.csv").exists()


def test_at_most_so_many_questions_and_more_keep_them(documents, tmp_path):
    def questions(count: int) -> set[str]:
        table = tmp_path / f"{count}.csv"
        sheet.make(documents, table, count, ["rules"], 3, [])
        return {row["question"] for row in read_table(table, sheet.COLUMNS).values()}

    assert len(questions(2)) == 2
    assert questions(2 + 1) > questions_of(tmp_path / "2.csv")


def questions_of(table: Path) -> set[str]:
    return {row["question"] for row in read_table(table, sheet.COLUMNS).values()}


class _Model:
    """A generator that has been told what to write for each answer."""

    def __init__(self, texts: dict[str, str]):
        self.texts = texts
        self.shown: list[str] = []

    def answer(self, examples, progress):
        assert all(example.passages[0].text == PEPSIN for example in examples)
        self.shown = [example.question.question for example in examples]
        return [Answer(self.texts[answer]) for answer in self.shown]


def test_the_generator_writes_questions_for_answers_that_stand_there(monkeypatch):
    run = origins.compose_generator(["model/generator=tiny_causal"])
    GlobalHydra.instance().clear()
    assert run.model.generator.chat is False
    model = _Model(
        {
            "Claude Bernard\nQuestion:": 'Question: "In whose stomach are proteins broken?" Easy.',
            "30 minutes\nQuestion: How many minutes": " is it\nuntil proteins are broken?",
        }
    )
    monkeypatch.setattr(type(run.model), "load", lambda *_, **__: model)
    drafts = origins.draft_by_generator([Passage("food.txt", "", PEPSIN)], 5, run)
    assert sorted(model.shown) == sorted(model.texts)
    assert [(d.row, d.answer, d.question, d.origin) for d in drafts] == [
        (0, "Claude Bernard", "In whose stomach are proteins broken?", "generator")
    ]
    monkeypatch.setattr(origins, "ASKED", 1)
    origins.draft_by_generator([Passage("food.txt", "", PEPSIN)], 1, run)
    assert len(model.shown) == 1


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("1. What is it? A plasmid.", "What is it?"),
        ("\n\n**Question:** Who was it?", "Who was it?"),
        ("No question", "No question"),
        ("", ""),
    ],
)
def test_the_question_is_the_first_line_that_asks(text, question):
    assert read_question(text) == question


@pytest.mark.parametrize(
    ("answer", "opening"),
    [
        ("1898", "In which year"),
        ("3.5%", "What percentage"),
        ("30 minutes", "How many minutes"),
        ("4 °C", "How"),
        ("5000", "How"),
        ("Marie Curie", ""),
    ],
)
def test_how_a_question_for_a_figure_begins(answer, opening):
    assert origins.open_question(answer) == opening


GEL = "The gel runs for 30 minutes. It was run by Marie Curie in 1898. Curie liked gels."


@pytest.mark.parametrize(
    ("question", "answer", "good"),
    [
        ("How many minutes does the gel run?", "30 minutes", True),
        ("How long does the gel run for 30 minutes?", "30 minutes", False),
        ("Who runs the gel here?", "30 minutes", False),
        ("Does the gel run long?", "30 minutes", False),
        ("The gel runs how long", "30 minutes", False),
        ("How long?", "30 minutes", False),
        ("How many minutes does the gel run in a laboratory of the old city?", "30 minutes", False),
        ("How many minutes was it liked?", "30 minutes", False),
        ("In which year was it run?", "1898", True),
        ("What was the gel run in?", "1898", False),
        ("By whom was it run?", "Marie Curie", True),
        ("When was it run by her?", "Marie Curie", False),
    ],
)
def test_a_written_question_asks_for_its_answer(question, answer, good):
    assert asks_for(question, answer, GEL) is good


def test_a_tiny_generator_is_run(documents, tmp_path, monkeypatch, capsys):
    """Random weights write no question, so the rules' alone are left."""
    table = tmp_path / "drafts.csv"
    line = ["sheet", str(documents), "--output", str(table), "--origins", "rules", "generator"]
    more = ["--overrides", "model/generator=tiny_causal", f"cache_dir={tmp_path}/cache"]
    more += ["model.generator.max_prompt_tokens=1500"]  # its tokens are bytes
    assert run(*line, *more, monkeypatch=monkeypatch) == 0
    assert "generator: 0 questions, 0 of them" in capsys.readouterr().out


def test_overrides_are_the_generators(documents, tmp_path, monkeypatch, capsys):
    line = ["sheet", str(documents), "--output", str(tmp_path / "drafts.csv"), "--overrides"]
    assert run(*line, "device=cpu", monkeypatch=monkeypatch) == 2
    assert "give --origins generator as well" in capsys.readouterr().err
    wrong = [*line, "retriever=bm25", "--origins", "generator"]
    assert run(*wrong, monkeypatch=monkeypatch) == 2
    assert "--overrides: 'retriever=bm25' is not of the generator" in capsys.readouterr().err
    wrong = [*line, "model/generator=none", "--origins", "generator"]
    assert run(*wrong, monkeypatch=monkeypatch) == 2
    assert "none" in capsys.readouterr().err
