"""Why an answer is right or wrong: ordered rules, of which the first that holds gives the bin.

1. `right`: the prediction is, character by character, the first accepted answer; or it says that
   there is no answer (it abstains), and there is none.
2. `right_other_form`: it is another form of an accepted answer. `normalization`: the first
   accepted answer but for case, punctuation and articles; `synonym`: another accepted answer,
   compared likewise; `containment`: an accepted answer stands in it, in whole words. The reverse
   does not count: "DNA" is not "DNA ligase". Labels are never looked for within a text, and an
   answer such as yes or no counts only where the prediction begins with it.
3. `wrong_format`: it has no words, is none of the task's labels, or ran on to the longest answer
   allowed without coming to an end.
4. `answered_unanswerable`: there is no answer, where the task knows such questions, and the
   prediction does not say so. An abstention on a question that has an answer is a wrong answer
   like any other, whose bin the next rules give.
5. `not_in_knowledge_source`: the knowledge source holds no gold passage.
6. `not_retrieved`: it does, but none was among those that the model was shown. One gold passage
   is enough; a question that needs several of them at once is not told apart.
7. `distracted`: one was shown, and the model is right (1 or 2) from the gold passages alone.
   Where several are gold and some were not retrieved, it may also have lacked those.
8. `reading_failure`: one was shown, and the model is wrong from the gold passages alone, too.
9. `unattributed`: what tells the bin is missing: accepted answers, gold passages, or the
   prediction from the gold passages alone.

Gold passages are weak where nobody annotated them (`answer_match`): those that contain an accepted
answer stand in, also for single questions without any in annotated data. Then 5 says that no
passage has the answer's words, and 6 to 8 that some passage has them, about whatever.

Nothing here is more than counting: a bin says where to look, not that a change there helps.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rag_experiments.functional.text import (
    contains_answer,
    is_label,
    normalize_answer,
    tokenize,
)

BINS = {
    "right": "the accepted answer, as it is written",
    "right_other_form": "an accepted answer in other words or with words around it",
    "wrong_format": "empty, not one of the labels, or not ended in time",
    "answered_unanswerable": "an answer where there is none",
    "not_in_knowledge_source": "no gold passage in the knowledge source",
    "not_retrieved": "a gold passage is there, but was not retrieved",
    "distracted": "retrieved and wrong, but right from the gold passages alone",
    "reading_failure": "retrieved and wrong, from the gold passages alone as well",
    "unattributed": "no gold passage is known, or the reference condition was not run",
}
"""The bins in the order of their rules, each in a few words."""

RIGHT = ("right", "right_other_form")

FORMS = ("normalization", "synonym", "containment")
"""How an answer can be right in another form."""


@dataclass(frozen=True, slots=True)
class Gold:
    """Gold passages of a question that are in the knowledge source, and how they are known."""

    passage_ids: tuple[str, ...]
    source: str
    """`annotated`, `answer_match` (weak), or `none`: there was nothing to look for."""


def attribute(
    rows: Sequence[Mapping[str, Any]],
    gold_rows: Iterable[Mapping[str, Any]] = (),
    *,
    labels: Sequence[str] = (),
    gold: Mapping[str, Gold] | None = None,
) -> list[tuple[str, str]]:
    """Return (id, bin) of each row, in order.

    `rows` are predictions as `predictions_<stage>.jsonl` has them, `gold_rows` those from the gold
    passages alone; `labels` are the task's. `gold` holds the gold passages by question; without
    it they are read off the rows (`gold_passage_ids`, `gold_source`).
    """
    alone = {row["id"]: row for row in gold_rows}
    return [
        (
            row["id"],
            find_bin(
                row,
                alone.get(row["id"]),
                labels=labels,
                gold=read_gold(row) if gold is None else gold[row["id"]],
            ),
        )
        for row in rows
    ]


def find_bin(
    row: Mapping[str, Any],
    gold_row: Mapping[str, Any] | None,
    *,
    labels: Sequence[str],
    gold: Gold,
) -> str:
    """Return the first bin whose rule holds for a prediction."""
    unanswerable = row.get("abstained") is not None and not row["answers"]
    if not row["answers"] and not unanswerable:
        return "unattributed"
    form = find_row_form(row, labels)
    if form is not None:
        return "right" if form == "exact" else "right_other_form"
    if has_wrong_format(row, labels):
        return "wrong_format"
    if unanswerable:
        return "answered_unanswerable"
    if gold.source == "none":
        return "unattributed"
    if not gold.passage_ids:
        return "not_in_knowledge_source"
    if find_rank(row["passage_ids"], gold.passage_ids) is None:
        return "not_retrieved"
    if gold_row is None:
        return "unattributed"
    alone = find_row_form(gold_row, labels)
    return "reading_failure" if alone is None else "distracted"


def find_row_form(row: Mapping[str, Any], labels: Sequence[str] = ()) -> str | None:
    """Return how the prediction of a row is right: `exact` or one of FORMS; None where it is not.

    That there is no answer (`abstained`; null or absent: the task knows no such answer) is right,
    and `exact`, where there is none, and wrong elsewhere, whatever words it is said in.
    """
    abstained, answers = row.get("abstained"), row["answers"]
    if abstained is not None and (abstained or not answers):
        return "exact" if abstained and not answers else None
    return find_form(row["prediction"], answers, labels)


def find_form(prediction: str, answers: Sequence[str], labels: Sequence[str] = ()) -> str | None:
    """Return how a prediction is right: `exact` or one of FORMS; None where it is not."""
    if not answers:
        return None
    if prediction.strip() == answers[0].strip():
        return "exact"
    words = normalize_answer(prediction)
    if not words:
        return None
    if words == normalize_answer(answers[0]):
        return "normalization"
    if words in {normalize_answer(answer) for answer in answers[1:]}:
        return "synonym"
    if not labels and any(_stands_in(prediction, answer) for answer in answers):
        return "containment"
    return None


def _stands_in(prediction: str, answer: str) -> bool:
    if is_label(answer):
        # "No, it is not" says no; "there is no doubt that it is" does not.
        return tokenize(prediction)[:1] == [normalize_answer(answer)]
    return contains_answer(prediction, answer)


def has_wrong_format(row: Mapping[str, Any], labels: Sequence[str] = ()) -> bool:
    """Tell whether a prediction has no words, is none of the labels, or was cut."""
    words = normalize_answer(row["prediction"])
    if labels:
        return words not in {normalize_answer(label) for label in labels}
    return not words or bool(row.get("cut"))


def read_gold(row: Mapping[str, Any]) -> Gold:
    """Return what a row itself knows of its gold passages.

    That an annotated question has none is no knowledge: nobody looked for the answer.
    """
    ids, source = tuple(row["gold_passage_ids"]), row.get("gold_source", "annotated")
    return Gold(ids, source if ids or source == "answer_match" else "none")


def find_rank(passage_ids: Sequence[str], gold: Sequence[str]) -> int | None:
    """Return the rank, from 1, of the first gold passage; None where none was retrieved."""
    wanted = frozenset(gold)
    return next((rank for rank, i in enumerate(passage_ids, start=1) if i in wanted), None)


# -- by what errors are broken down ------------------------------------------------------------

QUESTION_WORDS = {
    **{word: word for word in ("what", "which", "when", "where", "why", "how")},
    **dict.fromkeys(("who", "whom", "whose"), "who"),
}
_AUXILIARY = re.compile(
    r"\W*(is|are|was|were|am|do|does|did|has|have|had|can|could|will|would|shall|should|may|might"
    r"|must)(n['’]?t)?\b",
    re.IGNORECASE,
)


def name_question_type(question: str) -> str:
    """Return the first question word of an English question.

    `how many` also stands for how much; `yes or no` for questions that begin with an auxiliary
    verb ("Does ..."); `other` for those without a question word.
    """
    if _AUXILIARY.match(question):
        return "yes or no"
    words = re.findall(r"[a-z]+", question.lower())  # "what's" begins with what
    for i, word in enumerate(words):
        if word == "how" and words[i + 1 : i + 2] in (["many"], ["much"]):
            return "how many"
        if word in QUESTION_WORDS:
            return QUESTION_WORDS[word]
    return "other"


def name_length(answer: str) -> str:
    """Return the length of an answer in words, in four classes."""
    count = len(tokenize(answer))
    if count <= 2:
        return "1 word" if count < 2 else "2 words"
    return "3 to 5 words" if count <= 5 else "6 words or more"


def name_rank(rank: int | None, gold: Gold) -> str:
    """Return the rank of the first gold passage, in classes."""
    if not gold.passage_ids:
        return "unknown" if gold.source == "none" else "not in the knowledge source"
    if rank is None:
        return "not retrieved"
    for last, name in ((1, "1"), (2, "2"), (3, "3"), (5, "4 to 5"), (10, "6 to 10")):
        if rank <= last:
            return name
    return "11 or lower"


def count_bins(bins: Iterable[str]) -> dict[str, int]:
    """Return how often each bin occurs, in the order of the rules, those without any included."""
    counts = dict.fromkeys(BINS, 0)
    for name in bins:
        counts[name] += 1
    return counts


def break_down(rows: Sequence[Mapping[str, Any]], column: str) -> dict[str, dict[str, int]]:
    """Return the counts of the bins for each value of a column, the most frequent value first."""
    parts: dict[str, list[str]] = {}
    for row in rows:
        parts.setdefault(str(row[column]), []).append(row["bin"])
    ordered = sorted(parts.items(), key=lambda item: -len(item[1]))
    return {value: count_bins(bins) for value, bins in ordered}
