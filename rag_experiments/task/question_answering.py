"""Open questions with short answers in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from rag_experiments.contracts import Option, Passage, Question
from rag_experiments.task.prompt import Prompt, add_citation, part_citations


class QuestionAnswering(Option):
    """Answer a question in a few words."""

    name: ClassVar[str] = "question_answering"
    records: ClassVar[Literal["questions"]] = "questions"
    labels: ClassVar[tuple[str, ...]] = ()
    temperature: ClassVar[None] = None  # there are no labels to score

    prompt: Prompt
    """How a question and its passages are written."""

    objective: Annotated[str, Field(min_length=1)] = "f1"
    """Metric that early stopping and the best checkpoint follow."""

    max_answer_tokens: Annotated[int, Field(ge=1)] = 24
    """Longest generated answer, in tokens of the generator."""

    @model_validator(mode="after")
    def _prompt_fits(self) -> QuestionAnswering:
        if self.prompt.uses_labels:
            raise ValueError(
                "prompt: has {labels}, but the task question_answering has no labels; "
                "remove {labels} or choose task=yes_no"
            )
        return self

    @property
    def system(self) -> str:
        """System message for chat models; empty for none."""
        return self.prompt.render_system()

    def render(self, question: Question, passages: Sequence[Passage] = (), seed: int = 0) -> str:
        """Return the prompt of a question and its passages (none: closed book)."""
        return self.prompt.render(question.question, passages, shots=question.shots, seed=seed)

    def target(self, question: Question, passages: Sequence[Passage] = (), seed: int = 0) -> str:
        """Return the first accepted answer, with a citation where the prompt asks for one.

        Of several gold passages in the prompt, the one that stands first is cited.
        """
        answer = question.answers[0]
        if self.prompt.cites:
            ordered = self.prompt.arrange(question.question, passages, seed)
            for number, passage in enumerate(ordered, 1):
                if passage.id in question.passage_ids:
                    return add_citation(answer, number)
        return answer

    def parse(self, text: str) -> str:
        """Return the first line of a generated text that is not empty, without citations."""
        line = _first_line(text)
        return part_citations(line)[0] if self.prompt.cites else line

    def cited(
        self, text: str, question: Question, passages: Sequence[Passage], seed: int = 0
    ) -> tuple[str, ...]:
        """Return the ids of the passages that the answer cites, each once.

        An empty one stands for all numbers that no passage has.
        """
        if not self.prompt.cites:
            return ()
        ordered = self.prompt.arrange(question.question, passages, seed)
        known = {number: passage.id for number, passage in enumerate(ordered, 1)}
        _, numbers = part_citations(_first_line(text))
        return tuple(dict.fromkeys(known.get(number, "") for number in numbers))

    def data_problems(self, questions: Sequence[Question]) -> list[str]:
        """Say which questions cannot be trained on or scored: those without an answer."""
        ids = [q.id for q in questions if not any(answer.strip() for answer in q.answers[:1])]
        if not ids:
            return []
        return [
            f"answers: {len(ids)} of {len(questions)} questions have no answer "
            f"(first: {ids[0]!r}); each needs at least one"
        ]


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")
