"""Rules for the whole suite: its processes, what may be skipped in CI, a clean Hydra."""

from __future__ import annotations

import fnmatch
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import absl.logging
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

ROOT = Path(__file__).parent.parent
ALLOWED_SKIPS = ROOT / ".ci" / "allowed_skips.txt"

_skipped: list[tuple[str, str]] = []


@pytest.fixture(autouse=True)
def _no_hydra_left_over() -> Iterator[None]:
    yield
    GlobalHydra.instance().clear()
    HydraConfig.instance().cfg = None


@pytest.fixture
def nothing_waits() -> Iterator[None]:
    """No weights of an earlier test are in memory, and none of this one stay there."""
    from rag_experiments import resident

    resident.clear()
    yield
    resident.clear()


@pytest.fixture(scope="session")
def lay_store(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], None]:
    """Put an empty MLflow store at a path: its tables, which take seconds, are made once and
    copied. That a run makes its own is left to the first of the smoke experiment."""
    made = tmp_path_factory.mktemp("store") / "mlflow.db"

    def lay(path: Path) -> None:
        if not made.exists():
            from rag_experiments.tracking.mlflow import Mlflow

            Mlflow(uri=f"sqlite:///{made}")._client().search_experiments()
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(made, path)

    return lay


def pytest_configure(config: pytest.Config) -> None:
    # Workers that each take all cores wait for one another in every matrix product.
    workers = getattr(config.option, "numprocesses", None)
    if workers:
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
    # rouge-score brings absl, whose log handler closes the stream that it began with when Hydra
    # sets up logging anew: pytest's own, where a test captures output by itself.
    absl.logging.get_absl_handler().python_handler.stream = sys.__stderr__


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail"):
        _skipped.append((report.nodeid, _reason(report.longrepr)))


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.skipped:
        _skipped.append((report.nodeid, _reason(report.longrepr)))


def pytest_sessionfinish(session: pytest.Session) -> None:
    # A test that is skipped by mistake looks like one that passed. Reports of the workers reach
    # the process that started them, whose exit code counts.
    if os.environ.get("CI") == "true" and unexpected_skips(_skipped, _patterns()):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if os.environ.get("CI") != "true":
        return
    for name, reason in unexpected_skips(_skipped, _patterns()):
        terminalreporter.write_line(
            f"SKIPPED IN CI, NOT IN {ALLOWED_SKIPS.name}: {name} ({reason})", red=True
        )


def unexpected_skips(skipped: list[tuple[str, str]], patterns: list[str]) -> list[tuple[str, str]]:
    """Return the skipped tests that no pattern of test names allows."""
    return [
        (name, reason)
        for name, reason in skipped
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    ]


def _patterns() -> list[str]:
    lines = ALLOWED_SKIPS.read_text(encoding="utf-8").splitlines()
    # `[` begins a class in a pattern, but a parameter in a test's name
    return [
        line.partition("  #")[0].strip().replace("[", "[[]")
        for line in lines
        if line.strip() and not line.startswith("#")
    ]


def _reason(longrepr: object) -> str:
    return str(longrepr[2]) if isinstance(longrepr, tuple) else str(longrepr)
