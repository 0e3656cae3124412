"""Runs side by side, recorded by an MLflow server on PostgreSQL."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from entry_calls import SMALL_SMOKE
from servers import answers, free_port, serving, wait_for

from rag_experiments import upload
from rag_experiments.sweep import outcomes
from rag_experiments.tracking import journal
from rag_experiments.tracking.assessments import search_traces, use_store
from rag_experiments.tracking.mlflow import Mlflow

PROGRAMS = max(Path("/usr/lib/postgresql").glob("*/bin"), default=Path())
SEEDS = range(1, 5)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (PROGRAMS / "initdb").exists(),
        reason="no PostgreSQL (Debian: apt-get install postgresql)",
    ),
]


@pytest.fixture
def database(tmp_path_factory) -> Iterator[str]:
    """Address of an empty PostgreSQL database on this machine."""
    # PostgreSQL does not run as root; its Debian package brings a user for it.
    as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    folder = Path("/tmp") / f"rag-experiments-postgres-{os.getpid()}"  # a socket's path is short
    folder.mkdir(mode=0o700)
    try:
        if as_user:
            shutil.chown(folder, "postgres")
        data, port = folder / "data", free_port()
        make = [PROGRAMS / "initdb", "-D", data, "-U", "runs", "-A", "trust", "--no-sync"]
        subprocess.run([*as_user, *make], cwd=folder, check=True, capture_output=True)
        serve = [PROGRAMS / "postgres", "-D", data, "-p", port, "-k", folder]
        log = tmp_path_factory.mktemp("postgres") / "log"
        command = [*as_user, *serve, "-c", "listen_addresses=127.0.0.1"]
        # Asked with SIGINT it ends at once, with SIGTERM when nobody is connected any more.
        with serving(list(map(str, command)), log, signal.SIGINT, cwd=folder) as process:
            reach = [PROGRAMS / "pg_isready", "-h", "127.0.0.1", "-p", str(port)]
            listens = partial(subprocess.run, reach, capture_output=True)
            wait_for(lambda: not listens().returncode, 120, log.read_text, process)
            yield f"postgresql+psycopg://runs@127.0.0.1:{port}/postgres"
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def server(database, tmp_path) -> Iterator[str]:
    """Address of an MLflow server with two workers that keeps runs in PostgreSQL."""
    address = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", database]
    command += ["--artifacts-destination", str(tmp_path / "artifacts"), "--workers", "2"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    log = tmp_path / "server.log"
    with serving(command, log, signal.SIGINT, cwd=tmp_path) as process:
        wait_for(lambda: answers(f"{address}/health"), 120, log.read_text, process)
        yield address


def read_spans(server, experiment, run_id, seconds=60):
    """How many spans each trace of a run has; a server at work may pass over some for a while."""
    end = time.monotonic() + seconds
    while True:
        with use_store(server):  # they may be among the artifacts
            traces = list(search_traces(server, experiment, run_id, True))
        counts = [len(trace.data.spans) for trace in traces]
        if len(counts) > 1 or time.monotonic() > end:
            return counts
        time.sleep(1)


def test_jobs_side_by_side_lose_nothing(server, tmp_path):
    """Four at once, on a server that has no experiment yet."""
    line = [sys.executable, "-m", "rag_experiments", "-m", *SMALL_SMOKE, f"tracking.uri={server}"]
    line += ["trainer.max_steps=2", "seed=" + ",".join(map(str, SEEDS)), "tracking.traces=2"]
    done = subprocess.run(
        [*line, "hydra/launcher=joblib", f"hydra.launcher.n_jobs={len(SEEDS)}"],
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    logs = "".join(log.read_text("utf-8") for log in tmp_path.rglob("*.log"))
    assert "no traces" not in logs + done.stderr, logs[-20000:]
    (swept,) = tmp_path.glob("outputs/sweeps/smoke/*")
    for kept in swept.glob(f"*/{journal.NAME}"):  # what a server too busy to answer did not take
        upload.upload(kept.parent)
    found = outcomes.read(swept)
    assert len(found) == len(SEEDS)
    store = Mlflow(uri=server)
    client = store._client()
    (experiment,) = [e for e in client.search_experiments() if e.name == "rag_experiments"]
    runs = {run.info.run_id: run for run in client.search_runs([experiment.experiment_id])}
    assert sorted(runs) == sorted(outcome.run_id for outcome in found.values())
    for number, outcome in found.items():
        run, folder = runs[outcome.run_id], swept / number
        assert run.info.status == "FINISHED"
        assert run.data.params["seed"] == str(SEEDS[int(number)])
        assert outcome.final is not None
        assert run.data.metrics[f"test/{outcome.metric}"] == pytest.approx(outcome.final.value)
        points = [json.loads(row) for row in (folder / "curves.jsonl").open()]
        losses = [point["train/loss"] for point in points if "train/loss" in point]
        recorded = client.get_metric_history(outcome.run_id, "train/loss")
        assert [point.value for point in recorded] == pytest.approx(losses)
        table = client.download_artifacts(outcome.run_id, "predictions_trained.json", str(folder))
        rows = (folder / "predictions_trained.jsonl").read_text("utf-8").splitlines()
        assert len(json.loads(Path(table).read_text("utf-8"))["data"]) == len(rows)
        found_spans = read_spans(server, experiment.experiment_id, outcome.run_id)
        bare = search_traces(server, experiment.experiment_id, outcome.run_id)
        assert found_spans == [3, 3], (logs[-20000:], [each.info.to_dict() for each in bare])
        assert run.outputs.model_outputs
