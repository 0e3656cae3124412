"""Embedding of passages: `encode` of sentence-transformers, and ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from inputs import Inputs, Sizes
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import Normalize, Pooling, Transformer
from side_by_side import OURS, OURS_FP32, RECIPE, TUNED, Contest

from rag_experiments.encoder import TextEncoder
from rag_experiments.functional.ranking import compute_ndcg
from rag_experiments.weights import resolve

MAX_LENGTH = 256
BATCH = 32


class EmbeddingSides:
    """Both sides on the same weights and texts."""

    def __init__(self, inputs: Inputs, texts: list[str]):
        self.texts = texts
        weights = inputs.run.model.query_encoder.weights
        folder = resolve(weights, inputs.runtime.cache_dir)
        words = Transformer(str(folder), max_seq_length=MAX_LENGTH)
        pooling = Pooling(words.get_embedding_dimension(), "mean")
        self.theirs = SentenceTransformer(modules=[words, pooling, Normalize()], device="cpu")
        self.ours = {
            column: TextEncoder.load(
                folder, inputs.with_dtype(dtype), max_length=MAX_LENGTH, frozen=True
            )
            for column, dtype in ((OURS, "bfloat16"), (OURS_FP32, "float32"))
        }

    def encode(self, column: str, texts: list[str]) -> np.ndarray:
        if column in self.ours:
            return self.ours[column].encode(texts, batch_size=BATCH)
        with torch.autocast("cpu", torch.bfloat16, enabled=column == TUNED):
            return self.theirs.encode(texts, batch_size=BATCH, show_progress_bar=False)

    def side(self, column: str) -> Any:
        return lambda turn: self.encode(column, self.texts)

    def check(self) -> str:
        """Ours in fp32 is theirs; ours in bf16 is close."""
        expected = self.encode(RECIPE, self.texts)
        np.testing.assert_allclose(self.encode(OURS_FP32, self.texts), expected, atol=1e-5)
        cosines = (self.encode(OURS, self.texts) * expected).sum(1)
        assert cosines.min() > 0.999, cosines.min()
        return f"fp32 within 1e-5; ours in bf16: least cosine {cosines.min():.5f}"


def contest(inputs: Inputs, sizes: Sizes) -> Contest:
    sides = EmbeddingSides(inputs, inputs.texts)
    columns = [RECIPE, TUNED, OURS, OURS_FP32]
    return Contest(
        f"embedding of {len(inputs.texts)} passages",
        {column: sides.side(column) for column in columns},
        sides.check,
        (2.5, None, 1.2),
    )


def print_ndcg(inputs: Inputs, folder: Path) -> None:
    """nDCG@10 of their fp32 and of ours in bf16, on a folder with relevance judgements."""
    rows = [json.loads(line) for line in (folder / "passages.jsonl").open(encoding="utf-8")]
    relevant: dict[str, dict[str, float]] = {}
    for line in (folder / "qrels" / "test.tsv").read_text("utf-8").splitlines()[1:]:
        query, passage, gain = line.split("\t")
        relevant.setdefault(query, {})[passage] = float(gain)
    tests = [json.loads(line) for line in (folder / "test.jsonl").open(encoding="utf-8")]
    questions = [row for row in tests if row["id"] in relevant]
    sides = EmbeddingSides(inputs, [f"{row['title']} {row['text']}".strip() for row in rows])
    values = []
    for column in (RECIPE, OURS):
        passages = sides.encode(column, sides.texts)
        queries = sides.encode(column, [row["question"] for row in questions])
        best = np.argsort(-(queries @ passages.T), axis=1, kind="stable")[:, :10]
        scores = [
            compute_ndcg([rows[i]["id"] for i in found], relevant[question["id"]], 10)
            for question, found in zip(questions, best, strict=True)
        ]
        values.append(float(np.mean(scores)))
        print(f"{column}: nDCG@10 {values[-1]:.4f}", flush=True)
    print(f"difference {abs(values[0] - values[1]):.4f}, goal: at most 0.002")
