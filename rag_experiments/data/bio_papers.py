"""The summaries that ship with the package: abstracts and full papers of biotechnology."""

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

FOLDER = Path(__file__).parent / "bio_papers"
"""Documents with summaries, and a README on what they are and their licence."""


class BioPapers(Source):
    """Abstracts and full papers, written for this project, with summaries of a sentence or two."""

    passages: None = None
    """Documents bring their own."""

    def problems(self) -> list[str]:
        """What is missing from the installation."""
        found = find_folder_problems(FOLDER, own_passages=True)
        return [f"bio_papers: {problem}; install the package again" for problem in found]

    def files(self) -> list[Path] | None:
        """The package's own files."""
        return list_folder(FOLDER)

    def open(self, problems: Problems, runtime: Runtime) -> Tables:
        """Tables of the package's own files."""
        return open_folder(FOLDER, problems)
