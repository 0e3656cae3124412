"""What is computed once: stages of a run whose results are kept in the store.

| stage | depends on |
|---|---|
| `data` | the options of the group `data`, and the content of the files that they name |
| `embeddings` | passages, the passage encoder and its weights (kept by the retriever itself) |
| `index` | passages or their embeddings, the settings it is built with (likewise) |
| `retrieval` | passages, the questions of one split, retriever, query encoder |
| `untrained` | the task's prompt, generator and decoding, questions with the passages read |
| `posterior` | the task's prompt and generator, questions with the passages weighed |

and each on device, precision, the libraries and the code that it runs through. What it does not
depend on is named here, setting by setting: a setting that nobody thought of counts. The
processor and the number of threads do not count: they can change the last bits of a sum.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, astuple
from functools import partial
from pathlib import Path
from typing import Any

from rag_experiments import weights
from rag_experiments.config import Run
from rag_experiments.contracts import Example, Hit, Prediction, PreparedData, Question, Runtime
from rag_experiments.data.fingerprint import fingerprint_passages, fingerprint_questions
from rag_experiments.pipeline import RagPipeline
from rag_experiments.store.entries import Store
from rag_experiments.store.keys import Key, describe, hash_code, libraries, make_key

log = logging.getLogger(__name__)

DATA, RETRIEVAL, UNTRAINED, POSTERIOR = 1, 1, 1, 1
"""Versions of the stages; raise one when the same inputs give another result."""

NOT_OF_RETRIEVAL = frozenset({"retriever.temperature"})
NOT_OF_GENERATOR = frozenset(
    {
        "task.objective",
        "task.temperature",  # of what is kept, log p(label|x), label scores are made anew
        "model.label_smoothing",
        "model.query_encoder",  # it decides what is retrieved, and that counts as such
        "model.generator.gradient_checkpointing",
        "model.generator.adapter",  # adapters begin as zero; whether there are some counts
    }
)
NOT_OF_POSTERIOR = NOT_OF_GENERATOR | {"model.decoding"}


class Stages:
    """The stages of one run, read from the store where they were computed before.

    A stage leaves the same behind whether it is computed or read, but for random numbers drawn:
    seed before the next one.
    """

    def __init__(self, config: Run, runtime: Runtime):
        self.config = config
        self.runtime = runtime
        self.store = Store(runtime.cache_dir)
        self.passages = ""

    def load_data(self) -> PreparedData:
        """Read and prepare the data; UserError as `Data.load` raises it."""
        key = data_key(self.config, self.runtime)
        if key is None:
            log.info("data: computing, its source may have changed since (pin it to a commit)")
            data = self.config.data.load(self.runtime)
        else:
            data = self.store.result(
                key, partial(self.config.data.load, self.runtime), write_data, read_data
            )
        self.passages = fingerprint_passages(data.passages)
        return data

    def search(self, pipeline: RagPipeline, questions: Sequence[Question]) -> list[list[Hit]]:
        """Hits of questions, found with the pretrained query encoder."""
        return self.store.result(
            retrieval_key(self.config, self.runtime, self.passages, questions),
            partial(pipeline.search, questions),
            write_hits,
            read_hits,
        )

    def answer(
        self,
        pipeline: RagPipeline,
        questions: Sequence[Question],
        hits: Sequence[Sequence[Hit]],
        progress: str | None = None,
    ) -> list[Prediction]:
        """Answers of the pretrained model to questions, from hits that were found before."""
        prompts = pipeline.model.prompts
        before = prompts.cut

        def compute() -> tuple[list[Prediction], int]:
            predictions = pipeline.predict(questions, hits, progress)
            return predictions, prompts.cut - before

        rows = zip(pipeline.read_hits(questions, hits), hits, strict=True)
        examples = fingerprint([astuple(example), list(map(astuple, own))] for example, own in rows)
        predictions, cut = self.store.result(
            answers_key(self.config, self.runtime, examples), compute, write_answers, read_answers
        )
        prompts.cut = before + cut
        return pipeline.score_labels(predictions)

    def weigh(
        self, model: Any, examples: Sequence[Example], temperature: float, progress: str
    ) -> list[tuple[float, ...]]:
        """p(z|x,y) of each example's passages by the pretrained model, as `RagModel.weigh`."""
        own = fingerprint(map(astuple, examples))
        return self.store.result(
            posterior_key(self.config, self.runtime, own, temperature),
            partial(model.weigh, examples, temperature, progress),
            write_posterior,
            read_posterior,
        )


# --- Keys -------------------------------------------------------------------------------------


def data_key(config: Run, runtime: Runtime) -> Key | None:
    """Key of the prepared data; None where what it would be read from cannot be told."""
    files = getattr(config.data, "files", lambda: None)()
    if files is None:
        return None
    contents = {str(file): weights.hash_file(file) for file in files}
    parts = describe(config.data, "data", runtime.cache_dir)
    parts |= libraries("datasets", "tokenizers", "markdown-it-py", "pypdf")
    beside: list[str] = getattr(config.data, "not_read", list)()
    drawn = {"seed": runtime.seed} if getattr(config.data, "draws", False) else {}
    return make_key(
        "data", DATA, {**parts, **drawn, "files": contents, "not read": beside, **_code("data")}
    )


def retrieval_key(
    config: Run, runtime: Runtime, passages: str, questions: Sequence[Question]
) -> Key:
    """Key of the hits of questions among passages with a given fingerprint."""
    parts = describe(config.retriever, "retriever", runtime.cache_dir, NOT_OF_RETRIEVAL)
    if config.retriever.uses_query_vectors:
        parts |= describe(config.model.query_encoder, "model.query_encoder", runtime.cache_dir)
    return make_key(
        "retrieval",
        RETRIEVAL,
        {
            **parts,
            "passages": passages,
            "questions": fingerprint_questions(questions),
            **_numerics(runtime),
            **libraries("bm25s", "faiss-cpu", "tokenizers"),
            **_code("retriever", "encoder"),
        },
    )


def answers_key(config: Run, runtime: Runtime, examples: str) -> Key:
    """Key of the pretrained model's answers to examples with a given fingerprint."""
    draws = getattr(getattr(config.model, "decoding", None), "do_sample", True)
    parts = _of_generator(config, runtime, examples, draws, NOT_OF_GENERATOR)
    return make_key("untrained", UNTRAINED, parts)


def posterior_key(config: Run, runtime: Runtime, examples: str, temperature: float) -> Key:
    """Key of the pretrained model's p(z|x,y) of examples with a given fingerprint."""
    parts = _of_generator(config, runtime, examples, False, NOT_OF_POSTERIOR)
    return make_key("posterior", POSTERIOR, {**parts, "trainer.teacher_temperature": temperature})


def _of_generator(
    config: Run, runtime: Runtime, examples: str, draws: bool, without: frozenset[str]
) -> dict[str, Any]:
    generator = getattr(config.model, "generator", None)
    shuffles = getattr(getattr(config.task, "prompt", None), "order", None) == "shuffled"
    return {
        **describe(config.task, "task", runtime.cache_dir, without),
        **describe(config.model, "model", runtime.cache_dir, without),
        "has adapters": getattr(generator, "adapter", None) is not None,
        "seed": runtime.seed if draws or shuffles else None,
        "examples": examples,
        **_numerics(runtime),
        **libraries("peft", "tokenizers"),
        **_code("task", "model", "pipeline"),
    }


def _numerics(runtime: Runtime) -> dict[str, Any]:
    device = runtime.device.partition(":")[0]
    return {"device": device, "dtype": runtime.dtype, **libraries("torch", "transformers")}


def _code(*names: str) -> dict[str, str]:
    return {f"{name} code": hash_code(name) for name in (*names, "functional")}


def fingerprint(rows: Iterable[Any]) -> str:
    """SHA-256 over rows of what JSON can hold."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row).encode() + b"\n")
    return digest.hexdigest()


# --- Files ------------------------------------------------------------------------------------


def write_data(data: PreparedData, folder: Path) -> None:
    """Write passages as an Arrow stream and the rest as JSON."""
    import pyarrow as pa

    with pa.OSFile(str(folder / "passages.arrow"), "wb") as sink:
        schema = data.passages.features.arrow_schema
        with pa.ipc.new_stream(sink, schema) as writer:
            for table in data.passages.with_format("arrow").iter(batch_size=10_000):
                writer.write_table(table.cast(schema))
    rest = {
        **{n: [asdict(q) for q in getattr(data, n)] for n in ("train", "validation", "test")},
        "gold": data.gold,
        "notes": data.notes,
        "places": dict(data.places),
    }
    _write_json(rest, folder / "questions.json")


def read_data(folder: Path) -> PreparedData:
    """Data that `write_data` wrote; the passages stay on disk."""
    from datasets import Dataset

    rest = _read_json(folder / "questions.json")
    for name in ("train", "validation", "test"):
        rest[name] = tuple(Question(**_tuples(row)) for row in rest[name])
    passages = Dataset.from_file(str(folder / "passages.arrow"))
    return PreparedData(passages=passages, **_tuples(rest))


def write_hits(hits: Sequence[Sequence[Hit]], folder: Path) -> None:
    """Write the hits of each question as JSON."""
    _write_json([[astuple(hit) for hit in found] for found in hits], folder / "hits.json")


def read_hits(folder: Path) -> list[list[Hit]]:
    """Hits that `write_hits` wrote."""
    return [[Hit(*hit) for hit in found] for found in _read_json(folder / "hits.json")]


def write_answers(answers: tuple[Sequence[Prediction], int], folder: Path) -> None:
    """Write predictions, and how many of their prompts were cut, as JSON."""
    predictions, cut = answers
    content = {"cut": cut, "predictions": [asdict(prediction) for prediction in predictions]}
    _write_json(content, folder / "predictions.json")


def read_answers(folder: Path) -> tuple[list[Prediction], int]:
    """Predictions that `write_answers` wrote."""
    content = _read_json(folder / "predictions.json")
    return [Prediction(**_tuples(row)) for row in content["predictions"]], content["cut"]


def write_posterior(rows: Sequence[Sequence[float]], folder: Path) -> None:
    """Write the p(z|x,y) of each example as JSON."""
    _write_json(rows, folder / "posterior.json")


def read_posterior(folder: Path) -> list[tuple[float, ...]]:
    """Read what `write_posterior` wrote."""
    return [tuple(row) for row in _read_json(folder / "posterior.json")]


def _write_json(content: Any, path: Path) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _tuples(row: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(v) if isinstance(v, list) else v for name, v in row.items()}
