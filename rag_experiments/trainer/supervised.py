"""Fine-tuning of the generator on passages that were retrieved beforehand."""

from __future__ import annotations

from rag_experiments.trainer.gradient import GradientTrainer


class Supervised(GradientTrainer):
    """Maximise log p(y|x) over the generator; p(z|x) stays as the retriever has it."""
