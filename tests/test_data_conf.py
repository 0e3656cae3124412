"""The YAML options of the group compose and build, and stay cheap to build."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from rag_experiments.data.documents import DocumentColumns
from rag_experiments.data.source import Source

ROOT = Path(__file__).parent.parent
OPTIONS = sorted(
    path.stem for path in (ROOT / "conf" / "data").glob("*.yaml") if path.stem != "mixture"
)
NEEDED = {"folder": ["path=x"], "hub": ["dataset=a/b"]}


def make(node):
    if isinstance(node, dict):
        fields = {key: make(value) for key, value in node.items() if key != "_target_"}
        if "_target_" not in node:
            return fields
        module, _, name = node["_target_"].rpartition(".")
        return getattr(import_module(module), name)(**fields)
    return node


def compose(option: str, *overrides: str) -> Source:
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        given = [f"data.{override}" for override in NEEDED.get(option, [])]
        config = compose(overrides=[f"+data={option}", *given, *overrides])
    data = OmegaConf.to_container(config.data, resolve=True, throw_on_missing=True)
    data["preparation"]["labels"] = tuple(data["preparation"]["labels"])
    return make(data)


def test_the_options_of_the_issue_are_there():
    asked = {"bio_qa", "bio_papers", "folder", "files", "hub", "bioasq", "pubmedqa"}
    assert asked | {"scitldr", "cochrane_plain"} <= set(OPTIONS)


@pytest.mark.parametrize("option", OPTIONS)
def test_option_builds_with_the_defaults_of_its_class(option):
    source = compose(option)
    assert isinstance(source, Source)
    assert source.preparation == type(source.preparation)()
    if option in ("bio_qa", "bio_papers", "folder", "files", "hub"):
        # The YAML shows the defaults; it does not have values of its own.
        needed = {"folder": {"path": "x"}, "hub": {"dataset": "a/b"}}.get(option, {})
        plain = type(source)(**needed)
        assert source == plain


def test_the_kind_of_columns_says_what_the_records_are():
    source = compose("files", "data/columns=documents", "data.columns.summaries=abstract")
    assert source.columns == DocumentColumns(summaries="abstract")
    for option in ("scitldr", "cochrane_plain"):
        assert isinstance(compose(option).columns, DocumentColumns)


def test_overrides_reach_nested_parts():
    source = compose(
        "files",
        "data.columns.question=query",
        "data.preparation.chunk.unit=words",
        "data.preparation.limit.train=8",
    )
    assert source.columns.question == "query"
    assert source.preparation.chunk.unit == "words"
    assert source.preparation.limit.train == 8


def test_public_sets_name_the_hub_and_take_a_local_copy(tmp_path):
    for option, dataset in (
        ("bioasq", "rag-datasets/rag-mini-bioasq"),
        ("pubmedqa", "qiaojin/PubMedQA"),
        ("scitldr", "allenai/scitldr"),
        ("cochrane_plain", "GEM/cochrane-simplification"),
    ):
        source = compose(option)
        assert source.problems() == []
        assert source.dataset == dataset
        assert source.path is None
        (line,) = compose(option, f"data.path={tmp_path}/none").problems()
        assert line.startswith("path: ")


def test_building_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from rag_experiments.data import bio_qa, files, folder, hub\n"
        "hub.Hub(dataset='a/b').problems(); files.Files().problems()\n"
        "heavy = {'torch', 'transformers', 'datasets', 'mlflow', 'evaluate', 'numpy', 'pyarrow'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_knowledge_source_is_overridden_on_the_command_line(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"id": "p", "text": "x"}\n')
    source = compose("bioasq", f"data.passages={tmp_path}/p.jsonl")
    assert source.passages == f"{tmp_path}/p.jsonl"
    node = "{_target_: rag_experiments.data.hub.HubPassages, dataset: a/c, split: passages}"
    assert compose("hub", f"data.passages={node}").passages.split == "passages"
