"""RAG-Token and RAG-Sequence on a random model of BART's shape: transformers' own, and ours.

There is no pretrained BART without the Hub, and speed does not depend on what weights say. The
tokenizer is that of SmolLM2, whose vocabulary is about as large; its ids 0, 1, 2 take the places
of BART's first, padding and end token.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from inputs import Inputs, Sizes
from side_by_side import OURS, OURS_FP32, RECIPE, TUNED, Contest
from torch import Tensor
from transformers import (
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    DPRConfig,
    DPRQuestionEncoder,
    GenerationConfig,
    RagConfig,
    RagSequenceForGeneration,
    RagTokenForGeneration,
)

from rag_experiments.model.generator import Generator
from rag_experiments.model.rag import Decoding
from rag_experiments.model.rag_sequence import RagSequence
from rag_experiments.model.rag_token import RagToken
from rag_experiments.weights import resolve

THEIRS = {"rag_token": RagTokenForGeneration, "rag_sequence": RagSequenceForGeneration}
OURS_BY_NAME = {"rag_token": RagToken, "rag_sequence": RagSequence}
TITLES = {"rag_token": "RAG-Token", "rag_sequence": "RAG-Sequence"}
BEGIN, PAD, END = 0, 1, 2
BEAMS = 4
LEARNING_RATE = 1e-5


class MaskedBart(BartForConditionalGeneration):
    """Reads no padding while it decodes: RAG-Sequence of transformers drops the mask."""

    def generate(self, inputs: Tensor, attention_mask: Any = None, **others: Any) -> Any:  # type: ignore[override]
        return super().generate(inputs, attention_mask=inputs.ne(PAD).long(), **others)


def write_bart(inputs: Inputs, sizes: Sizes, folder: Path) -> None:
    """A random model of BART-base's shape with a tokenizer, as `from_pretrained` reads it."""
    shape: dict[str, Any] = {
        "encoder_layers": 6,
        "decoder_layers": 6,
        "d_model": 768,
        "encoder_attention_heads": 12,
        "decoder_attention_heads": 12,
        "encoder_ffn_dim": 3072,
        "decoder_ffn_dim": 3072,
    }
    if sizes.tiny:
        shape = {name: 2 if size < 100 else 32 for name, size in shape.items()}
    config = BartConfig(
        **shape,
        vocab_size=512 if sizes.tiny else 50265,
        bos_token_id=BEGIN,
        pad_token_id=PAD,
        eos_token_id=END,
        decoder_start_token_id=END,
        forced_eos_token_id=None,
        # Wider than BART's own 0.02, with which a random model says the same after every prompt.
        init_std=0.3 if sizes.tiny else 0.06,
    )
    torch.manual_seed(13)
    BartForConditionalGeneration(config).save_pretrained(folder)
    weights = inputs.run.model.generator.weights
    tokenizer = AutoTokenizer.from_pretrained(resolve(weights, inputs.runtime.cache_dir))
    tokenizer.pad_token_id, tokenizer.eos_token_id = PAD, END
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)


class RagSides:
    """Both sides of one way to marginalize, on the same weights."""

    def __init__(self, name: str, inputs: Inputs, sizes: Sizes, bart: Path, columns: list[str]):
        self.name, self.inputs, self.sizes = name, inputs, sizes
        self.task = inputs.run.task.model_copy(update={"max_answer_tokens": sizes.answer_tokens})
        option = OURS_BY_NAME[name](
            generator=Generator(
                weights=str(bart), kind="encoder_decoder", max_prompt_tokens=sizes.padded
            ),
            decoding=Decoding(num_beams=BEAMS),
        )
        self.models = {}
        for column, dtype in ((OURS, "bfloat16"), (OURS_FP32, "float32")):
            if column in columns:
                runtime = inputs.with_dtype(dtype)
                self.models[column] = option.load(self.task, runtime, encode_queries=False)
        first, *others = self.models.values() or [None]
        for other in others:  # whole weights are the same in both precisions: hold them once
            other.generator.network = first.generator.network
        # Prompts and targets are written once, by ours, for all sides.
        writer = next(iter(self.models.values()), None) or option.load(
            self.task, inputs.with_dtype("float32"), encode_queries=False
        )
        self.batches = [writer.collate(examples) for examples in inputs.batches]
        self.theirs: Any = None
        if RECIPE in columns or TUNED in columns:
            self.theirs = self._load_theirs(bart)
        self.optimizers: dict[str, torch.optim.Optimizer] = {}

    def _load_theirs(self, bart: Path) -> Any:
        network = MaskedBart.from_pretrained(bart)
        tiny = {"vocab_size": 4, "hidden_size": 4, "intermediate_size": 4}
        encoder = DPRQuestionEncoder(
            DPRConfig(num_hidden_layers=1, num_attention_heads=1, **tiny)  # it is never asked
        )
        config = RagConfig.from_question_encoder_generator_configs(
            encoder.config, network.config, n_docs=self.sizes.passages
        )
        rag = THEIRS[self.name](config, question_encoder=encoder, generator=network)
        ids = {"pad_token_id": PAD, "eos_token_id": END, "decoder_start_token_id": END}
        network.generation_config = GenerationConfig(**ids)
        rag.generation_config = GenerationConfig(**ids)
        return rag

    # -- inputs of theirs ------------------------------------------------------------------

    def their_prompts(self, batch: dict[str, Tensor], padded: int | None) -> dict[str, Any]:
        """Prompts and scores as transformers takes them, padded to a number of tokens or not."""
        ids, mask = batch["prompt_ids"], batch["prompt_mask"].long()
        if padded is not None:
            missing = padded - ids.shape[1]
            ids = torch.nn.functional.pad(ids, (0, missing), value=PAD)
            mask = torch.nn.functional.pad(mask, (0, missing), value=0)
        return {
            "context_input_ids": ids,
            "context_attention_mask": mask,
            "doc_scores": batch["log_prior"],  # its softmax is itself
            "n_docs": self.sizes.passages,
        }

    def their_labels(self, batch: dict[str, Tensor]) -> Tensor:
        answers = batch["answer_ids"].masked_fill(~batch["answer_mask"], PAD)
        return torch.nn.functional.pad(answers, (1, 0), value=END)

    # -- training --------------------------------------------------------------------------

    def optimizer(self, side: str, network: torch.nn.Module) -> torch.optim.Optimizer:
        """AdamW in one kernel, as the Trainer of transformers has it, the same for all sides."""
        if side not in self.optimizers:
            parameters = [p for p in network.parameters() if p.requires_grad]
            self.optimizers[side] = torch.optim.AdamW(parameters, LEARNING_RATE, fused=True)
        return self.optimizers[side]

    def their_loss(self, batch: dict[str, Tensor], padded: int | None, bf16: bool) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            output = self.theirs(
                **self.their_prompts(batch, padded), labels=self.their_labels(batch)
            )
        return output.loss.sum() / batch["answer_mask"].sum()

    def train_theirs(self, turn: int, padded: int | None, bf16: bool) -> float:
        self.theirs.train()
        batch = self.batches[turn % len(self.batches)]
        optimizer = self.optimizer("theirs", self.theirs.generator)
        loss = self.their_loss(batch, padded, bf16)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    def train_ours(self, turn: int, column: str) -> float:
        model = self.models[column].train()
        batch = self.batches[turn % len(self.batches)]
        optimizer = self.optimizer("ours", model.generator.network)
        loss = model(**batch)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    def training_side(self, column: str) -> Any:
        if column == RECIPE:
            return lambda turn: self.train_theirs(turn, self.sizes.padded, bf16=False)
        if column == TUNED:
            return lambda turn: self.train_theirs(turn, None, bf16=True)
        return lambda turn: self.train_ours(turn, column)

    def check_training(self) -> str:
        """The same loss and gradients in fp32 on the first batch, whatever the padding."""
        model = self.models[OURS_FP32].eval()
        self.theirs.eval()
        batch = self.batches[0]
        actual = model(**batch)["loss"]
        for padded in (None, self.sizes.padded):
            expected = self.their_loss(batch, padded, bf16=False)
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=0)
        actual.backward()
        expected.backward()
        ours = dict(model.generator.network.named_parameters())
        theirs = dict(self.theirs.generator.named_parameters())
        assert ours.keys() == theirs.keys()
        used = [n for n, p in theirs.items() if p.grad is not None]
        difference = torch.stack([(ours[n].grad - theirs[n].grad).norm() for n in used]).norm()
        worst = float(difference / torch.stack([theirs[n].grad.norm() for n in used]).norm())
        model.zero_grad()
        self.theirs.zero_grad()
        assert worst < 1e-3, worst
        return f"losses within 1e-4, gradients within {worst:.0e} of their norm, in fp32"

    # -- decoding --------------------------------------------------------------------------

    def decode_theirs(self, turn: int, padded: int | None, bf16: bool) -> list[list[int]]:
        self.theirs.eval()
        batch = self.batches[turn % len(self.batches)]
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            ids = self.theirs.generate(
                **self.their_prompts(batch, padded),
                num_beams=BEAMS,
                max_length=self.sizes.answer_tokens + 1,
                do_sample=False,
                early_stopping=False,
            )
        return [clip(row[1:]) for row in ids.tolist()]

    def decode_ours(self, turn: int, column: str) -> list[list[int]]:
        model = self.models[column]
        batch = self.batches[turn % len(self.batches)]
        prompts = {name: x for name, x in batch.items() if not name.startswith("answer")}
        with model.evaluating():
            state, slots, log_prior = model.read(prompts)
            return [clip(row) for row in model.decode(state, slots, log_prior).tolist()]

    def decoding_side(self, column: str) -> Any:
        if column == RECIPE:
            return lambda turn: self.decode_theirs(turn, self.sizes.padded, bf16=False)
        if column == TUNED:
            return lambda turn: self.decode_theirs(turn, None, bf16=True)
        return lambda turn: self.decode_ours(turn, column)

    def check_decoding(self) -> str:
        """The same answers in fp32 on the first batches, token for token, whatever the padding."""
        answers = []
        for turn, padded in enumerate((None, self.sizes.padded)[: len(self.batches)]):
            actual = self.decode_ours(turn, OURS_FP32)
            expected = self.decode_theirs(turn, padded, bf16=False)
            assert actual == expected, f"other answers: {actual} and {expected}"
            answers += [tuple(answer) for answer in actual]
        lengths = sorted({len(answer) for answer in answers})
        return (
            f"{len(answers)} answers ({len(set(answers))} different ones, of "
            f"{lengths[0]} to {lengths[-1]} tokens) token for token the same in fp32"
        )


def clip(ids: list[int]) -> list[int]:
    """Ids up to the end token."""
    return ids[: ids.index(END) + 1] if END in ids else ids


def training_contest(name: str, inputs: Inputs, sizes: Sizes, bart: Path) -> Contest:
    columns = [RECIPE, TUNED, OURS, OURS_FP32]
    sides = RagSides(name, inputs, sizes, bart, columns)
    return Contest(
        f"{TITLES[name]} training step",
        {column: sides.training_side(column) for column in columns},
        sides.check_training,
        (5, 2, 1.5),
    )


def decoding_contest(name: str, inputs: Inputs, sizes: Sizes, bart: Path) -> Contest:
    columns = [RECIPE, TUNED, OURS, OURS_FP32]
    sides = RagSides(name, inputs, sizes, bart, columns)
    kind = "thorough decoding" if name == "rag_sequence" else "decoding"
    return Contest(
        f"{TITLES[name]} {kind}, {BEAMS} beams",
        {column: sides.decoding_side(column) for column in columns},
        sides.check_decoding,
        (10, 4, 3) if name == "rag_sequence" else (5, 2.5, 1.5),
    )


def train_alone(name: str, column: str, inputs: Inputs, sizes: Sizes, bart: Path) -> None:
    """Two training steps of one side, in a process that does nothing else."""
    side = RagSides(name, inputs, sizes, bart, [column]).training_side(column)
    for turn in range(2):
        side(turn)


def bart_folder(inputs: Inputs, sizes: Sizes, root: Path) -> Path:
    folder = root / "bart"
    if not folder.is_dir():
        partial = root / "bart.partial"
        write_bart(inputs, sizes, partial)
        shutil.move(partial, folder)
    return folder
