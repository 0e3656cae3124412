"""What does not fit between the options of different groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rag_experiments import contracts
from rag_experiments.metrics.base import is_greater_better
from rag_experiments.options import BROKEN, nearest, show


def find_conflicts(rooms: Mapping[str, Any]) -> list[str]:
    """Return what does not fit between the options of different groups.

    `rooms` maps a group to what was built for it; a group that could not be built is left out.
    """
    task, model, retriever, trainer = (
        rooms.get(name) for name in ("task", "model", "retriever", "trainer")
    )
    named = rooms.get("metrics")
    metrics = named if isinstance(named, dict) else {}
    sound = {name: metric for name, metric in metrics.items() if metric is not BROKEN}
    problems: list[str] = []
    if task is not None and sound:
        problems += _metric_conflicts(task, sound, complete=sound == metrics)
    if "test" in rooms:
        problems += _test_conflicts(rooms["test"], task, sound)
    if trainer is not None:
        problems += _training_conflicts(trainer, retriever, model)
    if task is not None:
        problems += _citation_conflicts(task, model, sound)
        problems += _abstention_conflicts(task, trainer, sound)
    if retriever is not None and retriever.uses_query_vectors and model is not None:
        problems += _encoder_conflicts(retriever, getattr(model, "query_encoder", None))
    return problems


def _metric_conflicts(task: Any, metrics: Mapping[str, Any], complete: bool) -> list[str]:
    """Return which metrics are for other tasks, and why the objective is none of them.

    `complete`: no metric was left out of `metrics`.
    """
    problems = []
    fitting = [metric.name for metric in metrics.values() if task.name in metric.tasks]
    for key, metric in metrics.items():
        if task.name not in metric.tasks:
            problems.append(
                f"metrics.{key}: {metric.name} does not fit task={task.name} (it is for "
                f"{', '.join(sorted(metric.tasks))}); of those configured these fit: "
                f"{', '.join(fitting) or 'none'}; metrics={task.name} has what fits"
            )
    names = [metric.name for metric in metrics.values()]
    if task.objective not in names and complete:
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
    return problems


def _test_conflicts(test: Any, task: Any, metrics: Mapping[str, Any]) -> list[str]:
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


def _training_conflicts(trainer: Any, retriever: Any, model: Any) -> list[str]:
    """Return what a trainer would train that is not there, or would not learn from."""
    problems = []
    trained: frozenset[str] = trainer.trains
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
        single = retriever is not None and retriever.differentiable and retriever.top_k == 1
        if not alone and single:
            problems.append(
                f"retriever.top_k: 1, but trainer {_name(trainer)} trains the query encoder by "
                "p(z|x), which is 1 of a single passage, so that nothing would be learned from it; "
                "legal: at least 2, or trainer=supervised"
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
    if hasattr(trainer, "distractors") and retriever is not None:
        problems += _distractor_conflicts(trainer.distractors, retriever)
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


def _distractor_conflicts(distractors: int | None, retriever: Any) -> list[str]:
    """Return why there would be fewer distractors than asked for, or none at all."""
    top_k = retriever.top_k
    if distractors is None and top_k < 2:
        return [
            f"trainer.distractors: null is retriever.top_k - 1, but {_name(retriever)} retrieves "
            f"{top_k}, which leaves none beside the gold passage; choose a larger retriever.top_k "
            "(and not retriever=none), or trainer=supervised"
        ]
    if distractors is not None and distractors > top_k:
        return [
            f"trainer.distractors: {distractors} is more than the {top_k} passages that "
            f"are retrieved; legal: at most {top_k} (retriever.top_k)"
        ]
    return []


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
        f"model.query_encoder.{name}: {show(getattr(queries, name))}, but {place}.{name} is "
        f"{show(getattr(passages, name))}; the vectors must share a space: choose the same name "
        f"for model/query_encoder and {group}"
        for name in names
        if getattr(passages, name, None) is not None
        and getattr(queries, name, None) is not None
        and getattr(passages, name) != getattr(queries, name)
    ]


def _name(option: Any) -> str:
    return type(option).__name__
