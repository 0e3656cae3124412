"""p(y|x) from what the generator makes of each passage: mixed at every token, once for the whole
answer, or not at all, because one prompt or one decoder reads all passages.

The letters of shapes are those of `rag_model`.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import Tensor

from rag_experiments.functional import likelihood
from rag_experiments.model.language_model import DecodingState, EncoderDecoderModel
from rag_experiments.model.rag_model import RagModel, answer_mask, question_of_row

if TYPE_CHECKING:
    from rag_experiments.model.rag import Decoding
    from rag_experiments.model.rag_sequence import RagSequence


class Job(NamedTuple):
    """An answer to score under one passage of a question."""

    question: int
    passage: int
    answer: tuple[int, ...]


class RagTokenModel(RagModel):
    """RAG-Token: passages are mixed at every token."""

    def log_likelihood(self, token_log_probs: Tensor, log_prior: Tensor, mask: Tensor) -> Tensor:
        return likelihood.rag_token_log_likelihood(token_log_probs, log_prior, mask)

    def posterior(self, token_log_probs: Tensor, log_prior: Tensor, mask: Tensor) -> Tensor:
        return likelihood.token_posterior(token_log_probs, log_prior, mask)


class RagSequenceModel(RagModel):
    """RAG-Sequence: passages are mixed once for the whole answer."""

    def log_likelihood(self, token_log_probs: Tensor, log_prior: Tensor, mask: Tensor) -> Tensor:
        return likelihood.rag_sequence_log_likelihood(token_log_probs, log_prior, mask)

    def posterior(self, token_log_probs: Tensor, log_prior: Tensor, mask: Tensor) -> Tensor:
        return likelihood.sequence_posterior(token_log_probs, log_prior, mask)

    def decode(self, state: DecodingState, slots: Tensor, log_prior: Tensor) -> Tensor:
        """Ids [b, t] of the answers.

        Every passage proposes its answers (one, or its beams), and the likeliest under p(y|x) is
        taken: over all passages (thorough decoding of Lewis et al. 2020), or over the passages
        that proposed it (fast decoding). With sampling an answer is drawn instead.
        """
        decoding = self.option.decoding
        if decoding.do_sample:
            return self.draw(state, slots, log_prior, decoding, 1)
        best, _ = self._choose(state, slots, log_prior)
        return self.generator.pad_answers(best)[0].to(slots.device)

    def decode_with_posterior(
        self, state: DecodingState, slots: Tensor, log_prior: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        if self.option.decoding.do_sample:
            return super().decode_with_posterior(state, slots, log_prior)
        best, scores = self._choose(state, slots, log_prior)
        # What choosing has scored is not scored again.
        jobs = [Job(i, n, best[i]) for i, n in (slots >= 0).nonzero().tolist()]
        scores |= self._score(state, slots, [job for job in jobs if job not in scores])
        log_probs = torch.zeros_like(log_prior)
        for job in jobs:
            log_probs[job.question, job.passage] = scores[job]
        ids, mask = (x.to(slots.device) for x in self.generator.pad_answers(best))
        return ids, likelihood.sequence_posterior(log_probs[:, :, None], log_prior, mask[:, :1])

    def _choose(
        self, state: DecodingState, slots: Tensor, log_prior: Tensor
    ) -> tuple[list[tuple[int, ...]], dict[Job, float]]:
        """The likeliest proposal of each question, and log p(y|x,z) of what was compared."""
        proposals = self._propose(state, slots)
        fast = cast("RagSequence", self.option).candidates == "fast"
        rows = slots.tolist()
        jobs = [
            Job(i, n, candidate)
            for i, n in (slots >= 0).nonzero().tolist()
            if len(proposals[i]) > 1  # an answer that all passages propose needs no score to win
            for candidate, sources in proposals[i].items()
            if not fast or rows[i][n] in sources
        ]
        scores = self._score(state, slots, jobs)
        prior = log_prior.double().tolist()
        joint: dict[tuple[int, tuple[int, ...]], list[float]] = {}
        for job in jobs:
            value = prior[job.question][job.passage] + scores[job]
            joint.setdefault((job.question, job.answer), []).append(value)

        def score(i: int, candidate: tuple[int, ...]) -> float:
            each = torch.tensor(joint.get((i, candidate), [0.0]), dtype=torch.float64)
            return float(torch.logsumexp(each, 0))

        return [max(own, key=partial(score, i)) for i, own in enumerate(proposals)], scores

    def _propose(
        self, state: DecodingState, slots: Tensor
    ) -> list[dict[tuple[int, ...], set[int]]]:
        """Answers that each passage would give alone, a dictionary for each question: ids up to
        the end token, and the rows that they come from."""
        decoding = self.option.decoding
        count = decoding.num_beams
        question = question_of_row(slots)
        alone = torch.arange(len(question), device=slots.device)[:, None]
        ids = self._generate(
            state, alone, torch.zeros_like(alone).float(), decoding, num_return_sequences=count
        )
        lengths = answer_mask(ids, self.generator.end_id).sum(1).tolist()
        proposals: list[dict[tuple[int, ...], set[int]]] = [{} for _ in slots]
        for place, (candidate, length) in enumerate(zip(ids.tolist(), lengths, strict=True)):
            source = place // count
            own = proposals[int(question[source])]
            own.setdefault(tuple(candidate[:length]), set()).add(source)
        return proposals

    def draw(
        self,
        state: DecodingState,
        slots: Tensor,
        log_prior: Tensor,
        decoding: Decoding,
        count: int,
    ) -> Tensor:
        """A passage is drawn from p(z|x), then an answer from p(y|x,z): a draw from p(y|x)."""
        drawn = torch.multinomial(log_prior.exp(), count, replacement=True)
        rows = slots.gather(1, drawn).flatten()[:, None]
        return self._generate(state, rows, torch.zeros_like(rows).float(), decoding)

    def _score(self, state: DecodingState, slots: Tensor, jobs: list[Job]) -> dict[Job, float]:
        """log p(y|x,z) of answers under passages.

        Each call scores one answer a row, the longest first, so that rows read no copy of what
        the passages left in the cache.
        """
        waiting: dict[int, list[Job]] = {}
        rows = slots.tolist()
        for job in sorted(jobs, key=lambda job: -len(job.answer)):
            waiting.setdefault(rows[job.question][job.passage], []).append(job)
        scores: dict[Job, float] = {}
        reading = list(range(len(state.mask)))  # rows of the state
        for turn in range(max(map(len, waiting.values()), default=0)):
            left = [row for row in reading if len(waiting.get(row, ())) > turn]
            if left != reading:
                places = [place for place, row in enumerate(reading) if row in set(left)]
                state, reading = state.select(torch.tensor(places, device=slots.device)), left
            now = [waiting[row][turn] for row in reading]
            ids, mask = (
                x.to(slots.device) for x in self.generator.pad_answers([j.answer for j in now])
            )
            values = likelihood.sequence_log_probs(state.score(ids)[:, None], mask)[:, 0]
            scores |= zip(now, values.tolist(), strict=True)
        return scores


class ConcatModel(RagModel):
    """One prompt with all passages: a plain language model of the answer."""

    def log_likelihood(self, token_log_probs: Tensor, log_prior: Tensor, mask: Tensor) -> Tensor:
        return likelihood.rag_sequence_log_likelihood(token_log_probs, log_prior, mask)

    def posterior(self, token_log_probs: Tensor, log_prior: Tensor, mask: Tensor) -> None:
        return None


class FusionModel(ConcatModel):
    """Fusion-in-Decoder: encoder states of all passages in one sequence for the decoder."""

    def token_log_probs(
        self,
        prompt_ids: Tensor,
        prompt_mask: Tensor,
        slots: Tensor,
        answer_ids: Tensor,
        answer_mask: Tensor,
        label_smoothing: float = 0.0,
    ) -> Tensor:
        model = cast(EncoderDecoderModel, self.generator)
        states, mask = fuse(model.encode(prompt_ids, prompt_mask), prompt_mask, slots)
        return model.answer_log_probs_from(states, mask, answer_ids, label_smoothing)[:, None]

    def forward(self, *, log_prior: Tensor, **batch: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return super().forward(log_prior=torch.zeros_like(log_prior[:, :1]), **batch)

    def read(self, batch: dict[str, Tensor]) -> tuple[DecodingState, Tensor, Tensor]:
        model = cast(EncoderDecoderModel, self.generator)
        mask = batch["prompt_mask"]
        states, mask = fuse(model.encode(batch["prompt_ids"], mask), mask, batch["slots"])
        slots = torch.arange(len(states), device=states.device)[:, None]
        return model.start_from(states, mask), slots, torch.zeros_like(slots).float()


def fuse(states: Tensor, mask: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
    """Encoder states [r, p, d] of each question's rows in one sequence: [b, n p, d], [b, n p]."""
    gathered = states[slots.clamp(min=0)].flatten(1, 2)
    present_rows = (slots >= 0)[:, :, None] & mask[slots.clamp(min=0)]
    return gathered, present_rows.flatten(1, 2)
