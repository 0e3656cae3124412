"""What the jobs of a sweep leave in its folder, and the table that compares them."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

from rag_experiments.contracts import UserError
from rag_experiments.parameters import mask

if TYPE_CHECKING:
    from rich.table import Table

OUTCOME = "outcome.json"
"""Name of the file that a job leaves in its folder."""

VARIABLE = "RAG_EXPERIMENTS_SWEEP"
"""Environment variable that tells a job, in whatever process it runs, the tag of its sweep."""

_NO_NAME = ("experiment=", "device=", "precision=", "cache_dir=", "tracking")
"""Overrides that say nothing about what a run compares."""


@dataclass(frozen=True)
class Job:
    """Who a running job is."""

    name: str
    """For people: the experiment, and in a sweep what differs in this job."""

    sweep: str | None
    """Tag that the jobs of one sweep share; None for a single run."""

    overrides: tuple[str, ...]
    """The command line's overrides, with a sweep's own."""

    choices: dict[str, str]
    """The option chosen from each group, e.g. `model/generator`: `tiny_causal`."""

    output_dir: Path


def current_job() -> Job:
    """Return the job that Hydra is running in this process."""
    hydra = HydraConfig.get()
    experiment = hydra.runtime.choices.get("experiment") or "defaults"
    # As they are written: reading the list would put in what ${oc.env:NAME} stands for.
    written = OmegaConf.to_container(hydra.overrides.task, resolve=False)
    assert isinstance(written, list)
    overrides = tuple(mask(str(line)) for line in written)
    sweep = None
    if hydra.mode == RunMode.MULTIRUN:
        sweep = hydra.job.env_set.get(VARIABLE) or tag(Path(hydra.sweep.dir))
    lines = [line.lstrip("+") for line in overrides]
    name = ", ".join([experiment, *(line for line in lines if not line.startswith(_NO_NAME))])
    choices = {
        group: str(option)
        for group, option in hydra.runtime.choices.items()
        if not group.startswith("hydra/") and option is not None
    }
    return Job(name, sweep, overrides, choices, Path(hydra.runtime.output_dir))


def tag(sweep_dir: Path) -> str:
    """Return the name of a sweep, e.g. `bio_qa-2025-01-31_12-30-00`, from its folder."""
    return f"{sweep_dir.parent.name}-{sweep_dir.name}"


def new_tag(sweep_dir: Path) -> str:
    """Return the name of a sweep that is to start; the time tells it from an earlier one in
    the same folder."""
    again = time.strftime("_%Y-%m-%d_%H-%M-%S") if stamps(sweep_dir) else ""
    return f"{tag(sweep_dir)}{again}"


Stamps = dict[str, dict[str, int]]
"""Of the folder of each job: its files, with the times at which they were written."""


def stamps(sweep_dir: Path) -> Stamps:
    """Return what the jobs in a folder have written so far; nothing where it does not exist."""
    if not sweep_dir.is_dir():
        return {}
    return {
        folder.name: {
            path.relative_to(folder).as_posix(): path.stat().st_mtime_ns
            for path in (*folder.glob("*"), *folder.glob(".hydra/*"))
            if path.is_file()
        }
        for folder in sweep_dir.iterdir()
        if folder.is_dir() and folder.name != ".submitit"
    }


@dataclass(frozen=True)
class Score:
    """A metric on the test set, with its 95% interval."""

    value: float
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.value:.3f}"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Outcome:
    """How a job ended; `write` it into the job's folder."""

    metric: str = ""
    """Name of the metric that the scores are of: the task's objective."""

    untrained: Score | None = None
    trained: Score | None = None
    problems: tuple[str, ...] = ()
    """Why the job failed, one line each; empty: it did not."""

    by_user: bool = False
    """Whether the failure is one that the user can mend."""

    overrides: tuple[str, ...] = field(default=())

    def write(self, folder: Path) -> None:
        """Save as JSON in a folder."""
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False)
        (folder / OUTCOME).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Outcome | None:
        """Return what a job left in a folder; None where it left nothing."""
        try:
            values = json.loads((folder / OUTCOME).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        for stage in ("untrained", "trained"):
            values[stage] = Score(**values[stage]) if values[stage] else None
        for name in ("problems", "overrides"):
            values[name] = tuple(values[name])
        return cls(**values)


def failed(error: BaseException, overrides: Sequence[str]) -> Outcome:
    """Return the outcome of a job that raised an error."""
    by_user = isinstance(error, UserError)
    problems = (
        error.problems
        if isinstance(error, UserError)
        else (f"{type(error).__name__}: {' '.join(str(error).split())}",)
    )
    problems = tuple(mask(problem) for problem in problems)
    return Outcome(problems=problems, by_user=by_user, overrides=tuple(overrides))


def outcomes(sweep_dir: Path, earlier: Stamps | None = None) -> dict[str, Outcome]:
    """Return the outcome of each job by its number, in order.

    `earlier` is what `stamps` found before the sweep began: folders in which nothing was written
    since belong to another sweep and are left out. A job whose process died without a word is
    listed as failed.
    """
    earlier = earlier or {}
    now = stamps(sweep_dir)
    silent = Outcome(problems=("the job ended without an outcome; see its log",))
    found = {}
    for name in sorted(now, key=lambda name: (len(name), name)):
        before = earlier.get(name)
        if before == now[name]:
            continue
        stale = before is not None and before.get(OUTCOME) == now[name].get(OUTCOME)
        found[name] = (None if stale else Outcome.read(sweep_dir / name)) or silent
    return found


def report(sweep_dir: Path, name: str, earlier: Stamps | None = None) -> int:
    """Print the table of a sweep, by its tag, and what failed; return the exit code.

    `earlier` is as in `outcomes`.
    0: every job ended well; 2: the user can mend every failure; 1: something else failed.
    """
    import sys

    from rich.console import Console

    jobs = outcomes(sweep_dir, earlier)
    # A file or a pipe has no width of its own, and a cut number is of no use.
    console = Console() if sys.stdout.isatty() else Console(width=160)
    console.print(table(jobs, f"sweep {name}"))
    print(f"saved in {sweep_dir}")
    failures = {name: outcome for name, outcome in jobs.items() if outcome.problems}
    if not failures:
        return 0
    print(f"{len(failures)} of {len(jobs)} jobs failed:", file=sys.stderr)
    for number, outcome in failures.items():
        for problem in outcome.problems:
            print(f"job {number} ({', '.join(outcome.overrides)}): {problem}", file=sys.stderr)
    return 2 if all(outcome.by_user for outcome in failures.values()) else 1


def table(jobs: dict[str, Outcome], title: str) -> Table:
    """Return a table with a row for each job: what differs, and its scores."""
    from rich.table import Table

    metrics = dict.fromkeys(outcome.metric for outcome in jobs.values() if outcome.metric)
    named = f" {next(iter(metrics))}" if len(metrics) == 1 else ""
    made = Table(title=title)
    for heading in ("job", "what differs", f"test{named}, untrained", "trained"):
        made.add_column(heading, overflow="fold")
    sets = [set(outcome.overrides) for outcome in jobs.values()]
    common = set.intersection(*sets) if len(sets) > 1 else set()
    for name, outcome in jobs.items():
        differs = ", ".join(line for line in outcome.overrides if line not in common)
        if outcome.problems:
            cells = ["failed", ""]
        else:
            cells = [str(score) if score else "-" for score in (outcome.untrained, outcome.trained)]
            if not named and outcome.metric:
                cells = [f"{outcome.metric} {cell}" for cell in cells]
        made.add_row(name, differs, *cells)
    return made
