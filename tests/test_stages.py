"""What is computed once: which setting makes which stage anew, and that it changes no result."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import Dataset
from hydra.core.global_hydra import GlobalHydra

from rag_experiments import __main__ as entry
from rag_experiments import stages
from rag_experiments.composition.composer import Composer
from rag_experiments.config import Run
from rag_experiments.contracts import Option, PreparedData, Question, Runtime
from rag_experiments.data.source import Source
from rag_experiments.retriever.bm25 import BM25
from rag_experiments.retriever.dense import Dense
from rag_experiments.retriever.dense_search import index_key
from rag_experiments.retriever.embeddings import embeddings_key
from rag_experiments.retriever.index import Hnsw, IvfPq
from rag_experiments.trainer.distill import Distill

CONF = Path(__file__).parent.parent / "conf"

RUNS = {
    "dense": [
        *("data=bio_qa", "model=rag_token", "retriever=dense", "trainer=joint"),
        *("retriever/encoder=tiny", "model/query_encoder=tiny", "tracking=none"),
    ],
    "hybrid": [
        *("data=folder", "data.path=data", "model=concat", "retriever=hybrid", "task=yes_no"),
        *("model/query_encoder=tiny", "retriever/encoder@retriever.dense.encoder=tiny"),
    ],
    "mixture": [
        *("data=mixture", "+data@data.parts.b=folder", "data.parts.b.path=data"),
        *("retriever=bm25", "model=concat", "task/prompt=cite", "trainer=raft"),
    ],
    "bm25": [
        *("data=files", "data.train=data/train.jsonl", "data.passages=data/passages.jsonl"),
        *("retriever=bm25", "model=rag_sequence", "trainer=frozen"),
    ],
    "none": [
        *("data=hub", "data.dataset=org/name", "data.passages=data/passages.jsonl"),
        *("model=fusion", "model/generator=tiny_seq2seq", "retriever=none"),
        f"data.revision={'a' * 40}",
    ],
    "hub": [
        *("data=hub", "data.dataset=org/name", "retriever=gold"),
        "+data.passages={_target_: rag_experiments.data.hub.HubPassages, dataset: org/x, "
        f"revision: {'b' * 40}}}",
        f"data.revision={'a' * 40}",
    ],
    "papers": ["data=bio_papers", "task=summarization", "model=concat", "retriever=lead"],
    "documents": [
        *("data=files", "data/columns=documents", "data.train=data/train.jsonl"),
        *("task=summarization", "retriever=bm25"),
    ],
    "hnsw": [
        *("retriever=dense", "retriever/index=hnsw", "retriever/reranker=cross_encoder"),
        *("retriever/encoder=tiny", "model/query_encoder=tiny"),
        "retriever.reranker.weights=random:bert",
    ],
    "iterative": [
        *("data=bio_qa", "model=rag_token", "retriever=iterative", "trainer=contrastive"),
        *("retriever@retriever.first=hybrid", "model/query_encoder=tiny"),
        "retriever/encoder@retriever.first.dense.encoder=tiny",
    ],
    "distilled": [
        *("data=bio_qa", "model=rag_sequence", "retriever=dense", "trainer=distill"),
        *("retriever/encoder=tiny", "model/query_encoder=tiny"),
    ],
    "end_to_end": [
        *("data=bio_qa", "model=rag_sequence", "retriever=dense", "trainer=end_to_end"),
        *("retriever/encoder=tiny", "model/query_encoder=tiny"),
    ],
    "ivf_pq": [
        *("retriever=dense", "retriever/index=ivf_pq", "retriever/reranker=bi_encoder"),
        "trainer=reranker",
        *("retriever/encoder=tiny", "model/query_encoder=tiny"),
    ],
}

ALL = {"data", "embeddings", "index", "retrieval", "untrained"}

# The stages that a setting makes anew: the longest name that a setting's begins with counts.
# `untrained` stands here wherever other hits or another p(z|x) may be read, `posterior` wherever
# other passages may be weighed.
READS_OTHERS = {"retrieval", "untrained", "posterior"}
ANEW = {
    "data": {"data"},  # what follows goes by the content that comes out
    "task": {"untrained", "posterior"},
    "task.objective": set(),
    "task.temperature": set(),
    "model": {"untrained", "posterior"},
    "model.decoding": {"untrained"},
    "model.label_smoothing": set(),
    "model.generator.gradient_checkpointing": set(),
    "model.generator.adapter": set(),
    "model.query_encoder": READS_OTHERS,
    "retriever": READS_OTHERS,
    "retriever.temperature": {"untrained"},
    "retriever.encoder": {"embeddings", "index"} | READS_OTHERS,
    "retriever.dense.encoder": {"embeddings", "index"} | READS_OTHERS,
    "retriever.first.dense.encoder": {"embeddings", "index"} | READS_OTHERS,
    "retriever.index": {"index"} | READS_OTHERS,
    "retriever.index.ef_search": READS_OTHERS,
    "retriever.index.nprobe": READS_OTHERS,
    "retriever.index.refine": READS_OTHERS,
    **{
        f"retriever.{part}{name}": {"index of words"} | READS_OTHERS
        for part in ("", "lexical.", "first.lexical.")
        for name in ("k1", "b", "method", "stopwords")
    },
    "trainer": set(),
    "trainer.passages": {"posterior"},
    "trainer.teacher_temperature": {"posterior"},
    "metrics": set(),
    "tracking": set(),
    "test": set(),
    "sweep": set(),
    "seed": set(),
}
UNUSED = {"none": {"model.query_encoder"}, "bm25": {"model.query_encoder"}}
UNUSED["mixture"] = UNUSED["hub"] = UNUSED["papers"] = UNUSED["documents"] = UNUSED["bm25"]
"""Settings of parts that a run does not use: they make nothing anew."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Run]:
    """The configured runs, in a folder with data and with other data of the same layout."""
    folder = tmp_path_factory.mktemp("runs")
    for name in ("data", "other"):
        (folder / name).mkdir()
        for file in ("train", "validation", "test", "passages"):
            (folder / name / f"{file}.jsonl").write_text(f'{{"{name}": 1}}\n')
    patch = pytest.MonkeyPatch()
    patch.chdir(folder)
    found = {}
    for name, line in RUNS.items():
        found[name] = Composer().plan(line).jobs[0]
        GlobalHydra.instance().clear()
    yield found
    patch.undo()


class Another(Option):
    """Stands in for an option that has no settings."""


def keys(run: Run, cache_dir: Path, **runtime_fields: Any) -> dict[str, Any]:
    """The key of every stage of a run, where other hits are what another key of hits stands for."""
    runtime = replace(Runtime(cache_dir=cache_dir, seed=run.seed), **runtime_fields)
    data = stages.data_key(run, runtime)
    retrieval = stages.retrieval_key(run, runtime, "passages", [Question("q", "Why?")])
    examples = f"{retrieval.digest} at {run.retriever.temperature}"
    found = {
        "data": data and data.digest,
        "retrieval": retrieval.digest,
        "untrained": stages.answers_key(run, runtime, examples).digest,
    }
    if isinstance(run.trainer, Distill):
        weighed = f"{retrieval.digest}, the first {run.trainer.passages}"
        softness = run.trainer.teacher_temperature
        found["posterior"] = stages.posterior_key(run, runtime, weighed, softness).digest
    whole = getattr(run.retriever, "first", run.retriever)
    for part in (whole, *(getattr(whole, name, None) for name in ("lexical", "dense"))):
        if isinstance(part, BM25):
            found["index of words"] = part.index_key("passages", cache_dir).digest
        if isinstance(part, Dense):
            embeddings = embeddings_key("passages", part.encoder, runtime)
            found["embeddings"] = embeddings.digest
            if isinstance(part.index, Hnsw | IvfPq):
                found["index"] = index_key(part.index, embeddings, cache_dir).digest
    return found


def changes(value: Any, name: str) -> list[tuple[str, Any]]:
    """Every setting below a value by its dotted name, and the value with that setting changed."""
    if isinstance(value, Option):
        found = [
            (place, value.model_copy(update={field: changed}))
            for field in type(value).model_fields
            for place, changed in changes(getattr(value, field), f"{name}.{field}".lstrip("."))
        ]
        return found or [(name, Another())]
    if isinstance(value, dict) and any(isinstance(each, Option) for each in value.values()):
        return [
            (place, {**value, key: changed})
            for key, each in value.items()
            for place, changed in changes(each, f"{name}.{key}")
        ]
    return [(name, another(value, name.rpartition(".")[2]))]


def another(value: Any, field: str) -> Any:
    """Another value of the same type; it need not be legal, only different."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    if field in ("weights", "tokenizer"):
        return "random:bart" if value != "random:bart" else "random:t5"
    if field in ("path", "train", "validation", "test") and isinstance(value, str):
        return value.replace("data", "other") if Path(value).exists() else value + "x"
    if field == "passages":
        return "other/passages.jsonl"
    if field == "revision" and value:
        return "c" * 40
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, dict):
        return {**value, "another": 1}
    if isinstance(value, (list, tuple, set, frozenset)):
        return (*value, "another")
    if isinstance(value, Path):
        return value / "another"
    assert value is None, f"{field}: {value!r} has no rule"
    return "data/test.jsonl"


def expected(name: str, run: str) -> set[str]:
    """The stages that the table names for a setting."""
    if any(name.startswith(part) for part in UNUSED.get(run, ())):
        return set()
    fitting = [key for key in ANEW if name == key or name.startswith(f"{key}.")]
    assert fitting, f"{name}: say in ANEW which stages it makes anew"
    return ANEW[max(fitting, key=len)]


@pytest.mark.parametrize("name", RUNS)
def test_every_setting_makes_anew_what_depends_on_it_and_nothing_else(name, runs, tmp_path):
    run = runs[name]
    before = keys(run, tmp_path)
    wrong = []
    walked = 0
    for place, changed in changes(run, ""):
        if place in ("device", "precision", "cache_dir"):
            continue  # they are in the runtime, below
        walked += 1
        after = keys(changed, tmp_path)
        anew = {stage for stage in before if before[stage] != after.get(stage)}
        want = expected(place, name) & before.keys()
        if place == "model.generator.adapter" and run.model.generator.adapter is None:
            want = {"untrained", "posterior"} & before.keys()  # it decides the precision
        if anew != want:
            wrong.append(f"{place}: {sorted(anew)}, not {sorted(want)}")
    assert not wrong, "\n".join(wrong)
    assert walked > 60


def test_every_option_is_walked(runs):
    def kinds(value: Any) -> set[str]:
        if isinstance(value, Option):
            own = f"{type(value).__module__}.{type(value).__qualname__}"
            return {own}.union(*(kinds(getattr(value, f)) for f in type(value).model_fields))
        if isinstance(value, dict):
            return set().union(*map(kinds, value.values()))
        return set()

    def targets(node: Any) -> set[str]:
        if isinstance(node, dict):
            own = {node["_target_"]} if "_target_" in node else set()
            return own.union(*map(targets, node.values()))
        return set()

    there = {
        target
        for group in ("task", "data", "model", "retriever", "trainer", "tracking")
        for path in (CONF / group).rglob("*.yaml")
        for target in targets(yaml.safe_load(path.read_text("utf-8")))
    }
    assert there - set().union(*map(kinds, runs.values())) == set()


@pytest.mark.parametrize(
    ("change", "anew"),
    [
        ({"dtype": "bfloat16"}, ALL - {"data"}),
        ({"device": "cuda:1"}, ALL - {"data"}),
        ({"seed": 5}, set()),
    ],
)
def test_device_and_precision_count_and_the_seed_does_not(runs, tmp_path, change, anew):
    run = runs["hnsw"]
    before, after = keys(run, tmp_path), keys(run, tmp_path, **change)
    assert {stage for stage in before if before[stage] != after[stage]} == anew


def test_the_seed_counts_where_answers_are_drawn(runs, tmp_path):
    run = runs["dense"]
    decoding = run.model.decoding.model_copy(update={"do_sample": True})
    model = run.model.model_copy(update={"decoding": decoding})
    drawn = run.model_copy(update={"model": model})
    before, after = (keys(each, tmp_path) for each in (drawn, drawn.model_copy(update={"seed": 5})))
    assert {stage for stage in before if before[stage] != after[stage]} == {"untrained"}


def test_the_seed_counts_where_passages_are_shuffled(runs, tmp_path):
    run = runs["dense"]
    prompt = run.task.prompt.model_copy(update={"order": "shuffled"})
    task = run.task.model_copy(update={"prompt": prompt})
    shuffled = run.model_copy(update={"task": task})
    before, after = (keys(r, tmp_path) for r in (shuffled, shuffled.model_copy(update={"seed": 5})))
    assert {stage for stage in before if before[stage] != after[stage]} == {"untrained"}


def test_the_seed_counts_where_training_questions_are_drawn(runs, tmp_path):
    run = runs["mixture"]
    for share, anew in ((1.0, set()), (0.5, {"data"})):
        data = run.data.model_copy(update={"shares": {"b": share}})
        own = run.model_copy(update={"data": data})
        before, after = (keys(r, tmp_path) for r in (own, own.model_copy(update={"seed": 5})))
        assert {stage for stage in before if before[stage] != after[stage]} == anew


@pytest.mark.parametrize(
    ("library", "anew"),
    [
        ("torch", {"embeddings", "index", "retrieval", "untrained"}),
        ("faiss-cpu", {"index", "retrieval"}),
        ("peft", {"untrained"}),
        ("datasets", {"data"}),
        ("markdown-it-py", {"data"}),
        ("pypdf", {"data"}),
    ],
)
def test_a_library_counts_where_results_depend_on_it(runs, tmp_path, monkeypatch, library, anew):
    from rag_experiments.store import keys as module

    run, real = runs["hnsw"], module.version
    before = keys(run, tmp_path)
    monkeypatch.setattr(module, "version", lambda n: "0" if n == library else real(n))
    after = keys(run, tmp_path)
    # Other hits are what another key of hits stands for, here as well.
    anew = anew | ({"untrained"} if "retrieval" in anew else set())
    assert {stage for stage in before if before[stage] != after[stage]} == anew


def test_content_counts_not_only_settings(runs, tmp_path):
    run = runs["hybrid"]
    before = keys(run, tmp_path)["data"]
    (Path("data") / "test.jsonl").write_text('{"changed": 1}\n')
    assert keys(run, tmp_path)["data"] != before
    runtime = Runtime(cache_dir=tmp_path)
    question = Question("q", "Why?", ("because",), ("p",), "g")
    found = {
        stages.retrieval_key(run, runtime, passages, [each]).digest
        for passages in ("one", "other")
        for each in (
            question,
            replace(question, question="Who?"),
            replace(question, passage_ids=()),
        )
    }
    assert len(found) == 6


def test_a_source_that_may_change_unseen_is_read_each_time(runs, tmp_path):
    run = runs["none"]
    runtime = Runtime(cache_dir=tmp_path)
    assert stages.data_key(run, runtime) is not None
    for revision in (None, "main", "v1.0"):
        data = run.data.model_copy(update={"revision": revision})
        assert stages.data_key(run.model_copy(update={"data": data}), runtime) is None


def test_an_option_that_does_not_say_what_it_reads_is_read_each_time(runs, tmp_path):
    class Own(Source):
        def open(self, problems, runtime): ...

    run = runs["papers"].model_copy(update={"data": Own()})
    assert stages.data_key(run, Runtime(cache_dir=tmp_path)) is None


def test_prepared_data_is_read_as_it_was_written(tmp_path):
    rows = [
        {
            "id": f"p{n}",
            "summary": "s",
            "title": "T\u00fc",
            "text": f"a \U0001f9ec {n}",
            "document_id": "d",
        }
        for n in range(5)
    ]
    questions = (Question("q", "Why?", ("a", "b"), ("p1",), "g"), Question("r", "\ud800", ("x",)))
    data = PreparedData(
        passages=Dataset.from_list(rows).select([3, 0, 4]),
        train=questions,
        validation=(),
        test=questions[:1],
        gold="annotated",
        notes=("one", "two"),
    )
    stages.write_data(data, tmp_path)
    read = stages.read_data(tmp_path)
    assert read.passages[:] == data.passages[:]
    assert read.passages.features == data.passages.features
    assert replace(read, passages=None) == replace(data, passages=None)


# --- Whole runs -------------------------------------------------------------------------------

LINE = [
    *("data=folder", "data.path=data", "retriever=bm25", "retriever.top_k=2", "model=rag_token"),
    *("model/generator=tiny_causal", "task.max_answer_tokens=4", "tracking=none"),
    *("model.generator.max_prompt_tokens=150", "device=cpu", "precision=float32"),
    "task/prompt=question_first",
]
TRAINED = ["trainer.max_steps=2", "trainer.eval_strategy=no"]
LORA = "+model.generator.adapter={_target_: rag_experiments.model.generator.Lora, rank: 2}"


def write(name: str, lines: list[dict[str, Any]]) -> None:
    text = "".join(json.dumps(line) + "\n" for line in lines)
    Path(f"data/{name}.jsonl").write_text(text, "utf-8")


class Runs:
    """Runs in one folder, and which stages each of them read and computed."""

    def __init__(self, folder: Path, monkeypatch):
        self.folder, self.monkeypatch = folder, monkeypatch

    def start(self, cache: str, *overrides: str) -> tuple[dict[str, str], list[str], list[str]]:
        """Contents of a run's files; the stages that were computed, and those that were read."""
        before = set(self.folder.glob("outputs/runs/*/*"))
        line = ["rag_experiments", *LINE, f"cache_dir={cache}", *overrides]
        self.monkeypatch.setattr(sys, "argv", line)
        with pytest.raises(SystemExit) as ended:
            entry.main()
        assert not ended.value.code
        (run,) = set(self.folder.glob("outputs/runs/*/*")) - before
        files = {p.name: p.read_text("utf-8") for p in run.glob("*.json*")}
        metrics = json.loads(files["metrics.json"])
        del metrics["seconds"], files["outcome.json"], files["begun.json"]  # times, command line
        return {**files, "metrics.json": json.dumps(metrics)}, *read_log(run)


def read_log(run: Path) -> tuple[list[str], list[str]]:
    """The stages that a run computed, and those that it read."""
    said = (run / "rag_experiments.log").read_text("utf-8")
    return re.findall(r"(\w+): computing, ", said), re.findall(r"(\w+): read, ", said)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Runs:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    write("passages", [{"id": f"p{n}", "text": f"Word{n} is word{n + 1}."} for n in range(4)])
    for split in ("train", "validation", "test"):
        write(
            split,
            [
                {
                    "id": f"{split} {n}",
                    "question": f"What is word{n}?",
                    "answers": [f"{split} {n}"],
                    "passage_ids": [f"p{n}"],
                }
                for n in range(3)
            ],
        )
    return Runs(tmp_path, monkeypatch)


STAGES = ["data", "index", "retrieval", "retrieval", "untrained", "retrieval"]


def test_a_warm_store_gives_the_same_bytes_as_a_cold_one(folder):
    """With drawn answers, so that a random number too many or too few would be seen."""
    drawn = ["model.decoding.do_sample=true", "test.rewordings=true", LORA, *TRAINED]
    cold, computed, read = folder.start("cold", *drawn, "trainer.learning_rate=0.01")
    assert (computed, read) == (STAGES, [])
    shutil.copytree("cold/weights", "warm/weights")
    other, computed, _ = folder.start("warm", *drawn, "trainer.learning_rate=0.5")
    assert computed == STAGES
    warm, computed, read = folder.start("warm", *drawn, "trainer.learning_rate=0.01")
    assert (computed, read) == ([], STAGES)
    assert warm == cold
    assert other["predictions_untrained.jsonl"] == cold["predictions_untrained.jsonl"]
    assert other["predictions_trained.jsonl"] != cold["predictions_trained.jsonl"]


def test_adapters_of_any_rank_share_the_untrained_answers_and_change_none(folder):
    """They begin as zero: what the key leaves out makes no difference."""
    ranks = [
        folder.start(
            name, LORA, *TRAINED, "test.references=false", f"model.generator.adapter.rank={rank}"
        )[0]
        for name, rank in (("a", 2), ("b", 5))
    ]
    name = "predictions_untrained.jsonl"
    assert ranks[0][name] == ranks[1][name]
    assert ranks[0]["predictions_trained.jsonl"] != ranks[1]["predictions_trained.jsonl"]


def test_what_changed_is_computed_and_the_rest_is_read(folder):
    folder.start("cache", *TRAINED, "test.references=false")
    write("test", [{"id": "new", "question": "What is word1?", "answers": ["x"]}])
    assert folder.start("cache", *TRAINED, "test.references=false")[1:] == (
        ["data", "retrieval", "untrained"],  # the test questions alone were searched again
        ["index", "retrieval", "retrieval"],
    )
    assert folder.start("cache", "trainer=frozen", "seed=7", "test.references=false")[1:] == (
        ["untrained"],  # the validation questions, which were answered during training only
        ["data", "index", "retrieval", "retrieval", "untrained"],
    )


def test_passages_are_weighed_once_for_distillations_of_other_settings(folder):
    dense = [*("retriever=dense", "retriever/encoder=tiny", "model/query_encoder=tiny")]
    line = [*dense, *TRAINED, "trainer=distill", "trainer.passages=2", "test.references=false"]
    first, computed, _ = folder.start("cache", *line, "trainer.learning_rate=0.01")
    assert computed.count("posterior") == 1
    _, computed, read = folder.start("cache", *line, "trainer.learning_rate=0.5", "seed=7")
    assert computed == []
    assert read.count("posterior") == 1
    _, computed, _ = folder.start("cache", *line, "trainer.teacher_temperature=2.0")
    assert computed == ["posterior"]
    same, computed, _ = folder.start("other", *line, "trainer.learning_rate=0.01")
    assert "posterior" in computed
    assert same == first


def test_a_sweep_does_nothing_twice(folder, monkeypatch):
    line = ["model=rag_token,concat", "retriever=bm25,gold", "trainer=frozen", "cache_dir=cache"]
    sweep = ["-m", "hydra.sweep.dir=sweep", "test.references=false", *line]
    monkeypatch.setattr(sys, "argv", ["rag_experiments", *LINE, *sweep])
    with pytest.raises(SystemExit) as ended:
        entry.main()
    assert not ended.value.code
    computed = [Counter(read_log(Path("sweep") / str(n))[0]) for n in range(4)]
    splits = 2  # the validation questions and the test questions
    assert sum(computed, Counter()) == {
        "data": 1,
        "index": 1,  # gold passages need none
        "retrieval": 2 * splits,  # for each retriever
        "untrained": 4 * splits,  # for each model and retriever
    }
    assert computed[3] == {"untrained": splits}  # all else was there
