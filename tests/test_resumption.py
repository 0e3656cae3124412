"""Sweeps that go on: what is skipped, what is done again, what stops, and what is never touched."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import entry_calls
import pytest
from filelock import FileLock
from omegaconf import OmegaConf

from rag_experiments import __main__ as entry
from rag_experiments.contracts import UserError
from rag_experiments.runtime import disk, interruption
from rag_experiments.sweep import jobs, outcomes, resumption

LINE = ["data=folder", "data.path=own", "tracking=none", "-m"]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    (tmp_path / "own").mkdir()
    for name in ("train", "passages"):
        (tmp_path / "own" / f"{name}.jsonl").write_text("{}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


class FakeRuns:
    """In place of experiment.run: scores the seed; does what a test wants for some seeds."""

    def __init__(self) -> None:
        self.seeds: list[int] = []
        self.folders: list[Path] = []
        self.tags: list[str | None] = []
        self.on: dict[int, Callable[..., None]] = {}

    def __call__(self, settings: Any, raw: Any, folder: Path) -> float:
        job = outcomes.current_job()
        self.seeds.append(settings.seed)
        self.folders.append(folder)
        self.tags.append(job.sweep)
        if settings.seed in self.on:
            self.on[settings.seed]()
        score = outcomes.Score(settings.seed / 10)
        outcomes.Outcome("f1", None, score, overrides=job.overrides).write(folder)
        return score.value


@pytest.fixture
def runs(monkeypatch) -> FakeRuns:
    found = FakeRuns()
    entry_calls.replace_run(monkeypatch, found)
    return found


def call(monkeypatch, *arguments: str) -> int:
    """Exit code of the entry, called in this process."""
    return entry_calls.call(monkeypatch, *LINE, *arguments)


def failing(error: BaseException, times: int = 1) -> Callable[..., None]:
    """Something that raises so many times, then no more."""
    left = [error] * times

    def act(*_: Any) -> None:
        if left:
            raise left.pop()

    return act


def folders() -> list[str]:
    return sorted(path.name for path in Path("outputs/sweeps/defaults").iterdir())


def test_the_same_command_does_only_what_is_not_finished(runs, monkeypatch, capfd):
    runs.on[2] = failing(RuntimeError("out of luck"))
    assert call(monkeypatch, "seed=1,2,3") == 1
    (name,) = folders()
    before = {path: path.read_bytes() for path in Path("outputs").rglob("*") if path.is_file()}
    kept = {
        p: c for p, c in before.items() if p.parts[4:5] in (("0",), ("2",)) and ".log" not in str(p)
    }
    assert len(kept) == 2 * 7  # outcome, begun, two locks, and the three files of .hydra
    capfd.readouterr()
    assert call(monkeypatch, "seed=1,2,3") == 0
    said = capfd.readouterr().out
    assert f"going on with outputs/sweeps/defaults/{name}: 2 of 3 runs are finished" in said
    assert runs.seeds == [1, 2, 3, 2]
    assert folders() == [name]
    assert {path.name for path in runs.folders} == {"0", "1", "2"}
    assert runs.folders[3] == runs.folders[1]
    assert len(set(runs.tags)) == 1
    assert all(path.read_bytes() == content for path, content in kept.items())
    assert all(cell in said for cell in ("0.100", "0.200", "0.300"))


def test_a_finished_sweep_repeated_runs_nothing_and_shows_its_table(runs, monkeypatch, capfd):
    assert call(monkeypatch, "seed=1,2") == 0
    first = capfd.readouterr().out
    assert call(monkeypatch, "seed=1,2") == 0
    again = capfd.readouterr().out
    assert runs.seeds == [1, 2]
    assert "2 of 2 runs are finished" in again
    table = first[first.index("sweep defaults") :]
    assert table in again


def test_a_changed_sweep_is_another_one_and_each_goes_on_with_its_own(runs, monkeypatch):
    find = resumption.find

    def find_later(new: Path, *rest: Any, **named: Any) -> Path:
        # The folder is named by the second, and the test is faster.
        return find(new.with_name(f"{new.name}_{len(runs.seeds)}"), *rest, **named)

    monkeypatch.setattr(resumption, "find", find_later)
    sweeps = [["seed=1"], ["seed=3"], ["seed=1", "retriever.top_k=2"], ["seed=1,2"]]
    for number, line in enumerate(sweeps, start=1):
        assert call(monkeypatch, *line) == 0
        assert len(folders()) == number
    Path("own/train.jsonl").write_text("{} \n")
    assert call(monkeypatch, *sweeps[0]) == 0
    assert call(monkeypatch, *sweeps[0], "sweep.resume=false") == 0
    assert len(folders()) == 6
    done = len(runs.seeds)
    assert done == 7
    # What computes the same is the same sweep.
    same = ["sweep.retries=2", "sweep.fail_fast=true", "cache_dir=a", "hydra.verbose=false"]
    assert call(monkeypatch, *sweeps[0], *same) == 0
    assert len(runs.seeds) == done
    assert len(folders()) == 6


@pytest.mark.parametrize("named", ["./tuned", "./tuned#generator"])
def test_a_sweep_over_weights_that_changed_is_another_one(named):
    def identity() -> str:
        model = {"generator": {"weights": named, "adapter": None}}
        return resumption.identify(OmegaConf.create({"model": model, "parts": [model]}))

    Path("tuned").mkdir()
    Path("tuned/model.safetensors").write_text("first")
    first = identity()
    Path("a_file_beside_it").touch()
    assert identity() == first
    Path("tuned/model.safetensors").write_text("trained further")
    assert identity() != first


def test_a_folder_with_another_sweep_is_refused(runs, monkeypatch, capfd):
    place = "hydra.sweep.dir=outputs/mine"
    assert call(monkeypatch, "seed=1,2", place) == 0
    assert call(monkeypatch, "seed=1,2", place) == 0
    capfd.readouterr()
    assert call(monkeypatch, "seed=1,3", place) == 2
    assert capfd.readouterr().err == (
        "hydra.sweep.dir: 'outputs/mine' holds another sweep; nothing is overwritten: choose "
        "another folder\n"
    )
    assert call(monkeypatch, "seed=1,2", place, "sweep.resume=false") == 2
    assert "holds a sweep, and sweep.resume=false does not go on" in capfd.readouterr().err
    assert runs.seeds == [1, 2]


def test_a_corrected_sweep_takes_the_place_of_failed_runs_alone(runs, monkeypatch, capfd):
    place = "hydra.sweep.dir=outputs/mine"
    folder = Path("outputs/mine")
    runs.on[1] = runs.on[2] = runs.on[3] = failing(UserError("data: none"), times=9)
    assert call(monkeypatch, "seed=1,2,3", place) == 2
    del runs.on[1], runs.on[2]
    capfd.readouterr()
    assert call(monkeypatch, "seed=1,2", "retriever.top_k=2", place) == 0
    assert "its failed runs are removed" in capfd.readouterr().out
    assert [path.name for path in sorted(folder.iterdir()) if path.is_dir()] == ["0", "1"]
    assert all(outcome.is_end for outcome in outcomes.read(folder).values())
    # What is finished, or could be gone on with, stays, whatever else failed.
    assert call(monkeypatch, "seed=1,3", place) == 2
    assert "holds another sweep; nothing is overwritten" in capfd.readouterr().err
    assert call(monkeypatch, "seed=3", "hydra.sweep.dir=outputs/other") == 2
    (Path("outputs/other/0") / resumption.CHECKPOINTS).mkdir()
    capfd.readouterr()
    assert call(monkeypatch, "seed=1", "hydra.sweep.dir=outputs/other") == 2
    assert "holds another sweep; nothing is overwritten" in capfd.readouterr().err
    assert Path("outputs/other/0/outcome.json").is_file()


def test_a_command_is_kept_without_what_the_environment_holds(runs, monkeypatch):
    monkeypatch.setenv("MY_FOLDER", "secret-word")
    assert call(monkeypatch, "seed=1", "cache_dir='${oc.env:MY_FOLDER}'") == 0
    kept = [*Path("outputs").rglob(".hydra/*.yaml"), *Path("outputs").rglob("multirun.yaml")]
    assert len(kept) == 4
    for path in kept:
        assert "${oc.env:MY_FOLDER}" in path.read_text()
        assert "secret-word" not in path.read_text()


def test_a_run_is_not_written_over_another(runs, monkeypatch, capfd):
    line = [*LINE[:-1], "hydra.run.dir=outputs/one"]
    for seed, code, count in ((1, 0, 1), (1, 0, 1), (2, 2, 1)):
        monkeypatch.setattr(sys, "argv", ["rag_experiments", *line, f"seed={seed}"])
        with pytest.raises(SystemExit) as exit_:
            entry.main()
        assert (exit_.value.code or 0) == code
        assert len(runs.seeds) == count
    assert "holds another run, and nothing is overwritten" in capfd.readouterr().err
    assert outcomes.Outcome.read(Path("outputs/one")).final.value == 0.1


def test_a_failure_is_shown_when_it_happens(runs, monkeypatch, capfd):
    runs.on[1] = failing(RuntimeError("out of luck"))
    runs.on[2] = lambda: seen.append(capfd.readouterr().err)
    seen: list[str] = []
    call(monkeypatch, "seed=1,2")
    assert (
        "job 0 (data=folder, data.path=own, tracking=none, seed=1) failed: out of luck" in seen[0]
    )


def test_fail_fast_starts_no_further_job_and_the_same_command_goes_on(runs, monkeypatch, capfd):
    runs.on[2] = failing(UserError("top_k: too many"))
    assert call(monkeypatch, "seed=1,2,3,4", "sweep.fail_fast=true") == 2
    assert runs.seeds == [1, 2]
    shown = capfd.readouterr()
    assert shown.out.count("not started") == 2
    assert "3 of 4 jobs failed" in shown.err
    assert "not started: job 1 failed and sweep.fail_fast is true" in shown.err
    assert call(monkeypatch, "seed=1,2,3,4", "sweep.fail_fast=true") == 0
    assert runs.seeds == [1, 2, 2, 3, 4]


def test_a_failed_job_is_tried_again_as_often_as_asked(runs, monkeypatch, capfd):
    runs.on[1] = failing(RuntimeError("out of luck"), times=2)
    runs.on[2] = failing(RuntimeError("out of luck"), times=3)
    runs.on[3] = failing(UserError("nothing helps"), times=3)
    assert call(monkeypatch, "seed=1,2,3", "sweep.retries=2") == 1
    assert runs.seeds == [1, 1, 1, 2, 2, 2, 3]
    said = capfd.readouterr().err
    assert said.count("failed; tried again, 2 times at most") == 2
    assert said.count("failed; tried again, 1 time at most") == 2
    assert "2 of 3 jobs failed" in said


def test_a_run_that_ends_itself_does_not_stop_the_others(runs, monkeypatch, capfd):
    for seed, code in enumerate((0, 3, "text")):
        runs.on[seed] = failing(SystemExit(code))
    assert call(monkeypatch, "seed=0,1,2,3") == 1
    assert runs.seeds == [0, 1, 2, 3]
    said = capfd.readouterr().err
    for code in (0, 3, "text"):
        assert f"RuntimeError: the run ended itself with sys.exit({code!r})" in said


def test_a_panic_in_a_library_does_not_stop_the_others(runs, monkeypatch, capfd):
    class PanicException(BaseException):  # tokenizers and safetensors raise one like it
        pass

    runs.on[1] = failing(PanicException("index out of bounds"), times=2)
    assert call(monkeypatch, "seed=1,2", "sweep.retries=1") == 1
    assert runs.seeds == [1, 1, 2]
    assert "RuntimeError: PanicException: index out of bounds" in capfd.readouterr().err


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("number", "swallowed"),
    [
        (signal.SIGINT, None),
        (signal.SIGTERM, "an error comes of it"),
        (signal.SIGTERM, "nothing comes of it"),
    ],
)
def test_a_request_to_end_is_not_lost(runs, monkeypatch, capfd, number, swallowed):
    class Freed:
        """Garbage collection, at the end of each stage, is where requests were lost."""

        def __del__(self) -> None:
            os.kill(os.getpid(), number)

    def library() -> None:
        if swallowed == "nothing comes of it":
            Freed()
        elif swallowed == "an error comes of it":
            try:
                os.kill(os.getpid(), number)
            except KeyboardInterrupt:
                raise ImportError("could not be imported") from None
        else:
            os.kill(os.getpid(), number)

    runs.on[2] = library
    assert call(monkeypatch, "seed=1,2,3") == 128 + number
    assert runs.seeds == [1, 2]
    finished = 2 if swallowed == "nothing comes of it" else 1
    name = "SIGTERM" if number == signal.SIGTERM else "Ctrl-C"
    said = capfd.readouterr().err
    assert f"interrupted by {name}: {finished} runs are finished" in said
    assert "the same command goes on" in said
    runs.on.clear()
    assert call(monkeypatch, "seed=1,2,3") == 0
    assert runs.seeds == [1, 2, *((3,) if finished == 2 else (2, 3))]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_two_processes_do_not_work_on_one_sweep(runs, monkeypatch, capfd):
    runs.on[2] = failing(RuntimeError("out of luck"))
    call(monkeypatch, "seed=1,2")
    (name,) = folders()
    capfd.readouterr()
    with FileLock(f"outputs/sweeps/defaults/{name}/.lock"):
        assert call(monkeypatch, "seed=1,2") == 2
    assert "another process is at work on this sweep" in capfd.readouterr().err
    assert runs.seeds == [1, 2]


def test_a_job_whose_process_died_is_listed_and_done_again(runs, monkeypatch, capfd):
    assert call(monkeypatch, "seed=1,2,3") == 0
    (name,) = folders()
    folder = Path("outputs/sweeps/defaults", name)
    (folder / "1" / outcomes.OUTCOME).unlink()
    for path in (folder / "2").glob("*.json"):
        path.unlink()
    problems = [outcome.problems for outcome in outcomes.read(folder).values()]
    assert problems == [(), (outcomes.SILENCE,), ("not started: the sweep ended before",)]
    assert outcomes.ended(folder)[folder / "1"] == outcomes.SILENCE
    with resumption.alone(folder / "1"):
        assert folder / "1" not in outcomes.ended(folder)
    assert call(monkeypatch, "seed=1,2,3") == 0
    assert runs.seeds == [1, 2, 3, 2, 3]


@pytest.mark.parametrize("name", [resumption.BEGUN, outcomes.OUTCOME, resumption.STOPPED])
def test_a_record_that_is_cut_short_is_one_line(runs, monkeypatch, capfd, name):
    runs.on[2] = failing(RuntimeError("out of luck"))
    assert call(monkeypatch, "seed=1,2") == 1
    (sweep,) = Path("outputs/sweeps/defaults").iterdir()
    file = sweep / name if name == resumption.STOPPED else sweep / "0" / name
    file.write_text('{"ident')
    capfd.readouterr()
    assert call(monkeypatch, "seed=1,2") == 2
    (said,) = capfd.readouterr().err.splitlines()
    assert said.startswith(f"{file}: damaged (JSONDecodeError: ")
    assert "; remove " in said


def test_what_else_lies_in_the_folder_of_a_search_is_no_job(tmp_path):
    for name in (".ipynb_checkpoints", "plots", "0"):
        (tmp_path / name).mkdir()
    assert list(outcomes.read(tmp_path)) == ["0"]


def test_a_job_that_takes_its_process_with_it_lets_the_others_go_first(runs, monkeypatch, capfd):
    # The first job dies each time, here before anything can be noted of it.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs, "_note", lambda *_: None)
        runs.on[1] = failing(KeyboardInterrupt(), times=9)
        for _ in range(3):
            assert call(monkeypatch, "seed=1,2") == 130
        assert runs.seeds == [1, 1, 1]
        assert call(monkeypatch, "seed=1,2") == 1
        assert runs.seeds == [1, 1, 1, 2]
        assert "its process died 3 times in a row and the other jobs" in capfd.readouterr().err
        assert call(monkeypatch, "seed=1,2") == 130
    runs.on.clear()
    assert call(monkeypatch, "seed=1,2") == 0
    assert runs.seeds == [1, 1, 1, 2, 1, 1]


def test_jobs_that_died_together_have_their_turns_one_by_one(runs, monkeypatch):
    """Side by side one of them takes the others along, and it cannot be told which."""
    assert call(monkeypatch, "seed=1,2,3") == 0
    (name,) = folders()
    folder = Path("outputs/sweeps/defaults", name).absolute()
    for number in (0, 1):  # both were at work when the process died, three times
        (folder / str(number) / outcomes.OUTCOME).unlink()
        resumption.begin(folder / str(number), "an identity", (), outcomes.DEATHS - 1)

    def wait() -> list[bool]:
        named = [outcomes.Job("", None, (), {}, folder / number, folder) for number in ("0", "1")]
        return [outcomes.others_wait(job, resumption.chances(job.output_dir)) for job in named]

    assert [resumption.chances(folder / str(number)) for number in range(3)] == [3, 3, 1]
    assert wait() == [False, True]
    last = outcomes.Outcome.read(folder / "2")
    outcomes.Outcome(problems=(f"{outcomes.NOT_STARTED}: x",)).write(folder / "2")
    assert wait() == [True, True]
    last.write(folder / "2")
    with resumption.at_work(folder / "0"):
        resumption.begin(folder / "0", "an identity", (), outcomes.DEATHS)
        assert wait() == [True, True]
    assert wait() == [True, False]  # it died again, now alone
    with resumption.alone(folder / "0"):  # looks whether it is its turn
        assert wait() == [True, False]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left", "x")])
def test_a_finished_job_stays_finished_whatever_comes_after(runs, monkeypatch, error):
    assert call(monkeypatch, "seed=1") == 0
    before = outcomes.Outcome.read(runs.folders[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outcomes, "count", lambda *_: (0, 1))  # so that the job is looked at
        patch.setattr(resumption, "alone", failing(error))
        assert call(monkeypatch, "seed=1") != 0
    assert outcomes.Outcome.read(runs.folders[0]) == before
    assert call(monkeypatch, "seed=1") == 0
    assert runs.seeds == [1]


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "outcome.json"
    disk.write_whole(path, "old")

    def cut(self: Path, text: str, encoding: str) -> None:
        with self.open("w") as file:
            file.write(text[:2])
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_text", cut)
    with pytest.raises(OSError, match="No space"):
        disk.write_whole(path, "new text")
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["outcome.json"]
    assert path.read_text() == "old"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            OSError(28, "No space left on device", "/x/y"),
            "/x/y: cannot be written: no space is left",
        ),
        (OSError(30, "Read-only file system", "/x/y"), "/x/y: cannot be written: the file system"),
        (PermissionError(13, "Permission denied", "/x/y"), "/x/y: cannot be written: permission"),
        (
            RuntimeError("I/O error: No space left on device (os error 28)"),
            "run: cannot be written",
        ),
        (
            ValueError("(sqlite3.OperationalError) database or disk is full"),
            "run: cannot be written",
        ),
        (PermissionError(13, "a socket's"), None),
        (FileNotFoundError(2, "No such file", "/x/y"), None),
        (ValueError("out of luck"), None),
    ],
)
def test_what_the_disk_refuses_is_one_line(error, reason, monkeypatch):
    outer = RuntimeError("saving failed")
    outer.__cause__ = error
    for each in (error, outer):
        found = disk.explain(each, Path("cache"), Path("run"))
        if reason is None:
            assert found is None
        else:
            assert str(found).startswith(reason)
            assert "cache_dir= (now cache)" in str(found)
            assert "\n" not in str(found)


def test_a_full_disk_ends_a_job_with_two_and_one_line(runs, monkeypatch, capfd):
    runs.on[1] = failing(OSError(28, "No space left on device", "cache/x"))
    assert call(monkeypatch, "seed=1,2") == 2
    said = capfd.readouterr().err
    assert "Traceback" not in said
    assert "cache/x: cannot be written: no space is left on the disk" in said
    assert runs.seeds == [1, 2]


def test_a_cache_that_takes_no_files_is_refused_before_a_run(runs, monkeypatch, capfd):
    assert call(monkeypatch, "seed=1,2", "cache_dir=own/train.jsonl/cache") == 2
    assert capfd.readouterr().err == (
        "cache_dir: 'own/train.jsonl/cache' cannot be written: a part of the path is a file; mend "
        "it, or choose another folder with cache_dir=\n"
    )
    assert runs.seeds == []


def test_signals_are_left_as_they_were():
    before = signal.getsignal(signal.SIGTERM)
    with interruption.watched():
        with interruption.watched(), pytest.raises(KeyboardInterrupt, match="SIGTERM"):
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            interruption.check()
        assert interruption.exit_code() == 143
    assert signal.getsignal(signal.SIGTERM) is before
    with interruption.watched():
        interruption.check()  # a new process, or test, begins anew


def test_the_state_of_a_sweep_says_what_it_is(runs, monkeypatch):
    call(monkeypatch, "seed=1,2")
    (name,) = folders()
    state = json.loads(Path("outputs/sweeps/defaults", name, resumption.STATE).read_text())
    assert state["tag"] == f"defaults-{name}"
    assert [job[-1] for job in state["jobs"]] == ["seed=1", "seed=2"]
