"""The training loop of generator and both encoders, with an index that is made anew meanwhile."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from rag_experiments.contracts import Example, Training
from rag_experiments.runtime import disk, processes
from rag_experiments.trainer.end_to_end import EndToEnd
from rag_experiments.trainer.loop import JointLoop, SearchingModel

log = logging.getLogger(__name__)

VECTORS = "vectors.npy"
"""File with the vectors of the index as it was made last: of the training, which a checkpoint
shares with it."""

SAMPLE = 64
"""Training questions on which a refresh is measured."""


class EndToEndModel(SearchingModel):
    """A RAG model that searches an index of some steps ago, and encodes what it finds anew."""

    def passage_vectors(self, examples: Sequence[Example]) -> list[Tensor]:
        """Vectors [n, dimension] of the passages of each example, with gradient."""
        passages = {p.id: p for example in examples for p in example.passages}
        if not passages:
            return [torch.empty(0) for _ in examples]
        texts = self.retrieve.passage_texts(list(passages.values()))
        vectors = self.rag.passage_encoder.forward_texts(texts)  # each passage once
        row = {passage_id: i for i, passage_id in enumerate(passages)}
        return [vectors[[row[p.id] for p in example.passages]] for example in examples]


class EndToEndLoop(JointLoop):
    """Trains both encoders and the generator, and keeps the index not too far behind."""

    refreshed: int | None = None
    """Step at which the index was made; None: before the first, or before an interruption."""

    def __init__(self, option: EndToEnd, training: Training, arguments: Any):
        super().__init__(option, training, arguments)
        if processes.is_first():  # what was cut short, and is in no checkpoint
            (training.folder / VECTORS).unlink(missing_ok=True)
        self.add_callback(Refreshes(self))
        questions = [example.question for example in training.examples]
        draw = random.Random(training.runtime.seed)
        self.sample = draw.sample(questions, min(SAMPLE, len(questions)))

    def module(self, training: Training) -> EndToEndModel:
        training.model.train_passage_encoder(training.retrieve.load_passage_encoder())
        return EndToEndModel(training)

    def own_rates(self) -> list[tuple[nn.Module, float]]:
        rate = cast(EndToEnd, self.option).passage_learning_rate
        return [*super().own_rates(), (self.training.model.passage_network, rate)]

    def evaluate(self, *arguments: Any, **named: Any) -> dict[str, float]:
        """Score the model as it is, by an index of the passage encoder as it is."""
        self.refresh()
        return super().evaluate(*arguments, **named)

    def refresh(self) -> None:
        """Embed and index all passages anew, unless that was done at this very step."""
        step = self.state.global_step
        if self.refreshed == step:
            return
        self.refreshed = step
        retrieve, file = self.training.retrieve, self.training.folder / VECTORS
        if not processes.is_first():  # of whose embedding the others read the outcome
            processes.wait()
            retrieve.reindex(np.load(file, mmap_mode="r"))
            return
        queries = self.training.model.query_encoder.encode([q.query for q in self.sample])
        hits = self._search(queries)
        found = list(chain.from_iterable(hits))
        before = retrieve.passage_vectors(found)
        file.parent.mkdir(parents=True, exist_ok=True)
        retrieve.embed_passages(self.training.model.passage_encoder, file)
        processes.wait()
        retrieve.reindex(np.load(file, mmap_mode="r"))
        if not found:
            return
        staleness = float(np.mean(1 - _cosines(before, retrieve.passage_vectors(found))))
        changed = share_changed(hits, self._search(queries))
        log.info(
            "index made anew at step %d: passages found for %d questions had moved by %.3g "
            "(1 - cosine), and %.3g of what is found is new",
            step,
            len(self.sample),
            staleness,
            changed,
        )
        self.training.log({"train/staleness": staleness, "train/hits_changed": changed}, step)

    def save_weights(self, folder: Path) -> None:
        super().save_weights(folder)
        file = self.training.folder / VECTORS
        if file.is_file():  # else the index is still that of the pretrained encoder
            _share(file, folder / VECTORS)

    def load_weights(self, folder: Path) -> None:
        super().load_weights(folder)
        if not (folder / VECTORS).is_file():
            return
        self.training.retrieve.reindex(np.load(folder / VECTORS, mmap_mode="r"))
        if processes.is_first():
            _share(folder / VECTORS, self.training.folder / VECTORS)

    def _search(self, queries: np.ndarray) -> list[list[str]]:
        examples = self.training.retrieve.examples(self.sample, queries)
        return [[passage.id for passage in example.passages] for example in examples]


class Refreshes(TrainerCallback):
    """Says when the index is made anew, beside the validations."""

    def __init__(self, loop: EndToEndLoop):
        self.loop = loop

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        steps = cast(EndToEnd, self.loop.option).refresh_steps
        due = float(state.epoch).is_integer() if steps is None else state.global_step % steps == 0
        if due or state.global_step >= state.max_steps:
            self.loop.refresh()


def share_changed(before: Sequence[Sequence[str]], after: Sequence[Sequence[str]]) -> float:
    """Share of the hits after that were not among those of the same question before."""
    new = sum(len(set(own) - set(old)) for old, own in zip(before, after, strict=True))
    return new / max(1, sum(map(len, after)))


def _share(file: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    disk.link(file, target)


def _cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return (one * other).sum(1) / np.maximum(norms, np.finfo(np.float32).tiny)
