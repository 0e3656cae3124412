"""Human evaluation: python -m rag_experiments.rating sheet|rate|collect|export."""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from pathlib import Path

from rag_experiments.contracts import UserError


def main() -> None:
    """Have answers of runs rated by people who do not know whose they are."""
    arguments = make_parser().parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        arguments.command(arguments)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m rag_experiments.rating", description=main.__doc__
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    make = commands.add_parser("sheet", help="draw answers of runs into a blinded sheet")
    make.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="folder of a run, or one of its predictions_<stage>.jsonl",
    )
    make.add_argument("--questions", type=_positive, default=50, help="how many (default: 50)")
    make.add_argument("--seed", type=int, default=13, help="of draw and order (default: 13)")
    make.add_argument("--output", type=Path, required=True, help="new folder for the sheet")
    make.add_argument("--hide-expected", action="store_true", help="raters see no accepted answers")
    make.set_defaults(command=_sheet)

    rate = commands.add_parser("rate", help="rate a sheet in the browser; goes on where it stopped")
    rate.add_argument("sheet", type=Path, metavar="SHEET", help="folder that `sheet` made")
    rate.add_argument("--rater", required=True, help="your name; each rater has a file")
    rate.add_argument(
        "--host",
        default="127.0.0.1",
        help="0.0.0.0: seen by the whole network, without a password (default: 127.0.0.1)",
    )
    rate.add_argument("--port", type=_positive, help="default: the first free one from 8400")
    rate.add_argument("--browser", action="store_true", help="open the page in a browser")
    rate.set_defaults(command=_rate)

    collect = commands.add_parser("collect", help="statistics of all raters, into MLflow")
    collect.add_argument("sheet", type=Path, metavar="SHEET", help="folder that `sheet` made")
    collect.add_argument("--key", type=Path, help="default: SHEET.key.json")
    collect.add_argument(
        "--tracking-uri", help="MLflow store of the runs (default: as configured in each run)"
    )
    collect.set_defaults(command=_collect)

    export = commands.add_parser("export", help="corrected answers as training examples")
    export.add_argument("sheet", type=Path, metavar="SHEET", help="folder that `sheet` made")
    export.add_argument("--key", type=Path, help="default: SHEET.key.json")
    export.add_argument("--output", type=Path, required=True, help="new file, JSON lines")
    export.set_defaults(command=_export)

    return parser


def _sheet(arguments: argparse.Namespace) -> None:
    from rag_experiments.rating import sheet

    for note in sheet.make(
        arguments.runs,
        arguments.output,
        arguments.questions,
        arguments.seed,
        show_expected=not arguments.hide_expected,
    ):
        print(note)
    name = shlex.quote(str(arguments.output))
    print(f"sheet for raters:  {arguments.output / sheet.SHEET}")
    print(f"key, not for raters:  {sheet.key_path(arguments.output)}")
    print(f"rate it:  python -m rag_experiments.rating rate {name} --rater NAME")


def _rate(arguments: argparse.Namespace) -> None:
    from rag_experiments.rating import page

    page.serve(arguments.sheet, arguments.rater, arguments.host, arguments.port, arguments.browser)


def _collect(arguments: argparse.Namespace) -> None:
    from rag_experiments.rating import collection

    collection.collect(arguments.sheet, arguments.key, arguments.tracking_uri)


def _export(arguments: argparse.Namespace) -> None:
    from rag_experiments.rating import corrections

    count = corrections.export(arguments.sheet, arguments.key, arguments.output)
    print(
        f"{count} corrected answers in {arguments.output}. Their questions are test questions: "
        "once trained on, they no longer test; evaluate on others."
    )


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return number


if __name__ == "__main__":
    main()
