"""Settings: what runs share whose configurations differ in the seed alone.

The runs of a setting are replicates and are pooled.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rag_experiments.parameters import differing
from rag_experiments.report.runs import Row, Run

_NO_SETTING = ("experiment", "seed", "cache_dir", "metrics", "tracking", "test")
"""Keys that do not change what a model answers, and the seed."""


@dataclass(frozen=True)
class Setting:
    """Runs with one configuration, one for each seed."""

    label: str
    """What tells it from the other settings."""

    parameters: dict[str, str]
    runs: tuple[Run, ...]

    @property
    def seeds(self) -> tuple[str, ...]:
        return tuple(run.parameters["seed"] for run in self.runs)

    @property
    def final(self) -> str:
        """Stage of the models as the runs left them."""
        return self.runs[-1].final

    def has(self, stage: str) -> bool:
        """Whether every run has predictions of a stage."""
        return all(stage in run.predictions for run in self.runs)

    @cached_property
    def bins(self) -> Counter[str] | None:
        """Questions in each error bin, over all runs; None: some run has no bins."""
        if not all(run.errors for run in self.runs):
            return None
        return Counter(row["bin"] for run in self.runs for row in run.errors.values())

    def smaller_is_better(self, metric: str) -> bool:
        """Whether smaller scores of a metric are the better ones."""
        return metric in self.runs[-1].smaller_is_better

    def row(self, question: str) -> Row:
        """What the last run answered to a question, by its id."""
        return self.runs[-1].predictions[self.final][question]

    def share(self, name: str) -> float:
        """Share of the answers that an error bin holds; 0 where there are no bins."""
        return self.bins[name] / self.bins.total() if self.bins else 0.0

    def scores(self, metric: str, stage: str) -> dict[str, np.ndarray]:
        """Scores of each question `[seeds]`, where every run has one."""
        rows = [run.predictions.get(stage, {}) for run in self.runs]
        return {
            question: np.array([each[question][metric] for each in rows], dtype=np.float64)
            for question in rows[0]
            if all(each.get(question, {}).get(metric) is not None for each in rows)
        }


def pool(runs: Sequence[Run]) -> tuple[list[Setting], list[str], list[str]]:
    """Return settings in the order of their first runs, the parameters that tell them apart, and
    notes on what was left out."""
    notes: list[str] = []
    kept = [_settings(run.parameters) for run in runs]
    keys = dict.fromkeys(key for each in kept for key in each)
    newer = [key for key in keys if _by_version(key, kept)]
    if newer:
        notes.append(f"not compared, because some of the runs lack the key: {', '.join(newer)}")
    groups: dict[tuple[tuple[str, str], ...], dict[str, Run]] = {}
    for run, parameters in zip(runs, kept, strict=True):
        key = tuple(sorted((k, v) for k, v in parameters.items() if k not in newer))
        members = groups.setdefault(key, {})
        earlier = members.pop(run.parameters["seed"], None)
        if earlier is not None:
            notes.append(f"left out, repeated later with the same seed: {earlier.folder}")
        members[run.parameters["seed"]] = run
    names = differing([dict(key) for key in groups])
    settings = []
    for key, members in groups.items():
        parameters = dict(key)
        parts = [f"{name}={parameters[name]}" for name in names if name in parameters]
        label = ", ".join(parts) or "the setting"
        settings.append(Setting(label, parameters, tuple(members.values())))
    return settings, names, notes


def _settings(parameters: dict[str, str]) -> dict[str, str]:
    """Return what changes the answers of a model, or the questions."""
    kept = {
        key: value
        for key, value in parameters.items()
        if key.replace("/", ".").partition(".")[0] not in _NO_SETTING
    }
    return {**kept, "test.split": parameters.get("test.split", "test")}  # older runs know no other


def _by_version(key: str, parameters: Sequence[dict[str, str]]) -> bool:
    """Whether runs lack a key although they have the same option: an older version made them."""
    if all(key in each for each in parameters):
        return False
    if "." not in key and "/" not in key:
        return True  # at the root, where no choice brings keys
    options = {each.get(f"{key.rpartition('.')[0]}._target_") for each in parameters}
    return len(options) == 1 and None not in options
