"""The entry: compose, check, run. No heavy library is imported before a run starts."""

from __future__ import annotations

import gc
import shlex
import sys
from argparse import Namespace
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path

from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.main import main as hydra_main

from rag_experiments.composition.composer import CONFIG, Composer, Plan
from rag_experiments.contracts import Tracking, UserError
from rag_experiments.runtime import disk, interruption, processes
from rag_experiments.sweep import jobs, outcomes, resumption

HYDRAS_OWN = ("hydra_help", "info", "shell_completion", "experimental_rerun")


def main() -> None:
    """Run the command line; exit with 2 where the user can mend what failed, else 1 or 0."""
    gc.freeze()  # what was imported stays; to look through it time and again slows composition
    parser = get_args_parser()
    parser.prog = "python -m rag_experiments"
    arguments = parser.parse_intermixed_args()  # overrides may follow a flag
    if any(getattr(arguments, name) for name in HYDRAS_OWN):
        hydra_main("pkg://rag_experiments.conf", CONFIG, version_base="1.3")(jobs.run)()
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
        with interruption.watched():
            sys.exit(run(composer, plan))
    except UserError as error:
        if jobs.FULL_ERROR:
            raise
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(interruption.exit_code())
    except OSError as error:  # of Hydra's own files
        refused = disk.explain(error, Path("outputs/cache"), Path("outputs"))
        if refused is None or jobs.FULL_ERROR:
            raise
        print(refused, file=sys.stderr)
        sys.exit(2)
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
    trackings = {repr(each.tracking): each.tracking for each in plan.jobs}
    first = processes.is_first()
    if plan.sweep_dir is None:
        if first:
            prepare(plan, trackings.values())
        composer.run(jobs.run, plan)
        return 0
    assert plan.state is not None
    folder, tag = plan.sweep_dir, plan.state.tag
    failure: Exception | None = None
    closing = ""
    finished, total = outcomes.count(folder, plan.state)
    earlier = resumption.State.read(folder)
    if first and earlier is not None and earlier.identity != plan.state.identity:
        print(
            f"{folder}: the earlier sweep in it has no run that is finished or could be gone on "
            "with; its failed runs are removed"
        )
    elif first and earlier is not None:
        print(
            f"going on with {folder}: {finished}{f' of {total}' if total else ''} runs are "
            "finished (sweep.resume=false starts a new sweep)"
        )
    if finished != total:
        with resumption.held(folder, plan.state) if first else nullcontext():
            if first:
                prepare(plan, trackings.values())
                settle(plan, trackings.values())
            try:
                closing = composer.run(jobs.run, plan)
            except KeyboardInterrupt:
                finished = outcomes.count(folder, plan.state)[0]
                print(
                    f"interrupted by {interruption.name()}: {finished} runs are finished in "
                    f"{folder}; the same command goes on",
                    file=sys.stderr,
                )
                raise
            except Exception as error:
                failure = error
    code = outcomes.report(folder, tag)
    if first:
        write_report(folder, tag)
    if failure is not None and (jobs.FULL_ERROR or code == 0):
        raise failure
    try:
        if first:
            settle(plan, trackings.values())
        for tracking in trackings.values():
            print(tracking.comparison(tag))
    except Exception as error:  # all is in the folder
        print(f"no comparison in tracking: {' '.join(str(error).split())}", file=sys.stderr)
    if closing:
        print(closing)
    return code


def prepare(plan: Plan, trackings: Iterable[Tracking]) -> None:
    """See that runs can be written and recorded: later they go on without their store.

    Done once, because jobs that start together would collide.
    """
    for cache_dir in {each.cache_dir for each in plan.jobs}:
        disk.require_writable(cache_dir, "cache_dir")
    for tracking in trackings:
        tracking.prepare()


def settle(plan: Plan, trackings: Iterable[Tracking]) -> None:
    """Clear up after processes that died, at whatever moment."""
    assert plan.sweep_dir is not None
    assert plan.state is not None
    ended = outcomes.ended(plan.sweep_dir)
    for folder, reason in ended.items():
        if not reason:
            outcomes.tidy(folder)
    for tracking in trackings:
        tracking.settle(plan.state.tag, ended)


def write_report(sweep_dir: Path, name: str) -> None:
    """Compare a sweep's finished jobs on a page; where that fails, say so, and no more."""
    try:
        from rag_experiments.report import runs, writing

        found = runs.find_sweep(sweep_dir, name)
        if found.runs:
            print(writing.write(found, sweep_dir))
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        again = shlex.join(["python", "-m", "rag_experiments.report", str(sweep_dir)])
        print(f"no report of the sweep ({reason}); for another try: {again}", file=sys.stderr)


if __name__ == "__main__":
    main()
