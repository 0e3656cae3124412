"""How a document is written for a model that is to summarize it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from rag_experiments.contracts import Passage, Question
from rag_experiments.task.prompt import Names, Templates, fill, fill_passage, find_placeholders

_FRAMES = ("template", "closed_book", "few_shot", "zero_shot")


class SummaryPrompt(Templates):
    """Four frames: a document is read through passages of its own, or whole beside examples.

    {title} is the document's title (where it has none, its first sentence) and {words} the length
    that is asked for. A frame with {words} is refused for documents that ask for none.
    """

    required: ClassVar[Names] = {
        "system": (),
        "template": ("context",),
        "closed_book": ("title",),
        "passage": ("text",),
        "few_shot": ("context", "document"),
        "zero_shot": ("document",),
        "example": ("summary",),
    }
    optional: ClassVar[Names] = {
        "template": ("title", "words"),
        "closed_book": ("words",),
        "passage": ("title",),
        "few_shot": ("title", "words"),
        "zero_shot": ("title", "words"),
        "example": ("title", "text"),
    }

    template: str
    """Where passages of the document were retrieved: {context} is the passages."""

    closed_book: str
    """Where none were: the document is known by its {title} alone."""

    few_shot: str
    """Where documents like it were retrieved: {context} is the examples, {document} the whole
    text. The most similar example stands last, next to the document."""

    zero_shot: str
    """Where none were: the {document} alone."""

    passage: str = "{text}"
    """How one passage is written: {text} and, where wanted, {title}."""

    example: str = "{title}\n{text}\nSummary: {summary}"
    """How one example is written: {summary} and, where wanted, {title} and {text}. A line with a
    {title} is left out where there is none, as in the prompts of questions."""

    separator: Annotated[str, Field(min_length=1)] = "\n\n"
    """What stands between two passages or examples."""

    order: Literal["as_written", "best_first", "best_last"] = "as_written"
    """Order of a document's passages in {context}: that of the document, or by rank."""

    system: str = ""
    """System message for chat models; empty for none."""

    @property
    def names_words(self) -> bool:
        """Whether {words} stands in a frame."""
        return any("words" in find_placeholders(getattr(self, name)) for name in _FRAMES)

    def render(self, document: Question, passages: Sequence[Passage] = ()) -> str:
        """Return the prompt of a document; `passages` are best first."""
        values = {
            "title": document.question,
            "document": document.document,
            "words": str(document.words),
        }
        if document.within:
            pieces = [fill_passage(self.passage, p) for p in self._arrange(passages)]
            frame = self.template if pieces else self.closed_book
        else:
            pieces = [fill_passage(self.example, p) for p in passages[::-1]]
            frame = self.few_shot if pieces else self.zero_shot
        return fill(frame, {**values, "context": self.separator.join(pieces)})

    def _arrange(self, passages: Sequence[Passage]) -> Sequence[Passage]:
        if self.order == "as_written":
            return sorted(passages, key=lambda passage: passage.position)
        return passages if self.order == "best_first" else passages[::-1]
