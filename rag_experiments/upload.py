"""Record what tracking did not take at the time: python -m rag_experiments.upload FOLDER."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from rag_experiments import options
from rag_experiments.contracts import UserError
from rag_experiments.tracking import journal
from rag_experiments.tracking.mlflow import Mlflow


def main() -> None:
    """Record in MLflow what runs kept in their folders while the store did not answer."""
    parser = argparse.ArgumentParser(
        prog="python -m rag_experiments.upload", description=main.__doc__
    )
    parser.add_argument("folder", type=Path, nargs="+", help="of a run, or of a sweep")
    parser.add_argument(
        "--tracking-uri", help="address of the store (default: the one that the run was for)"
    )
    arguments = parser.parse_args()
    try:
        for folder in find(arguments.folder):
            print(upload(folder, arguments.tracking_uri))
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


def find(folders: list[Path]) -> list[Path]:
    """Return the folders of runs with something left to record; raise UserError: there is none."""
    places = [each for folder in folders for each in (folder, *sorted(folder.glob("*/")))]
    found = [place for place in places if (place / journal.NAME).is_file()]
    if not found:
        raise UserError(f"{', '.join(map(str, folders))}: nothing is left to record here")
    return found


def upload(folder: Path, uri: str | None = None) -> str:
    """Record what a run kept; return a line that says where."""
    raw = OmegaConf.load(folder / ".hydra" / "config.yaml")
    assert isinstance(raw, DictConfig)
    store = options.build(raw.tracking, "tracking", check_paths=False)
    if not isinstance(store, Mlflow):
        raise UserError(f"{folder}: its tracking is {type(store).__name__}, not MLflow")
    if uri is not None:
        store = store.model_copy(update={"uri": uri})
    try:
        return f"{folder}: recorded as {store.upload(folder)}"
    except UserError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise UserError(f"{folder}: not recorded ({reason}); what is left stays there") from error


if __name__ == "__main__":
    main()
