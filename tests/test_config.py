"""The check of a configuration, on small options of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest
from omegaconf import OmegaConf
from pydantic import Field, model_validator

from rag_experiments import config, options
from rag_experiments.contracts import Option, UserError

HERE = __name__


class Generator(Option):
    weights: str
    """Hub id or folder."""

    max_length: Annotated[int, Field(ge=1)] = 128


class Model(Option):
    marginalizes: ClassVar[bool] = True
    generator: Generator
    beams: Annotated[int, Field(ge=1, le=8)] = 1
    stop: tuple[str, ...] = ()
    ids: frozenset[int] = frozenset()
    weights: Path = Path()
    rate: float | Literal["auto"] = "auto"
    query_encoder: Any = None

    def load(self) -> None: ...
    def question_problems(self) -> None: ...

    @model_validator(mode="after")
    def _check(self) -> Model:
        if self.beams == 7:
            raise ValueError("beams: 7 is unlucky; legal: any other")
        if self.beams == 6:
            raise ValueError("six beams do not go with anything")
        return self


class Data(Option):
    path: str

    def problems(self) -> list[str]:
        return [] if self.path == "here" else [f"path: {self.path!r} does not exist"]

    def load(self, runtime: Any) -> None: ...


class Task(Option):
    name: str = "qa"
    records: str = "questions"
    objective: str = "f1"
    labels: tuple[str, ...] = ()
    temperature: None = None
    max_answer_tokens: int = 8
    system: str = ""

    def render(self) -> None: ...
    def target(self) -> None: ...
    def cited(self) -> None: ...
    def parse(self) -> None: ...
    def abstains(self) -> None: ...
    def data_problems(self) -> None: ...


class Retriever(Option):
    top_k: Annotated[int, Field(ge=1)] = 3
    temperature: float | None = None
    uses_query_vectors: bool = False
    differentiable: bool = False
    reranks: bool = False
    encoder: Any = None

    def data_problems(self) -> None: ...
    def question_problems(self) -> None: ...
    def build(self) -> None: ...
    def load(self) -> None: ...
    def extend(self) -> None: ...


class Trainer(Option):
    trains: frozenset[str] = frozenset({"generator"})

    def fit(self) -> None: ...


class Metric(Option):
    name: str = "f1"
    tasks: frozenset[str] = frozenset({"qa"})

    def score(self) -> None: ...
    def aggregate(self) -> None: ...
    def load(self) -> None: ...


class Off(Option):
    def prepare(self) -> None: ...
    def start(self) -> None: ...
    def comparison(self) -> None: ...
    def attach(self) -> None: ...
    def settle(self) -> None: ...


class Encoder(Option):
    weights: str = "a/b"
    pooling: str = "mean"
    normalize: bool = True


class NotAnOption:
    def __init__(self) -> None:
        raise AssertionError("a class that is no option is never called")


def node(kind: str, **values: Any) -> dict[str, Any]:
    return {"_target_": f"{HERE}.{kind}", **values}


def sound(**changes: Any) -> Any:
    """A configuration without a fault, and with the changes, given as dotted keys."""
    composed = OmegaConf.create(
        {
            "task": node("Task"),
            "data": node("Data", path="here"),
            "model": node("Model", generator=node("Generator", weights="a/b")),
            "retriever": node("Retriever"),
            "trainer": node("Trainer"),
            "metrics": {"f1": node("Metric")},
            "tracking": node("Off"),
            "seed": 1,
        }
    )
    for key, value in changes.items():
        OmegaConf.update(composed, key.replace("__", "."), value, merge=False, force_add=True)
    return composed


def test_a_sound_configuration_becomes_options():
    run = config.load(sound(model__stop=["a", "b"], model__ids=[1, 2], model__weights="~/x"))
    assert isinstance(run.model.generator, Generator)
    assert run.model.stop == ("a", "b")  # YAML has lists only
    assert run.model.ids == frozenset({1, 2})
    assert run.model.weights == Path.home() / "x"
    assert run.seed == 1
    assert run.metrics["f1"].name == "f1"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model__beems": 3}, "model.beems: unknown key; did you mean beams? (legal here: "),
        (
            {"model__generator__max_len": 3},
            "model.generator.max_len: unknown key; did you mean max_length? (legal here: "
            "weights, max_length)",
        ),
        ({"sede": 3}, "sede: unknown key; did you mean seed?"),
        ({"model__beams": 9}, "model.beams: 9 must be less than or equal to 8"),
        ({"model__beams": "many"}, "model.beams: 'many' must be a valid integer"),
        ({"model__rate": "fast"}, "model.rate: 'fast' must be a valid number or must be 'auto'"),
        ({"model__stop": [True]}, "model.stop[0]: True must be a valid string (YAML reads yes"),
        ({"model__beams": 7}, "model.beams: 7 is unlucky; legal: any other"),
        ({"model__beams": 6}, "model: six beams do not go with anything"),
        ({"data__path": "???"}, "data.path: a value is missing; give data.path=..."),
        ({"data__path": "gone"}, "data.path: 'gone' does not exist"),
        ({"data__path": "${oc.env:NO_SUCH_VARIABLE}"}, "data.path: '${oc.env:NO_SUCH_VARIABLE}' "),
        ({"data__path": "${model.nothing}"}, "data.path: '${model.nothing}' cannot be resolved: "),
        ({"model__generator": None}, "model.generator: None must be "),
        ({"task": None}, "task: None is no option; choose one with task=... (see --help)"),
        (
            {"retriever": {"_target_": f"{HERE}.Trainer"}},
            f"retriever: {HERE}.Trainer is no option of the group retriever; it lacks build, "
            "data_problems, differentiable, extend, load, question_problems, reranks, temperature, "
            "top_k, uses_query_vectors",
        ),
        (
            {"model": {"_target_": f"{HERE}.Retriever"}},
            f"model: {HERE}.Retriever is no option of the group model; it lacks generator, "
            "marginalizes, query_encoder",
        ),
        (
            {"tracking": {"_target_": f"{HERE}.Metric"}},
            f"tracking: {HERE}.Metric is no option of the group tracking; it lacks attach, ",
        ),
        ({"model___target_": "os.system"}, "model._target_: 'os.system' is not an option; "),
        ({"model___target_": f"{HERE}.NotAnOption"}, "model._target_: "),
        ({"model___target_": "no.such.Thing"}, "model._target_: 'no.such.Thing' cannot be "),
        ({"seed": -1}, "seed: -1 must be greater than or equal to 0"),
        ({"device": "gpu"}, "device: 'gpu' must be auto, cpu, mps, cuda, cuda:<number> or xpu"),
        ({"precision": "float23"}, "precision: 'float23' must be 'auto', 'float32', "),
        ({"metrics": {}}, "metrics: {} "),
        ({"metrics__x": 3}, "metrics.x: 3 is no option"),
    ],
)
def test_a_problem_is_one_line_with_key_value_and_what_is_legal(changes, expected):
    problems = config.check(sound(**changes))
    assert [line for line in problems if line.startswith(expected)], problems
    assert all("\n" not in line for line in problems)


def test_spelling_suggestion_for_a_choice():
    (problem,) = config.check(sound(precision="float23"))
    assert problem.endswith("did you mean float32?")


def test_all_problems_are_reported_at_once():
    problems = config.check(
        sound(
            model__beems=3,
            model__generator__max_length=0,
            retriever__top_k=0,
            data__path="???",
            task__objective="acuracy",
            device="gpu",
        )
    )
    keys = sorted(line.partition(":")[0] for line in problems)
    assert keys == [
        "data.path",
        "device",
        "model.beems",
        "model.generator.max_length",
        "retriever.top_k",
        "task.objective",
    ]


def test_a_missing_group_is_said_with_what_it_is_for():
    composed = sound()
    del composed["retriever"]
    (problem,) = config.check(composed)
    assert problem == (
        "retriever: a value is missing (How passages are found.); give retriever=..."
    )


def test_an_endless_reference_is_a_problem_and_not_a_crash():
    assert config.check(OmegaConf.create({"a": {"b": "${a}"}}))


def test_a_metric_that_does_not_fit_the_task_is_refused_with_those_that_do():
    problems = config.check(
        sound(metrics__accuracy=node("Metric", name="accuracy", tasks=["yes_no"]))
    )
    (problem,) = problems
    assert problem.startswith("metrics.accuracy: accuracy does not fit task=qa (it is for yes_no)")
    assert "of those configured these fit: f1" in problem


def test_the_objective_must_be_among_the_metrics():
    (problem,) = config.check(sound(task__objective="f_1"))
    assert problem == (
        "task.objective: 'f_1' is not among the configured metrics; did you mean f1? "
        "(legal here: f1)"
    )


def test_joint_training_needs_a_differentiable_retriever_and_a_query_encoder():
    problems = config.check(sound(trainer__trains=["generator", "query_encoder"]))
    assert len(problems) == 2
    assert "which retriever Retriever does not allow" in problems[0]
    assert "has none; choose one with model/query_encoder=" in problems[1]


@pytest.mark.parametrize(
    ("queries", "passages", "expected"),
    [
        ({}, {}, None),
        ({"weights": "c/d"}, {}, "model.query_encoder.weights: 'c/d', but retriever.encoder.weig"),
        ({"normalize": False}, {}, "model.query_encoder.normalize: False, but retriever.encoder.n"),
        ({"pooling": "dpr"}, {}, "model.query_encoder.pooling: 'dpr', but retriever.encoder.pool"),
        ({"pooling": "dpr", "weights": "q/q"}, {"pooling": "dpr"}, None),
    ],
)
def test_questions_and_passages_must_be_vectors_of_one_space(queries, passages, expected):
    problems = config.check(
        sound(
            retriever__uses_query_vectors=True,
            retriever__encoder=node("Encoder", **passages),
            model__query_encoder=node("Encoder", **queries),
        )
    )
    assert len(problems) == (expected is not None), problems
    assert all(problem.startswith(expected) for problem in problems)


def test_a_saved_run_is_built_without_the_files_that_it_began_with():
    with pytest.raises(UserError, match=r"data\.path: 'gone' does not exist"):
        options.build(node("Data", path="gone"), "data")
    assert options.build(node("Data", path="gone"), "data", check_paths=False) == Data(path="gone")


def test_conflicts_are_reported_beside_a_broken_group():
    problems = config.check(sound(model__beams=0, task__objective="f2"))
    assert [line.partition(":")[0] for line in problems] == ["model.beams", "task.objective"]


def test_build_returns_nested_options_and_lists():
    built = options.build({"parts": [node("Generator", weights="a"), 3]}, "somewhere")
    assert built == {"parts": [Generator(weights="a"), 3]}
    with pytest.raises(UserError, match=r"somewhere\.parts\[0\]\.weights: 3 must be a valid str"):
        options.build({"parts": [node("Generator", weights=3)]}, "somewhere")


def test_nearest_is_silent_without_a_near_word():
    assert options.nearest("zebra", ["bm25", "dense"]) == ""
    assert options.nearest("BM52", ["bm25", "dense"]) == "; did you mean bm25?"
