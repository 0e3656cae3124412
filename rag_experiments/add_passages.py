"""Add documents to a saved model: python -m rag_experiments.add_passages RUN SOURCE."""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_experiments.contracts import Runtime, UserError

if TYPE_CHECKING:
    from datasets import Dataset
    from omegaconf import DictConfig

log = logging.getLogger(__name__)

SHOWN = 5
"""Ids that a message names."""


def main() -> None:
    """Add passages to the index of a saved run; its model stays as it is."""
    parser = argparse.ArgumentParser(
        prog="python -m rag_experiments.add_passages", description=main.__doc__
    )
    parser.add_argument("run", type=Path, help="folder of a run, as it printed it")
    parser.add_argument(
        "source",
        type=Path,
        help="passages with id, title and text (JSON lines, CSV or Parquet), or a folder of "
        "documents (Markdown, text, PDF)",
    )
    parser.add_argument(
        "--replace", action="store_true", help="put passages in the place of those with their ids"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps, ...")
    parser.add_argument("--cache-dir", type=Path, help="folder of the weights (default: the run's)")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        said = add_passages(
            arguments.run,
            arguments.source,
            replace=arguments.replace,
            device=arguments.device,
            cache_dir=arguments.cache_dir,
        )
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    print(said)


def add_passages(
    run: Path,
    source: Path,
    *,
    replace: bool = False,
    device: str = "auto",
    cache_dir: Path | None = None,
) -> str:
    """Add passages to the bundle of a run, and return what was done.

    They are prepared (normalized, chunked) as the run's own were. Vectors of the passages that are
    there stay, and the new ones alone are embedded; word indexes are built again. The bundle is
    replaced when the new one is whole. Raises UserError, and changes nothing, where a record is
    wrong, or a document has the id of one that is there (unless told to `replace` it).
    """
    from datasets import Dataset, concatenate_datasets

    from rag_experiments import bundle, options
    from rag_experiments.runtime import disk
    from rag_experiments.runtime.reproducibility import resolve_runtime

    folder = bundle.locate(run)
    raw, facts = bundle.read(folder)
    task, retriever = (
        options.build(raw[group], group, check_paths=False) for group in ("task", "retriever")
    )
    if task.records != "questions":
        raise UserError(
            f"{str(run)!r}: trained for task={task.name}, whose documents bring their own "
            "passages; give a run that answers questions"
        )
    cache_dir = cache_dir or bundle.find_cache(folder, raw.cache_dir)
    runtime = resolve_runtime(cache_dir, device, raw.precision, raw.seed)
    names = bundle.base_weights({"retriever": retriever}, folder)
    bundle.check_weights(names, facts, runtime.cache_dir)
    old = Dataset.from_parquet(str(folder / "passages.parquet"))
    new = read_passages(source, raw, runtime)
    known = set(new["document_id"])
    again = sorted(known & set(old["document_id"]))
    if again and not replace:
        raise UserError(
            f"{source}: {len(again)} of {len(known)} documents have ids that are in the index, "
            f"e.g. {', '.join(map(repr, again[:SHOWN]))}; give them other ids, or put them in the "
            "place of those with --replace"
        )
    kept = old.select([row for row, name in enumerate(old["document_id"]) if name not in known])
    passages = concatenate_datasets([kept, new.cast(kept.features)])
    problems = retriever.data_problems(len(passages))
    if problems:
        raise UserError([f"retriever.{line}" for line in problems])

    searcher = retriever.load(folder / "index", old, runtime)
    extended = retriever.extend(searcher, passages, frozenset(kept["id"]), runtime)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    ignored = shutil.ignore_patterns("index", "passages.parquet", bundle.FACTS)
    shutil.copytree(folder, partial, ignore=ignored, copy_function=disk.link)
    extended.save(partial / "index")
    passages.to_parquet(partial / "passages.parquet")
    bundle.seal(partial, {**facts, "passages": len(passages)})
    before = folder.with_name(f".{folder.name}.before")
    folder.rename(before)
    partial.rename(folder)
    shutil.rmtree(before)
    replaced = f" in the place of {len(old) - len(kept)}" if again else ""
    return (
        f"{len(new)} passages added{replaced}: {len(passages)} in {folder}\n"
        "a copy in MLflow, and the run's own results, are as they were"
    )


def read_passages(source: Path, raw: DictConfig, runtime: Runtime) -> Dataset:
    """Read passages, and prepare them as the data of a run was prepared."""
    from rag_experiments import options
    from rag_experiments.data import corpus
    from rag_experiments.data.preparation import Limit, Preparation
    from rag_experiments.data.problems import Problems
    from rag_experiments.data.source import is_corpus, read_knowledge_source

    problems = Problems()
    read = read_knowledge_source(source, problems, runtime.cache_dir)
    preparation: Any = Preparation()
    if "preparation" in raw.data:  # an option of one's own may have none
        preparation = options.build(raw.data.preparation, "data.preparation")
    if is_corpus(source) and not preparation.shortens:
        long = corpus.describe_long(read.passages)
        if long is not None:
            problems.add(
                str(source),
                f"{long}: the run does not chunk its passages (data.preparation.chunk.unit: null); "
                "give shorter ones, or a run that does",
            )
    problems.raise_if_any()
    preparation = preparation.model_copy(update={"limit": Limit()})
    empty: dict[str, list[Any]] = {"train": [], "validation": [], "test": []}
    return preparation.prepare(read.passages, empty, read.notes, runtime).passages


if __name__ == "__main__":
    main()
