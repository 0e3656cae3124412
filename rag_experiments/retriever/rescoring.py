"""Models that rescore hits, and the searcher that applies them on top of another one."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from rag_experiments.contracts import Hit, Question, Runtime, Searcher, UserError
from rag_experiments.encoder import TextEncoder, precision
from rag_experiments.retriever.base import (
    find_vectors,
    fingerprint_passages,
    join_title,
    write_manifest,
)
from rag_experiments.retriever.passage_rows import PassageRows
from rag_experiments.weights import load_weights

if TYPE_CHECKING:
    from datasets import Dataset

log = logging.getLogger(__name__)


class Rescorer(Protocol):
    """A model that scores pairs of question and passage text."""

    @property
    def network(self) -> Any:
        """The torch module."""
        ...

    @property
    def cosines(self) -> bool:
        """Whether scores lie between -1 and 1."""
        ...

    def score(self, questions: Sequence[str], passages: Sequence[str]) -> np.ndarray:
        """Scores [n] float32 of n pairs (the larger, the better)."""
        ...

    def forward_pairs(self, questions: Sequence[str], passages: Sequence[str]) -> Tensor:
        """Scores [n] float32 of n pairs, with gradient, on the device."""
        ...

    def thaw(self) -> None:
        """Make ready to be trained."""
        ...

    def save(self, folder: Path) -> None: ...

    def load_weights(self, folder: Path) -> None:
        """Take over, in place, the weights that `save` wrote."""
        ...


class CrossEncoderRescorer:
    """Scores of a sequence classifier with one logit that reads question and passage."""

    cosines = False

    def __init__(
        self, network: Any, tokenizer: Any, runtime: Runtime, max_length: int, batch_size: int
    ):
        self.network = network.to(runtime.device).eval()
        self.tokenizer = tokenizer
        self.runtime = runtime
        self.max_length = max_length
        self.batch_size = batch_size

    @classmethod
    def load(
        cls, folder: Path, runtime: Runtime, max_length: int, batch_size: int
    ) -> CrossEncoderRescorer:
        """Rescorer from a folder that `save_pretrained` wrote."""
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        _refuse(find_problems(folder, max_length, ()))
        network = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        return cls(network, tokenizer, runtime, max_length, batch_size)

    def score(self, questions: Sequence[str], passages: Sequence[str]) -> np.ndarray:
        """Scores [n] float32: the logits of n pairs."""
        _refuse(_question_problems(self.tokenizer, self.max_length, questions))
        lengths = [len(q) + len(p) for q, p in zip(questions, passages, strict=True)]
        order = np.argsort(-np.array(lengths), kind="stable")
        scores = np.empty(len(questions), dtype=np.float32)
        cut = 0
        was_training = self.network.training
        self.network.eval()
        try:
            with (
                torch.inference_mode(),
                tqdm(total=len(order), desc="reranking", unit="pair") as bar,
            ):
                for start in range(0, len(order), self.batch_size):
                    rows = order[start : start + self.batch_size]
                    batch = self._tokenize(
                        [questions[i] for i in rows], [passages[i] for i in rows]
                    )
                    cut += sum(1 for encoding in batch.encodings or () if encoding.overflowing)
                    scores[rows] = self._read(batch).cpu().numpy()
                    bar.update(len(rows))
        finally:
            self.network.train(was_training)
        if cut:
            log.info(
                "%d of %d passages were cut for the reranker (max_length %d)",
                cut,
                len(order),
                self.max_length,
            )
        return scores

    def forward_pairs(self, questions: Sequence[str], passages: Sequence[str]) -> Tensor:
        """Scores [n] float32 of n pairs, with gradient, on the device."""
        return self._read(self._tokenize(questions, passages))

    def thaw(self) -> None:
        """Nothing: the network is in float32, whatever the runtime's type."""

    def save(self, folder: Path) -> None:
        """Write weights and tokenizer."""
        self.network.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def load_weights(self, folder: Path) -> None:
        """Take over, in place, the weights that `save` wrote."""
        load_weights(self.network, folder)

    def _tokenize(self, questions: Sequence[str], passages: Sequence[str]) -> Any:
        return self.tokenizer(
            list(questions),
            list(passages),
            truncation="only_second",
            max_length=self.max_length,
            padding=True,
            return_tensors="pt",
        )

    def _read(self, batch: Any) -> Tensor:
        with precision(self.runtime):
            logits = self.network(**batch.to(self.runtime.device)).logits  # [rows, 1]
        return logits[:, 0].float()


def find_problems(folder: Path, max_length: int, questions: Sequence[str]) -> list[str]:
    """What does not fit a cross-encoder, one line each; its weights are not loaded."""
    from transformers import AutoConfig, AutoTokenizer

    config = AutoConfig.from_pretrained(folder)
    architectures = config.architectures or []
    fits = any(name.endswith("ForSequenceClassification") for name in architectures)
    if not fits or config.num_labels != 1:
        return [
            f"weights: {folder.name!r} holds {', '.join(architectures) or 'no architecture'} "
            f"with {config.num_labels} labels; a cross-encoder is a sequence classifier with one"
        ]
    positions = getattr(config, "max_position_embeddings", max_length)
    if max_length > positions:
        return [
            f"max_length: {max_length} is more than the model reads; legal: at most {positions}"
        ]
    if not questions:
        return []
    return _question_problems(AutoTokenizer.from_pretrained(folder), max_length, questions)


def _question_problems(tokenizer: Any, max_length: int, questions: Sequence[str]) -> list[str]:
    """Questions that leave no room for a passage."""
    frame = tokenizer.num_special_tokens_to_add(pair=True)
    unique = list(dict.fromkeys(questions))
    encoded = tokenizer(unique, add_special_tokens=False, verbose=False)["input_ids"]
    lengths = [len(ids) for ids in encoded]
    long = sum(length >= max_length - frame for length in lengths)
    if not long:
        return []
    longest = max(range(len(unique)), key=lengths.__getitem__)
    return [
        f"max_length: {max_length} leaves no room for a passage after {long} of {len(unique)} "
        f"questions; the longest, {unique[longest][:60]!r}, has {lengths[longest]} tokens: give "
        f"more than {lengths[longest] + frame}"
    ]


def _refuse(problems: Sequence[str]) -> None:
    if problems:
        raise UserError([f"retriever.reranker.{line}" for line in problems])


class BiEncoderRescorer:
    """Inner products of question and passage vectors from one encoder."""

    def __init__(self, encoder: TextEncoder, batch_size: int):
        self.encoder = encoder
        self.batch_size = batch_size

    @property
    def network(self) -> Any:
        """The torch module."""
        return self.encoder.network

    @property
    def cosines(self) -> bool:
        """Whether scores lie between -1 and 1."""
        return self.encoder.normalize

    def score(self, questions: Sequence[str], passages: Sequence[str]) -> np.ndarray:
        """Scores [n] float32; each text is encoded once."""
        question_rows, question_vectors = self._encode_once(questions, "reranking: questions")
        passage_rows, passage_vectors = self._encode_once(passages, "reranking: passages")
        return np.einsum("nd,nd->n", question_vectors[question_rows], passage_vectors[passage_rows])

    def forward_pairs(self, questions: Sequence[str], passages: Sequence[str]) -> Tensor:
        """Scores [n] float32 of n pairs, with gradient; each text is encoded once."""
        question_texts, question_rows = _once(questions)
        passage_texts, passage_rows = _once(passages)
        question_vectors = self.encoder.forward_texts(question_texts)
        passage_vectors = self.encoder.forward_texts(passage_texts)
        return (question_vectors[question_rows] * passage_vectors[passage_rows]).sum(1)

    def thaw(self) -> None:
        """Make ready to be trained: in float32."""
        self.encoder.thaw()

    def save(self, folder: Path) -> None:
        """Write weights, tokenizer and settings."""
        self.encoder.save(folder)

    def load_weights(self, folder: Path) -> None:
        """Take over, in place, the weights that `save` wrote."""
        self.encoder.load_weights(folder)

    def _encode_once(self, texts: Sequence[str], progress: str) -> tuple[list[int], np.ndarray]:
        different, rows = _once(texts)
        return rows, self.encoder.encode(different, self.batch_size, progress)


def _once(texts: Sequence[str]) -> tuple[list[str], list[int]]:
    """Different texts, and which of them each text is."""
    row = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    return list(row), [row[text] for text in texts]


class RescoringSearcher:
    """Searcher that rescores the first `depth` hits of another one."""

    kind = "reranked"

    def __init__(self, first: Searcher, rescorer: Rescorer, passages: Dataset, depth: int):
        self.first = first
        self.rescorer = rescorer
        self.passages = passages
        self.depth = depth
        self._rows = PassageRows(passages)

    def search(
        self, questions: Sequence[Question], top_k: int, query_vectors: np.ndarray | None = None
    ) -> list[list[Hit]]:
        """The `top_k` best of the first `depth` hits (more where `top_k` is more)."""
        found = self.first.search(questions, max(self.depth, top_k), query_vectors)
        texts = self._read([hit.passage_id for hits in found for hit in hits])
        pairs = [
            (question.query, texts[hit.passage_id])
            for question, hits in zip(questions, found, strict=True)
            for hit in hits
        ]
        if not pairs:
            return found
        scores = iter(self.rescorer.score([q for q, _ in pairs], [p for _, p in pairs]).tolist())
        rescored = [[Hit(hit.passage_id, next(scores)) for hit in hits] for hits in found]
        # Stable: equal scores keep the first searcher's order.
        return [sorted(hits, key=lambda hit: -hit.score)[:top_k] for hits in rescored]

    @property
    def reranking(self) -> RescoringSearcher:
        """What rescores hits: itself."""
        return self

    def forward_pairs(self, questions: Sequence[Question], passage_ids: Sequence[str]) -> Tensor:
        """Scores [n] float32 of n questions with a passage each, with gradient, on the device."""
        texts = self._read(passage_ids)
        queries = [question.query for question in questions]
        return self.rescorer.forward_pairs(queries, [texts[name] for name in passage_ids])

    def vectors(self, passage_ids: Sequence[str]) -> np.ndarray:
        """Vectors `[n, dimension]` of n passages, of the first searcher."""
        return find_vectors(self.first, passage_ids)

    def save(self, folder: Path) -> None:
        """Write the first searcher and the rescorer."""
        write_manifest(folder, self.kind, fingerprint_passages(self.passages), len(self.passages))
        self.first.save(folder / "first")
        self.rescorer.save(folder / "reranker")

    def _read(self, passage_ids: Sequence[str]) -> dict[str, str]:
        """Text of each passage, as the reranker reads it."""
        ids = list(dict.fromkeys(passage_ids))
        rows = self.passages.select(self._rows.find(ids))
        return {
            passage_id: join_title(title, text)
            for passage_id, title, text in zip(ids, rows["title"], rows["text"], strict=True)
        }
