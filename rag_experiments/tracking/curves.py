"""The training curves of a run, which go on where its training does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rag_experiments.runtime import disk
from rag_experiments.tracking.recorder import Recorder


class Curves:
    """Takes points of the curves, records them, and appends them to the run's own file: one JSON
    line for each step that was logged."""

    def __init__(self, recorder: Recorder, path: Path):
        self.recorder = recorder
        self.path = path
        self.begun = False

    def log(self, values: dict[str, float], step: int) -> None:
        """Take a point."""
        self.go_on(step)
        self.recorder.log_metrics(values, step)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")

    def go_on(self, step: float = float("inf")) -> None:
        """Record what a training that was cut short left, but for points that come again: those
        from `step` on."""
        if self.begun:
            return
        self.begun = True
        kept = [point for point in self.points() if point["step"] < step]
        for point in kept:
            values = {name: value for name, value in point.items() if name != "step"}
            self.recorder.log_metrics(values, int(point["step"]))
        disk.write_whole(self.path, "".join(json.dumps(point) + "\n" for point in kept))

    def points(self) -> list[dict[str, Any]]:
        """Return the points that were taken so far, in order, each with its `step`."""
        if not self.path.is_file():
            return []
        lines = self.path.read_text(encoding="utf-8").split("\n")[:-1]  # the last may be cut short
        return [json.loads(line) for line in lines]
