"""Configurations as text: flat, without secrets, and in what they differ."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

LONGEST_PARAMETER = 6000
"""Characters that MLflow keeps of a parameter."""


def mask(text: str) -> str:
    """Return a text with the credentials in its addresses replaced by ***."""
    # Hydra writes a backslash before : and = in the overrides of a sweep.
    text = re.sub(r"(\w[\w+.-]*\\?://)[^/\s'\"]*@", r"\1***@", text)
    secret = r"([?&][\w-]*(?:password|passwd|pwd|token|secret|key|sig|signature)\\?=)[^&\s'\"]+"
    return re.sub(secret, r"\1***", text, flags=re.IGNORECASE)


def masked(raw: DictConfig) -> DictConfig:
    """Return a configuration with the credentials in its addresses replaced by ***."""
    return DictConfig(OmegaConf.create(mask(OmegaConf.to_yaml(raw, resolve=False))))


def flatten(raw: DictConfig) -> dict[str, str]:
    """Return the leaves of a configuration as text under dotted keys.

    A plain reference such as `${model.weights}` is shown as what it refers to. What a resolver
    gives, above all `${oc.env:NAME}`, stays as it is written, so that no value of the
    environment is recorded. Values longer than MLflow keeps are cut, with a note.
    """
    flat: dict[str, str] = {}
    _flatten(raw, raw, "", flat)
    return flat


def _flatten(root: DictConfig, node: Any, key: str, flat: dict[str, str]) -> None:
    if isinstance(node, ListConfig) and not any(OmegaConf.is_config(part) for part in _parts(node)):
        texts = [_as_written(root, node, i) for i in range(len(node))]
        flat[key] = _cut("[" + ", ".join(texts) + "]")
        return
    for name in range(len(node)) if isinstance(node, ListConfig) else node:
        part = node._get_node(name)
        place = f"{key}.{name}" if key else str(name)
        nested = OmegaConf.is_config(part) and len(part) > 0
        if nested and not part._is_none() and not part._is_interpolation():
            _flatten(root, part, place, flat)
        else:
            flat[place] = _cut(_as_written(root, node, name))


def _parts(node: ListConfig) -> list[Any]:
    return [node._get_node(i) for i in range(len(node))]


def _as_written(root: DictConfig, parent: Any, name: Any) -> str:
    for _ in range(20):  # references to references
        node = parent._get_node(name)
        value = None if node is None else node._value()
        found = re.fullmatch(r"\$\{([\w/.\-\[\]]+)\}", value) if isinstance(value, str) else None
        if found is None or found[1].startswith("."):
            break
        place, _, last = found[1].rpartition(".")
        try:
            target = OmegaConf.select(root, place) if place else root
        except OmegaConfBaseException:
            break
        if not isinstance(target, DictConfig) or last not in target:
            break
        parent, name = target, last
    node = parent._get_node(name)
    value = node._value() if node is not None else None
    if isinstance(value, (dict, list)):
        value = OmegaConf.to_container(node, resolve=False)
    return mask(str(value))


def _cut(value: str) -> str:
    if len(value) <= LONGEST_PARAMETER:
        return value
    note = f"... [{len(value)} characters; whole in config.yaml]"
    return value[: LONGEST_PARAMETER - len(note)] + note


def differing(parameters: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the names in which runs differ, by the options chosen and all keys of each run.

    What is chosen at the root comes first, then options within options, then other keys. Of the
    latter those are left out that only follow from the choice of an option: the runs with the
    same options agree on them.
    """
    names = dict.fromkeys(key for run in parameters for key in run)
    different = [n for n in names if len({run.get(n) for run in parameters}) > 1]
    kept: list[str] = []
    for level in range(3):
        groups = [n for n in kept if any(k.startswith(f"{n.replace('/', '.')}.") for k in names)]
        alike: dict[tuple[str | None, ...], list[Mapping[str, str]]] = {}
        for run in parameters:
            alike.setdefault(tuple(run.get(group) for group in groups), []).append(run)
        kept += [
            name
            for name in different
            if level == (2 if "." in name else "/" in name)
            and any(len({run.get(name) for run in runs}) > 1 for runs in alike.values())
        ]
    return kept
