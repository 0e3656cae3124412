"""Ask a saved run: python -m rag_experiments.ask RUN "question"."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from rag_experiments.contracts import Prediction, UserError
from rag_experiments.runtime.terminal import plain


def main() -> None:
    """Print the answers of a saved run to questions, each with its passages."""
    parser = argparse.ArgumentParser(prog="python -m rag_experiments.ask", description=main.__doc__)
    parser.add_argument("run", type=Path, help="folder of a run, as it printed it")
    parser.add_argument("question", nargs="+", help="one or several questions, each in quotes")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps, ...")
    parser.add_argument("--cache-dir", type=Path, help="folder of the weights (default: the run's)")
    arguments = parser.parse_args()
    if not all(question.strip() for question in arguments.question):
        parser.error("a question is empty")
    logging.basicConfig(level=logging.WARNING)
    try:
        import datasets
        import transformers

        from rag_experiments.pipeline import RagPipeline

        datasets.disable_progress_bars()
        transformers.utils.logging.disable_progress_bar()
        pipeline = RagPipeline.load(
            arguments.run, device=arguments.device, cache_dir=arguments.cache_dir
        )
        for question in arguments.question:
            print(plain(describe(pipeline.ask(question))))
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


def describe(prediction: Prediction) -> str:
    """An answer, the probabilities of labels where there are some, and the passages behind it,
    with p(z|x) and, where defined, p(z|x,y)."""
    lines = [prediction.prediction or "(no answer)"]
    if prediction.label_scores:
        scores = (f"{label} {score:.2f}" for label, score in prediction.label_scores.items())
        lines.append(f"  {', '.join(scores)}")
    for i, (passage_id, text) in enumerate(
        zip(prediction.passage_ids, prediction.passages, strict=True)
    ):
        weights = f"p(z|x) {prediction.prior[i]:.2f}"
        if prediction.posterior:
            weights += f", p(z|x,y) {prediction.posterior[i]:.2f}"
        lines.append(f"  [{passage_id}] {weights}\n    {text}")
    if not prediction.passages:
        lines.append(
            "  closed book: this run's retriever found no passage (gold knows those of its own "
            "questions alone; none looks for none)"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
