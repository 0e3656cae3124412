"""The RAG models at work: examples to batches, the training loss, answers.

Legend: b questions, n passages of the question that has most, r prompts (rows), t answer
tokens. Prompts of all questions stand in one batch of rows, without any for passages that a
question does not have: `slots` [b, n] says which row belongs to which passage, -1 for none.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm

from rag_experiments.contracts import (
    Answer,
    Example,
    Passage,
    Question,
    Runtime,
    Task,
    UserError,
)
from rag_experiments.model.decoding import decode_answers
from rag_experiments.model.language_model import (
    DecodingState,
    LanguageModel,
    load_language_model,
)
from rag_experiments.model.prompt_encoder import PromptEncoder
from rag_experiments.weights import load_weights

if TYPE_CHECKING:
    from rag_experiments.encoder import TextEncoder
    from rag_experiments.model.rag import Decoding, Rag

log = logging.getLogger(__name__)

TOKENS_AT_ONCE = 6144
"""Prompt tokens, padding included, that are read together to be answered: bounds memory, and keeps
decoding steps, which cost a few rows nearly as much as many, few."""

CHARACTERS_A_TOKEN = 4
"""Of English, roughly: to plan batches before anything is tokenized."""

Result = TypeVar("Result")


class RagModel(nn.Module):
    """A generator that reads retrieved passages, and what its likelihood is."""

    def __init__(
        self,
        option: Rag,
        generator: LanguageModel,
        query_encoder: TextEncoder | None,
        prompts: PromptEncoder,
    ):
        super().__init__()
        self.option = option
        self.generator = generator
        self.prompts = prompts
        self.query_encoder = query_encoder
        # The encoder is no module itself; registered, its weights train and move with the rest.
        self.query_network = None if query_encoder is None else query_encoder.network
        self.query_encoder_changed = False
        """Whether the query encoder's weights are other than the pretrained ones."""
        self.train_query_encoder(False)
        self.passage_encoder: TextEncoder | None = None
        """Encoder of passages, where it is trained with the rest; else the retriever's alone."""
        self.passage_network: Any = None

    @property
    def device(self) -> torch.device:
        return self.generator.device

    def train_query_encoder(self, trained: bool) -> None:
        """Say whether gradients reach the query encoder."""
        if self.query_network is not None:
            self.query_network.requires_grad_(trained)
            self.query_encoder_changed |= trained

    def train_passage_encoder(self, encoder: TextEncoder) -> None:
        """Take in an encoder of passages, to be trained and saved with the rest."""
        self.passage_encoder = encoder
        self.passage_network = encoder.network
        self.passage_network.requires_grad_(True)

    # -- batches -------------------------------------------------------------------------

    def collate(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Tensors of a batch: prompts, targets, slots and log prior."""
        batch = self.collate_prompts(examples)
        targets = [self.prompts.encode_answer(self.prompts.target(example)) for example in examples]
        batch["answer_ids"], batch["answer_mask"] = self.generator.pad_answers(targets)
        return batch

    def collate_prompts(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Tensors of a batch without targets."""
        rows: list[tuple[Question, tuple[Passage, ...]]] = []
        slots = []
        for example in examples:
            prompts = self.option.split(example.passages)
            slots.append(torch.arange(len(rows), len(rows) + len(prompts)))
            rows += [(example.question, passages) for passages in prompts]
        ids, mask = self.generator.pad_prompts(self.prompts.encode(rows))
        priors = []
        for example, own in zip(examples, slots, strict=True):
            prior = (0.0,) if len(own) == 1 else example.log_prior  # one prompt is sure
            if len(prior) != len(own):
                raise ValueError(
                    f"question {example.question.id!r}: log_prior has {len(prior)} entries for "
                    f"{len(own)} passages"
                )
            priors.append(torch.tensor(prior))
        return {
            "prompt_ids": ids,
            "prompt_mask": mask,
            "slots": pad_sequence(slots, batch_first=True, padding_value=-1),
            "log_prior": pad_sequence(priors, batch_first=True, padding_value=-torch.inf),
        }

    # -- training ------------------------------------------------------------------------

    def forward(
        self,
        prompt_ids: Tensor,
        prompt_mask: Tensor,
        slots: Tensor,
        log_prior: Tensor,
        answer_ids: Tensor,
        answer_mask: Tensor,
    ) -> dict[str, Tensor]:
        """The negative marginal log-likelihood in nats a target token: {"loss": []}."""
        with self.generator.autocast():
            log_probs = self.token_log_probs(
                prompt_ids,
                prompt_mask,
                slots,
                answer_ids,
                answer_mask,
                self.option.label_smoothing if self.training else 0.0,
            )
        values = self.log_likelihood(log_probs, log_prior, answer_mask)
        return {"loss": -values.sum() / answer_mask.sum()}

    def token_log_probs(
        self,
        prompt_ids: Tensor,
        prompt_mask: Tensor,
        slots: Tensor,
        answer_ids: Tensor,
        answer_mask: Tensor,
        label_smoothing: float = 0.0,
    ) -> Tensor:
        """log p(y_t|x,z,y_<t) of answers [b, t] under each passage: [b, n, t]."""
        question = question_of_row(slots)
        rows = self.generator.answer_log_probs(
            prompt_ids, prompt_mask, answer_ids[question], answer_mask[question], label_smoothing
        )
        return rows[slots.clamp(min=0)]

    def log_likelihood(self, token_log_probs: Tensor, log_prior: Tensor, mask: Tensor) -> Tensor:
        """log p(y|x) [b] from log p(y_t|x,z,y_<t) [b, n, t], log p(z|x) [b, n], mask [b, t]."""
        raise NotImplementedError

    def posterior(self, token_log_probs: Tensor, log_prior: Tensor, mask: Tensor) -> Tensor | None:
        """p(z|x,y) [b, n]; None where the model does not weigh passages."""
        raise NotImplementedError

    def weigh(
        self, examples: Sequence[Example], temperature: float = 1.0, progress: str | None = None
    ) -> list[tuple[float, ...]]:
        """p(z|x,y) of each example's passages, where y is what training would have answered.

        log p(y_t|x,z,y_<t) is divided by `temperature`. `progress` names the bar (None: no bar).
        """

        def process(batch: Sequence[Example]) -> list[tuple[float, ...]]:
            tensors: dict[str, Any] = {
                name: x.to(self.device) for name, x in self.collate(batch).items()
            }
            prior, slots = tensors.pop("log_prior"), tensors["slots"]
            log_probs = self.token_log_probs(**tensors) / temperature
            posterior = self.posterior(log_probs, prior, tensors["answer_mask"])
            assert posterior is not None  # the model weighs passages
            return [present(own, rows) for own, rows in zip(posterior, slots, strict=True)]

        return self._in_batches(process, examples, TOKENS_AT_ONCE, progress)

    # -- answers -------------------------------------------------------------------------

    def answer(
        self,
        examples: Sequence[Example],
        tokens_at_once: int = TOKENS_AT_ONCE,
        progress: str | None = None,
    ) -> list[Answer]:
        """Answer each example: by decoding, or by the likeliest label where the task has some.

        Examples are batched by length, as many as have some `tokens_at_once` prompt tokens.
        `progress` names the bar (None: no bar).
        """
        return self._in_batches(self._answer_batch, examples, tokens_at_once, progress)

    def sample(
        self,
        examples: Sequence[Example],
        count: int,
        seed: int,
        tokens_at_once: int = TOKENS_AT_ONCE,
        progress: str | None = None,
    ) -> list[tuple[str, ...]]:
        """Draw `count` answers to each example from p(y|x) at temperature 1.

        Penalties on repetition stay as configured. The numbers drawn depend on the seed alone and
        leave other random choices as they are.
        """
        if self.prompts.task.labels:
            raise ValueError("a task with labels takes the likeliest; there is nothing to draw")
        drawing = self.option.decoding.model_copy(
            update={"do_sample": True, "num_beams": 1, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
        )

        def draw(batch: Sequence[Example]) -> list[tuple[str, ...]]:
            ids = self.draw(*self._read_examples(batch), drawing, count)
            texts = self.prompts.decode(ids)
            return [tuple(texts[i * count : (i + 1) * count]) for i in range(len(batch))]

        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return self._in_batches(draw, examples, tokens_at_once // count, progress)

    def _in_batches(
        self,
        process: Callable[[Sequence[Example]], list[Result]],
        examples: Sequence[Example],
        tokens_at_once: int,
        progress: str | None,
    ) -> list[Result]:
        """What `process` makes of each example, in the order given, in batches by length."""
        results: list[Result | None] = [None] * len(examples)
        with (
            self.evaluating(),
            tqdm(total=len(examples), desc=progress, disable=progress is None) as bar,
        ):
            for chosen in self._batches(examples, tokens_at_once):
                for i, result in zip(chosen, process([examples[i] for i in chosen]), strict=True):
                    results[i] = result
                bar.update(len(chosen))
        return cast("list[Result]", results)

    def _batches(self, examples: Sequence[Example], tokens_at_once: int) -> Iterator[list[int]]:
        """Places of examples that are answered together, longest prompts first."""
        shapes = []
        for example in examples:
            prompts = [
                self.prompts.write(example.question, passages)
                for passages in self.option.split(example.passages)
            ]
            longest = max(map(len, prompts)) // CHARACTERS_A_TOKEN + 1
            shapes.append((min(longest, self.option.generator.max_prompt_tokens), len(prompts)))
        batch: list[int] = []
        rows = 0
        for i in sorted(range(len(examples)), key=lambda i: -shapes[i][0]):
            rows += shapes[i][1]
            if batch and rows * shapes[batch[0]][0] > tokens_at_once:
                yield batch
                batch, rows = [], shapes[i][1]
            batch.append(i)
        if batch:
            yield batch

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """No gradient, no dropout, no work without effect, the precision of the run."""
        was_training = self.training
        self.eval()
        try:
            with (
                self.generator.without_idle_adapters(),
                torch.no_grad(),  # in inference_mode autocast would cast the weights at every call
                self.generator.autocast(),
            ):
                yield
        finally:
            self.train(was_training)

    def _answer_batch(self, examples: Sequence[Example]) -> list[Answer]:
        state, slots, log_prior = self._read_examples(examples)
        if self.prompts.task.labels:
            return self._choose_labels(state, slots, log_prior)
        limit = self.prompts.task.max_answer_tokens
        assert limit is not None  # only labels have none
        ids, posterior = self.decode_with_posterior(state, slots, log_prior)
        ended = (ids == self.generator.end_id).any(1).tolist()
        return [
            Answer(
                text,
                () if posterior is None else present(posterior[i], slots[i]),
                cited=self.prompts.cited(text, examples[i]),
                cut=not ended[i] and ids.shape[1] >= limit,
            )
            for i, text in enumerate(self.prompts.decode(ids))
        ]

    def _read_examples(self, examples: Sequence[Example]) -> tuple[DecodingState, Tensor, Tensor]:
        return self.read({n: x.to(self.device) for n, x in self.collate_prompts(examples).items()})

    def read(self, batch: dict[str, Tensor]) -> tuple[DecodingState, Tensor, Tensor]:
        """Prompts that were read, with the slots [b, n] and log prior [b, n] of their rows."""
        state = self.generator.start(batch["prompt_ids"], batch["prompt_mask"])
        return state, batch["slots"], batch["log_prior"]

    def decode(self, state: DecodingState, slots: Tensor, log_prior: Tensor) -> Tensor:
        """Ids [b, t] of the answers, token by token from the marginal distribution."""
        return self._generate(state, slots, log_prior, self.option.decoding)

    def draw(
        self,
        state: DecodingState,
        slots: Tensor,
        log_prior: Tensor,
        decoding: Decoding,
        count: int,
    ) -> Tensor:
        """Ids [b * count, t] of answers drawn from p(y|x), those of one question side by side."""
        return self._generate(state, slots, log_prior, decoding, num_return_sequences=count)

    def decode_with_posterior(
        self, state: DecodingState, slots: Tensor, log_prior: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Ids [b, t] of the answers and p(z|x,y) [b, n], where the model weighs passages."""
        ids = self.decode(state, slots, log_prior)
        if not self.option.marginalizes:  # and no need to score the answers
            return ids, None
        mask = answer_mask(ids, self.generator.end_id)
        return ids, self.posterior(self.score_answers(state, slots, ids), log_prior, mask)

    def _generate(
        self,
        state: DecodingState,
        slots: Tensor,
        log_prior: Tensor,
        decoding: Decoding,
        **extra: Any,
    ) -> Tensor:
        return decode_answers(
            state,
            slots,
            log_prior,
            end_id=self.generator.end_id,
            pad_id=self.generator.pad_id,
            max_new_tokens=self.prompts.task.max_answer_tokens,
            **decoding.generation(),
            **extra,
        )

    def score_answers(self, state: DecodingState, slots: Tensor, ids: Tensor) -> Tensor:
        """log p(y_t|x,z,y_<t) of one answer [b, t] a question under its passages: [b, n, t]."""
        return state.score(ids[question_of_row(slots)])[slots.clamp(min=0)]

    def _choose_labels(self, state: DecodingState, slots: Tensor, prior: Tensor) -> list[Answer]:
        labels = self.prompts.task.labels
        scores, posteriors = [], []
        for label in labels:
            ids = torch.tensor([self.prompts.encode_answer(label)], device=self.device)
            ids = ids.expand(len(slots), -1)
            mask = torch.ones_like(ids, dtype=torch.bool)
            each = self.score_answers(state, slots, ids)
            scores.append(self.log_likelihood(each, prior, mask))
            posteriors.append(self.posterior(each, prior, mask))
        answers = []
        for i, row in enumerate(torch.stack(scores, dim=1).tolist()):
            best = max(range(len(labels)), key=row.__getitem__)
            posterior = posteriors[best]
            answers.append(
                Answer(
                    labels[best],
                    () if posterior is None else present(posterior[i], slots[i]),
                    dict(zip(labels, row, strict=True)),
                )
            )
        return answers

    # -- saving --------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Save what training may have changed: the generator (adapters alone, where there are
        some) with its tokenizer, and the encoders of questions and passages that were trained."""
        self.generator.save(folder / "generator")
        trained = self.query_encoder is not None and self.query_encoder_changed
        if self.query_encoder is not None and trained:
            self.query_encoder.save(folder / "query_encoder")
        if self.passage_encoder is not None:
            self.passage_encoder.save(folder / "passage_encoder")
        (folder / "model.json").write_text(
            json.dumps({"model": type(self).__name__, "query_encoder_trained": trained}) + "\n"
        )

    def release(self) -> None:
        """Leave weights that training did not change to the next job of this process.

        The model is of no use then.
        """
        self.generator.release()
        for encoder in (self.query_encoder, self.passage_encoder):
            if encoder is not None:
                encoder.release()

    def load_trained(self, folder: Path) -> None:
        """Take over, in place, the weights that `save` wrote."""
        load_weights(self.generator.network, folder / "generator")
        if self.query_encoder is not None and (folder / "query_encoder").is_dir():
            self.query_encoder.load_weights(folder / "query_encoder")
        if self.passage_encoder is not None:
            self.passage_encoder.load_weights(folder / "passage_encoder")


def question_of_row(slots: Tensor) -> Tensor:
    """Index [r] of the question that each row belongs to, from slots [b, n]."""
    question, passage = (slots >= 0).nonzero(as_tuple=True)
    return question[slots[question, passage].argsort()]


def answer_mask(ids: Tensor, end_id: int) -> Tensor:
    """Tokens of each answer [b, t], the first end token included."""
    ended = (ids == end_id).long().cumsum(1)
    return ended - (ids == end_id).long() == 0


def present(values: Tensor, slots: Tensor) -> tuple[float, ...]:
    """Values [n] of the passages that a question has."""
    return tuple(values[slots >= 0].tolist())


def load_rag_model(
    option: Rag,
    task: Task,
    runtime: Runtime,
    kind: type[RagModel],
    *,
    encode_queries: bool,
    folder: Path | None = None,
) -> RagModel:
    """A RAG model with its weights: pretrained, or those that `RagModel.save` wrote to `folder`."""
    generator = load_language_model(
        option.generator, runtime, None if folder is None else folder / "generator"
    )
    encoder: TextEncoder | None = None
    trained: Path | None = None
    if encode_queries:
        if option.query_encoder is None:
            raise UserError(
                "model.query_encoder: null, but the retriever searches by vector; choose one, "
                "e.g. model/query_encoder=minilm"
            )
        trained = None if folder is None else folder / "query_encoder"
        if trained is not None and not trained.is_dir():
            trained = None
        encoder = option.query_encoder.load(runtime, trained)
    if task.labels and option.decoding != type(option.decoding)():
        log.warning("model.decoding has no effect: the likeliest of the task's labels is taken")
    order = getattr(getattr(task, "prompt", None), "order", None)
    if not option.one_prompt and order in ("best_last", "shuffled"):
        log.info(
            "task.prompt.order has no effect: each passage is read in a prompt of its own "
            "(model=concat has them in one)"
        )
    prompts = PromptEncoder(generator.tokenizer, option.generator, task, runtime.seed)
    model = kind(option, generator, encoder, prompts)
    model.query_encoder_changed = trained is not None
    return model
