"""The root of a configuration, and its check before anything heavy is loaded."""

from __future__ import annotations

import importlib
import inspect
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import Field, SkipValidation, ValidationError, field_validator

from rag_experiments import contracts
from rag_experiments.contracts import Option, UserError
from rag_experiments.metrics.base import is_greater_better


class Test(Option):
    """What a run does with the test questions beside answering and scoring them."""

    split: Literal["test", "validation", "train"] = "test"
    """Whose questions the test is made of: `validation` for what a setting is chosen on, `train`
    for what a model makes of the questions that it was trained on."""

    references: bool = True
    """Whether the final model also answers them without passages (`closed_book`) and from the
    gold passages alone (`gold`): two passes more, which tell errors of retrieval from errors of
    reading (`errors.json`)."""

    samples: Annotated[int, Field(ge=0)] = 0
    """Answers that the final model gives to each question beside its own, drawn at temperature 1;
    what the metrics `consistency_samples*` compare. They cost as much time as so many answers."""

    rewordings: bool = False
    """Whether the final model also answers each question in other words that mean the same, with
    passages retrieved anew: up to four, by rules for English; what the metrics
    `consistency_rewordings*` compare."""


class Sweep(Option):
    """How a sweep goes on, and what it does when a job fails."""

    resume: bool = True
    """Whether the same command goes on with its earlier sweep: finished jobs stay, the others are
    done. False: a new sweep in a folder of its own."""

    fail_fast: bool = False
    """Whether no further job starts after one has failed; those that run end."""

    retries: Annotated[int, Field(ge=0)] = 0
    """Times that a failed job is tried again, from its last checkpoint; not where its
    configuration or its data are at fault."""


class Run(Option):
    """One run: a choice from each group, and what all of them share."""

    task: SkipValidation[contracts.Task]
    """What is asked and how an answer is scored."""

    data: SkipValidation[contracts.Data]
    """Questions and passages."""

    model: SkipValidation[contracts.Model]
    """How passages and a generator become an answer."""

    retriever: SkipValidation[contracts.Retriever]
    """How passages are found."""

    trainer: SkipValidation[contracts.Trainer]
    """What is trained, and how."""

    metrics: Annotated[dict[str, SkipValidation[contracts.Metric]], Field(min_length=1)]
    """The metrics that are reported, each under a name of its own."""

    tracking: SkipValidation[contracts.Tracking]
    """Where runs are recorded."""

    test: Test = Test()
    """What is done with the test questions beside scoring them."""

    sweep: Sweep = Sweep()
    """How a sweep goes on, and what it does when a job fails."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 13
    """Of every random choice."""

    device: str = "auto"
    """A torch device; auto: the first GPU, else the CPU."""

    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of matrix products; auto: bfloat16 where the device is fast at it."""

    cache_dir: Path = Path("outputs/cache")
    """Folder for weights and for results that later runs use again."""

    @field_validator("device")
    @classmethod
    def _device_is_known(cls, value: str) -> str:
        if not re.fullmatch(r"auto|cpu|mps|(cuda|xpu)(:\d+)?", value):
            raise ValueError(f"{value!r} must be auto, cpu, mps, cuda, cuda:<number> or xpu")
        return value


Chosen = TypeVar("Chosen", bound=Option)

GROUPS = ("task", "data", "model", "retriever", "trainer", "metrics", "tracking")


def load(config: DictConfig) -> Run:
    """Return the run that a configuration describes; raise UserError with all problems."""
    run, problems = _inspect(config)
    if run is None or problems:
        raise UserError(problems)
    return run


def check(config: DictConfig) -> list[str]:
    """Return every problem of a configuration, one line each; an empty list: it is sound."""
    return _inspect(config)[1]


def build(node: Any, key: str = "", *, check_paths: bool = True) -> Any:
    """Return a node with each mapping that has a `_target_` made into its option.

    `key` is the node's place in the whole configuration, for messages. A `_target_` names a
    class that derives from `contracts.Option`, of this package or any importable module.
    Without `check_paths`, files that options name need not exist.
    Raises UserError with all problems.
    """
    builder = _Builder(check_paths)
    built = builder.build(node, key)
    if builder.problems:
        raise UserError(builder.problems)
    return built


def construct(kind: type[Chosen], values: dict[str, Any], key: str) -> Chosen:
    """Return an option of a kind that is known, from its values; raise UserError with all problems.

    `key` is the place of the values in the whole configuration, for messages.
    """
    builder = _Builder()
    option: Chosen = builder.construct(kind, values, key)
    if builder.problems:
        raise UserError(builder.problems)
    return option


def fields(target: Any) -> frozenset[str] | None:
    """Return the names that the option of a `_target_` takes; None where it names no option."""
    kind = _Builder().locate(target, "")
    return None if kind is None else frozenset(kind.model_fields)


def nearest(word: str, legal: Iterable[str]) -> str:
    """Return "; did you mean ...?", or nothing where no legal word is near."""
    # A dotted or nested name may be near by its last part: `k1` for `retriever.k1`.
    near = get_close_matches(word.lower(), {name.lower(): None for name in legal}, n=1, cutoff=0.6)
    found = next((name for name in legal if near and name.lower() == near[0]), None)
    return f"; did you mean {found}?" if found else ""


def _inspect(config: DictConfig) -> tuple[Run | None, list[str]]:
    builder = _Builder()
    try:
        groups = {str(name): builder.child(config, name, str(name)) for name in config}
    except RecursionError:
        return None, ["the configuration refers to itself without an end; look at its ${...}"]
    for name in GROUPS:
        if name in groups and groups[name] is not _BROKEN:
            problems = _misplaced(name, groups[name])
            builder.problems += problems
            if problems:
                groups[name] = _BROKEN
    run = builder.construct(Run, groups, "")
    sound = {name: built for name, built in groups.items() if built is not _BROKEN}
    builder.problems += conflicts(sound)
    return (None if run is _BROKEN else run), list(dict.fromkeys(builder.problems))


class _Broken:
    """Stands for a value whose problem has been reported already."""

    def __repr__(self) -> str:
        return "(refused)"


_BROKEN: Any = _Broken()


class _Builder:
    """Builds a tree of options and collects its problems instead of stopping at the first."""

    def __init__(self, check_paths: bool = True) -> None:
        self.problems: list[str] = []
        self.check_paths = check_paths

    def build(self, node: Any, key: str) -> Any:
        if isinstance(node, (dict, DictConfig)):
            children = {str(name): self.child(node, name, _join(key, name)) for name in node}
            return self.option(children, key) if "_target_" in children else children
        if isinstance(node, (list, ListConfig)):
            return [self.child(node, i, f"{key}[{i}]") for i in range(len(node))]
        return node

    def child(self, parent: Any, name: Any, key: str) -> Any:
        try:
            value = parent[name]
        except MissingMandatoryValue:
            self.problems.append(f"{key}: a value is missing; give {key}=...")
            return _BROKEN
        except OmegaConfBaseException as error:
            raw = parent._get_node(name)._value()
            self.problems.append(f"{key}: {_show(raw)} cannot be resolved: {first_line(error)}")
            return _BROKEN
        return self.build(value, key)

    def option(self, children: dict[str, Any], key: str) -> Any:
        target = children.pop("_target_")
        if target is _BROKEN:
            return _BROKEN
        kind = self.locate(target, key)
        return _BROKEN if kind is None else self.construct(kind, children, key)

    def locate(self, target: Any, key: str) -> type[Option] | None:
        """Return the class that `_target_` names, without calling anything."""
        place = _join(key, "_target_")
        module, _, name = str(target).rpartition(".")
        try:
            found = getattr(importlib.import_module(module), name)
        except Exception as error:  # a user's module may raise anything when it is imported
            reason = first_line(error) or type(error).__name__
            self.problems.append(f"{place}: {_show(target)} cannot be imported: {reason}")
            return None
        if not (inspect.isclass(found) and issubclass(found, Option)):
            self.problems.append(
                f"{place}: {_show(target)} is not an option; a class derived from "
                "rag_experiments.contracts.Option is legal"
            )
            return None
        return found

    def construct(self, kind: type[Option], values: dict[str, Any], key: str) -> Any:
        """Return the option, or _BROKEN after noting why not."""
        values = dict(values)
        while True:
            try:
                option = kind.model_validate(values)
                break
            except ValidationError as error:
                # YAML has lists and text only: a tuple, a set or a path is made from them
                # here, so that options need no conversions of their own.
                converted = [_convert(values, e) for e in error.errors(include_url=False)]
                if any(converted):
                    continue
                self.problems += _describe(error, kind, values, key)
                return _BROKEN
            except Exception as error:
                if any(value is _BROKEN for value in values.values()):
                    return _BROKEN  # a validator stumbled over a part that is refused already
                self.problems.append(f"{key or 'configuration'}: {first_line(error)}")
                return _BROKEN
        if any(value is _BROKEN for value in _leaves(values)):
            return _BROKEN
        if hasattr(option, "problems") and self.check_paths:
            self.problems += [_join(key, problem) for problem in _own_problems(option)]
        return option


def _own_problems(option: Any) -> list[str]:
    """Return what an option says of itself, or the paths over which it stumbled."""
    try:
        return list(option.problems())
    except (OSError, RuntimeError):
        found = []
        for name, value in option:
            if isinstance(value, (str, Path)) and (reason := _refusal(value)):
                found.append(f"{name}: {_show(str(value))} cannot be looked at: {reason}")
        if not found:
            raise
        return found


def _refusal(path: str | Path) -> str:
    """Return why the system takes no such path: too long, or in the home of nobody."""
    try:
        Path(path).expanduser().exists()
    except OSError as error:
        return error.strerror or str(error)
    except RuntimeError:
        return "~ and a name is the home of a user, whom this machine does not have"
    return ""


_CONVERSIONS = {"tuple_type": tuple, "frozen_set_type": frozenset, "set_type": set}


def _convert(values: dict[str, Any], error: Mapping[str, Any]) -> bool:
    """Replace the value of an error in place where YAML cannot write its type."""
    make: Any = None
    if isinstance(error["input"], list):
        make = _CONVERSIONS.get(error["type"])
    elif isinstance(error["input"], str) and error.get("ctx", {}).get("class") == "Path":
        make = lambda text: Path(text).expanduser()  # noqa: E731
    path = _navigable(values, error["loc"])
    if make is None or not path:
        return False
    parent: Any = values
    for part in path[:-1]:
        parent = parent[part]
    if not isinstance(parent, (dict, list)) or parent[path[-1]] is not error["input"]:
        return False
    try:
        parent[path[-1]] = make(error["input"])
    except (TypeError, RuntimeError):  # what cannot be hashed, ~nobody: pydantic's message stands
        return False
    return True


def _navigable(values: Any, loc: Sequence[Any]) -> tuple[Any, ...]:
    """Return the part of a pydantic location that is a path in the values.

    What follows it names members of a union, which a user has not written.
    """
    path: list[Any] = []
    for part in loc:
        if isinstance(values, Option) or not hasattr(values, "__getitem__"):
            break
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError):
            break
        path.append(part)
    return tuple(path)


def _describe(
    error: ValidationError, kind: type[Option], values: dict[str, Any], key: str
) -> list[str]:
    """Return one line for each place that pydantic complains about."""
    lines: dict[str, list[str]] = {}
    shown: dict[str, str] = {}
    for e in error.errors(include_url=False):
        path = _navigable(values, e["loc"])
        value = e["input"]
        if e["type"] == "extra_forbidden":
            name = str(e["loc"][-1])
            legal = [n for n in kind.model_fields if n not in values] or list(kind.model_fields)
            text = f"unknown key{nearest(name, list(kind.model_fields))}"
            text += f" (legal here: {', '.join(kind.model_fields)})" if legal else ""
            lines.setdefault(_dotted(key, e["loc"]), []).append(text)
            continue
        if e["type"] == "missing":
            place = _dotted(key, e["loc"])
            field = kind.model_fields.get(str(e["loc"][-1]))
            what = f" ({_one_line(field.description)})" if field and field.description else ""
            lines.setdefault(place, []).append(f"a value is missing{what}; give {place}=...")
            continue
        if any(part is _BROKEN for part in _leaves(value)):
            continue
        message = _message(e)
        if e["type"] in ("value_error", "assertion_error"):
            # The option's own words, which name the field themselves where they belong to one.
            first = re.match(r"\w*", message)
            named = not path and first is not None and first[0] in kind.model_fields
            place = key if named else _dotted(key, path)
            lines.setdefault(_join(place, message) if named else f"{place}: {message}", [])
            continue
        place = _dotted(key, path)
        shown[place] = _show(value)
        lines.setdefault(place, []).append(message)
    described = []
    for place, texts in lines.items():
        start = f"{place}: {shown[place]} " if place in shown else f"{place}: "
        described.append(start + " or ".join(dict.fromkeys(texts)) if texts else place)
    return described


def _message(error: Any) -> str:
    """Return pydantic's message in the words of a sentence that starts with the value."""
    message = str(error["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
    message = (
        message.replace("an instance of Path", "a path")
        .replace("Input should be", "must be")
        .replace("Input should", "must")
    )
    if error["type"] in ("literal_error", "enum"):
        expected = re.findall(r"'([^']*)'", str(error.get("ctx", {}).get("expected", "")))
        message += nearest(str(error["input"]), expected)
    if error["type"] == "string_type" and isinstance(error["input"], bool):
        message += " (YAML reads yes, no, on and off as true and false: put it in quotes)"
    return _one_line(message)


def _misplaced(group: str, built: Any) -> list[str]:
    """Return why what stands in a group is no option of it."""
    if group == "metrics":
        if not isinstance(built, dict):
            return [f"metrics: {_show(built)} must be a mapping from names to metrics"]
        options = {f"metrics.{name}": part for name, part in built.items() if part is not _BROKEN}
    else:
        options = {group: built}
    wanted = _members(group)
    problems = []
    for key, option in options.items():
        if not isinstance(option, Option):
            problems.append(
                f"{key}: {_show(option)} is no option; choose one with {group}=... (see --help) "
                "or give it a _target_"
            )
            continue
        lacking = [name for name in wanted if not hasattr(option, name)]
        if lacking:
            kind = type(option)
            problems.append(
                f"{key}: {kind.__module__}.{kind.__qualname__} is no option of the group {group}; "
                f"it lacks {', '.join(lacking)}"
            )
    return problems


def _members(group: str) -> list[str]:
    """Return the names that the contract of a group demands."""
    contract = getattr(contracts, "Metric" if group == "metrics" else group.capitalize(), None)
    if contract is None:
        return []
    methods = [name for name in vars(contract) if not name.startswith("_")]
    return sorted({*inspect.get_annotations(contract), *methods})


def conflicts(rooms: Mapping[str, Any]) -> list[str]:
    """Return what does not fit between the options of different groups.

    `rooms` maps a group to what was built for it; a group that could not be built is left out.
    """
    problems: list[str] = []
    task, metrics = rooms.get("task"), rooms.get("metrics")
    all_metrics = isinstance(metrics, dict) and all(m is not _BROKEN for m in metrics.values())
    if isinstance(metrics, dict):
        metrics = {name: part for name, part in metrics.items() if part is not _BROKEN}
    if task is not None and metrics:
        fitting = [part.name for part in metrics.values() if task.name in part.tasks]
        for key, metric in metrics.items():
            if task.name not in metric.tasks:
                problems.append(
                    f"metrics.{key}: {metric.name} does not fit task={task.name} (it is for "
                    f"{', '.join(sorted(metric.tasks))}); of those configured these fit: "
                    f"{', '.join(fitting) or 'none'}; metrics={task.name} has what fits"
                )
        names = [metric.name for metric in metrics.values()]
        if task.objective not in names and all_metrics:
            problems.append(
                f"task.objective: {task.objective!r} is not among the configured metrics"
                f"{nearest(task.objective, names)} (legal here: {', '.join(fitting) or 'none'})"
            )
        problems += [
            f"task.objective: {metric.name!r} is worse the larger it is, but an objective is "
            "maximized; choose another metric"
            for metric in metrics.values()
            if metric.name == task.objective and not is_greater_better(metric)
        ]
    test = rooms.get("test", Test())
    if isinstance(test, Test):
        problems += _test_conflicts(test, task, metrics or {})
    trainer, retriever, model = (rooms.get(name) for name in ("trainer", "retriever", "model"))
    trained: frozenset[str] = getattr(trainer, "trains", frozenset())
    if "query_encoder" in trained:
        alone = contracts.ranks_alone(trained)
        if alone and retriever is not None and not retriever.uses_query_vectors:
            problems.append(
                f"trainer: {_name(trainer)} trains the query encoder, which retriever "
                f"{_name(retriever)} does not search with; legal: a retriever that searches by "
                "vector (retriever=dense, retriever=hybrid), or trainer=supervised"
            )
        if not alone and retriever is not None and not retriever.differentiable:
            problems.append(
                f"trainer: {_name(trainer)} trains the query encoder through p(z|x), which "
                f"retriever {_name(retriever)} does not allow; legal: a retriever that searches "
                "by vector without a reranker (retriever=dense), or trainer=supervised"
            )
        if model is not None and getattr(model, "query_encoder", None) is None:
            problems.append(
                f"trainer: {_name(trainer)} trains the query encoder, but model {_name(model)} "
                "has none; choose one with model/query_encoder=..., or trainer=supervised"
            )
        weighs = not alone or getattr(trainer, "weighs_passages", False)
        if weighs and model is not None and not getattr(model, "marginalizes", True):
            through = "p(z|x,y)" if alone else "the marginal likelihood"
            problems.append(
                f"trainer: {_name(trainer)} trains through {through}, which model "
                f"{_name(model)} does not have; legal: model=rag_token, model=rag_sequence, "
                f"or trainer={'contrastive' if alone else 'supervised'}"
            )
    if "reranker" in trained and retriever is not None and not retriever.reranks:
        place = "@retriever.first.reranker" if hasattr(retriever, "first") else ""
        problems.append(
            f"trainer: {_name(trainer)} trains the retriever's reranker, but retriever "
            f"{_name(retriever)} has none; choose one with retriever/reranker{place}=bi_encoder "
            "(or cross_encoder), or another trainer"
        )
    if task is not None:
        chosen = metrics if isinstance(metrics, dict) else {}
        problems += _citation_conflicts(task, model, chosen)
        problems += _abstention_conflicts(task, trainer, chosen)
    distractors = getattr(trainer, "distractors", None)
    if distractors is not None and retriever is not None and distractors > retriever.top_k:
        problems.append(
            f"trainer.distractors: {distractors} is more than the {retriever.top_k} passages that "
            f"are retrieved; legal: at most {retriever.top_k} (retriever.top_k)"
        )
    if retriever is not None and retriever.uses_query_vectors and model is not None:
        problems += _encoder_conflicts(retriever, getattr(model, "query_encoder", None))
    return problems


def _test_conflicts(test: Test, task: Any, metrics: Mapping[str, Any]) -> list[str]:
    """Return which answers are to be compared that are not made, or cannot be."""
    problems = []
    if test.samples > 0 and getattr(task, "labels", None):
        problems.append(
            f"test.samples: {test.samples}, but task={task.name} takes the likeliest label, so "
            "there is nothing to draw; set test.samples=0"
        )
    if test.rewordings and getattr(task, "records", "questions") == "documents":
        problems.append(
            f"test.rewordings: true, but task={task.name} asks no question that could be put in "
            "other words; set test.rewordings=false"
        )
    for key, metric in metrics.items():
        inputs: tuple[str | None, ...] = getattr(metric, "inputs", ())
        if "samples" in inputs and not test.samples:
            problems.append(
                f"metrics.{key}: compares answers drawn again, but test.samples is 0; set it, "
                "e.g. test.samples=4, or leave the metric out"
            )
        if "reworded_answers" in inputs and not test.rewordings:
            problems.append(
                f"metrics.{key}: compares answers to rewordings, but test.rewordings is false; "
                "set test.rewordings=true, or leave the metric out"
            )
    return problems


def _citation_conflicts(task: Any, model: Any, metrics: Mapping[str, Any]) -> list[str]:
    """Return where citations are asked of a model that gives none, or scored unasked."""
    if not getattr(getattr(task, "prompt", None), "cites", False):
        return [
            f"metrics.{key}: scores citations, but the prompt asks for none; choose "
            "task/prompt=cite, or leave the metric out"
            for key, metric in metrics.items()
            if "cited" in getattr(metric, "inputs", ())
        ]
    if model is None or getattr(model, "one_prompt", True):
        return []
    return [
        "task.prompt.passage: numbers passages, so that answers cite them, but model "
        f"{_name(model)} reads each in a prompt of its own; legal: model=concat, or a passage "
        "without {number}"
    ]


def _abstention_conflicts(task: Any, trainer: Any, metrics: Mapping[str, Any]) -> list[str]:
    """Return where abstentions are scored unasked, or nothing tells the model of them."""
    text = getattr(task, "abstention", None)
    if text is None:
        return [
            f"metrics.{key}: scores abstentions, but there is no text for them; set "
            "task.abstention, e.g. task.abstention=unanswerable, or leave the metric out"
            for key, metric in metrics.items()
            if "abstained" in getattr(metric, "inputs", ())
        ]
    prompt = getattr(task, "prompt", None)
    told = getattr(prompt, "names_abstention", True) or getattr(prompt, "examples", 0)
    learns = trainer is None or "generator" in trainer.trains
    if told or learns:
        return []
    return [
        f"task.abstention: {text!r}, but no {{abstention}} in the prompt asks for it and trainer "
        f"{_name(trainer)} does not teach it; choose task/prompt=abstain, or trainer=supervised"
    ]


def _encoder_conflicts(retriever: Any, queries: Any) -> list[str]:
    """Return why questions and passages would be vectors of different spaces."""
    if queries is None:
        return [
            f"model.query_encoder: null, but retriever {_name(retriever)} searches by vector; "
            "choose one with model/query_encoder=..., or retriever=bm25"
        ]
    place = "retriever"
    for part in ("first", "dense"):  # of an iterative retriever, of a hybrid
        if getattr(retriever, part, None) is not None:
            retriever, place = getattr(retriever, part), f"{place}.{part}"
    passages, place = getattr(retriever, "encoder", None), f"{place}.encoder"
    group = "retriever/encoder" if place == "retriever.encoder" else f"retriever/encoder@{place}"
    names = ["pooling", "normalize"]
    if getattr(queries, "pooling", None) != "dpr":
        names.append("weights")  # DPR alone has two encoders that were trained for one space
    return [
        f"model.query_encoder.{name}: {_show(getattr(queries, name))}, but {place}.{name} is "
        f"{_show(getattr(passages, name))}; the vectors must share a space: choose the same name "
        f"for model/query_encoder and {group}"
        for name in names
        if getattr(passages, name, None) is not None
        and getattr(queries, name, None) is not None
        and getattr(passages, name) != getattr(queries, name)
    ]


def _name(option: Any) -> str:
    return type(option).__name__


def _join(key: str, name: Any) -> str:
    return f"{key}.{name}" if key else str(name)


def _dotted(key: str, path: Iterable[Any]) -> str:
    for part in path:
        key = f"{key}[{part}]" if isinstance(part, int) else _join(key, part)
    return key


def _leaves(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        for part in value.values():
            yield from _leaves(part)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for part in value:
            yield from _leaves(part)
    else:
        yield value


def _show(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    text = repr(OmegaConf.to_container(value) if OmegaConf.is_config(value) else value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _one_line(text: str) -> str:
    return " ".join(text.split())


def first_line(error: BaseException) -> str:
    """Return the first line of a message that is not blank; empty: there is none."""
    # omegaconf adds lines about its own types (full_key, object_type) after the reason
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")
