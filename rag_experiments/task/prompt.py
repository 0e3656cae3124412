"""How a question and its passages are written for a model."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from rag_experiments.contracts import Option, Passage, Shot

# Quotes inside the braces mean that they are the user's own, e.g. of a JSON example.
_PLACEHOLDER = re.compile(r"\{([^{}\n\"']*)\}")

_CITATION = re.compile(r"\s*\[(\d+)\]")

_BETWEEN_EXAMPLES = "\n\n"

Names = Mapping[str, tuple[str, ...]]
"""Placeholders by field."""


class Templates(Option):
    """Plain text with placeholders; a placeholder is replaced, never evaluated.

    Text put in for a placeholder is not searched again, so braces in passages and questions
    are harmless. Braces around a quotation mark (a JSON example) stay as they are; any other
    unknown placeholder is refused.
    """

    required: ClassVar[Names]
    """Placeholders that a field must have; a field that is absent here is no template."""
    optional: ClassVar[Names]
    """Placeholders that it may have beside them."""

    @field_validator("*")
    @classmethod
    def _placeholders_are_known(cls, value: Any, info) -> Any:
        if info.field_name not in cls.required:
            return value
        required = cls.required[info.field_name]
        legal = (*required, *cls.optional.get(info.field_name, ()))
        found = find_placeholders(value)
        problems = []
        for name in dict.fromkeys(found):
            if name not in legal:
                near = get_close_matches(name.strip().lower(), legal, n=1, cutoff=0.5)
                hint = f"; did you mean {{{near[0]}}}?" if near else ""
                problems.append(f"unknown placeholder {{{name}}}{hint}")
        problems += [f"{{{name}}} is missing" for name in required if name not in found]
        if problems:
            allowed = ", ".join(f"{{{name}}}" for name in legal)
            raise ValueError(f"{'; '.join(problems)} (placeholders here: {allowed}): {value!r}")
        return value


class Prompt(Templates):
    """How a question is written; its templates are plain text with placeholders."""

    required: ClassVar[Names] = {
        "system": (),
        "template": ("context", "question"),
        "passage": ("text",),
        "closed_book": ("question",),
        "example": ("question", "answer"),
    }
    optional: ClassVar[Names] = {
        "system": ("labels", "abstention"),
        "template": ("labels", "abstention"),
        "passage": ("title", "number"),
        "closed_book": ("labels", "abstention"),
        "example": ("context",),
    }

    template: str
    """Prompt with passages: {context} is the passages, {question} the question, and {labels},
    in tasks that have labels, the labels ("yes, no or maybe"). {abstention} is what to answer
    where there is no answer (`task.abstention`)."""

    closed_book: str
    """Prompt without passages: {question}, {labels} and {abstention} as above."""

    passage: str = "{text}"
    """How one passage is written: {text} and, where wanted, {title}. Where a passage has no
    title, a line that has {title} without {text} is left out; on a line with both, what joins
    the title to the text goes with it: "- {title}: {text}" becomes "- {text}".

    {number} counts the passages of a prompt as they stand, from 1, and asks for a citation: the
    target ends with the number of a gold passage where one is shown ("Taq polymerase [2]"), and
    numbers in brackets are taken off an answer before it is scored."""

    separator: Annotated[str, Field(min_length=1)] = "\n"
    """What stands between two passages."""

    order: Literal["best_first", "best_last", "shuffled"] = "best_first"
    """Order of the passages in {context}; the best last is next to the question, and shuffled ones
    follow the run's seed and the question (Liu et al. 2024, https://arxiv.org/abs/2307.03172)."""

    examples: Annotated[int, Field(ge=0)] = 0
    """Training questions with their answers that are shown before the question, never itself."""

    choice: Literal["drawn", "nearest"] = "drawn"
    """Which they are: the same for all questions, drawn with the run's seed, or those most like
    the question by BM25, the nearest last (Liu et al. 2022, https://arxiv.org/abs/2101.06804)."""

    example: str = "Question: {question}\nAnswer: {answer}"
    """How one of them is written: {question}, {answer} and, where wanted, its gold passage as
    {context}; then questions without a gold passage are not shown."""

    system: str = ""
    """System message for chat models; empty for none. May have {labels} and {abstention}."""

    @property
    def uses_labels(self) -> bool:
        """Whether {labels} stands anywhere in the prompt."""
        return self._names("labels")

    @property
    def names_abstention(self) -> bool:
        """Whether {abstention} stands anywhere in the prompt."""
        return self._names("abstention")

    def _names(self, placeholder: str) -> bool:
        texts = (self.system, self.template, self.closed_book)
        return any(placeholder in find_placeholders(text) for text in texts)

    @property
    def cites(self) -> bool:
        """Whether passages are numbered and answers cite them."""
        return "number" in find_placeholders(self.passage)

    @property
    def shows_gold(self) -> bool:
        """Whether examples are shown with their gold passages."""
        return "context" in find_placeholders(self.example)

    def render(
        self,
        question: str,
        passages: Sequence[Passage] = (),
        labels: Sequence[str] = (),
        shots: Sequence[Shot] = (),
        seed: int = 0,
        abstention: str = "",
    ) -> str:
        """Return the prompt of a question; `passages` are best first (none: closed book)."""
        values = {
            "question": question,
            "labels": join_labels(labels),
            "abstention": abstention,
        }
        template = self.closed_book
        if passages:
            ordered = self.arrange(question, passages, seed)
            values["context"] = self.separator.join(
                self.render_passage(passage, number) for number, passage in enumerate(ordered, 1)
            )
            template = self.template
        shown = [self.render_shot(shot, abstention) for shot in shots]
        return _BETWEEN_EXAMPLES.join([*shown, fill(template, values)])

    def arrange(self, question: str, passages: Sequence[Passage], seed: int) -> list[Passage]:
        """Return passages, best first, in the order in which the prompt has them."""
        ordered = list(passages)
        if self.order == "best_last":
            ordered.reverse()
        elif self.order == "shuffled":
            random.Random(f"{seed}:{question}").shuffle(ordered)
        return ordered

    def render_passage(self, passage: Passage, number: int = 1) -> str:
        """Return one passage as it stands in {context}."""
        return fill_passage(self.passage, passage, {"number": str(number)})

    def render_shot(self, shot: Shot, abstention: str = "") -> str:
        """Return one example; an abstention cites nothing."""
        values = {"question": shot.question, "answer": shot.answer}
        if self.shows_gold and shot.passage is not None:
            values["context"] = self.render_passage(shot.passage)
            if self.cites and shot.answer != abstention:
                values["answer"] = add_citation(shot.answer, 1)
        return fill(self.example, values)

    def render_system(self, labels: Sequence[str] = (), abstention: str = "") -> str:
        """Return the system message."""
        return fill(self.system, {"labels": join_labels(labels), "abstention": abstention})


def add_citation(answer: str, number: int) -> str:
    """Return an answer that cites the passage of a number: "Taq polymerase [2]"."""
    return f"{answer} [{number}]"


def part_citations(text: str) -> tuple[str, list[int]]:
    """Return an answer without its citations, and their numbers."""
    return _CITATION.sub("", text).strip(), [int(number) for number in _CITATION.findall(text)]


def join_labels(labels: Sequence[str]) -> str:
    """Write labels as a choice: "yes, no or maybe"."""
    if len(labels) < 2:
        return "".join(labels)
    return f"{', '.join(labels[:-1])} or {labels[-1]}"


def find_placeholders(template: str) -> list[str]:
    """Return the names of the placeholders of a template, in order."""
    return _PLACEHOLDER.findall(template)


def fill(template: str, values: Mapping[str, str]) -> str:
    """Return a template with its placeholders replaced; what is put in is not searched again."""
    return _PLACEHOLDER.sub(lambda found: values.get(found[1], found[0]), template)


def fill_passage(
    template: str, passage: Passage, others: Mapping[str, str] = MappingProxyType({})
) -> str:
    """Return a passage as a template writes it; `Prompt.passage` says what becomes of {title}.

    `others` are values of further placeholders.
    """
    values = {name: getattr(passage, name).strip() for name in ("title", "text", "summary")}
    values |= others
    return fill(template if values["title"] else _without_title(template), values)


def _without_title(template: str) -> str:
    lines = []
    for line in template.split("\n"):
        names = _PLACEHOLDER.findall(line)
        if "title" not in names:
            lines.append(line)
        elif "text" in names:
            before, text, after = line.partition("{text}")
            if "{title}" in before:
                # What leads the line stays ("- ", "Passage: "), but no bracket opened for the
                # title and nothing between the title and the text.
                before = re.sub(r"\S*$", "", before.partition("{title}")[0])
                before = re.sub(r"[(\[<«“][^)\]>»”]*$", "", before)
            lines.append(before + text + ("" if "{title}" in after else after))
    return "\n".join(lines)
