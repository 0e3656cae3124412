"""Searches: what is sampled, told and counted, what survives a kill, what is pruned and best."""

from __future__ import annotations

import importlib
import json
import math
import os
import shlex
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from entry_calls import SMALL_SMOKE, call, replace_run
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf

from rag_experiments.composition.composer import Composer
from rag_experiments.contracts import Pruned, UserError
from rag_experiments.search import pruning, settings, space
from rag_experiments.search.sweeper import OptunaSweeper
from rag_experiments.sweep import outcomes, resumption

LINE = ["data=folder", "data.path=own", "tracking=none", "hydra/sweeper=optuna"]
RATE = "trainer.learning_rate=tag(log, interval(1e-5, 1e-1))"
LAUNCHER = "hydra._internal.core_plugins.basic_launcher"
DEPTH = "retriever.top_k=int(interval(1, 9))"


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    (tmp_path / "own").mkdir()
    for name in ("train", "passages"):
        (tmp_path / "own" / f"{name}.jsonl").write_text("{}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def validate(run: Any) -> dict[str, float]:
    """Scores of a made-up run: best at a rate of 1e-3; depth is good for one, bad for the other."""
    f1 = 1 - abs(math.log10(run.trainer.learning_rate) + 3) / 2
    depth = run.retriever.top_k / 100
    return {"f1": f1 + depth, "exact_match": 0.5 - depth}


class FakeRuns:
    """In place of experiment.run, in this process or another: three validations, then a test whose
    scores rank the runs the other way round; does what a test wants in some runs."""

    def __init__(self) -> None:
        self.on: dict[int, Callable[[], None]] = {}

    def __call__(self, run: Any, raw: Any, folder: Path) -> float:
        with Path("ran.jsonl").open("a") as file:
            file.write(json.dumps([folder.name, resumption.identify(raw)]) + "\n")
        if folder.name in map(str, self.on):
            self.on[int(folder.name)]()
        job, scores, curve = outcomes.current_job(), validate(run), []
        trial = pruning.current_trial(run.task.objective)
        try:
            for share in (0.5, 0.75, 1):
                curve.append({f"validation/{name}": x * share for name, x in scores.items()})
                if trial is not None:
                    trial.follow(curve)
        except Pruned as reason:
            outcomes.Outcome("f1", pruned=str(reason), overrides=job.overrides).write(folder)
            raise
        finally:
            (folder / "validated.txt").write_text(str(len(curve)))
        score = outcomes.Score(1 - scores["f1"])
        outcomes.Outcome("f1", None, score, validation=scores, overrides=job.overrides).write(
            folder
        )
        return score.value


@pytest.fixture
def runs(monkeypatch) -> FakeRuns:
    found = FakeRuns()
    replace_run(monkeypatch, found)
    return found


def search(monkeypatch, *arguments: str, trials: int = 8) -> int:
    return call(monkeypatch, "-m", *LINE, f"hydra.sweeper.n_trials={trials}", *arguments)


def in_a_child(act: Callable[[], Any]) -> int:
    """Do something in a process of its own; return the signal that killed it, or 0."""
    child = os.fork()
    if child == 0:
        try:
            act()
        finally:
            os._exit(0)
    return os.WTERMSIG(os.waitpid(child, 0)[1])


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def home() -> Path:
    (found,) = Path("outputs/sweeps/defaults").iterdir()
    return found


def ran() -> list[int]:
    """The numbers of the runs that were begun, in order."""
    return [int(json.loads(line)[0]) for line in Path("ran.jsonl").read_text().splitlines()]


def read_study(folder: Path) -> optuna.Study:
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "study.journal"))
    storage = optuna.storages.JournalStorage(backend)
    return optuna.load_study(study_name=outcomes.tag(folder), storage=storage)


def states(folder: Path) -> list[str]:
    return [trial.state.name for trial in read_study(folder).trials]


def left(folder: Path) -> dict[int, dict[str, Any]]:
    """What the runs of a sweep left, read as the files that they are."""
    found = {int(p.parent.name): json.loads(p.read_text()) for p in folder.glob("*/outcome.json")}
    return dict(sorted(found.items()))


def test_the_best_of_a_search_is_the_best_of_what_its_runs_left_on_validation(
    runs, monkeypatch, capfd
):
    assert search(monkeypatch, RATE, DEPTH) == 0
    scores = {number: job["validation"]["f1"] for number, job in left(home()).items()}
    assert len(scores) == 8
    assert ran() == list(range(8))
    best = max(scores, key=lambda number: scores[number])
    tested = {number: job["trained"]["value"] for number, job in left(home()).items()}
    assert best == min(tested, key=lambda number: tested[number])  # not chosen on test
    study = read_study(home())
    assert study.best_trial.number == best
    assert [trial.value for trial in study.trials] == list(scores.values())
    said = capfd.readouterr().out
    assert f"run {best}: validation f1 {scores[best]:.3f}: trainer.learning_rate=" in said
    assert "validation f1" in said[said.index("what differs") :]

    # The command that is printed runs what the best run was, to the last digit.
    (command,) = [line.strip() for line in said.splitlines() if "+experiment=best" in line]
    words = shlex.split(command)
    assert words[:5] == ["python", "-m", "rag_experiments", "--config-dir", str(home())]
    assert call(monkeypatch, *words[3:]) == 0
    *searched, again = [json.loads(line)[1] for line in Path("ran.jsonl").read_text().splitlines()]
    assert again == searched[best]


@pytest.mark.parametrize(
    "overrides",
    [
        ["retriever.top_k=3", "trainer.learning_rate=0.00123"],
        ["+experiment=smoke", "trainer.max_steps=2", "retriever.top_k=2", "test.samples=3"],
        ["+experiment=smoke", "trainer=frozen", "metrics=[f1,recall]"],
        ["+experiment=bio_qa", "model=concat", "retriever=hybrid"],
        [
            "model=fusion",
            "model/generator=flan_t5_small",
            "retriever=dense",
            "retriever/index=hnsw",
        ],
        ["+tracking.tags.a='x: {y}'", "task/prompt=extract", "tracking=mlflow"],
        ["model.generator.adapter={_target_: rag_experiments.model.generator.Lora, dropout: 0.3}"],
        ["~metrics.exact_match", "task/prompt=extract", "~trainer.warmup_ratio"],
        ["model.weights=org/rag", "retriever=dense", "retriever/encoder=dpr"],
        ["retriever=hybrid", "retriever/encoder@retriever.dense.encoder=minilm"],
    ],
    ids=lambda lines: lines[0].partition("={")[0],
)
def test_the_best_settings_compose_as_the_run_did(tmp_path, overrides):
    from rag_experiments.search.best import write_experiment

    own = LINE[:2] if not overrides[0].startswith("+experiment") else []
    composer = Composer()
    wanted = composer.plan([*own, *overrides, "hydra.mode=RUN"]).jobs
    text, deletions = write_experiment(composer.loader, "config", (*own, *overrides))
    (tmp_path / "found" / "experiment").mkdir(parents=True)
    written = tmp_path / "found" / "experiment" / "best.yaml"
    written.write_text("# @package _global_\n" + text)
    GlobalHydra.instance().clear()
    again = Composer(str(tmp_path / "found")).plan(["+experiment=best", *deletions])
    assert again.jobs == wanted
    assert {*deletions} == {line for line in overrides if line.startswith("~")}


def test_best_settings_of_a_users_own_options_name_his_folder(runs, monkeypatch, tmp_path, capfd):
    (tmp_path / "mine" / "retriever").mkdir(parents=True)
    for name in ("narrow", "wide"):
        text = f"defaults: [bm25, _self_]\ntop_k: {len(name)}\n"
        (tmp_path / "mine" / "retriever" / f"{name}.yaml").write_text(text)
    own = ["--config-dir", "mine", "retriever=narrow,wide"]
    assert search(monkeypatch, *own, trials=3) == 0
    said = capfd.readouterr().out
    (command,) = [line.strip() for line in said.splitlines() if "+experiment=best" in line]
    assert call(monkeypatch, *shlex.split(command)[3:]) == 0
    searched = [json.loads(line)[1] for line in Path("ran.jsonl").read_text().splitlines()]
    assert len(searched) == 4
    assert searched[3] in searched[:3]


def sample(line: str, count: int) -> list[Any]:
    """Values of an override's key as a search draws them at random."""
    found, problems = space.read(None, [line], None)  # type: ignore[arg-type]
    assert not problems
    (name,) = found.searched
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    return [study.ask(found.distributions()).params[name] for _ in range(count)]


def test_log_uniform_samples_lie_within_bounds_and_are_as_many_in_each_decade():
    values = sample(RATE, 400)
    assert all(1e-5 <= value <= 1e-1 for value in values)
    decades = [sum(10.0**n <= v < 10.0 ** (n + 1) for v in values) for n in range(-5, -1)]
    assert all(70 <= count <= 130 for count in decades), decades  # 100 +- 3.5 sigma
    plain = sample("trainer.learning_rate=interval(1e-5, 1e-1)", 400)
    assert sum(value < 1e-2 for value in plain) < 80


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("a=range(1,9,2)", {1, 3, 5, 7}),
        ("a=range(9,1,-4)", {5, 9}),
        ("a=range(0,1,0.25)", {0, 0.25, 0.5, 0.75}),
        ("a=int(interval(1,4))", {1, 2, 3, 4}),
        ("a=tag(log, int(interval(1,4)))", {1, 2, 3, 4}),
        ("a=int(tag(log, interval(1,4)))", {1, 2, 3, 4}),
        ("a=tag(log, range(1,4))", {1, 2, 3}),
        ("a=1,2,'x y'", {"1", "2", "'x y'"}),
        ("a=choice(x,[1,2])", {"x", "[1,2]"}),
        ("a=interval(2,2)", {2.0}),
    ],
)
def test_what_is_sampled_is_what_hydra_means(line, values):
    found = sample(line, 60)
    assert set(found) == values
    assert {type(value) for value in found} == {type(value) for value in values} or 0 in values


def test_each_choice_and_the_ends_of_each_interval_are_checked():
    lines = ["x=1", "+a=u,v", "b=p,q,r", "c=interval(0,1)", "d=int(interval(1,5))"]
    found, _ = space.read(None, lines, None)  # type: ignore[arg-type]
    probes = [dict(line.split("=") for line in probe) for probe in found.probes()]
    assert all(list(probe) == ["x", "+a", "b", "c", "d"] for probe in probes)
    assert {(p["+a"], p["b"]) for p in probes} == {(a, b) for a in "uv" for b in "pqr"}
    assert {p["c"] for p in probes} == {"0.0", "0.3819", "1.0"}
    assert {p["d"] for p in probes} == {"1", "5"}
    many, _ = space.read(None, ["a=range(0,9)", *(f"k{n}=x,y,z" for n in range(9))], None)  # type: ignore[arg-type]
    assert len(many.probes()) == 1 + 9 * 2 + 1


def test_the_command_line_comes_before_the_params_of_an_experiment():
    params = {"model": "concat,rag_token", "retriever.top_k": "interval(1,3)", "seed": 3}
    found, _ = space.read(params, ["model=fusion", "seed=1,2"], None)  # type: ignore[arg-type]
    assert list(found.searched) == ["retriever.top_k", "seed"]
    assert found.overrides({"retriever.top_k": 2, "seed": "1"}) == [
        "model=fusion",
        "retriever.top_k=2",
        "seed=1",
    ]


def test_an_experiment_may_bring_its_own_search(runs, monkeypatch, tmp_path):
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "rates.yaml").write_text(
        "# @package _global_\n"
        "defaults: [override /hydra/sweeper: optuna, override /hydra/sweeper/sampler: random]\n"
        "hydra:\n  mode: MULTIRUN\n  sweeper:\n    n_trials: 3\n    params:\n"
        "      trainer.learning_rate: tag(log, interval(1e-5, 1e-1))\n      seed: 4\n"
    )
    own = ["--config-dir", "mine", "+experiment=rates", *LINE[:-1]]
    assert call(monkeypatch, *own) == 0
    (folder,) = Path("outputs/sweeps/rates").iterdir()
    drawn = [job["overrides"] for job in left(folder).values()]
    assert len(drawn) == 3
    assert all(line[0].startswith("trainer.learning_rate=") for line in drawn)
    assert all(line[1] == "seed=4" for line in drawn)
    best = OmegaConf.load(folder / "experiment" / "best.yaml")
    assert best.seed == 4
    assert "hydra" not in best


def undisturbed(runs, monkeypatch, *arguments: str, trials: int = 6) -> dict[int, Any]:
    """What a search leaves that nothing disturbs; all traces of it are removed."""
    assert search(monkeypatch, *arguments, trials=trials) == 0
    found = left(home())
    home().rename("undisturbed")
    Path("ran.jsonl").unlink()
    return found


@pytest.mark.parametrize("n_jobs", [1, 3])
def test_a_killed_search_goes_on_and_ends_as_if_it_had_not_been(runs, monkeypatch, capfd, n_jobs):
    batch = f"hydra.sweeper.n_jobs={n_jobs}"
    expected = undisturbed(runs, monkeypatch, RATE, DEPTH, batch)
    runs.on[4] = kill
    assert in_a_child(lambda: search(monkeypatch, RATE, DEPTH, batch, trials=6)) == signal.SIGKILL
    assert ran() == [0, 1, 2, 3, 4]
    assert states(home()).count("RUNNING") == n_jobs
    runs.on.clear()
    assert search(monkeypatch, RATE, DEPTH, batch, trials=6) == 0
    assert ran() == [0, 1, 2, 3, 4, 4, 5]  # finished runs are not run again
    assert states(home()) == ["COMPLETE"] * 6
    assert left(home()) == expected
    # The same command again runs nothing; a larger number goes on from there.
    assert search(monkeypatch, RATE, DEPTH, batch, trials=6) == 0
    assert len(ran()) == 7
    assert search(monkeypatch, RATE, DEPTH, trials=7) == 0
    assert ran()[7:] == [6]
    assert len(left(home())) == 7


def test_a_search_killed_between_a_run_and_its_record_counts_the_run(runs, monkeypatch):
    from rag_experiments.search.study import Study

    expected = undisturbed(runs, monkeypatch, RATE, trials=4)
    tell = Study.tell

    def tell_but_once(self: Study, trial: Any) -> bool:
        return kill() or True if trial.number == 2 else tell(self, trial)  # type: ignore[func-returns-value]

    with monkeypatch.context() as patch:
        patch.setattr(Study, "tell", tell_but_once)
        assert in_a_child(lambda: search(monkeypatch, RATE, trials=4)) == signal.SIGKILL
    assert search(monkeypatch, RATE, trials=4) == 0
    assert ran() == [0, 1, 2, 3]
    assert left(home()) == expected


def test_what_a_kill_left_of_a_line_does_not_spoil_the_study(runs, monkeypatch):
    expected = undisturbed(runs, monkeypatch, RATE, trials=4)
    assert search(monkeypatch, RATE, trials=3) == 0
    with (home() / "study.journal").open("a") as file:
        file.write('{"op_code": 4, "wor')
    assert search(monkeypatch, RATE, trials=4) == 0
    assert left(home()) == expected


@pytest.mark.parametrize("garbage", [b"\xff\xfe\n", b'{"op_code": garbage}\n'])
def test_a_study_that_cannot_be_read_is_one_line(runs, monkeypatch, capfd, garbage):
    assert search(monkeypatch, RATE, trials=1) == 0
    journal = home() / "study.journal"
    journal.write_bytes(journal.read_bytes() + garbage)
    capfd.readouterr()
    assert search(monkeypatch, RATE, trials=2) == 2
    (said,) = capfd.readouterr().err.splitlines()
    assert said.startswith(f"{journal}: damaged (")
    assert said.endswith("; sweep.resume=false starts a new search")
    assert ran() == [0]


def test_a_run_that_always_takes_its_process_along_is_a_failed_one(runs, monkeypatch, capfd):
    runs.on[1] = kill
    killed = [in_a_child(lambda: search(monkeypatch, RATE, trials=3)) for _ in range(3)]
    assert killed == [signal.SIGKILL] * 3
    assert search(monkeypatch, RATE, trials=3) == 1
    assert ran() == [0, 1, 1, 1, 2]
    assert states(home()) == ["COMPLETE", "FAIL", "COMPLETE"]
    assert "killed, or out of memory" in capfd.readouterr().err


def test_an_interrupted_run_is_run_again(runs, monkeypatch, capfd):
    def interrupt() -> None:
        runs.on.clear()
        os.kill(os.getpid(), signal.SIGINT)

    runs.on[1] = interrupt
    assert search(monkeypatch, RATE, trials=3) == 130
    assert "the same command goes on" in capfd.readouterr().err
    assert search(monkeypatch, RATE, trials=3) == 0
    assert ran() == [0, 1, 1, 2]
    assert states(home()) == ["COMPLETE"] * 3


def failing(error: Exception) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


def test_a_failed_run_is_a_failed_trial_and_does_not_stop_the_search(runs, monkeypatch, capfd):
    runs.on[0] = failing(RuntimeError("out of luck"))
    runs.on[2] = failing(UserError("data: empty"))
    assert search(monkeypatch, RATE, trials=5) == 1
    assert states(home()) == ["FAIL", "COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    said = capfd.readouterr()
    assert "search: 3 finished, 2 failed; best:" in said.out
    assert "2 of 5 jobs failed" in said.err
    runs.on.clear()
    assert search(monkeypatch, RATE, trials=5) == 1  # all were had
    assert len(ran()) == 5


def test_a_search_in_which_all_fails_has_no_best(runs, monkeypatch, capfd):
    runs.on = {number: failing(RuntimeError("out of luck")) for number in range(3)}
    assert search(monkeypatch, RATE, trials=3) == 1
    assert "search: 3 failed; none has a score" in capfd.readouterr().out
    assert not (home() / "experiment").exists()


def test_with_fail_fast_a_search_stops_and_goes_on(runs, monkeypatch):
    runs.on[1] = failing(RuntimeError("out of luck"))
    line = (RATE, "sweep.fail_fast=true", "hydra.sweeper.n_jobs=3")
    assert search(monkeypatch, *line, trials=6) == 1
    assert ran() == [0, 1]
    assert states(home()) == ["COMPLETE", "FAIL", "RUNNING"]
    assert search(monkeypatch, *line, trials=6) == 1
    assert ran() == [0, 1, 2, 3, 4, 5]


def test_values_that_cannot_be_composed_together_are_a_failed_run(runs, monkeypatch):
    from hydra.errors import ConfigCompositionException

    def refuse(self: OptunaSweeper, batch: Any) -> None:
        if "seed=2" in batch[0]:
            raise ConfigCompositionException("seed 2\n does not go with it")

    monkeypatch.setattr(OptunaSweeper, "validate_batch_is_legal", refuse)
    assert search(monkeypatch, "seed=1,2", "hydra.sweeper.n_jobs=4", trials=8) == 2
    jobs = left(home())
    drawn = ["seed=2" in job["overrides"] for job in jobs.values()]
    assert 0 < sum(drawn) < 8
    assert [state == "FAIL" for state in states(home())] == drawn
    assert {*ran()} == {number for number, refused in enumerate(drawn) if not refused}
    assert jobs[drawn.index(True)]["problems"] == ["seed 2 does not go with it"]


def test_trials_are_asked_for_in_batches_and_a_launcher_that_breaks_is_tried_again(
    runs, monkeypatch
):
    Plugins.instance()  # which imports the launcher anew
    kind = importlib.import_module(LAUNCHER).BasicLauncher
    launch, batches = kind.launch, []

    def break_once(self: Any, jobs: Any, initial_job_idx: int) -> Any:
        batches.append((initial_job_idx, len(jobs)))
        if len(batches) == 2:
            launch(self, jobs[:1], initial_job_idx)
            raise RuntimeError("a worker was killed")
        return launch(self, jobs, initial_job_idx)

    monkeypatch.setattr(kind, "launch", break_once)
    assert search(monkeypatch, RATE, "hydra.sweeper.n_jobs=3", trials=7) == 0
    assert batches == [(0, 3), (3, 3), (4, 2), (6, 1)]
    assert ran() == list(range(7))

    def break_always(*_: Any) -> None:
        raise RuntimeError("no such partition")

    monkeypatch.setattr(kind, "launch", break_always)
    with pytest.raises(RuntimeError, match="no such partition"):
        search(monkeypatch, RATE, trials=8)


MEDIAN = ["hydra/sweeper/pruner=median", "hydra.sweeper.pruner.n_startup_trials=2"]


def test_pruning_stops_bad_runs_early_and_leaves_the_others_as_they_are(runs, monkeypatch, capfd):
    line = [RATE, "hydra/sweeper/sampler=random"]
    whole = undisturbed(runs, monkeypatch, *line, trials=8)
    assert search(monkeypatch, *line, *MEDIAN, trials=8) == 0
    found = left(home())
    halves = [0.5 * job["validation"]["f1"] for job in whole.values()]
    expected: list[bool] = []  # below the median of the finished ones before, once there are two
    for number, value in enumerate(halves):
        before = [halves[n] for n in range(number) if not expected[n]]
        expected.append(len(before) >= 2 and value < statistics.median(before))
    pruned = [bool(job["pruned"]) for job in found.values()]
    assert pruned == expected
    assert 0 < sum(pruned) < 6
    for number, job in found.items():
        validated = int((home() / str(number) / "validated.txt").read_text())
        if job["pruned"]:
            assert validated < 3
            assert job["pruned"] == f"validation {validated}: f1 {halves[number]:.3f}"
            assert not job["problems"]
        else:
            assert validated == 3
            assert job == whole[number]
    assert [state == "PRUNED" for state in states(home())] == pruned
    said = capfd.readouterr()
    assert said.out.count("│ pruned") == sum(pruned)
    assert f"search: {8 - sum(pruned)} finished, {sum(pruned)} pruned; best:" in said.out
    assert "failed" not in said.err
    assert search(monkeypatch, *line, *MEDIAN, trials=8) == 0
    assert len(ran()) == 8


def test_a_pruned_run_whose_search_was_killed_stays_pruned(runs, monkeypatch):
    from rag_experiments.search.study import Study

    threshold = "hydra.sweeper.pruner={_target_: optuna.pruners.ThresholdPruner, lower: 9}"
    with monkeypatch.context() as patch:
        patch.setattr(Study, "tell", lambda *_: kill())
        assert in_a_child(lambda: search(monkeypatch, RATE, threshold, trials=1)) == signal.SIGKILL
    assert search(monkeypatch, RATE, threshold, trials=1) == 0
    assert ran() == [0]
    assert states(home()) == ["PRUNED"]


def test_a_training_that_goes_on_reports_each_validation_once(runs, monkeypatch):
    def stop() -> None:
        trial = pruning.current_trial("f1")
        trial.follow([{"validation/f1": 0.9}, {"train/loss": 1}, {"validation/f1": 0.8}])
        kill()

    runs.on[0] = stop
    patient = "hydra/sweeper/pruner=median"
    in_a_child(lambda: search(monkeypatch, RATE, patient, trials=1))
    runs.on.clear()
    assert search(monkeypatch, RATE, patient, trials=1) == 0
    (trial,) = read_study(home()).trials
    last = left(home())[0]["validation"]["f1"]
    assert trial.intermediate_values == {1: 0.9, 2: 0.8, 3: pytest.approx(last)}


def test_several_objectives_give_the_pareto_set(runs, monkeypatch, capfd):
    goals = "hydra.sweeper.objective=[f1,exact_match]"
    assert search(monkeypatch, RATE, DEPTH, goals, trials=12) == 0
    scores = {
        n: (j["validation"]["f1"], j["validation"]["exact_match"]) for n, j in left(home()).items()
    }
    best = {
        n
        for n, (a, b) in scores.items()
        if not any(c >= a and d >= b and (c > a or d > b) for c, d in scores.values())
    }
    assert 1 < len(best) < 12
    written = {int(p.stem.partition("_")[2]) for p in (home() / "experiment").glob("best_*.yaml")}
    assert written == best
    said = capfd.readouterr().out
    assert all(f"+experiment=best_{number}" in said for number in best)
    assert said.count("+experiment=") == len(best)


def test_a_direction_turns_the_search_round(runs, monkeypatch):
    goal = ["hydra.sweeper.objective=f1", "hydra.sweeper.direction=minimize"]
    assert search(monkeypatch, RATE, *goal) == 0
    scores = [job["validation"]["f1"] for job in left(home()).values()]
    best = OmegaConf.load(home() / "experiment" / "best.yaml")
    worst = left(home())[scores.index(min(scores))]
    assert f"trainer.learning_rate={best.trainer.learning_rate!r}" in worst["overrides"]


def test_without_a_direction_a_metric_is_taken_as_it_is_meant():
    master = OmegaConf.create(
        {
            "metrics": {
                "a": {"_target_": "rag_experiments.metrics.f1.F1"},
                "b": {"_target_": "rag_experiments.metrics.repetition.Repetition"},
            }
        }
    )
    wanted = settings.Search(
        sampler={}, pruner={"_target_": ".NopPruner"}, objective=("f1", "repetition_2")
    )
    found = settings.read_objectives(wanted, master)
    assert [each.direction for each in found] == ["maximize", "minimize"]


@pytest.mark.parametrize("sampler", ["tpe", "random", "gp", "cmaes", "nsgaii"])
def test_every_sampler_draws_other_values_for_each_run(runs, monkeypatch, sampler):
    line = [RATE, "trainer.weight_decay=interval(0,1)", f"hydra/sweeper/sampler={sampler}"]
    quick = ["hydra.sweeper.sampler.n_startup_trials=1"] if sampler in ("tpe", "gp") else []
    assert search(monkeypatch, *line, *quick, trials=4) == 0
    assert len({tuple(job["overrides"]) for job in left(home()).values()}) == 4


@pytest.mark.parametrize("pruner", ["median", "percentile", "successive_halving", "hyperband"])
def test_every_pruner_can_be_asked(runs, monkeypatch, pruner):
    assert search(monkeypatch, RATE, f"hydra/sweeper/pruner={pruner}", trials=4) == 0
    assert {*states(home())} <= {"COMPLETE", "PRUNED"}


def test_the_seed_decides_what_is_drawn(runs, monkeypatch):
    drawn = []
    for seed in (1, 1, 2):
        assert search(monkeypatch, RATE, f"seed={seed}", "sweep.resume=false", trials=3) == 0
        lines = [line for job in left(home()).values() for line in job["overrides"]]
        drawn.append([line for line in lines if line.startswith("trainer.learning_rate=")])
        home().rename(f"search-{len(drawn)}")
    assert drawn[0] == drawn[1]
    assert not {*drawn[0]} & {*drawn[2]}


def test_a_study_in_a_database_belongs_to_one_sweep(runs, monkeypatch, capfd):
    place = ["hydra.sweeper.storage=sqlite:///study.db", "hydra.sweeper.study_name=mine"]
    assert search(monkeypatch, RATE, *place, trials=2) == 0
    assert search(monkeypatch, RATE, *place, trials=3) == 0
    assert ran() == [0, 1, 2]
    study = optuna.load_study(study_name="mine", storage="sqlite:///study.db")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 3
    first = home()
    other = ["hydra.sweep.dir=outputs/other/1"]
    capfd.readouterr()
    assert search(monkeypatch, DEPTH, *place, *other, trials=3) == 2
    assert f"'mine' is the study of the sweep {outcomes.tag(first)}" in capfd.readouterr().err
    lost = "hydra.sweeper.storage=sqlite:////nowhere/study.db"
    assert search(monkeypatch, RATE, lost, trials=3) == 2
    assert (
        "hydra.sweeper.storage: 'sqlite:////nowhere/study.db' cannot be" in capfd.readouterr().err
    )


OPTUNA = "hydra/sweeper=optuna"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            [RATE, "hydra/sweeper/sampler=tpee"],
            "hydra/sweeper/sampler=tpee: no such option; did you mean tpe? (legal: cmaes, gp, nsg",
        ),
        (
            [RATE, "hydra.sweeper.sampler._target_=optuna.samplers.TPESamplr"],
            "hydra.sweeper.sampler._target_: 'optuna.samplers.TPESamplr' cannot be imported; did "
            "you mean optuna.samplers.TPESampler?",
        ),
        (
            [RATE, "hydra.sweeper.n_trails=5"],
            "hydra.sweeper.n_trails: unknown key; did you mean n_trials? (legal here: sampler, pr",
        ),
        (
            [RATE, "hydra.sweeper.sampler.multivariat=true"],
            "hydra.sweeper.sampler.multivariat: unknown key; did you mean multivariate? (legal he",
        ),
        ([RATE, "hydra.sweeper.n_trials=0"], "hydra.sweeper.n_trials: 0 must be greater than or"),
        (
            [RATE, "hydra.sweeper.direction=minimize"],
            "hydra.sweeper.direction: minimize without an objective; name it with hydra.sweeper.o",
        ),
        (
            [RATE, "hydra.sweeper.direction=[maximize,minimize]", "hydra.sweeper.objective=f1"],
            "hydra.sweeper.direction: maximize,minimize for f1; give one for each objective, or l",
        ),
        (
            [RATE, "hydra.sweeper.objective=f1s"],
            "hydra.sweeper.objective: 'f1s' is not among the configured metrics; did you mean f1?",
        ),
        (
            [RATE, "hydra.sweeper.objective=[f1,exact_match]", "hydra/sweeper/pruner=median"],
            "hydra.sweeper.pruner: runs are pruned by a single objective, not by f1, exact_match;",
        ),
        (
            [RATE, "hydra.sweeper.objective=[f1,exact_match]", "hydra/sweeper/sampler=cmaes"],
            "hydra.sweeper.sampler: cannot sample this search: If the study is being used for mul",
        ),
        (
            ["trainer=frozen", "retriever.top_k=1,2", "hydra/sweeper/pruner=median"],
            "hydra.sweeper.pruner: nothing is validated on the way where nothing is trained; choo",
        ),
        *(
            (
                ["retriever=dense", f"trainer=supervised,{trainer}", *more],
                f"hydra.sweeper.objective: {name}, but trainer {kind} answers no validation "
                "question and is validated by how it ranks gold passages; set hydra.sweeper.obje",
            )
            for trainer, kind, more, name in (
                (
                    "contrastive",
                    "Contrastive",
                    ["hydra/sweeper/pruner=median"],
                    "f1 (task.objective)",
                ),
                ("distill", "Distill", ["hydra.sweeper.objective=exact_match"], "exact_match"),
            )
        ),
        ([RATE, "trainer.eval_strategy=no"], "trainer.eval_strategy: 'no', but a search goes by"),
        (
            ["model=interval(0,1)"],
            "model=interval(0,1): an option is chosen by its name: write a,b or choice(a,b)",
        ),
        (
            ["trainer.lr_scheduler_type=interval(0,1)"],
            "trainer.lr_scheduler_type: 0.0 must be 'linear', 'cosine', 'constant' or 'constant_w",
        ),
        (
            ["retriever.top_k=interval(1,8)"],
            "retriever.top_k: 1.0 must be a valid integer; whole numbers are written int(interval",
        ),
        (["retriever.top_k=int(interval(0,8))"], "retriever.top_k: 0 must be greater than or equ"),
        (["trainer.warmup_ratio=interval(0,1)"], "trainer.warmup_ratio: 1.0 must be less than 1"),
        (
            ["trainer.learning_rate=tag(lgo, interval(1,2))"],
            "trainer.learning_rate=tag(lgo, interval(1,2)): unknown tag 'lgo'; did you mean log?",
        ),
        (
            ["trainer.learning_rate=tag(log, interval(0,1))"],
            "trainer.learning_rate=tag(log, interval(0,1)): with the tag log the ends must be gre",
        ),
        (["seed=tag(log, range(1,9,2))"], "seed=tag(log, range(1,9,2)): the tag log allows no st"),
        (["seed=int(interval(9,1))"], "seed=int(interval(9,1)): the interval begins above its"),
        (["seed=range(3,3)"], "seed=range(3,3): the range is empty"),
        (
            ["model=concat,rag_token", "trainer=supervised,joint", "retriever=dense"],
            "trainer: Joint trains through the marginal likelihood, which model Concat does not h",
        ),
        ([RATE, "hydra.sweep.subdir=x"], "hydra.sweep.subdir: a search numbers its runs; leave i"),
        ([], "hydra/sweeper=optuna: nothing is searched; give values or an interval, e.g. 'train"),
    ],
    ids=lambda value: " ".join(value)[-60:] if isinstance(value, list) else None,
)
def test_what_is_wrong_with_a_search_is_one_line(line, expected):
    with pytest.raises(UserError) as refused:
        Composer().plan([*LINE, *line], multirun=True)
    (found,) = refused.value.problems
    assert found.startswith(expected)
    assert "\n" not in found


def test_a_search_over_trainers_of_the_retriever_goes_by_ranks():
    line = ["retriever=dense", "trainer=supervised,contrastive", "hydra.sweeper.objective=mrr"]
    composer = Composer()
    for more in ([], ["hydra/sweeper/pruner=median"]):
        assert composer.plan([*LINE, *line, *more], multirun=True).searches


def test_one_problem_of_a_search_does_not_hide_another():
    line = ["hydra.sweeper.n_trails=5", "seed=-1,2", "hydra.sweeper.direction=up", "sede=1"]
    with pytest.raises(UserError) as refused:
        Composer().plan([*LINE, *line, "retriever.top_k=int(interval(0,8))"], multirun=True)
    assert sorted(found.partition(":")[0] for found in refused.value.problems) == [
        "hydra.sweeper.direction",
        "hydra.sweeper.n_trails",
        "retriever.top_k",
        "sede",
        "seed",
    ]


def test_a_search_is_a_sweep_and_an_interval_a_search():
    with pytest.raises(UserError, match="hydra/sweeper=optuna: a search is a sweep: add -m"):
        Composer().plan([*LINE, "seed=1"])
    GlobalHydra.instance().clear()
    with pytest.raises(UserError) as refused:
        Composer().plan([*LINE[:-1], RATE], multirun=True)
    assert refused.value.problems == (
        f"{RATE}: a grid has no intervals; to search it, add hydra/sweeper=optuna",
    )


@pytest.mark.parametrize("lacking", ["optuna", "cmaes"])
def test_a_package_that_is_not_installed_is_said_with_its_extra(monkeypatch, lacking):
    monkeypatch.setattr(settings, "find_spec", lambda name: None if name == lacking else name)
    choice = "hydra/sweeper=optuna" if lacking == "optuna" else "hydra/sweeper/sampler=cmaes"
    with pytest.raises(UserError) as refused:
        Composer().plan([*LINE, RATE, "hydra/sweeper/sampler=cmaes"], multirun=True)
    assert refused.value.problems == (
        f"{choice}: its packages are not installed: pip install -e '.[optuna]'",
    )


def test_several_processes_of_one_run_do_not_search(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(UserError, match="cannot share a search; start it without torchrun"):
        Composer().plan([*LINE, RATE], multirun=True)


SMOKE = [
    *SMALL_SMOKE,
    "trainer.max_steps=3",
    "trainer.eval_strategy=steps",
    "trainer.eval_steps=1",
    "hydra/sweeper=optuna",
    "retriever.top_k=2,3",
]
THRESHOLD = "hydra.sweeper.pruner={_target_: optuna.pruners.ThresholdPruner, lower: %s}"


def results(folder: Path) -> dict[str, Any]:
    """What a run found, without the time that it took."""
    metrics = json.loads((folder / "metrics.json").read_text("utf-8"))
    del metrics["seconds"]
    return {
        "metrics": metrics,
        "answers": (folder / "predictions_trained.jsonl").read_text("utf-8"),
        "curves": (folder / "curves.jsonl").read_text("utf-8"),
    }


@pytest.mark.slow
def test_real_runs_are_searched_pruned_and_recorded(monkeypatch, lay_store, capfd):
    from rag_experiments.tracking.mlflow import Mlflow

    lay_store(Path("outputs/mlflow.db"))
    found = {}
    for lower in ("-1", "2"):
        place = f"hydra.sweep.dir=outputs/sweeps/{lower}/search"
        line = [*SMOKE, THRESHOLD % lower, place, "hydra.sweeper.n_trials=2"]
        assert call(monkeypatch, "-m", *line) == 0
        found[lower] = Path(f"outputs/sweeps/{lower}/search")
    said = capfd.readouterr().out

    # None is below -1: each run goes to its end, and is judged by the checkpoint that it kept.
    for number, job in left(found["-1"]).items():
        points = [json.loads(line) for line in (found["-1"] / f"{number}/curves.jsonl").open()]
        scores = [point["validation/f1"] for point in points if "validation/f1" in point]
        assert len(scores) == 3
        assert job["validation"]["f1"] == max(scores)
        assert read_study(found["-1"]).trials[number].value == max(scores)
    best = read_study(found["-1"]).best_trial.number
    (command, *_) = [line.strip() for line in said.splitlines() if "+experiment=best" in line]
    assert call(monkeypatch, *shlex.split(command)[3:], "hydra.run.dir=outputs/again") == 0
    assert results(Path("outputs/again")) == results(found["-1"] / str(best))

    # All are below 2: each ends with its first validation.
    for number, job in left(found["2"]).items():
        folder = found["2"] / str(number)
        points = [json.loads(line) for line in (folder / "curves.jsonl").open()]
        assert [p["step"] for p in points if "validation/f1" in p] == [1]
        assert job["pruned"].startswith("validation 1: f1 0.")
        assert not (folder / "checkpoints").exists()
        assert not (folder / "predictions_trained.jsonl").exists()
    assert states(found["2"]) == ["PRUNED"] * 2
    assert said.count("│ pruned") == 2
    client = Mlflow(uri="sqlite:///outputs/mlflow.db")._client()
    recorded = {run.data.tags["output_dir"]: run for run in client.search_runs(["1"])}
    for number, job in left(found["2"]).items():
        run = recorded[str((found["2"] / str(number)).absolute())]
        assert run.info.status == "KILLED"
        assert run.data.tags["pruned"] == job["pruned"]
        assert run.info.run_id == job["run_id"]
    assert [run.info.status for run in recorded.values()].count("FINISHED") == 3


@pytest.mark.slow
def test_runs_of_a_search_report_from_other_processes(tmp_path):
    pytest.importorskip("joblib")
    line = [*SMOKE, "tracking=none", "hydra/launcher=joblib", "hydra/sweeper/pruner=median"]
    counts = ["hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=2"]
    done = subprocess.run(
        [sys.executable, "-m", "rag_experiments", "-m", *line, *counts],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (folder,) = Path("outputs/sweeps/smoke").iterdir()
    assert states(folder) == ["COMPLETE"] * 2
    for trial in read_study(folder).trials:
        assert set(trial.intermediate_values) == {1, 2, 3}
        assert trial.value == max(trial.intermediate_values.values())
