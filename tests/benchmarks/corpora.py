"""How time, memory and disk of preparing a corpus and of dense retrieval in it grow with it: flat,
hnsw and ivf_pq.

    python tests/benchmarks/corpora.py --data FOLDER ... [--sizes 10000 100000 1000000]

Passages and questions of the folders (passages.jsonl, train.jsonl, validation.jsonl, test.jsonl)
are embedded; a corpus larger than their passages has vectors drawn around those: each is one of
them moved by the difference of two others, as far as neighbours are apart, so that it has
neighbours, and in the directions in which texts differ; what is read and prepared are their texts
again and again, each with a number of its own. Each of these steps runs in a process of its own.
Memory is the peak of what a process holds beside pages of files, which the system takes back when
it needs them, and beside what it held before. Recall is of the 10 nearest by exact search. Then
follow the growth that fits the figures (a power of the number of passages for times, a line for
memory and disk, and for preparing), and what it comes to at --plan passages. Threads:
OMP_NUM_THREADS. With --folder what is made stays there, and is not made again.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from hydra import compose, initialize_config_module

from rag_experiments import config
from rag_experiments.contracts import Question, Runtime
from rag_experiments.data.folder import Folder
from rag_experiments.runtime.disk import write_size
from rag_experiments.runtime.reproducibility import hardware, resolve_dtype

INDEXES = ("flat", "hnsw", "ivf_pq")
BATCHES = (1, 64)
TOP_K = 10
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, nargs="+", help="folders with passages and questions")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--indexes", nargs="+", choices=INDEXES, default=list(INDEXES))
    parser.add_argument("--set", nargs="*", default=[], help="settings, e.g. index.nprobe=64")
    parser.add_argument("--questions", type=int, default=256)
    parser.add_argument(
        "--clock",
        choices=list(CLOCKS),
        default="wall",
        help="cpu: processor time, for one thread of a machine that others use too",
    )
    parser.add_argument("--plan", type=int, default=21_000_000, help="passages to extrapolate to")
    parser.add_argument("--cache-dir", type=Path, default=Path("outputs/cache"), help="of weights")
    parser.add_argument("--folder", type=Path, help="where vectors and indexes are kept")
    parser.add_argument("--quick", action="store_true", help="tiny: to see that it runs")
    parser.add_argument("--alone", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.quick:
        options.sizes, options.questions, options.plan = [300, 600], 64, 3000
        options.set = [*options.set, "index.m=8", "index.nbits=4"]
    elif not options.data:
        parser.error("--data is needed")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, a row as soon as it is measured, the growth and the plan."""
    options = parse(arguments)
    if options.alone:
        logging.disable(logging.WARNING)
        print(json.dumps(STEPS[options.alone[0]](options, *options.alone[1:])))
        return
    with tempfile.TemporaryDirectory() as scratch:
        options.folder = options.folder or Path(scratch)
        options.folder.mkdir(parents=True, exist_ok=True)
        compare(options)


def compare(options: argparse.Namespace) -> None:
    """Measure every size with every index."""
    embedded = run_alone(options, "embed")
    print(
        f"{hardware()['processor']}, {os.environ.get('OMP_NUM_THREADS', 'all')} threads, "
        f"{options.clock} time; "
        f"{embedded['passages']:,} passages and {embedded['questions']} questions of text, "
        f"{embedded['dimension']} dimensions; {embedded['pace']:.0f} passages a second embedded, "
        f"with {embedded['memory']:.0f} MiB"
    )
    prepared = []
    for size in options.sizes:
        run_alone(options, "write", str(size))
        prepared.append({"passages": size, **run_alone(options, "prepare", str(size))})
    print("\n| passages | read and prepared in | memory of it |\n|---|---|---|")
    for row in prepared:
        taken, held = write_time(row["prepare"]), f"{row['prepare_memory']:.0f} MiB"
        print(f"| {row['passages']:,} | {taken} | {held} |", flush=True)
    print(
        "\n| passages | index | build | its estimate | memory of the build | disk | "
        f"memory of the search | recall@{TOP_K} | latency at 1 | latency at {BATCHES[1]} |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in options.indexes}
    for size in options.sizes:
        run_alone(options, "draw", str(size))
        for name in options.indexes:
            built = run_alone(options, "build", name, str(size))
            row = {**built, **run_alone(options, "search", name, str(size))}
            rows[name].append({"passages": size, **row})
            print(
                f"| {size:,} | `{name}` | {write_time(row['build'])} "
                f"| {write_time(row['estimate'])} | {row['build_memory']:.0f} MiB "
                f"| {write_size(row['disk'])} | {row['search_memory']:.0f} MiB "
                f"| {row['recall']:.3f} | {write_time(row['latency_1'])} "
                f"| {write_time(row['latency_64'])} |",
                flush=True,
            )
    if len(options.sizes) > 1:
        print_plan(options, rows, embedded["pace"], prepared)


def print_plan(
    options: argparse.Namespace,
    rows: dict[str, list[dict[str, float]]],
    pace: float,
    prepared: list[dict[str, float]],
) -> None:
    """Print the growth of every figure, and what it comes to."""
    count = options.plan
    sizes = [row["passages"] for row in prepared]
    taken, seconds = fit_line(sizes, [row["prepare"] for row in prepared], count)
    each, most = fit_line(sizes, [row["prepare_memory"] * 2**20 for row in prepared], count)
    print(
        f"\nReading and preparing {count:,} passages: {write_time(seconds)} ({taken * 1e6:.0f} us "
        f"each), {write_size(max(most, 0))} of memory ({each:.0f} B each)."
    )
    print(f"\nEmbedding {count:,} passages: {write_time(count / pace)}. Growth, and at that size:")
    print(
        "\n| index | build | memory of the build | disk | latency at 1 | "
        f"latency at {BATCHES[1]} |\n|---|---|---|---|---|---|"
    )
    for name, measured in rows.items():
        sizes = [row["passages"] for row in measured]

        def grow(
            key: str, sizes: list[float] = sizes, measured: list[dict[str, float]] = measured
        ) -> str:
            power, value = fit_power(sizes, [row[key] for row in measured], count)
            return f"n^{power:.2f}: {write_time(value)}" if value else "none"

        def line(
            key: str,
            unit: int,
            sizes: list[float] = sizes,
            measured: list[dict[str, float]] = measured,
        ) -> str:
            slope, value = fit_line(sizes, [row[key] * unit for row in measured], count)
            return f"{slope:.0f} B each: {write_size(max(value, 0))}"

        print(
            f"| `{name}` | {grow('build')} | {line('build_memory', 2**20)} | {line('disk', 1)} "
            f"| {grow('latency_1')} | {grow('latency_64')} |"
        )


def fit_power(sizes: Sequence[float], values: Sequence[float], size: float) -> tuple[float, float]:
    """Exponent p of the c n^p that fits best by the logarithms, and its value at a size."""
    if min(values) <= 0:
        return 0.0, 0.0
    power, start = np.polyfit(np.log(sizes), np.log(values), 1)
    return float(power), float(np.exp(start + power * np.log(size)))


def fit_line(sizes: Sequence[float], values: Sequence[float], size: float) -> tuple[float, float]:
    """Slope of the line that fits best, and its value at a size."""
    slope, start = np.polyfit(sizes, values, 1)
    return float(slope), float(start + slope * size)


def run_alone(options: argparse.Namespace, *step: str) -> dict[str, float]:
    """What a step prints that runs in a process of its own; steps that are there are not run."""
    name = "-".join([*step, *(options.set if step[0] in ("build", "search") else ())])
    kept = options.folder / f"{name}.json"
    if kept.is_file():
        return json.loads(kept.read_text("utf-8"))
    line = ["--folder", str(options.folder), "--cache-dir", str(options.cache_dir)]
    line += ["--questions", str(options.questions), "--clock", options.clock]
    line += ["--data", *map(str, options.data)] if options.data else []
    line += ["--quick"] if options.quick else []
    line += ["--set", *options.set] if options.set and not options.quick else []
    done = subprocess.run(
        [sys.executable, __file__, *line, "--alone", *step], capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(step)} failed:\n{done.stderr[-3000:]}")
    printed = done.stdout.splitlines()[-1]
    kept.write_text(printed, "utf-8")
    return json.loads(printed)


# --- Steps, each in a process of its own ------------------------------------------------------


def embed(options: argparse.Namespace) -> dict[str, float]:
    """Embed the passages and questions of the folders."""
    from datasets import Dataset

    from rag_experiments.retriever.embeddings import embed_passages

    clock, retriever = CLOCKS[options.clock], make_retriever(options, "flat")
    runtime = Runtime(options.cache_dir, "cpu", resolve_dtype("auto", "cpu"), 13)
    texts, questions = read_texts(options)
    retriever.encoder.load(runtime).encode(questions[:64], 32)  # weights are fetched and loaded
    random.Random(13).shuffle(texts)  # a small corpus is of all folders too
    rows = [{"id": str(i), "title": title, "text": text} for i, (title, text) in enumerate(texts)]
    passages = Dataset.from_list(rows)
    with measure() as held:
        start = clock()
        own = Runtime(options.folder / "cache", *(runtime.device, runtime.dtype, runtime.seed))
        link_weights(options)
        vectors = embed_passages(passages, retriever.encoder, own).vectors
        seconds = clock() - start
    np.save(options.folder / "real.npy", vectors)
    np.save(options.folder / "questions.npy", retriever.encoder.load(runtime).encode(questions))
    return {
        "passages": len(texts),
        "questions": len(questions),
        "dimension": vectors.shape[1],
        "pace": len(texts) / seconds,
        "memory": held(),
    }


def write(options: argparse.Namespace, size: str) -> dict[str, float]:
    """Write a file of passages and one of a question."""
    texts, questions = read_texts(options)
    folder = options.folder / f"texts-{size}"
    folder.mkdir(exist_ok=True)
    with (folder / "passages.jsonl").open("w", encoding="utf-8") as file:
        for i in range(int(size)):
            title, text = texts[i % len(texts)]
            row = {"id": str(i), "title": title, "text": f"{i} {text}"}
            file.write(json.dumps(row) + "\n")
    row = {"id": "0", "question": questions[0], "answers": "0", "passage_ids": "0"}
    (folder / "train.jsonl").write_text(json.dumps(row), encoding="utf-8")
    return {"passages": int(size)}


def prepare(options: argparse.Namespace, size: str) -> dict[str, float]:
    """Read and prepare a file of passages, as a run does."""
    import datasets  # noqa: F401  # else its import would be measured

    clock, folder = CLOCKS[options.clock], options.folder / f"texts-{size}"
    with measure() as held:
        start = clock()
        data = Folder(path=str(folder)).load(Runtime(options.folder / "cache"))
        seconds = clock() - start
    assert len(data.passages) == int(size)
    return {"prepare": seconds, "prepare_memory": held()}


def draw(options: argparse.Namespace, size: str) -> dict[str, float]:
    """Write the vectors of a corpus, its ids, and the nearest of every question."""
    import pyarrow as pa

    from rag_experiments.retriever.scan import VectorScan

    count = int(size)
    real = np.load(options.folder / "real.npy")
    questions = np.load(options.folder / "questions.npy")
    scale = find_scale(real, np.random.default_rng(13))
    shape = (count, real.shape[1])
    vectors = np.lib.format.open_memmap(
        options.folder / f"vectors-{size}.npy", "w+", np.float32, shape
    )
    for start in range(0, count, 1 << 16):
        rows = np.arange(start, min(count, start + (1 << 16)))
        vectors[rows] = draw_vectors(real, rows, scale)
    vectors.flush()
    ids = pa.array([f"p{i}" for i in range(count)])
    table = pa.table({"id": ids, "document_id": ids})
    with pa.ipc.new_stream(str(options.folder / f"ids-{size}.arrow"), table.schema) as stream:
        stream.write_table(table, max_chunksize=1000)
    np.save(options.folder / f"nearest-{size}.npy", VectorScan(vectors).search(questions, TOP_K)[1])
    return {"passages": count}


def draw_vectors(real: np.ndarray, rows: np.ndarray, scale: float) -> np.ndarray:
    """Vectors of rows: the real ones, and beyond them one moved by the difference of two others."""
    generator = np.random.default_rng(int(rows[0]))
    drawn, new = real[rows % len(real)], rows >= len(real)
    one, other = generator.integers(len(real), size=(2, int(new.sum())))
    moved = drawn[new] + scale * (real[one] - real[other])
    drawn[new] = moved / np.linalg.norm(moved, axis=1, keepdims=True)
    return drawn


def find_scale(real: np.ndarray, generator: np.random.Generator) -> float:
    """What a difference of two vectors is scaled by to be as long as neighbours are apart."""
    from rag_experiments.retriever.scan import VectorScan

    asked = generator.integers(len(real), size=min(1000, len(real)))
    scores = VectorScan(real).search(real[asked], 2)[0][:, 1]
    apart = np.median(np.sqrt(np.maximum(2 - 2 * scores, 0)))
    one, other = generator.integers(len(real), size=(2, 1000))
    return float(apart / np.median(np.linalg.norm(real[one] - real[other], axis=1)))


def build(options: argparse.Namespace, name: str, size: str) -> dict[str, float]:
    """Build and write an index."""
    import faiss

    clock, index = CLOCKS[options.clock], make_retriever(options, name).index
    vectors = np.load(options.folder / f"vectors-{size}.npy", mmap_mode="r")
    estimate = index.measure_seconds(*vectors.shape)
    file = options.folder / f"{name}-{size}.faiss"
    with measure() as held:
        start = clock()
        built = index.build(vectors)
        if name != "flat":
            faiss.write_index(built, str(file))
        seconds = clock() - start
    disk = file.stat().st_size if file.is_file() else 0
    return {
        "build": seconds if name != "flat" else 0.0,
        "estimate": estimate,
        "build_memory": held(),
        "disk": disk + vectors.nbytes,
    }


def search(options: argparse.Namespace, name: str, size: str) -> dict[str, float]:
    """Search all questions one by one and in batches."""
    from datasets import Dataset

    from rag_experiments.retriever.dense_search import DenseSearcher

    clock, folder = CLOCKS[options.clock], options.folder
    index = make_retriever(options, name).index
    vectors = np.load(folder / f"vectors-{size}.npy", mmap_mode="r")
    queries = np.load(folder / "questions.npy")
    nearest = np.load(folder / f"nearest-{size}.npy")
    passages = Dataset.from_file(str(folder / f"ids-{size}.arrow"))
    asked = [Question(str(i), "") for i in range(len(queries))]
    with measure() as held:
        opened = (
            index.build(vectors) if name == "flat" else index.read(folder / f"{name}-{size}.faiss")
        )
        searcher = DenseSearcher(passages, vectors, opened, index.refine_factor, "")
        hits = searcher.search(asked, TOP_K, queries)  # all pages are in memory then
        found = [[int(hit.passage_id[1:]) for hit in each] for each in hits]
        latency = {}
        for batch in BATCHES:
            times = []
            for start in range(0, len(asked) - batch + 1, batch):
                chosen = slice(start, start + batch)
                begun = clock()
                searcher.search(asked[chosen], TOP_K, queries[chosen])
                times.append(clock() - begun)
                if sum(times) > 20:
                    break
            latency[f"latency_{batch}"] = median(times) if times else 0.0
    shared = [len({*rows} & {*own}) for rows, own in zip(found, nearest.tolist(), strict=True)]
    return {**latency, "recall": sum(shared) / nearest.size, "search_memory": held()}


STEPS: dict[str, Callable[..., dict[str, float]]] = {
    "embed": embed,
    "write": write,
    "prepare": prepare,
    "draw": draw,
    "build": build,
    "search": search,
}


def make_retriever(options: argparse.Namespace, index: str) -> Any:
    """The dense retriever of a run with an index."""
    chosen = ["retriever=dense", f"retriever/index={index}"]
    if options.quick:
        chosen += ["retriever/encoder=tiny", "model/query_encoder=tiny"]
    known = {"flat": (), "hnsw": ("ef_", "m=", "parallel"), "ivf_pq": ("n", "m=", "refine")}[index]
    for setting in options.set:
        if setting.removeprefix("index.").startswith(known):
            chosen.append(f"retriever.{setting}")
    with initialize_config_module("rag_experiments.conf", version_base="1.3"):
        return config.load(compose("config", overrides=chosen)).retriever


def read_texts(options: argparse.Namespace) -> tuple[list[tuple[str, str]], list[str]]:
    """Passages (title, text) and questions of the folders, each once."""
    if options.quick:
        words = [f"word{i}" for i in range(40)]
        texts = [("", f"{a} {b} and {a}") for a in words for b in words[:5]]
        return texts, [text for _, text in texts[: options.questions]]
    passages: dict[tuple[str, str], None] = {}
    questions: dict[str, None] = {}
    for folder in options.data:
        for row in read_lines(folder / "passages.jsonl"):
            passages[row.get("title", ""), row["text"]] = None
        for split in ("train", "validation", "test"):
            for row in read_lines(folder / f"{split}.jsonl"):
                questions[row["question"]] = None
    asked = list(questions)
    return list(passages), asked[:: max(1, len(asked) // options.questions)][: options.questions]


def read_lines(file: Path) -> Iterator[dict[str, Any]]:
    with file.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def link_weights(options: argparse.Namespace) -> None:
    """Let the folder's own cache, which holds no vectors yet, share the weights."""
    own = options.folder / "cache" / "weights"
    own.parent.mkdir(parents=True, exist_ok=True)
    if not own.exists():
        own.symlink_to((options.cache_dir / "weights").resolve())


@contextmanager
def measure() -> Iterator[Callable[[], float]]:
    """Watch the memory of a block; what it gives returns the MiB that it took at most."""
    before, most, done = held_mib(), [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            most[0] = max(most[0], held_mib() - before)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield lambda: most[0]
        most[0] = max(most[0], held_mib() - before)
    finally:
        done.set()
        thread.join()


def held_mib() -> float:
    """MiB of this process beside pages of files; 0 where the system does not say."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return 0.0
    line = next(line for line in status.splitlines() if line.startswith("RssAnon:"))
    return int(line.split()[1]) / 1024


def write_time(seconds: float) -> str:
    """Seconds for people."""
    for limit, unit, size in ((0.1, "ms", 1e-3), (120, "s", 1), (7200, "min", 60)):
        if seconds < limit:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds / 3600:.1f} h"


if __name__ == "__main__":
    main()
