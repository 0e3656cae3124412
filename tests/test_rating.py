"""Human evaluation: sheets, ratings, statistics, what goes into MLflow and comes back."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import krippendorff
import numpy as np
import pytest
from omegaconf import OmegaConf

from rag_experiments.contracts import Runtime, UserError
from rag_experiments.rating import collection, corrections, ratings, sheet
from rag_experiments.rating.__main__ import main, make_parser
from rag_experiments.rating.criteria import NAMES
from rag_experiments.rating.ratings import Rater, RatingFile
from rag_experiments.rating.results import Rating, summarize
from rag_experiments.rating.session import Session
from rag_experiments.tracking.assessments import use_store

QUESTIONS = 12


def write_run(folder: Path, answer: str, passages: tuple[str, ...] = ("P one", "P two")) -> Path:
    """A finished run whose answers to even questions are `same`, else its own."""
    (folder / ".hydra").mkdir(parents=True)
    tracking = {
        "_target_": "rag_experiments.tracking.mlflow.Mlflow",
        "uri": f"sqlite:///{folder.parent}/mlflow.db",
    }
    OmegaConf.save(OmegaConf.create({"tracking": tracking}), folder / ".hydra" / "config.yaml")
    (folder / ".hydra" / "overrides.yaml").write_text(f"- model={answer}\n")
    rows = [
        {
            "id": f"q{number}",
            "question": f"What is number {number}, β or γ?",
            "prediction": "same" if number % 2 == 0 else f"{answer} {number}",
            "answers": [f"gold {number}", "gilt"],
            "passages": list(passages),
            "passage_ids": ["p1", "p2"][: len(passages)],
            "gold_passage_ids": ["p1"],
            "gold_source": "annotated",
        }
        for number in range(QUESTIONS)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "predictions_trained.jsonl").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    return [write_run(tmp_path / "alpha_run", "dense"), write_run(tmp_path / "beta_run", "sparse")]


@pytest.fixture
def folder(runs: list[Path], tmp_path: Path) -> Path:
    sheet.make(runs, tmp_path / "sheet", questions=8, seed=3)
    return tmp_path / "sheet"


def rate_all(folder: Path, rater: str, value) -> RatingFile:
    """Rate every answer; `value(item, criterion)`."""
    file = RatingFile(folder, rater)
    for item in sheet.read(folder):
        for criterion in item.criteria:
            file.add(item.name, criterion.name, value(item, criterion.name))
    return file


def test_a_sheet_is_blind_and_its_key_lies_beside_it(folder, runs):
    inside = "".join(path.read_text("utf-8") for path in folder.rglob("*") if path.is_file())
    assert [path.name for path in folder.rglob("*")] == ["sheet.csv"]
    for secret in ("alpha_run", "beta_run", "model=", "trained", str(runs[0].parent), "q1"):
        assert secret not in inside
    key = sheet.read_key(folder)
    assert [Path(run["folder"]).name for run in key.runs] == ["alpha_run", "beta_run"]
    assert key.runs[0]["choices"] == "model=dense"
    assert sheet.key_path(folder).parent == folder.parent


def test_every_run_answers_the_same_questions_and_like_answers_are_rated_once(folder):
    key = sheet.read_key(folder)
    asked = [{e["question_id"] for e in key.items.values() if run in e["runs"]} for run in (0, 1)]
    assert asked[0] == asked[1]
    assert len(asked[0]) == 8
    for item in sheet.read(folder):
        entry = key.items[item.name]
        number = int(entry["question_id"][1:])
        assert entry["runs"] == [0, 1] if number % 2 == 0 else len(entry["runs"]) == 1
        own = {0: f"dense {number}", 1: f"sparse {number}"}[entry["runs"][0]]
        assert item.answer == ("same" if number % 2 == 0 else own)
        assert item.expected == (f"gold {number}", "gilt")
        assert item.passages == ("P one", "P two")


def test_the_seed_makes_draw_and_order(runs, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        sheet.make(runs, tmp_path / name, questions=8, seed=seed)
    a, b, c = (sheet.read(tmp_path / name) for name in "abc")
    assert a == b
    assert a != c
    numbers = [int(item.question.split()[3].strip(",")) for item in a]
    assert numbers != sorted(numbers)


def test_what_cannot_become_a_sheet_is_refused(runs, folder, tmp_path):
    with pytest.raises(UserError, match="exists already"):
        sheet.make(runs, folder, 8, 1)
    with pytest.raises(UserError, match="given twice"):
        sheet.make([runs[0], runs[0]], tmp_path / "new", 8, 1)
    with pytest.raises(UserError, match="predictions_"):
        sheet.make([tmp_path], tmp_path / "new", 8, 1)
    broken = runs[0] / "predictions_gold.jsonl"
    broken.write_text('{"id": "q1"}\n')
    with pytest.raises(UserError, match=r"predictions_gold.jsonl:1: .*question"):
        sheet.make([broken], tmp_path / "new", 8, 1)
    assert not (tmp_path / "new").exists()


def test_a_key_of_another_sheet_is_refused(runs, folder, tmp_path):
    sheet.make(runs, tmp_path / "other", 8, seed=4)
    with pytest.raises(UserError, match="is not the key"):
        sheet.read_key(folder, sheet.key_path(tmp_path / "other"))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"seed": 1, "runs": [{"fol'])
def test_a_damaged_key_is_named(folder, text):
    sheet.key_path(folder).write_text(text)
    with pytest.raises(UserError, match=r"\.key\.json: damaged \("):
        sheet.read_key(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "columns are missing: item, question, expected"),
        (b"item,question,expected,answer\r\n", "columns are missing: correctness, relevance"),
        ("item,question".encode("utf-16"), "is not UTF-8"),
    ],
    ids=["empty", "half", "utf-16"],
)
def test_a_table_that_is_no_sheet_is_refused(folder, content, message):
    (folder / "ratings").mkdir()
    (folder / "ratings" / "cleo.csv").write_bytes(content)
    with pytest.raises(UserError, match=rf"cleo\.csv: {message}"):
        ratings.read_all(folder, sheet.read(folder))


def test_expected_answers_can_be_hidden_and_all_questions_taken(runs, tmp_path):
    notes = sheet.make(runs, tmp_path / "s", 500, 1, show_expected=False)
    assert not any(item.expected for item in sheet.read(tmp_path / "s"))
    assert any(f"only {QUESTIONS} questions" in note for note in notes)
    assert "gold" not in (tmp_path / "s" / "sheet.csv").read_text("utf-8")


WRITER = """
import sys
from pathlib import Path
from rag_experiments.rating.ratings import RatingFile
file = RatingFile(Path(sys.argv[1]), sys.argv[2])
for number in range(int(sys.argv[4])):
    file.add(str(number % 12 + 1), "comment", f"{sys.argv[3]} {number} " + "x" * 300)
"""


@pytest.mark.parametrize("names", [("anna", "ben"), ("anna", "anna")])
def test_two_processes_lose_nothing(folder, names):
    """Two raters at once, and one rater in two windows."""
    count = 60
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder), name, mark, str(count)], env=environment
        )
        for name, mark in zip(names, ("first", "second"), strict=True)
    ]
    assert [process.wait(120) for process in started] == [0, 0]
    lines = [
        json.loads(line)["value"].split()[:2]
        for name in sorted(set(names))
        for line in (folder / "ratings" / f"{name}.jsonl").read_text().splitlines()
    ]
    expected = [[mark, str(n)] for mark in ("first", "second") for n in range(count)]
    assert sorted(lines) == sorted(expected)


def test_a_torn_line_costs_that_line_alone(folder, caplog):
    file = RatingFile(folder, "anna")
    file.add("1", "fluency", 4)
    with file.path.open("ab") as opened:
        opened.write(b'{"item": "1", "fie')
    items = sheet.read(folder)
    assert file.read(items) == {("1", "fluency"): 4}
    assert "not whole" in caplog.text
    file.add("2", "fluency", 5)
    file.add("2", "fluency", 3)
    assert file.read(items) == {("1", "fluency"): 4, ("2", "fluency"): 3}
    assert len(file.path.read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"item": "99", "field": "fluency", "value": 1}', "'99' is not in the sheet"),
        ('{"item": "1", "field": "fluency", "value": 9}', "legal: 0 to 5"),
        ('{"item": "1", "field": "beauty", "value": 1}', "legal: correctness"),
        ("nonsense", "is no rating"),
    ],
)
def test_a_wrong_line_is_named(folder, line, message):
    file = RatingFile(folder, "anna")
    file.add("1", "fluency", 4)
    with file.path.open("a") as opened:
        opened.write(line + "\n")
    with pytest.raises(UserError, match=message) as caught:
        file.read(sheet.read(folder))
    assert "anna.jsonl:2" in str(caught.value)


@pytest.mark.parametrize("name", ["../anna", "", "a/b", ".hidden"])
def test_a_rater_is_a_name_for_a_file(folder, name):
    with pytest.raises(UserError, match="--rater"):
        RatingFile(folder, name)


def test_a_sheet_filled_in_a_spreadsheet_is_read(folder):
    """Saved with semicolons, as some spreadsheet programs do."""
    rows = [*sheet.read_table(folder / "sheet.csv", sheet.COLUMNS).values()]
    rows[0].update(correctness="5", fluency="0", corrected=" right; it is ")
    (folder / "ratings").mkdir()
    path = folder / "ratings" / "cleo.csv"

    def save() -> None:
        with path.open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter=";")
            writer.writeheader()
            writer.writerows(rows)

    save()
    items = sheet.read(folder)
    assert ratings.read_all(folder, items) == [
        Rater(
            "cleo",
            {("1", "correctness"): 5, ("1", "fluency"): 0, ("1", "corrected"): "right; it is"},
        )
    ]
    with pytest.raises(UserError, match="give another name"):
        RatingFile(folder, "cleo")
    rows[0].update(correctness="5.0", fluency="0,00", relevance="3.0")
    save()
    (cleo,) = ratings.read_all(folder, items)
    assert [cleo.answers["1", name] for name in ("correctness", "fluency", "relevance")] == [
        5,
        0,
        3,
    ]
    for cell in ("3.5", "6.0", "3.", "-1"):
        rows[0]["relevance"] = cell
        save()
        with pytest.raises(UserError, match=rf"row 2:relevance: '{re.escape(cell)}'; legal: 1 to"):
            ratings.read_all(folder, items)
    rows[0]["relevance"] = ""
    rows[1]["relevance"] = "good"
    save()
    with pytest.raises(UserError, match=r"cleo.csv:row 3:relevance: 'good'"):
        ratings.read_all(folder, items)


def test_ratings_typed_into_the_sheet_itself_are_not_lost_in_silence(folder):
    text = (folder / "sheet.csv").read_text("utf-8-sig")
    head, first, rest = text.split("\n", 2)
    filled = first.rstrip("\r").removesuffix(",,,,,,") + ",5,,,,,\r"
    (folder / "sheet.csv").write_text("\n".join([head, filled, rest]), "utf-8-sig")
    with pytest.raises(UserError, match="was filled in itself"):
        ratings.read_all(folder, sheet.read(folder))


def test_a_session_goes_through_a_sheet_and_goes_on_where_it_stopped(folder):
    items = sheet.read(folder)
    session = Session(items, RatingFile(folder, "anna"))
    for value in (5, 4, 3, 2):
        session.rate(value)
    assert session.criterion is None
    session.rate(1)  # nothing is left to rate: nothing is overwritten
    session.next()
    session.rate(1)
    assert (session.place, session.step, session.done) == (1, 1, 1)

    again = Session(items, RatingFile(folder, "anna"))
    assert (again.place, again.step, again.done) == (1, 1, 1)
    again.back()
    again.back()
    assert (again.place, again.criterion.name) == (0, "faithfulness")
    again.rate(5)
    assert again.file.read(items)["1", "faithfulness"] == 5
    again.previous()
    assert again.place == 0
    for _ in items:
        again.next()
    assert again.item is None
    again.next()
    assert (again.place, again.step) == (1, 1)
    again.choose(-3)
    assert again.step == 0
    while again.done < len(items):
        again.rate(3)
        if again.criterion is None:
            again.next()
    assert Session(items, RatingFile(folder, "anna")).item is None


def test_faithfulness_is_not_asked_without_passages(tmp_path):
    run = write_run(tmp_path / "closed", "book", passages=())
    sheet.make([run], tmp_path / "s", 3, 1)
    item = sheet.read(tmp_path / "s")[0]
    assert [criterion.name for criterion in item.criteria] == list(NAMES[:3])


def test_statistics_of_ratings():
    chance = np.random.default_rng(5)
    table = chance.integers(1, 6, size=(3, 40)).astype(float)  # raters, questions
    table[1] = np.clip(table[0] + chance.integers(-1, 2, size=40), 1, 5)
    table[2, 10:] = np.nan
    given = [
        Rating(0, f"u{u}", f"q{u}", f"rater {r}", "fluency", int(table[r, u]))
        for r in range(3)
        for u in range(40)
        if not np.isnan(table[r, u])
    ]
    given += [Rating(1, f"v{u}", f"q{u}", "rater 0", "fluency", 1) for u in range(20)]
    results = summarize(given, seed=1)
    mean = results.means[0, "fluency"]
    assert mean.value == pytest.approx(np.nanmean(table, axis=0).mean())
    assert mean.low < mean.value < mean.high
    assert mean.n == 40
    assert results.means[0, "relevance"].n == 0
    alpha = results.agreement["fluency"]
    expected = krippendorff.alpha(reliability_data=table, level_of_measurement="ordinal")
    assert alpha.value == pytest.approx(expected)
    assert alpha.low < alpha.value < alpha.high
    assert alpha.n == 40
    (difference,) = results.differences
    assert difference.questions == 20
    assert difference.mean == pytest.approx(np.nanmean(table, axis=0)[:20].mean() - 1)
    assert difference.p < 0.001


def test_corrections_are_training_examples(folder, tmp_path):
    key = sheet.read_key(folder)
    first = key.items["1"]["question_id"]
    RatingFile(folder, "anna").add("1", "corrected", "the  right one")
    RatingFile(folder, "ben").add("1", "corrected", "another")
    RatingFile(folder, "cleo").add("1", "corrected", "another")
    RatingFile(folder, "cleo").add("2", "corrected", "")
    output = tmp_path / "new" / "corrections.jsonl"
    assert corrections.export(folder, None, output) == 1
    with pytest.raises(UserError, match="exists already"):
        corrections.export(folder, None, output)

    from rag_experiments.data.files import Files
    from rag_experiments.data.preparation import Preparation

    (tmp_path / "passages.jsonl").write_text('{"id": "p1", "text": "P one"}\n')
    for name, identity in (("test", first), ("validation", "v1")):
        row = {"id": identity, "question": "Else?", "answers": ["x"], "passage_ids": ["p1"]}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row))
    data = Files(
        preparation=Preparation(),
        train=str(output),
        validation=str(tmp_path / "validation.jsonl"),
        test=str(tmp_path / "test.jsonl"),
        passages=str(tmp_path / "passages.jsonl"),
    )
    loaded = data.load(Runtime(cache_dir=tmp_path, device="cpu", dtype="float32", seed=1))
    (example,) = loaded.train
    assert example.question == key.items["1"]["question"]
    assert example.answers == ("another", "the right one")
    assert example.passage_ids == ("p1",)


def test_gold_passages_of_corrections_have_the_ids_of_the_data(tmp_path):
    import pyarrow
    from pyarrow import parquet

    run = write_run(tmp_path / "run", "a")
    file = run / "predictions_trained.jsonl"
    file.write_text(
        file.read_text().replace(
            '"gold_passage_ids": ["p1"]', '"gold_passage_ids": ["p1#0", "p1#2"]'
        )
    )
    (run / "model").mkdir()
    chunks = {"id": ["p1#0", "p1#1", "p1#2"], "document_id": ["p1"] * 3}
    parquet.write_table(pyarrow.table(chunks), run / "model" / "passages.parquet")
    sheet.make([run], tmp_path / "s", 2, 1)
    assert sheet.read_key(tmp_path / "s").items["1"]["passage_ids"] == ["p1"]
    file.write_text(file.read_text().replace("annotated", "answer_match"))
    sheet.make([run], tmp_path / "weak", 2, 1)
    assert sheet.read_key(tmp_path / "weak").items["1"]["passage_ids"] == []


def test_ratings_go_into_mlflow_and_those_of_its_panel_come_back(
    runs, folder, capsys, monkeypatch, lay_store
):
    import mlflow
    from mlflow import MlflowClient
    from mlflow.entities import AssessmentSource

    from rag_experiments.tracking.mlflow import Mlflow

    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    lay_store(runs[0].parent / "mlflow.db")
    uri = f"sqlite:///{runs[0].parent}/mlflow.db"
    store = Mlflow(uri=uri)
    for run in runs:
        with store.start(OmegaConf.create({}), run, name=run.name):
            pass
    client = MlflowClient(tracking_uri=uri)
    run = store.find(runs[0])
    key = sheet.read_key(folder)
    questions = sorted({entry["question_id"] for entry in key.items.values()})
    traces = {}
    with use_store(uri):
        for question in questions[:3]:
            span = client.start_trace(
                "answer",
                tags={"question_id": question},
                experiment_id=run.info.experiment_id,
                run_id=run.info.run_id,
            )
            client.end_trace(span.trace_id)
            traces[question] = span.trace_id
        mlflow.flush_trace_async_logging()
        for name, value in (
            ("Correctness", 2.0),
            ("faithfulness", "4 "),
            ("fluency", True),
            ("taste", 5),
        ):
            mlflow.log_feedback(
                trace_id=traces[questions[0]],
                name=name,
                value=value,
                source=AssessmentSource("HUMAN", "dora"),
            )
        mlflow.log_feedback(
            trace_id=traces[questions[0]],
            name="relevance",
            value=1,
            source=AssessmentSource("LLM_JUDGE", "judge"),
        )

    rate_all(folder, "anna", lambda item, _: 5 if item.answer.startswith("dense") else 2)
    file = rate_all(folder, "ben", lambda item, _: 4 if item.answer.startswith("dense") else 2)
    rated = next(
        n for n, e in key.items.items() if e["question_id"] == questions[0] and 0 in e["runs"]
    )
    file.add(rated, "corrected", "should be this")
    file.add(rated, "comment", "hm")
    environment = dict(os.environ)
    collection.collect(folder)
    assert dict(os.environ) == environment, "MLflow's variables are as they were"
    file.add(rated, "correctness", 1)
    collection.collect(folder)  # brings up to date, doubles nothing
    printed = capsys.readouterr().out
    assert "anna: 12 of 12 answers rated in full" in printed
    assert "rated fluency in MLflow as True" in printed

    def feedback() -> dict[tuple[str, str], list]:
        trace = client.get_trace(traces[questions[0]])
        found: dict[tuple[str, str], list] = {}
        for a in trace.info.assessments:
            if a.valid is not False:
                found.setdefault((a.source.source_id, a.name), []).append((a.value, a.rationale))
        return found

    found = feedback()
    assert found["ben", "correctness"] == [(1, "hm")]
    assert found["ben", "corrected_answer"] == [("should be this", None)]
    assert {name for rater, name in found if rater == "anna"} == set(NAMES)
    metrics = client.get_run(run.info.run_id).data.metrics
    content = json.loads((folder.parent / "sheet.results.json").read_text())
    of_run = {(e["run"], e["criterion"]): e for e in content["human"]["means"]}
    assert metrics["human/fluency"] == of_run[0, "fluency"]["value"]
    assert metrics["human/fluency_low"] <= metrics["human/fluency"] <= metrics["human/fluency_high"]
    assert metrics["human/fluency_alpha"] == content["human"]["agreement"]["fluency"]["value"]
    assert metrics["human/raters"] == 2
    assert metrics["human_open/correctness"] == 2  # dora's alone: no rating of the sheet came back
    assert metrics["human_open/faithfulness"] == 4
    assert metrics["human_open/raters"] == 1
    assert "human_open/relevance" not in metrics
    other = client.get_run(store.find(runs[1]).info.run_id).data.metrics
    assert other["human/fluency"] == of_run[1, "fluency"]["value"] < metrics["human/fluency"]


def test_runs_that_no_store_knows_are_said(folder, capsys):
    rate_all(folder, "anna", lambda *_: 3)
    collection.collect(folder)
    printed = capsys.readouterr().out
    assert "not recorded: the MLflow store knows no run" in printed
    assert "3.00 [3.00, 3.00]" in printed
    assert not (folder.parent / "mlflow.db").exists()


def test_the_commands(runs, tmp_path, capsys, monkeypatch):
    def call(*words: object) -> int:
        monkeypatch.setattr(sys, "argv", ["rating", *map(str, words)])
        try:
            main()
        except SystemExit as leaving:
            return int(leaving.code or 0)
        return 0

    folder = tmp_path / "s"
    assert call("sheet", *runs, "--questions", 4, "--output", folder) == 0
    assert "key, not for raters" in capsys.readouterr().out
    assert call("collect", folder) == 2
    assert "nothing is rated yet" in capsys.readouterr().err
    assert call("export", folder, "--output", tmp_path / "c.jsonl") == 2
    assert "no rater has corrected" in capsys.readouterr().err
    assert call("rate", tmp_path, "--rater", "anna") == 2
    assert "no sheet.csv" in capsys.readouterr().err
    assert call("rate", folder, "--rater", "a/b") == 2
    RatingFile(folder, "anna").add("1", "corrected", "x")
    assert call("export", folder, "--output", tmp_path / "c.jsonl") == 0
    assert "no longer test" in capsys.readouterr().out


def test_the_commands_of_the_readme_are_taken():
    text = (Path(__file__).parent.parent / "README.md").read_text("utf-8")
    commands = re.findall(r"^python -m rag_experiments.rating (.*)$", text, re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["sheet", "rate", "collect", "export"]
    for command in commands:
        make_parser().parse_args(shlex.split(command))
