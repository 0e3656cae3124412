"""What a run leaves in MLflow, and what it must not leave there."""

from __future__ import annotations

import json
import logging
import os
import random
import socket
import sqlite3
import subprocess
import sys
import threading
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from rag_experiments import parameters, upload
from rag_experiments.contracts import Prediction, UserError
from rag_experiments.tracking import journal
from rag_experiments.tracking.assessments import TracedRun
from rag_experiments.tracking.mlflow import Mlflow, _columns
from rag_experiments.tracking.mlflow_recorder import MlflowRecorder
from rag_experiments.tracking.none import NoTracking
from rag_experiments.tracking.traces import Traced

SECRET = "do-not-record-me"
ANSWERED = Traced(Prediction("q1", "Who?", "Ada", ("Ada",)), ("Who?",), {"f1": 1.0}, {})


def raw(**changes: Any) -> Any:
    return OmegaConf.merge(
        {
            "seed": 1,
            "model": {"weights": "org/name", "again": "${model.weights}", "beams": 1},
            "labels": ["yes", "no"],
            "empty": {},
            "nothing": None,
            "parts": [{"a": 1}],
        },
        changes,
    )


@pytest.fixture
def client(lay_store, tmp_path, monkeypatch):
    """A store of this test's own, and a client that reads it."""
    lay_store(tmp_path / "outputs" / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Mlflow()._client()


def only_run(client: Any) -> Any:
    (run,) = client.search_runs(["1"])
    return run


def artifact(name: str) -> Path:
    (found,) = Path("outputs/mlartifacts").rglob(name)
    return found


def test_a_run_records_everything(client, tmp_path):
    folder = tmp_path / "saved"
    folder.mkdir()
    (folder / "adapter.bin").write_bytes(b"1234")
    with Mlflow(tags={"who": "me"}).start(
        raw(), Path("outputs/x"), name="one", sweep="s-1", choices={"retriever": "bm25"}
    ) as run:
        run.log_metrics({"test/recall@5": 0.25, "test/f1": 0.5})
        for step in (1, 2):
            run.log_metrics({"train/loss": 1 / step}, step)
        run.log_data("bio_qa", "f" * 64, {"train": 3, "test": 4})
        run.log_predictions([{"id": "q1", "answers": ("a", "b")}, {"id": "q2", "extra": 1}])
        run.log_model(folder, "model")
        run.log_environment({"python": "3", "git_commit": "c0ffee"})
    found = only_run(client)
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "one"
    assert found.data.tags["sweep"] == "s-1"
    assert found.data.tags["who"] == "me"
    assert found.data.tags["mlflow.source.git.commit"] == "c0ffee"
    assert found.data.params == {
        "retriever": "bm25",
        "seed": "1",
        "model.weights": "org/name",
        "model.again": "org/name",
        "model.beams": "1",
        "labels": "[yes, no]",
        "empty": "{}",
        "nothing": "None",
        "parts.0.a": "1",
    }
    # `@` is not legal in a name
    assert found.data.metrics == {"test/recall_at_5": 0.25, "test/f1": 0.5, "train/loss": 0.5}
    curve = client.get_metric_history(found.info.run_id, "train/loss")
    assert [(point.step, point.value) for point in curve] == [(1, 1.0), (2, 0.5)]
    (data,) = found.inputs.dataset_inputs
    assert data.dataset.name == "bio_qa"
    assert data.dataset.digest == "f" * 36
    assert {tag.key: tag.value for tag in data.tags}["train"] == "3"
    assert OmegaConf.load(artifact("config.yaml")) == raw()
    table = json.loads(artifact("predictions.json").read_text())
    assert table["columns"] == ["id", "answers", "extra"]
    assert table["data"][0] == ["q1", ["a", "b"], None]
    assert artifact("adapter.bin").read_bytes() == b"1234"
    assert run.url == f"http://127.0.0.1:5000/#/experiments/1/runs/{found.info.run_id}"
    assert run.ui_command == f"mlflow ui --backend-store-uri sqlite:///{tmp_path}/outputs/mlflow.db"


def test_values_of_the_environment_and_credentials_are_never_recorded(client, monkeypatch):
    monkeypatch.setenv("MY_TOKEN", SECRET)
    config = raw(
        token="${oc.env:MY_TOKEN}",
        referred="${token}",
        inside="Bearer ${oc.env:MY_TOKEN}",
        listed=["${oc.env:MY_TOKEN}", "${token}"],
        hub=f"https://user:{SECRET}@hub.example/path?access_token={SECRET}&page=2",
    )
    assert config.referred == SECRET  # what a run itself reads
    with (
        pytest.raises(ValueError, match="cannot read"),
        Mlflow().start(config, Path("x"), name=f"uri=http://u:{SECRET}@h/"),
    ):
        raise ValueError(f"cannot read http://u:{SECRET}@h/")
    params = only_run(client).data.params
    assert params["token"] == params["referred"] == "${oc.env:MY_TOKEN}"
    assert params["listed"] == "[${oc.env:MY_TOKEN}, ${oc.env:MY_TOKEN}]"
    assert params["hub"] == "https://***@hub.example/path?access_token=***&page=2"
    everything = b"".join(path.read_bytes() for path in Path().rglob("*") if path.is_file())
    assert b"hub.example" in everything
    assert SECRET.encode() not in everything


def test_a_tag_from_the_environment_stays_as_it_is_written(client, monkeypatch):
    monkeypatch.setenv("MY_TOKEN", SECRET)
    tags = {"owner": "${oc.env:MY_TOKEN}", "weights.of": "${model.weights}", "team": "red"}
    config = raw(tracking={"tags": tags})
    with Mlflow(tags=dict(config.tracking.tags)).start(config, Path("x")):
        pass
    found = only_run(client).data.tags
    assert (found["owner"], found["weights.of"]) == (tags["owner"], "org/name")
    whole = raw(mine=tags, tracking={"tags": "${mine}"})
    with Mlflow(tags=dict(whole.tracking.tags)).start(whole, Path("x")):
        pass
    everything = b"".join(path.read_bytes() for path in Path().rglob("*") if path.is_file())
    assert SECRET.encode() not in everything


def test_a_long_value_is_cut_with_a_note(client):
    with Mlflow().start(raw(prompt="x" * 7000), Path("x")):
        pass
    value = only_run(client).data.params["prompt"]
    assert len(value) == parameters.LONGEST_PARAMETER
    assert value.endswith("... [7000 characters; whole in config.yaml]")
    assert "x" * 7000 in artifact("config.yaml").read_text()


@pytest.mark.parametrize(
    ("error", "status", "note"),
    [
        (ValueError("boom"), "FAILED", "ValueError: boom"),
        (KeyboardInterrupt("SIGTERM"), "FAILED", "ended by KeyboardInterrupt: SIGTERM"),
        (SystemExit(143), "FAILED", "ended by SystemExit: 143"),
    ],
)
def test_a_run_that_ends_badly_is_marked(client, error, status, note):
    with pytest.raises(type(error)), Mlflow().start(raw(), Path("x")):
        raise error
    found = only_run(client)
    assert found.info.status == status
    assert found.data.tags["error"] == note


def test_the_comparison_shows_what_differs_and_the_test_scores(client):
    store = Mlflow()
    for name, score in (("bm25", 0.25), ("dense", 0.5)):
        choices = {"retriever": name, "model": "concat"}
        with store.start(raw(), Path(name), name=name, sweep="s", choices=choices) as run:
            run.log_metrics({"test/f1": score, "test/f1_low": 0.0, "seconds/data": 1.0})
    with store.start(raw(), Path("x"), name="another"):
        pass
    said = store.comparison("s")
    command, table, side = said.splitlines()
    assert "mlflow ui --backend-store-uri sqlite:///" in command
    assert table.endswith("/runs?workflowType=machine_learning&viewStateShareKey=s")
    assert "/#/compare-runs?runs=%5B%22" in side
    tags = client.get_experiment("1").tags
    view = json.loads(tags["mlflow.sharedViewState.s"])
    assert view["searchFilter"] == "tags.sweep = 's'"
    assert view["selectedColumns"] == ["params.`retriever`", "metrics.`test/f1`"]
    assert "no run of the sweep t was tracked" in store.comparison("t")


@pytest.mark.parametrize(
    ("runs", "columns"),
    [
        # Keys that follow from the choice of an option say nothing more.
        (
            [
                {"model": "a", "model.beams": "1", "retriever": "x", "retriever.k": "1"},
                {"model": "b", "retriever": "x", "retriever.k": "1"},
            ],
            ["model"],
        ),
        # Those that were swept over beside it do.
        (
            [
                {"model": model, "model.beams": beams, "model.only_b": model}
                for model in "ab"
                for beams in "12"
            ],
            ["model", "model.beams"],
        ),
        (
            [
                {"retriever": "x", "retriever/reranker": "none", "retriever.k": "1"},
                {"retriever": "y"},
            ],
            ["retriever"],
        ),
        ([{"model": "a", "model.beams": "1"}, {"model": "a", "model.beams": "2"}], ["model.beams"]),
        (
            [
                {"model/generator": g, "model.generator.weights": g, "seed": s}
                for g in "gh"
                for s in "12"
            ],
            ["seed", "model/generator"],
        ),
    ],
)
def test_a_comparison_has_a_column_for_what_was_swept_over(runs, columns):
    assert _columns(runs, []) == [f"params.`{name}`" for name in columns]


def test_the_address_comes_from_the_option_then_the_environment(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///env.db")
    assert Mlflow()._uri() == f"sqlite:///{tmp_path}/env.db"
    assert Mlflow(uri="sqlite:////a/b.db")._uri() == "sqlite:////a/b.db"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert Mlflow()._uri() == f"sqlite:///{tmp_path}/outputs/mlflow.db"


def test_an_address_that_is_no_store_is_refused_before_a_run(monkeypatch):
    (problem,) = Mlflow(uri="./mlruns").problems()
    assert problem.startswith("uri: './mlruns' is no store for runs; legal: sqlite:///")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "file:///somewhere")
    (problem,) = Mlflow().problems()
    assert problem.startswith("uri (from MLFLOW_TRACKING_URI): 'file:///somewhere'")
    for legal in ("http://host:5000", "postgresql+psycopg2://u:p@h/db", "sqlite:///x.db"):
        assert Mlflow(uri=legal).problems() == []


@pytest.fixture
def no_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def test_a_server_behind_a_proxy_is_asked_through_the_proxy(no_proxy, monkeypatch):
    asked: list[str] = []

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200 if "there" in self.path else 502)
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Proxy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{server.server_port}")
        Mlflow(uri="http://there.invalid/base/")._require_answer()
        with pytest.raises(UserError, match=r"nothing answers at http://gone.* \(status 502\)"):
            Mlflow(uri="http://gone.invalid")._require_answer()
        server.shutdown()
    assert asked == ["http://there.invalid/base/health", "http://gone.invalid/health"]


def test_the_command_says_where_a_password_belongs():
    store = Mlflow(uri="postgresql://me:pw@host/db")
    assert store._command() == (
        "mlflow ui --backend-store-uri 'postgresql://***@host/db'"
        "  # your user and password in place of ***"
    )


def test_a_silent_server_is_one_line_at_once(no_proxy):
    with pytest.raises(UserError, match=r"tracking\.uri: nothing answers at http://\*\*\*@127"):
        Mlflow(uri="http://me:secret@127.0.0.1:9").prepare()


def test_a_silent_database_is_one_line_at_once():
    with socket.socket() as taken:  # bound and not listening: nothing else answers there
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        line = rf"tracking\.uri: nothing answers at postgresql.*\*\*\*@127\.0\.0\.1:{port}/runs "
        with pytest.raises(UserError, match=line + r"\(.*refused.*start the database"):
            Mlflow(uri=f"postgresql+psycopg://me:secret@127.0.0.1:{port}/runs").prepare()
        taken.listen()
        Mlflow(uri=f"mysql://me:secret@127.0.0.1:{port}/runs")._require_answer()


def test_a_database_whose_address_names_no_host_is_left_to_its_driver():
    for uri in (
        "postgresql:///runs?host=/var/run/nowhere",
        "mssql+pyodbc://me:pw@name_of_a_source",
    ):
        Mlflow(uri=uri)._require_answer()


def test_a_database_of_something_else_is_left_alone(tmp_path):
    file = tmp_path / "own.db"
    sqlite3.connect(file).execute("CREATE TABLE customers (name)").connection.close()
    before = file.read_bytes()
    (problem,) = Mlflow(uri=f"sqlite:///{file}").problems()
    assert problem == (
        f"uri: 'sqlite:///{file}' is the database of something else than MLflow; give another file"
    )
    assert file.read_bytes() == before


def test_a_deleted_experiment_is_said(client):
    store = Mlflow(experiment_name="old")
    number = store.prepare()
    client.delete_experiment(number)
    with pytest.raises(UserError, match=r"'old' was deleted.*mlflow experiments restore -x 1"):
        store.prepare()


def test_tracking_none_records_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with NoTracking().start(raw(), Path("x"), name="a", sweep="b", choices={}) as run:
        run.log_metrics({"a": 1.0})
        run.log_predictions([{}])
        assert run.url == ""
    assert list(tmp_path.iterdir()) == []


def test_a_run_goes_on_while_the_database_is_locked_and_its_records_are_uploaded(
    client, tmp_path, monkeypatch, caplog, capsys
):
    monkeypatch.setenv("MLFLOW_SQLALCHEMYSTORE_POOL_SIZE", "1")
    folder = tmp_path / "run"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "adapter.bin").write_bytes(b"1234")
    other = sqlite3.connect("outputs/mlflow.db", isolation_level=None)
    config = raw(tracking={"_target_": "rag_experiments.tracking.mlflow.Mlflow", "tags": {}})
    with caplog.at_level(logging.WARNING), Mlflow().start(config, folder, "one") as run:
        run.log_metrics({"train/loss": 1.0}, 1)
        other.execute("BEGIN EXCLUSIVE")
        for step in (2, 3):
            run.log_metrics({"train/loss": 1 / step}, step)
        run.log_predictions([{"id": "q1", "answers": ("a", "b")}])
        run.log_traces([asdict(ANSWERED)])
        run.log_model(folder / "model", "model")
        assert run.url == ""
    assert "the run goes on, but tracking does not take its records" in caplog.text
    assert "SQLAlchemy database error" not in caplog.text
    command = f"python -m rag_experiments.upload {folder}"
    assert caplog.messages[-1] == f"when it answers again:  {command}"
    other.execute("ROLLBACK")
    other.close()
    assert only_run(client).info.status == "RUNNING"

    (folder / ".hydra").mkdir()
    OmegaConf.save(config, folder / ".hydra" / "config.yaml")
    monkeypatch.setattr(sys, "argv", command.split()[2:])
    upload.main()
    found = only_run(client)
    assert capsys.readouterr().out.startswith(f"{folder}: recorded as http://127.0.0.1:5000/#/")
    assert found.info.status == "FINISHED"
    curve = client.get_metric_history(found.info.run_id, "train/loss")
    assert [(point.step, point.value) for point in curve] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert json.loads(artifact("predictions.json").read_text())["data"] == [["q1", ["a", "b"]]]
    assert artifact("adapter.bin").read_bytes() == b"1234"
    assert TracedRun(Mlflow().address, found.info.run_id, "1").questions == {"q1"}
    assert sorted(path.name for path in folder.iterdir()) == [".hydra", "model"]
    with pytest.raises(SystemExit, match="2"):
        upload.main()
    assert "nothing is left to record here" in capsys.readouterr().err


def lock(database: Path) -> sqlite3.Connection:
    other = sqlite3.connect(database, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    return other


def cut(database: Path) -> None:
    with database.open("r+b") as file:
        file.truncate(database.stat().st_size // 2)


@pytest.mark.parametrize(
    ("damage", "scheme", "reason"),
    [
        (lock, "sqlite", "database is locked"),
        (cut, "sqlite", "database disk image is malformed"),
        (None, "mssql+nodriver", "Can't load plugin: sqlalchemy.dialects:mssql.nodriver"),
    ],
)
def test_a_database_that_cannot_be_opened_is_one_line(client, tmp_path, damage, scheme, reason):
    place = tmp_path / "outputs" / "mlflow.db"
    address = f"{scheme}:///{place}"
    held = damage and damage(place)
    with pytest.raises(UserError) as refused:
        Mlflow(uri=address).prepare()
    if held is not None:
        held.close()
    assert str(refused.value) == (
        f"tracking.uri: '{address}': {reason}; mend it, or choose another store with tracking.uri="
    )


def test_a_run_that_starts_without_its_server_is_recorded_whole_later(
    client, no_proxy, tmp_path, caplog
):
    folder = tmp_path / "sweep" / "0"
    folder.mkdir(parents=True)
    gone = {"_target_": "rag_experiments.tracking.mlflow.Mlflow", "uri": "http://127.0.0.1:9"}
    config = raw(tracking=gone)

    def fail() -> None:
        with Mlflow(uri=gone["uri"]).start(config, folder, "one", sweep="s") as run:
            run.tag("gold_source", "annotated")
            run.log_traces([asdict(ANSWERED)])
            raise ValueError("boom")

    with caplog.at_level(logging.WARNING), pytest.raises(ValueError, match="boom"):
        fail()
    assert "nothing answers at http://127.0.0.1:9" in caplog.text
    (folder / ".hydra").mkdir()
    OmegaConf.save(config, folder / ".hydra" / "config.yaml")
    (place,) = upload.find([tmp_path / "sweep"])
    with pytest.raises(UserError, match="nothing answers"):
        upload.upload(place)
    upload.upload(place, f"sqlite:///{tmp_path}/outputs/mlflow.db")
    found = only_run(client)
    assert found.info.status == "FAILED"
    assert found.info.run_name == "one"
    assert found.data.tags["error"] == "ValueError: boom"
    assert found.data.tags["sweep"] == "s"
    assert found.data.tags["gold_source"] == "annotated"
    assert found.data.params["seed"] == "1"
    assert TracedRun(Mlflow().address, found.info.run_id, "1").questions == {"q1"}


def test_traces_are_kept_for_a_server_that_went_away(client, no_proxy, tmp_path):
    with Mlflow().start(raw(), tmp_path / "run") as run:
        run._recorder.store = Mlflow(uri="http://127.0.0.1:9")
        run.log_traces([asdict(ANSWERED)])
        assert "nothing answers" in run.reason
    assert TracedRun(Mlflow().address, run.run_id, "1").questions == {"q1"}


def test_a_short_lock_leaves_nothing_to_upload(client, tmp_path, monkeypatch, caplog):
    calls = iter([OSError("locked")])

    def log_metrics(self, metrics, step=None):
        for error in calls:
            raise error
        original(self, metrics, step)

    original = MlflowRecorder.log_metrics
    monkeypatch.setattr(MlflowRecorder, "log_metrics", log_metrics)
    with caplog.at_level(logging.INFO), Mlflow().start(raw(), tmp_path / "run") as run:
        run.log_metrics({"test/f1": 0.5})
        run.tag("after", "that")
    assert caplog.messages[-1] == "tracking answers again: what was kept is recorded"
    found = only_run(client)
    assert found.info.status == "FINISHED"
    assert found.data.metrics == {"test/f1": 0.5}
    assert found.data.tags["after"] == "that"
    assert list((tmp_path / "run").iterdir()) == []


def test_a_line_that_a_kill_cut_short_is_not_read(tmp_path):
    kept = journal.Journal(tmp_path)
    kept.begin({"tags": {}, "name": None})
    kept.add("tag", ("a", "b"), {})
    with kept.path.open("a") as file:
        file.write('["tag", ["c"')
    assert kept.read() == ({"tags": {}, "name": None}, [("tag", ["a", "b"], {})])


def test_runs_of_dead_processes_are_marked_and_later_attempts_take_their_place(client, tmp_path):
    store = Mlflow()
    number = store.prepare()
    folders = [tmp_path / str(n) for n in range(4)]
    tags = [{"output_dir": str(folder), "sweep": "s"} for folder in folders]
    tags.append({"output_dir": str(tmp_path / "x"), "sweep": "another"})
    runs = [client.create_run(number, tags=own).info.run_id for own in tags]
    store.settle("s", {folders[0]: "killed", folders[1]: "", folders[3]: "not started"})
    states = [client.get_run(run).info.status for run in runs]
    assert states == ["FAILED", "FINISHED", "RUNNING", "FAILED", "RUNNING"]
    assert client.get_run(runs[0]).data.tags["error"] == "killed"
    with store.start(raw(), folders[0], sweep="s"):
        pass
    assert "sweep" not in client.get_run(runs[0]).data.tags
    assert client.get_run(runs[0]).data.tags["earlier_attempt_of"] == "s"
    with store.start(raw(), tmp_path / "x"):  # a single run, begun again
        pass
    assert client.get_run(runs[4]).info.status == "FAILED"
    assert client.get_run(runs[4]).data.tags["sweep"] == "another"
    found = client.search_runs([number], "tags.sweep = 's'")
    assert len(found) == 4
    assert store.find(folders[0]).info.status == "FINISHED"


WRITER = """
import sys
from pathlib import Path
from omegaconf import OmegaConf
from rag_experiments.tracking.mlflow import Mlflow
with Mlflow().start(OmegaConf.create({"seed": int(sys.argv[1])}), Path("x")) as run:
    run.log_metrics({"test/f1": 0.5})
"""


def test_runs_with_the_same_seed_keep_their_own_traces(client, tmp_path):
    numbers = []
    for name in ("a", "b"):
        random.seed(13)  # as each run does
        with Mlflow().start(raw(), tmp_path / name) as recorder:
            numbers.append(recorder.run_id)
            recorder.log_traces([asdict(ANSWERED)])
    for number in numbers:
        assert TracedRun(Mlflow().address, number, "1").questions == {"q1"}


def test_processes_that_start_together_do_not_collide(tmp_path, monkeypatch):
    """Two processes that create the same sqlite file at the same time crash without the lock."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    results: list[int] = []

    def write(number: int) -> None:
        command = [sys.executable, "-c", WRITER, str(number)]
        results.append(subprocess.run(command, env=environment, timeout=120).returncode)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [0, 0]
    runs = Mlflow()._client().search_runs(["1"])
    assert {run.data.params["seed"] for run in runs} == {"0", "1"}


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("postgresql://me:pw@host/db", "postgresql://***@host/db"),
        ("postgresql+psycopg2://me:p%40w@host/db", "postgresql+psycopg2://***@host/db"),
        ("https://token@host/", "https://***@host/"),
        ("http://a:b@c/ and http://d:e@f/", "http://***@c/ and http://***@f/"),
        ("https://host/x?api_key=abc&y=1", "https://host/x?api_key=***&y=1"),
        ("https://host/x?y=1", "https://host/x?y=1"),
        (r"+a=http\://me\:pw@host/x?token\=abc", r"+a=http\://***@host/x?token\=***"),
        ("a@b.example, see http://host/", "a@b.example, see http://host/"),
        ("pypi:x==1/y#sha256=00", "pypi:x==1/y#sha256=00"),
    ],
)
def test_mask(text, masked):
    assert parameters.mask(text) == masked


@pytest.mark.parametrize(
    "sweep", ["sweeps-anna's", "sweeps-lr=1,ünï 空 (2)", "sweeps-" + "x" * 245]
)
def test_a_sweep_is_compared_whatever_its_folder_is_called(client, tmp_path, sweep):
    with Mlflow().start(raw(), tmp_path, sweep=sweep) as recorder:
        recorder.log_metrics({"test/f1": 0.5})
    assert "compare-runs" in Mlflow().comparison(sweep)
