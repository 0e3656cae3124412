"""One job, as Hydra calls it: skipped where it is finished, tried again, its failure noted."""

from __future__ import annotations

import gc
import logging
import math
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from rag_experiments import config
from rag_experiments.contracts import Pruned, UserError
from rag_experiments.runtime import disk, interruption, memory, processes
from rag_experiments.sweep import outcomes, resumption
from rag_experiments.sweep.command import write_command

log = logging.getLogger("rag_experiments")

FULL_ERROR = os.environ.get("HYDRA_FULL_ERROR") == "1"


class NotStarted(UserError):
    """A job that must not start; nothing is written of it."""


def run(raw: DictConfig) -> float:
    """Run a job, again where it fails and `sweep.retries` allows it; return the objective.

    A job that is finished in its folder is left as it is; one that was cut short goes on from
    its last checkpoint. One that its search prunes has no objective: NaN. Raises what the run
    raises, UserError for what the user can mend; a single run that fails ends the process with 2
    for the latter, else with 1.
    """
    logging.raiseExceptions = FULL_ERROR  # a full disk would get a traceback for each log line
    job = outcomes.current_job()
    alone = job.sweep is None
    tries = 1 if alone or processes.count() > 1 else 1 + _option(raw, "retries")
    with interruption.watched():
        for left in reversed(range(tries)):
            try:
                interruption.check()
                return _run(raw, job)
            except Pruned as reason:
                outcomes.tidy(job.output_dir)
                log.info("pruned: %s", reason)
                return math.nan
            except KeyboardInterrupt:
                _note(UserError(f"interrupted by {interruption.name()}"), job)
                if alone:  # a sweep says it once for all of its jobs
                    log.warning(
                        "interrupted by %s; the same command goes on with hydra.run.dir=%s",
                        interruption.name(),
                        job.output_dir,
                    )
                raise
            except BaseException as error:  # sys.exit, or a panic of a library in Rust, as well
                # Some libraries make an error of their own out of a request to end.
                interruption.check()
                failure = _explain(error, raw, job)
                again = left if not isinstance(failure, UserError) else 0
                _note(failure, job)
                _show(failure, job, again)
                if again:
                    continue
                if not alone and _option(raw, "fail_fast"):
                    _stop_others(failure, job)
                if alone and not FULL_ERROR:
                    sys.exit(2 if isinstance(failure, UserError) else 1)  # all is said in the log
                if not FULL_ERROR:
                    _forget_frames(error)
                raise failure from failure.__cause__
            finally:
                memory.release()  # before the next job of a sweep starts
    raise AssertionError("a job is tried at least once")


def _run(raw: DictConfig, job: outcomes.Job) -> float:
    folder, first = job.output_dir, processes.is_first()
    with resumption.alone(folder) if first else nullcontext():
        identity = resumption.identify(raw)
        begun, outcome = resumption.begun(folder), outcomes.Outcome.read(folder)
        if begun is not None and begun["identity"] != identity:
            raise NotStarted(
                f"{folder}: holds another run, and nothing is overwritten; choose another folder "
                "with hydra.run.dir= or hydra.sweep.dir="
            )
        if begun is not None and outcome is not None and outcome.is_end:
            score = outcome.final
            log.info("finished before: %s", score or f"pruned: {outcome.pruned}")
            return score.value if score else math.nan
        reason = resumption.stopped(job.sweep_dir) if job.sweep_dir is not None else None
        if reason is not None:
            raise NotStarted(f"{outcomes.NOT_STARTED}: {reason}")
        ended = outcome is not None and not outcome.is_put_off
        deaths = 0 if ended else resumption.chances(folder)
        if deaths >= outcomes.DEATHS and outcomes.others_wait(job, deaths):
            raise NotStarted(
                f"{outcomes.NOT_STARTED}: its process died {deaths} times in a row and the other "
                "jobs come first; then the same command tries it again"
            )
        with resumption.at_work(folder) if first else nullcontext():
            if first:
                (folder / outcomes.OUTCOME).unlink(missing_ok=True)
                resumption.begin(folder, identity, job.overrides, deaths)
                write_command(folder, raw)
            with _kept_from_collection():
                from rag_experiments import experiment
            value = experiment.run(config.load(raw), raw, folder)
            if first:
                outcomes.tidy(folder)
            return value


@contextmanager
def _kept_from_collection() -> Iterator[None]:
    """Spare the collector what is imported: each stage collects, and would look through it all."""
    known = len(sys.modules)
    yield
    if len(sys.modules) > known:
        gc.freeze()


def _explain(error: BaseException, raw: DictConfig, job: outcomes.Job) -> Exception:
    """Return the error as it is to be shown: what the disk refused in one line."""
    if isinstance(error, UserError):
        return error
    if not isinstance(error, Exception):
        what = f"{type(error).__name__}: {error}"
        if isinstance(error, SystemExit):
            what = f"the run ended itself with sys.exit({error.code!r})"
        found = RuntimeError(what)
        found.__cause__ = error
        return found
    return disk.explain(error, Path(str(raw.cache_dir)), job.output_dir) or error


def _note(failure: Exception, job: outcomes.Job) -> None:
    """Leave the outcome of a failed job in its folder, never in place of a finished one's."""
    if isinstance(failure, NotStarted) or not processes.is_first():
        return
    with suppress(OSError):  # the disk may be what failed; `begun.json` is there
        outcome = outcomes.Outcome.read(job.output_dir)
        if outcome is None or not outcome.is_end:
            outcomes.failed(failure, job.overrides).write(job.output_dir)


def _show(failure: Exception, job: outcomes.Job, again: int) -> None:
    """Say at once that a job failed; `again` is how often it is still tried."""
    trace = None if isinstance(failure, UserError) else failure
    if job.sweep is None:
        log.error("%s" if trace is None else "The run failed: %s", failure, exc_info=trace)
        return
    place = f"job {_number()} ({', '.join(job.overrides)})"
    if isinstance(failure, NotStarted):
        log.warning("%s: %s", place, failure)
        return
    more = f"; tried again, {again} time{'s' if again > 1 else ''} at most" if again else ""
    log.error("%s failed%s: %s", place, more, failure, exc_info=trace)


def _stop_others(failure: Exception, job: outcomes.Job) -> None:
    if not isinstance(failure, NotStarted) and job.sweep_dir is not None:
        with suppress(OSError):
            resumption.stop(job.sweep_dir, f"job {_number()} failed and sweep.fail_fast is true")


def _number() -> str:
    return str(HydraConfig.get().job.num)


def _option(raw: DictConfig, name: str) -> int:
    return OmegaConf.select(raw, f"sweep.{name}") or 0


def _forget_frames(error: BaseException) -> None:
    """Empty the frames that an error passed: Hydra keeps it, and they hold model and optimizer."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            traceback.clear_frames(each.__traceback__)
            waiting += [each.__cause__, each.__context__]
