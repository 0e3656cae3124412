"""Prompts and answers as token ids: the chat template, and passages cut to the model's window."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from rag_experiments.contracts import Example, Passage, Question, Task, UserError
from rag_experiments.model.generator import Generator

if TYPE_CHECKING:
    from datasets import Dataset

log = logging.getLogger(__name__)

SHORTEST_PASSAGE = 16
"""Tokens of each passage that must fit beside the question."""


class PromptEncoder:
    """Writes prompts for one task and one tokenizer.

    `seed` is that of passages in random order; `cut` counts the prompts whose passages had to be
    cut so far.
    """

    def __init__(self, tokenizer: Any, option: Generator, task: Task, seed: int = 0):
        self.tokenizer = tokenizer
        self.option = option
        self.task = task
        self.seed = seed
        self.chat = option.chat and bool(tokenizer.chat_template)
        self.control = ControlTokens(tokenizer)
        self.cut = 0

    def write(self, question: Question, passages: Sequence[Passage]) -> str:
        """A prompt as the model was taught to read it: in its chat template, if it has one.

        What looks like a control token in question or passages is text, and opens or ends nothing.
        """
        prompt, system = self.task.render(question, passages, self.seed), self.task.system
        if self.control.stand_in(prompt):
            plain = self.control.break_up([question, *passages])
            prompt = self.task.render(plain[0], plain[1:], self.seed)
        if not self.chat:
            return f"{system}\n\n{prompt}" if system else prompt
        messages = [{"role": "system", "content": system}] if system else []
        return self.tokenizer.apply_chat_template(
            [*messages, {"role": "user", "content": prompt}],
            tokenize=False,
            add_generation_prompt=True,
            **self.option.chat_template_options,
        )

    def encode(self, rows: Sequence[tuple[Question, Sequence[Passage]]]) -> list[list[int]]:
        """Token ids of each row's prompt: a question and the passages shown with it.

        A prompt longer than `max_prompt_tokens` has its longest passages cut at the end until it
        fits; the question and the instruction stay whole.
        """
        ids = self._tokenize([self.write(question, passages) for question, passages in rows])
        limit = self.option.max_prompt_tokens
        for i, (question, passages) in enumerate(rows):
            if len(ids[i]) > limit:
                ids[i] = self._cut(question, passages, limit)
                self.cut += 1
        return ids

    def show(self, question: Question, passages: Sequence[Passage]) -> str:
        """A prompt as the model reads it: cut where `encode` cuts it, with all special tokens."""
        ids = self._tokenize([self.write(question, passages)])[0]
        if len(ids) > self.option.max_prompt_tokens:
            ids = self._cut(question, passages, self.option.max_prompt_tokens)
        return self.tokenizer.decode(ids)

    def target(self, example: Example) -> str:
        """What a model is trained to answer to an example."""
        return self.task.target(example.question, example.passages, self.seed)

    def cited(self, text: str, example: Example) -> tuple[str, ...]:
        """Ids of the passages that an answer to an example cites."""
        return self.task.cited(text, example.question, example.passages, self.seed)

    def encode_answer(self, answer: str) -> list[int]:
        """Token ids of an answer, its end token included."""
        end = self.tokenizer.eos_token_id
        if self.option.kind == "encoder_decoder":
            ids = self.tokenizer(answer).input_ids
        else:
            # After a plain prompt the answer is a new word; after a chat header it opens a line.
            text = answer if self.chat else f" {answer}"
            ids = self.tokenizer(text, add_special_tokens=False).input_ids
        return ids if ids and ids[-1] == end else [*ids, end]

    def decode(self, ids: Tensor) -> list[str]:
        """Texts of answer ids [r, t]."""
        return [text.strip() for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]

    def problems(
        self, questions: Sequence[Question], passages: int, source: Dataset | None = None
    ) -> list[str]:
        """Questions that would not fit beside the given number of passages of one prompt.

        Passages may be cut to `SHORTEST_PASSAGE` tokens. Those of a document that is read through
        its passages may not, nor may the summaries of examples: they count in full, the longest
        that `source` has of them.
        """
        empty = [Passage("", "", "")] * passages
        longest = LongestPassages(self.tokenizer, source, passages) if source is not None else None
        shown = [longest.of(q) if longest and q.document else empty for q in questions]
        kept = [0 if q.within else SHORTEST_PASSAGE * passages for q in questions]
        limit = self.option.max_prompt_tokens
        lengths = self._tokenize([self.write(q, p) for q, p in zip(questions, shown, strict=True)])
        needed = [len(ids) + more for ids, more in zip(lengths, kept, strict=True)]
        long = [i for i, count in enumerate(needed) if count > limit]
        if not long:
            return []
        worst = max(long, key=needed.__getitem__)
        question, read, tokens = questions[worst], len(shown[worst]), len(lengths[worst])
        remedy = f"set it to at least {needed[worst]}"
        if question.within and read:
            reason = (
                f"takes {tokens} tokens with its {read} longest passages, which are not cut; make "
                "passages shorter (data.preparation.chunk), read fewer (retriever.top_k), or "
            )
        elif question.document and not question.within:
            beside = (
                f" with {read} examples' summaries, and {kept[worst]} are kept for their texts"
                if read
                else ""
            )
            reason = (
                f"takes {tokens} tokens{beside}; read documents through their passages "
                "(data.scope=document), or "
            )
        else:
            reason = (
                f"takes {tokens} tokens before any passage and {kept[worst]} are kept for "
                "passages; "
            )
            if question.shots:
                count = len(question.shots)
                reason += f"show fewer than {count} examples (task.prompt.examples), or "
        records = "documents" if question.document else "questions"
        return [
            f"model.generator.max_prompt_tokens: {limit} is too small for {len(long)} of "
            f"{len(questions)} {records}; the longest, {question.id!r}, {reason}{remedy}"
        ]

    def window_problems(self, questions: Sequence[Question], config: Any) -> list[str]:
        """What the model cannot hold: prompt and answer together, or each, by architecture.

        `config` is that of the weights. Targets are trained on whole; those that are longer
        than an answer may get are counted in the log.
        """
        labels, limit = self.task.labels, self.task.max_answer_tokens
        texts = labels or [self.target(_with_gold(question)) for question in questions]
        lengths = [len(self.encode_answer(text)) for text in dict.fromkeys(texts)]
        # No limit: labels are scored whole, and nothing is generated.
        answer = max([*lengths, limit or 0])
        beyond = 0 if limit is None else sum(length > limit for length in lengths)
        if beyond:
            log.warning(
                "%d of %d different target answers are longer than task.max_answer_tokens %d (the "
                "longest has %d tokens): they are trained on whole, but not answered whole",
                beyond,
                len(lengths),
                limit,
                answer,
            )
        # Relative positions, as T5 has them, have no such number.
        positions = getattr(config.get_text_config(), "max_position_embeddings", None)
        if positions is None:
            return []
        name, prompt = "model.generator.max_prompt_tokens", self.option.max_prompt_tokens
        shared = answer if self.option.kind == "causal" else 0
        problems = []
        if answer >= positions:
            place = f"task.labels: {list(labels)}" if labels else f"task.max_answer_tokens: {limit}"
            problems.append(
                f"{place}; answers of up to {answer} tokens are more than "
                f"the {positions} positions of {self.option.weights!r} hold"
            )
        elif prompt + shared > positions:
            beside = f" beside {shared} of an answer" if shared else ""
            problems.append(
                f"{name}: {prompt}{beside} is more than the {positions} positions of "
                f"{self.option.weights!r}; legal: at most {positions - shared}"
            )
        return problems

    def _tokenize(self, prompts: list[str]) -> list[list[int]]:
        special = self.option.kind == "encoder_decoder" or not self.chat
        ids = self.tokenizer(prompts, add_special_tokens=special, verbose=False).input_ids
        if special and self.option.kind == "causal":
            # Some tokenizers close every text; the prompt of a causal model must stay open.
            end = self.tokenizer.eos_token_id
            ids = [row[:-1] if row[-1] == end else row for row in ids]
        return ids

    def _cut(self, question: Question, passages: Sequence[Passage], limit: int) -> list[int]:
        ids: list[int] = []
        # Titles only where texts are gone and it is not enough.
        for field in ("text", "title"):
            passages, ids = self._shorten(question, passages, field, limit)
            if len(ids) <= limit:
                return ids
        raise UserError(
            f"the prompt of {question.question!r} takes {len(ids)} tokens without any passage; "
            f"model.generator.max_prompt_tokens is {limit}; raise it to at least {len(ids)}"
        )

    def _shorten(
        self, question: Question, passages: Sequence[Passage], field: str, limit: int
    ) -> tuple[list[Passage], list[int]]:
        """The passages with a field cut to the most tokens that fit, or to none, and the ids."""
        values = [getattr(passage, field) for passage in passages]
        encoded = self.tokenizer(
            values or [""],
            add_special_tokens=False,
            return_offsets_mapping=True,
            verbose=False,
        )
        lengths = [len(ids) for ids in encoded.input_ids]
        frame = self._tokenize(
            [self.write(question, [_change(passage, field, "") for passage in passages])]
        )[0]
        cap = _longest_cap(lengths, limit - len(frame))
        while True:
            shorter = [
                _change(passage, field, value[: offsets[cap - 1][1]] if cap else "")
                if length > cap
                else passage
                for passage, value, offsets, length in zip(
                    passages, values, encoded.offset_mapping, lengths, strict=False
                )
            ]
            ids = self._tokenize([self.write(question, shorter)])[0]
            if len(ids) <= limit or cap == 0:
                return shorter, ids
            # Pieces join other pieces at a seam, so the sum can be off by a few tokens.
            cap = max(0, cap - max(1, (len(ids) - limit) // len(passages)))


class ControlTokens:
    """The texts that a tokenizer reads as its special tokens, e.g. `<|im_end|>`."""

    def __init__(self, tokenizer: Any):
        tokens = sorted({str(token) for token in tokenizer.all_special_tokens}, key=len)
        found = [re.escape(token) for token in reversed(tokens) if len(token) > 1]
        self.pattern = re.compile("|".join(found) or "(?!)")
        self.said = False

    def stand_in(self, text: str) -> bool:
        """Whether a text has one."""
        return self.pattern.search(text) is not None

    def break_up(self, value: Any) -> Any:
        """The same strings, lists, tuples and dataclasses with a space in every control token."""
        if isinstance(value, str):
            return self.pattern.sub(self._space, value)
        if isinstance(value, (list, tuple)):
            return type(value)(map(self.break_up, value))
        if is_dataclass(value) and not isinstance(value, type):
            own = {field.name: getattr(value, field.name) for field in fields(value)}
            return replace(value, **{name: self.break_up(each) for name, each in own.items()})
        return value

    def _space(self, match: re.Match[str]) -> str:
        token = match[0]
        broken = f"{token[0]} {token[1:]}"
        if not self.said:
            self.said = True
            log.warning(
                "a question or passage has %r, a control token of the generator; prompts show such "
                "tokens as text: %r",
                token,
                broken,
            )
        return broken


class LongestPassages:
    """The passages of a knowledge source that take the most room in a prompt.

    At most `count` of a document whose passages alone are read; for others as many examples with
    no more than their summaries.
    """

    def __init__(self, tokenizer: Any, source: Dataset, count: int):
        self.count = count
        columns = {name: source[name][:] for name in source.column_names}
        whole = "summary" if "summary" in columns else "text"
        ids = tokenizer(columns[whole] or [""], add_special_tokens=False, verbose=False).input_ids
        order = sorted(range(len(columns["id"])), key=lambda row: -len(ids[row]))
        self.documents: dict[str, list[Passage]] = {}
        for row in order:
            own = self.documents.setdefault(columns["document_id"][row], [])
            if len(own) < count:
                own.append(Passage("", columns["title"][row], columns["text"][row]))
        self.examples = [
            Passage("", "", "", columns["summary"][row] if "summary" in columns else "")
            for row in order[:count]
        ]

    def of(self, question: Question) -> list[Passage]:
        """The passages for one question."""
        return self.documents.get(question.within, []) if question.within else self.examples


def _with_gold(question: Question) -> Example:
    """The question with all its gold passages, so that its target cites one where it may."""
    return Example(question, tuple(Passage(name, "", "") for name in question.passage_ids))


def _change(passage: Passage, field: str, value: str) -> Passage:
    changes: dict[str, Any] = {field: value}
    return replace(passage, **changes)


def _longest_cap(lengths: Sequence[int], budget: int) -> int:
    """The largest c with sum_i min(length_i, c) <= budget."""
    low, high = 0, max(lengths)
    while low < high:
        middle = (low + high + 1) // 2
        if sum(min(length, middle) for length in lengths) <= budget:
            low = middle
        else:
            high = middle - 1
    return low
