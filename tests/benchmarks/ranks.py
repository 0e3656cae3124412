"""Ranks of gold passages that command lines lead to, without a question being answered.

    python tests/benchmarks/ranks.py "retriever=bm25" "retriever=iterative" --with data=bio_qa

Every line after the first is compared with it on the same questions: the difference with its 95%
bootstrap interval. A line may train what ranks passages (trainer=contrastive, trainer=reranker,
trainer=joint with a generator); the best checkpoint is chosen on validation questions, as in a run.
With several --seeds a question counts with the mean of its scores.
"""

from __future__ import annotations

import argparse
import shlex
import tempfile
import time
from pathlib import Path

import numpy as np
from hydra.core.global_hydra import GlobalHydra

from rag_experiments import experiment
from rag_experiments.composition.composer import Composer
from rag_experiments.evaluation.retrieval import METRICS, as_predictions
from rag_experiments.functional.statistics import bootstrap_mean_interval
from rag_experiments.pipeline import RagPipeline
from rag_experiments.runtime import reproducibility
from rag_experiments.stages import Stages
from rag_experiments.tracking.recorder import Recorder

FIXED = ["model/generator=tiny_causal", "tracking=none"]
"""The generator has no part in it, unless it teaches: then it is chosen in the line."""


def measure(words: list[str], splits: list[str]) -> dict[str, np.ndarray]:
    """Scores [n] of the questions by metric."""
    given = {word.partition("=")[0] for word in words}
    fixed = [word for word in FIXED if word.partition("=")[0] not in given]
    if "trainer" not in given:
        fixed.append("trainer=frozen")
    GlobalHydra.instance().clear()
    (run,) = Composer().plan([*fixed, *words]).jobs
    runtime = reproducibility.resolve_runtime(run.cache_dir, run.device, run.precision, run.seed)
    stages = Stages(run, runtime)
    data = experiment.load_data(stages)
    experiment.check_data(run, data, runtime)
    reproducibility.seed_everything(run.seed)
    by_vector = run.retriever.uses_query_vectors
    model = run.model.load(run.task, runtime, encode_queries=by_vector)
    searcher = run.retriever.build(data.passages, runtime)
    pipeline = RagPipeline(run.task, run.retriever, model, searcher, data.passages)
    if run.trainer.trains:
        if data.validation:  # as in a run: p(z|x) is what joint trainers learn through
            pipeline.fit_temperature(data.validation)
        with tempfile.TemporaryDirectory() as output:
            recorder = Recorder()
            experiment.train(stages, data, pipeline, (None, None), recorder, Path(output))
    questions = [q for split in splits for q in getattr(data, split) if q.passage_ids]
    found = as_predictions(questions, pipeline.search(questions))
    return {m.name: np.array([m.score(prediction) for prediction in found]) for m in METRICS}


def show(values: np.ndarray, sign: str = "") -> str:
    low, high = bootstrap_mean_interval(values, seed=0, resamples=10_000)
    return f"{values.mean():{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def main() -> None:
    """Print a line for each command line, and a second one for its difference from the first."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("lines", nargs="+")
    parser.add_argument("--with", nargs="+", default=[], help="overrides that lines share")
    parser.add_argument("--splits", nargs="+", default=["test"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[13])
    arguments = parser.parse_args()
    shared = vars(arguments)["with"]
    first: dict[str, np.ndarray] | None = None
    for line in arguments.lines:
        start = time.perf_counter()
        runs = []
        for seed in arguments.seeds:
            words = [*shlex.split(line), *shared, f"seed={seed}"]
            runs.append(measure(words, arguments.splits))
            means = ", ".join(f"{name} {each.mean():.3f}" for name, each in runs[-1].items())
            print(f"{line}, seed {seed}: {means}", flush=True)
        scores = {name: np.mean([run[name] for run in runs], axis=0) for name in runs[0]}
        count = len(next(iter(scores.values())))
        print(f"{line}: {count} questions, {time.perf_counter() - start:.0f} s")
        print("  " + ", ".join(f"{name} {show(values)}" for name, values in scores.items()))
        if first is None:
            first = scores
        else:
            gains = {name: values - first[name] for name, values in scores.items()}
            print("  gain " + ", ".join(f"{n} {show(values, '+')}" for n, values in gains.items()))


if __name__ == "__main__":
    main()
