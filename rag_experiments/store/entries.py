"""Results of stages, kept by content: entries that are whole or not there.

An entry is a folder `<cache_dir>/store/<stage>/<key>`. Its key is a hash of all that the result
depends on, the parts of the stages above included; `entry.json` holds these parts and a checksum
of each file. An entry is written to a partial folder and renamed when whole, under a lock, so that
jobs that need the same thing wait for the first. One that is cut short or changed is made again;
what takes hours goes on with its partial folder.

The store stands on a low floor because it knows no stage: what depends on what is said where the
stages are.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from rag_experiments import weights
from rag_experiments.store.keys import FORMAT, Key, differences
from rag_experiments.store.scratch import scratch_dir, warn_once

log = logging.getLogger(__name__)

MANIFEST = "entry.json"

Result = TypeVar("Result")


@dataclass(frozen=True)
class Entry:
    """A folder of the store with its manifest."""

    folder: Path
    key: Key
    files: Mapping[str, Mapping[str, Any]]
    """`bytes` and `sha256` of each file, by its path in the folder."""
    seconds: float
    """That it took to make."""

    @property
    def bytes(self) -> int:
        """Size of the files."""
        return sum(file["bytes"] for file in self.files.values())

    @property
    def used(self) -> float:
        """When it was made or read last, in seconds since 1970."""
        return (self.folder / MANIFEST).stat().st_mtime

    @classmethod
    def read(cls, folder: Path) -> Entry:
        """Read a manifest; ValueError where it is cut short, changed or of another format."""
        try:
            content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise ValueError(f"its format is {content['format']}, not {FORMAT}")
            key = Key(content["stage"], content["parts"])
            files = {
                name: {"bytes": file["bytes"], "sha256": file["sha256"]}
                for name, file in content["files"].items()
            }
            entry = cls(folder, key, files, float(content["seconds"]))
            whole = key.digest == folder.name and entry.bytes >= 0
        except (
            OSError,
            json.JSONDecodeError,
            RecursionError,
            KeyError,
            TypeError,
            AttributeError,
        ) as error:
            raise ValueError(f"{MANIFEST}: {type(error).__name__}") from error
        if not whole:
            raise ValueError(f"{MANIFEST}: its parts are not those of the key {folder.name}")
        return entry

    def check(self) -> None:
        """Compare every file with its checksum; ValueError names the first that differs."""
        there = {
            path.relative_to(self.folder).as_posix(): path
            for path in sorted(self.folder.rglob("*"))
            if path.is_file() and path.name != MANIFEST
        }
        for name in sorted({*there, *self.files}):
            if name not in there:
                raise ValueError(f"{name} is missing")
            if name not in self.files:
                raise ValueError(f"{name} was added")
            if there[name].stat().st_size != self.files[name]["bytes"]:
                raise ValueError(f"{name}: its size differs")
            if _hash_once(there[name]) != self.files[name]["sha256"]:
                raise ValueError(f"{name}: its checksum differs")


def _hash_once(path: Path) -> str:
    state = path.stat()
    return _hash(path, state.st_ino, state.st_size, state.st_mtime_ns)


@cache
def _hash(path: Path, *state: int) -> str:
    """SHA-256 of a file; a process reads each state of a file once."""
    return weights.hash_file(path)


class Store:
    """The entries of a cache folder.

    Where the folder cannot be written, results are made in a temporary one, which the process
    removes when it ends; that is said once.
    """

    def __init__(self, cache_dir: Path):
        self.root = cache_dir / "store"

    def folder(self, key: Key, make: Callable[[Path], None], resumable: bool = False) -> Path:
        """Folder of an entry, filled by `make` where it is not there or damaged.

        `make` is given a partial folder: an empty one, or, where it is `resumable`, with what was
        left by a process that was making this same entry when it ended. The log says whether the
        entry was read or made, and why.
        """
        folder = self.root / key.stage / key.digest
        if self._find(folder) is not None:
            return self._hit(folder)
        try:
            with self._lock(folder):
                reason = None
                if folder.exists():
                    try:
                        Entry.read(folder).check()
                        return self._hit(folder)  # made while this process waited
                    except (ValueError, OSError) as error:
                        reason = f"the entry {folder} is damaged ({error})"
                        log.warning("%s: %s; it is made again", key.stage, reason)
                        _remove(folder)
                log.info("%s: computing, %s", key.stage, reason or self._explain(key))
                _write(folder, key, make, resumable)
        except _Unwritable as error:
            warn_once(f"{self.root} cannot be written ({error}): results are not kept there")
            return Store(scratch_dir()).folder(key, make, resumable)
        return folder

    def result(
        self,
        key: Key,
        compute: Callable[[], Result],
        write: Callable[[Result, Path], None],
        read: Callable[[Path], Result],
    ) -> Result:
        """Result of an entry, computed and written where it is not there.

        It is read back from the files even where it has just been computed, so that a run does
        not depend on what was there before it. Where the files cannot be written, say for want
        of space, the result goes on and nothing is kept.
        """
        computed: list[Result] = []

        def make(folder: Path) -> None:
            computed.append(compute())
            write(computed[0], folder)

        try:
            folder = self.folder(key, make)
        except OSError as error:
            if not computed:
                raise
            warn_once(f"{key.stage}: the result could not be kept ({error.strerror or error})")
            return computed[0]
        try:
            return read(folder)
        except FileNotFoundError:  # pruned in this very moment
            return read(self.folder(key, make))

    def entries(self) -> Iterator[tuple[Path, Entry | None]]:
        """Every entry by its folder, those of a stage together; None: its manifest is damaged."""
        for folder in sorted(self.root.glob("*/*")):
            if folder.is_dir() and not folder.name.startswith("."):
                try:
                    yield folder, Entry.read(folder)
                except ValueError:
                    yield folder, None

    def leftovers(self) -> Iterator[Path]:
        """Entries that a killed process was making or removing: their folders, which are not."""
        for path in sorted(self.root.glob("*/.*")):
            name, _, what = path.name[1:].partition(".")
            if what in ("partial", "removed") and not (path.parent / name).exists():
                yield path.parent / name

    def begun(self) -> Iterator[tuple[Path, int, float]]:
        """Entries that can be gone on with, of a process that ended or is at it: the folder, which
        is not there yet, the bytes of what is done, and when it grew last, in seconds since 1970.
        """
        for path in sorted(self.root.glob("*/.*.begun")):
            try:
                states = [file.stat() for file in path.iterdir()]
                grown = max((state.st_mtime for state in states), default=path.stat().st_mtime)
            except OSError:  # it grows, or was finished, in this very moment
                continue
            folder = path.with_name(path.name[1:].partition(".")[0])
            yield folder, sum(state.st_size for state in states), grown

    def _find(self, folder: Path) -> Entry | None:
        try:
            entry = Entry.read(folder)
            entry.check()
        except (ValueError, OSError):
            return None
        return entry

    def _hit(self, folder: Path) -> Path:
        log.info("%s: read, every part of the key is that of %s", folder.parent.name, folder.name)
        with suppress(OSError):
            os.utime(folder / MANIFEST)  # for pruning by age
        return folder

    @contextmanager
    def _lock(self, folder: Path) -> Iterator[None]:
        from filelock import FileLock, Timeout

        lock = FileLock(_beside(folder, "lock"))
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                log.info("%s: another process computes it; waiting", folder.parent.name)
                lock.acquire()
        except OSError as error:
            raise _Unwritable(error.strerror or error) from error
        try:
            yield
        finally:
            lock.release()

    def _explain(self, key: Key) -> str:
        """In what the nearest entry of a stage differs."""
        others = [entry for folder, entry in self.entries() if folder.parent.name == key.stage]
        changes = [differences(entry.key, key) for entry in others if entry is not None]
        if not changes:
            return "the store has none yet"
        nearest = min(changes, key=len)
        more = [f"{len(nearest) - 4} more parts are new"] if len(nearest) > 4 else []
        return "; ".join([*nearest[:4], *more])


class _Unwritable(Exception):
    """The cache folder takes no lock."""


def remove(folder: Path) -> bool:
    """Remove an entry and what was left of it; False where a process holds its lock."""
    from filelock import FileLock, Timeout

    try:
        with FileLock(_beside(folder, "lock"), timeout=0):
            _remove(folder)
    except Timeout:
        return False
    return True


def _remove(folder: Path) -> None:
    aside = _beside(folder, "removed")
    shutil.rmtree(aside, ignore_errors=True)
    if folder.exists():
        folder.rename(aside)  # at once, for those who look for it
    for leftover in (aside, _beside(folder, "partial"), _beside(folder, "begun")):
        shutil.rmtree(leftover, ignore_errors=True)


def _beside(folder: Path, what: str) -> Path:
    return folder.with_name(f".{folder.name}.{what}")


def _write(folder: Path, key: Key, make: Callable[[Path], None], resumable: bool) -> None:
    partial = _beside(folder, "begun" if resumable else "partial")
    if not resumable:
        shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
    partial.mkdir(exist_ok=True)
    try:
        start = time.perf_counter()
        make(partial)
        content = {
            "format": FORMAT,
            "stage": key.stage,
            "parts": key.parts,
            "files": {
                path.relative_to(partial).as_posix(): {
                    "bytes": path.stat().st_size,
                    "sha256": weights.hash_file(path),
                }
                for path in sorted(partial.rglob("*"))
                if path.is_file()
            },
            "seconds": round(time.perf_counter() - start, 3),
        }
        (partial / MANIFEST).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        partial.rename(folder)
    finally:
        if not resumable:
            shutil.rmtree(partial, ignore_errors=True)
