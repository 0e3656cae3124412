"""The best runs of a search, each written as an experiment that can be run at once."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from rag_experiments.runtime import disk
from rag_experiments.search.study import Study
from rag_experiments.sweep import outcomes

NAME = "best"
"""Name of the experiment of the best run; of several, with the number of the run."""

_COMMAND_LINE = "command-line"
"""What Hydra calls the source of a configuration folder that the user gave."""


def conclude(study: Study, loader: ConfigLoader, master: DictConfig) -> str:
    """Write the best runs of a study as experiments, and return them as text, with the commands
    that run them."""
    counts = ", ".join(f"{count} {name}" for name, count in study.count().items() if count)
    trials = study.best()
    if not trials:
        return f"search: {counts or 'no run'}; none has a score, so none is best"
    several = len(study.objectives) > 1
    place = study.folder / outcomes.EXPERIMENTS
    place.mkdir(exist_ok=True)
    for earlier in place.glob(f"{NAME}*.yaml"):  # of the search when it had fewer runs
        earlier.unlink()
    said = [f"search: {counts}; best{', each in its way' if several else ''}:"]
    for trial in trials:
        name = f"{NAME}_{trial.number}" if several else NAME
        score = study.describe(trial.number)
        text, deletions = write_experiment(loader, master.hydra.job.config_name, trial.overrides)
        command = _command(study.folder, name, deletions, loader)
        source = f"Run {trial.number} of {study.folder}: {score}."
        head = f"# @package _global_\n# {source}\n# {command}\n"
        disk.write_whole(place / f"{name}.yaml", head + text)
        chosen = {key.lstrip("+") for key in study.space.searched}
        lines = [line for line in trial.overrides if line.partition("=")[0].lstrip("+") in chosen]
        said.append(f"  run {trial.number}: {score}: {' '.join(lines)}\n    {command}")
    return "\n".join(said)


def _command(folder: Path, name: str, more: Sequence[str], loader: ConfigLoader) -> str:
    """Return the command that runs an experiment in a sweep's folder, with more overrides."""
    own = [
        source.path.removeprefix("file://")
        for source in loader.get_sources()
        if source.provider == _COMMAND_LINE
    ]
    words = ["--config-dir", str(folder)]
    if own:  # there can be one alone
        words = ["--config-dir", own[0], f"hydra.searchpath=[{folder.absolute()}]"]
    return shlex.join(["python", "-m", "rag_experiments", *words, f"+experiment={name}", *more])


def write_experiment(
    loader: ConfigLoader, config_name: str, overrides: tuple[str, ...]
) -> tuple[str, list[str]]:
    """Return an experiment, as YAML, that composes what overrides compose, and the overrides that
    it needs beside: those that delete a key, which no file can.

    It needs none of the experiments that are among them: it has the options that they choose and
    all values in which these differ from the options' files.
    """

    def compose(lines: list[str]) -> DictConfig:
        composed = loader.load_configuration(config_name, lines, RunMode.RUN)
        assert isinstance(composed, DictConfig)
        return composed

    wanted = compose(list(overrides))
    chosen = _choices(wanted)
    lines: list[str] = []
    defaults: list[dict[str, Any]] = []
    plain = compose([])
    for depth in sorted({group.count("/") for group in chosen}):
        known = _choices(plain)
        for group, option in chosen.items():
            if group.count("/") != depth or known.get(group, ()) == option:
                continue
            text = "null" if option is None else str(option).replace("'", "")
            lines.append(f"{'' if group in known else '+'}{group}={text}")
            defaults.append({f"{'override ' if group in known else ''}/{group}": option})
        plain = compose(lines)
    for group in _choices(plain).keys() - chosen.keys():
        # Several of its options are chosen, and Hydra does not say which: their values do.
        lines.append(f"{group}=[]")
        defaults.append({f"override /{group}": []})
        plain = compose(lines)
    content, base = _content(wanted), _content(plain)
    values = {"defaults": [*defaults, "_self_"], **_difference(content, base)}
    deletions = [f"~{key}" for key in _lacking(content, base)]
    return OmegaConf.to_yaml(OmegaConf.create(values)), deletions


def _choices(composed: DictConfig) -> dict[str, Any]:
    """Return the option chosen of each group, but of Hydra's own and of experiments."""
    found = OmegaConf.to_container(composed.hydra.runtime.choices)
    assert isinstance(found, dict)
    return {
        str(group): option
        for group, option in found.items()
        if not str(group).startswith("hydra/") and group != "experiment"
    }


def _content(composed: DictConfig) -> dict[str, Any]:
    """Return a configuration as it is written, without Hydra's part."""
    with read_write(composed), open_dict(composed):
        del composed["hydra"]
    found = OmegaConf.to_container(composed, resolve=False)
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items()}


def _lacking(wanted: Mapping[Any, Any], plain: Mapping[Any, Any], place: str = "") -> list[str]:
    """Return the keys of a configuration that another lacks."""
    found = []
    for key, value in plain.items():
        other = wanted.get(key)
        if key not in wanted:
            found.append(f"{place}{key}")
        elif isinstance(value, dict) and isinstance(other, dict):
            found += _lacking(other, value, f"{place}{key}.")
    return found


def _difference(wanted: Mapping[Any, Any], plain: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return what must be merged into a configuration to make another of it."""
    found: dict[Any, Any] = {}
    for key, value in wanted.items():
        other = plain.get(key)
        if key in plain and other == value:
            continue
        if isinstance(value, dict) and isinstance(other, dict):
            if part := _difference(value, other):
                found[key] = part
        else:
            found[key] = value
    return found
