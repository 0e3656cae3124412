"""The folder of a saved model: what is in it, and whether its parts belong together.

`pipeline.json` names

- `format`, `temperature` (of p(z|x)), `label_temperature`, `passages` (how many), `versions`;
- `parts`: the SHA-256 of each part of the folder;
- `weights`: of each key of the configuration that names pretrained weights which are not in the
  folder, a text that changes with them (a hash, or the commit of a model of the Hub);
- `whole`: of each key that names weights which are in the folder, where they are.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rag_experiments import weights
from rag_experiments.contracts import Option, UserError
from rag_experiments.runtime.disk import reading
from rag_experiments.runtime.reproducibility import versions

FORMAT = 2
"""Version of the folder."""

FACTS = "pipeline.json"

PARTS = {
    "config.yaml": "the configuration",
    "passages.parquet": "the passages",
    "shots.json": "the examples of the prompts",
    "index": "the index",
    "generator": "the generator",
    "query_encoder": "the query encoder",
    "passage_encoder": "the passage encoder",
    "weights": "the base weights",
}
"""Files and folders of a bundle, each with its name for people."""

REQUIRED = (FACTS, "config.yaml", "passages.parquet", "generator")

_SHOWN = 8
"""Runs of a sweep that a refusal names."""

_REMEDY = "copy the whole folder again"

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle", "*.h5", "*.msgpack", "*.gguf")
"""Files of weights in other formats than safetensors, which is the only one that is handed on."""


def locate(folder: Path) -> Path:
    """Return the bundle of a run's folder; a bundle is its own."""
    return folder / "model" if (folder / "model" / FACTS).is_file() else folder


def no_run(folder: Path, what: str, missing: Sequence[str]) -> UserError:
    """Return the refusal of a folder that lacks what is asked of a run; of a sweep's folder, it
    names the runs to choose from."""
    runs = sorted(folder.glob(f"*/model/{FACTS}"), key=lambda file: (len(str(file)), str(file)))
    sweep = (folder / "multirun.yaml").is_file()
    if runs:
        kind = "is a sweep; its runs" if sweep else "is no run, but holds some"
        shown = ", ".join(str(file.parent.parent) for file in runs[:_SHOWN])
        more = f" and {len(runs) - _SHOWN} more" if len(runs) > _SHOWN else ""
        return UserError(f"{str(folder)!r} {kind}: {shown}{more}; give one of them")
    if sweep:
        return UserError(f"{str(folder)!r} is a sweep, and none of its runs is finished")
    return UserError(
        f"{str(folder)!r} is no {what}: {', '.join(missing)} missing; give the folder that a run "
        "printed as 'saved in'"
    )


def base_weights(options: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """Return the weights that options name and a bundle does without, by dotted key.

    Those that training replaced as a whole are in the folder, and so is what a reranker reads.
    """
    found = dict(_named(options))
    if not (folder / "generator" / "adapter_config.json").is_file():
        found.pop("model.generator.weights", None)
    if (folder / "query_encoder").is_dir():
        found.pop("model.query_encoder.weights", None)
    if (folder / "passage_encoder").is_dir():
        found.pop("retriever.encoder.weights", None)
    return {key: name for key, name in found.items() if ".reranker." not in key}


def own_weights(options: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """Return the weights that options name and a bundle has itself, by dotted key: where they are.

    Those that are searched with, for whatever is searched later: a reranker's, and those of a
    passage encoder that was trained. Others are found without.
    """
    places = {"retriever.encoder.weights": "passage_encoder"} | {
        key: f"index/{key.removeprefix('retriever.').removesuffix('.weights').replace('.', '/')}"
        for key, _ in _named(options)
        if ".reranker." in key
    }
    return {key: place for key, place in places.items() if (folder / place).is_dir()}


def _named(options: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, str]]:
    for name, value in options.items():
        key = f"{place}{name}"
        if isinstance(value, Option):
            yield from _named(dict(value), f"{key}.")
        elif name == "weights" and isinstance(value, str) and not _is_part(value):
            yield key, value


def _is_part(name: str) -> bool:
    """Whether weights are a part of a checkpoint, whose own key names it."""
    return re.search(r"#(generator|question_encoder)$", name) is not None


def write_config(folder: Path, raw: DictConfig, names: Mapping[str, str], cache_dir: Path) -> None:
    """Write the configuration, with weights of the Hub pinned to the commit that was loaded."""
    pinned = OmegaConf.create(raw)
    assert isinstance(pinned, DictConfig)
    for key, name in names.items():
        OmegaConf.update(pinned, key, weights.pin(name, cache_dir, key))
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(pinned, resolve=False), "utf-8")


def fingerprint_weights(names: Mapping[str, str], cache_dir: Path) -> dict[str, str]:
    """Return the entry `weights` for the base weights of a bundle.

    Folders that are gone are left out: whatever needs them says so.
    """
    return {
        key: weights.fingerprint(weights.pin(name, cache_dir, key), cache_dir, key)
        for key, name in names.items()
        if weights.find_problem(name) is None
    }


def seal(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write `pipeline.json` for what is in a folder now; `facts` are all its other entries."""
    parts = {name: _digest(folder / name) for name in PARTS}
    content = {
        **facts,
        "format": FORMAT,
        "versions": versions(),
        "parts": {name: found for name, found in parts.items() if found},
    }
    (folder / FACTS).write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def find_cache(folder: Path, written: str) -> Path:
    """The cache that a run in `folder` used: a relative one lies beside a folder above it."""
    cache = Path(written).expanduser()
    return next(filter(Path.is_dir, (above / cache for above in folder.absolute().parents)), cache)


def read(folder: Path) -> tuple[DictConfig, dict[str, Any]]:
    """Return the configuration and the facts of a bundle.

    Raises UserError where something is missing, or is not what the bundle was saved with.
    """
    missing = [name for name in REQUIRED if not (folder / name).exists()]
    if missing:
        raise no_run(folder, "saved run", missing)
    facts = _read_facts(folder)
    problems = []
    for name, text in PARTS.items():
        found, saved = _digest(folder / name), facts["parts"].get(name)
        if found != saved:
            what = "missing" if found is None else f"not {text} that this model was saved with"
            what = "no part of this model" if saved is None else what
            problems.append(f"{folder / name}: {what}; copy the whole folder again")
    if problems:
        raise UserError(problems)
    with reading(folder / "config.yaml", _REMEDY):
        raw = OmegaConf.load(folder / "config.yaml")
        assert isinstance(raw, DictConfig)
        for key, place in facts["whole"].items():
            OmegaConf.update(raw, key, str((folder / place).resolve()))
    return raw, facts


def _read_facts(folder: Path) -> dict[str, Any]:
    file = folder / FACTS
    with reading(file, _REMEDY):
        facts: dict[str, Any] = json.loads(file.read_text("utf-8"))
        if facts["format"] != FORMAT:
            raise UserError(
                f"{file}: format {facts['format']}, but this version reads {FORMAT}; load it with "
                f"the version that saved it: {facts['versions']}"
            )
        for name in ("parts", "weights", "whole"):
            facts[name] = dict(facts[name])
        facts["temperature"] = float(facts["temperature"])
        # Before it was fitted, label scores were the model's own probabilities.
        facts["label_temperature"] = float(facts.get("label_temperature", 1.0))
        for key, place in facts["whole"].items():
            if not (folder / place).resolve().is_relative_to(folder.resolve()):
                raise UserError(f"{file}: whole.{key}: {place!r} is outside of the folder")
    return facts


def check_weights(names: Mapping[str, str], facts: Mapping[str, Any], cache_dir: Path) -> None:
    """Refuse base weights in local folders that are others than those a bundle was saved with.

    Others cannot be confused: their names hold a hash, or a commit. Folders that are gone are left
    out: whatever needs them says so.
    """
    problems = [
        f"{key}: the weights in {name!r} are not those that this model was saved with; put those "
        "back, or save it with `python -m rag_experiments.export RUN FOLDER --whole`"
        for key, name in names.items()
        if name.startswith((".", "/", "~"))
        and key in facts["weights"]
        and weights.find_problem(name) is None
        and weights.fingerprint(name, cache_dir, key) != facts["weights"][key]
    ]
    if problems:
        raise UserError(problems)


def copy_whole(source: Path, folder: Path, cache_dir: Path | None = None) -> None:
    """Copy a bundle together with its base weights to a new folder.

    Weights are copied as safetensors alone. Raises UserError where there are none.
    """
    raw, facts = read(source)
    shutil.copytree(source, folder, dirs_exist_ok=True)
    copied: dict[str, str] = {}
    for key in facts["weights"]:
        name = OmegaConf.select(raw, key)
        if name not in copied:
            copied[name] = f"weights/{key.removesuffix('.weights').replace('.', '-')}"
            origin = weights.resolve(name, cache_dir or Path(raw.cache_dir), key)
            if not any(origin.glob("*.safetensors")):
                raise UserError(f"{key}: {name!r} holds no safetensors, and nothing else is copied")
            ignored = shutil.ignore_patterns(*PICKLES, ".*")
            shutil.copytree(origin, folder / copied[name], ignore=ignored)
        facts["whole"][key] = copied[name]
    seal(folder, {**facts, "weights": {}})


def _digest(path: Path) -> str | None:
    """SHA-256 of a file or of what is in a folder; None where there is nothing."""
    if path.is_dir():
        return weights.hash_folder(path) if any(path.iterdir()) else None
    return weights.hash_file(path) if path.is_file() else None
