"""Who drafts: rules for English, and the generator of a run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rag_experiments.contracts import Example, Passage, Question, UserError
from rag_experiments.data.splits import place_id
from rag_experiments.functional.drafting import (
    LONGEST_QUESTION,
    draft_questions,
    find_answers,
    find_common_words,
)
from rag_experiments.functional.questions import find_answer_kind, fits_kind
from rag_experiments.functional.sentences import content_words, find_sentences
from rag_experiments.functional.text import contains_answer

if TYPE_CHECKING:
    from rag_experiments.config import Run

ORIGINS = ("rules", "generator")

OPEN = ("model/generator", "model.generator", "device", "precision", "cache_dir")
"""Keys of a run that say which generator writes, and on what."""

ASKED = 4
"""Answers that the generator writes a question for, for each one that is wanted: most of a small
one's are no questions, or do not find their passage."""

_TEMPLATE = """\
Text: The tower of Pisa was begun in 1173 and leans because of the soft ground under it.
Answer: soft ground
Question: What makes the tower of Pisa lean?

Text: Coffee. The plant reached Java in 1696 with Adriaan van Ommen, who sailed from Malabar.
Answer: Adriaan van Ommen
Question: Who brought the coffee plant to Java?

Text: A violin has four strings. They are tuned in fifths, and the lowest is tuned to G.
Answer: G
Question: To which note is the lowest string of a violin tuned?

Text: Bread is left to rise for 90 minutes before it is baked.
Answer: 90 minutes
Question: How long is bread left to rise?

Text: {context}
Answer: {question}"""


@dataclass(frozen=True)
class Drafted:
    """A draft with the place of its passage."""

    row: int
    question: str
    answer: str
    origin: str


def draft_by_rules(passages: Sequence[Passage]) -> list[Drafted]:
    """Return what the rules make of all passages."""
    common = frozenset[str]().union(*(find_common_words(passage.text) for passage in passages))
    return [
        Drafted(row, draft.question, draft.answer, f"rule: {draft.rule}")
        for row, passage in enumerate(passages)
        for draft in draft_questions(passage.text, common)
    ]


def compose_generator(overrides: Sequence[str]) -> Run:
    """Return the run whose generator writes; raise UserError where a key is of anything else."""
    from rag_experiments.composition.composer import Composer
    from rag_experiments.composition.overrides import read_key

    problems = [
        f"--overrides: {line!r} is not of the generator; legal: {', '.join(OPEN)}"
        for line in overrides
        if not any(
            read_key(line) == key or read_key(line).startswith((f"{key}.", f"{key}/"))
            for key in OPEN
        )
    ]
    if problems:
        raise UserError(problems)
    # Plain text goes on with a question; a chat template makes small models answer instead.
    return Composer().plan(["model=concat", "model.generator.chat=false", *overrides]).jobs[0]


def draft_by_generator(passages: Sequence[Passage], count: int, run: Run) -> list[Drafted]:
    """Return questions that a generator writes for names and figures of the passages.

    It is shown a passage, an answer that stands in it, and for figures how the question begins
    (`open_question`). What it writes is kept where `asks_for` holds. `ASKED` times `count` are
    written.
    """
    from rag_experiments.runtime.reproducibility import resolve_runtime
    from rag_experiments.task.prompt import Prompt
    from rag_experiments.task.question_answering import QuestionAnswering

    wanted = [
        (row, answer)
        for row, passage in enumerate(passages)
        for answer in find_answers(passage.text)
    ]
    wanted = sorted(wanted, key=lambda each: place_id(f"{each[0]} {each[1]}", "draft"))
    wanted = wanted[: ASKED * count]
    runtime = resolve_runtime(run.cache_dir, run.device, run.precision, run.seed)
    found = run.model.generator.device_problems(runtime.device)
    if found:
        raise UserError([f"model.generator.{line}" for line in found])
    prompt = Prompt(template=_TEMPLATE, closed_book="{question}", passage="{title}. {text}")
    task: Any = QuestionAnswering(prompt=prompt, max_answer_tokens=32)
    model = run.model.load(task, runtime, encode_queries=False)
    openings = [open_question(answer) for _, answer in wanted]
    examples = [
        Example(
            Question(str(i), f"{answer}\nQuestion: {opening}".rstrip()), (passages[row],), (0.0,)
        )
        for i, ((row, answer), opening) in enumerate(zip(wanted, openings, strict=True))
    ]
    written = model.answer(examples, progress="writing questions")
    drafts = (
        Drafted(row, read_question(f"{opening} {text.text}"), answer, "generator")
        for (row, answer), opening, text in zip(wanted, openings, written, strict=True)
    )
    return [d for d in drafts if asks_for(d.question, d.answer, passages[d.row].text)]


def open_question(answer: str) -> str:
    """Return how a question for a figure begins; empty for a name, which says less."""
    if re.fullmatch(r"1[5-9]\d\d|20\d\d", answer):
        return "In which year"
    if answer.endswith("%"):
        return "What percentage"
    if answer[0].isdigit():
        unit = answer.partition(" ")[2]
        return f"How many {unit}" if unit.isalpha() else "How"
    return ""


def read_question(text: str) -> str:
    """Return the question that a generator has written: its first line up to the question mark."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    line = re.sub(r"^[\W\d_]*(?:question\b)?[\W\d_]*", "", line, flags=re.IGNORECASE)
    asked, mark, _ = line.partition("?")
    return asked.strip() + mark


def asks_for(question: str, answer: str, text: str) -> bool:
    """Whether it is one short question for an answer of this form, about where the answer stands.

    It does not hold the answer, and half of its content words, but for those that it opens with,
    are in sentences of the text that have the answer.
    """
    kind = find_answer_kind(question)
    figure = answer[0].isdigit()
    if not question.endswith("?") or not 4 <= len(question.split()) <= LONGEST_QUESTION:
        return False
    if kind not in (("time", "quantity") if figure else ("person", "place", "thing")):
        return False
    if not fits_kind(answer, kind) or contains_answer(question, answer):
        return False
    sentences = (text[start:end] for start, end in find_sentences(text))
    around = {w for s in sentences if contains_answer(s, answer) for w in content_words(s)}
    asked = {*content_words(question)} - {*content_words(open_question(answer))}
    return 2 * len(asked & around) >= len(asked) > 0
