"""Runs that are recorded nowhere but in their own folders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from rag_experiments.contracts import Option
from rag_experiments.tracking.recorder import Recorder


class NoTracking(Option):
    """Records nothing but what a run writes into its own folder."""

    def prepare(self) -> None:
        """Nothing to do before a run."""

    @contextmanager
    def start(self, raw: DictConfig, output_dir: Path, **labels: Any) -> Iterator[Recorder]:
        """Give a recorder that records nothing."""
        yield Recorder()

    def settle(self, sweep: str, ended: Mapping[Path, str]) -> None:
        """No run can seem to go on."""

    def comparison(self, sweep: str) -> str:
        """Say how to look at the runs of a sweep."""
        return "not tracked (tracking=none)"

    def attach(self, folders: Sequence[Path], files: Sequence[Path], place: str) -> str:
        """Record nothing."""
        return ""
