"""The house rules that hold for every file: floors, owners of libraries, names of options."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "rag_experiments"
CONF = ROOT / "conf"
ROOMS = ("task", "data", "model", "retriever", "trainer", "metrics")

FLOORS = {
    "functional": 0,
    "contracts": 1,
    "runtime": 1,
    "weights": 1,
    "encoder": 1,
    "resident": 1,
    "spreadsheet": 1,
    "store": 1,  # it knows no stage, and the retriever keeps embeddings in it
    **dict.fromkeys(ROOMS, 2),
    "options": 3,
    "conflicts": 3,
    "config": 3,
    "parameters": 3,
    "tracking": 3,
    "bundle": 4,
    "pipeline": 4,
    "shots": 4,
    "stages": 4,
    "serving": 4,
    "evaluation": 4,
    "experiment": 4,
    "sweep": 4,
    "search": 4,
    "composition": 4,
    "ask": 5,
    "evaluate": 5,
    "add_passages": 5,
    "rating": 5,
    "draft": 5,
    "report": 5,
    "export": 5,
    "upload": 5,
    "__main__": 5,
}
"""A module imports from its own floor and from lower ones."""

WINGS = ("report",)
"""Parts that the entry alone starts."""

OWNERS = {
    "mlflow": {"tracking", "serving"},
    "nicegui": {"rating"},
    "optuna": {"search"},
    "hydra": {"config", "composition", "sweep", "search", "evaluate", "__main__"},
}
"""Libraries that only these modules import."""

HEAVY = ("torch", "transformers", "datasets", "mlflow", "evaluate", "faiss", "bm25s", "peft")
FILES = sorted(PACKAGE.rglob("*.py"))


def part(path: Path) -> str:
    """Room or module of the ground plan that a file belongs to."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imports(path: Path, everywhere: bool = True) -> set[str]:
    """Modules that a file imports; those under TYPE_CHECKING do not count.

    Without `everywhere`, only what is imported when the file is.
    """
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if not everywhere and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            found.add(module)
            if module == "rag_experiments":
                found.update(f"{module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_keep_the_floors(path):
    own = part(path)
    if own == "__init__":
        assert not [name for name in imports(path) if name.startswith("rag_experiments.")]
        return
    assert own in FLOORS, f"{own} has no floor: add it to FLOORS"
    for name in imports(path):
        if not name.startswith("rag_experiments."):
            continue
        other = name.split(".")[1]
        if other == own:
            continue
        assert other not in WINGS or own == "__main__", f"{own} imports {name}"
        assert FLOORS[other] <= FLOORS[own], f"floor {FLOORS[own]} imports {name}"
        assert not (own in ROOMS and other in ROOMS), f"a room imports another room: {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_each_library_has_its_owner(path):
    for name in imports(path):
        owners = OWNERS.get(name.split(".")[0])
        assert owners is None or part(path) in owners, f"{part(path)} imports {name}"


def targets(path: Path) -> list[str]:
    """All `_target_` of a YAML file, at any depth."""

    def walk(node: object) -> list[str]:
        if isinstance(node, dict):
            own = [node["_target_"]] if "_target_" in node else []
            return own + [name for value in node.values() for name in walk(value)]
        if isinstance(node, list):
            return [name for value in node for name in walk(value)]
        return []

    return walk(yaml.safe_load(path.read_text(encoding="utf-8")))


OPTIONS = [
    path
    for path in sorted(CONF.rglob("*.yaml"))
    if path.parent != CONF and path.relative_to(CONF).parts[0] not in ("experiment", "hydra")
]


def name_of(path: Path) -> str:
    return str(path.relative_to(CONF).with_suffix(""))


@pytest.mark.parametrize("path", OPTIONS, ids=name_of)
def test_an_option_lives_in_the_folder_of_its_group(path):
    group = path.relative_to(CONF).parts[0]
    for target in targets(path):
        assert target.startswith(f"rag_experiments.{group}."), target


@pytest.mark.parametrize("path", OPTIONS, ids=name_of)
def test_the_module_of_an_option_imports_nothing_heavy(path):
    for target in targets(path):
        module = target.rpartition(".")[0]
        file = ROOT / Path(*module.split(".")).with_suffix(".py")
        heavy = {name.split(".")[0] for name in imports(file, everywhere=False)} & {*HEAVY}
        assert not heavy, f"{module} imports {heavy} at its top: a check would wait for it"


def test_every_group_has_options_and_every_option_file_is_found():
    groups = {path.relative_to(CONF).parts[0] for path in OPTIONS}
    assert groups == {*ROOMS, "tracking"}
    assert len(OPTIONS) > 40
