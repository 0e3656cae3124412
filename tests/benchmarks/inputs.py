"""What the sides of a benchmark are given: real questions with passages of real lengths."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module

from rag_experiments import config
from rag_experiments.contracts import Example, Runtime
from rag_experiments.pipeline import RagPipeline


@dataclass(frozen=True)
class Sizes:
    """How large the work is."""

    questions: int = 4
    passages: int = 5
    lora_passages: int = 3
    words: int = 100
    padded: int = 300
    """Tokens that transformers' recipe pads prompts to (`max_combined_length` of RagConfig)."""
    answer_tokens: int = 16
    batches: int = 4
    texts: int = 256
    weights: str = "base"
    """`base`: sizes of BART-base, real SmolLM2 and MiniLM; `tiny`: random ones."""

    @property
    def tiny(self) -> bool:
        return self.weights == "tiny"


QUICK = Sizes(
    questions=2,
    passages=3,
    lora_passages=2,
    words=6,
    padded=220,
    answer_tokens=6,
    batches=2,
    texts=24,
    weights="tiny",
)


@dataclass
class Inputs:
    """Batches of examples, and the configuration that made them."""

    run: Any
    runtime: Runtime
    batches: list[list[Example]]
    texts: list[str]

    def with_dtype(self, dtype: str) -> Runtime:
        """The runtime, with matrix products in the given type."""
        return replace(self.runtime, dtype=dtype)


def compose_run(data: Path | None, tiny: bool, cache_dir: Path, *overrides: str) -> Any:
    """The configuration of a run with RAG-Token, of real or of tiny random weights."""
    chosen = ["model=rag_token", "retriever=bm25", f"cache_dir={cache_dir}", *overrides]
    if data is not None:
        chosen += ["data=folder", f"data.path={data}"]
    if tiny:
        chosen += ["model.generator.weights=random:llama", "model.generator.adapter.last_layers=1"]
        chosen += ["model.query_encoder.weights=random:bert"]
    with initialize_config_module("rag_experiments.conf", version_base="1.3"):
        return config.load(compose("config", overrides=chosen))


def read_inputs(data: Path | None, sizes: Sizes, cache_dir: Path) -> Inputs:
    """Training questions with the passages that BM25 finds, each cut to its first words."""
    run = compose_run(data, sizes.tiny, cache_dir, f"retriever.top_k={sizes.passages}")
    runtime = Runtime(cache_dir, "cpu", "float32", 13)
    prepared = run.data.load(runtime)
    searcher = run.retriever.build(prepared.passages, runtime)
    # Of the pipeline only retrieval is used here: no model.
    pipeline = RagPipeline(run.task, run.retriever, None, searcher, prepared.passages)  # type: ignore[arg-type]
    pipeline.fit_temperature(prepared.train[:100], name="train")
    found = pipeline.examples(prepared.train[: 4 * sizes.batches * sizes.questions])
    whole = [
        replace(
            example,
            passages=tuple(
                replace(passage, text=" ".join(passage.text.split()[: sizes.words]))
                for passage in example.passages
            ),
        )
        for example in found
        if len(example.passages) == sizes.passages  # transformers' RAG needs the same number
        # ... and as many tokens as it decodes are enough for the answer
        and len(example.question.answers[0].split()) <= sizes.answer_tokens // 2
    ]
    needed = sizes.questions * sizes.batches
    if len(whole) < needed:
        raise SystemExit(
            f"only {len(whole)} of {len(found)} questions have {sizes.passages} passages and a "
            f"short answer; {needed} are needed"
        )
    batches = [whole[i : i + sizes.questions] for i in range(0, needed, sizes.questions)]
    rows = prepared.passages[: sizes.texts]
    texts = [
        " ".join(f"{title} {text}".split()[: sizes.words])
        for title, text in zip(rows["title"], rows["text"], strict=True)
    ]
    return Inputs(run, runtime, batches, texts)
