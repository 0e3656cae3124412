"""A generator with its weights: prompts in, log-probabilities of answers out.

Legend: r rows (one row is one prompt), p prompt tokens, t answer tokens, v vocabulary.
Causal models and encoder-decoders differ only here; the marginal likelihood and its decoding
see the same three operations: score answers after prompts, start decoding, take a step.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer
from transformers.cache_utils import Cache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from rag_experiments import resident
from rag_experiments.contracts import Runtime, UserError
from rag_experiments.functional.likelihood import token_log_probs
from rag_experiments.functional.rows import Part, join_rows, pad, positions, split_by_length
from rag_experiments.model.attention import group_heads
from rag_experiments.model.cache import join_caches, select_cache, share_cache
from rag_experiments.model.checkpoint import locate
from rag_experiments.model.generator import Generator

log = logging.getLogger(__name__)

READ_AT_ONCE = 2048
"""Prompt tokens that a CPU reads in one call: what a layer makes of more of them leaves its caches,
which takes a third longer, and more memory."""

SCORED_AT_ONCE = 1024
"""Answer tokens whose logits stand in memory together when answers are scored."""


class LanguageModel(nn.Module):
    """A Hugging Face model and its tokenizer, behind the operations that RAG needs."""

    network: Any

    def __init__(self, network: nn.Module, tokenizer: Any, dtype: torch.dtype):
        super().__init__()
        self.network = network
        self.tokenizer = tokenizer
        self.dtype = dtype

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def autocast(self) -> torch.autocast:
        """Mixed precision for matrix products, where the run decided for it."""
        return torch.autocast(
            self.device.type,
            dtype=self.dtype if self.dtype != torch.float32 else torch.bfloat16,
            enabled=self.dtype != torch.float32,
        )

    def without_idle_adapters(self) -> AbstractContextManager[None]:
        """Leave out adapters that change nothing yet: before training B of each is zero, and the
        products with it take a fifth of the time."""
        from peft import PeftModel

        changes = (p for name, p in self.network.named_parameters() if ".lora_B." in name)
        if isinstance(self.network, PeftModel) and not any(bool(p.any()) for p in changes):
            return self.network.disable_adapter()
        return nullcontext()

    def pad_prompts(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Ids and mask [r, p] of prompts, padded on the model's side."""
        raise NotImplementedError

    def parts(self, ids: Tensor, mask: Tensor) -> list[Part]:
        """Prompts [r, p] as they are read, a call each: a CPU gains by little padding and by few
        tokens at once, other devices by few calls."""
        rows = [list(range(len(ids)))]
        if self.device.type == "cpu":
            rows = split_by_length(mask.sum(1).tolist(), READ_AT_ONCE)
        parts = []
        for own in rows:
            chosen = torch.tensor(own, device=ids.device)
            used = mask[chosen].any(0)
            parts.append(Part(chosen, used, ids[chosen][:, used], mask[chosen][:, used]))
        return parts

    def pad_answers(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Ids [r, t] and boolean mask [r, t] of answers, padded on the right."""
        return pad(rows, self.pad_id, left=False)

    @property
    def pad_id(self) -> int:
        return self.tokenizer.pad_token_id

    @property
    def end_id(self) -> int:
        return self.tokenizer.eos_token_id

    def answer_log_probs(
        self,
        prompt_ids: Tensor,
        prompt_mask: Tensor,
        answer_ids: Tensor,
        answer_mask: Tensor,
        label_smoothing: float = 0.0,
    ) -> Tensor:
        """log p(y_t | prompt, y_<t) of each answer token, with gradient: [r, t].

        Logits are made at the answer's positions only. Padded positions hold finite numbers
        without meaning; mask them with `answer_mask`.
        """
        raise NotImplementedError

    def start(self, prompt_ids: Tensor, prompt_mask: Tensor) -> DecodingState:
        """Read prompts once, so that answers can be decoded and scored after them."""
        raise NotImplementedError

    def release(self) -> None:
        """Leave the weights to the next job of this process, without adapters, if training did
        not change them. The model is of no use then."""
        from peft import PeftModel

        adapted = isinstance(self.network, PeftModel)
        resident.give_back(self.network.unload() if adapted else self.network)

    def save(self, folder: Path) -> None:
        """Save what training changed (adapters alone, where there are some) and the tokenizer."""
        from peft import PeftModel

        if isinstance(self.network, PeftModel):
            # The vocabulary never grows here; to find that out peft would ask the Hub.
            self.network.save_pretrained(str(folder), save_embedding_layers=False)
            # peft's template of a model card, with the path of this machine in it.
            (folder / "README.md").unlink(missing_ok=True)
        else:
            self.network.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


class DecodingState:
    """Prompts that were read, ready for the next token: r rows with a cache.

    `next_logits` [r, v] belong to the answer's first token, later to the token after the last
    `step`. The cache is never changed in place for other states: `select` shares storage.
    """

    def __init__(self, model: LanguageModel, next_logits: Tensor, cache: Cache, mask: Tensor):
        self.model = model
        self.next_logits = next_logits
        self.cache = cache
        self.mask = mask

    def select(self, rows: Tensor | slice) -> DecodingState:
        """State of the given rows [k] (repeats allowed; a slice copies nothing), independent of
        this one."""
        return type(self)(
            self.model, self.next_logits[rows], select_cache(self.cache, rows), self.mask[rows]
        )

    def step(self, tokens: Tensor) -> Tensor:
        """Append one token [r] to each row; logits [r, v] of the next."""
        self.next_logits = self._read(tokens[:, None])[:, -1]
        return self.next_logits

    def score(self, answer_ids: Tensor) -> Tensor:
        """log p(y_t | prompt, y_<t) of answers [r, t] after these prompts: [r, t]."""
        rows = max(1, SCORED_AT_ONCE // answer_ids.shape[1])
        if len(answer_ids) > rows:
            places = [slice(i, i + rows) for i in range(0, len(answer_ids), rows)]
            return torch.cat([self.select(own).score(answer_ids[own]) for own in places])
        first = token_log_probs(self.next_logits[:, None], answer_ids[:, :1])
        if answer_ids.shape[1] == 1:
            return first
        twin = copy.copy(self)
        twin.cache = share_cache(self.cache)
        rest = token_log_probs(twin._read(answer_ids[:, :-1]), answer_ids[:, 1:])
        return torch.cat([first, rest], dim=1)

    def _read(self, tokens: Tensor) -> Tensor:
        raise NotImplementedError


class CausalLanguageModel(LanguageModel):
    """A decoder-only model: the answer's ids follow the prompt's."""

    def pad_prompts(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        # On the left, so that all answers start at one position and share one slice of logits.
        return pad(rows, self.pad_id, left=True)

    def answer_log_probs(
        self,
        prompt_ids: Tensor,
        prompt_mask: Tensor,
        answer_ids: Tensor,
        answer_mask: Tensor,
        label_smoothing: float = 0.0,
    ) -> Tensor:
        length = answer_ids.shape[1]
        parts = self.parts(prompt_ids, prompt_mask)
        log_probs = []
        for part in parts:
            answers = answer_ids[part.rows]
            mask = torch.cat([part.mask, answer_mask[part.rows]], dim=1)
            output = self.network(
                input_ids=torch.cat([part.ids, answers], dim=1),
                attention_mask=mask.long(),
                position_ids=positions(mask),
                logits_to_keep=length + 1,
                use_cache=False,
            )
            log_probs.append(token_log_probs(output.logits[:, :-1], answers, label_smoothing))
        return join_rows(log_probs, [part.rows for part in parts])

    def start(self, prompt_ids: Tensor, prompt_mask: Tensor) -> DecodingState:
        parts = self.parts(prompt_ids, prompt_mask)
        outputs = [
            self.network(
                input_ids=part.ids,
                attention_mask=part.mask.long(),
                position_ids=positions(part.mask),
                logits_to_keep=1,
                use_cache=True,
            )
            for part in parts
        ]
        rows = [part.rows for part in parts]
        logits = join_rows([output.logits[:, -1] for output in outputs], rows)
        cache = join_caches([output.cache for output in outputs], rows)
        return _CausalState(self, logits, cache, prompt_mask)


class _CausalState(DecodingState):
    def _read(self, tokens: Tensor) -> Tensor:
        before = self.mask.sum(1, keepdim=True)
        steps = torch.arange(tokens.shape[1], device=tokens.device)
        self.mask = torch.cat([self.mask, torch.ones_like(tokens, dtype=torch.bool)], dim=1)
        output = self.model.network(
            input_ids=tokens,
            attention_mask=self.mask.long(),
            position_ids=before + steps,
            cache=self.cache,
            use_cache=True,
        )
        self.cache = output.cache
        return output.logits


class EncoderDecoderModel(LanguageModel):
    """An encoder-decoder: the encoder reads the prompt, the decoder writes the answer."""

    def pad_prompts(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        return pad(rows, self.pad_id, left=False)

    @property
    def start_id(self) -> int:
        """Token that the decoder begins with; where the weights name none, their text start."""
        for name in ("decoder_start_token_id", "bos_token_id"):
            for config in (self.network.config, self.network.generation_config):
                if (token := getattr(config, name, None)) is not None:
                    return token
        raise UserError("model.generator.weights: their config names no decoder_start_token_id")

    def encode(self, prompt_ids: Tensor, prompt_mask: Tensor) -> Tensor:
        """Encoder states [r, p, d] of prompts, zero at padding between calls."""
        encoder = self.network.get_encoder()
        parts = self.parts(prompt_ids, prompt_mask)
        # One look-up, as the gradient of each is as large as the vocabulary's matrix.
        tokens = torch.cat([part.ids.flatten() for part in parts])
        embedded = encoder.get_input_embeddings()(tokens).split([p.ids.numel() for p in parts])
        states = []
        for part, own in zip(parts, embedded, strict=True):
            read = encoder(
                inputs_embeds=own.view(*part.ids.shape, -1), attention_mask=part.mask.long()
            ).last_hidden_state
            states.append(read.new_zeros(len(part.rows), len(part.used), read.shape[-1]))
            states[-1][:, part.used] = read
        return join_rows(states, [part.rows for part in parts])

    def answer_log_probs(
        self,
        prompt_ids: Tensor,
        prompt_mask: Tensor,
        answer_ids: Tensor,
        answer_mask: Tensor,
        label_smoothing: float = 0.0,
    ) -> Tensor:
        states = self.encode(prompt_ids, prompt_mask)
        return self.answer_log_probs_from(states, prompt_mask, answer_ids, label_smoothing)

    def answer_log_probs_from(
        self, states: Tensor, mask: Tensor, answer_ids: Tensor, label_smoothing: float = 0.0
    ) -> Tensor:
        """log p(y_t | encoder states [r, p, d], y_<t) of each answer token: [r, t]."""
        start = torch.full_like(answer_ids[:, :1], self.start_id)
        output = self.network(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            attention_mask=mask.long(),
            decoder_input_ids=torch.cat([start, answer_ids[:, :-1]], dim=1),
            use_cache=False,
        )
        return token_log_probs(output.logits, answer_ids, label_smoothing)

    def start(self, prompt_ids: Tensor, prompt_mask: Tensor) -> DecodingState:
        return self.start_from(self.encode(prompt_ids, prompt_mask), prompt_mask)

    def start_from(self, states: Tensor, mask: Tensor) -> DecodingState:
        """State that decodes from encoder states [r, p, d] with mask [r, p]."""
        output = self.network(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            attention_mask=mask.long(),
            decoder_input_ids=torch.full_like(mask[:, :1], self.start_id, dtype=torch.long),
            use_cache=True,
        )
        return _EncoderDecoderState(self, output.logits[:, -1], output.cache, mask)


class _EncoderDecoderState(DecodingState):
    def __init__(self, model: LanguageModel, next_logits: Tensor, cache: Cache, mask: Tensor):
        super().__init__(model, next_logits, cache, mask)
        self.prompts = torch.arange(len(mask), device=mask.device)  # that the rows read

    def select(self, rows: Tensor | slice) -> DecodingState:
        prompts = self.prompts[rows]
        if not torch.equal(prompts, self.prompts):
            state = cast("_EncoderDecoderState", super().select(rows))
        else:
            # Beams of one prompt are exchanged: what they attend to, most of the cache, stays.
            state = copy.copy(self)
            state.next_logits = self.next_logits[rows]
            cache = cast(EncoderDecoderCache, self.cache)
            state.cache = EncoderDecoderCache(
                select_cache(cache.self_attention_cache, rows),
                share_cache(cache.cross_attention_cache),
            )
        state.prompts = prompts
        return state

    def _read(self, tokens: Tensor) -> Tensor:
        # The cross-attention cache holds what the decoder needs of the encoder's states; the
        # model only asks that some are passed.
        width = self.model.network.config.hidden_size
        unread = self.next_logits.new_zeros(len(tokens), self.mask.shape[1], width)
        output = self.model.network(
            encoder_outputs=BaseModelOutput(last_hidden_state=unread),
            attention_mask=self.mask.long(),
            decoder_input_ids=tokens,
            cache=self.cache,
            use_cache=True,
        )
        self.cache = output.cache
        return output.logits


def load_language_model(
    option: Generator, runtime: Runtime, adapted: Path | None = None
) -> LanguageModel:
    """Weights and tokenizer of a generator, on the runtime's device.

    `adapted` is a folder that `LanguageModel.save` wrote: adapters, or whole weights. Raises
    UserError where the weights are of the other kind than the option says.
    """
    lacking = option.device_problems(runtime.device)
    if lacking:
        raise UserError([f"model.generator.{line}" for line in lacking])
    whole = adapted if adapted is not None and option.adapter is None else None
    folder = whole or locate(option.weights, runtime.cache_dir, "model.generator.weights")
    config = AutoConfig.from_pretrained(folder)
    kind = "encoder_decoder" if config.is_encoder_decoder else "causal"
    if kind != option.kind:
        raise UserError(
            f"model.generator.kind: {option.kind!r}, but the weights {option.weights!r} are "
            f"{kind!r}; set model.generator.kind={kind}"
        )
    dtype = getattr(torch, runtime.dtype)
    tokenizer = load_tokenizer(folder)
    loader = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    extra: dict[str, Any] = {}
    if option.quantization:
        from transformers import BitsAndBytesConfig

        extra["device_map"] = {"": runtime.device}  # 4-bit weights are made where they stay
        extra["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=option.quantization,
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    if option.adapter is not None:
        from rag_experiments.model import lora
    attention = group_heads(option.attention_on(runtime.device), config)
    narrow = option.adapter is not None and runtime.dtype
    # Hooks and 4-bit weights cannot be undone: such networks are loaded for each job.
    stays = not option.gradient_checkpointing and not option.quantization
    name = (resident.name_folder(folder), attention, runtime.device, narrow) if stays else None
    network: Any = resident.take("generator", name)
    if network is None:
        network = loader.from_pretrained(
            folder, dtype=torch.float32, attn_implementation=attention, **extra
        )
        if option.adapter is not None:
            lora.narrow_matrices(network, dtype)
        if stays:
            resident.lend("generator", name, network)
    if option.gradient_checkpointing:
        network.gradient_checkpointing_enable({"use_reentrant": False})
        network.enable_input_require_grads()
    if option.adapter is not None:
        network = lora.adapt(network, option, adapted)
    if not option.quantization:
        network.to(runtime.device)
    model = EncoderDecoderModel if config.is_encoder_decoder else CausalLanguageModel
    return model(network, tokenizer, dtype)


def load_tokenizer(folder: Path) -> Any:
    """Tokenizer of a folder, with a padding token."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"model.generator.weights: the tokenizer in {str(folder)!r} has no end token"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
