"""What a whole run leaves: in MLflow and in its folder, through the entry and experiment.run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from rag_experiments import __main__ as entry
from rag_experiments.tracking.mlflow import Mlflow

SECRET = "do-not-record-me"
LINE = [
    "+experiment=smoke",
    "trainer=frozen",
    "model=concat",
    "model/generator=tiny_causal",
    "data.preparation.limit.test=4",
    "data.preparation.limit.validation=4",
    "data.preparation.limit.passages=16",
    "task.max_answer_tokens=4",
    "cache_dir=cache",
    "tracking.tags={owner: '${oc.env:MY_TOKEN}', link: 'https://me:do-not-record-me@host/'}",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, lay_store):
    """Where a sweep of two tiny runs has been."""
    folder = tmp_path_factory.mktemp("sweep")
    lay_store(folder / "outputs" / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("MY_TOKEN", SECRET)
        patch.setattr(sys, "argv", ["rag_experiments", "-m", *LINE, "retriever=bm25,none"])
        with pytest.raises(SystemExit) as exit_:
            entry.main()
        assert not exit_.value.code
    return folder


@pytest.fixture
def runs(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Mlflow()._client().search_runs(["1"], order_by=["attributes.start_time"])


def test_the_options_of_each_group_are_parameters(runs):
    chosen = [run.data.params for run in runs]
    assert [params["retriever"] for params in chosen] == ["bm25", "none"]
    for params in chosen:
        assert params["model"] == "concat"
        assert params["model/generator"] == "tiny_causal"
        assert params["trainer"] == "frozen"


def test_the_comparison_has_one_column_for_what_differs(runs):
    tags = Mlflow()._client().get_experiment("1").tags
    (view,) = (json.loads(value) for key, value in tags.items() if "sharedViewState" in key)
    parameters = [name for name in view["selectedColumns"] if name.startswith("params.")]
    assert parameters == ["params.`retriever`"]


def test_figures_say_where_gold_passages_come_from(runs, folder):
    assert {run.data.tags["gold_source"] for run in runs} == {"annotated"}
    jobs = [path.parent for path in folder.rglob("metrics.json") if "sweeps" in path.parts]
    assert len(jobs) == 2
    for job in jobs:
        assert json.loads((job / "metrics.json").read_text())["gold_source"] == "annotated"
        assert "limited to 4" in (job / "notes.txt").read_text()
        rows = [json.loads(line) for line in (job / "predictions_untrained.jsonl").open()]
        assert len(rows) == 4
        assert all(0 <= row["f1"] <= 1 and row["gold_source"] == "annotated" for row in rows)
    uploaded = sorted((folder / "outputs" / "mlartifacts").rglob("notes.txt"))
    assert len(uploaded) == 2
    assert uploaded[0].read_text() == (jobs[0] / "notes.txt").read_text()


def test_the_reference_conditions_and_the_errors_are_recorded(runs, folder):
    for run in runs:
        logged = run.data.metrics
        assert {"closed_book/f1", "gold/f1", "gold/f1_low", "coverage/in_passages"} <= set(logged)
        assert "gold/recall" not in logged  # it would say again what was put in
        assert sum(value for name, value in logged.items() if name.startswith("errors/")) == 4
    assert runs[1].data.metrics["closed_book/f1"] == runs[1].data.metrics["test/f1"]
    for job in (path.parent for path in folder.rglob("sweeps/**/metrics.json")):
        rows = {
            name: [json.loads(line) for line in (job / f"{name}.jsonl").open()]
            for name in ("predictions_untrained", "predictions_closed_book", "predictions_gold")
        }
        ids = [row["id"] for row in rows["predictions_untrained"]]
        assert all([row["id"] for row in found] == ids for found in rows.values())
        assert all(row["passage_ids"] == [] for row in rows["predictions_closed_book"])
        assert all(
            set(row["passage_ids"]) <= set(row["gold_passage_ids"])
            for row in rows["predictions_gold"]
        )
        assert [json.loads(line)["id"] for line in (job / "errors.jsonl").open()] == ids
        assert json.loads((job / "errors.json").read_text())["questions"] == 4
        assert json.loads((job / "coverage.json").read_text())["leakage"]["test"] == 4


def test_neither_environment_nor_credentials_leave_the_machine(runs, folder):
    sent = [folder / "outputs" / "mlflow.db", *(folder / "outputs" / "mlartifacts").rglob("*")]
    bundles = [path.parent / "config.yaml" for path in folder.rglob("pipeline.json")]
    saved = [*bundles, *folder.rglob("outcome.json")]
    assert len(saved) == 2 * 2 + 2  # each bundle in its run's folder and in MLflow
    everything = {path: path.read_bytes() for path in (*sent, *saved) if path.is_file()}
    assert [path for path, content in everything.items() if SECRET.encode() in content] == []
    assert runs[0].data.tags["owner"] == "${oc.env:MY_TOKEN}"
    assert runs[0].data.tags["link"] == "https://***@host/"


def test_memory_is_measured_for_each_job(runs):
    assert all(run.data.metrics["memory/peak_mib"] > 100 for run in runs)


def test_a_bundle_loads_with_its_masked_configuration(runs, folder):
    from rag_experiments.ask import describe
    from rag_experiments.pipeline import RagPipeline

    saved = sorted(path.parent for path in folder.rglob("sweeps/**/model/pipeline.json"))
    pipelines = [RagPipeline.load(path, device="cpu") for path in saved]
    assert "p(z|x)" in describe(pipelines[0].ask("What is a promoter?"))
    assert "closed book" in describe(pipelines[1].ask("What is a promoter?"))


def test_the_runs_lie_under_the_folder_of_the_sweep(folder):
    assert len(list(Path(folder, "outputs", "sweeps", "smoke").iterdir())) == 1
