"""What a run tells whoever records it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class Recorder:
    """What a run can record; this one records nothing."""

    url = ""
    """Address of the run in the MLflow UI."""

    ui_command = ""
    """Command that starts the UI; empty where it is running elsewhere."""

    run_id = ""
    """Of the run in its store; empty: it is recorded nowhere."""

    traces = 0
    """Test questions that traces are wanted of, at most."""

    def tag(self, name: str, value: str) -> None:
        """Record a short text that runs can be searched by."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Record numbers; `step` makes a point of a curve."""

    def log_text(self, text: str, name: str) -> None:
        """Record a text as an artifact."""

    def log_environment(self, facts: Mapping[str, Any]) -> None:
        """Record what a result depends on beside its configuration, as `environment.json`."""

    def log_data(self, name: str, fingerprint: str, sizes: Mapping[str, int]) -> None:
        """Record the data set that the run reads: its fingerprint, and rows of each part."""

    def log_predictions(self, rows: Sequence[Mapping[str, Any]], name: str = "predictions") -> None:
        """Record one row for each example as a table."""

    def log_model(self, folder: Path, name: str) -> None:
        """Record a saved model, with all that is in its folder, as one that can be served."""

    def log_traces(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Record what the model saw when it answered questions; a row is a `Traced` as a dict."""
