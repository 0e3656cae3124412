"""The data set that ships with the package: textbook biotechnology."""

from __future__ import annotations

from pathlib import Path

from rag_experiments.contracts import Runtime
from rag_experiments.data.problems import Problems
from rag_experiments.data.source import (
    Source,
    Tables,
    find_folder_problems,
    list_folder,
    open_folder,
)

FOLDER = Path(__file__).parent / "bio_qa"
"""Passages, questions, and a README on what they are and their licence."""


class BioQA(Source):
    """Questions with short answers on passages of textbook biotechnology.

    The group of a test question is `seen_passage`, where training questions ask about the
    same passage, or `held_out_passage`.
    """

    passages: str | None = None

    def problems(self) -> list[str]:
        """What is missing from the installation, and what is wrong with `passages`."""
        found = find_folder_problems(FOLDER, own_passages=self.passages is None)
        installed = [f"bio_qa: {problem}; install the package again" for problem in found]
        return installed + super().problems()

    def files(self) -> list[Path] | None:
        """The package's own files, and those of `passages`."""
        return [*list_folder(FOLDER), *self.passages_files()]

    def open(self, problems: Problems, runtime: Runtime) -> Tables:
        """Tables of the package's own files."""
        return open_folder(FOLDER, problems)
