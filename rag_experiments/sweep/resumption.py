"""Which earlier sweep a command goes on with, and which of its jobs are finished."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf

from rag_experiments.contracts import UserError
from rag_experiments.data.corpus import list_documents
from rag_experiments.data.source import is_corpus
from rag_experiments.runtime import disk
from rag_experiments.weights import FOLDER

STATE = "sweep.json"
"""Name of the file by which a sweep is found again."""

BEGUN = "begun.json"
"""Name of the file that a job leaves in its folder when it starts."""

STOPPED = "stopped.json"
"""Name of the file that keeps the other jobs of a sweep from starting, with `sweep.fail_fast`."""

CHECKPOINTS = "checkpoints"
"""Folder of a run that is not finished, from which its training goes on."""

_LOCK = ".lock"
_TURN = ".turn.lock"
_NO_PART = ("sweep", "cache_dir")
"""Keys that change nothing about what a job computes."""

_WEIGHTS = ("weights", "tokenizer")
"""Keys, wherever they stand, that may name a folder of weights."""


def identify(raw: DictConfig) -> str:
    """Return a hash of what makes a job: every resolved key of its configuration, and size and
    time of the files of data and weights that it names."""
    content = OmegaConf.to_container(raw, resolve=True)
    assert isinstance(content, dict)
    kept = {str(key): value for key, value in content.items() if key not in _NO_PART}
    files = [
        (str(file), file.stat().st_size, file.stat().st_mtime_ns)
        for text in (*_texts(kept.get("data")), *_weights(kept))
        for file in _files(text)
    ]
    return _hash([kept, sorted(set(files))])


def combine(jobs: Sequence[str], *more: Any) -> str:
    """Return the identity of a sweep from those of its jobs, in order."""
    return _hash([list(jobs), *more])


def _hash(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from _texts(part)
    elif isinstance(value, str) and value:
        yield value


def _weights(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        value = dict(enumerate(value))
    for key, part in value.items() if isinstance(value, dict) else ():
        if key not in _WEIGHTS:
            yield from _weights(part)
        elif isinstance(part, str) and part.startswith(FOLDER):
            yield from {part, part.partition("#")[0]}  # a part of a checkpoint stands behind it


def _files(text: str) -> list[Path]:
    try:
        path = Path(text).expanduser()
        documents = list_documents(path).documents if is_corpus(path) else ()
        return [file for file in (path, *path.glob("*"), *documents) if file.is_file()]
    except (OSError, RuntimeError, ValueError):  # a text that is no path
        return []


Planned = tuple[tuple[str, ...], ...] | None
"""Overrides of each job of a sweep; None: the sweeper decides on them as it goes."""


@dataclass(frozen=True)
class State:
    """What a sweep's folder says about it."""

    identity: str
    tag: str
    jobs: Planned

    started: float

    @classmethod
    def read(cls, folder: Path) -> State | None:
        """Return the state in a folder; None where there is none that can be read."""
        try:
            values = json.loads((folder / STATE).read_text(encoding="utf-8"))
            jobs = values.pop("jobs")
            return cls(jobs=None if jobs is None else tuple(map(tuple, jobs)), **values)
        except (OSError, ValueError, TypeError, KeyError):
            return None


def find(new: Path, identity: str, *, resume: bool, given: bool, replaceable: bool = True) -> Path:
    """Return the folder of a sweep: the newest one that holds it already, else a new one.

    It is looked for beside `new`, and where the user has given that folder, in it alone.
    Raises UserError where the folder holds something else: nothing is overwritten, but for
    another sweep (if it is `replaceable`) of which nothing would be lost.
    """
    if resume:
        places = [new] if given else [new, *(path.parent for path in new.parent.glob(f"*/{STATE}"))]
        states = [(State.read(place), place) for place in dict.fromkeys(places)]
        same = [(s.started, place) for s, place in states if s and s.identity == identity]
        if same:
            return max(same)[1]
    if any(new.glob("multirun.yaml")) or any(new.glob(STATE)):
        if replaceable and State.read(new) is not None and not _holds_runs(new):
            return new
        what = (
            "another sweep" if resume else "a sweep, and sweep.resume=false does not go on with it"
        )
        raise UserError(
            f"hydra.sweep.dir: {str(new)!r} holds {what}; nothing is overwritten: choose another "
            "folder"
        )
    return new


def _holds_runs(sweep_dir: Path) -> bool:
    """Whether a sweep has a run that is finished, at work, or could be gone on with."""
    from rag_experiments.sweep.outcomes import Outcome  # which imports this module

    for begun_file in sweep_dir.glob(f"*/{BEGUN}"):
        folder = begun_file.parent
        outcome = Outcome.read(folder)
        ended = outcome is not None and outcome.is_end
        if ended or (folder / CHECKPOINTS).exists() or (folder / "model").exists():
            return True
        if is_running(folder):
            return True
    return False


def _discard(sweep_dir: Path) -> None:
    """Remove what a sweep has left of which nothing would be lost."""
    if _holds_runs(sweep_dir):
        raise UserError(f"{sweep_dir}: another sweep has begun in it; choose another folder")
    for begun_file in list(sweep_dir.glob(f"*/{BEGUN}")):
        shutil.rmtree(begun_file.parent)
    for name in ("study.journal", STATE):
        (sweep_dir / name).unlink(missing_ok=True)


@contextmanager
def held(folder: Path, state: State) -> Iterator[None]:
    """Hold a sweep's folder, so that one process at a time starts its jobs. What is left there of
    another one, in whose place `find` has put it, is removed."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / _LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            f"{folder}: another process is at work on this sweep; wait for it, or start a second "
            "one with sweep.resume=false"
        ) from None
    try:
        earlier = State.read(folder)
        if earlier is not None and earlier.identity != state.identity:
            _discard(folder)
            earlier = None
        if earlier is None:
            disk.write_whole(folder / STATE, json.dumps(asdict(state), indent=2) + "\n")
        (folder / STOPPED).unlink(missing_ok=True)
        yield
    finally:
        lock.release()


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Wait until no other process is at work on a job, then keep them away."""
    with FileLock(folder / _LOCK):
        yield


@contextmanager
def at_work(folder: Path) -> Iterator[None]:
    """Let others see within the block that a job, which is a process's `alone`, has its turn."""
    with FileLock(folder / _TURN):
        yield


def is_running(folder: Path) -> bool:
    """Whether a process is at work on a job, or looks whether there is work."""
    return _is_held(folder / _LOCK)


def is_at_work(folder: Path) -> bool:
    """Whether a job has its turn."""
    return _is_held(folder / _TURN)


def _is_held(lock: Path) -> bool:
    """Whether a process holds a lock. Where processes die, the system frees it."""
    if not lock.exists():
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True


def begin(folder: Path, identity: str, overrides: Sequence[str], deaths: int = 0) -> None:
    """Note that a job starts, after so many starts in a row that its process did not outlive."""
    content = {"identity": identity, "overrides": list(overrides), "deaths": deaths}
    disk.write_whole(folder / BEGUN, json.dumps(content, indent=2) + "\n")


def begun(folder: Path) -> Mapping[str, Any] | None:
    """Return what `begin` noted; None: no job has started in the folder."""
    return disk.read_record(
        folder / BEGUN,
        f"remove {folder}, and the run is done again",
        lambda noted: {name: noted[name] for name in ("identity", "overrides", "deaths")},
    )


def chances(folder: Path) -> int:
    """Return how many times in a row a job has begun and its process did not outlive it, where it
    left no outcome."""
    noted = begun(folder)
    return 0 if noted is None else 1 + noted["deaths"]


def stop(sweep_dir: Path, reason: str) -> None:
    """Keep the jobs of a sweep that have not started from starting."""
    disk.write_whole(sweep_dir / STOPPED, json.dumps({"reason": reason}) + "\n")


def stopped(sweep_dir: Path) -> str | None:
    """Return why no further jobs of a sweep start; None: they do."""
    return disk.read_record(sweep_dir / STOPPED, "remove it", lambda noted: str(noted["reason"]))
