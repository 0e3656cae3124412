"""In CI, a test that is skipped without a listed reason fails the suite."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("allowed", "ci", "code"),
    [
        ("", "", 0),
        ("", "true", 1),
        ("tests/test_x.py::test_skipped[a]  # needs a friend\n", "true", 1),
        ("tests/test_x.py::test_skipped*  # needs a friend\n", "true", 0),
    ],
)
def test_a_skip_in_ci_needs_a_reason_on_the_list(tmp_path, allowed, ci, code):
    (tmp_path / "tests").mkdir()
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path / "tests")
    (tmp_path / ".ci" / "allowed_skips.txt").write_text(f"# comment\n{allowed}")
    (tmp_path / "tests" / "test_x.py").write_text(
        "import pytest\n"
        "@pytest.mark.parametrize('x', ['a', 'b'])\n"
        "def test_skipped(x): pytest.skip('alone')\n"
        "def test_passes(): pass\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests"],
        cwd=tmp_path,
        env={**os.environ, "CI": ci},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == code, done.stdout
    assert ("NOT IN allowed_skips.txt: tests/test_x.py::test_skipped[" in done.stdout) == (
        code == 1
    )


def test_the_readme_has_the_command_that_ci_runs():
    readme = ROOT / "README.md"
    assert readme.exists()
    lines = [line.strip() for line in readme.read_text(encoding="utf-8").splitlines()]
    assert "pip install -e '.[dev]' && pytest" in lines
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
