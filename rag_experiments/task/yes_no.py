"""Questions with a closed set of answers, scored as classes."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from rag_experiments.contracts import Option, Passage, Question
from rag_experiments.functional.text import normalize_answer
from rag_experiments.task.prompt import Prompt, join_labels


class YesNo(Option):
    """Answer a question with one of the labels."""

    name: ClassVar[str] = "yes_no"
    records: ClassVar[Literal["questions"]] = "questions"
    max_answer_tokens: ClassVar[None] = None  # labels are scored whole

    prompt: Prompt
    """How a question and its passages are written; {labels} stands for the labels."""

    labels: tuple[str, ...] = ("yes", "no")
    """The classes. In YAML they need quotes: a bare no is read as false."""

    temperature: Annotated[float, Field(gt=0)] | None = None
    """Of label scores = softmax(log p(label|x) / temperature); null: fitted on the validation
    questions. It changes how sure the model says it is, never which label it chooses."""

    objective: Annotated[str, Field(min_length=1)] = "accuracy"
    """Metric that early stopping and the best checkpoint follow."""

    @field_validator("labels", mode="before")
    @classmethod
    def _labels_are_words(cls, value: Any) -> Any:
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise ValueError(f'{value!r} is not a list of labels, e.g. ["yes", "no"]')
        for label in value:
            if isinstance(label, bool):
                raise ValueError(
                    f"{label} is not a word: YAML reads bare yes, no, on, off as true or false; "
                    'put each label in quotes, e.g. ["yes", "no"]'
                )
            if not isinstance(label, str):
                raise ValueError(f'{label!r} is not a word; put it in quotes: "{label}"')
        return tuple(value)

    @field_validator("labels")
    @classmethod
    def _labels_differ(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(value) < 2:
            raise ValueError(f"{list(value)} is too few; at least two labels are needed")
        first: dict[str, str] = {}
        for label in value:
            form = normalize_answer(label)
            if not form:
                raise ValueError(
                    f"{label!r} has no words left without case, punctuation and articles; "
                    "choose another label"
                )
            if form in first:
                raise ValueError(
                    f"{label!r} and {first[form]!r} are the same without case, punctuation "
                    "and articles; labels must differ"
                )
            first[form] = label
        return value

    @property
    def system(self) -> str:
        """System message for chat models; empty for none."""
        return self.prompt.render_system(self.labels)

    @model_validator(mode="after")
    def _prompt_fits(self) -> YesNo:
        if self.prompt.cites:
            raise ValueError(
                "prompt: has {number}, which asks for citations, but the task yes_no scores its "
                "labels alone; remove {number} or choose task=question_answering"
            )
        if self.prompt.names_abstention:
            raise ValueError(
                "prompt: has {abstention}, but the task yes_no has labels alone; make one of "
                'task.labels, e.g. ["yes", "no", "unknown"], or choose task=question_answering'
            )
        return self

    def render(self, question: Question, passages: Sequence[Passage] = (), seed: int = 0) -> str:
        """Return the prompt of a question and its passages (none: closed book)."""
        return self.prompt.render(question.question, passages, self.labels, question.shots, seed)

    def target(self, question: Question, passages: Sequence[Passage] = (), seed: int = 0) -> str:
        """Return the label of the first accepted answer.

        An answer that is none of the labels is an error; `data_problems` finds it beforehand.
        """
        return self._forms()[normalize_answer(question.answers[0])]

    def parse(self, text: str) -> str:
        """Return the label that the text begins with, as whole words; else an empty string.

        "No, it does not." is no; "nothing", "not sure" and "I do not know" are no label.
        """
        words = normalize_answer(text).split()
        # The longest first, so that "no effect" is found before "no".
        for form, label in sorted(self._forms().items(), key=lambda item: -len(item[0].split())):
            expected = form.split()
            if words[: len(expected)] == expected:
                return label
        return ""

    def abstains(self, answer: str) -> bool | None:
        """Return None: for a question without an answer there may be a label."""
        return None

    def cited(
        self, text: str, question: Question, passages: Sequence[Passage], seed: int = 0
    ) -> tuple[str, ...]:
        """Return none: labels are chosen, and nothing is cited."""
        return ()

    def data_problems(self, questions: Sequence[Question]) -> list[str]:
        """Say which answers are none of the labels, one line for each such answer."""
        forms = self._forms()
        legal = f"legal: {join_labels(self.labels)} (task.labels)"
        strangers: dict[str, list[str]] = {}
        missing, torn = [], []
        for question in questions:
            if not question.answers:
                missing.append(question.id)
            for answer in question.answers:
                if normalize_answer(answer) not in forms:
                    strangers.setdefault(answer, []).append(question.id)
            if len({normalize_answer(answer) for answer in question.answers} & forms.keys()) > 1:
                torn.append(question.id)
        problems = []
        if missing:
            problems.append(
                f"answers: {len(missing)} of {len(questions)} questions have no answer "
                f"(first: {missing[0]!r}); {legal}"
            )
        if torn:
            problems.append(
                f"answers: {len(torn)} of {len(questions)} questions have two different labels "
                f"(first: {torn[0]!r}); each needs one"
            )
        for answer, ids in strangers.items():
            near = get_close_matches(normalize_answer(answer), forms, n=1)
            hint = f"; nearest: {forms[near[0]]}" if near else ""
            problems.append(
                f"answers: {answer!r}, of {len(ids)} of {len(questions)} questions "
                f"(first: {ids[0]!r}), is not a label; {legal}{hint}"
            )
        return problems

    def _forms(self) -> dict[str, str]:
        return {normalize_answer(label): label for label in self.labels}
