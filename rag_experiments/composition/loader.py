"""Hydra's composition, in which an option may replace one that an experiment tunes."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra.core.config_search_path import ConfigSearchPath
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, open_dict

from rag_experiments import config, options
from rag_experiments.composition.overrides import read_key

if TYPE_CHECKING:
    from hydra.core.default_element import InputDefault


class Loader(ConfigLoaderImpl):
    """Composes as Hydra does, but lets an experiment tune an option that is replaced.

    Values that an experiment gives to an option, and choices that it makes within it, mean
    nothing to the option that the command line puts in its place. They are left out, with a
    note, instead of being refused as unknown keys. A checkpoint on the command line brings its
    parts, unless the command line chooses them itself.
    """

    def __init__(self, search_path: ConfigSearchPath):
        super().__init__(config_search_path=search_path)
        self.repository: _Memory = _Memory(self.repository)
        self.notes: dict[str, None] = {}

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        notes: dict[str, None] = {}
        overrides = _with_parts(overrides, notes)
        keys = set(map(read_key, overrides))
        chosen = {key.partition("@")[0] for key in keys}
        self.repository.left_out = frozenset()
        while True:
            try:
                with warnings.catch_warnings():
                    # Launchers' files stand on the plugins' own of the same names: as is meant.
                    warnings.filterwarnings("ignore", "\n'hydra/launcher/.* ConfigStore schema")
                    composed = super().load_configuration(
                        config_name, overrides, run_mode, from_shell, validate_sweep_overrides
                    )
                break
            except HydraException as refusal:
                unmatched = re.search(r"Could not override '([\w/@.]+)'", str(refusal))
                group = unmatched[1] if unmatched else ""
                known = group in self.repository.left_out or group in keys
                replaced = any(group.startswith(f"{key}/") for key in chosen)
                if not group or known or not replaced:
                    raise
                self.repository.left_out |= {group}
                notes[f"left out of the experiment: its choice of {group}; nothing takes it"] = None
        for name in _experiments(composed):
            self._prune(composed, name, overrides, notes)
        self.notes.update(notes)
        return composed

    def _prune(
        self, composed: DictConfig, name: str, overrides: Sequence[str], notes: dict[str, None]
    ) -> None:
        """Drop what an experiment sets in options that the command line chose otherwise."""
        read = self.repository.load_config(f"experiment/{name}")
        if read is None or not isinstance(read.config, DictConfig):
            return
        keys = [read_key(line) for line in overrides]

        def visit(tuned: Any, node: Any, place: str) -> None:
            target = node._get_node("_target_")
            legal = options.fields(target._value()) if target is not None else None
            dropped: list[str] = []
            for key in map(str, tuned):
                where, part, deeper = f"{place}.{key}", node._get_node(key), tuned._get_node(key)
                if legal is not None and key != "_target_" and key not in legal:
                    if not any(f"{each}.".startswith(f"{where}.") for each in keys):
                        with open_dict(node):
                            node.pop(key, None)
                        dropped.append(where)
                elif is_mapping(part) and is_mapping(deeper):
                    visit(deeper, part, where)
            if dropped:
                notes[
                    f"left out of experiment {name}: {', '.join(dropped)}; the {place} chosen "
                    "on the command line has no such keys"
                ] = None

        for group in config.GROUPS:
            tuned, node = read.config._get_node(group), composed._get_node(group)
            replaced = any(key == group or key.startswith(f"{group}/") for key in keys)
            if replaced and is_mapping(tuned) and is_mapping(node):
                visit(tuned, node, group)


class _Memory(ConfigRepository):
    """Reads each file once, however many jobs and corrections are composed from it."""

    left_out: frozenset[str] = frozenset()
    """Groups whose options experiments do not choose in this composition."""

    def __init__(self, origin: ConfigRepository):
        self.__dict__.update(origin.__dict__)
        self._read: dict[tuple[str, ...], ConfigResult | None] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> _Memory:
        # Hydra copies the repository, because hydra.searchpath may change its sources.
        twin = copy.copy(self)
        twin.sources = copy.copy(self.sources)
        return twin

    def load_config(self, config_path: str) -> ConfigResult | None:
        key = (config_path, *(source.path for source in self.sources))
        if key not in self._read:
            self._read[key] = super().load_config(config_path)
        result = copy.deepcopy(self._read[key])  # what is composed is merged in place
        if result is not None and not isinstance(result.config, DictConfig):
            raise HydraException(f"{config_path}: a list; legal: a mapping, with `key: value`")
        if result is not None and config_path.startswith("experiment/") and self.left_out:
            result.defaults_list = [
                default
                for default in result.defaults_list or []
                if not (default.is_override() and _overridden(default) in self.left_out)
            ]
        return result


def _overridden(default: InputDefault) -> str:
    """Return the group (with its package, where it names one) that a default overrides."""
    group = str(getattr(default, "group", "")).lstrip("/")
    package = getattr(default, "package", None)
    return f"{group}@{package}" if package else group


def _experiments(composed: DictConfig) -> list[str]:
    """Return the names of the chosen experiments."""
    chosen = composed.hydra.runtime.choices.get("experiment")
    names = chosen if isinstance(chosen, (list, ListConfig)) else [chosen]
    return [str(name) for name in names if name is not None]


def _with_parts(overrides: Sequence[str], notes: dict[str, None]) -> list[str]:
    """Return overrides in which a checkpoint of a whole model brings its parts, with a note."""
    keys = [read_key(line) for line in overrides]
    values = [line.partition("=")[2].strip() for line in overrides]
    given = any(
        key == "model.weights" and value not in ("", "null")
        for key, value in zip(keys, values, strict=True)
    )
    groups = [group for group in ("model/generator", "model/query_encoder") if group not in keys]
    added = [f"{group}=checkpoint" for group in groups] if given else []
    if added:
        notes[f"chosen with model.weights: {' '.join(added)}"] = None
    return [*overrides, *added]


def is_mapping(node: Any) -> bool:
    """Return whether a node has keys of its own; a reference and a null have none."""
    return isinstance(node, DictConfig) and not node._is_none() and not node._is_interpolation()
