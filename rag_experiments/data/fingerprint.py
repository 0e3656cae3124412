"""Hashes that say whether two runs read the same data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import astuple
from typing import TYPE_CHECKING

from rag_experiments.contracts import PreparedData, Question

if TYPE_CHECKING:
    from datasets import Dataset


def fingerprint_questions(questions: Sequence[Question]) -> str:
    """SHA-256 over questions with all their fields, in their order; 64 hex digits."""
    rows = [astuple(question) for question in questions]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def fingerprint_passages(passages: Dataset) -> str:
    """SHA-256 over passages with all their columns, in their order; 64 hex digits."""
    digest = hashlib.sha256()
    names = sorted(passages.column_names)
    for batch in passages.select_columns(names).iter(batch_size=1000):
        for row in zip(*(batch[name] for name in names), strict=True):
            digest.update(json.dumps(row).encode() + b"\n")
    return digest.hexdigest()


def fingerprint(prepared: PreparedData) -> str:
    """SHA-256 over passages, questions of each split, and where gold comes from; 64 hex digits.

    Notes are left out: they tell of the content and are not part of it.
    """
    digest = hashlib.sha256()

    def add(value: object) -> None:
        digest.update(json.dumps(value, ensure_ascii=True).encode() + b"\n")

    columns = prepared.passages.column_names
    add(["passages", len(prepared.passages)])
    # Whole columns: reading a Dataset row by row is a hundred times as slow.
    for row in zip(*(prepared.passages[column] for column in columns), strict=True):
        add(row)
    for name in ("train", "validation", "test"):
        questions = getattr(prepared, name)
        add([name, len(questions)])
        for question in questions:
            add(astuple(question))
    add(prepared.gold)
    return digest.hexdigest()
