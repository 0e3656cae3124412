"""What is done with a saved run: evaluated on other data, given more passages, served, traced."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from entry_calls import start
from omegaconf import OmegaConf
from servers import answers, free_port, serving, wait_for

from rag_experiments import __main__ as entry
from rag_experiments import add_passages, bundle, evaluate, export, weights
from rag_experiments.ask import main as ask_main
from rag_experiments.contracts import Prediction, UserError
from rag_experiments.model.generator import Generator, Lora
from rag_experiments.model.rag_token import RagToken
from rag_experiments.pipeline import RagPipeline
from rag_experiments.rating.sheet import read_source
from rag_experiments.shots import Shots
from rag_experiments.tracking.mlflow import Mlflow
from rag_experiments.tracking.mlflow_recorder import MlflowRecorder

LINE = [
    "+experiment=smoke",
    "metrics=question_answering",
    "test.samples=0",
    "test.rewordings=false",
    "trainer.max_steps=1",
    "trainer.eval_strategy=no",
    "trainer.eval_steps=null",
    "data.preparation.limit={train: 4, validation: 2, test: 4, passages: 12}",
    "task.max_answer_tokens=4",
    "tracking.traces=3",
    "cache_dir=cache",
]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Where a tiny run was trained: a dense retriever, and a query encoder that changed."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        start(patch, entry.main, "rag_experiments", *LINE)
    return folder


@pytest.fixture
def run(home, monkeypatch):
    """The folder of the run."""
    monkeypatch.chdir(home)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (found,) = home.glob("outputs/runs/*/*")
    return found


@pytest.fixture
def copy(run, tmp_path):
    """A copy of the saved model that a test may change."""
    shutil.copytree(run / "model", tmp_path / "copy")
    return tmp_path / "copy"


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


# -- MLflow: the model and the traces ----------------------------------------------------------


def tracked(run: Path) -> Any:
    return Mlflow().find(run)


def test_a_trace_shows_what_the_model_saw(run):
    client = Mlflow()._client()
    found = tracked(run)
    traces = client.search_traces(
        locations=[found.info.experiment_id], run_id=found.info.run_id, include_spans=True
    )
    rows = {row["id"]: row for row in lines(run / "predictions_trained.jsonl")}
    assert len(traces) == 3  # of four questions, as mlflow.traces says
    for trace in traces:
        row = rows[trace.info.tags["question_id"]]
        spans = {span.name: span for span in trace.data.spans}
        assert spans["retrieve"].span_type == "RETRIEVER"
        passages = spans["retrieve"].outputs
        assert [each["id"] for each in passages] == row["passage_ids"]
        assert [each["page_content"] for each in passages] == row["passages"]
        scores = [each["metadata"]["score"] for each in passages]
        assert scores == pytest.approx(row["retrieval_scores"])
        prompts = spans["generate"].inputs  # one for each passage, of rag_token
        assert list(prompts) == [f"prompt {i + 1}" for i in range(len(passages))]
        assert all(row["question"] in prompt for prompt in prompts.values())
        assert spans["answer"].outputs == {"answer": row["prediction"]}
        given = {each.name: each for each in trace.info.assessments}
        assert given.pop("expected_answer").expectation.value == " | ".join(row["answers"])
        assert {name: each.feedback.value for name, each in given.items()} == pytest.approx(
            {name: row[name] for name in given}
        )
        assert {"f1", "exact_match", "recall"} <= set(given)
        assert trace.info.tags["bin"]
        assert not trace.info.trace_metadata["mlflow.source.git.repoURL"]


def test_ratings_find_the_traces(run):
    import mlflow
    from mlflow.entities import AssessmentSource

    from rag_experiments.tracking.assessments import Given, TracedRun, use_store

    store = Mlflow()
    traced = TracedRun.find(store, run)
    ids = [row["id"] for row in lines(run / "predictions_trained.jsonl")]
    assert traced.read() == []  # scores are no ratings by people
    given = [Given(name, "anna", "correctness", 4) for name in ids]
    assert traced.write(given, "sheet") == (3, 1)
    with use_store(store.address):
        mlflow.log_feedback(
            trace_id=traced._traces[ids[0]].info.trace_id,
            name="fluency",
            value=5,
            source=AssessmentSource("HUMAN", "ben"),
        )
    (read,) = TracedRun.find(store, run).read()
    assert (read.question_id, read.rater, read.name, read.value) == (ids[0], "ben", "fluency", 5)


def test_a_trace_that_lost_a_span_is_written_again(run, monkeypatch):
    from mlflow.tracing.client import TracingClient

    from rag_experiments.tracking.assessments import search_traces, use_store
    from rag_experiments.tracking.traces import SPANS, Traced, log_traces

    store = Mlflow()
    found, write, lost = tracked(run).info, TracingClient.log_spans, []
    new = store._client().create_run(found.experiment_id).info.run_id

    def lose_one(self, location, spans):
        if spans[0].name == "retrieve" and not lost:
            lost.append(spans)
            raise OSError("the server is gone")
        return write(self, location, spans)

    monkeypatch.setattr(TracingClient, "log_spans", lose_one)
    prediction = Prediction("q", "Which?", "this", ("that",))
    answered = Traced(prediction, ("a prompt",), {"f1": 0.0}, {"bin": "reading failure"})
    log_traces(store.address, found.experiment_id, new, [answered])
    assert lost
    with use_store(store.address):
        (trace,) = search_traces(store.address, found.experiment_id, new, include_spans=True)
    assert {span.name for span in trace.data.spans} == SPANS


def test_a_store_without_traces_costs_the_traces_and_no_more(run, monkeypatch, caplog):
    found = tracked(run)
    recorder = MlflowRecorder(Mlflow()._client(), found.info.run_id, "", "")
    recorder.store = Mlflow()

    def refuse(*arguments):
        raise OSError("no such endpoint at http://me:secret@server")

    monkeypatch.setattr("rag_experiments.tracking.traces._stored", refuse)
    recorder.log_traces([])
    assert "no traces of this run: OSError: no such endpoint" in caplog.text
    assert "secret" not in caplog.text


def test_the_saved_model_is_a_model_of_the_run_in_mlflow(run, monkeypatch):
    import mlflow

    from rag_experiments.tracking.assessments import use_store

    store = Mlflow()
    (output,) = tracked(run).outputs.model_outputs
    with use_store(store.address):
        model = store._client().get_logged_model(output.model_id)
        assert (model.name, model.status) == ("model", "READY")
        loaded = mlflow.pyfunc.load_model(f"models:/{output.model_id}")
        (answer,) = loaded.predict(["Which enzyme joins DNA fragments?"])
    expected = RagPipeline.load(run).ask("Which enzyme joins DNA fragments?")
    assert answer["answer"] == expected.prediction
    assert [each["id"] for each in answer["passages"]] == list(expected.passage_ids)
    assert answer["passages"][0]["score"] == pytest.approx(expected.retrieval_scores[0])


# -- what belongs together ---------------------------------------------------------------------


def test_a_bundle_has_no_pickles_and_no_path_of_this_machine(run):
    files = [path for path in (run / "model").rglob("*") if path.is_file()]
    assert {"model.safetensors"} <= {path.name for path in files}
    suffixes = {path.suffix for path in files}
    assert not suffixes & {".bin", ".pt", ".pth", ".pkl", ".pickle"}
    for path in files:
        content = path.read_bytes()
        assert str(run).encode() not in content, path
        assert b"served_model.py" not in content or b"/served_model.py" not in content, path


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("index/vectors.npy", r"index: not the index that this model was saved with"),
        ("passages.parquet", r"passages.parquet: not the passages that this model was"),
        ("query_encoder/model.safetensors", r"query_encoder: not the query encoder that this"),
        ("generator/model.safetensors", r"generator: not the generator that this"),
        ("config.yaml", r"config.yaml: not the configuration that this"),
        ("weights/x.safetensors", r"weights: no part of this model"),
    ],
)
def test_what_does_not_belong_together_is_refused(copy, change, expected):
    (copy / change).parent.mkdir(exist_ok=True)
    with (copy / change).open("ab") as file:
        file.write(b"other")
    with pytest.raises(UserError, match=expected) as refused:
        RagPipeline.load(copy)
    assert len(refused.value.problems) == 1


def test_a_part_that_is_missing_is_named(copy):
    shutil.rmtree(copy / "query_encoder")
    with pytest.raises(UserError, match=r"query_encoder: missing; copy the whole folder again"):
        RagPipeline.load(copy)


def test_base_weights_are_referred_to_or_copied(copy, tmp_path, monkeypatch, home):
    _, facts = bundle.read(copy)
    assert facts["weights"] == {"retriever.encoder.weights": "random:bert"}  # the rest is whole
    assert start(monkeypatch, export.main, "export", "--whole", str(copy), str(tmp_path / "w")) == 0
    raw, facts = bundle.read(tmp_path / "w")
    assert facts["weights"] == {}
    place = Path(raw.retriever.encoder.weights)
    assert place.is_relative_to(tmp_path / "w")
    assert [path.name for path in place.glob("*.safetensors")] == ["model.safetensors"]
    assert RagPipeline.load(tmp_path / "w").ask("Why?") == RagPipeline.load(copy).ask("Why?")
    with pytest.raises(UserError, match="exists already"):
        export.export_whole(copy, tmp_path / "w")


def test_the_base_of_adapters_is_referred_to_by_its_commit(tmp_path, monkeypatch):
    model = RagToken(generator=Generator(weights="org/name", kind="causal", adapter=Lora()))
    write(tmp_path / "generator" / "adapter_config.json", {})
    names = bundle.base_weights({"model": model}, tmp_path)
    assert names == {"model.generator.weights": "org/name"}
    (tmp_path / "c0ffee").mkdir()
    monkeypatch.setattr(weights, "_fetch_hub", lambda name: tmp_path / "c0ffee")
    raw = OmegaConf.create({"model": {"generator": {"weights": "org/name"}}})
    bundle.write_config(tmp_path, raw, names, tmp_path)
    saved = OmegaConf.load(tmp_path / "config.yaml")
    assert saved.model.generator.weights == "org/name@c0ffee"
    assert raw.model.generator.weights == "org/name"  # what the run records stays as it was given
    fingerprints = bundle.fingerprint_weights(names, tmp_path)
    assert fingerprints == {"model.generator.weights": "org/name@c0ffee (c0ffee)"}


def test_other_weights_in_the_folder_that_a_bundle_refers_to_are_refused(tmp_path):
    base = tmp_path / "base"
    write(base / "config.json", {})
    names = {"model.generator.weights": str(base)}
    facts = {"weights": bundle.fingerprint_weights(names, tmp_path)}
    bundle.check_weights(names, facts, tmp_path)
    write(base / "config.json", {"other": 1})
    with pytest.raises(UserError, match=r"model.generator.weights: the weights in .* are not"):
        bundle.check_weights(names, facts, tmp_path)


# -- more passages -----------------------------------------------------------------------------

NEW = {"id": "new-1", "title": "Ligase", "text": "DNA ligase  joins DNA fragments."}


def test_passages_are_added_and_only_they_are_embedded(copy, tmp_path, monkeypatch, capsys):
    from rag_experiments.encoder import TextEncoder

    embedded = []
    encode = TextEncoder.encode

    def counted(self, texts, *others, **options):
        embedded.append(len(texts))
        return encode(self, texts, *others, **options)

    before = RagPipeline.load(copy)
    monkeypatch.setattr(TextEncoder, "encode", counted)
    file = write(tmp_path / "new" / "more.jsonl", NEW)
    # A cache of its own: in that of the run another test may have left the new vector.
    line = ["add_passages", str(copy), str(file), "--cache-dir", str(tmp_path / "cache")]
    assert start(monkeypatch, add_passages.main, *line) == 0
    assert embedded == [1]
    assert f"1 passages added: {len(before.passages) + 1} in" in capsys.readouterr().out
    after = RagPipeline.load(copy)
    assert after.passage("new-1").text == "DNA ligase joins DNA fragments."  # prepared as the rest
    ids = list(before.passages["id"])
    assert after.passages["id"][:-1] == ids
    assert (after.passage_vectors(ids) == before.passage_vectors(ids)).all()
    every = after.retriever.build(after.passages, runtime(after))
    assert every.vectors(["new-1"]) == pytest.approx(after.passage_vectors(["new-1"]), abs=1e-3)
    assert after.temperature == before.temperature
    leftovers = [path.name for path in copy.parent.iterdir() if path.name.startswith(".")]
    assert leftovers == []


def runtime(pipeline: RagPipeline) -> Any:
    return pipeline.model.query_encoder.runtime  # type: ignore[union-attr]


def test_known_ids_are_refused_unless_they_are_to_be_replaced(copy, tmp_path, monkeypatch, capsys):
    before = RagPipeline.load(copy)
    known = before.passages["id"][0]
    other = {**NEW, "id": known, "text": "Another text."}
    file = write(tmp_path / "new" / "more.jsonl", other, NEW)
    digest = bundle.read(copy)[1]["parts"]
    assert start(monkeypatch, add_passages.main, "add_passages", str(copy), str(file)) == 2
    said = capsys.readouterr().err
    assert f"1 of 2 documents have ids that are in the index, e.g. {known!r}; give them" in said
    assert bundle.read(copy)[1]["parts"] == digest
    add_passages.add_passages(copy, file, replace=True)
    after = RagPipeline.load(copy)
    assert len(after.passages) == len(before.passages) + 1
    assert after.passage(known).title == "Ligase"


def test_a_folder_of_documents_is_added(copy, tmp_path):
    folder = tmp_path / "new"
    (folder / "enzymes").mkdir(parents=True)
    (folder / "enzymes" / "ligase.md").write_text("# Ligase\n\nDNA ligase  joins fragments.\n")
    (folder / "long.txt").write_text("word " * 201)
    with pytest.raises(UserError, match=r"1 of 2 documents are longer than 200 .* not chunk"):
        add_passages.add_passages(copy, folder)
    (folder / "long.txt").unlink()
    add_passages.add_passages(copy, folder)
    added = RagPipeline.load(copy).passage("enzymes/ligase.md")
    assert (added.title, added.text) == ("Ligase", "DNA ligase joins fragments.")


def test_a_wrong_record_is_named_by_file_line_and_field(copy, tmp_path):
    file = write(tmp_path / "new" / "more.jsonl", NEW, {"id": "new-2", "text": 3.5, "title": ""})
    with pytest.raises(UserError, match=r"more.jsonl:2:text: "):
        add_passages.add_passages(copy, file)
    with pytest.raises(UserError, match=r"gone.jsonl"):
        add_passages.add_passages(copy, Path("gone.jsonl"))


# -- other data --------------------------------------------------------------------------------


@pytest.fixture
def data(run, tmp_path):
    """Two new questions, and one that the run was trained on; no passage of the run's."""
    trained_on = lines(run / "training_questions.jsonl")[0]
    folder = tmp_path / "my_data"
    gold = trained_on["passage_ids"][0]  # an id that stands for another text here
    write(
        folder / "passages.jsonl", NEW, *({"id": f"n{i}", "text": f"Word {i}."} for i in range(4))
    )
    with (folder / "passages.jsonl").open("a") as file:
        file.write(json.dumps({"id": gold, "text": "Another text."}) + "\n")
    question = {"answers": ["DNA ligase"], "passage_ids": ["new-1"]}
    write(
        folder / "test.jsonl",
        {"id": "q1", "question": "Which enzyme joins DNA fragments?", **question},
        {"id": "q2", "question": "What does a ligase join?", **question},
        {"id": "q3", "question": trained_on["question"], "answers": ["x"], "passage_ids": [gold]},
    )
    return folder


def run_evaluation(run: Path, *overrides: str) -> str:
    command = [sys.executable, "-m", "rag_experiments.evaluate", str(run), *overrides]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_saved_run_is_evaluated_on_new_data(run, data, monkeypatch):
    printed = run_evaluation(run, "data=folder", f"data.path={data}", "cache_dir=cache")
    said = "of 3 test questions 1 are a training question word for word, 1 nearly the same as one"
    assert f"{said}, 0 share a gold passage with one" in " ".join(printed.split())
    new = Path(printed.partition("saved in ")[2].splitlines()[0])
    rows = {row["id"]: row for row in lines(new / "predictions_trained.jsonl")}
    assert set(rows) == {"q1", "q2", "q3"}
    known = {row["id"] for row in lines(data / "passages.jsonl")}
    assert all(set(row["passage_ids"]) <= known for row in rows.values())  # the index is new

    found, parent = tracked(new), tracked(run)
    assert found.info.status == "FINISHED"
    assert found.data.tags["parent_run_id"] == parent.info.run_id
    assert json.loads((new / "parent.json").read_text())["parent_folder"] == str(run)
    assert (found.data.params["data"], parent.data.params["data"]) == ("folder", "bio_qa")
    assert {"test/f1", "closed_book/f1", "leakage/repeated_questions"} <= set(found.data.metrics)
    assert "train/loss" not in found.data.metrics

    from rag_experiments.report.__main__ import main as report

    assert start(monkeypatch, report, "report", str(run), str(new), "--output", "both") == 0
    page = Path("both/report.md").read_text("utf-8")
    assert "data=folder" in page
    assert "data=bio_qa" in page


def test_another_split_is_the_test(run):
    printed = run_evaluation(run, "test.split=train", "tracking=none", "test.references=false")
    new = Path(printed.partition("saved in ")[2].splitlines()[0])
    rows = lines(new / "predictions_trained.jsonl")
    trained_on = lines(run / "training_questions.jsonl")
    assert {row["id"] for row in rows} == {row["id"] for row in trained_on}
    leakage = json.loads((new / "coverage.json").read_text())["leakage"]
    assert leakage["repeated_questions"] == leakage["test"] == 4
    assert leakage["shared_gold"] == leakage["with_gold"]  # the same passages by text


def test_what_the_saved_run_is_cannot_be_changed(run, monkeypatch, capsys):
    words = ["retriever.top_k=9", "model=concat", "data=foldr", "test.smples=3"]
    assert start(monkeypatch, evaluate.main, "evaluate", str(run), *words) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0] == (
        "retriever.top_k=9: a saved run stays what it is; legal here: data, metrics, test, "
        "tracking, device, precision, cache_dir"
    )
    assert said[1].startswith("model=concat: a saved run stays what it is")
    assert any(line.startswith("data=foldr: no such option; did you mean folder?") for line in said)
    assert any(line.startswith("test.smples: unknown key; did you mean samples?") for line in said)
    assert start(monkeypatch, evaluate.main, "evaluate", "gone", "data=bio_qa") == 2
    assert "'gone' is no finished run" in capsys.readouterr().err


def test_only_what_would_change_the_saved_run_is_said_of_it(run, monkeypatch, capsys):
    words = ["model=concat", "model.query_encoder=null"]  # with its retriever these do not fit
    assert start(monkeypatch, evaluate.main, "evaluate", str(run), *words) == 2
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(": a saved run stays")[0] for line in said] == words


def test_a_sweeps_folder_is_refused_with_its_runs(run, tmp_path, monkeypatch, capsys):
    sweep = tmp_path / "sweep"
    for number in ("0", "1"):
        shutil.copytree(run / "model", sweep / number / "model")
    (sweep / "multirun.yaml").touch()
    expected = f"{str(sweep)!r} is a sweep; its runs: {sweep}/0, {sweep}/1; give one of them"
    for main, *words in (
        (ask_main, "What?"),
        (evaluate.main, "data=bio_qa"),
        (export.main, "new"),
        (add_passages.main, "new.jsonl"),
    ):
        assert start(monkeypatch, main, "command", str(sweep), *words) == 2
        assert capsys.readouterr().err.splitlines() == [expected]
    with pytest.raises(UserError, match=re.escape(expected)):
        read_source(sweep)
    shutil.rmtree(sweep / "0")
    shutil.rmtree(sweep / "1")
    with pytest.raises(UserError, match="is a sweep, and none of its runs is finished"):
        bundle.read(sweep)


def test_what_cannot_be_exported_is_refused_before_it_is_loaded(run, tmp_path, monkeypatch):
    def load(*_: Any, **__: Any) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr(RagPipeline, "load", load)
    with pytest.raises(UserError, match=r"model\.generator\.kind: 'causal'"):
        export.export(run, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_examples_that_were_read_before_are_not_read_again(copy):
    given = Shots([], 1, nearest=False)
    assert RagPipeline.load(copy, shots=given).shots is given


def test_training_questions_are_not_guessed(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "training_questions.jsonl").unlink()
    parent = evaluate.Parent.read(tmp_path / "run")
    with pytest.raises(UserError, match="not known what the run was trained on"):
        parent.training_questions()


def test_new_data_takes_the_place_of_all_that_was_said_of_the_old(run):
    parent = evaluate.Parent.read(run)
    kept = parent.compose(["data=folder", "data.path=x", "test.samples=1"])
    assert "++data.preparation.limit" not in " ".join(kept)
    assert [line for line in kept if "test.samples" in line] == ["test.samples=1"]
    assert "+experiment=smoke" in kept


# -- serving -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_mlflow_serves_the_saved_model(copy, tmp_path):
    """As the README says, with nothing but the package: no run around the folder."""
    port = free_port()
    scripts = tmp_path / "bin"
    scripts.mkdir()  # mlflow calls uvicorn by its name, which a test's environment may not have
    shim = scripts / "uvicorn"
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m uvicorn "$@"\n')
    shim.chmod(0o755)
    environment = {**os.environ, "PATH": f"{scripts}:{os.environ['PATH']}"}
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local"]
    command += ["-m", str(copy), "-p", str(port)]
    log = tmp_path / "log"
    with serving(command, log, env=environment) as process:
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/ping"), 300, log.read_text, process)
        (answer,) = ask(port, {"inputs": ["Which enzyme joins DNA fragments?"]})["predictions"]
        expected = RagPipeline.load(copy).ask("Which enzyme joins DNA fragments?")
        assert answer["answer"] == expected.prediction
        assert [each["text"] for each in answer["passages"]] == list(expected.passages)
        assert {"id", "text", "score", "prior", "posterior"} == set(answer["passages"][0])
        with pytest.raises(urllib.error.HTTPError) as refused:
            ask(port, {"inputs": [" "]})
        assert refused.value.code == 400
        assert f"http://127.0.0.1:{port}" in log.read_text()  # loopback alone


def ask(port: int, content: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations",
        json.dumps(content).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)
