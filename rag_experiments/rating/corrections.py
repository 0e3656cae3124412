"""Answers that raters corrected, as examples to train on."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path

from rag_experiments.contracts import UserError
from rag_experiments.rating import ratings, sheet


def export(folder: Path, key_file: Path | None, output: Path) -> int:
    """Write one example a question, in the layout of `train.jsonl`; return how many.

    Where raters corrected differently each correction is an accepted answer, the most frequent
    first. Gold passages are those that the data names. Raises UserError where nothing was
    corrected or the file exists.
    """
    if output.exists():
        raise UserError(f"--output: {output} exists already; give a new file")
    key = sheet.read_key(folder, key_file)
    corrected: dict[str, Counter[str]] = defaultdict(Counter)
    examples = {}
    for rater in ratings.read_all(folder, sheet.read(folder)):
        for (item, field), value in rater.answers.items():
            if field == "corrected" and str(value).strip():
                entry = key.items[item]
                corrected[entry["question_id"]][" ".join(str(value).split())] += 1
                examples[entry["question_id"]] = entry
    if not corrected:
        raise UserError(f"{folder}: no rater has corrected an answer")
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("w", encoding="utf-8") as file:
        for identity in sorted(corrected):
            example = {
                # Not the id of the question that was tested: ids are unique over all splits.
                "id": f"{identity}-corrected",
                "question": examples[identity]["question"],
                "answers": [answer for answer, _ in corrected[identity].most_common()],
                "passage_ids": examples[identity]["passage_ids"],
                "group": "corrected",
            }
            file.write(json.dumps(example, ensure_ascii=False) + "\n")
    return len(corrected)
