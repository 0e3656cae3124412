"""The comparison view in a real browser."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from entry_calls import SMALL_SMOKE, call
from servers import answers, free_port, serving, wait_for

from rag_experiments.sweep.outcomes import tag
from rag_experiments.tracking.mlflow import Mlflow

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER),
        reason="no chromium and chromedriver (Debian: apt-get install chromium chromium-driver)",
    ),
]

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
    "--window-size=2400,1000",
)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory, lay_store) -> Path:
    """A folder in which the main command ran a sweep of two runs, and one run outside of it."""
    folder = tmp_path_factory.mktemp("sweep")
    lay_store(folder / "outputs" / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        for arguments in (["-m", "retriever=bm25,dense"], ["retriever=none"]):
            assert not call(patch, *SMALL_SMOKE, "trainer=supervised", *arguments)
    return folder


@pytest.fixture
def server(sweep: Path, tmp_path: Path) -> Iterator[int]:
    port = free_port()
    environment = {
        **os.environ,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    command = [sys.executable, "-m", "mlflow", "ui", "--workers", "1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{sweep}/outputs/mlflow.db"]
    log = tmp_path / "server.log"
    with serving(command, log, env=environment, cwd=sweep):
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/health"), 120, log.read_text)
        yield port


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
    (folder,) = sweep.glob("outputs/sweeps/*/*")
    store = Mlflow(uri=f"sqlite:///{sweep}/outputs/mlflow.db")
    _, table, side = (line.split()[-1] for line in store.comparison(tag(folder)).splitlines())
    names = ("retriever=bm25", "retriever=dense")
    figures = [
        json.loads((job / "metrics.json").read_text("utf-8"))["trained"]["answer_in_context"][
            "value"
        ]
        for job in sorted(folder.glob("[0-9]"))
    ]
    assert len(set(figures)) == len(names)  # else the page would say nothing about which is which

    def page() -> str:
        return browser.find_element("tag name", "body").text

    def open_page(address: str, *texts: str) -> str:
        browser.get("about:blank")
        browser.get(address.replace("127.0.0.1:5000", f"127.0.0.1:{server}"))
        wait_for(lambda: all(text in page() for text in (*names, *texts)), 90, page)
        assert "retriever=none" not in page()
        return page()

    shown = open_page(table, "test/answer_in_context")
    numbers = [float(number) for number in re.findall(r"\b\d+(?:\.\d+)?\b", shown)]
    for figure in figures:  # the page may round
        assert any(abs(figure - number) < 1e-3 for number in numbers), (figure, shown)
    open_page(side, "Comparing 2 Runs")  # of the metrics it renders those in view alone
