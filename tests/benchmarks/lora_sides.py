"""LoRA of a causal model: a loop as one writes it with peft and HF Trainer, and ours.

Theirs has one prompt for each question and passage, the answer behind it, the prompt masked with
-100 in the labels, and logits everywhere. Ours computes the RAG-Token likelihood of the same
prompts. Weights, adapters and prompts are the same; so are the log-probabilities, as the check
shows. Each side runs under its own Trainer, from the start of training to its end.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from inputs import Inputs, Sizes
from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from side_by_side import OURS, OURS_FP32, RECIPE, TUNED, Contest
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from rag_experiments.contracts import Training
from rag_experiments.trainer.loop import Loop
from rag_experiments.trainer.supervised import Supervised
from rag_experiments.weights import resolve

LEARNING_RATE = 1e-4


class Stopwatch(TrainerCallback):
    """Seconds from the start of training to its end."""

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.start = time.perf_counter()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.seconds = time.perf_counter() - self.start


class LoraSides:
    """Both sides on the same weights, adapters and prompts."""

    def __init__(self, inputs: Inputs, sizes: Sizes, columns: list[str]):
        self.inputs, self.sizes = inputs, sizes
        self.folder = tempfile.TemporaryDirectory()
        self.batches = [
            [
                replace(
                    example,
                    passages=example.passages[: sizes.lora_passages],
                    log_prior=tuple(
                        torch.tensor(example.log_prior[: sizes.lora_passages])
                        .log_softmax(0)
                        .tolist()
                    ),
                )
                for example in examples
            ]
            for examples in inputs.batches
        ]
        option = inputs.run.model
        self.models = {}
        for column, dtype in ((OURS, "bfloat16"), (OURS_FP32, "float32")):
            if column in columns or column == OURS_FP32:  # which writes the prompts for theirs
                torch.manual_seed(13)
                self.models[column] = option.load(
                    inputs.run.task, inputs.with_dtype(dtype), encode_queries=False
                )
        self.theirs: Any = None
        if RECIPE in columns or TUNED in columns:
            writer = self.models[OURS_FP32]
            place = resolve(option.generator.weights, inputs.runtime.cache_dir)
            network = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32)
            adapted: Any = writer.generator.network
            self.theirs = get_peft_model(network, adapted.peft_config["default"])
            set_peft_model_state_dict(self.theirs, get_peft_model_state_dict(adapted))
            self.rows = [self._their_rows(writer, examples) for examples in self.batches]
            self.tokenizer = writer.generator.tokenizer

    def _their_rows(self, writer: Any, examples: Any) -> list[dict[str, list[int]]]:
        """A question and a passage a row: ids, and labels that mask the prompt."""
        rows = []
        for example in examples:
            asked = [(example.question, (passage,)) for passage in example.passages]
            answer = writer.prompts.encode_answer(self.inputs.run.task.target(example.question))
            rows += [
                {
                    "input_ids": [*prompt, *answer],
                    "attention_mask": [1] * (len(prompt) + len(answer)),
                    "labels": [-100] * len(prompt) + answer,
                }
                for prompt in writer.prompts.encode(asked)
            ]
        return rows

    def collator(self, padded: bool) -> DataCollatorForSeq2Seq:
        if not padded:
            return DataCollatorForSeq2Seq(self.tokenizer)
        return DataCollatorForSeq2Seq(
            self.tokenizer, padding="max_length", max_length=self.sizes.padded
        )

    def arguments(self, rows: int, bf16: bool) -> TrainingArguments:
        return TrainingArguments(
            output_dir=self.folder.name,
            max_steps=1,
            per_device_train_batch_size=rows,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            bf16=bf16,
            use_cpu=True,
            dataloader_pin_memory=False,
            remove_unused_columns=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )

    def train_theirs(self, turn: int, padded: bool, bf16: bool) -> float:
        rows = self.rows[turn % len(self.rows)]
        trainer = Trainer(
            model=self.theirs,
            args=self.arguments(len(rows), bf16),
            train_dataset=rows,  # type: ignore[arg-type]  # a list has what a data set needs
            data_collator=self.collator(padded),
        )
        return run(trainer)

    def train_ours(self, turn: int, column: str) -> float:
        examples = self.batches[turn % len(self.batches)]
        runtime = self.inputs.with_dtype("bfloat16" if column == OURS else "float32")
        training = Training(
            model=self.models[column],
            examples=examples,
            retrieve=None,  # type: ignore[arg-type]  # passages are fixed
            validate=None,
            objective="",
            weigh=self.models[column].weigh,
            log=lambda values, step: None,
            folder=Path(self.folder.name),
            runtime=runtime,
        )
        arguments = self.arguments(len(examples), column == OURS)
        return run(Loop(Supervised(), training, arguments))

    def side(self, column: str) -> Any:
        if column in (RECIPE, TUNED):
            return lambda turn: self.train_theirs(turn, column == RECIPE, column == TUNED)
        return lambda turn: self.train_ours(turn, column)

    def check(self) -> str:
        """In fp32 their loss is minus the mean of our log-probabilities, whatever the padding;
        what is trained is the same."""
        model = self.models[OURS_FP32].eval()
        self.theirs.eval()
        ours = {n for n, p in model.generator.network.named_parameters() if p.requires_grad}
        theirs = {n for n, p in self.theirs.named_parameters() if p.requires_grad}
        assert ours == theirs
        for examples, rows in zip(self.batches[:1], self.rows[:1], strict=True):
            batch = model.collate(examples)
            with torch.no_grad():
                expected = [
                    self.theirs(**self.collator(padded)(rows)).loss for padded in (False, True)
                ]
                prior = batch.pop("log_prior")
                each = model.token_log_probs(**batch)
            mask = batch["answer_mask"][:, None].expand(each.shape)
            actual: Tensor = -each[mask].mean()
            for loss in expected:
                torch.testing.assert_close(actual, loss, rtol=1e-4, atol=0)
            assert prior.shape == each.shape[:2]
        return (
            f"the mean log-probability of answers within 1e-4 in fp32, {len(ours)} tensors trained"
        )


def run(trainer: Trainer) -> float:
    """Train; seconds that it took."""
    watch = Stopwatch()
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(watch)
    trainer.train()
    return watch.seconds


def contest(inputs: Inputs, sizes: Sizes) -> Contest:
    columns = [RECIPE, TUNED, OURS, OURS_FP32]
    sides = LoraSides(inputs, sizes, columns)
    return Contest(
        f"LoRA training step, {sizes.lora_passages} passages",
        {column: sides.side(column) for column in columns},
        sides.check,
        (3, None, 1.5),
    )
