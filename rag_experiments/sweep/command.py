"""How a run was asked for: the folder `.hydra/` that it leaves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from rag_experiments.runtime import disk

PARENT = "parent.json"
"""File of an evaluation that names the run whose model it evaluated."""


@dataclass(frozen=True)
class Command:
    """The command line of a run, and what it was composed to."""

    raw: DictConfig
    """The configuration, its interpolations not resolved."""
    overrides: tuple[str, ...]
    """The command line, without a sweep's other values."""
    choices: dict[str, str]
    """The option of each config group."""
    config_dir: str | None
    """The user's own folder of configuration files."""
    output_dir: Path
    """The run's folder as it was then, wherever it is now."""


def write_command(folder: Path, raw: DictConfig) -> None:
    """Write `.hydra/` of the run at work as Hydra does, but each file whole or not at all.

    Nothing is masked: reports, uploads and evaluations find the store of the run by it.
    """
    place = folder / ".hydra"
    place.mkdir(exist_ok=True)
    overrides = HydraConfig.get().overrides.task
    parts = {"config": raw, "hydra": HydraConfig.instance().cfg, "overrides": overrides}
    for name, part in parts.items():
        disk.write_whole(place / f"{name}.yaml", OmegaConf.to_yaml(part))


def read_command(folder: Path, remedy: str) -> Command:
    """Read what `write_command` left in a run's folder; raise UserError with the remedy where it is
    damaged."""
    place = folder / ".hydra"
    with disk.reading(place, remedy):
        raw = OmegaConf.load(place / "config.yaml")
        hydra = OmegaConf.load(place / "hydra.yaml").hydra
        assert isinstance(raw, DictConfig)
        assert OmegaConf.select(raw, "task.objective"), "no task.objective"
        overrides = OmegaConf.to_container(hydra.overrides.task, resolve=False)
        assert isinstance(overrides, list)
        own = [s.path for s in hydra.runtime.config_sources if s.provider == "command-line"]
        return Command(
            raw=raw,
            overrides=tuple(map(str, overrides)),
            choices={
                str(group): str(option)
                for group, option in hydra.runtime.choices.items()
                if not str(group).startswith("hydra/") and option is not None
            },
            config_dir=str(own[0]).removeprefix("file://") if own else None,
            output_dir=Path(hydra.runtime.output_dir),
        )
