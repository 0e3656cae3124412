"""What the jobs of a sweep leave in its folder, and the table that compares them."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

from rag_experiments.contracts import UserError
from rag_experiments.parameters import mask
from rag_experiments.runtime import disk
from rag_experiments.sweep import resumption

if TYPE_CHECKING:
    from rich.table import Table

OUTCOME = "outcome.json"
"""Name of the file that a job leaves in its folder."""

VARIABLE = "RAG_EXPERIMENTS_SWEEP"
"""Environment variable that tells a job, in whatever process it runs, the tag of its sweep."""

SILENCE = "it ended without a word: killed, or out of memory; see its log"
"""What is said of a job whose process died."""

NOT_STARTED = "not started"

DEATHS = 3
"""Times in a row that a job may take its process with it before the other jobs come first."""

EXPERIMENTS = "experiment"
"""Folder of a search's sweep with the experiments that it found best."""

_NO_JOBS = (".submitit", EXPERIMENTS)
_NO_NAME = ("experiment=", "device=", "precision=", "cache_dir=", "tracking", "sweep.")
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

    sweep_dir: Path | None = None
    """Folder of the sweep; None for a single run."""


def current_job() -> Job:
    """Return the job that Hydra is running in this process."""
    hydra = HydraConfig.get()
    experiment = hydra.runtime.choices.get("experiment") or "defaults"
    # As they are written: reading the list would put in what ${oc.env:NAME} stands for.
    written = OmegaConf.to_container(hydra.overrides.task, resolve=False)
    assert isinstance(written, list)
    overrides = tuple(mask(str(line)) for line in written)
    sweep = sweep_dir = None
    if hydra.mode == RunMode.MULTIRUN:
        sweep_dir = Path(hydra.sweep.dir)
        sweep = sweep_tag(hydra)
    lines = [line.lstrip("+") for line in overrides]
    name = ", ".join([experiment, *(line for line in lines if not line.startswith(_NO_NAME))])
    choices = {
        group: str(option)
        for group, option in hydra.runtime.choices.items()
        if not group.startswith("hydra/") and option is not None
    }
    return Job(name, sweep, overrides, choices, Path(hydra.runtime.output_dir), sweep_dir)


def sweep_tag(hydra: Any) -> str:
    """Return the tag of the sweep of a composed `hydra` node, as its folder was first named."""
    return str(hydra.job.env_set.get(VARIABLE) or tag(Path(hydra.sweep.dir)))


def tag(sweep_dir: Path) -> str:
    """Return the name of a sweep, e.g. `bio_qa-2025-01-31_12-30-00`, from its folder."""
    return f"{sweep_dir.parent.name}-{sweep_dir.name}"


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
    validation: Mapping[str, float] = field(default_factory=dict)
    """Every score of the final model on the validation questions; empty: they were not asked."""

    pruned: str = ""
    """Why its search ended the job before its time; empty: it did not."""

    problems: tuple[str, ...] = ()
    """Why the job failed, one line each; empty: it did not."""

    by_user: bool = False
    """Whether the failure is one that the user can mend."""

    overrides: tuple[str, ...] = field(default=())

    run_id: str = ""
    """Number of its run in MLflow; empty: it was not recorded there."""

    @property
    def final(self) -> Score | None:
        """The score of the model as the run left it; None: the job failed, or was pruned."""
        return None if self.problems else self.trained or self.untrained

    @property
    def is_end(self) -> bool:
        """Whether the job is done with: it has its score, or was pruned."""
        return bool(self.pruned) or self.final is not None

    @property
    def is_put_off(self) -> bool:
        """Whether the job has yet to be started."""
        return bool(self.problems) and self.problems[0].startswith(NOT_STARTED)

    def write(self, folder: Path) -> None:
        """Save as JSON in a folder."""
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False)
        disk.write_whole(folder / OUTCOME, text + "\n")

    @classmethod
    def read(cls, folder: Path) -> Outcome | None:
        """Return what a job left in a folder; None where it left nothing."""

        def make(values: dict[str, Any]) -> Outcome:
            for stage in ("untrained", "trained"):
                values[stage] = Score(**values[stage]) if values[stage] else None
            for name in ("problems", "overrides"):
                values[name] = tuple(values[name])
            return cls(**values)

        return disk.read_record(folder / OUTCOME, "remove it, and the run is done again", make)


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


def read(sweep_dir: Path) -> dict[str, Outcome]:
    """Return the outcome of each job by its number, in order.

    A job whose process died without a word is listed as failed, and so is one that never started.
    """
    state = resumption.State.read(sweep_dir)
    planned = () if state is None else state.jobs or ()
    found: dict[str, Outcome] = {}
    for folder in sweep_dir.iterdir():
        if folder.is_dir() and folder.name not in _NO_JOBS:
            outcome, begun = Outcome.read(folder), resumption.begun(folder)
            # A search plans nothing: its job may have died before it could note that it began.
            if outcome is None and (begun is not None or (not planned and folder.name.isdigit())):
                overrides = tuple(begun["overrides"]) if begun else ()
                outcome = Outcome(problems=(SILENCE,), overrides=overrides)
            if outcome is not None:
                found[folder.name] = outcome
    started = {outcome.overrides for outcome in found.values()}
    reason = resumption.stopped(sweep_dir) or "the sweep ended before"
    for number, overrides in enumerate(planned):
        if overrides not in started:
            problem = f"{NOT_STARTED}: {reason}"
            found[str(number)] = Outcome(problems=(problem,), by_user=True, overrides=overrides)
    return dict(sorted(found.items(), key=lambda item: (len(item[0]), item[0])))


def count(sweep_dir: Path, state: resumption.State) -> tuple[int, int | None]:
    """Return how many jobs of a sweep are finished, and of how many; None: that is not known."""
    total = None if state.jobs is None else len(state.jobs)
    if not sweep_dir.is_dir():
        return 0, total
    return sum(not outcome.problems for outcome in read(sweep_dir).values()), total


def others_wait(job: Job, deaths: int) -> bool:
    """Whether other jobs of a sweep come before one whose process died so many times in a row: it
    might take the whole sweep with it again.

    Those that are at work, those that have yet to end and had fewer chances, and of those with as
    many the ones with smaller numbers, so that no two of them ever share a process.
    """
    if job.sweep_dir is None:
        return False

    def turn(chances: int, name: str) -> tuple[int, int, str]:
        return chances, len(name), name  # 9 comes before 10

    own = job.output_dir.name
    for name, outcome in read(job.sweep_dir).items():
        folder = job.sweep_dir / name
        waits = outcome.is_put_off or outcome.problems == (SILENCE,)
        earlier = waits and turn(resumption.chances(folder), name) < turn(deaths, own)
        if name != own and (earlier or resumption.is_at_work(folder)):
            return True
    return False


def tidy(folder: Path) -> None:
    """Remove what a job needs no more once it is finished."""
    shutil.rmtree(folder / resumption.CHECKPOINTS, ignore_errors=True)


def ended(sweep_dir: Path) -> dict[Path, str]:
    """Return the folders of jobs that no process is at work on, and why each failed."""
    return {
        sweep_dir / name: " ".join(outcome.problems)
        for name, outcome in read(sweep_dir).items()
        if not resumption.is_running(sweep_dir / name)
    }


def report(sweep_dir: Path, name: str) -> int:
    """Print the table of a sweep, by its tag, and what failed; return the exit code.

    0: every job ended well; 2: the user can mend every failure; 1: something else failed.
    """
    from rich.console import Console

    jobs = read(sweep_dir)
    # A file or a pipe has no width of its own, and a cut number is of no use.
    console = Console() if sys.stdout.isatty() else Console(width=160)
    console.print(table(jobs, f"sweep {name}"))
    print(f"saved in {sweep_dir}")
    failures = {name: outcome for name, outcome in jobs.items() if outcome.problems}
    if not failures:
        return 0
    print(f"{len(failures)} of {len(jobs)} jobs failed:", file=sys.stderr)
    having: dict[str, list[str]] = {}
    for number, outcome in failures.items():
        for problem in outcome.problems:
            place = f"job {number} ({', '.join(outcome.overrides)})"
            having.setdefault(problem, []).append(place)
    for problem, places in having.items():  # what several jobs stumble over is said once
        print(f"{', '.join(places)}: {problem}", file=sys.stderr)
    return 2 if all(outcome.by_user for outcome in failures.values()) else 1


def table(jobs: dict[str, Outcome], title: str) -> Table:
    """Return a table with a row for each job: what differs, and its scores."""
    from rich.table import Table

    metrics = dict.fromkeys(outcome.metric for outcome in jobs.values() if outcome.metric)
    named = f" {next(iter(metrics))}" if len(metrics) == 1 else ""
    made = Table(title=title)
    validated = any(outcome.metric in outcome.validation for outcome in jobs.values())
    own = [f"validation{named}"] if validated else []
    for heading in ("job", "what differs", *own, f"test{named}, untrained", "trained"):
        made.add_column(heading, overflow="fold")
    sets = [set(outcome.overrides) for outcome in jobs.values()]
    common = set.intersection(*sets) if len(sets) > 1 else set()
    for name, outcome in jobs.items():
        differs = ", ".join(line for line in outcome.overrides if line not in common)
        if outcome.problems:
            idle = outcome.is_put_off
            cells = [NOT_STARTED if idle else "failed"]
        elif outcome.pruned:
            cells = ["pruned"]
        else:
            found = outcome.validation.get(outcome.metric)
            scores = [None if found is None else Score(found)] if validated else []
            scores += [outcome.untrained, outcome.trained]
            cells = [str(score) if score else "-" for score in scores]
            if not named and outcome.metric:
                cells = [f"{outcome.metric} {cell}" for cell in cells]
        made.add_row(name, differs, *cells)
    return made
