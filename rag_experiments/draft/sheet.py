"""The table of drafts: written for a person, and read back as training examples."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rag_experiments.contracts import UserError
from rag_experiments.data.fields import hash_text
from rag_experiments.data.problems import Problems, number, quote
from rag_experiments.data.splits import place_id
from rag_experiments.draft.origins import (
    Drafted,
    compose_generator,
    draft_by_generator,
    draft_by_rules,
)
from rag_experiments.draft.passages import Passages, read_passages
from rag_experiments.functional.text import contains_answer
from rag_experiments.spreadsheet import read_table, write_table

COLUMNS = ("keep", "question", "answer", "passage_id", "passage", "origin")


def make(
    source: Path,
    output: Path,
    questions: int,
    origins: Sequence[str],
    top_k: int,
    overrides: Sequence[str],
) -> list[str]:
    """Draft questions on documents into a new table; return sentences on what was done.

    Each origin gives an equal share of at most `questions`, drawn by a hash of the question, and
    only questions that bring BM25 back to their passage. Raises UserError where a document cannot
    be read, nothing was drafted, or the file exists.
    """
    _refuse_existing(output)
    if overrides and "generator" not in origins:
        raise UserError("--overrides: are the generator's; give --origins generator as well")
    run = compose_generator(overrides) if "generator" in origins else None
    read = read_passages(source)
    documents = len({passage.id for passage in read.passages})
    notes = [
        *read.notes,
        f"{number(documents, 'document')} in {number(len(read.passages), 'passage')}",
    ]
    kept: list[Drafted] = []
    share = -(-questions // len(origins))
    for origin in origins:
        if origin == "rules":
            drafts = draft_by_rules(read.passages)
        else:
            assert run is not None
            drafts = draft_by_generator(read.passages, share, run)
        drafts = _drop_repeated(drafts, kept)
        found = _keep_found(drafts, read, top_k)
        chosen = {*sorted(found, key=lambda draft: place_id(draft.question, "draft"))[:share]}
        kept += [draft for draft in found if draft in chosen]
        notes.append(
            f"{origin}: {number(len(drafts), 'question')}, {len(found)} of them find their passage "
            f"among {top_k}, {len(chosen)} are in the table"
        )
    if not kept:
        raise UserError([*notes, f"{source}: nothing was drafted, and {output} is not written"])
    output.parent.mkdir(parents=True, exist_ok=True)
    rows = (
        {
            "question": draft.question,
            "answer": draft.answer,
            "passage_id": read.passages[draft.row].id,
            "passage": read.passages[draft.row].text,
            "origin": draft.origin,
        }
        for draft in sorted(kept, key=lambda draft: draft.row)
    )
    write_table(output, COLUMNS, rows)
    return notes


def collect(table: Path, output: Path) -> str:
    """Write the accepted rows of a table as examples to train on; return what was counted.

    They are in the layout of `train.jsonl`. Raises UserError with every row that is wrong: a word
    under `keep` that is neither yes nor no, a question or an answer that is empty, an answer that
    does not stand in its passage, a question that is there twice.
    """
    _refuse_existing(output)
    problems = Problems()
    examples: list[dict[str, object]] = []
    rows_of: dict[str, int] = {}
    dropped = undecided = 0
    for row_number, row in read_table(table, COLUMNS).items():
        place = f"{table}:row {row_number}"
        keep = row["keep"].strip().lower()
        if not keep:
            undecided += 1
            continue
        if keep not in ("yes", "no"):
            problems.add(f"{place}:keep", f"{quote(row['keep'])}; legal: yes, no, or empty")
            continue
        if keep == "no":
            dropped += 1
            continue
        question, answer = (" ".join(row[name].split()) for name in ("question", "answer"))
        empty = [n for n, value in (("question", question), ("answer", answer)) if not value]
        for name in empty:
            problems.add(f"{place}:{name}", "is empty; write one, or no under keep")
        if answer and not contains_answer(row["passage"], answer):
            problems.add(
                f"{place}:answer",
                f"{quote(answer)} does not stand in the passage; use its words, or write no under "
                "keep",
            )
        identity = hash_text(f"{question}\n{row['passage_id']}")
        first = rows_of.setdefault(identity, row_number)
        if question and first != row_number:
            problems.add(
                f"{place}:question", f"is that of row {first} as well; write no under keep"
            )
        examples.append(
            {
                "id": identity,
                "question": question,
                "answers": [answer],
                "passage_ids": [row["passage_id"].strip()] if row["passage_id"].strip() else [],
            }
        )
    problems.raise_if_any()
    if not examples:
        raise UserError(f"{table}: no row has yes under keep; {undecided} are undecided")
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("x", encoding="utf-8") as file:
        for example in examples:
            file.write(json.dumps(example, ensure_ascii=False) + "\n")
    return (
        f"{number(len(examples), 'question')} in {output}; {dropped} dropped, {undecided} undecided"
    )


def _drop_repeated(drafts: Sequence[Drafted], before: Sequence[Drafted]) -> list[Drafted]:
    first: dict[str, Drafted] = {}
    for draft in (*before, *drafts):
        first.setdefault(draft.question, draft)
    return [draft for draft in first.values() if draft not in before]


def _keep_found(drafts: Sequence[Drafted], read: Passages, top_k: int) -> list[Drafted]:
    found = read.finds([d.question for d in drafts], [d.row for d in drafts], top_k)
    return [draft for draft, good in zip(drafts, found, strict=True) if good]


def _refuse_existing(output: Path) -> None:
    if output.exists():
        raise UserError(f"--output: {output} exists already; give a new file")
