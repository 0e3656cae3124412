"""Compare finished runs: python -m rag_experiments.report RUN RUN ..."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from rag_experiments.contracts import UserError
from rag_experiments.tracking.mlflow import Mlflow


def main() -> None:
    """Write a report of runs or a sweep: tables, tests, figures, answers, what to try next."""
    parser = argparse.ArgumentParser(
        prog="python -m rag_experiments.report", description=main.__doc__
    )
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="folder of a run or of a sweep, id of an MLflow run, or tag of a sweep",
    )
    parser.add_argument("--output", type=Path, help="folder to write to (default: the sweep's)")
    parser.add_argument("--metric", help="what to compare by (default: the runs' objective)")
    parser.add_argument("--tracking-uri", help="store that knows the ids and tags")
    arguments = parser.parse_args()
    try:
        from rag_experiments.report.runs import find
        from rag_experiments.report.writing import write

        store = Mlflow(uri=arguments.tracking_uri)
        problems = store.problems()
        if problems:
            raise UserError([f"--tracking-{problem}" for problem in problems])
        found = find(arguments.runs, store)
        new = Path("outputs/reports") / time.strftime("%Y-%m-%d_%H-%M-%S")
        print(write(found, arguments.output or found.home or new, arguments.metric))
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
