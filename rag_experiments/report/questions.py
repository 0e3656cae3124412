"""Single questions to read: what one setting wins and loses against another, and error bins."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rag_experiments.functional.attribution import BINS, break_down
from rag_experiments.report.comparison import EQUAL, Comparison
from rag_experiments.report.settings import Setting

SHOWN = 10
"""Wins, and losses, that a page shows of each pair; the table of all questions has the rest."""

COLUMNS = ("question_type", "answer_length", "retrieval_rank", "group")
"""By what errors are broken down."""

EXAMPLES = 3
"""Answers that a page shows of each error bin."""


@dataclass(frozen=True)
class Change:
    """A question that two settings answer with different scores."""

    question: str
    expected: tuple[str, ...]
    first: str
    first_score: float
    second: str
    second_score: float


@dataclass(frozen=True)
class Changes:
    """What a setting wins and loses against another, the largest change first."""

    first: str
    second: str
    wins: tuple[Change, ...]
    losses: tuple[Change, ...]


@dataclass(frozen=True)
class Example:
    """An answer that fell into an error bin."""

    bin: str
    question: str
    expected: tuple[str, ...]
    answer: str


def changes(first: Setting, second: Setting, metric: str) -> Changes:
    """Return the questions whose score differs, better for the second (wins) or worse.

    Scores are means over seeds; answers are those of the last seed.
    """
    one, two = first.scores(metric, first.final), second.scores(metric, second.final)
    found = []
    for question in one:
        if question not in two:
            continue
        a, b = float(one[question].mean()), float(two[question].mean())
        row, other = first.row(question), second.row(question)
        if abs(a - b) > EQUAL and row["question"] == other["question"]:
            answers = tuple(row["answers"])
            texts = row["prediction"], other["prediction"]
            found.append(Change(row["question"], answers, texts[0], a, texts[1], b))
    found.sort(key=lambda change: -abs(change.second_score - change.first_score))
    larger = tuple(change for change in found if change.second_score > change.first_score)
    smaller = tuple(change for change in found if change.second_score < change.first_score)
    if first.smaller_is_better(metric):
        return Changes(first.label, second.label, smaller, larger)
    return Changes(first.label, second.label, larger, smaller)


def examples(setting: Setting) -> list[Example]:
    """Return some answers of each error bin, of the last seed; none where there are no bins."""
    found = []
    for name in BINS:
        members = [q for q, row in setting.runs[-1].errors.items() if row["bin"] == name]
        for question in members[:EXAMPLES]:
            row = setting.row(question)
            found.append(Example(name, row["question"], tuple(row["answers"]), row["prediction"]))
    return found


def breakdowns(setting: Setting) -> dict[str, dict[str, dict[str, int]]]:
    """Return the counts of the bins by column and value, e.g. by the type of question, over all
    runs; nothing where there are no bins or no values to tell apart."""
    rows = [row for run in setting.runs for row in run.errors.values()]
    columns = [c for c in COLUMNS if rows and all(c in row for row in rows)]
    found = {column: break_down(rows, column) for column in columns}
    return {column.replace("_", " "): parts for column, parts in found.items() if len(parts) > 1}


def write_table(path: Path, comparison: Comparison) -> None:
    """Write a CSV file with a row for each question: answers, scores and bins of each setting."""
    settings: Sequence[Setting] = comparison.settings
    ids = dict.fromkeys(q for s in settings for q in s.runs[-1].predictions[s.final])
    scores = [setting.scores(comparison.metric, setting.final) for setting in settings]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        header = ["id", "question", "expected"]
        for setting in settings:
            header += [f"{name}: {setting.label}" for name in ("answer", comparison.metric, "bin")]
        writer.writerow(header)
        for question in ids:
            rows = [s.runs[-1].predictions[s.final].get(question) for s in settings]
            known = next(row for row in rows if row is not None)
            cells = [question, known["question"], " | ".join(known["answers"])]
            for setting, row, scored in zip(settings, rows, scores, strict=True):
                cells += [
                    row["prediction"] if row else "",
                    f"{scored[question].mean():.4f}" if question in scored else "",
                    setting.runs[-1].errors.get(question, {}).get("bin", ""),
                ]
            writer.writerow(cells)
