"""Summaries of documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from rag_experiments.contracts import Option, Passage, Question
from rag_experiments.task.summary_prompt import SummaryPrompt


class Summarization(Option):
    """Summarize a document, scored against one or several reference summaries."""

    name: ClassVar[str] = "summarization"
    records: ClassVar[Literal["documents"]] = "documents"
    labels: ClassVar[tuple[str, ...]] = ()
    temperature: ClassVar[None] = None  # there are no labels to score

    prompt: SummaryPrompt
    """How a document is written."""

    objective: Annotated[str, Field(min_length=1)] = "rougeL"
    """Metric that early stopping and the best checkpoint follow."""

    max_answer_tokens: Annotated[int, Field(ge=1)] = 96
    """Longest generated summary, in tokens of the generator. It ends a summary that goes on, and
    is no wish for a length: that is data.summary_words."""

    @property
    def system(self) -> str:
        """System message for chat models; empty for none."""
        return self.prompt.system

    def render(self, question: Question, passages: Sequence[Passage] = (), seed: int = 0) -> str:
        """Return the prompt of a document and what was retrieved for it."""
        return self.prompt.render(question, passages)

    def target(self, question: Question, passages: Sequence[Passage] = (), seed: int = 0) -> str:
        """Return the first reference summary."""
        return question.answers[0]

    def parse(self, text: str) -> str:
        """Return the whole text on one line: a summary may have several."""
        return " ".join(text.split())

    def abstains(self, answer: str) -> bool | None:
        """Return None: every document has a summary."""
        return None

    def cited(
        self, text: str, question: Question, passages: Sequence[Passage], seed: int = 0
    ) -> tuple[str, ...]:
        """Return none: summaries cite nothing."""
        return ()

    def data_problems(self, questions: Sequence[Question]) -> list[str]:
        """Say which documents cannot be trained on or scored, or lack what the prompt names."""
        problems = []
        bare = [q.id for q in questions if not any(text.strip() for text in q.answers[:1])]
        if bare:
            problems.append(
                f"summaries: {len(bare)} of {len(questions)} documents have no summary "
                f"(first: {bare[0]!r}); each needs at least one"
            )
        unknown = [q.id for q in questions if not q.words]
        if unknown and self.prompt.names_words:
            problems.append(
                f"task.prompt: names {{words}}, but {len(unknown)} of {len(questions)} documents "
                f"ask for no length (first: {unknown[0]!r}): there are no training summaries to "
                "take the median of; set data.summary_words, or choose a prompt without {words} "
                "(task/prompt=summary_free)"
            )
        return problems
