"""A folder of documents as the knowledge source."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from document_files import write_pdf

from rag_experiments import stages
from rag_experiments.config import Run
from rag_experiments.contracts import PreparedData, Runtime, UserError
from rag_experiments.data import corpus, pdf
from rag_experiments.data.files import Files
from rag_experiments.data.markdown import read_markdown
from rag_experiments.data.mixture import Mixture
from rag_experiments.data.preparation import Chunk, Preparation
from rag_experiments.data.records import PassageColumns
from rag_experiments.sweep import resumption


@pytest.fixture
def home(tmp_path):
    """Questions in a CSV and documents in a folder, as a person has them."""
    (tmp_path / "questions.csv").write_text(
        "id,question,answers,passage_ids\n"
        "q1,What does ligase join?,DNA fragments,enzymes/ligase.md\n"
        "q2,Where does Taq come from?,Thermus aquaticus,\n"
        "q3,What is stained?,the gel,gel.pdf\n"
    )
    folder = tmp_path / "documents"
    (folder / "enzymes").mkdir(parents=True)
    (folder / "enzymes" / "ligase.md").write_text("# DNA ligase\n\nLigase joins DNA fragments.\n")
    (folder / "taq.txt").write_text("Taq polymerase is from Thermus aquaticus.\n")
    write_pdf(folder / "gel.pdf", "Ethidium bromide stains\nthe gel.", title="Gels")
    return tmp_path


def source(home: Path, **settings) -> Files:
    return Files(train=str(home / "questions.csv"), passages=str(home / "documents"), **settings)


def load(option: Files, home: Path) -> PreparedData:
    assert option.problems() == []
    return option.load(Runtime(cache_dir=home / "cache"))


def refused(option: Files, home: Path) -> list[str]:
    with pytest.raises(UserError) as caught:
        load(option, home)
    return [line.replace(f"{home}/", "") for line in caught.value.problems]


def test_documents_are_passages_by_their_paths(home):
    data = load(source(home), home)
    rows = [data.passages[i] for i in range(len(data.passages))]
    assert [(row["id"], row["title"], row["text"]) for row in rows] == [
        ("enzymes/ligase.md", "DNA ligase", "Ligase joins DNA fragments."),
        ("gel.pdf", "Gels", "Ethidium bromide stains the gel."),
        ("taq.txt", "taq", "Taq polymerase is from Thermus aquaticus."),
    ]
    gold = {q.id: q.passage_ids for q in (*data.train, *data.validation, *data.test)}
    assert gold["q1"] == ("enzymes/ligase.md",)
    assert gold["q3"] == ("gel.pdf",)
    assert not [note for note in data.notes if "not read" in note or "left out" in note]


def test_what_is_not_read_is_counted(home):
    folder = home / "documents"
    for name in ("a.docx", "b.DOCX", "LICENSE", ".DS_Store"):
        (folder / name).write_text("x")
    (folder / ".git").mkdir()
    (folder / ".git" / "notes.md").write_text("hidden")
    (folder / "around").symlink_to(folder)
    (folder / "gone.txt").symlink_to(home / "gone.txt")
    (folder / "linked.txt").symlink_to(home / "questions.csv")
    (folder / "empty.md").write_text("")
    (folder / "heading.md").write_text("# A heading alone\n")
    write_pdf(folder / "scan.pdf", "", "")
    write_pdf(folder / "half.pdf", "Text.", "", "")
    data = load(source(home), home)
    said = [note.replace(f"{folder}: ", "") for note in data.notes if str(folder) in note]
    assert said == [
        "3 files of other kinds not read: 2 .docx, 1 without an ending.",
        "Hidden files and folders not read: 2.",
        "2 links not followed: 'around', 'gone.txt'.",
        "3 documents without text left out (scanned pages are not read): 'empty.md', 'heading.md',"
        " 'scan.pdf'.",
        "2 pages without text in PDF files with text.",
    ]
    assert set(data.passages["id"]) == {
        *("enzymes/ligase.md", "gel.pdf", "half.pdf", "linked.txt", "taq.txt")
    }


def test_what_cannot_be_read_is_refused_by_its_path(home):
    folder = home / "documents"
    (folder / "latin.txt").write_bytes("Möhre".encode("latin-1"))
    (folder / "broken.pdf").write_bytes(b"%PDF-1.4 and nothing more")
    write_pdf(folder / "secret.pdf", "Text.", password="x")
    broken, latin, secret = refused(source(home), home)
    assert broken.startswith("documents/broken.pdf: is no PDF that can be read (")
    assert broken.endswith("), or take it out of the folder")
    assert latin == (
        "documents/latin.txt: byte 0xf6 at position 2 is not UTF-8; save the file as UTF-8, or "
        "take it out of the folder"
    )
    assert secret == (
        "documents/secret.pdf: is encrypted with a password; save it without one, or take it out "
        "of the folder"
    )


def test_a_pdf_that_everybody_may_read_is_read(home):
    """Encrypted against changes alone: the password to read it is the empty one."""
    write_pdf(home / "documents" / "open.pdf", "Anybody reads.", password="")
    assert "open.pdf" in load(source(home), home).passages["id"]


def test_a_missing_library_is_named(home, monkeypatch):
    monkeypatch.setattr(corpus, "is_readable", lambda: False)
    (line,) = source(home).problems()
    assert line == (
        f"passages: 1 PDF file in '{home}/documents' cannot be read without the package pypdf: "
        "pip install 'rag-experiments[pdf]'"
    )
    (home / "documents" / "gel.pdf").unlink()
    assert source(home).problems() == []


def test_a_folder_without_documents_says_what_is_legal(home):
    folder = home / "none"
    folder.mkdir()
    (folder / "a.docx").write_text("x")
    (line,) = Files(train=str(home / "questions.csv"), passages=str(folder)).problems()
    assert "holds neither passages.jsonl (.csv, .parquet) nor documents (.md, .txt, .pdf)" in line


def test_a_file_of_passages_is_what_a_folder_is_read_by(home):
    """A data set in the layout often has a README beside it, which is no knowledge."""
    file = home / "documents" / "passages.jsonl"
    file.write_text('{"id": "p1", "text": "Taq is from Thermus aquaticus."}\n')
    (home / "questions.csv").write_text("id,question,answers\nq,Where from?,Thermus aquaticus\n")
    option = source(home)
    assert option.passages_files() == [file]
    assert load(option, home).passages["id"][:] == ["p1"]


def test_long_documents_want_to_be_chunked(home):
    long = home / "documents" / "long.txt"
    long.write_text("word " * 150 + "DNA fragments " + "word " * 149)
    (line,) = refused(source(home), home)
    assert line == (
        "data.preparation.chunk.unit: null, but 1 of 4 documents are longer than 200 words, up to "
        "301, and would be cut wherever they are read; set data.preparation.chunk.unit=words (100 "
        "of them, see chunk.size), or data.preparation.max_words to read the beginnings alone"
    )
    chunked = load(source(home, preparation=Preparation(chunk=Chunk(unit="words"))), home)
    assert [name for name in chunked.passages["id"] if name.startswith("long")] == [
        f"long.txt#{i}" for i in range(4)
    ]
    assert len(load(source(home, preparation=Preparation(max_words=50)), home).passages) == 4
    long.write_text("word " * 200)
    assert len(load(source(home), home).passages) == 4


def test_a_map_of_columns_is_for_records(home):
    (line,) = source(home, passage_columns=PassageColumns(text="body")).problems()
    assert line.startswith("passage_columns: are those of a file of records, but passages=")


def test_every_document_is_part_of_what_identifies_the_data(home):
    option = source(home)
    names = [file.relative_to(home).as_posix() for file in option.files()]
    assert names == [
        "questions.csv",
        "documents/enzymes/ligase.md",
        "documents/gel.pdf",
        "documents/taq.txt",
    ]
    mixture = Mixture(parts={"a": option})
    assert mixture.files() == option.files()

    def identify() -> tuple[str, str]:
        config = Run.model_construct(data=mixture)
        key = stages.data_key(config, Runtime(cache_dir=home / "cache"))
        assert key is not None
        raw = stages_config(home)
        return key.digest, resumption.identify(raw)

    before = identify()
    assert identify() == before
    deep = home / "documents" / "enzymes" / "ligase.md"
    deep.write_text("# DNA ligase\n\nLigase joins fragments of DNA.\n")
    changed = identify()
    assert changed[0] != before[0]
    assert changed[1] != before[1]
    (home / "documents" / "enzymes" / "more.txt").write_text("More.")
    more = identify()
    assert more[0] != changed[0]
    assert more[1] != changed[1]
    # What the notes tell of is read from the store with the data, so it counts as well.
    (home / "documents" / "picture.png").write_bytes(b"x")
    assert identify()[0] != more[0]


def stages_config(home: Path):
    from omegaconf import OmegaConf

    return OmegaConf.create({"data": {"parts": {"a": {"passages": str(home / "documents")}}}})


def test_markdown_is_what_a_reader_sees():
    title, text = read_markdown(
        "---\ntitle: Enzymes\ndate: 2024-13-45\n---\n"
        "# The *enzymes*\n\nA [ligase](https://x.org/a) joins\nDNA, see ![a gel](gel.png).\n"
        "<!-- a remark -->\n\n"
        "1. cut with `EcoRI`\n2. join\n   - at 16 °C\n\n"
        "| enzyme | from |\n|:--|--|\n| Taq | *T. aquaticus* |\n\n"
        "```python\nx = 1  # kept\n```\n\n"
        "<div class='x'>5 &lt; 7<script>no()</script></div>\n\n---\n\n"
        "> quoted<br>twice &amp; more\n"
    )
    assert title == "Enzymes"
    assert text == (
        "The enzymes\n\n"
        "A ligase joins\nDNA, see a gel.\n\n"
        "1. cut with EcoRI\n2. join\n- at 16 °C\n\n"
        "enzyme | from\nTaq | T. aquaticus\n\n"
        "x = 1  # kept\n\n"
        "5 < 7\n\n"
        "quoted\ntwice & more"
    )


@pytest.mark.parametrize(
    ("text", "title", "plain"),
    [
        ("# One\n\nText.\n\n# Two\n", "One", "Text.\n\nTwo"),
        ("Text.\n\n## Later\n\nMore.", "Later", "Text.\n\nLater\n\nMore."),
        ("---\ntitle: One\n---\n# One\n\nText.", "One", "Text."),
        ("---\nno: [yaml\n---\nText.", "no: [yaml", "no: [yaml\n\nText."),
        ("---\n\njust a rule\n\n---\n\nText.", "", "just a rule\n\nText."),
        ("---\r\ntitle: One\r\n---\r\nText.\r\n", "One", "Text."),
        ("---\ntitle: [a, b]\n---\nText.", "", "Text."),
        ("Plain.", "", "Plain."),
        ("", "", ""),
    ],
    ids=[
        "opening heading",
        "later heading",
        "front matter repeats it",
        "front matter that is none",
        "rules",
        "windows lines",
        "a title that is no text",
        "no heading",
        "empty",
    ],
)
def test_the_title_of_markdown(text, title, plain):
    assert read_markdown(text) == (title, plain)


def test_words_of_a_pdf_are_whole(tmp_path, caplog):
    file = write_pdf(tmp_path / "a.pdf", "The frag-\nments of IL-\n2 are well", "known.", "")
    with caplog.at_level(logging.DEBUG):
        read = pdf.read_pdf(file)
    assert read == pdf.Pdf("", "The fragments of IL-\n2 are well\n\nknown.", 3, 1)
    assert pdf._clean("e\ufb03cient \ud83d\ude00 \ud83d\0") == "efficient \U0001f600 \ufffd"
