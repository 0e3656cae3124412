"""What the stages hand to each other: records, protocols, and the base of every option.

Nothing here imports torch, transformers, datasets or mlflow, so that a configuration can be
checked before anything heavy is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset
    from omegaconf import DictConfig


Part = Literal["generator", "query_encoder", "passage_encoder", "reranker"]
"""What training can change."""


def ranks_alone(trains: Collection[str]) -> bool:
    """Whether a training that changes these parts changes only what ranks passages: it is validated
    by their ranks, and no question is answered meanwhile."""
    return bool(trains) and "generator" not in trains


class UserError(Exception):
    """Something that the user can mend: one line for each problem, no traceback needed.

    Each line names the key or the place (file, line, field), the value, what is legal and
    what to do.
    """

    def __init__(self, problems: Sequence[str] | str):
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


class Pruned(Exception):
    """A run that its search ends before its time, because others do better: no failure."""


class Option(BaseModel):
    """Base of every class that a configuration node names with `_target_`.

    The fields are the schema: unknown names, wrong types and values out of range are refused
    when the object is made. An option is a description, cheap to make; what is expensive
    (weights, indexes) is made by its methods, which import heavy libraries themselves.
    """

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        frozen=True,
        arbitrary_types_allowed=True,
        protected_namespaces=(),
        use_attribute_docstrings=True,
    )


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of the knowledge source, as a model reads it."""

    id: str
    title: str
    text: str
    summary: str = ""
    """Of a document that is shown as an example of how documents are summarized; else empty."""
    position: int = field(default=0, compare=False)
    """Place in the knowledge source, where the passages of a document follow each other."""


@dataclass(frozen=True, slots=True)
class Shot:
    """A training question with its answer, as the prompt of another question shows it."""

    question: str
    answer: str
    passage: Passage | None = None
    """Its gold passage, where the prompt shows that as well."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its accepted answers and, where they are known, its gold passages.

    Without an answer it is unanswerable, where the task knows such questions.

    It may also ask for the summary of a document: then `question` is the document's title (where
    it has none, its first sentence), `answers` are its reference summaries, and the fields that
    follow `group` say what is read of it.
    """

    id: str
    question: str
    answers: tuple[str, ...] = ()
    passage_ids: tuple[str, ...] = ()
    group: str = ""
    """A named part of a split that is also scored by itself, e.g. `seen_passage`."""
    document: str = ""
    """The whole text that is to be summarized; empty: it asks a question."""
    words: int = 0
    """Length of the summary that is asked for; 0: none is named."""
    within: str = ""
    """Id of the document whose passages alone may be retrieved; empty: all. Where it is given, the
    document is read through its passages; a document without it stands whole in the prompt."""
    without: str = ""
    """Id of the document whose passages may not be retrieved; empty: all may."""
    shots: tuple[Shot, ...] = ()
    """Training questions that its prompt shows, the last next to it."""

    @property
    def query(self) -> str:
        """What is searched with: the question, or a whole document that others are like."""
        if not self.document or self.within:
            return self.question
        if self.document.startswith(self.question):
            return self.document
        return f"{self.question} {self.document}"


@dataclass(frozen=True, slots=True)
class Hit:
    """A retrieved passage and its raw score (the larger, the better)."""

    passage_id: str
    score: float


@dataclass(frozen=True, slots=True)
class Example:
    """What a model reads: a question and its n passages, best first (none: closed book)."""

    question: Question
    passages: tuple[Passage, ...] = ()
    log_prior: tuple[float, ...] = ()
    """log p(z|x) of each passage in nats; the probabilities sum to one."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model answers to one example."""

    text: str
    posterior: tuple[float, ...] = ()
    """p(z|x, y) of each passage, given this answer (empty: the model does not define it)."""
    label_log_probs: dict[str, float] = field(default_factory=dict)
    """log p(label|x) of each label in nats, where the task has labels."""
    cited: tuple[str, ...] = ()
    """Ids of the passages that the text cites; empty ones where no passage has the number."""
    cut: bool = False
    """Whether it reached the longest answer allowed without coming to an end."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """One answered question, with everything that a metric or a reader needs."""

    id: str
    question: str
    prediction: str
    answers: tuple[str, ...]
    group: str = ""
    passage_ids: tuple[str, ...] = ()
    passages: tuple[str, ...] = ()
    """Texts of the retrieved passages, in their order (title and text)."""
    retrieval_scores: tuple[float, ...] = ()
    prior: tuple[float, ...] = ()
    """p(z|x) of each retrieved passage."""
    posterior: tuple[float, ...] = ()
    """p(z|x, y) of each retrieved passage, given the predicted answer (empty: not defined)."""
    document: str = ""
    """The whole text that was to be summarized; empty: a question was asked."""
    words: int = 0
    """Length of the summary that was asked for; 0: none was named."""
    gold_passage_ids: tuple[str, ...] = ()
    label_log_probs: dict[str, float] = field(default_factory=dict)
    """log p(label|x) of each label in nats, for tasks that have labels."""
    label_scores: dict[str, float] = field(default_factory=dict)
    """Probability of each label among the labels: softmax(log p(label|x) / temperature)."""
    cited: tuple[str, ...] = ()
    """Ids of the passages that were cited; an empty one where no passage has the number."""
    cut: bool = False
    """Whether the prediction runs to the end of a generated text that came to no end itself."""
    abstained: bool | None = None
    """Whether the prediction says that there is no answer; None: the task knows no such text."""
    samples: tuple[str, ...] = ()
    """More answers, drawn from the model; empty where none were asked for."""
    rewordings: tuple[str, ...] = ()
    """The question in other words that mean the same; empty where none were asked for."""
    reworded_answers: tuple[str, ...] = ()
    """What was answered to each rewording."""

    @property
    def unanswerable(self) -> bool:
        """Whether it is right to say that there is no answer."""
        return self.abstained is not None and not self.answers


@dataclass(frozen=True)
class PreparedData:
    """The questions of each split and the passages, after every step of preparation."""

    passages: Dataset
    """Columns `id`, `title`, `text`, `document_id` (all strings; ids unique), and `summary` where
    passages are examples of documents with their summaries."""
    train: tuple[Question, ...]
    validation: tuple[Question, ...]
    test: tuple[Question, ...]
    gold: str
    """Where gold passages come from: `annotated`, `answer_match` (weak: the passages that
    contain an accepted answer), or `none`."""
    notes: tuple[str, ...] = ()
    """What preparation changed, in sentences with counts, e.g. duplicates merged."""
    places: Mapping[str, str] = field(default_factory=dict)
    """Where questions stand, by id, e.g. `my_data/train.jsonl:3`; empty: it is not known."""


@dataclass(frozen=True)
class Runtime:
    """Where and how a run executes; the same for every room."""

    cache_dir: Path
    device: str = "cpu"
    """A torch device, e.g. `cpu`, `cuda`, `mps`."""
    dtype: str = "float32"
    """Type that matrix products run in: `float32`, `bfloat16` or `float16`."""
    seed: int = 0


class Data(Protocol):
    """An option of the group `data`."""

    def load(self, runtime: Runtime) -> PreparedData: ...


class Task(Protocol):
    """An option of the group `task`."""

    name: str
    records: Literal["questions", "documents"]
    """What it is about: questions with answers, which are right or wrong, or documents with
    summaries, which are more or less like a reference."""
    objective: str
    """Name of the metric that early stopping and the best checkpoint follow."""
    labels: tuple[str, ...]
    """The classes, where the task has a closed set of answers; else empty."""
    temperature: float | None
    """Of label scores = softmax(log p(label|x) / temperature); None: fitted on validation data,
    where there are labels."""
    max_answer_tokens: int | None
    """Longest generated answer, in tokens; None: labels are chosen, and nothing is generated."""

    @property
    def system(self) -> str:
        """System message for chat models; empty for none."""
        ...

    def render(self, question: Question, passages: Sequence[Passage], seed: int = 0) -> str:
        """Prompt of a question and the passages shown with it (none: closed book).

        `seed` is that of passages in random order.
        """
        ...

    def target(self, question: Question, passages: Sequence[Passage] = (), seed: int = 0) -> str:
        """Text that a model is trained to answer the prompt of these passages with."""
        ...

    def cited(
        self, text: str, question: Question, passages: Sequence[Passage], seed: int = 0
    ) -> tuple[str, ...]:
        """Ids of the passages that a text, generated from their prompt, cites."""
        ...

    def parse(self, text: str) -> str:
        """Answer in a generated text."""
        ...

    def abstains(self, answer: str) -> bool | None:
        """Whether an answer says that there is none; None: the task knows no such answer."""
        ...

    def data_problems(self, questions: Sequence[Question]) -> list[str]:
        """What keeps questions from being trained on or scored, one line each."""
        ...


class Searcher(Protocol):
    """A knowledge source made searchable: what a retriever builds and loads.

    One that also searches with queries of its own has an attribute `reformulates`, true, and its
    `search` takes `encode`, which makes their vectors [queries, dimension] from texts.
    """

    def search(
        self, questions: Sequence[Question], top_k: int, query_vectors: np.ndarray | None = None
    ) -> list[list[Hit]]:
        """At most `top_k` hits for each question, best first; fewer where fewer match.

        A question that names a document `within` or `without` keeps to it.
        `query_vectors` is `[questions, dimension]` float32, for retrievers that search by
        vector.
        """
        ...

    def save(self, folder: Path) -> None: ...


class Retriever(Protocol):
    """An option of the group `retriever`.

    One that is differentiable has more for trainers of the passage encoder: the encoder's own
    option `encoder`, `load_encoder(runtime)`, which gives the encoder ready to be trained,
    `embed(passages, encoder, file)`, which writes the vectors that it gives passages to a file, and
    `reindex(searcher, vectors)`, which makes the same passages searchable by other vectors.
    """

    top_k: int
    temperature: float | None
    """Of p(z|x) = softmax(scores / temperature); None: fitted on validation data."""

    @property
    def uses_query_vectors(self) -> bool: ...

    @property
    def differentiable(self) -> bool:
        """Whether scores are inner products of query and passage vectors, so that the query
        encoder can be trained through p(z|x)."""
        ...

    @property
    def reranks(self) -> bool:
        """Whether a second model, the reranker, rescores hits."""
        ...

    def data_problems(self, passage_count: int) -> list[str]:
        """What does not fit a knowledge source of so many passages; lines start with a field."""
        ...

    def question_problems(self, questions: Sequence[Question], runtime: Runtime) -> list[str]:
        """What does not fit questions or weights; lines start with a field. Loads no weights."""
        ...

    def build(self, passages: Dataset, runtime: Runtime) -> Searcher: ...

    def load(self, folder: Path, passages: Dataset, runtime: Runtime) -> Searcher: ...

    def extend(
        self, searcher: Searcher, passages: Dataset, kept: frozenset[str], runtime: Runtime
    ) -> Searcher:
        """Searcher of passages; those whose ids are `kept` are what `searcher` has of them."""
        ...


class Model(Protocol):
    """An option of the group `model`."""

    generator: Any
    """The language model that writes answers."""
    query_encoder: Any
    """Encoder of questions, for retrievers that search by vector; None: there is none."""

    @property
    def marginalizes(self) -> bool:
        """Whether p(y|x) is a sum over passages, weighted by p(z|x)."""
        ...

    def question_problems(
        self,
        questions: Sequence[Question],
        task: Task,
        top_k: int,
        runtime: Runtime,
        *,
        encode_queries: bool = False,
        passages: Dataset | None = None,
    ) -> list[str]:
        """What the model could not read whole, one line each; loads no weights.

        `passages` is the knowledge source; it counts where questions ask for summaries: what is
        read of a document is read whole, as are the summaries of examples.
        """
        ...

    def load(
        self, task: Task, runtime: Runtime, *, encode_queries: bool, folder: Path | None = None
    ) -> Any:
        """The RAG model with its weights; `folder` holds what training changed."""
        ...


@dataclass(frozen=True)
class Training:
    """What a trainer works with."""

    model: Any
    """The RAG model: a torch module with `collate`, `forward`, `save` and `load_trained`."""
    examples: Sequence[Example]
    """Training questions with the passages that were retrieved for them."""
    retrieve: Retrieve
    """Retrieval with what searches and rescores as it is now, for trainers of that."""
    validate: Callable[[], dict[str, float]] | None
    """Scores the model as it is now on validation questions; None where there are none."""
    objective: str
    """The score to maximise, a key of what `validate` returns."""
    weigh: Callable[[Sequence[Example], float, str], list[tuple[float, ...]]]
    """p(z|x,y) of the passages of examples by the model before training, with a temperature and
    the name of the progress bar: `RagModel.weigh`."""
    log: Callable[[dict[str, float], int], None]
    """Takes training curves: values by name, and the step."""
    folder: Path
    """For checkpoints."""
    runtime: Runtime


@dataclass(frozen=True)
class TrainingResult:
    """How a training went."""

    steps: int
    best_step: int | None = None
    """Step of the checkpoint that was kept; None: the last, for want of validation."""
    best_score: float | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    """Every score of that checkpoint on the validation questions; empty: they were not asked."""


class Retrieve(Protocol):
    """Retrieval, and what it is made of."""

    temperature: float

    def examples(
        self,
        questions: Sequence[Question],
        query_vectors: np.ndarray | None = None,
        top_k: int | None = None,
    ) -> list[Example]:
        """Questions with their passages, as many as the retriever gives, or at most `top_k`.

        Vectors are `[questions, dimension]`.
        """
        ...

    def passage(self, passage_id: str) -> Passage:
        """A passage of the knowledge source."""
        ...

    def passage_vectors(self, passage_ids: Sequence[str]) -> np.ndarray:
        """Vectors `[passages, dimension]` that the index holds."""
        ...

    def passage_texts(self, passages: Sequence[Passage]) -> list[str]:
        """What the passage encoder reads of passages."""
        ...

    def load_passage_encoder(self) -> Any:
        """The passage encoder, ready to be trained: `forward_texts(texts)` gives vectors with their
        gradient."""
        ...

    def embed_passages(self, encoder: Any, file: Path) -> None:
        """Write the vectors that an encoder gives all passages as it is now to a file of NumPy's,
        `[passages, dimension]`, which is there when it is whole."""
        ...

    def reindex(self, vectors: np.ndarray) -> None:
        """Search among other vectors `[passages, dimension]` from now on."""
        ...

    def candidates(self, questions: Sequence[Question], count: int) -> list[Example]:
        """Questions with the first `count` passages that a reranker is given to rescore."""
        ...

    @property
    def reranking(self) -> Any:
        """What scores with the reranker: `forward_pairs(questions, passage_ids)` gives scores
        `[n]` of n pairs with their gradient, `rescorer` is the reranker itself."""
        ...


class Trainer(Protocol):
    """An option of the group `trainer`.

    One that validates while it trains says when in a field `eval_strategy`; "no": never. One that
    trains, but not the generator, is validated by the ranks of gold passages, which its field
    `objective` names a metric of, and says in `weighs_passages` whether it takes p(z|x,y) from the
    model. One that asks more of the data says in `data_problems(data)` what the data lacks, one
    line each.
    """

    @property
    def trains(self) -> frozenset[Part]:
        """What changes (empty: nothing). Where that is more than the generator, questions are
        searched again afterwards."""
        ...

    def fit(self, training: Training) -> TrainingResult: ...


class Tracking(Protocol):
    """An option of the group `tracking`."""

    def prepare(self) -> Any:
        """Make what runs are recorded in, once, before jobs that start together."""
        ...

    def start(
        self,
        raw: DictConfig,
        output_dir: Path,
        name: str | None = None,
        sweep: str | None = None,
        choices: Mapping[str, str] | None = None,
    ) -> AbstractContextManager[Any]:
        """Record a run until the block is left; gives its recorder."""
        ...

    def settle(self, sweep: str, ended: Mapping[Path, str]) -> None:
        """Mark the runs of a sweep whose process died; `ended` has the folders of jobs that no
        process is at work on, and why each failed (empty: it did not)."""
        ...

    def comparison(self, sweep: str) -> str:
        """How to look at the runs of a sweep side by side."""
        ...

    def attach(self, folders: Sequence[Path], files: Sequence[Path], place: str) -> str:
        """Add files to the runs that wrote given folders; gives an address to see them at."""
        ...


class Metric(Protocol):
    """An option of the group `metrics`."""

    name: str
    tasks: frozenset[str]
    """Names of the tasks that the metric fits."""

    def score(self, prediction: Prediction) -> float | None:
        """Score of one example; None where it is not defined for this example."""
        ...

    def aggregate(self, predictions: Sequence[Prediction]) -> float:
        """Score of a corpus."""
        ...

    def load(self) -> Any:
        """The metric as an `evaluate.Metric`."""
        ...
