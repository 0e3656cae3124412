"""Draft questions on documents: python -m rag_experiments.draft sheet|collect."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from rag_experiments.contracts import UserError
from rag_experiments.draft.origins import ORIGINS


def main() -> None:
    """Draft questions with short answers on documents, for a person to accept, edit or drop."""
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
        prog="python -m rag_experiments.draft", description=main.__doc__
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    sheet = commands.add_parser("sheet", help="draft questions into a table (CSV)")
    sheet.add_argument(
        "source",
        type=Path,
        metavar="SOURCE",
        help="folder of documents (Markdown, text, PDF), or passages as data.passages takes them",
    )
    sheet.add_argument("--output", type=Path, required=True, help="new file, CSV")
    sheet.add_argument("--questions", type=_positive, default=100, help="at most (default: 100)")
    sheet.add_argument(
        "--origins",
        nargs="+",
        choices=ORIGINS,
        default=["rules"],
        help="who drafts, each an equal share: rules for English, the generator (default: rules)",
    )
    sheet.add_argument(
        "--top-k",
        type=_positive,
        default=3,
        help="a question is kept if BM25 has its passage among so many (default: 3)",
    )
    sheet.add_argument(
        "--overrides",
        nargs="+",
        default=[],
        metavar="OVERRIDE",
        help="of the generator, as for a run: model/generator=qwen_0_6b device=cuda",
    )
    sheet.set_defaults(command=_sheet)

    collect = commands.add_parser("collect", help="accepted questions as training examples")
    collect.add_argument("table", type=Path, metavar="TABLE", help="what `sheet` made, filled in")
    collect.add_argument("--output", type=Path, required=True, help="new file, JSON lines")
    collect.set_defaults(command=_collect)

    return parser


def _sheet(arguments: argparse.Namespace) -> None:
    from rag_experiments.draft import sheet

    for note in sheet.make(
        arguments.source,
        arguments.output,
        arguments.questions,
        tuple(dict.fromkeys(arguments.origins)),
        arguments.top_k,
        arguments.overrides,
    ):
        print(note)
    print(
        f"open {arguments.output} in a spreadsheet program; write yes or no under keep, edit "
        "question and answer, and save it as CSV"
    )


def _collect(arguments: argparse.Namespace) -> None:
    from rag_experiments.draft import sheet

    print(sheet.collect(arguments.table, arguments.output))


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return number


if __name__ == "__main__":
    main()
