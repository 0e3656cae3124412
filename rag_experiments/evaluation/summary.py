"""What a run says at its end: the metrics with and without training, and some answers."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rag_experiments.contracts import Prediction
from rag_experiments.functional.attribution import BINS
from rag_experiments.runtime.terminal import plain

if TYPE_CHECKING:
    from rag_experiments.metrics.evaluation import Estimate, Evaluation
    from rag_experiments.tracking.recorder import Recorder

EXAMPLES = 5


def print_summary(
    evaluations: Mapping[str, Evaluation], predictions: Sequence[Prediction], note: str = ""
) -> None:
    """Print a table with a column for each evaluation, and example answers of the last one."""
    # A file or a pipe has no width of its own, and a cut number is of no use.
    console = Console() if sys.stdout.isatty() else Console(width=120)
    table = Table(title="test metrics [95% interval]", title_justify="left", caption=note or None)
    table.add_column("metric")
    for column in evaluations:
        table.add_column(column, justify="right")
    table.add_column("n", justify="right")
    last = list(evaluations.values())[-1]
    for name, estimate in last.estimates.items():
        cells = [_show(evaluation.estimates[name]) for evaluation in evaluations.values()]
        table.add_row(name, *cells, str(estimate.n))
    console.print(table)
    console.print("[bold]five answers[/bold]" if len(predictions) >= EXAMPLES else "answers")
    step = max(1, len(predictions) // EXAMPLES)
    for prediction in predictions[::step][:EXAMPLES]:
        console.print(f"\n[bold]{_show_text(prediction.question)}[/bold]")
        expected = " | ".join(prediction.answers) or "(no answer)"
        console.print(
            f"  answer:   {_show_text(prediction.prediction) or '(empty)'}   "
            f"[dim]expected: {_show_text(expected)}[/dim]"
        )
        for i, text in enumerate(prediction.passages):
            gold = "*" if prediction.passage_ids[i] in prediction.gold_passage_ids else " "
            weight = f"{prediction.prior[i]:.2f}"
            if prediction.posterior:
                weight += f" > {prediction.posterior[i]:.2f}"
            console.print(f"  {gold} {weight}  {_show_text(_shorten(text))}", style="dim")
    if any(prediction.passages for prediction in predictions):
        console.print("\n  * gold passage;  p(z|x) > p(z|x,y) where the model has it", style="dim")


def print_references(evaluations: Mapping[str, Evaluation], final: str, objective: str) -> None:
    """Print the objective of the run between those of its two reference conditions."""
    if objective not in evaluations["closed_book"].estimates:
        return  # an objective of retrieval: it says nothing of these conditions
    names = {"closed_book": "closed book", final: "this run", "gold": "gold passages alone"}
    console = Console() if sys.stdout.isatty() else Console(width=120)
    table = Table(title=f"{objective} of the same model [95% interval]", title_justify="left")
    for column in ("passages", objective, "n"):
        table.add_column(column, justify="left" if column == "passages" else "right")
    for stage, name in names.items():
        if stage in evaluations:
            estimate = evaluations[stage].estimates[objective]
            table.add_row(name, _show(estimate), str(estimate.n))
    if "gold" not in evaluations:
        table.caption = "no gold passages are known: none could be given"
    console.print(table)


def print_errors(bins: Mapping[str, int] | None, coverage: Mapping[str, Mapping[str, Any]]) -> None:
    """Print how many test questions are in each bin, and what the data says about them.

    Summaries have no bins (None).
    """
    console = Console() if sys.stdout.isatty() else Console(width=120)
    leakage, answers = coverage["leakage"], coverage["answers"]
    if bins is None:
        console.print(
            f"of {leakage['test']} test documents {leakage['near_questions']} are nearly the same "
            "as a training document"
        )
        return
    total = sum(bins.values())
    table = Table(title="where the answers go wrong", title_justify="left")
    table.add_column("bin")
    table.add_column("questions", justify="right")
    table.add_column("that is")
    for name, count in bins.items():
        if count:
            table.add_row(name, f"{count} ({count / total:.0%})", BINS[name])
    console.print(table)
    if answers["questions"]:
        console.print(
            f"an accepted answer stands in the knowledge source for "
            f"{answers['in_knowledge_source']} of {answers['questions']} questions, in the "
            f"retrieved passages for {answers['in_passages']}"
        )
    console.print(
        f"of {leakage['test']} test questions {leakage['repeated_questions']} are a training "
        f"question word for word, {leakage['near_questions']} nearly the same as one, "
        f"{leakage['shared_gold']} share a gold passage with one"
    )


def print_place(recorder: Recorder) -> None:
    """Say how a recorded run is looked at."""
    if recorder.url:
        if recorder.ui_command:
            print(f"look at the run with:  {recorder.ui_command}")
        print(f"  {recorder.url}")


def _show(estimate: Estimate) -> str:
    if estimate.n == 0:
        return "-"
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def _show_text(text: str) -> str:
    return escape(plain(text))


def _shorten(text: str, length: int = 90) -> str:
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"
