"""The RAG core against transformers, peft and sentence-transformers: how many times as fast.

    python tests/benchmarks/core.py [row ...] [--data FOLDER] [--rounds N]
    python tests/benchmarks/core.py --curve          # losses of 100 steps, bf16 beside fp32
    python tests/benchmarks/core.py --ndcg FOLDER    # what bf16 changes in what is found

Each row runs both sides in turns, on the same weights, inputs and trainable parameters, after it
has shown that they compute the same. Columns: theirs as its recipe runs it (padding to 300
tokens, fp32), and theirs tuned (dynamic padding, bf16 autocast). A cell is the ratio of medians
(theirs / ours: larger is better for ours) with the quartiles of the ratios of single rounds.
FOLDER is in the layout of data=folder; without it the shipped bio_qa, whose passages are shorter
than 100 words. Threads: OMP_NUM_THREADS.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import loss_curve
import torch
import transformers
from inputs import QUICK, Inputs, Sizes, read_inputs
from side_by_side import (
    HEAD,
    OURS,
    RECIPE,
    TUNED,
    Contest,
    describe,
    peak_of_own_process,
    run_in_turns,
)

from rag_experiments.runtime import memory
from rag_experiments.runtime.reproducibility import cpu_flags, hardware

ROWS = (
    "rag_token_training",
    "rag_sequence_training",
    "rag_sequence_decoding",
    "rag_token_decoding",
    "lora",
    "embedding",
    "memory",
)


def make_contest(row: str, inputs: Inputs, sizes: Sizes, folder: Path) -> Contest:
    """The sides of a row, with their weights."""
    if row == "lora":
        import lora_sides

        return lora_sides.contest(inputs, sizes)
    if row == "embedding":
        import embedding_sides

        return embedding_sides.contest(inputs, sizes)
    import rag_sides

    name, _, work = row.rpartition("_")
    bart = rag_sides.bart_folder(inputs, sizes, folder)
    make: Callable[..., Contest] = (
        rag_sides.training_contest if work == "training" else rag_sides.decoding_contest
    )
    return make(name, inputs, sizes, bart)


def measure_memory(options: argparse.Namespace, folder: Path) -> str:
    """A row of the table: peaks of the training step, a process a side."""
    same = ["--data", str(options.data)] if options.data else []
    same += ["--quick"] if options.quick else []
    same += ["--cache-dir", str(options.cache_dir), "--folder", str(folder)]
    peaks = {
        column: peak_of_own_process(Path(__file__), ["--alone", column, *same])
        for column in (RECIPE, TUNED, OURS)
    }
    recipe, tuned = (f"{peaks[OURS] / peaks[column]:.2f} of it" for column in (RECIPE, TUNED))
    held = ", ".join(f"{name} {peak:.0f} MiB" for name, peak in peaks.items())
    return (
        f"| peak memory of the RAG-Token training step | {recipe}, goal 0.6 | | {tuned}, goal 0.8 "
        f"| {held} |"
    )


def run_alone(column: str, inputs: Inputs, sizes: Sizes, folder: Path) -> None:
    """Train with one side and print what that took beyond the libraries and the inputs."""
    import rag_sides

    bart = rag_sides.bart_folder(inputs, sizes, folder)
    gc.collect()
    before = resident()
    rag_sides.train_alone("rag_token", column, inputs, sizes, bart)
    print(json.dumps({"peak_mib": memory.peak() - before}))


def resident() -> float:
    """MiB that this process holds now; 0 where the system does not say."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return 0.0
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", nargs="*", metavar="row", help=f"{', '.join(ROWS)} (default: all)")
    parser.add_argument("--data", type=Path, help="folder in the layout of data=folder")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="tiny models: to see that it runs")
    parser.add_argument("--curve", action="store_true", help="losses in bf16 beside fp32")
    parser.add_argument("--steps", type=int, default=100, help="of --curve")
    parser.add_argument("--ndcg", type=Path, metavar="FOLDER", help="with qrels/test.tsv")
    parser.add_argument("--cache-dir", type=Path, default=Path("outputs/cache"))
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--alone", choices=(RECIPE, TUNED, OURS), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    unknown = set(options.rows) - set(ROWS)
    if unknown:
        parser.error(f"unknown rows: {', '.join(sorted(unknown))}; legal: {', '.join(ROWS)}")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, a row as soon as it is measured."""
    options = parse(arguments)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("sentence_transformers").setLevel(logging.ERROR)
    sizes = QUICK if options.quick else Sizes()
    if options.curve:  # no question twice: else learnt by heart
        held_out = loss_curve.HELD_OUT
        steps = sizes.batches if options.quick else options.steps
        sizes = replace(sizes, questions=2, batches=steps + held_out)
    inputs = read_inputs(options.data, sizes, options.cache_dir)
    if options.alone:
        run_alone(options.alone, inputs, sizes, options.folder)
        return
    if options.curve:
        loss_curve.print_curves(inputs, options.steps)
        return
    if options.ndcg:
        import embedding_sides

        embedding_sides.print_ndcg(inputs, options.ndcg)
        return
    flags = sorted({"avx512_bf16", "amx_bf16"} & cpu_flags())
    print(
        f"{hardware()['processor']}, {torch.get_num_threads()} threads, "
        f"{' and '.join(flags) or 'no bf16 instructions'}; "
        f"torch {torch.__version__}, transformers {transformers.__version__}; "
        f"{sizes.questions} questions x {sizes.passages} passages of at most {sizes.words} words, "
        f"{options.rounds} rounds"
    )
    print(f"\n{HEAD}", flush=True)
    notes = []
    with tempfile.TemporaryDirectory() as folder:
        for row in options.rows or ROWS:
            if row == "memory":
                print(measure_memory(options, Path(folder)), flush=True)
                continue
            contest = make_contest(row, inputs, sizes, Path(folder))
            notes.append(f"- {contest.name}: {contest.check()}")
            print(describe(contest, run_in_turns(contest.sides, options.rounds)), flush=True)
            del contest  # before the next row's weights are loaded
            gc.collect()
    print("\nShown to be the same before:", *notes, sep="\n")


if __name__ == "__main__":
    main()
