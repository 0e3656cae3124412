"""Whether a summary is made of its document."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from rag_experiments.contracts import Prediction
from rag_experiments.functional.sentences import content_words
from rag_experiments.functional.text import list_ngrams
from rag_experiments.metrics.base import SUMMARIZATION, ExampleMetric


class GroundedInDocument(ExampleMetric):
    """Content words of a summary that stand in the whole document / all its content words.

    With n = 2 it is pairs of neighbors, which tells copying from wording of one's own: the
    complement of the novel n-grams of See et al. 2017, https://arxiv.org/abs/1704.04368, without
    function words. Words that stand in the document may still be put together to something that
    it does not say; a word that does not stand there may be a good synonym. The document counts
    whole, whatever part of it was retrieved, and examples do not count.
    """

    tasks: ClassVar[frozenset[str]] = SUMMARIZATION
    inputs: ClassVar[tuple[str, str | None]] = ("prediction", "document")

    n: Annotated[int, Field(ge=1)] = 1
    """Length of the n-grams in content words."""

    @property
    def name(self) -> str:
        """grounded_in_document, or e.g. copied_2 for pairs."""
        return "grounded_in_document" if self.n == 1 else f"copied_{self.n}"

    def score(self, prediction: Prediction) -> float | None:
        """Return a number from 0 to 1; None for a summary too short for an n-gram."""
        said = list_ngrams(content_words(prediction.prediction), self.n)
        if not said:
            return None
        known = set(list_ngrams(content_words(prediction.document), self.n))
        return sum(gram in known for gram in said) / len(said)
