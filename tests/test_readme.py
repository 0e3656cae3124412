"""The README's commands are ones that the program takes."""

from __future__ import annotations

import importlib
import importlib.util
import re
import shlex
import sys
from pathlib import Path

import pytest

from rag_experiments.composition.composer import Composer

README = Path(__file__).parent.parent / "README.md"


def all_commands() -> list[str]:
    blocks = re.findall(r"^```\n(.*?)^```", README.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [part.strip() for line in lines for part in line.split("&&")]


def commands() -> list[str]:
    own = [line for line in all_commands() if line.startswith("python -m rag_experiments ")]
    return [line for line in own if "--help" not in line]  # the entry's own tests run it


def test_the_readme_has_commands():
    assert len(commands()) >= 10


@pytest.mark.parametrize("command", commands())
def test_command_is_taken(command, tmp_path, monkeypatch):
    """Composed and checked as the program does, with files where the reader has files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rag_experiments.composition.launcher.shutil.which", lambda name: name)
    words = shlex.split(command.partition("  #")[0])[3:]
    folder = tmp_path / "my_data"
    folder.mkdir()
    for name in ("passages", "train", "validation", "test"):
        (folder / f"{name}.jsonl").write_text("{}\n")
    (tmp_path / "questions.csv").write_text("id,Question,Answer\n")
    (tmp_path / "passages.csv").write_text("id,title,text\n")
    (tmp_path / "my_documents").mkdir()
    (tmp_path / "my_documents" / "note.md").write_text("A note.\n")
    metrics = tmp_path / "my_conf" / "metrics"
    metrics.mkdir(parents=True)
    (metrics / "my_metric.yaml").write_text(
        "my_metric: {_target_: rag_experiments.metrics.exact_match.ExactMatch}\n"
    )
    config_dir = None
    if "--config-dir" in words:
        place = words.index("--config-dir")
        config_dir = words[place + 1]
        del words[place : place + 2]
    overrides = [word for word in words if not word.startswith("-") and word != "job"]
    plan = Composer(config_dir, None).plan(overrides, "-m" in words)
    assert plan.jobs


def test_every_number_of_a_table_of_results_stands_beside_its_command():
    text = README.read_text("utf-8")
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        if re.search(r"\d\.\d\d", table):
            before = text[: text.index(table)].rstrip()
            assert before.endswith("```") or "python -m rag_experiments" in table, table


def blocks_with_records() -> list[str]:
    """Table rows and paragraphs that link to what was printed."""
    paragraphs = README.read_text("utf-8").split("\n\n")
    blocks = [b for p in paragraphs for b in (p.splitlines() if p.startswith("|") else [p])]
    found = [block for block in blocks if "](tests/" in block]
    assert len(found) >= 5
    return found


@pytest.mark.parametrize("block", blocks_with_records(), ids=lambda block: block[:40])
def test_results_stand_in_their_records(block):
    places = re.findall(r"\]\((tests/[^)]*)\)", block)
    records = "".join((README.parent / place).read_text("utf-8") for place in places)
    figure = r"[+-]?\d\.\d{3}\s\[[+-]?\d\.\d{3},\s[+-]?\d\.\d{3}\]"
    shown, there = (
        {" ".join(found.replace("+", "").split()) for found in re.findall(figure, text)}
        for text in (block, records)
    )
    assert shown
    assert shown <= there


def tools() -> list[str]:
    """Commands of the README beside the entry's, e.g. `python -m rag_experiments.report ...`."""
    return [line for line in all_commands() if line.startswith("python -m rag_experiments.")]


@pytest.mark.parametrize("command", tools())
def test_tool_takes_its_options(command, tmp_path, monkeypatch, capsys):
    """What is wrong is that there is no such run, not the options that the README gives; an empty
    store is listed, verified and pruned all the same."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/none.db")
    name, *words = shlex.split(command)[2:]
    package = importlib.util.find_spec(name)
    assert package is not None
    main = f"{name}.__main__" if package.submodule_search_locations else name
    monkeypatch.setattr(sys, "argv", [name, *words])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(main).main()
    said = capsys.readouterr().err
    empty = name.endswith(".store") and words[0] != "explain"
    assert ended.value.code == (0 if empty else 2)
    assert "usage:" not in said
    assert len(said.splitlines()) <= len(words), said  # a line for each thing that is not there
