"""Splits that stay the same when the data grows or is sorted: they follow a hash of the id."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping

from rag_experiments.data.problems import Problems, list_names, number, quote
from rag_experiments.data.records import Located

SPLITS = ("train", "validation", "test")


def place_id(identity: str, purpose: str) -> float:
    """Place of an id in [0, 1), spread evenly; another purpose gives another order."""
    digest = hashlib.sha256(f"{purpose}:{identity}".encode()).digest()
    # 53 bits are what a float holds exactly.
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def assign_splits(
    given: Mapping[str, list[Located]],
    fractions: Mapping[str, float],
    ids: Mapping[str, Collection[str]],
    problems: Problems,
) -> tuple[dict[str, list[Located]], list[str]]:
    """Give every question its split; returns the splits and sentences on what was decided.

    `given` holds the splits that the data has. `ids` names the questions of a split, wherever
    they stand. A split with neither is taken out of train: `fractions` of it, by the hash of
    the id, and one question at least where there are two.
    """
    splits = {name: list(given.get(name, ())) for name in SPLITS}
    notes = []
    for name, wanted in ids.items():
        known = {located.question.id for rows in splits.values() for located in rows}
        for identity in wanted:
            if identity not in known:
                place = f"data.{name}_ids"
                near = _near(identity, known)
                problems.add(place, f"no question has the id {quote(identity)}; {near}")
        chosen = set(wanted)
        rest = {
            other: [row for row in rows if row.question.id not in chosen]
            for other, rows in splits.items()
        }
        moved = [row for rows in splits.values() for row in rows if row.question.id in chosen]
        left = len(rest[name])
        if left:
            notes.append(f"{name}: {number(left, 'question')} left out, not being in {name}_ids.")
        splits = {**rest, name: moved}
        notes.append(f"{name}: {number(len(moved), 'question')} by the ids given.")

    missing = [name for name in ("test", "validation") if name not in given and name not in ids]
    pool = len(splits["train"])
    start = 0.0
    for name in ("test", "validation"):
        end = start + fractions[name]
        if name in missing:
            rows = splits["train"]
            drawn = [r for r in rows if start <= place_id(r.question.id, "split") < end]
            how = f"fraction {fractions[name]}"
            if not drawn and fractions[name] and len(rows) > 1:
                # Few questions: a run needs one at least, and should not fail by chance.
                drawn = [min(rows, key=lambda row: place_id(row.question.id, name))]
                how += "; none fell to it, so one was drawn"
            splits[name] = drawn
            taken = {id(row) for row in drawn}
            splits["train"] = [row for row in rows if id(row) not in taken]
            notes.append(
                f"{name}: the data has no such split; {len(drawn)} of {pool} training "
                f"questions, chosen by a stable hash of their ids ({how})."
            )
        start = end
    return splits, notes


def _near(identity: str, known: Collection[str]) -> str:
    # Thousands of ids: the first few say enough on what ids look like.
    return list_names(identity, sorted(known)[:3])
