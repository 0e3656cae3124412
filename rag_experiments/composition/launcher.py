"""Hydra's launchers, which run the jobs of a sweep elsewhere: checked before a job starts."""

from __future__ import annotations

import shutil
from importlib.util import find_spec

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rag_experiments.options import nearest

PLUGINS = {
    "hydra_joblib_launcher": ("joblib", "joblib"),
    "hydra_submitit_launcher": ("slurm", "submitit_slurm"),
    "hydra_ray_launcher": ("ray", "ray"),
}
"""Of the packages of launchers: the extra that installs each, and its own name for its keys."""


def check(hydra: DictConfig, sweeps: bool) -> list[str]:
    """Return what is wrong with the launcher of a composed `hydra` node, one line each.

    `sweeps` says whether the command line is a sweep: a single run has no use for a launcher.
    """
    chosen = f"hydra/launcher={hydra.runtime.choices.get('hydra/launcher')}"
    target = str(hydra.launcher.get("_target_", ""))
    package = target.removeprefix("hydra_plugins.").partition(".")[0]
    if package not in PLUGINS:
        return []
    extra, schema = PLUGINS[package]
    if not sweeps:
        return [f"{chosen}: a launcher runs the jobs of a sweep: add -m"]
    if find_spec("hydra_plugins") is None or find_spec(f"hydra_plugins.{package}") is None:
        return [f"{chosen}: its packages are not installed: pip install -e '.[{extra}]'"]
    problems = _wrong_keys(hydra.launcher, schema)
    if target.endswith(".SlurmLauncher") and not (shutil.which("sbatch") and shutil.which("srun")):
        problems.append(f"{chosen}: no sbatch and srun here; start it on a machine of the cluster")
    return problems


def _wrong_keys(launcher: DictConfig, schema: str) -> list[str]:
    """Return the keys that the plugin does not know, and values of other types than it takes."""
    store = ConfigStore.instance()
    if f"{schema}.yaml" not in store.list("hydra/launcher"):
        return []
    legal = OmegaConf.structured(store.load(f"hydra/launcher/{schema}.yaml").node)
    problems = []
    for key in map(str, launcher):
        place = f"hydra.launcher.{key}"
        if key not in legal:
            names = [name for name in map(str, legal) if name != "_target_"]
            problems.append(
                f"{place}: unknown key{nearest(key, names)} (legal here: {', '.join(names)})"
            )
            continue
        try:
            legal[key] = launcher[key]
        except OmegaConfBaseException as error:
            problems.append(f"{place}: {str(error).splitlines()[0]}")
    return problems
