"""The smoke experiment as a user starts it: every stage, on tiny random models, offline."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from entry_calls import SMALL_SMOKE


def start(folder: Path, *arguments: str) -> str:
    """Run the command line in a folder of its own; return what it printed."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    done = subprocess.run(
        [sys.executable, "-m", "rag_experiments", "+experiment=smoke", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def run_folder(folder: Path) -> Path:
    (found,) = folder.glob("outputs/runs/*/*/metrics.json")
    return found.parent


def metrics(run: Path) -> dict:
    values = json.loads((run / "metrics.json").read_text("utf-8"))
    return {name: value for name, value in values.items() if name != "seconds"}


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("first")
    return folder, start(folder)


def test_a_run_says_what_it_found_and_where_it_is(first):
    folder, said = first
    run = run_folder(folder)
    for expected in ("untrained", "trained", "f1", "five answers", str(run), "mlflow ui"):
        assert expected in said
    saved = {path.name for path in run.iterdir()}
    assert {"metrics.json", "predictions_untrained.jsonl", "predictions_trained.jsonl"} <= saved
    assert {"generator", "index", "passages.parquet", "config.yaml"} <= {
        path.name for path in (run / "model").iterdir()
    }
    curves = [json.loads(line) for line in (run / "curves.jsonl").read_text("utf-8").splitlines()]
    assert [point["step"] for point in curves if "train/loss" in point] == [1, 2, 3, 4]
    assert metrics(run)["sizes"] == {"train": 16, "validation": 8, "test": 8, "passages": 64}
    assert not (run / "checkpoints").exists()  # the best is in model/, and nothing else stays


def test_the_same_command_and_seed_give_the_same_figures_on_empty_stores(first, tmp_path):
    start(tmp_path)
    again, before = run_folder(tmp_path), run_folder(first[0])
    assert metrics(again) == metrics(before)
    for name in ("predictions_untrained.jsonl", "predictions_trained.jsonl"):
        assert (again / name).read_text("utf-8") == (before / name).read_text("utf-8")


def test_a_saved_run_answers_as_it_did_from_any_folder(first, tmp_path, monkeypatch):
    from rag_experiments.contracts import Question
    from rag_experiments.pipeline import RagPipeline

    monkeypatch.chdir(tmp_path)
    run = run_folder(first[0])
    rows = [
        json.loads(line)
        for line in (run / "predictions_trained.jsonl").read_text("utf-8").splitlines()
    ]
    pipeline = RagPipeline.load(run)
    found = pipeline.predict([Question(row["id"], row["question"]) for row in rows])
    assert [p.prediction for p in found] == [row["prediction"] for row in rows]
    assert [list(p.passage_ids) for p in found] == [row["passage_ids"] for row in rows]
    assert not list(tmp_path.iterdir())  # the run's own cache was found


@pytest.mark.slow
def test_every_model_goes_through_every_stage(tmp_path, lay_store):
    lay_store(tmp_path / "outputs" / "mlflow.db")
    start(
        tmp_path,
        *SMALL_SMOKE[1:],
        "-m",
        "model=rag_token,rag_sequence,concat,fusion",
        "model/generator=tiny_seq2seq",
        "retriever=bm25",
        "trainer=supervised",
    )
    found = sorted(tmp_path.glob("outputs/sweeps/smoke/*/*/metrics.json"))
    assert len(found) == 4
    for path in found:
        assert {"untrained", "trained"} <= metrics(path.parent).keys()
