"""Every option and every experiment of conf/ composes and passes the check."""

from __future__ import annotations

from pathlib import Path

import pytest

from rag_experiments.composition import Composer

CONF = Path(__file__).parent.parent / "conf"
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))

# What an option needs beside its own name to be legal: options that go together, and values
# that only a user can give.
COMPANIONS = {
    "data=folder": ["data.path={folder}"],
    "data=hub": ["data.dataset=org/name", "data.passages={folder}/passages.jsonl"],
    "data=files": [
        "data.train={folder}/train.jsonl",
        "data.passages={folder}/passages.jsonl",
    ],
    "trainer=joint": ["retriever=dense"],
    "model=fusion": ["model/generator=flan_t5_small"],
    "model/query_encoder=dpr": ["retriever=dense", "retriever/encoder=dpr"],
    "model/query_encoder=tiny": ["retriever=dense", "retriever/encoder=tiny"],
    "retriever/encoder=dpr": ["retriever=dense", "model/query_encoder=dpr"],
    "retriever/encoder=tiny": ["retriever=dense", "model/query_encoder=tiny"],
    "retriever/encoder": ["retriever=dense"],
    "retriever/index": ["retriever=dense"],
    "task=yes_no": ["data=folder", "data.path={folder}"],
    "task/prompt=label": ["task=yes_no"],
}


def options() -> list[str]:
    found = []
    for path in sorted(CONF.rglob("*.yaml")):
        group = path.parent.relative_to(CONF).as_posix()
        if group != "." and not group.startswith(("experiment", "hydra", "metrics")):
            found.append(f"{group}={path.stem}")
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("train", "passages"):
        (tmp_path / f"{name}.jsonl").write_text("{}\n")
    return tmp_path


@pytest.fixture(scope="module")
def composer() -> Composer:
    return Composer()


@pytest.mark.parametrize("option", options())
def test_every_option_composes_and_is_sound(option, folder, composer):
    group = option.partition("=")[0]
    companions = COMPANIONS.get(option, COMPANIONS.get(group, []))
    composer.plan([option, *(line.format(folder=folder) for line in companions)])


@pytest.mark.parametrize("task", ["question_answering", "yes_no"])
def test_every_metric_fits_a_task_and_composes_with_its_set(task, folder, composer):
    labels = {"accuracy", "macro_f1", "yes_no"}
    found = {path.stem for path in (CONF / "metrics").glob("*.yaml")}
    others = {"question_answering", "yes_no"} - {task}
    chosen = (found if task == "question_answering" else found & labels) - others
    if task == "question_answering":
        chosen -= labels
    line = f"metrics=[{','.join([task, *sorted(chosen - {task})])}]"
    run = composer.plan([f"task={task}", "data=folder", f"data.path={folder}", line]).jobs[0]
    assert chosen - {task} <= set(run.metrics)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes_and_is_sound(name, composer):
    plan = composer.plan([f"+experiment={name}"])
    assert plan.jobs


def test_the_defaults_are_sound(composer):
    assert len(composer.plan([]).jobs) == 1


def test_the_main_experiment_is_four_runs_that_differ_in_model_and_retriever(composer):
    plan = composer.plan(["+experiment=bio_qa"], multirun=True)
    assert plan.sweep_dir is not None
    assert plan.sweep_dir.parts[:3] == ("outputs", "sweeps", "bio_qa")
    pairs = {(type(job.model).__name__, type(job.retriever).__name__) for job in plan.jobs}
    assert len(plan.jobs) == len(pairs) == 4
    assert len({model for model, _ in pairs}) > 1
    assert len({retriever for _, retriever in pairs}) > 1


def test_a_value_on_the_command_line_replaces_a_swept_one(composer):
    plan = composer.plan(["+experiment=bio_qa", "retriever=none"])
    assert {type(job.retriever).__name__ for job in plan.jobs} == {"NoRetriever"}


def test_metrics_follow_the_task_unless_they_are_chosen(composer, folder):
    own_data = ["data=folder", f"data.path={folder}"]
    run = composer.plan(["task=yes_no", *own_data]).jobs[0]
    assert "accuracy" in run.metrics
    assert "f1" not in run.metrics
    run = composer.plan(["task=yes_no", "metrics=accuracy", *own_data]).jobs[0]
    assert list(run.metrics) == ["accuracy"]


def test_metrics_follow_the_task_of_an_experiment(composer):
    assert "macro_f1" in composer.plan(["+experiment=pubmedqa"]).jobs[0].metrics


def test_a_key_that_an_option_has_and_its_file_does_not_show_is_legal(composer, folder):
    line = "data.passage_columns.missing=[none]"
    plan = composer.plan(["data=folder", f"data.path={folder}", line])
    assert list(plan.jobs[0].data.passage_columns.missing) == ["none"]
    assert f"++{line}" in plan.overrides  # the form that Hydra takes
