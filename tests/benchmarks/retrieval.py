"""nDCG@10 of the retrievers on a folder with relevance judgements, beside published figures.

    python tests/benchmarks/retrieval.py FOLDER [retriever ...]

FOLDER holds passages.jsonl, test.jsonl and qrels/test.tsv (query, passage, gain). On SciFact,
BEIR publishes 0.665 for BM25 and MTEB about 0.645 for all-MiniLM-L6-v2. Not a test: embedding
five thousand abstracts takes minutes on two cores.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from datasets import Dataset
from hydra import compose, initialize_config_module

from rag_experiments import config
from rag_experiments.contracts import Question, Runtime
from rag_experiments.functional.ranking import compute_ndcg
from rag_experiments.runtime.reproducibility import resolve_device, resolve_dtype


def main() -> None:
    """Print a line for each retriever."""
    folder, retrievers = Path(sys.argv[1]), sys.argv[2:] or ["bm25", "dense", "hybrid"]
    rows = [json.loads(line) for line in (folder / "passages.jsonl").open(encoding="utf-8")]
    passages = Dataset.from_list([{k: row[k] for k in ("id", "title", "text")} for row in rows])
    relevant: dict[str, dict[str, float]] = {}
    for line in (folder / "qrels" / "test.tsv").read_text("utf-8").splitlines()[1:]:
        query, passage, gain = line.split("\t")
        relevant.setdefault(query, {})[passage] = float(gain)
    tests = [json.loads(line) for line in (folder / "test.jsonl").open(encoding="utf-8")]
    questions = [Question(row["id"], row["question"]) for row in tests if row["id"] in relevant]
    device = resolve_device("auto")
    for name in retrievers:
        with initialize_config_module("rag_experiments.conf", version_base="1.3"):
            run = config.load(compose("config", overrides=[f"retriever={name}"]))
        runtime = Runtime(run.cache_dir, device, resolve_dtype("auto", device), run.seed)
        start = time.perf_counter()
        searcher = run.retriever.build(passages, runtime)
        vectors = None
        if run.retriever.uses_query_vectors:
            encoder = run.model.query_encoder.load(runtime)
            vectors = encoder.encode([question.question for question in questions])
        hits = searcher.search(questions, 10, vectors)
        scores = [
            compute_ndcg([hit.passage_id for hit in found], relevant[question.id], 10)
            for question, found in zip(questions, hits, strict=True)
        ]
        seconds = time.perf_counter() - start
        print(f"{name}: nDCG@10 {sum(scores) / len(scores):.4f}, {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
