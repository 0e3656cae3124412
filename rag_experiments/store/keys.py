"""What a result depends on, as the key that it is kept under."""

from __future__ import annotations

import hashlib
import inspect
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rag_experiments import weights
from rag_experiments.contracts import Option

FORMAT = 1
"""Version of keys and entries; raise it when those of before cannot be read."""


@dataclass(frozen=True)
class Key:
    """What a result depends on: values of JSON by name, e.g. `retriever.top_k`: 3."""

    stage: str
    parts: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """Name of the entry: 20 hexadecimal digits."""
        text = json.dumps([FORMAT, self.stage, self.parts], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:20]


def make_key(stage: str, number: int, parts: Mapping[str, Any], *above: Key) -> Key:
    """Key of a stage from its own version number and parts, and the keys of the stages above.

    The parts of the keys above become parts of this one, so that whatever changes them changes it,
    and is named as the reason. Raises ValueError where one name stands for two values.
    """
    merged: dict[str, Any] = {}
    for each in (*(key.parts for key in above), {f"{stage} version": number}, parts):
        for name, value in json.loads(json.dumps(each)).items():
            if merged.setdefault(name, value) != value:
                raise ValueError(f"{stage}: {name} is {merged[name]!r} and {value!r}")
    return Key(stage, merged)


def describe(option: Any, name: str, cache_dir: Path, without: frozenset[str] = frozenset()) -> Any:
    """The parts of a key that an option is: its class and every field, by dotted names.

    Weights count by their content (`weights.fingerprint`), a class from outside this package also
    by its source file. `without` names fields that the result does not depend on.
    """
    kind = type(option)
    parts: dict[str, Any] = {name: f"{kind.__module__}.{kind.__qualname__}"}
    if not kind.__module__.startswith("rag_experiments."):
        parts[f"{name} code"] = _hash_source(kind)  # type: ignore[arg-type]  # classes hash
    for field in kind.model_fields:
        own = f"{name}.{field}"
        if own in without:
            continue
        value = getattr(option, field)
        if isinstance(value, Option):
            parts |= describe(value, own, cache_dir, without)
        elif field in ("weights", "tokenizer") and isinstance(value, str):
            parts[own] = _fingerprint(value, cache_dir, own)
        else:
            parts[own] = _plain(value, own, cache_dir)
    return parts


def libraries(*names: str) -> dict[str, str | None]:
    """The parts of a key that libraries are: their versions, None where one is not installed."""
    found: dict[str, str | None] = {}
    for name in names:
        try:
            found[f"{name} version"] = version(name)
        except PackageNotFoundError:
            found[f"{name} version"] = None
    return found


@cache
def hash_code(name: str) -> str:
    """SHA-256 of the source of a module or a folder of this package, e.g. `model`.

    For stages that are cheap beside the mistake of reading a result of other code.
    """
    place = Path(__file__).parent.parent / name
    digest = hashlib.sha256()
    for file in sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]:
        digest.update(f"{file.relative_to(place.parent)}\0{weights.hash_file(file)}\0".encode())
    return digest.hexdigest()


def differences(old: Key, new: Key) -> list[str]:
    """What is new in a key compared with another of its stage, in words."""
    found = []
    for name in sorted({*old.parts, *new.parts}):
        before, now = (json.dumps(key.parts.get(name)) for key in (old, new))
        if name not in new.parts:
            found.append(f"{name} is gone")
        elif name not in old.parts:
            found.append(f"{name} is new")
        elif before != now:
            short = len(before) <= 40 and len(now) <= 40
            found.append(f"{name} is new" + (f" ({now}, not {before})" if short else ""))
    return found


def _plain(value: Any, name: str, cache_dir: Path) -> Any:
    if isinstance(value, Option):
        return describe(value, name, cache_dir)
    if isinstance(value, Mapping):
        return {str(key): _plain(each, f"{name}.{key}", cache_dir) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each, f"{name}[{i}]", cache_dir) for i, each in enumerate(value)]
    if isinstance(value, (set, frozenset)):
        return sorted(map(repr, value))
    return value if value is None or isinstance(value, (bool, int, float, str)) else repr(value)


def _fingerprint(value: str, cache_dir: Path, place: str) -> str:
    source, _, part = value.rpartition("#")  # a part of a checkpoint; a wheel's hash is none
    for text, rest in ((value, ""), (source, f"#{part}")):
        if text and weights.find_problem(text) is None:
            return weights.fingerprint(text, cache_dir, place) + rest
    return value


@cache
def _hash_source(kind: type) -> str:
    try:
        return weights.hash_file(Path(str(inspect.getsourcefile(kind))))
    except (OSError, TypeError):
        return f"unknown, so it is taken for new: {uuid.uuid4()}"
