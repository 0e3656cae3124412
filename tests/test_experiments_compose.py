"""Every option and every experiment of conf/ composes and passes the check."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from rag_experiments.composition.composer import Composer
from rag_experiments.contracts import UserError

CONF = Path(__file__).parent.parent / "conf"
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))

CHECKPOINT = ["model.weights=org/rag", "retriever=dense", "retriever/encoder=dpr"]

SUMMARIES = ["task=summarization", "data=folder", "data.path={folder}"]

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
    "trainer=end_to_end": ["retriever=dense"],
    "trainer=contrastive": ["retriever=dense"],
    "trainer=distill": ["retriever=dense"],
    "trainer=reranker": ["retriever/reranker=bi_encoder"],
    "task/prompt=cite": ["model=concat"],
    "model=fusion": ["model/generator=flan_t5_small"],
    "model/generator=checkpoint": [*CHECKPOINT, "model/query_encoder=checkpoint"],
    "model/query_encoder=checkpoint": [*CHECKPOINT, "model/generator=checkpoint"],
    "model/query_encoder=dpr": ["retriever=dense", "retriever/encoder=dpr"],
    "model/query_encoder=tiny": ["retriever=dense", "retriever/encoder=tiny"],
    "retriever/encoder=dpr": ["retriever=dense", "model/query_encoder=dpr"],
    "retriever/encoder=tiny": ["retriever=dense", "model/query_encoder=tiny"],
    "retriever/encoder": ["retriever=dense"],
    "retriever/index": ["retriever=dense"],
    "retriever=lead": SUMMARIES,
    "data=bio_papers": ["task=summarization"],
    "data=scitldr": ["task=summarization"],
    "data=cochrane_plain": ["task=summarization"],
    "data/columns=documents": ["data=files", "data.train={folder}/train.jsonl"],
    "data/columns=questions": [
        "data=files",
        "data.train={folder}/train.jsonl",
        "data.passages={folder}/passages.jsonl",
    ],
    "task=summarization": SUMMARIES,
    "task/prompt=summary": SUMMARIES,
    "task/prompt=summary_free": SUMMARIES,
    "task/prompt=summary_plain": SUMMARIES,
    "task=yes_no": ["data=folder", "data.path={folder}"],
    "task/prompt=label": ["task=yes_no"],
    "task/prompt=abstain": ["task.abstention=unanswerable"],
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


@pytest.fixture(autouse=True)
def _hydra_may_start_again() -> None:
    GlobalHydra.instance().clear()


@pytest.fixture(scope="module")
def composer() -> Composer:
    return Composer()


@pytest.mark.parametrize("option", options())
def test_every_option_composes_and_is_sound(option, folder, composer):
    group = option.partition("=")[0]
    companions = COMPANIONS.get(option, COMPANIONS.get(group, []))
    composer.plan([option, *(line.format(folder=folder) for line in companions)])


LABEL_METRICS = {"accuracy", "macro_f1", "calibration_error", "brier"}
SUMMARY_METRICS = {"summary_length", "length_error", "grounded_in_document", "copied_2"}
TEXT_METRICS = {"repetition", "coherence", "distinct_1", "distinct_2", "self_bleu"}
SETS = {"question_answering", "yes_no", "summarization", "text_quality"}


@pytest.mark.parametrize("task", ["question_answering", "yes_no", "summarization"])
def test_every_metric_fits_a_task_and_composes_with_its_set(task, folder, composer):
    found = {path.stem for path in (CONF / "metrics").glob("*.yaml")} - SETS
    rouge = {name for name in found if name.startswith("rouge")}
    chosen = {
        "question_answering": (found - LABEL_METRICS - SUMMARY_METRICS) | {"text_quality"},
        "yes_no": LABEL_METRICS,
        "summarization": rouge | SUMMARY_METRICS | TEXT_METRICS,
    }[task]
    line = f"metrics=[{','.join([task, *sorted(chosen)])}]"
    lines = [f"task={task}", "data=folder", f"data.path={folder}", line]
    if task == "question_answering":
        lines += ["test.samples=2", "test.rewordings=true"]
        lines += ["task/prompt=cite", "model=concat", "task.abstention=unanswerable"]
    run = composer.plan(lines).jobs[0]
    assert chosen - {"text_quality"} <= set(run.metrics)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes_and_is_sound(name, composer):
    plan = composer.plan([f"+experiment={name}"])
    assert plan.jobs


def test_the_defaults_are_sound(composer):
    assert len(composer.plan([]).jobs) == 1


def test_what_prompts_show_and_training_among_distractors_are_swept(composer):
    lines = [
        *("task/prompt=brief,instruct", "task.prompt.order=best_first,best_last,shuffled"),
        *("task.prompt.examples=0,2", "task.prompt.choice=drawn,nearest"),
        *("model=concat", "trainer=supervised,raft"),
    ]
    jobs = composer.plan(lines, multirun=True).jobs
    assert len(jobs) == 2 * 3 * 2 * 2 * 2
    prompts = {(j.task.prompt.order, j.task.prompt.examples, j.task.prompt.choice) for j in jobs}
    assert len(prompts) == 3 * 2 * 2


def test_data_is_prepared_with_the_labels_of_the_task(composer, folder):
    (job,) = composer.plan(["task.labels=[up, down]", "task=yes_no", "data=mixture"]).jobs
    assert job.data.parts["a"].preparation.labels == ("up", "down")
    (job,) = composer.plan([]).jobs
    assert job.data.preparation.labels == ()


def test_shares_of_a_mixture_are_swept(composer, folder):
    lines = [
        *("data=mixture", "+data@data.parts.b=folder", f"data.parts.b.path={folder}"),
        "data.shares={b: 0.25},{b: 1.0}",
    ]
    jobs = composer.plan(lines, multirun=True).jobs
    assert [job.data.shares for job in jobs] == [{"b": 0.25}, {"b": 1.0}]
    assert {*jobs[0].data.parts} == {"a", "b"}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["task/prompt=cite", "model=rag_token"], "legal: model=concat"),
        (
            ["metrics=[question_answering,citation_share]", "model=concat"],
            "metrics.citation_share: scores citations, but the prompt asks for none",
        ),
        (["trainer=raft", "retriever.top_k=2", "trainer.distractors=3"], "legal: at most 2"),
        (["trainer=raft", "retriever.top_k=1"], "leaves none beside the gold passage"),
        (["trainer=raft", "retriever=none"], "leaves none beside the gold passage"),
        (
            ["trainer=joint", "retriever=dense", "retriever.top_k=1"],
            "retriever.top_k: 1, but trainer Joint .* legal: at least 2",
        ),
        (["data=mixture", "data.shares={c: 0.5}"], "data.shares: 'c' is no part"),
    ],
    ids=["cite", "metric", "distractors", "one", "none", "joint with one", "shares"],
)
def test_what_does_not_go_together_is_refused(composer, lines, message):
    with pytest.raises(UserError, match=message):
        composer.plan(lines)


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


def test_values_for_an_option_that_is_replaced_are_left_out_with_a_note():
    composer = Composer()
    (run,) = composer.plan(["+experiment=smoke", "trainer=frozen"]).jobs
    assert type(run.trainer).__name__ == "Frozen"
    (note,) = composer.notes
    assert note == (
        "left out of experiment smoke: trainer.max_steps, trainer.per_device_train_batch_size, "
        "trainer.logging_steps; the trainer chosen on the command line has no such keys"
    )


def test_values_that_the_new_option_has_too_are_kept(composer):
    (run,) = composer.plan(["+experiment=smoke", "trainer=supervised"]).jobs
    assert type(run.trainer).__name__ == "Supervised"
    assert run.trainer.max_steps == 4


def test_a_choice_within_an_option_that_is_replaced_is_left_out_in_that_job_alone(composer):
    line = ["+experiment=smoke", "trainer=supervised", "retriever=bm25,dense"]
    lexical, dense = composer.plan(line, multirun=True).jobs
    assert type(lexical.retriever).__name__ == "BM25"
    assert dense.retriever.encoder.weights == "random:bert"
    expected = "left out of the experiment: its choice of retriever/encoder; nothing takes it"
    assert expected in composer.notes


def test_the_same_choice_within_a_part_of_the_new_option_is_the_users_own(composer):
    part = "retriever/encoder@retriever.dense.encoder=tiny"
    line = ["+experiment=smoke", "trainer=supervised", "retriever=hybrid", part]
    (run,) = composer.plan(line).jobs
    assert run.retriever.dense.encoder.weights == "random:bert"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (["trainer=frozen", "trainer.max_steps=3"], "trainer.max_steps: unknown key"),
        (["retriever=bm25", "retriever/encoder=tiny"], "retriever/encoder=tiny: "),
    ],
)
def test_what_a_user_gives_to_an_option_without_such_a_key_is_refused(line, expected, composer):
    with pytest.raises(UserError) as refused:
        composer.plan(["+experiment=smoke", *line])
    assert any(problem.startswith(expected) for problem in refused.value.problems)


def test_an_experiment_that_tunes_what_its_own_option_lacks_is_refused(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "wrong.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /trainer: frozen\ntrainer:\n  max_steps: 3\n"
    )
    with pytest.raises(UserError, match=r"trainer\.max_steps: unknown key"):
        Composer(str(tmp_path)).plan(["+experiment=wrong"])


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
