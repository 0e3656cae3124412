"""The entry: compose, check, run. No heavy library is imported before a run starts."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import sys
import traceback
from argparse import Namespace
from pathlib import Path

from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.main import main as hydra_main
from omegaconf import DictConfig

from rag_experiments import config, memory, processes, sweep
from rag_experiments.composition import CONFIG, Composer, Plan
from rag_experiments.contracts import UserError

log = logging.getLogger("rag_experiments")
HYDRAS_OWN = ("hydra_help", "info", "shell_completion", "experimental_rerun")
FULL_ERROR = os.environ.get("HYDRA_FULL_ERROR") == "1"


def main() -> None:
    """Run the command line; exit with 2 where the user can mend what failed, else 1 or 0."""
    parser = get_args_parser()
    parser.prog = "python -m rag_experiments"
    arguments = parser.parse_intermixed_args()  # overrides may follow a flag
    if any(getattr(arguments, name) for name in HYDRAS_OWN):
        hydra_main("pkg://rag_experiments.conf", CONFIG, version_base="1.3")(job)()
        return
    try:
        refuse_flags(arguments)
        composer = Composer(arguments.config_dir, arguments.config_name)
        if arguments.help or arguments.cfg:
            composer.show(arguments, parser)
            return
        plan = composer.plan(arguments.overrides, arguments.multirun)
        for note in composer.notes:
            print(note, file=sys.stderr)
        # A process that is asked to end leaves through its `with` blocks, as after Ctrl-C.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        sys.exit(run(composer, plan))
    except UserError as error:
        if FULL_ERROR:
            raise
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        GlobalHydra.instance().clear()


def refuse_flags(arguments: Namespace) -> None:
    """Refuse Hydra's flags that would be ignored; raise UserError with all of them."""
    problems = []
    if arguments.config_path is not None:
        problems.append("--config-path: the package has its own; --config-dir adds a folder")
    if arguments.package is not None and not arguments.cfg:
        problems.append("--package: only with --cfg, e.g. --cfg job --package retriever")
    if arguments.resolve and not (arguments.cfg or arguments.help):
        problems.append("--resolve: only with --cfg or --help, e.g. --cfg job --resolve")
    if problems:
        raise UserError(problems)


def run(composer: Composer, plan: Plan) -> int:
    """Run the job or the sweep and return the exit code."""
    if plan.sweep_dir is None:
        composer.run(job, plan)
        return 0
    trackings = {repr(each.tracking): each.tracking for each in plan.jobs}
    for tracking in trackings.values():
        tracking.prepare()  # once, because jobs that start together would collide
    earlier = sweep.stamps(plan.sweep_dir)
    failure: Exception | None = None
    try:
        composer.run(job, plan)
    except Exception as error:
        failure = error
    code = sweep.report(plan.sweep_dir, plan.sweep, earlier)
    if processes.is_first():
        write_report(plan.sweep_dir, plan.sweep, earlier)
    if failure is not None and (FULL_ERROR or code == 0):
        raise failure
    for tracking in trackings.values():
        print(tracking.comparison(plan.sweep))
    return code


def write_report(sweep_dir: Path, name: str, earlier: sweep.Stamps) -> None:
    """Compare a sweep's finished jobs on a page; where that fails, say so, and no more."""
    try:
        from rag_experiments.report import runs, writing

        found = runs.find_sweep(sweep_dir, name, earlier)
        if found.runs:
            print(writing.write(found, sweep_dir))
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        again = shlex.join(["python", "-m", "rag_experiments.report", str(sweep_dir)])
        print(f"no report of the sweep ({reason}); for another try: {again}", file=sys.stderr)


def job(raw: DictConfig) -> float:
    """Run one job, as Hydra calls it; return the task's objective."""
    from rag_experiments import experiment

    current = sweep.current_job()
    try:
        settings = config.load(raw)
        return experiment.run(settings, raw, current.output_dir)
    except Exception as error:
        sweep.failed(error, current.overrides).write(current.output_dir)
        if isinstance(error, UserError):
            log.error("%s", error)
        else:
            log.exception("The run failed")
        if current.sweep is None and not FULL_ERROR:
            sys.exit(2 if isinstance(error, UserError) else 1)  # all is said in the log
        if not FULL_ERROR:
            _forget_frames(error)
        raise
    finally:
        memory.release()  # before the next job of a sweep starts


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


if __name__ == "__main__":
    main()
