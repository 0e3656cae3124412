"""Any data set of the Hugging Face Hub, or a folder that `datasets` reads."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from rag_experiments.contracts import Option, Runtime, UserError
from rag_experiments.data.documents import DocumentColumns
from rag_experiments.data.problems import Problems
from rag_experiments.data.records import PassageColumns, QuestionColumns
from rag_experiments.data.source import (
    Source,
    Tables,
    find_folder_problems,
    list_folder,
    open_folder,
)
from rag_experiments.data.splits import SPLITS
from rag_experiments.data.tables import Row, Table, find_folder_problem

_COMMIT = re.compile(r"[0-9a-f]{40}")

Name = Annotated[str, Field(min_length=1)]


class HubSplits(Option):
    """The data set's own names of the splits; slices such as `train[:80%]` work, too."""

    train: Name | None = "train"
    validation: Name | None = None
    test: Name | None = None


class HubPassages(Option):
    """A knowledge source on the Hub."""

    dataset: Name
    config_name: Name | None = None
    revision: Name | None = None
    split: Name = "train"
    columns: PassageColumns = PassageColumns()

    def problems(self) -> list[str]:
        """What is wrong with `dataset`, where it is a folder."""
        return _find_dataset_problems(self.dataset)


class Hub(Source):
    """A data set of the Hugging Face Hub with its splits and columns.

    `dataset` is a Hub id, or a folder (`./name`, `/name`, `~/name`) with files that `datasets`
    loads. Splits that the data set does not have are made of the ids in `validation_ids` and
    `test_ids`, or else taken from train by a stable hash of the id.
    """

    dataset: Name
    config_name: Name | None = None
    revision: Name | None = None
    """Tag, branch or commit; None is the newest, which can change."""
    splits: HubSplits = HubSplits()
    validation_ids: str | list[str] | None = None
    """Ids of the validation questions: a list, or a file with one id a line or with a JSON
    list or object (then its keys). They are taken out of every other split."""
    test_ids: str | list[str] | None = None
    """Ids of the test questions; as `validation_ids`."""
    columns: QuestionColumns | DocumentColumns = QuestionColumns()
    """Their kind says what the records are: questions, or documents with summaries."""
    passages: str | HubPassages | None = None
    """None: the contexts of the questions (`columns.context`); or a file or folder; or a
    data set of the Hub."""
    path: str | None = None
    """A local copy in the layout of `data=folder`. It is read instead of the Hub, with its own
    splits, fields and passages (only `passages` as a file or folder still holds)."""

    def problems(self) -> list[str]:
        """What is wrong with the paths, and whether there are passages at all."""
        found = []
        if self.path is not None:
            own = not isinstance(self.passages, str)
            layout = find_folder_problems(Path(self.path).expanduser(), own)
            return [f"path: {problem}" for problem in layout] + super().problems()
        found += _find_dataset_problems(self.dataset)
        if self.splits.train is None and self.splits.test is None:
            found.append("splits.train: null, and splits.test too; legal: a split in one of them")
        context = not isinstance(self.columns, QuestionColumns) or self.columns.context
        if self.passages is None and context is None:
            found.append(
                "passages: null; legal: a file of passages, a folder of documents, a Hub data set "
                "(dataset, config_name, split, columns), or null with columns.context"
            )
        for name in ("validation_ids", "test_ids"):
            value = getattr(self, name)
            if isinstance(value, str) and not Path(value).expanduser().is_file():
                found.append(f"{name}: {value!r} does not exist; legal: a file or a list of ids")
        return found + super().problems()

    def files(self) -> list[Path] | None:
        """Local files alone; None where something is read from the Hub that is not pinned to a
        commit."""
        files = self.passages_files()
        if self.path is not None:
            return [*files, *list_folder(Path(self.path).expanduser())]
        named = [(self.dataset, self.revision)]
        if isinstance(self.passages, HubPassages):
            named.append((self.passages.dataset, self.passages.revision))
        for dataset, revision in named:
            folder = Path(dataset).expanduser()
            if folder.is_dir():
                files += sorted(path for path in folder.rglob("*") if path.is_file())
            elif not _COMMIT.fullmatch(revision or ""):
                return None
        for ids in (self.validation_ids, self.test_ids):
            if isinstance(ids, str):
                files.append(Path(ids).expanduser())
        return files

    def open(self, problems: Problems, runtime: Runtime) -> Tables:
        """Tables of the local copy, or of the splits as `datasets` loads them."""
        if self.path is not None:
            return open_folder(Path(self.path).expanduser(), problems)
        splits = {}
        for name in SPLITS:
            split = getattr(self.splits, name)
            if split is not None:
                splits[name] = _load_table(self.dataset, self.config_name, self.revision, split)
        ids: dict[str, Collection[str]] = {}
        for name in ("validation", "test"):
            value = getattr(self, f"{name}_ids")
            if value is not None:
                ids[name] = read_ids(value, f"data.{name}_ids", problems)
        tables = Tables(splits, columns=self.columns, ids=ids)
        if isinstance(self.passages, HubPassages):
            source = self.passages
            tables.passages = _load_table(
                source.dataset, source.config_name, source.revision, source.split
            )
            tables.passage_columns = source.columns
        return tables


def read_ids(value: str | list[str], name: str, problems: Problems) -> list[str]:
    """Ids of a list, or of a file: one a line, a JSON list, or the keys of a JSON object."""
    if not isinstance(value, str):
        return value
    path = Path(value).expanduser()
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        problems.add(name, f"{value!r} cannot be read: {error}")
        return []
    if text.lstrip().startswith(("[", "{")):
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            problems.add(f"{path}:{error.lineno}", f"not JSON: {error.msg}")
            return []
        ids = [str(item) for item in content]
    else:
        ids = [line.strip() for line in text.splitlines() if line.strip()]
    if not ids:
        problems.add(name, f"{value!r} holds no id")
    return ids


def _find_dataset_problems(dataset: str) -> list[str]:
    if not dataset.startswith((".", "/", "~")):
        return []
    problem = find_folder_problem(Path(dataset).expanduser())
    return [f"dataset: {problem}"] if problem else []


def _load_table(dataset: str, config_name: str | None, revision: str | None, split: str) -> Table:
    """Load one split; what the Hub answers becomes one line that says what to do."""
    import datasets

    local = dataset.startswith((".", "/", "~"))
    name = str(Path(dataset).expanduser()) if local else dataset
    shown = f"{dataset!r}" + (f" ({config_name})" if config_name else "")
    unreachable = None if local or Path(name).is_dir() else _find_connection_problem()
    offline = datasets.config.HF_HUB_OFFLINE
    try:
        if unreachable:
            # Else the Hub is asked again and again for 20 s; what is in its cache loads anyway.
            datasets.config.HF_HUB_OFFLINE = True
        loaded: Any = datasets.load_dataset(name, config_name, revision=revision, split=split)
    # Every backend of `datasets` raises its own errors; all of them are about the names given
    # or the connection.
    except Exception as error:
        reason = _first_line(error)
        if local:
            line = f"split {split!r} of {shown} cannot be read: {reason}"
        elif isinstance(error, ConnectionError | TimeoutError):
            line = (
                f"{shown} cannot be had from the Hub ({unreachable or reason}) and its cache has "
                f"no copy; {_REMEDY} (HF_HUB_OFFLINE, HF_ENDPOINT, HTTPS_PROXY)"
            )
        elif isinstance(error, datasets.exceptions.DatasetNotFoundError):
            line = f"{reason.rstrip('.')}; {_REMEDY} (HF_TOKEN where access is restricted)"
        else:
            line = f"split {split!r} of {shown} cannot be read: {reason}; {_REMEDY}"
        raise UserError(f"data.dataset: {line}") from error
    finally:
        datasets.config.HF_HUB_OFFLINE = offline
    title = "/".join(part for part in (dataset, config_name, split) if part)
    return Table(title, _iterate(loaded), columns=tuple(loaded.column_names), unit="row ")


_REMEDY = (
    "give data.path=<folder>, a local copy in the layout of data=folder, or check dataset, "
    "config_name, revision, splits and the network"
)


@cache
def _find_connection_problem() -> str | None:
    """Why the Hub's address does not answer, or None; asked once."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=10)
    except Exception as error:  # which class depends on the HTTP library of huggingface_hub
        return _first_line(error)
    return None


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _iterate(loaded: Any) -> Iterator[Row]:
    import datasets

    names = {
        column: feature
        for column, feature in loaded.features.items()
        if isinstance(feature, datasets.ClassLabel)
    }
    for number, values in enumerate(loaded, start=1):
        for column, feature in names.items():
            # A class is stored as a number; its name is what an answer says.
            if isinstance(values[column], int) and values[column] >= 0:
                values[column] = feature.int2str(values[column])
        yield Row(number, values)
