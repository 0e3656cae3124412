"""Open questions with short answers in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from rag_experiments.contracts import Option, Passage, Question
from rag_experiments.functional.text import normalize_answer
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

    abstention: str | None = None
    """Answer to questions that have none, e.g. unanswerable: a question with an empty list of
    answers is trained to be answered so, and scored as in SQuAD 2.0 (Rajpurkar et al. 2018,
    https://arxiv.org/abs/1806.03822). null: every question needs an answer."""

    @field_validator("abstention")
    @classmethod
    def _abstention_has_words(cls, value: str | None) -> str | None:
        if value is not None and not normalize_answer(value):
            raise ValueError(
                f"{value!r} has no words left without case, punctuation and articles; choose "
                "another text, e.g. unanswerable, or null for questions that all have an answer"
            )
        return value

    @model_validator(mode="after")
    def _prompt_fits(self) -> QuestionAnswering:
        if self.prompt.uses_labels:
            raise ValueError(
                "prompt: has {labels}, but the task question_answering has no labels; "
                "remove {labels} or choose task=yes_no"
            )
        if self.abstention is None:
            if self.prompt.names_abstention:
                raise ValueError(
                    "prompt: has {abstention}, but task.abstention is null; set it, e.g. "
                    "task.abstention=unanswerable, or choose another prompt, e.g. task/prompt=brief"
                )
        elif self.abstains(self.parse(self.abstention)) is not True:
            raise ValueError(
                f"abstention: {self.abstention!r} would be cut before it is compared; legal: one "
                "line, without numbers in brackets where the prompt asks for citations"
            )
        return self

    @property
    def system(self) -> str:
        """System message for chat models; empty for none."""
        return self.prompt.render_system(abstention=self.abstention or "")

    def render(self, question: Question, passages: Sequence[Passage] = (), seed: int = 0) -> str:
        """Return the prompt of a question and its passages (none: closed book)."""
        return self.prompt.render(
            question.question,
            passages,
            shots=question.shots,
            seed=seed,
            abstention=self.abstention or "",
        )

    def target(self, question: Question, passages: Sequence[Passage] = (), seed: int = 0) -> str:
        """Return the first accepted answer, with a citation where the prompt asks for one, or the
        abstention where there is none, which cites nothing.

        Of several gold passages in the prompt, the one that stands first is cited.
        """
        if not question.answers and self.abstention is not None:
            return self.abstention
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

    def abstains(self, answer: str) -> bool | None:
        """Tell whether an answer says that there is none; None where the task knows no such."""
        if self.abstention is None:
            return None
        return normalize_answer(answer) == normalize_answer(self.abstention)

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
        """Say which questions cannot be trained on or scored: those without an answer, unless that
        means something, and those whose answer is the abstention."""
        known = self.abstention is not None
        bare = [
            question.id
            for question in questions
            if not any(answer.strip() for answer in question.answers[:1])
            and not (known and not question.answers)
        ]
        same = [q.id for q in questions if any(map(self.abstains, q.answers))]
        problems = []
        if bare:
            remedy = (
                "; where an empty list means that there is none, say what to answer then, e.g. "
                "task.abstention=unanswerable"
            )
            problems.append(
                f"answers: {len(bare)} of {len(questions)} questions have no answer "
                f"(first: {bare[0]!r}); each needs at least one{'' if known else remedy}"
            )
        if same:
            problems.append(
                f"task.abstention: {self.abstention!r} is an accepted answer of {len(same)} of "
                f"{len(questions)} questions (first: {same[0]!r}); choose a text that is none, or "
                "give these an empty list of answers"
            )
        return problems


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")
