"""The README's way from a folder of documents to a served model, command by command."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from document_files import write_pdf
from servers import answers, free_port, serving, wait_for

from rag_experiments.draft import sheet
from rag_experiments.spreadsheet import read_table, write_table

README = Path(__file__).parent.parent / "README.md"
HEADING = "## A new domain in ten minutes\n"

TINY = [
    "model/generator=tiny_causal",
    "model/query_encoder=tiny",
    "retriever/encoder@retriever.dense.encoder=tiny",
    "task.max_answer_tokens=4",
    "trainer.max_steps=2",
]
"""Random models in the place of the pretrained ones."""

FACTS = {
    "Baking": "A proofing basket is a bowl that shapes dough. Sourdough is raised by wild yeast.",
    "Ovens": "A stone oven is a vault that keeps heat. The first oven has two doors.",
    "Flour": "Rye flour is a powder that makes dark bread. A sack of flour has 25 kilograms.",
    "Salt": "Sea salt is a mineral that slows yeast. Brine is a solution of salt.",
    "Time": "An autolyse is a rest that softens dough. The old mill was built in 1871.",
}


def steps() -> list[str]:
    """The commands of the section, in their order."""
    section = README.read_text("utf-8").split(HEADING)[1].split("\n## ")[0]
    blocks = re.findall(r"^```\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    return [line.strip() for line in "".join(blocks).replace("\\\n", " ").splitlines()]


def write_domain(home: Path) -> None:
    """A bakery's documents, of each kind, and what may be asked about them."""
    folder = home / "my_documents"
    folder.mkdir()
    (folder / "a.md").write_text(f"# Baking\n\n{FACTS['Baking']}\n\n## Ovens\n\n{FACTS['Ovens']}\n")
    (folder / "b.txt").write_text(f"{FACTS['Flour']}\n\n{FACTS['Salt']}\n" + "\nMore. " * 250)
    write_pdf(folder / "deep" / "c.pdf", FACTS["Time"], title="Time")
    rows = [
        (f"Which of the things number {i} is it?", answer)
        for i, answer in enumerate(["wild yeast", "25", "Sea salt", "1871", "dough"] * 4)
    ]
    with (home / "questions.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("question", "answers"), *rows])


def test_the_extra_of_the_first_step_is_one():
    install, *_ = steps()
    assert install == "pip install -e '.[pdf]'"
    project = (README.parent / "pyproject.toml").read_text("utf-8")
    assert re.search(r'^pdf = \["pypdf', project, re.MULTILINE)


@pytest.mark.slow
def test_the_commands_lead_to_a_served_model(tmp_path, lay_store):
    write_domain(tmp_path)
    lay_store(tmp_path / "outputs" / "mlflow.db")
    scripts = tmp_path / "bin"
    scripts.mkdir()
    for name, call in {"python": "", "mlflow": "-m mlflow ", "uvicorn": "-m uvicorn "}.items():
        script = scripts / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {call}"$@"\n')
        script.chmod(0o755)
    environment = {**os.environ, "PATH": f"{scripts}:{os.environ['PATH']}"}
    environment.pop("MLFLOW_TRACKING_URI", None)

    def run(command: str, *more: str) -> str:
        done = subprocess.run(
            [*shlex.split(command), *more],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    _, draft, collect, sweep, ask, serve = steps()
    run(draft)
    drafts = [*read_table(tmp_path / "drafts.csv", sheet.COLUMNS).values()]
    assert {row["passage_id"] for row in drafts} == {"a.md", "b.txt", "deep/c.pdf"}
    for row in drafts:  # what a person does between the two commands
        row["keep"] = "yes"
    write_table(tmp_path / "drafts.csv", sheet.COLUMNS, drafts)
    assert f"{len(drafts)} questions in drafted.jsonl" in run(collect)

    said = run(sweep, *TINY)
    assert "outputs/my_domain/report.html" in said
    assert (tmp_path / "outputs/my_domain/report.html").is_file()
    for job in "01":
        metrics = json.loads((tmp_path / f"outputs/my_domain/{job}/metrics.json").read_text())
        assert {"untrained", "trained"} <= {*metrics}
    assert "p(z|x)" in run(ask)

    port = free_port()
    command = shlex.split(serve.replace("5001", str(port)))
    log = tmp_path / "log"
    with serving(command, log, cwd=tmp_path, env=environment) as process:
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/ping"), 300, log.read_text, process)
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations",
            json.dumps({"inputs": ["What raises sourdough?"]}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            (served,) = json.load(answer)["predictions"]
    assert {"answer", "passages"} <= {*served}
    read = {passage["id"].partition("#")[0] for passage in served["passages"]}
    assert read
    assert read <= {"a.md", "b.txt", "deep/c.pdf"}
