"""Write a saved run for other machines: python -m rag_experiments.export RUN FOLDER."""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from pathlib import Path

from rag_experiments.contracts import UserError


def main() -> None:
    """Write the model of a saved run in transformers' RAG layout, with the same outputs."""
    parser = argparse.ArgumentParser(
        prog="python -m rag_experiments.export", description=main.__doc__
    )
    parser.add_argument(
        "--whole",
        action="store_true",
        help="write the saved model itself instead, together with the pretrained weights it needs",
    )
    parser.add_argument("run", type=Path, help="folder of a run, as it printed it")
    parser.add_argument("folder", type=Path, help="new folder to write the checkpoint to")
    parser.add_argument("--cache-dir", type=Path, help="folder of the weights (default: the run's)")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    write = export_whole if arguments.whole else export
    try:
        write(arguments.run, arguments.folder, arguments.cache_dir)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    print(f"saved in {arguments.folder}")
    if arguments.whole:
        place = shlex.quote(str(arguments.folder))
        print(f"serve it:  mlflow models serve --env-manager local -m {place}")
        return
    print(
        f"train it on:  python -m rag_experiments model.weights={arguments.folder.absolute()} ..."
    )


def export(run: Path, folder: Path, cache_dir: Path | None = None) -> None:
    """Write the model of a saved run to a folder that transformers' RAG loads.

    The folder's passages and index stay behind: transformers reads its own. Raises UserError
    where the folder holds something, or where transformers has no such model.
    """
    from rag_experiments import bundle, options
    from rag_experiments.model.checkpoint import check_exportable, save_checkpoint
    from rag_experiments.pipeline import RagPipeline

    _require_new(folder)
    raw, _ = bundle.read(bundle.locate(run))
    check_exportable(options.build(raw.model, "model", check_paths=False))
    # On the CPU, and in float32: frozen weights may be kept in a narrower type elsewhere.
    pipeline = RagPipeline.load(
        run, device="cpu", precision="float32", cache_dir=cache_dir, encode_queries=True
    )
    by_vector = pipeline.retriever.uses_query_vectors
    save_checkpoint(
        pipeline.model,
        folder,
        passages=max(1, pipeline.retriever.top_k),
        temperature=pipeline.temperature if by_vector else 1.0,
    )


def export_whole(run: Path, folder: Path, cache_dir: Path | None = None) -> None:
    """Copy the saved model of a run, with its base weights, so that nothing is fetched for it.

    Raises UserError where the folder holds something.
    """
    from rag_experiments import bundle

    _require_new(folder)
    bundle.copy_whole(bundle.locate(run), folder, cache_dir)


def _require_new(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{str(folder)!r} exists already; give a new folder")


if __name__ == "__main__":
    main()
