"""Several data sets as one: their passages together, and shares of their training questions."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from rag_experiments.contracts import Option, PreparedData, Question, Runtime, UserError
from rag_experiments.data.passages import read_rows, write_passages
from rag_experiments.data.problems import list_names, number
from rag_experiments.data.splits import SPLITS, place_id

if TYPE_CHECKING:
    from datasets import Dataset

log = logging.getLogger(__name__)

Share = Annotated[float, Field(ge=0, le=1)]


class Mixture(Option):
    """Train on questions of several data sets, searching the passages of all of them.

    Ids get the name of their part in front: passage `p1` of the part `b` is `b/p1`.
    """

    parts: Annotated[dict[str, Any], Field(min_length=1)]
    """Options of the group data, each under a name of its own."""

    shares: dict[str, Share] = Field(default_factory=dict)
    """Share of a part's training questions that is trained on, from 0 (its passages alone) to 1;
    parts without one are taken whole. Which questions they are follows the run's seed, and a
    larger share contains the smaller one."""

    evaluated: tuple[str, ...] | None = None
    """Parts whose validation and test questions are those of the run; null: the first part. Of
    several, the scores of each stand under its name too."""

    @model_validator(mode="after")
    def _names_are_known(self) -> Mixture:
        names = list(self.parts)
        for name, part in self.parts.items():
            if not name or "/" in name:
                raise ValueError(f"parts: {name!r} is no name of a part; legal: one without /")
            if not (isinstance(part, Option) and hasattr(part, "load")):
                raise ValueError(
                    f"parts: {name!r} is no data option; choose one with "
                    f"+data@data.parts.{name}=..."
                )
        for field, given in (("shares", self.shares), ("evaluated", self.evaluated or ())):
            for name in given:
                if name not in names:
                    raise ValueError(f"{field}: {name!r} is no part; {list_names(name, names)}")
        if self.evaluated is not None and not self.evaluated:
            raise ValueError(f"evaluated: [] names no part; {list_names('', names)}, or null")
        return self

    @property
    def draws(self) -> bool:
        """Whether the seed decides on what is read."""
        own = any(0 < share < 1 for share in self.shares.values())
        return own or any(getattr(part, "draws", False) for part in self.parts.values())

    def files(self) -> list[Path] | None:
        """The files of all parts; None where one cannot tell its own."""
        found: list[Path] = []
        for part in self.parts.values():
            files = getattr(part, "files", lambda: None)()
            if files is None:
                return None
            found += files
        return found

    def not_read(self) -> list[str]:
        """What the parts pass over beside their files."""
        return [note for part in self.parts.values() for note in getattr(part, "not_read", list)()]

    def load(self, runtime: Runtime) -> PreparedData:
        """Read every part and put them together; UserError as the parts raise it, by part."""
        loaded: dict[str, PreparedData] = {}
        problems: list[str] = []
        for name, part in self.parts.items():
            try:
                loaded[name] = part.load(runtime)
            except UserError as error:
                problems += [f"data.parts.{name}: {line}" for line in error.problems]
        if problems:
            raise UserError(problems)
        _check_kinds(loaded)
        evaluated = self.evaluated or tuple(self.parts)[:1]
        notes = [f"{name}: {note}" for name, data in loaded.items() for note in data.notes]
        taken: list[str] = []
        splits: dict[str, list[Question]] = {split: [] for split in SPLITS}
        for name, data in loaded.items():
            share = self.shares.get(name, 1.0)
            chosen = _draw(data.train, share, runtime.seed)
            if share and data.train and not chosen:
                least = math.ceil(1000 / len(data.train)) / 1000
                problems.append(
                    f"data.shares.{name}: {share:g} of {len(data.train)} training questions: none; "
                    f"legal: 0 (for the passages alone), or at least {least}"
                )
            splits["train"] += [_rename(question, name) for question in chosen]
            unused = "" if name in evaluated else "; its validation and test are not used"
            trained = number(len(data.train), "training question")
            taken.append(f"{name}: {len(chosen)} of {trained}{unused}.")
        if problems:
            raise UserError(problems)
        for name in evaluated:
            for split in ("validation", "test"):
                own = [_rename(question, name) for question in getattr(loaded[name], split)]
                if len(evaluated) > 1:
                    own = [replace(question, group=name) for question in own]
                splits[split] += own
        added = [*taken, *_find_leaks(splits)]
        for note in added:  # the others were logged by the parts
            log.info("%s", note)
        return PreparedData(
            passages=_join_passages(
                {name: data.passages for name, data in loaded.items()}, runtime
            ),
            train=tuple(splits["train"]),
            validation=tuple(splits["validation"]),
            test=tuple(splits["test"]),
            gold=_join_gold({data.gold for data in loaded.values()}),
            notes=(*notes, *added),
            places={
                f"{name}/{own}": place
                for name, data in loaded.items()
                for own, place in data.places.items()
            },
        )


def _check_kinds(loaded: dict[str, PreparedData]) -> None:
    """Raise UserError where parts hold questions and documents, or retrieve differently."""
    first, *others = loaded
    columns = set(loaded[first].passages.column_names)
    kinds = {name: any(q.document for q in data.train + data.test) for name, data in loaded.items()}
    for name in others:
        if kinds[name] != kinds[first] or set(loaded[name].passages.column_names) != columns:
            raise UserError(
                f"data.parts: {first!r} and {name!r} hold different records (questions, documents "
                "with summaries, or documents shown as examples); legal: parts of one kind"
            )


def _draw(questions: Sequence[Question], share: float, seed: int) -> list[Question]:
    order = sorted(questions, key=lambda question: place_id(question.id, f"mixture {seed}"))
    kept = {question.id for question in order[: round(share * len(questions))]}
    return [question for question in questions if question.id in kept]


def _rename(question: Question, part: str) -> Question:
    return replace(
        question,
        id=f"{part}/{question.id}",
        passage_ids=tuple(f"{part}/{name}" for name in question.passage_ids),
        within=question.within and f"{part}/{question.within}",
        without=question.without and f"{part}/{question.without}",
    )


def _join_passages(parts: dict[str, Dataset], runtime: Runtime) -> Dataset:
    columns = next(iter(parts.values())).column_names

    def rename() -> Iterator[tuple[str, ...]]:
        for name, passages in parts.items():
            for row in read_rows(passages, *columns):
                yield tuple(
                    f"{name}/{value}" if column in ("id", "document_id") else value
                    for column, value in zip(columns, row, strict=True)
                )

    return write_passages(rename(), columns, runtime.cache_dir).to_dataset()


def _find_leaks(splits: dict[str, list[Question]]) -> list[str]:
    trained = {_text(question) for question in splits["train"]}
    return [
        f"{number(shared, 'question')} of {name} in train as well: figures of {name} are too good "
        "by that."
        for name in ("validation", "test")
        if (shared := sum(_text(question) in trained for question in splits[name]))
    ]


def _text(question: Question) -> str:
    return " ".join((question.document or question.question).split()).casefold()


def _join_gold(kinds: set[str]) -> str:
    # The weakest that there is; questions without gold passages are left out of what needs them.
    return next(kind for kind in ("answer_match", "annotated", "none") if kind in kinds)
