"""The comparison view in a real browser."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from rag_experiments import tracking

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER),
        reason="no chromium and chromedriver (Debian: apt-get install chromium chromium-driver)",
    ),
]

EXPECTED = ("with-bm25", "with-dense", "test/f1")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--window-size=1600,1000",
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def sweep(tmp_path: Path) -> tracking.Mlflow:
    """A store with the two runs of a sweep and one run that does not belong to it."""
    store = tracking.Mlflow(uri=f"sqlite:///{tmp_path}/mlflow.db")
    runs = (("with-bm25", "bm25", 0.4375, "s"), ("with-dense", "dense", 0.5625, "s"))
    for name, retriever, score, tag in (*runs, ("stranger", "none", 0.1, None)):
        raw = OmegaConf.create({"retriever": {"top_k": 3}})
        choices = {"retriever": retriever}
        with store.start(raw, tmp_path, name=name, sweep=tag, choices=choices) as run:
            run.log_metrics({"test/f1": score, "test/recall@3": score / 2})
    return store


@pytest.fixture
def server(sweep: tracking.Mlflow, tmp_path: Path) -> Iterator[int]:
    port = free_port()
    environment = {
        **os.environ,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    command = [sys.executable, "-m", "mlflow", "ui", "--workers", "1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path}/mlflow.db"]
    with (tmp_path / "server.log").open("w") as log:
        # A session of its own, because the server starts further processes.
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=environment, cwd=tmp_path, start_new_session=True
        )
    try:
        wait_for(lambda: answers(port), 120, lambda: (tmp_path / "server.log").read_text())
        yield port
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


def wait_for(condition, seconds: float, evidence) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, evidence()
        time.sleep(0.5)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path}/profile"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    yield driver
    driver.quit()


def test_the_runs_of_a_sweep_compare_in_the_browser(sweep, server, browser):
    _, table, side = (line.split()[-1] for line in sweep.comparison("s").splitlines())

    def page() -> str:
        return browser.find_element("tag name", "body").text

    for address in (table, side):
        browser.get("about:blank")
        browser.get(address.replace("127.0.0.1:5000", f"127.0.0.1:{server}"))
        wait_for(lambda: all(text in page() for text in EXPECTED), 90, page)
        shown = page()
        # Rounded to three places in the table, whole in the side-by-side view.
        assert "0.437" in shown or "0.438" in shown, shown
        assert "0.562" in shown or "0.563" in shown, shown
        assert "stranger" not in shown
