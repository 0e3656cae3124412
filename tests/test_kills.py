"""Sweeps that are killed again and again, at any moment, and what stands at the end."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rag_experiments.sweep import outcomes
from rag_experiments.tracking.mlflow import Mlflow

KILLS = 32
SEED = 1

SWEEP = [
    "rag_experiments",
    "+experiment=smoke",
    "-m",
    "trainer=supervised,joint",
    "metrics=question_answering",
    "test.samples=0",
    "test.rewordings=false",
    "model.generator.adapter={_target_: rag_experiments.model.generator.Lora, dropout: 0.3}",
    "data.preparation.limit={train: 8, validation: 2, test: 2, passages: 16}",
    "task.max_answer_tokens=3",
    "trainer.max_steps=6",
    "trainer.per_device_train_batch_size=2",
    "trainer.eval_strategy=steps",
    "trainer.eval_steps=3",
    "trainer.save_seconds=0",
    "device=cpu",
    "precision=float32",
]

# Starts sweeps as its children: what they import, for seconds, is imported once.
NURSERY = """
import gc, json, os, signal, sys
import faiss, mlflow, peft, torch, transformers
from mlflow import MlflowClient
from rag_experiments import __main__ as entry
from rag_experiments import experiment
from rag_experiments.model import language_model, rag_model
from rag_experiments.report import runs, writing
from rag_experiments.trainer import loop
torch.set_num_threads(1)
gc.collect()
gc.freeze()  # what is imported need not be looked through at the end of each stage
print("ready", flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    if isinstance(asked, int):  # until then the number is not another process's
        print(os.waitstatus_to_exitcode(os.waitpid(asked, 0)[1]), flush=True)
        continue
    folder, arguments, log = asked
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(file, stream)
        sys.argv = arguments
        entry.main()
    print(child, flush=True)
"""


class Nursery:
    """A process that starts others."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        environment.pop("MLFLOW_TRACKING_URI", None)
        self.process = subprocess.Popen(
            [sys.executable, "-c", NURSERY],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self._read() == "ready"

    def start(self, folder: Path, arguments: list[str], log: Path) -> int:
        """Start a command line in a folder; return the number of its process."""
        folder.mkdir(exist_ok=True)
        return int(self._ask([str(folder), arguments, str(log)]))

    def wait(self, number: int) -> int:
        """Wait for a process's end; return its exit code, negative: the signal that killed it."""
        return int(self._ask(number))

    def _ask(self, what: Any) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        return self._read()

    def _read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    made = Nursery()
    yield made
    assert made.process.stdin is not None
    made.process.stdin.close()
    made.process.wait(60)


def results(folder: Path) -> dict[str, Any]:
    """What a sweep found, by the names of its files, without the time that it took."""
    found: dict[str, Any] = {}
    (home,) = folder.glob("outputs/sweeps/smoke/*")
    for job in sorted(home.glob("[0-9]*")):
        metrics = json.loads((job / "metrics.json").read_text("utf-8"))
        del metrics["seconds"]
        found[f"{job.name}/metrics"] = metrics
        for path in (*sorted(job.glob("predictions_*.jsonl")), job / "curves.jsonl"):
            found[f"{job.name}/{path.name}"] = path.read_text("utf-8")
        assert not (job / "checkpoints").exists()
    return found


@pytest.fixture(scope="module")
def undisturbed(nursery, tmp_path_factory) -> tuple[dict[str, Any], float]:
    """The results of the sweep, and its seconds."""
    folder = tmp_path_factory.mktemp("undisturbed")
    begin = time.monotonic()
    code = nursery.wait(nursery.start(folder, SWEEP, folder / "log.txt"))
    assert code == 0, tail(folder / "log.txt")
    found = results(folder)
    assert len(found) == 2 * 6
    return found, time.monotonic() - begin


def tail(log: Path) -> str:
    return log.read_text("utf-8", errors="replace")[-3000:]


@pytest.mark.slow
@pytest.mark.on_demand
def test_a_sweep_that_is_killed_again_and_again_ends_as_if_it_had_not_been(
    nursery, undisturbed, tmp_path
):
    begin = time.monotonic()
    expected, whole = undisturbed
    moments = random.Random(SEED)
    kills = {signal.SIGKILL: 0, signal.SIGTERM: 0}
    sweeps = 0
    while sum(kills.values()) < KILLS:
        folder, log = tmp_path / f"sweep-{sweeps}", tmp_path / f"{sweeps}.txt"
        tracked = sweeps % 2 == 0  # the others spend their time, and die, in the stages
        while True:
            line = SWEEP if tracked else [*SWEEP, "tracking=none"]
            number = nursery.start(folder, line, log)
            time.sleep(moments.uniform(0, 0.8 * whole))
            chosen = signal.SIGTERM if moments.random() < 0.2 else signal.SIGKILL
            os.kill(number, chosen)  # nothing comes of it where the sweep has ended
            asked = time.monotonic()
            code = nursery.wait(number)
            if code == 0:
                break
            if code == 1 and "died 3 times in a row" in tail(log):
                continue  # the other job came first
            assert code in (-signal.SIGKILL, -signal.SIGTERM, 143), (code, tail(log))
            assert time.monotonic() - asked < 60
            kills[chosen] += 1
            for outcome in folder.glob("outputs/sweeps/*/*/*/outcome.json"):
                assert outcomes.Outcome.read(outcome.parent) is not None
        assert results(folder) == expected
        sweeps += 1
        if not tracked:
            continue
        client = Mlflow(uri=f"sqlite:///{folder}/outputs/mlflow.db")._client()
        found = client.search_runs(["1"])
        states = [run.info.status for run in found if "sweep" in run.data.tags]
        assert states == ["FINISHED"] * 2
        others = [run for run in found if "sweep" not in run.data.tags]
        assert all(run.info.status == "FAILED" and run.data.tags["error"] for run in others)
        assert not list(folder.rglob("unrecorded.jsonl"))
    print(f"{kills}, {sweeps} sweeps, {time.monotonic() - begin:.0f} s, {whole:.0f} s undisturbed")


@pytest.mark.slow
def test_four_runs_that_start_together_share_one_cold_cache_and_one_new_database(
    nursery, undisturbed, tmp_path
):
    line = [SWEEP[0], *(word for word in SWEEP[1:] if word not in ("-m", SWEEP[3]))]
    lines = [[*line, "trainer=supervised", f"hydra.run.dir=outputs/{n}"] for n in range(4)]
    logs = [tmp_path / f"{number}.txt" for number in range(4)]
    numbers = [nursery.start(tmp_path, *each) for each in zip(lines, logs, strict=True)]
    codes = [nursery.wait(number) for number in numbers]
    assert codes == [0] * 4, "\n".join(map(tail, logs))
    expected, _ = undisturbed
    for number in range(4):
        rows = (tmp_path / "outputs" / str(number) / "predictions_trained.jsonl").read_text("utf-8")
        assert rows == expected["0/predictions_trained.jsonl"]
    client = Mlflow(uri=f"sqlite:///{tmp_path}/outputs/mlflow.db")._client()
    assert [run.info.status for run in client.search_runs(["1"])] == ["FINISHED"] * 4


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of its own, which `mount -o remount,...` makes full or read-only."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("file systems can only be mounted by root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.on_demand
def test_a_full_disk_is_one_line_and_the_sweep_goes_on_when_there_is_room(
    nursery, undisturbed, small_disk, tmp_path
):
    expected, _ = undisturbed
    line = [*SWEEP, "tracking=none"]
    codes = []
    for room in (0.2, 1, 2, 4, 6, 400):
        remount(small_disk, f"size={int(room * 2**20)}")
        log = tmp_path / f"{room}.txt"
        codes.append(nursery.wait(nursery.start(small_disk, line, log)))
        if codes[-1] != 0:
            assert "Traceback" not in log.read_text("utf-8"), tail(log)
            assert "cannot be written: no space is left on the disk" in log.read_text("utf-8")
    assert codes[0] != 0  # 2, or 1 where not even the outcome found room
    assert codes[-1] == 0
    assert results(small_disk) == expected


@pytest.mark.slow
def test_a_read_only_cache_is_one_line(nursery, small_disk, tmp_path):
    remount(small_disk, "ro")
    log = tmp_path / "log.txt"
    line = [*SWEEP, f"cache_dir={small_disk}/cache"]
    assert nursery.wait(nursery.start(tmp_path / "work", line, log)) == 2
    assert log.read_text("utf-8") == (
        f"cache_dir: '{small_disk}/cache' cannot be written: the file system is read-only; mend "
        "it, or choose another folder with cache_dir=\n"
    )
