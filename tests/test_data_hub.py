"""The Hub option, over the same load_dataset call, on local folders of Parquet files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rag_experiments.contracts import Question, Runtime, UserError
from rag_experiments.data.hub import Hub, HubPassages, HubSplits
from rag_experiments.data.records import PassageColumns, QuestionColumns


def write_parquet(path: Path, rows: list[dict], features=None) -> None:
    from datasets import Dataset

    path.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_list(rows, features=features).to_parquet(path)


@pytest.fixture
def bioasq_like(tmp_path):
    """The columns and defects that rag-mini-bioasq is known to have."""
    questions = [
        {
            "question": f"Question {i}?",
            "answer": f"A sentence on answer{i}.",
            "relevant_passage_ids": json.dumps([100 + i, 200]),
            "id": i,
        }
        for i in range(40)
    ]
    passages = [{"passage": f"Text on answer{i}.", "id": 100 + i} for i in range(40)]
    passages.append({"passage": "nan", "id": 200})
    write_parquet(tmp_path / "hub/qap/test-00000.parquet", questions)
    write_parquet(tmp_path / "hub/corpus/passages-00000.parquet", passages)
    # As the Hub does it: the card says which files a configuration has.
    (tmp_path / "hub/README.md").write_text(
        "---\nconfigs:\n"
        "- config_name: question-answer-passages\n  data_files:\n"
        "  - split: test\n    path: qap/*.parquet\n"
        "- config_name: text-corpus\n  data_files:\n"
        "  - split: passages\n    path: corpus/*.parquet\n---\n"
    )
    return str(tmp_path / "hub")


def make_bioasq(dataset: str, **fields) -> Hub:
    passages = HubPassages(
        dataset=dataset,
        config_name="text-corpus",
        split="passages",
        columns=PassageColumns(id="id", title=None, text="passage", missing=["nan"]),
    )
    settings = {
        "dataset": dataset,
        "config_name": "question-answer-passages",
        "splits": HubSplits(train="test"),
        "columns": QuestionColumns(answers="answer", passage_ids="relevant_passage_ids"),
        "passages": passages,
        **fields,
    }
    return Hub(**settings)


def load(source, tmp_path):
    assert source.problems() == []
    return source.load(Runtime(cache_dir=tmp_path / "cache"))


def test_configs_splits_and_lists_written_as_text(bioasq_like, tmp_path):
    data = load(make_bioasq(bioasq_like), tmp_path)
    everything = {q.id: q for q in (*data.train, *data.validation, *data.test)}
    assert len(everything) == 40
    assert data.test
    assert everything["7"] == Question("7", "Question 7?", ("A sentence on answer7.",), ("107",))
    assert data.gold == "annotated"
    assert len(data.passages) == 40
    assert any("1 passage left out, the text being empty or 'nan'" in note for note in data.notes)
    assert "40 gold ids dropped, of passages that are left out." in data.notes


def test_ids_choose_a_split(bioasq_like, tmp_path):
    file = tmp_path / "test_ground_truth.json"
    file.write_text(json.dumps({"3": "yes", "5": "no"}))
    source = make_bioasq(bioasq_like, test_ids=str(file), validation_ids=["8"])
    data = load(source, tmp_path)
    assert [q.id for q in data.test] == ["3", "5"]
    assert [q.id for q in data.validation] == ["8"]
    assert len(data.train) == 37
    file.write_text("3\n5\n400\n")
    with pytest.raises(UserError) as caught:
        load(source, tmp_path)
    (line,) = caught.value.problems
    assert line.startswith("data.test_ids: no question has the id '400'")


def test_nested_contexts_and_class_labels(tmp_path):
    from datasets import ClassLabel, Features, Value
    from datasets import List as Sequence

    features = Features(
        {
            "pubid": Value("int32"),
            "question": Value("string"),
            "context": {"contexts": Sequence(Value("string"))},
            "final_decision": ClassLabel(names=["no", "yes"]),
        }
    )
    rows = [
        {
            "pubid": i,
            "question": f"{i}?",
            "context": {"contexts": [f"First {i}.", "Second."]},
            "final_decision": i % 2,
        }
        for i in range(4)
    ]
    write_parquet(tmp_path / "hub/train.parquet", rows, features)
    source = Hub(
        dataset=str(tmp_path / "hub"),
        columns=QuestionColumns(id="pubid", answers="final_decision", context="context.contexts"),
        test_ids=["2", "3"],
        validation_fraction=0,
    )
    data = load(source, tmp_path)
    assert data.test == (
        Question("2", "2?", ("no",), ("2",)),
        Question("3", "3?", ("yes",), ("3",)),
    )
    assert data.passages["text"][2] == "First 2. Second."


def test_rows_are_checked_like_those_of_files(tmp_path):
    write_parquet(tmp_path / "hub/train.parquet", [{"id": "1", "question": "", "answer": "x"}])
    columns = QuestionColumns(answers="answer")
    (tmp_path / "p.jsonl").write_text('{"id": "p", "text": "x"}\n')
    source = Hub(dataset=f"{tmp_path}/hub", columns=columns, passages=f"{tmp_path}/p.jsonl")
    with pytest.raises(UserError, match=r"hub/train:row 1:question: '' is empty"):
        load(source, tmp_path)
    with pytest.raises(UserError, match=r"train:answers: no such column; did you mean 'answer'"):
        load(source.model_copy(update={"columns": QuestionColumns()}), tmp_path)


def test_a_wrong_split_of_a_folder_is_one_line(bioasq_like, tmp_path):
    with pytest.raises(UserError) as caught:
        load(make_bioasq(bioasq_like, splits=HubSplits(train="dev")), tmp_path)
    (line,) = caught.value.problems
    assert line.startswith("data.dataset: split 'dev' of ")
    assert "\n" not in line
    (line,) = Hub(dataset="./none", columns=QuestionColumns(context="c")).problems()
    assert line.startswith("dataset: 'none' does not exist")


def test_a_local_copy_replaces_the_hub(tmp_path):
    folder = tmp_path / "copy"
    folder.mkdir()
    (folder / "passages.jsonl").write_text('{"id": "p", "text": "x is here"}\n')
    (folder / "train.jsonl").write_text('{"id": "q", "question": "?", "answers": ["x"]}\n')
    (folder / "test.jsonl").write_text('{"id": "r", "question": "??", "answers": ["x"]}\n')
    source = make_bioasq("rag-datasets/rag-mini-bioasq", path=str(folder))
    data = load(source, tmp_path)
    assert [q.id for q in data.test] == ["r"]
    assert data.test[0].passage_ids == ("p",)
    (line,) = make_bioasq("a/b", path=str(tmp_path / "cop")).problems()
    assert line.startswith("path: ")
    assert "did you mean 'copy'?" in line


def test_without_the_hub_one_line_says_what_to_do(tmp_path):
    code = (
        "from pathlib import Path\n"
        "from rag_experiments.contracts import Runtime, UserError\n"
        "from rag_experiments.data.hub import Hub\n"
        "hub = Hub(dataset='nobody/nothing', passages='p.jsonl')\n"
        "try:\n    hub.load(Runtime(Path('cache')))\n"
        "except UserError as error:\n    print(error)\n"
    )
    (tmp_path / "p.jsonl").write_text('{"id": "p", "text": "x"}\n')
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    root = str(Path(__file__).parent.parent)
    environment["PYTHONPATH"] = root
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    (line,) = done.stdout.splitlines()
    assert line.startswith("data.dataset: 'nobody/nothing' cannot be had from the Hub")
    assert "data.path=<folder>" in line
    assert "HF_ENDPOINT" in line


def test_a_hub_without_passages_is_refused_before_loading():
    (line,) = Hub(dataset="a/b").problems()
    assert line.startswith("passages: null; legal: ")
    lines = Hub(dataset="a/b", passages=HubPassages(dataset="a/c"), test_ids="no.txt").problems()
    assert lines == ["test_ids: 'no.txt' does not exist; legal: a file or a list of ids"]
