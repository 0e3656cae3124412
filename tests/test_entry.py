"""The command line: what is refused and how, what a run and a sweep leave."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import entry_calls
import pytest

from rag_experiments import __main__ as entry
from rag_experiments import config
from rag_experiments.composition.composer import Composer
from rag_experiments.contracts import UserError
from rag_experiments.sweep import jobs, outcomes
from rag_experiments.tracking.none import NoTracking

HEAVY = ("torch", "transformers", "datasets", "mlflow", "evaluate", "faiss", "numpy", "pandas")


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    for name in ("train", "passages"):
        (tmp_path / "own").mkdir(exist_ok=True)
        (tmp_path / "own" / f"{name}.jsonl").write_text("{}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


FAKE = SimpleNamespace(tracking=NoTracking(), seed=2, sweep=config.Sweep(), cache_dir=Path("cache"))
OWN = ["data=folder", "data.path=own"]


def problems(*overrides: str, multirun: bool = False, data: bool = True) -> list[str]:
    """What the entry says of a command line; nothing where it is sound."""
    try:
        Composer().plan([*(OWN if data else []), *overrides], multirun)
    except UserError as error:
        return list(error.problems)
    return []


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("retriever=bm52", "retriever=bm52: no such option; did you mean bm25? (legal: bm25, de"),
        ("model=zebra", "model=zebra: no such option (legal: concat, fusion, rag_sequence, rag_"),
        ("retreiver=bm25", "retreiver: unknown key; did you mean retriever? (legal here: task,"),
        ("retriever.kk=3", "retriever.kk: unknown key"),
        ("+retriever.kk=3", "retriever.kk: unknown key"),
        ("++retriever.top_kk=3", "retriever.top_kk: unknown key; did you mean top_k? (legal"),
        ("+model.generator.wieghts=a/b", "model.generator.wieghts: unknown key; did you mean wei"),
        ("+extra.deep.key=3", "extra: unknown key"),
        ("retriever.top_k=0", "retriever.top_k: 0 must be greater than or equal to 1"),
        ("retriever.top_k=many", "retriever.top_k: 'many' must be a valid integer"),
        ("+retriever.top_k=3", "+retriever.top_k=3: the key is there already; write it without"),
        ("task/promt=brief", "task/promt=brief: no group 'task/promt'; did you mean task/prompt?"),
        ("+task=yes_no", "+task=yes_no: task has a choice already; write it without the +"),
        ("task=null", "task=null: a group is left out with ~group"),
        ("trainer={}", "trainer={}: an empty group changes nothing; choose one of its options"),
        ("model/generator={}", "model/generator={}: an empty group changes nothing; choose one"),
        ("~retriever", "retriever: a value is missing (How passages are found.); give retrie"),
        ("experiment=smoke", "experiment=smoke: an experiment is added to the defaults: write +"),
        ("+experiment=smok", "experiment=smok: no such option; did you mean smoke? (legal: bio"),
        ("smoke", "smoke: an experiment is chosen with +experiment=smoke"),
        ("top_k", "top_k: not of the form key=value"),
        ("=3", "=3: not of the form key=value"),
        ("a=[1", "a=[1: not of the form key=value"),
        ("retriever=bm25,dense", "retriever=bm25,dense: several values are a sweep: add -m"),
        ("seed=1,2", "seed=1,2: several values are a sweep: add -m; a list is written [a,b]"),
        ("data.path=gone", "data.path: "),
        ("data.path=${oc.env:NOT_SET}", "data.path: '${oc.env:NOT_SET}' cannot be resolved: "),
        ("metrics=accuracy", "metrics.accuracy: accuracy does not fit task=question_answering"),
        ("task.objective=f2", "task.objective: 'f2' is not among the configured metrics"),
        ("trainer=joint", "trainer: Joint trains the query encoder through p(z|x), which retr"),
        ("tracking.uri=./mlruns", "tracking.uri: './mlruns' is no store for runs; legal: sqlite"),
        ("hydra/launcher=joblb", "hydra/launcher=joblb: no such option"),
        ("hydra.rn.dir=here", "hydra.rn: unknown key; did you mean run?"),
        ("+hydra.rn.dir=here", "hydra.rn: unknown key; did you mean run?"),
        ("++hydra.job.nme=run", "hydra.job.nme: unknown key; did you mean name? (legal here: name"),
        ("hydra.mode=MULTI", "hydra.mode=MULTI: Invalid value 'MULTI', expected one of [RUN, MUL"),
        ("+model/generator=tiny_causal", "+model/generator=tiny_causal: model/generator has a ch"),
        ("++model/generator=tiny_causal", "++model/generator=tiny_causal: model/generator has a "),
        ("+model/generatr=tiny_causal", "+model/generatr=tiny_causal: no group 'model/generatr'; "),
        ("retriever/index=flat", "retriever/index=flat: the chosen retriever has no index; choose"),
        (
            "retriever=[bm25,dense]",
            "retriever=[bm25,dense]: one option is legal, not a list; a swe",
        ),
        (
            "task.prompt.template={context} {question}",
            "task.prompt.template={context} {question}: ",
        ),
        ("trainer.learning_rate=inf", "trainer.learning_rate: inf must be a finite number"),
        ("metrics.f1.foo=3", "metrics.f1.foo: unknown key"),
        ("cache_dir=3", "cache_dir: 3 must be a path"),
        ("test=null", "test: None must be a valid dictionary"),
    ],
)
def test_a_refused_override_is_one_line(override, expected):
    found = problems("model=rag_sequence", override)
    assert [line for line in found if line.startswith(expected)], found
    assert all("\n" not in line for line in found)
    if override not in ("metrics=accuracy", "hydra/launcher=joblb"):  # these break two rules
        assert len(found) == 1, found


def test_a_value_that_needs_quotes_is_told_how():
    (line,) = problems("task.prompt.template={context} {question}")
    assert line.endswith("""put the value into quotes of its own: 'task.prompt.template="..."'""")


def test_a_needless_plus_within_a_chosen_option_is_said_as_such():
    assert problems("retriever=dense", "+retriever/index=hnsw") == [
        "+retriever/index=hnsw: there is a choice already; write it without the +"
    ]


def test_a_wrong_key_of_hydra_hides_nothing():
    found = problems("+hydra.sweep.dirr=here", "retriever.kk=1,2", multirun=True)
    assert [line.partition(":")[0] for line in found] == ["hydra.sweep.dirr", "retriever.kk"]


@pytest.mark.parametrize("swept", ["seed=range(3,3)", "seed=glob(*)"])
def test_a_sweep_without_a_job_is_refused(swept):
    (line,) = problems(swept, multirun=True)
    assert line.startswith("-m: no job")


def test_a_broken_file_of_the_user_is_refused_without_a_traceback(tmp_path):
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "broken.yaml").write_text("seed: [1\n")
    with pytest.raises(UserError) as caught:
        Composer("mine").plan(["+experiment=broken"])
    (line,) = caught.value.problems
    assert line.startswith("+experiment=broken: ")
    assert "broken.yaml" in line
    assert "line 2" in line


def test_flags_that_would_be_ignored_are_refused(monkeypatch, capsys):
    command = ["rag_experiments", "--package", "data", "--resolve", "--config-path", "mine"]
    monkeypatch.setattr(sys, "argv", command)
    monkeypatch.setattr(entry, "run", lambda *_: pytest.fail("it ran"))
    with pytest.raises(SystemExit) as caught:
        entry.main()
    assert caught.value.code == 2
    starts = [line.partition(":")[0] for line in capsys.readouterr().err.splitlines()]
    assert starts == ["--config-path", "--package", "--resolve"]


def test_one_problem_does_not_hide_another():
    found = problems(
        "retriever=bm52",  # the nearest option stands in, so that its keys are checked
        "retriever.kk=3",
        "+model.beams_typo=3",
        "model.label_smoothing=2",
        "trainer.learning_rate=fast",
        "sede=3",
        "device=gpu",
        "smoke",
        "task/promt=brief",
        "data.path=gone",
    )
    starts = {line.partition(":")[0] for line in found}
    assert starts == {
        "retriever=bm52",
        "retriever.kk",
        "model.beams_typo",
        "model.label_smoothing",
        "trainer.learning_rate",
        "sede",
        "device",
        "smoke",
        "task/promt=brief",
        "data.path",
    }


def test_every_job_of_a_grid_is_checked_and_the_jobs_are_named():
    found = problems("model=concat", "retriever=bm25,none", "seed=1,-1", multirun=True)
    assert found == [
        "seed: -1 must be greater than or equal to 0 [jobs 1, 3: seed=-1]",
    ]


def test_an_unknown_option_in_a_grid_is_found():
    (found,) = problems("retriever=bm25,dens", multirun=True)
    assert found.startswith("retriever=dens: no such option; did you mean dense?")


def test_a_problem_that_all_jobs_share_is_said_once():
    assert problems("seed=1,2", "device=gpu", multirun=True) == [
        "device: 'gpu' must be auto, cpu, mps, cuda, cuda:<number> or xpu"
    ]


def test_experiments_with_sweeps_of_their_own_are_not_swept_over():
    (found,) = problems("+experiment=bio_qa,smoke", multirun=True)
    assert "cannot be swept over" in found


def test_another_sweeper_has_its_base_checked():
    plan = Composer().plan([*OWN, "hydra.sweeper._target_=my.Sweeper", "seed=1,2"], multirun=True)
    assert len(plan.jobs) == 1


def test_a_folder_of_the_user_adds_options(tmp_path):
    group = tmp_path / "mine" / "retriever"
    group.mkdir(parents=True)
    (group / "narrow.yaml").write_text("defaults:\n  - bm25\n  - _self_\ntop_k: 1\n")
    plan = Composer(str(tmp_path / "mine")).plan([*OWN, "retriever=narrow"])
    assert plan.jobs[0].retriever.top_k == 1
    with pytest.raises(UserError, match="--config-dir: 'nowhere' is not a folder"):
        Composer("nowhere")


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("HYDRA_FULL_ERROR", None)
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment, timeout=120
    )


@pytest.mark.parametrize(
    "line",
    [
        "{long}",
        "trainer={long}",
        "model=concat,{long}",
        "retriever.{long}=1",
        "retriever.top_k=({long}",
        "+experiment={long}",
        "seed='{long}'",
        "task.prompt.example='a\n{long}\n{{contextt}}'",
    ],
)
def test_long_overrides_are_not_repeated_whole(line):
    with pytest.raises(UserError) as refused:
        Composer().plan([line.format(long="x1y2" * 2000)], multirun=True)
    for problem in refused.value.problems:
        assert len(problem) < 2000
        assert "\n" not in problem
    assert refused.value.problems


PROBE = """
import sys, atexit
heavy = {heavy!r}
atexit.register(lambda: print("LOADED", [m for m in heavy if m in sys.modules], file=sys.stderr))
sys.argv = ["rag_experiments", *{arguments!r}]
from rag_experiments.__main__ import main
main()
"""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["--cfg", "job"], 0),
        (["data=folder", "data.path=own", "retriever.top_k=0", "model.kk=3", "sede=1"], 2),
        (["-m", "data=folder", "data.path=own", "retriever=bm25,dense", "seed=1,-1"], 2),
    ],
    ids=["help", "cfg", "refused", "refused grid"],
)
def test_nothing_heavy_is_imported_before_a_run(arguments, code):
    start = time.perf_counter()
    done = python("-c", PROBE.format(heavy=HEAVY, arguments=arguments))
    seconds = time.perf_counter() - start
    assert done.returncode == code, done.stderr
    assert "LOADED []" in done.stderr
    assert "Traceback" not in done.stderr
    assert seconds < 6  # 1.5 s when nothing else runs; tests share their cores


def test_help_shows_the_groups_and_cfg_the_configuration():
    shown = python("-m", "rag_experiments", "--help").stdout
    assert "+experiment=bio_qa -m" in shown
    assert "retriever: bm25, dense, gold, hybrid, iterative, lead, none" in shown
    assert "experiment: bio_papers, bio_qa, bioasq, cochrane_plain, pubmedqa" in shown
    done = python("-m", "rag_experiments", "--cfg", "job", "--package", "retriever")
    assert "_target_: rag_experiments.retriever." in done.stdout
    assert not Path("outputs").exists()


@pytest.fixture
def fake_run(monkeypatch):
    """In place of experiment.run: scores the seed, and fails where a test wants it."""
    seen: list[Any] = []

    def run(config, raw, output_dir):
        seen.append((config, raw, output_dir, outcomes.current_job()))
        if config.seed == 2:
            raise UserError(["train.jsonl:1:question: empty", "retriever.top_k: too many"])
        if config.seed == 3:
            raise RuntimeError("out of luck")
        score = outcomes.Score(config.seed / 10)
        overrides = outcomes.current_job().overrides
        outcomes.Outcome("f1", None, score, overrides=overrides).write(output_dir)
        return score.value

    entry_calls.replace_run(monkeypatch, run)
    return seen


def call(monkeypatch, *arguments: str) -> int:
    """Exit code of the entry, called in this process."""
    return entry_calls.call(monkeypatch, *OWN, "tracking=none", *arguments)


def test_a_run_gets_its_configuration_and_folder(fake_run, monkeypatch, tmp_path):
    assert call(monkeypatch, "seed=4", "model.label_smoothing=0.1") == 0
    ((config, raw, output_dir, job),) = fake_run
    assert config.seed == raw.seed == 4
    assert "hydra" not in raw
    assert output_dir.relative_to(tmp_path).parts[:2] == ("outputs", "runs")
    assert (output_dir / ".hydra" / "config.yaml").exists()
    assert (output_dir / "rag_experiments.log").exists()
    assert job.sweep is None
    assert "seed=4" in job.name
    assert job.choices["data"] == "folder"


def test_a_problem_that_a_run_finds_is_printed_without_a_traceback(fake_run, monkeypatch, capfd):
    assert call(monkeypatch, "seed=2") == 2
    error = capfd.readouterr().err
    assert error == "train.jsonl:1:question: empty\nretriever.top_k: too many\n"
    (log,) = Path("outputs").rglob("*.log")
    assert "top_k: too many" in log.read_text()


def test_a_crash_exits_with_one_and_shows_its_traceback_once(fake_run, monkeypatch, capfd):
    assert call(monkeypatch, "seed=3") == 1
    error = capfd.readouterr().err
    assert error.count("RuntimeError: out of luck") == 1
    assert "HYDRA_FULL_ERROR" not in error


def test_a_failed_job_does_not_stop_a_sweep_and_all_failures_are_listed(
    fake_run, monkeypatch, capfd
):
    assert call(monkeypatch, "-m", "seed=1,2,3,4") == 1
    assert [config.seed for config, *_ in fake_run] == [1, 2, 3, 4]
    shown = capfd.readouterr()
    listed = shown.err.partition("2 of 4 jobs failed:\n")[2].splitlines()
    assert [line.partition(" (")[0] for line in listed] == ["job 1", "job 1", "job 2"]
    assert listed[0].endswith("): train.jsonl:1:question: empty")
    assert listed[2].endswith("): RuntimeError: out of luck")
    assert "0.100" in shown.out
    assert "0.400" in shown.out
    assert "failed" in shown.out
    tags = {job.sweep for *_, job in fake_run}
    assert len(tags) == 1
    (sweep_dir,) = Path("outputs/sweeps/defaults").iterdir()
    assert tags == {f"defaults-{sweep_dir.name}"}
    names = sorted(path.name for path in sweep_dir.iterdir() if path.name != ".lock")
    assert names == [*"0123", "multirun.yaml", "sweep.json"]


def test_what_several_jobs_stumble_over_is_listed_once(fake_run, monkeypatch, capfd):
    assert call(monkeypatch, "-m", "seed=2", "retriever.top_k=1,2") == 2
    listed = capfd.readouterr().err.partition("2 of 2 jobs failed:\n")[2].splitlines()
    assert listed
    for line in listed:
        assert line.startswith("job 0 (")
        assert line.count(", job 1 (") == 1
    assert sum(line.endswith("train.jsonl:1:question: empty") for line in listed) == 1


def test_credentials_stay_out_of_outcomes_and_lists(fake_run, monkeypatch, capfd):
    secret = "+tracking_note=http://me:do-not-show@host/"
    error = outcomes.failed(ValueError("no http://me:do-not-show@host/"), ())
    assert error.problems == ("ValueError: no http://***@host/",)
    monkeypatch.setattr(jobs.config, "load", lambda raw: FAKE)
    assert call(monkeypatch, "-m", secret, "seed=2,2") == 2
    listed = capfd.readouterr().err.partition("2 of 2 jobs failed:")[2]
    assert "do-not-show" not in listed
    assert "***@host/" in listed
    for path in Path("outputs").rglob(outcomes.OUTCOME):
        assert "do-not-show" not in path.read_text()


def test_a_failed_job_does_not_hold_its_model_for_the_next(fake_run, monkeypatch):
    class Model: ...

    alive: list[Any] = []

    def run(config, raw, output_dir):
        model = Model()
        found = [reference() for reference in alive]
        alive.append(weakref.ref(model))
        assert found == [None] * len(found), "the model of an earlier job is still there"
        try:
            raise ValueError("inner")
        except ValueError as error:
            raise UserError("outer") from error

    monkeypatch.setattr(sys.modules["rag_experiments.experiment"], "run", run)
    assert call(monkeypatch, "-m", "seed=1,2,3") == 2
    assert len(alive) == 3


def test_a_sweep_that_the_user_can_mend_exits_with_two(fake_run, monkeypatch):
    assert call(monkeypatch, "-m", "seed=1,2") == 2
    assert len(fake_run) == 2


def test_a_sweep_without_a_failure_exits_with_zero(fake_run, monkeypatch, capfd):
    assert call(monkeypatch, "-m", "seed=1,4") == 0
    assert "tracking=none" in capfd.readouterr().out


def test_nothing_runs_where_one_job_of_a_grid_is_refused(fake_run, monkeypatch, capfd):
    assert call(monkeypatch, "-m", "seed=1,-1") == 2
    assert fake_run == []
    assert capfd.readouterr().err == (
        "seed: -1 must be greater than or equal to 0 [job 1: seed=-1]\n"
    )
    assert not Path("outputs").exists()


def test_full_errors_are_there_for_those_who_ask(fake_run, monkeypatch):
    monkeypatch.setattr(jobs, "FULL_ERROR", True)
    monkeypatch.setattr(sys, "argv", ["rag_experiments", *OWN, "tracking=none", "seed=3"])
    with pytest.raises(RuntimeError, match="out of luck"):
        entry.main()


def test_outcomes_keep_their_order_and_silence_is_a_failure(tmp_path):
    for number in (10, 2):
        folder = tmp_path / "sweep" / str(number)
        folder.mkdir(parents=True)
        score = outcomes.Score(0.5, 0.4, 0.6)
        outcomes.Outcome("f1", score, None, overrides=("a=1",)).write(folder)
        assert json.loads((folder / outcomes.OUTCOME).read_text())["metric"] == "f1"
    (tmp_path / "sweep" / "3").mkdir()
    found = outcomes.read(tmp_path / "sweep")
    assert list(found) == ["2", "3", "10"]
    assert str(found["10"].untrained) == "0.500 [0.400, 0.600]"
    assert found["3"].problems
    assert not found["10"].problems
