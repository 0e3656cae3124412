"""A sweep over trainer settings against the same runs started one by one on an empty store.

    python tests/benchmarks/reuse.py [--runs 8] [--weights outputs/cache/weights] [override ...]

Overrides are those of a run, e.g. `+experiment=smoke` or `model=concat retriever=hybrid`; without
any, the defaults are run. Weights that are converted already are shared by both sides: give the
folder they are in. Both sides differ in `trainer.learning_rate` alone, and their predictions are
compared: what is reused must not change a byte. Not a test: real models take many minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple


class Side(NamedTuple):
    """What one side took."""

    wall: float
    cpu: float
    stages: Counter
    """Seconds of each stage, over all runs."""
    predictions: dict[str, str]
    """Contents of the predictions of each run, by its learning rate and file."""


def main() -> None:
    """Print the times of both sides, by stage, and their ratio."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--weights", type=Path, default=Path("outputs/cache/weights"))
    arguments, overrides = parser.parse_known_args()
    rates = [f"{1e-4 * (n + 1):.4f}" for n in range(arguments.runs)]
    with tempfile.TemporaryDirectory() as name:
        folder, weights = Path(name), arguments.weights.resolve()
        swept = ["-m", f"trainer.learning_rate={','.join(rates)}", "hydra.sweep.dir=runs"]
        sweep = measure(folder / "sweep", weights, [[*swept, *overrides]])
        single = [
            [
                "hydra.mode=RUN",
                f"trainer.learning_rate={rate}",
                f"hydra.run.dir=runs/{rate}",
                *overrides,
            ]
            for rate in rates
        ]
        alone = measure(folder / "alone", weights, single, empty_store=True)
    assert sweep.predictions == alone.predictions, "what is reused changed a prediction"
    print(f"{len(rates)} runs, {' '.join(overrides) or 'defaults'}; predictions are the same bytes")
    print("| | one sweep | runs on an empty store | ratio |")
    print("|---|---|---|---|")
    for title, ours, theirs in (
        ("wall time", sweep.wall, alone.wall),
        ("processor time", sweep.cpu, alone.cpu),
        *((f"stage {s}", sweep.stages[s], seconds) for s, seconds in alone.stages.items()),
    ):
        print(f"| {title} | {ours:.1f} s | {theirs:.1f} s | {ours / theirs:.2f} |")
    for title, side in (("sweep", sweep), ("runs", alone)):
        share = side.stages["training"] / side.wall
        print(f"pure training is {share:.0%} of the wall time of the {title}")


def measure(folder: Path, weights: Path, lines: list[list[str]], empty_store: bool = False) -> Side:
    """Run command lines one after another in a new folder; each has a store of its own, or one."""
    wall, before = 0.0, resource.getrusage(resource.RUSAGE_CHILDREN)
    for number, line in enumerate(lines):
        cache = folder / f"cache{number if empty_store else ''}"
        cache.mkdir(parents=True, exist_ok=True)
        if weights.is_dir() and not (cache / "weights").exists():
            (cache / "weights").symlink_to(weights)
        command = [sys.executable, "-m", "rag_experiments", f"cache_dir={cache}", *line]
        start = time.perf_counter()
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        wall += time.perf_counter() - start
        if done.returncode:
            sys.exit(f"{' '.join(command)}\n{done.stderr[-3000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    stages: Counter = Counter()
    predictions = {}
    for path in sorted(folder.glob("runs/*/metrics.json")):
        stages.update(json.loads(path.read_text("utf-8"))["seconds"])
        overrides = (path.parent / ".hydra" / "overrides.yaml").read_text("utf-8")
        rate = next(line for line in overrides.splitlines() if "learning_rate" in line)
        for file in path.parent.glob("predictions_*.jsonl"):
            predictions[f"{rate} {file.name}"] = file.read_text("utf-8")
    assert predictions
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Side(wall, used, stages, predictions)


if __name__ == "__main__":
    main()
