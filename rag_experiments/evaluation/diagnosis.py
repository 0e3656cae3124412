"""Where a run fails: the bin of each test question, and what the errors have in common.

A run's folder holds

- `errors.jsonl`, one row for each test question in the order of the predictions: `id`, `bin` (one
  of `functional.attribution.BINS`), `form` (how it is right: `exact` or one of `FORMS`; null: it
  is wrong), `question`, `answers`, `prediction`, `abstained` (whether it says that there is no
  answer; null: the task knows no such answer), `closed_book` and `gold` (what the same model
  answers without passages and from the gold passages alone; null: not asked), `closed_book_right`
  and `gold_right` (null likewise), `gold_source` (`annotated`, `answer_match`, `none`),
  `gold_passage_ids`, `gold_rank` (of the first gold passage, from 1; null: not retrieved), and
  what errors are broken down by: `question_type`, `answer_length`, `retrieval_rank`, `group`;
- `errors.json`: `questions` (how many), `bins` (counts in the order of the rules, zeros
  included), `forms` (counts of `form`), `closed_book_right` and `gold_right` (`right` of
  `asked`), `breakdowns` (by column, value and bin, the most frequent value first; `group` only
  where there are groups), `examples` (ids of the first questions of each bin), `labels` (of the
  task).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rag_experiments.contracts import Prediction, PreparedData
from rag_experiments.data.passages import read_rows
from rag_experiments.functional.attribution import (
    BINS,
    FORMS,
    Gold,
    attribute,
    break_down,
    count_bins,
    find_rank,
    find_row_form,
    name_length,
    name_question_type,
    name_rank,
)
from rag_experiments.functional.text import drop_labels

EXAMPLES = 5
COLUMNS = ("question_type", "answer_length", "retrieval_rank", "group")


def find_gold(
    data: PreparedData, located: Mapping[str, Sequence[str]], labels: Sequence[str] = ()
) -> dict[str, Gold]:
    """Return the gold passages of each test question that are in the knowledge source.

    `located` has the passages that contain an accepted answer, by question; they stand in where
    nobody annotated gold passages, though not for labels, which are no words of a passage.
    """
    named = {passage_id for question in data.test for passage_id in question.passage_ids}
    known = {name for (name,) in read_rows(data.passages, "id") if name in named}
    found = {}
    for question in data.test:
        ids = tuple(i for i in dict.fromkeys(question.passage_ids) if i in known)
        if question.passage_ids:
            weak = data.gold == "answer_match"
            found[question.id] = Gold(ids, "answer_match" if weak else "annotated")
        elif drop_labels(question.answers, labels):
            found[question.id] = Gold(tuple(located[question.id]), "answer_match")
        else:
            found[question.id] = Gold((), "none")
    return found


def explain(
    predictions: Sequence[Prediction],
    references: Mapping[str, Sequence[Prediction]],
    gold: Mapping[str, Gold],
    labels: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Return the rows of `errors.jsonl`; `references` are predictions by condition."""
    rows = [asdict(prediction) for prediction in predictions]
    alone = [asdict(prediction) for prediction in references.get("gold", ())]
    bins = dict(attribute(rows, alone, labels=labels, gold=gold))
    answered = {
        condition: {p.id: p for p in references.get(condition, ())}
        for condition in ("closed_book", "gold")
    }

    def find_answer(condition: str, name: str) -> str | None:
        found = answered[condition].get(name)
        return None if found is None else found.prediction

    def is_right(condition: str, name: str) -> bool | None:
        found = answered[condition].get(name)
        return None if found is None else find_row_form(asdict(found), labels) is not None

    explained = []
    for prediction, row in zip(predictions, rows, strict=True):
        known = gold[prediction.id]
        rank = find_rank(prediction.passage_ids, known.passage_ids)
        answers = prediction.answers
        explained.append(
            {
                "id": prediction.id,
                "bin": bins[prediction.id],
                "form": find_row_form(row, labels),
                "question": prediction.question,
                "answers": list(answers),
                "prediction": prediction.prediction,
                "abstained": prediction.abstained,
                "closed_book": find_answer("closed_book", prediction.id),
                "closed_book_right": is_right("closed_book", prediction.id),
                "gold": find_answer("gold", prediction.id),
                "gold_right": is_right("gold", prediction.id),
                "gold_source": known.source,
                "gold_passage_ids": list(known.passage_ids),
                "gold_rank": rank,
                "question_type": name_question_type(prediction.question),
                "answer_length": name_length(answers[0]) if answers else "no answer",
                "retrieval_rank": name_rank(rank, known),
                "group": prediction.group,
            }
        )
    return explained


def summarize(rows: Sequence[Mapping[str, Any]], labels: Sequence[str] = ()) -> dict[str, Any]:
    """Return the content of `errors.json` from the rows of `errors.jsonl`."""
    forms = Counter(row["form"] for row in rows)
    columns = [c for c in COLUMNS if c != "group" or any(row["group"] for row in rows)]

    def count_right(condition: str) -> dict[str, int]:
        asked = [row[condition] for row in rows if row[condition] is not None]
        return {"right": sum(asked), "asked": len(asked)}

    return {
        "questions": len(rows),
        "bins": count_bins(row["bin"] for row in rows),
        "forms": {form: forms[form] for form in ("exact", *FORMS)},
        "closed_book_right": count_right("closed_book_right"),
        "gold_right": count_right("gold_right"),
        "breakdowns": {column: break_down(rows, column) for column in columns},
        "examples": {
            name: [row["id"] for row in rows if row["bin"] == name][:EXAMPLES] for name in BINS
        },
        "labels": list(labels),
    }


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a mapping for people and programs."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
