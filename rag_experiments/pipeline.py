"""A RAG model with its knowledge source: retrieves, answers, and is saved as one folder."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset
from omegaconf import DictConfig

from rag_experiments import bundle, options
from rag_experiments.contracts import (
    Example,
    Hit,
    Passage,
    Prediction,
    Question,
    Retriever,
    Searcher,
    Task,
    UserError,
)
from rag_experiments.functional.ranking import entropy, fit_temperature, softmax_log_prior
from rag_experiments.functional.text import normalize_answer
from rag_experiments.retriever.base import find_reranking, find_vectors
from rag_experiments.retriever.passage_rows import PassageRows
from rag_experiments.runtime.reproducibility import resolve_runtime
from rag_experiments.shots import Shots

if TYPE_CHECKING:
    from rag_experiments.encoder import TextEncoder
    from rag_experiments.model.rag_model import RagModel

log = logging.getLogger(__name__)


class RagPipeline:
    """Questions in, answers with their passages out.

    `temperature` is that of p(z|x) = softmax(scores / temperature), `label_temperature` that of
    label scores = softmax(log p(label|x) / temperature), where the task has labels; `shots` are
    the training questions that prompts show (None: they show none).
    """

    def __init__(
        self,
        task: Task,
        retriever: Retriever,
        model: RagModel,
        searcher: Searcher,
        passages: Dataset,
        temperature: float = 1.0,
        label_temperature: float = 1.0,
        shots: Shots | None = None,
    ):
        self.task = task
        self.retriever = retriever
        self.model = model
        self.searcher = searcher
        self.passages = passages
        self.temperature = retriever.temperature or temperature
        self.label_temperature = task.temperature or label_temperature
        self.shots = shots
        self._rows = PassageRows(passages)

    # -- retrieval -----------------------------------------------------------------------

    def search(
        self,
        questions: Sequence[Question],
        query_vectors: np.ndarray | None = None,
        top_k: int | None = None,
    ) -> list[list[Hit]]:
        """Hits of each question, best first, as many as the retriever gives, or at most `top_k`.

        Vectors are `[questions, dimension]`.
        """
        top_k = self.retriever.top_k if top_k is None else top_k
        if query_vectors is not None:
            return self.searcher.search(questions, top_k, query_vectors)
        return self._search(self.searcher, questions, top_k)

    def _search(self, searcher: Any, questions: Sequence[Question], top_k: int) -> list[list[Hit]]:
        if not self.retriever.uses_query_vectors:
            return searcher.search(questions, top_k)
        assert self.model.query_encoder is not None
        encode = self.model.query_encoder.encode
        more = {"encode": encode} if getattr(searcher, "reformulates", False) else {}
        return searcher.search(questions, top_k, encode([q.query for q in questions]), **more)

    def fit_temperature(
        self,
        questions: Sequence[Question],
        hits: Sequence[Sequence[Hit]] | None = None,
        name: str = "validation",
    ) -> None:
        """Fit the temperature of p(z|x) to gold passages, unless the configuration sets it.

        `hits` are those of the questions, where they were found before; `name` is their
        split's, for the log. Without gold passages it is the spread of the scores.
        """
        if self.retriever.temperature is not None:
            log.info("temperature of p(z|x): %g, as configured", self.temperature)
            return
        hits = self.search(questions) if hits is None else hits
        scores = [[hit.score for hit in found] for found in hits]
        relevant = [
            [hit.passage_id in question.passage_ids for hit in found]
            for question, found in zip(questions, hits, strict=True)
        ]
        fitted = fit_temperature(scores, relevant)
        if fitted is not None:
            self.temperature = fitted
            log.info(
                "temperature of p(z|x): %.4g, fitted on %d %s questions",
                fitted,
                len(questions),
                name,
            )
            return
        spreads = [float(np.std(values)) for values in scores if len(values) > 1]
        self.temperature = (float(np.mean(spreads)) if spreads else 0.0) or 1.0
        log.info(
            "temperature of p(z|x): %.4g, the spread of the scores; none of %d %s questions tells "
            "hits that are gold from others, so none could be fitted",
            self.temperature,
            len(questions),
            name,
        )

    def examples(
        self,
        questions: Sequence[Question],
        query_vectors: np.ndarray | None = None,
        top_k: int | None = None,
    ) -> list[Example]:
        """Questions with the passages that `search` finds for them and their log p(z|x)."""
        return self.read_hits(questions, self.search(questions, query_vectors, top_k))

    def read_hits(
        self, questions: Sequence[Question], hits: Sequence[Sequence[Hit]]
    ) -> list[Example]:
        """Questions with the passages of hits that were found before."""
        return [
            Example(
                question,
                tuple(self.passage(hit.passage_id) for hit in found),
                tuple(softmax_log_prior([hit.score for hit in found], self.temperature).tolist()),
            )
            for question, found in zip(self.add_shots(questions), hits, strict=True)
        ]

    def add_shots(self, questions: Sequence[Question]) -> Sequence[Question]:
        """Questions with the training questions that their prompts show."""
        return questions if self.shots is None else self.shots.add(questions)

    def passage(self, passage_id: str) -> Passage:
        position = self._rows.find_one(passage_id)
        row = self.passages[position]
        return Passage(row["id"], row["title"], row["text"], row.get("summary", ""), position)

    def passage_vectors(self, passage_ids: Sequence[str]) -> np.ndarray:
        """Vectors `[passages, dimension]` of the index, for retrievers that search by vector."""
        return find_vectors(self.searcher, passage_ids)

    def passage_texts(self, passages: Sequence[Passage]) -> list[str]:
        """What the passage encoder reads of passages, for retrievers that search by vector."""
        encoder = self._differentiable.encoder
        return [encoder.read(passage.title, passage.text) for passage in passages]

    def load_passage_encoder(self) -> TextEncoder:
        """The passage encoder, ready to be trained: a copy of its own, of the pretrained weights
        or of those that an earlier training saved."""
        assert self.model.query_encoder is not None
        return self._differentiable.load_encoder(self.model.query_encoder.runtime)

    def embed_passages(self, encoder: TextEncoder, file: Path) -> None:
        """Write the vectors `[passages, dimension]` that an encoder gives all passages as it is now
        to a file of NumPy's, which is there when it is whole."""
        self._differentiable.embed(self.passages, encoder, file)

    def reindex(self, vectors: np.ndarray) -> None:
        """Search among other vectors `[passages, dimension]` of the same passages from now on."""
        self.searcher = self._differentiable.reindex(self.searcher, vectors)

    @property
    def _differentiable(self) -> Any:
        if not self.retriever.differentiable:
            raise TypeError(f"{type(self.retriever).__name__} has no passage encoder to be trained")
        return self.retriever

    @property
    def reranking(self) -> Any:
        """What rescores hits, for retrievers that have a reranker."""
        return find_reranking(self.searcher)

    def candidates(self, questions: Sequence[Question], count: int) -> list[Example]:
        """Questions with the first `count` passages that the reranker is given to rescore."""
        return self.read_hits(questions, self._search(self.reranking.first, questions, count))

    # -- answers -------------------------------------------------------------------------

    def ask(self, question: str) -> Prediction:
        """Answer one question; UserError where the run summarizes documents."""
        if self.task.records != "questions":
            raise UserError(
                f"the run was trained for task={self.task.name}: it answers no questions, and what "
                "it made of its test documents is in predictions_*.jsonl"
            )
        return self.predict([Question("question", question)])[0]

    def predict(
        self,
        questions: Sequence[Question],
        hits: Sequence[Sequence[Hit]] | None = None,
        progress: str | None = None,
    ) -> list[Prediction]:
        """Answer questions, from hits that were found before or from new ones.

        `progress` names the bar (None: no bar).
        """
        hits = self.search(questions) if hits is None else hits
        examples = self.read_hits(questions, hits)
        answers = self.model.answer(examples, progress=progress)
        predictions = [
            Prediction(
                id=question.id,
                question=question.question,
                prediction=self.task.parse(answer.text),
                answers=question.answers,
                group=question.group,
                passage_ids=tuple(hit.passage_id for hit in found),
                passages=tuple(map(_show, example.passages)),
                retrieval_scores=tuple(hit.score for hit in found),
                prior=tuple(math.exp(value) for value in example.log_prior),
                posterior=answer.posterior,
                document=question.document,
                words=question.words,
                gold_passage_ids=question.passage_ids,
                label_log_probs=answer.label_log_probs,
                abstained=self.task.abstains(self.task.parse(answer.text)),
                cited=answer.cited,
                # A later line that was cut is no part of an answer in the first.
                cut=answer.cut and answer.text.rstrip().endswith(self.task.parse(answer.text)),
            )
            for question, found, example, answer in zip(
                questions, hits, examples, answers, strict=True
            )
        ]
        return self.score_labels(predictions)

    def score_labels(self, predictions: Sequence[Prediction]) -> list[Prediction]:
        """Predictions with the probabilities of their labels at the temperature as it is now."""
        if not self.task.labels:
            return list(predictions)
        found = []
        for prediction in predictions:
            labels, scores = zip(*prediction.label_log_probs.items(), strict=True)
            shares = np.exp(softmax_log_prior(scores, self.label_temperature)).tolist()
            found.append(replace(prediction, label_scores=dict(zip(labels, shares, strict=True))))
        return found

    def fit_label_temperature(self, predictions: Sequence[Prediction]) -> list[Prediction]:
        """Fit the temperature of label scores to the right labels of answers to validation
        questions, unless the configuration sets it; return the answers with their new scores.

        It is 1, the model's own probabilities, without any, or where none tells labels apart.
        Training questions are no substitute: of these a trained model is surer than of others.
        """
        if not self.task.labels or self.task.temperature is not None:
            return list(predictions)
        scores = [list(p.label_log_probs.values()) for p in predictions]
        right = [
            [
                normalize_answer(label) == normalize_answer(p.answers[0])
                for label in p.label_log_probs
            ]
            for p in predictions
        ]
        fitted = fit_temperature(scores, right)
        self.label_temperature = fitted or 1.0
        text = "1, none of %d validation questions tells labels apart"
        if fitted is not None:
            text = f"{fitted:.4g}, fitted on %d validation questions"
        log.info(f"temperature of label scores: {text}", len(predictions))
        return self.score_labels(predictions)

    def prompts(self, question: Question, passage_ids: Sequence[str]) -> tuple[str, ...]:
        """What the generator reads to answer a question from passages, one text for each prompt."""
        (question,) = self.add_shots([question])
        split = self.model.option.split(tuple(map(self.passage, passage_ids)))
        return tuple(self.model.prompts.show(question, passages) for passages in split)

    def sample(
        self,
        questions: Sequence[Question],
        hits: Sequence[Sequence[Hit]],
        count: int,
        seed: int,
        progress: str | None = None,
    ) -> list[tuple[str, ...]]:
        """Draw `count` answers to each question at temperature 1, from hits found before."""
        drawn = self.model.sample(self.read_hits(questions, hits), count, seed, progress=progress)
        return [tuple(self.task.parse(text) for text in texts) for texts in drawn]

    # -- saving --------------------------------------------------------------------------

    def save(self, folder: Path, raw: DictConfig, cache_dir: Path) -> None:
        """Write what answers questions: trained weights (adapters alone, where there are some),
        tokenizers, index, passages, the training questions that prompts show and the
        configuration, and fingerprints of them all.

        Pretrained weights stay where they are, named by a hash. Nothing in the folder refers to
        another place of this machine, except where the configuration itself does.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.model.save(folder)
        self.searcher.save(folder / "index")
        self.passages.to_parquet(folder / "passages.parquet")
        if self.shots is not None:
            self.shots.save(folder)
        parts = {"model": self.model.option, "retriever": self.retriever}
        names = bundle.base_weights(parts, folder)
        bundle.write_config(folder, raw, names, cache_dir)
        facts = {
            "temperature": self.temperature,
            "label_temperature": self.label_temperature,
            "passages": len(self.passages),
            "weights": bundle.fingerprint_weights(names, cache_dir),
            "whole": bundle.own_weights(parts, folder),
        }
        bundle.seal(folder, facts)

    @classmethod
    def load(
        cls,
        folder: Path | str,
        *,
        device: str = "auto",
        precision: str = "auto",
        cache_dir: Path | None = None,
        encode_queries: bool = False,
        passages: Dataset | None = None,
        shots: Shots | None = None,
    ) -> RagPipeline:
        """Load what `save` wrote: a run's folder, or its `model` folder.

        `encode_queries` loads the query encoder even where the retriever does without. `passages`
        are another knowledge source, which is indexed anew; `shots` are the training questions that
        prompts show, where they were read before. Base weights that are not in the
        folder are taken from the cache of the run, which is looked for where the run was started,
        or fetched again. Raises UserError where something is missing or does not belong together.
        """
        folder = bundle.locate(Path(folder))
        raw, facts = bundle.read(folder)
        # Trained weights and the index are in the folder. What the run began with may be gone;
        # where it is needed all the same, loading says so.
        task, model, retriever = (
            options.build(raw[group], group, check_paths=False)
            for group in ("task", "model", "retriever")
        )
        cache_dir = cache_dir or bundle.find_cache(folder, raw.cache_dir)
        runtime = resolve_runtime(cache_dir, device, precision, raw.seed)
        by_vector = encode_queries or retriever.uses_query_vectors
        names = bundle.base_weights({"model": model}, folder)
        if not by_vector:
            names.pop("model.query_encoder.weights", None)
        if passages is not None:
            names |= bundle.base_weights({"retriever": retriever}, folder)
        bundle.check_weights(names, facts, runtime.cache_dir)
        if passages is None:
            passages = Dataset.from_parquet(str(folder / "passages.parquet"))
            searcher = retriever.load(folder / "index", passages, runtime)
        else:
            searcher = retriever.build(passages, runtime)
        network = model.load(task, runtime, encode_queries=by_vector, folder=folder)
        return cls(
            task,
            retriever,
            network,
            searcher,
            passages,
            facts["temperature"],
            facts["label_temperature"],
            shots or Shots.load(folder, task),
        )


def _show(passage: Passage) -> str:
    text = f"{passage.title}: {passage.text}" if passage.title else passage.text
    return f"{text}\nSummary: {passage.summary}" if passage.summary else text


def mean_entropy(predictions: Sequence[Prediction]) -> float:
    """Mean entropy of p(z|x) in nats over the questions that have passages."""
    values = [entropy(prediction.prior) for prediction in predictions if prediction.prior]
    return float(np.mean(values)) if values else 0.0
