"""Finished runs, read from the folders that they left."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from rag_experiments import options
from rag_experiments.contracts import Tracking, UserError
from rag_experiments.metrics.base import is_greater_better
from rag_experiments.parameters import flatten, mask
from rag_experiments.runtime import disk
from rag_experiments.sweep import outcomes
from rag_experiments.sweep.command import PARENT, read_command
from rag_experiments.tracking.mlflow import Mlflow

STAGES = ("untrained", "trained", "closed_book", "gold")
"""Sets of predictions that a run may hold: its own, and those of the reference conditions."""

_REMEDY = "run it again, or leave it out"

Row = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """What a finished run left in its folder."""

    folder: Path

    output_dir: Path
    """The folder as tracking knows it, wherever it is now."""

    parameters: dict[str, str]
    """The option of each group, e.g. `model/generator`, and every key of the configuration."""

    overrides: tuple[str, ...]
    """The command line that made the run, without a sweep's other values."""

    config_dir: str
    """The user's own folder of configuration files; empty: none."""

    raw: DictConfig
    """The configuration, its interpolations not resolved."""

    predictions: dict[str, dict[str, Row]]
    """Of each stage: the rows of `predictions_<stage>.jsonl` by the id of the question."""

    estimates: dict[str, dict[str, dict[str, Any]]]
    """Of each stage and metric: value, low, high and n, as in `metrics.json`."""

    errors: dict[str, Row]
    """The row of `errors.jsonl` of each question, with its `bin`; empty: the run has none."""

    curves: list[dict[str, float]]
    """Points of the training curves, each with its `step`; empty: none were kept."""

    sizes: dict[str, int]
    """Questions of each split and passages; empty: not noted."""

    seconds: float
    gold_source: str
    notes: tuple[str, ...] = field(default=())
    smaller_is_better: frozenset[str] = frozenset()
    """Names of the metrics whose smaller scores are the better ones."""

    parent: str = ""
    """Folder of the run whose saved model was evaluated; empty: it is a run of its own."""

    @property
    def final(self) -> str:
        """Stage of the model as the run left it."""
        return "trained" if "trained" in self.predictions else "untrained"

    @property
    def objective(self) -> str:
        """The metric that the run was made for."""
        return self.parameters["task.objective"]

    @cached_property
    def tracking(self) -> Tracking:
        """Where the run is recorded."""
        tracking: Tracking = options.build(self.raw.tracking, "tracking", check_paths=False)
        return tracking


@dataclass(frozen=True)
class Found:
    """Runs to compare, and what is to be said of others that were asked for."""

    runs: tuple[Run, ...]
    title: str
    home: Path | None = None
    """Folder of the sweep; None: the runs are not those of one sweep's folder."""
    failures: tuple[str, ...] = ()


def find(names: Sequence[str], store: Mlflow | None = None) -> Found:
    """Read the runs that names stand for, in the order given, each once.

    A name is the folder of a run, the folder of a sweep, the id of an MLflow run, or the tag of a
    sweep. Raises UserError with all names that are none of these or cannot be read.
    """
    folders: dict[Path, None] = {}
    failures: list[str] = []
    problems: list[str] = []
    homes: list[Path] = []
    for name in names:
        place = Path(name)
        if _is_run(place):
            folders[place.resolve()] = None
        elif place.is_dir():
            jobs, failed = _jobs(place.resolve())
            folders.update(dict.fromkeys(jobs))
            failures += failed
            homes.append(place.resolve())
            if not jobs:
                problems.append(f"{name}: no finished run in this folder")
        else:
            tracked = (store or Mlflow()).folders(name)
            finished = [path for path in tracked if _is_run(path)]
            folders.update(dict.fromkeys(finished))
            failures += [f"{path}: no finished run" for path in tracked if path not in finished]
            homes += {path.parent for path in finished if (path.parent / "multirun.yaml").is_file()}
            if not finished:
                problems.append(_unknown(name, tracked))
    if problems:
        raise UserError(problems)
    home = homes[0] if len(homes) == 1 and all(p.parent == homes[0] for p in folders) else None
    title = (
        outcomes.tag(home) if home else (names[0] if len(names) == 1 else f"{len(folders)} runs")
    )
    return Found(tuple(map(read, folders)), title, home, tuple(failures))


def _is_run(folder: Path) -> bool:
    return (folder / "metrics.json").is_file() and (folder / ".hydra" / "config.yaml").is_file()


def find_sweep(folder: Path, title: str) -> Found:
    """Read the runs of a sweep that has just ended."""
    jobs, failed = _jobs(folder.resolve())
    return Found(tuple(map(read, jobs)), title, folder, tuple(failed))


def _jobs(folder: Path) -> tuple[list[Path], list[str]]:
    """Return the folders of a sweep's finished jobs, and why the others have no results."""
    jobs, failed = [], []
    for number, outcome in outcomes.read(folder).items():
        place = folder / number
        if _is_run(place) and not outcome.problems:
            jobs.append(place)
        elif (place / ".hydra").is_dir():
            reasons = [
                *outcome.problems,
                *([f"pruned: {outcome.pruned}"] if outcome.pruned else []),
            ]
            failed += [f"job {number}: {reason}" for reason in reasons]
    return jobs, failed


def _unknown(name: str, tracked: Sequence[Path]) -> str:
    if tracked:
        places = ", ".join(map(str, tracked))
        return f"{name}: tracked, but no finished run is on this machine in {places}"
    return (
        f"{name}: neither a folder, nor the id of a tracked run, nor the tag of a sweep; legal: "
        "outputs/runs/<date>/<time>, outputs/sweeps/<experiment>/<time> and its jobs, an id or a "
        "tag in the store that --tracking-uri or MLFLOW_TRACKING_URI names"
    )


def read(folder: Path) -> Run:
    """Read a finished run; raise UserError with the file where one cannot be read."""
    with disk.reading(folder, _REMEDY):  # whatever more is not as a run leaves it
        return _read(folder)


def _read(folder: Path) -> Run:
    made = read_command(folder, _REMEDY)
    with disk.reading(folder / "metrics.json", _REMEDY):
        metrics = json.loads((folder / "metrics.json").read_text("utf-8"))
    predictions = {}
    for stage in STAGES:
        rows = _lines(folder / f"predictions_{stage}.jsonl")
        if rows:
            predictions[stage] = {row["id"]: row for row in rows}
    notes = folder / "notes.txt"
    smaller, unknown = _directions(made.raw)
    return Run(
        folder=folder,
        output_dir=made.output_dir,
        parameters={**made.choices, **flatten(made.raw)},
        overrides=tuple(map(mask, made.overrides)),
        config_dir=made.config_dir or "",
        raw=made.raw,
        predictions=predictions,
        estimates={stage: metrics[stage] for stage in predictions},
        errors={row["id"]: row for row in _lines(folder / "errors.jsonl")},
        curves=_lines(folder / "curves.jsonl"),
        sizes=metrics.get("sizes", {}),
        seconds=sum(metrics["seconds"].values()),
        gold_source=metrics["gold_source"],
        notes=(*(notes.read_text("utf-8").splitlines() if notes.is_file() else ()), *unknown),
        smaller_is_better=smaller,
        parent=_parent(folder),
    )


def _directions(raw: DictConfig) -> tuple[frozenset[str], list[str]]:
    """Return the metrics of a configuration whose smaller scores are the better ones, and notes on
    those that do not say: options of one's own that are not here."""
    smaller, notes = set(), []
    for key, node in (raw.get("metrics") or {}).items():
        try:
            metric = options.build(node, f"metrics.{key}", check_paths=False)
        except UserError as error:
            notes.append(f"{error}: larger scores of it are taken for the better ones")
            continue
        if not is_greater_better(metric):
            smaller.add(metric.name)
    return frozenset(smaller), notes


def _parent(folder: Path) -> str:
    file = folder / PARENT
    if not file.is_file():
        return ""
    with disk.reading(file, _REMEDY):
        return str(json.loads(file.read_text("utf-8"))["parent_folder"])


def _lines(path: Path) -> list[Row]:
    """Return the values of a file of JSON lines; none where it does not exist."""
    if not path.is_file():
        return []
    rows = []
    with disk.reading(path, _REMEDY), path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise UserError(f"{path}:{number}: not JSON ({error}); run it again") from error
    return rows
