"""Decoding of answers that are read off n passages at once, through transformers' `generate`.

`generate` sees one row for each answer, and answer ids only: its beams, sampling and penalties
work on answers, never on prompts. Behind each of its rows stand the rows of the passages, kept
in step in the cache.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import GenerationConfig, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast

from rag_experiments.functional.likelihood import rag_token_next_log_probs
from rag_experiments.model.language_model import DecodingState


class PassageCache(Cache):
    """The passages' rows behind each answer's row: `slots` [b, n] index rows, -1 is absent."""

    def __init__(self, state: DecodingState, slots: Tensor, log_prior: Tensor):
        super().__init__(layers=[])
        self.state = state
        self.slots = slots
        self.log_prior = log_prior
        self.length = 0

    def select(self, answers: Tensor) -> None:
        """Keep the given answers' rows [k], in that order, repeats allowed."""
        slots = self.slots[answers]
        present = slots >= 0
        self.state = self.state.select(slots[present])
        self.slots = torch.full_like(slots, -1)
        self.slots[present] = torch.arange(int(present.sum()), device=slots.device)
        self.log_prior = self.log_prior[answers]

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self.select(beam_idx)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.length

    def next_log_probs(self) -> Tensor:
        """Marginal log-probabilities [b, v + 1] of the next token; the last is the placeholder."""
        logits = self.state.next_logits
        each = torch.log_softmax(logits if logits.dtype == torch.float64 else logits.float(), -1)
        if self.slots.shape[1] == 1:  # nothing to mix
            mixed = each
        else:
            mixed = rag_token_next_log_probs(each[self.slots.clamp(min=0)], self.log_prior)
        return functional.pad(mixed, (0, 1), value=-torch.inf)


class AnswerDecoder(PreTrainedModel, GenerationMixin):
    """Lets `generate` decode from a marginal over passages; it has no weights of its own."""

    config_class = PretrainedConfig
    _supports_cache_class = True

    def __init__(self, device: torch.device):
        super().__init__(PretrainedConfig(is_encoder_decoder=False))
        self._device = device

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    @classmethod
    def can_generate(cls) -> bool:
        return True

    def forward(
        self,
        input_ids: Tensor,
        cache: PassageCache,
        attention_mask: Tensor | None = None,
        **_: Any,
    ) -> CausalLMOutputWithPast:
        answers = len(cache.slots)
        if cache.length == 0:
            # There is only the placeholder yet: the prompts were read before. Beams and samples
            # of one question start from the same rows.
            beams = len(input_ids) // answers
            cache.select(torch.arange(answers, device=input_ids.device).repeat_interleave(beams))
        else:
            slots = cache.slots
            tokens = input_ids[:, -1:].expand_as(slots)[slots >= 0]
            cache.state.step(tokens)
        cache.length += 1
        logits = cache.next_log_probs()[:, None]
        return CausalLMOutputWithPast(logits=logits, cache=cache)


def decode_answers(
    state: DecodingState,
    slots: Tensor,
    log_prior: Tensor,
    *,
    end_id: int,
    pad_id: int,
    **generation: Any,
) -> Tensor:
    """Decode answers from sum_z p(z|x) p(y_t|x,z,y_<t) with transformers' `generate`.

    state: r prompts that were read; slots [b, n]: the row of each passage, -1 for absent ones;
    log_prior [b, n]. `generation` are fields of transformers' `GenerationConfig`
    (`max_new_tokens`, `num_beams`, `do_sample`, `length_penalty`, ...). Returns ids
    [b * num_return_sequences, t], after the end token `pad_id` or `end_id`.
    """
    device = slots.device
    decoder: Any = AnswerDecoder(device)
    # `generate` wants a first token. It is none of the vocabulary: penalties on repetition would
    # count it, and a padding token is often the end token as well.
    placeholder = state.next_logits.shape[-1]
    config = GenerationConfig(
        bos_token_id=placeholder, eos_token_id=end_id, pad_token_id=pad_id, **generation
    )
    start = torch.full((len(slots), 1), placeholder, dtype=torch.long, device=device)
    ids = decoder.generate(
        start,
        generation_config=config,
        attention_mask=torch.ones_like(start),
        cache=PassageCache(state, slots, log_prior),
    )
    return ids[:, 1:]
