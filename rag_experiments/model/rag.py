"""What all RAG models share: a generator, a query encoder, and how answers are decoded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field, model_validator

from rag_experiments import weights as weights_module
from rag_experiments.contracts import Option, Passage, Question, Runtime, Task
from rag_experiments.model import checkpoint
from rag_experiments.model.generator import Generator
from rag_experiments.model.query_encoder import QueryEncoder

if TYPE_CHECKING:
    from datasets import Dataset

    from rag_experiments.model.rag_model import RagModel


_PARTS: dict[str, checkpoint.Part] = {"generator": "generator", "query_encoder": "question_encoder"}
"""Fields of a model, and which part of a checkpoint each is."""


class Decoding(Option):
    """How answers are decoded; the names and meanings are transformers' `GenerationConfig`'s."""

    num_beams: Annotated[int, Field(ge=1)] = 1
    """Beams; 1 is greedy."""
    do_sample: bool = False
    """Draw tokens instead of taking the likeliest."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Of sampling."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Sample from this many of the likeliest tokens; 0 takes all (unset, it would be 50)."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Sample from the smallest set of tokens with this probability."""
    length_penalty: float = 1.0
    """Beam scores are divided by length to this power."""
    repetition_penalty: Annotated[float, Field(gt=0)] = 1.0
    """Penalty on answer tokens that were used already; prompts do not count."""
    no_repeat_ngram_size: Annotated[int, Field(ge=0)] = 0
    """No n-gram of this size twice in an answer; 0 is off."""

    def generation(self) -> dict[str, float | int | bool]:
        """Arguments of `GenerationConfig`."""
        chosen = self.model_dump()
        if not self.do_sample:
            del chosen["temperature"], chosen["top_k"], chosen["top_p"]
        if self.num_beams == 1:
            del chosen["length_penalty"]
        return chosen


class Rag(Option):
    """Base of the options of the group `model`."""

    one_prompt: ClassVar[bool] = False
    """Whether all passages stand in one prompt; else each passage has a prompt of its own."""
    marginalizes: ClassVar[bool] = True
    """Whether p(y|x) is a sum over passages, weighted by p(z|x)."""

    weights: str | None = None
    """A checkpoint in transformers' RAG layout, named as in `weights.py`: it is where generator and
    query encoder then have their weights from, and these name none of their own."""
    generator: Generator
    """The language model that writes answers."""
    query_encoder: QueryEncoder | None = None
    """Encoder of questions, for retrievers that search by vector."""
    decoding: Decoding = Decoding()
    """How answers are decoded."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the target's probability that is spread over the vocabulary in training."""

    @model_validator(mode="before")
    @classmethod
    def _take_parts(cls, values: Any) -> Any:
        """Give the parts of a checkpoint to what names no weights of its own."""
        if not isinstance(values, dict) or not isinstance(values.get("weights"), str):
            return values
        parts: dict[str, Any] = {}
        for field, part in _PARTS.items():
            option = values.get(field)
            if isinstance(option, (Generator, QueryEncoder)) and option.weights is None:
                name = checkpoint.name_part(values["weights"], part)
                parts[field] = option.model_copy(update={"weights": name})
        return values | parts

    def problems(self) -> list[str]:
        """Where `weights` and the parts disagree about who names the weights."""
        if self.weights is None:
            return [
                f"{field}.weights: null, and weights names no checkpoint to take them from; give "
                f"model.weights=... or another model/{field}"
                for field in _PARTS
                if (option := getattr(self, field)) is not None and option.weights is None
            ]
        found = weights_module.find_problem(self.weights)
        if found is not None:
            return [f"weights: {found}"]
        if self.weights.startswith((".", "/", "~")):
            folder = Path(self.weights).expanduser()
            found_in = checkpoint.find_problems(folder)
            if found_in:
                return [f"weights: {self.weights!r}: {line}" for line in found_in]
        problems = [
            f"{field}.weights: {option.weights!r}, but weights is {self.weights!r}, which brings "
            f"its own: choose model/{field}=checkpoint, or weights=null"
            for field, part in _PARTS.items()
            if (option := getattr(self, field)) is not None
            and option.weights != checkpoint.name_part(self.weights, part)
        ]
        legal: list[tuple[str, Any]] = [("generator.kind", "encoder_decoder")]
        if self.query_encoder is not None:
            legal += [("query_encoder.pooling", "dpr"), ("query_encoder.normalize", False)]
        for name, value in legal:
            field, _, key = name.partition(".")
            if (given := getattr(getattr(self, field), key)) != value:
                problems.append(
                    f"{name}: {given!r}, but that of a checkpoint of transformers' RAG is {value!r}"
                )
        return problems

    def load(
        self, task: Task, runtime: Runtime, *, encode_queries: bool, folder: Path | None = None
    ) -> RagModel:
        """The model with its weights.

        `encode_queries` loads the query encoder as well. `folder` holds what training changed,
        as `RagModel.save` wrote it; without it the pretrained weights are loaded.
        """
        from rag_experiments.model.rag_model import load_rag_model

        return load_rag_model(
            self, task, runtime, self._network(), encode_queries=encode_queries, folder=folder
        )

    def question_problems(
        self,
        questions: Sequence[Question],
        task: Task,
        top_k: int,
        runtime: Runtime,
        *,
        encode_queries: bool = False,
        passages: Dataset | None = None,
    ) -> list[str]:
        """What would not fit the weights: windows of the generator and of the query encoder,
        which counts with `encode_queries`. Loads tokenizers and configurations only.

        `passages` is the knowledge source, for documents that are to be summarized."""
        problems = self.generator.device_problems(runtime.device)
        if problems:  # before large weights are fetched for nothing
            return [f"model.generator.{line}" for line in problems]
        from transformers import AutoConfig

        from rag_experiments.model.language_model import load_tokenizer
        from rag_experiments.model.prompt_encoder import PromptEncoder

        place = "model.generator.weights"
        folder = checkpoint.locate(self.generator.weights, runtime.cache_dir, place)
        encoder = PromptEncoder(load_tokenizer(folder), self.generator, task)
        count = top_k if self.one_prompt else min(top_k, 1)
        problems = encoder.problems(questions, count, passages)
        if not problems and top_k:  # a retriever may find nothing, and closed book is a reference
            problems = encoder.problems(questions, 0)
        problems += encoder.window_problems(questions, AutoConfig.from_pretrained(folder))
        if encode_queries and self.query_encoder is not None:
            found = self.query_encoder.weight_problems(runtime)
            problems += [f"model.query_encoder.{line}" for line in found]
        return problems

    def split(self, passages: tuple[Passage, ...]) -> list[tuple[Passage, ...]]:
        """Passages of each prompt; one prompt without passages where there are none."""
        if self.one_prompt or not passages:
            return [passages]
        return [(passage,) for passage in passages]

    def _network(self) -> type[RagModel]:
        raise NotImplementedError
