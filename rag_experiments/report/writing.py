"""A report written to a folder and added to the runs that it compares."""

from __future__ import annotations

import logging
from pathlib import Path

from rag_experiments.contracts import UserError
from rag_experiments.report.comparison import compare
from rag_experiments.report.page import headline, render
from rag_experiments.report.questions import write_table
from rag_experiments.report.runs import Found

log = logging.getLogger(__name__)

NAMES = ("report.html", "report.md", "report.csv")


def write(found: Found, folder: Path, metric: str | None = None) -> str:
    """Write the report of runs to a folder and to tracking; return what to tell the user.

    In MLflow it is an artifact `report/` of each run that it compares: a run of its own would be
    a line without figures among those that are compared, and whoever opens any of the runs finds
    it. Where tracking does not take it, that is said, and the files stay.
    """
    _require_scores(found, metric)
    comparison = compare(found.runs, metric)
    page, markdown = render(found, comparison)
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / name for name in NAMES]
    files[0].write_text(page, encoding="utf-8")
    files[1].write_text(markdown, encoding="utf-8")
    write_table(files[2], comparison)
    lines = [headline(comparison), f"report: {files[0]}"]
    try:
        address = record(found, files)
    except Exception as error:
        log.warning("the report is not in tracking: %s", " ".join(str(error).split()))
        address = ""
    return "\n".join([*lines, *([f"  in MLflow: {address}"] if address else [])])


def record(found: Found, files: list[Path]) -> str:
    """Add files to the compared runs, each in the store that it is recorded in; return the
    address of one of them."""
    stores = {repr(run.tracking): run.tracking for run in found.runs}
    address = ""
    for name, store in stores.items():
        folders = [run.output_dir for run in found.runs if repr(run.tracking) == name]
        address = address or store.attach(folders, files, "report")
    return address


def _require_scores(found: Found, metric: str | None) -> None:
    if metric is None:
        objectives = dict.fromkeys(run.objective for run in found.runs)
        if len(objectives) > 1:
            raise UserError(
                f"--metric: the runs have different objectives ({', '.join(objectives)}); say "
                "which metric to compare by"
            )
        return
    shared = set.intersection(*(set(run.estimates[run.final]) for run in found.runs))
    legal = sorted(name for name in shared if "/" not in name)
    if metric not in legal:
        raise UserError(f"--metric: {metric!r}; legal, as all runs have it: {', '.join(legal)}")
