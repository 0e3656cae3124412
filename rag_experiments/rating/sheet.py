"""A blinded sheet: answers of several runs in random order, and the key that tells whose."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rag_experiments import bundle
from rag_experiments.contracts import UserError
from rag_experiments.rating.criteria import CRITERIA, NAMES, TEXTS, Criterion
from rag_experiments.runtime import disk
from rag_experiments.spreadsheet import read_table, write_table

SHEET = "sheet.csv"
_SHOWN = ("item", "question", "expected", "answer")
COLUMNS = (*_SHOWN, *NAMES)
"""Of every sheet; passages and texts may be absent."""
_PASSAGE = "passage_"


@dataclass(frozen=True, slots=True)
class Item:
    """One answer as raters see it."""

    name: str
    """Its number in the sheet, as text."""
    question: str
    expected: tuple[str, ...]
    """Accepted answers; empty where they are hidden."""
    answer: str
    passages: tuple[str, ...]

    @property
    def criteria(self) -> tuple[Criterion, ...]:
        """What this answer can be rated for."""
        return tuple(c for c in CRITERIA if self.passages or not c.needs_passages)


@dataclass(frozen=True, slots=True)
class Source:
    """Predictions of one run."""

    folder: Path
    stage: str
    """E.g. `trained` or `untrained`."""
    choices: str
    """What was chosen on the run's command line."""
    rows: Mapping[str, Mapping[str, Any]]
    """Rows of `predictions_<stage>.jsonl` by id of the question."""


def read_source(path: Path) -> Source:
    """Read a run's folder, or one of its files of predictions.

    Of a folder the last model's predictions are taken: trained, else untrained. Raises
    UserError where there are none or a line is no prediction.
    """
    if path.is_dir():
        files = [path / f"predictions_{stage}.jsonl" for stage in ("trained", "untrained")]
        file = next((file for file in files if file.is_file()), None)
        if file is None:
            raise bundle.no_run(path, "finished run", ["predictions_*.jsonl"])
    elif path.is_file() and path.name.startswith("predictions_"):
        file = path
    else:
        raise UserError(
            f"{path}: is no run; legal: the folder of a finished run, or one of its files "
            "predictions_<stage>.jsonl"
        )
    rows: dict[str, Mapping[str, Any]] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            for name in ("id", "question", "prediction", "answers", "passages"):
                row[name]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file}:{number}: is no prediction of a run ({error})") from error
        rows[str(row["id"])] = row
    folder = file.parent.absolute()
    return Source(folder, file.stem.removeprefix("predictions_"), _choices(folder), rows)


def make(
    paths: Sequence[Path], output: Path, questions: int, seed: int, show_expected: bool = True
) -> list[str]:
    """Write a sheet into a new folder and its key beside it; return sentences on what was done.

    The same `questions` questions are drawn for all runs, from those that all have answered.
    Answers that are alike, with passages that are alike, are rated once and count for each of
    their runs. Order and draw depend on `seed` alone.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"--output: {output} exists already; give a new folder for a new sheet")
    sources = [read_source(path) for path in paths]
    places = [(source.folder, source.stage) for source in sources]
    double = {
        f"{folder} ({stage})" for folder, stage in places if places.count((folder, stage)) > 1
    }
    if double:
        raise UserError(f"{', '.join(sorted(double))}: given twice; name every run once")
    shared = _shared(sources)
    notes = []
    if len(shared) < questions:
        notes.append(f"only {len(shared)} questions were answered by all runs; all are taken")
    chance = random.Random(seed)
    chosen = chance.sample(shared, min(questions, len(shared)))

    alike: dict[tuple[str, ...], list[int]] = {}
    for identity in chosen:
        for number, source in enumerate(sources):
            row = source.rows[identity]
            passages = [text for text in row["passages"] if text]
            alike.setdefault((identity, row["prediction"], *passages), []).append(number)
    order = list(alike)
    chance.shuffle(order)
    saved = len(chosen) * len(sources) - len(order)
    if saved:
        notes.append(f"{saved} answers are the same as another run's and are rated with it")

    items, keys = [], {}
    for number, entry in enumerate(order, start=1):
        identity, answer, *passages = entry
        row = sources[alike[entry][0]].rows[identity]
        expected = tuple(row["answers"]) if show_expected else ()
        items.append(Item(str(number), row["question"], expected, answer, tuple(passages)))
        keys[str(number)] = {
            "question_id": identity,
            "runs": alike[entry],
            "question": row["question"],
            "answers": list(row["answers"]),
            "passage_ids": _annotated_gold(row, sources[alike[entry][0]].folder),
        }
    output.mkdir(parents=True, exist_ok=True)
    _write(output / SHEET, items)
    key = {
        "seed": seed,
        "sheet": digest(items),
        "runs": [
            {"folder": str(source.folder), "stage": source.stage, "choices": source.choices}
            for source in sources
        ],
        "items": keys,
    }
    key_path(output).write_text(
        json.dumps(key, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    notes.insert(0, f"{len(items)} answers to {len(chosen)} questions")
    return notes


def read(folder: Path) -> list[Item]:
    """Read the answers of a sheet; raise UserError where it is none."""
    file = folder / SHEET
    if not file.is_file():
        raise UserError(f"{folder}: no {SHEET} in it; give the folder that `sheet` made")
    items = [
        Item(
            row["item"],
            row["question"],
            tuple(json.loads(row["expected"])) if row["expected"] else (),
            row["answer"],
            tuple(v for k, v in row.items() if k.startswith(_PASSAGE) and v),
        )
        for row in read_table(file, COLUMNS).values()
    ]
    if not items:
        raise UserError(f"{file}: holds no answer")
    return items


def key_path(folder: Path) -> Path:
    """Where the key of a sheet is: beside its folder, which is given to raters without it."""
    folder = folder.absolute()
    return folder.with_name(f"{folder.name}.key.json")


@dataclass(frozen=True, slots=True)
class Key:
    """What raters must not know."""

    seed: int
    runs: list[dict[str, str]]
    """`folder`, `stage` and `choices` of each run."""
    items: dict[str, dict[str, Any]]
    """By item: `question_id`, `question`, `answers`, gold `passage_ids`, and `runs`, the
    numbers of the runs whose answer it is."""
    sheet: str
    """The digest of its sheet."""


def read_key(folder: Path, path: Path | None = None) -> Key:
    """Read the key of a sheet; raise UserError where there is none or it is another sheet's."""
    path = path or key_path(folder)
    if not path.is_file():
        raise UserError(f"{path}: the key of the sheet is not there; name it with --key")
    with disk.reading(path, "copy it again from where the sheet was made"):
        key = Key(**json.loads(path.read_text(encoding="utf-8")))
    if digest(read(folder)) != key.sheet:
        raise UserError(
            f"{path}: is not the key of {folder / SHEET}, or the sheet's questions, answers or "
            "passages were changed"
        )
    return key


def digest(items: Sequence[Item]) -> str:
    """Fingerprint of what a sheet shows: 16 hexadecimal digits."""
    shown = json.dumps([(i.name, i.question, i.expected, i.answer, i.passages) for i in items])
    return hashlib.sha256(shown.encode()).hexdigest()[:16]


def _write(file: Path, items: Sequence[Item]) -> None:
    depth = max(len(item.passages) for item in items)
    passages = [f"{_PASSAGE}{number}" for number in range(1, depth + 1)]
    rows = (
        {
            "item": item.name,
            "question": item.question,
            "expected": json.dumps(item.expected, ensure_ascii=False) if item.expected else "",
            "answer": item.answer,
            **dict(zip(passages, item.passages, strict=False)),
        }
        for item in items
    )
    write_table(file, [*_SHOWN, *passages, *NAMES, *TEXTS], rows)


def _shared(sources: Sequence[Source]) -> list[str]:
    shared = sorted(set.intersection(*(set(source.rows) for source in sources)))
    if not shared:
        raise UserError("the runs have no question in common; rate runs on the same test questions")
    for identity in shared:
        texts = {source.rows[identity]["question"] for source in sources}
        if len(texts) > 1:
            raise UserError(
                f"question {identity}: is not the same in all runs ({' / '.join(sorted(texts))}); "
                "rate runs on the same data"
            )
    return shared


def _choices(folder: Path) -> str:
    file = folder / ".hydra" / "overrides.yaml"
    if not file.is_file():
        return ""
    import yaml

    return " ".join(str(word) for word in yaml.safe_load(file.read_text(encoding="utf-8")) or [])


def _annotated_gold(row: Mapping[str, Any], folder: Path) -> list[str]:
    """Gold passages under the ids that the data has; chunks have ids of a run's own making.

    Passages that only stand in for gold ones are left out: an answer that a rater corrects
    stands in others.
    """
    if row.get("gold_source") != "annotated":
        return []
    ids = list(row.get("gold_passage_ids", ()))
    file = folder / "model" / "passages.parquet"
    if not file.is_file() or not any("#" in identity for identity in ids):
        return ids
    from pyarrow import parquet

    table = parquet.read_table(file, columns=["id", "document_id"]).to_pydict()
    documents = dict(zip(table["id"], table["document_id"], strict=True))
    return list(dict.fromkeys(documents.get(identity, identity) for identity in ids))
