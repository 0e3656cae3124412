"""The entry: compose, check, run. No heavy library is imported before a run starts."""

from __future__ import annotations

import logging
import os
import signal
import sys

from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.main import main as hydra_main
from omegaconf import DictConfig

from rag_experiments import config, sweep
from rag_experiments.composition import CONFIG, Composer, Plan
from rag_experiments.contracts import UserError

log = logging.getLogger("rag_experiments")
HYDRAS_OWN = ("hydra_help", "info", "shell_completion", "experimental_rerun")
FULL_ERROR = os.environ.get("HYDRA_FULL_ERROR") == "1"


def main() -> None:
    """Run the command line; exit with 2 where the user can mend what failed, else 1 or 0."""
    parser = get_args_parser()
    arguments = parser.parse_intermixed_args()  # overrides may follow a flag
    if any(getattr(arguments, name) for name in HYDRAS_OWN):
        hydra_main("pkg://rag_experiments.conf", CONFIG, version_base="1.3")(job)()
        return
    try:
        composer = Composer(arguments.config_dir, arguments.config_name)
        if arguments.help or arguments.cfg:
            composer.show(arguments, parser)
            return
        plan = composer.plan(arguments.overrides, arguments.multirun)
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


def run(composer: Composer, plan: Plan) -> int:
    """Run the job or the sweep and return the exit code."""
    if plan.sweep_dir is None:
        composer.run(job, plan)
        return 0
    trackings = {each.tracking.model_dump_json(): each.tracking for each in plan.jobs}
    for tracking in trackings.values():
        tracking.prepare()  # once, because jobs that start together would collide
    failure: Exception | None = None
    try:
        composer.run(job, plan)
    except Exception as error:
        failure = error
    code = sweep.report(plan.sweep_dir)
    if failure is not None and (FULL_ERROR or code == 0):
        raise failure
    for tracking in trackings.values():
        print(tracking.comparison(sweep.tag(plan.sweep_dir)))
    return code


def job(raw: DictConfig) -> float:
    """Run one job, as Hydra calls it; return the task's objective."""
    from rag_experiments import experiment

    current = sweep.current_job()
    try:
        settings = config.load(raw)
        value = experiment.run(settings, raw, current.output_dir)
        if sweep.Outcome.read(current.output_dir) is None:
            score = sweep.Score(value)
            sweep.Outcome(settings.task.objective, None, score).write(current.output_dir)
        return value
    except Exception as error:
        sweep.failed(error, current.overrides).write(current.output_dir)
        if isinstance(error, UserError):
            log.error("%s", error)
        else:
            log.exception("The run failed")
        if current.sweep is None and not FULL_ERROR:
            sys.exit(2 if isinstance(error, UserError) else 1)  # all is said in the log
        raise


if __name__ == "__main__":
    main()
