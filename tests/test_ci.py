"""In CI, a test that is skipped without a listed reason fails the suite."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


SUITE = {
    "test_one.py": """
import os
import pytest
@pytest.mark.parametrize('x', ['a', 'b'])
def test_skipped(x): pytest.skip('alone')
def test_passes(): print('THREADS', os.environ.get('OMP_NUM_THREADS'))
""",
    "test_two.py": "import pytest\npytest.importorskip('no_such_package')\n",
}


@pytest.mark.parametrize(
    ("workers", "ci", "allowed", "named"),
    [
        ("0", "", [], []),
        ("0", "true", ["test_two.py"], ["test_one.py::test_skipped[a]", "[b]"]),
        ("2", "true", ["test_one.py::test_skipped[a]"], ["test_one.py::test_skipped[b]", "two"]),
        ("2", "true", ["test_one.py::test_skipped*", "test_two.py"], []),
    ],
)
def test_a_skip_in_ci_needs_a_reason_on_the_list(tmp_path, workers, ci, allowed, named):
    """In one process and in several: each is named once, and decides on the exit code."""
    (tmp_path / "tests").mkdir()
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path / "tests")
    for name, text in SUITE.items():
        (tmp_path / "tests" / name).write_text(text)
    lines = ["# comment", *(f"tests/{name}  # needs a friend" for name in allowed)]
    (tmp_path / ".ci" / "allowed_skips.txt").write_text("\n".join(lines))
    environment = {**os.environ, "CI": ci, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    environment.pop("OMP_NUM_THREADS", None)
    command = [sys.executable, "-m", "pytest", "-q", "-rP", "-p", "xdist", "-n", workers, "tests"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == (1 if named else 0), done.stdout
    found = [line for line in done.stdout.splitlines() if "NOT IN allowed_skips.txt" in line]
    assert len(found) == len(named), done.stdout
    assert all(any(part in line for line in found) for part in named), found
    assert done.stdout.splitlines()[-1].startswith("1 passed, 3 skipped in ")
    share = str(max(1, (os.cpu_count() or 1) // 2)) if workers == "2" else "None"
    assert f"THREADS {share}\n" in done.stdout  # the workers divide the cores


def test_the_readme_has_the_command_that_ci_runs():
    readme = ROOT / "README.md"
    assert readme.exists()
    lines = [line.strip() for line in readme.read_text(encoding="utf-8").splitlines()]
    assert "pip install -e '.[dev]' && pytest" in lines
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
