"""Files that are whole or not there, and what to say of a disk that takes none."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from rag_experiments.contracts import UserError

_REASONS = {
    errno.ENOSPC: "no space is left on the disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission is denied",
    errno.EPERM: "permission is denied",
    errno.ENOTDIR: "a part of the path is a file",
}
# Libraries in other languages put the system's error into the text of their own.
_TEXTS = {
    errno.ENOSPC: r"no space left on device|disk is full|os error 28\b",
    errno.EDQUOT: r"disk quota exceeded",
    errno.EROFS: r"read-only file system|readonly database|os error 30\b",
}
_ROOM = 2**20

Record = TypeVar("Record")


@contextmanager
def reading(path: Path, remedy: str) -> Iterator[None]:
    """Raise UserError with the file where the block cannot read what a run wrote there."""
    try:
        yield
    except (UserError, MemoryError, ImportError):
        raise
    except Exception as error:  # each library has its own for a file that was cut or changed
        if _refusal(error) is not None:
            raise
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: damaged ({type(error).__name__}: {reason}); {remedy}") from error


def read_record(path: Path, remedy: str, make: Callable[[Any], Record]) -> Record | None:
    """Return what `make` makes of a JSON file that a run wrote; None: there is none.

    Raises UserError where it was cut or changed.
    """
    try:  # another process may be about to remove it
        written = path.read_bytes()
    except FileNotFoundError:
        return None
    with reading(path, remedy):
        return make(json.loads(written.decode("utf-8")))


def write_whole(path: Path, text: str) -> None:
    """Write a text file so that nobody reads half of it, whenever the process dies."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def link(source: Path | str, target: Path | str) -> None:
    """Share a file that stays as it is; copy it where a file system cannot."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def require_writable(folder: Path, key: str) -> None:
    """Raise UserError, with the key that names it, where a folder takes no files."""
    probe = folder / f".probe.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"0")
        probe.unlink()
    except OSError as error:
        reason = _REASONS.get(error.errno or 0, str(error.strerror))
        raise UserError(
            f"{key}: {str(folder)!r} cannot be written: {reason}; mend it, or choose another "
            f"folder with {key}="
        ) from None


def free(folder: Path) -> int:
    """Return the bytes that a folder, which need not be there yet, has room for."""
    there = next((place for place in (folder, *folder.absolute().parents) if place.exists()), None)
    return shutil.disk_usage(there or Path()).free


def write_size(size: float) -> str:
    """Return a number of bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def explain(error: BaseException, cache_dir: Path, folder: Path) -> UserError | None:
    """Return in one line what the disk refused; None where the error is of another kind.

    `folder` is the run's own.
    """
    found = next(filter(None, map(_refusal, _chain(error))), None)
    if found is None:
        full = [place for place in (folder, cache_dir) if _is_full(place)]
        if not full or not isinstance(error, (OSError, RuntimeError)):
            return None
        found = (str(full[0]), _REASONS[errno.ENOSPC])
    place, reason = found
    return UserError(
        f"{place or folder}: cannot be written: {reason}; mend it, or choose other folders with "
        f"cache_dir= (now {cache_dir}) and hydra.run.dir= or hydra.sweep.dir=; what is finished "
        "is kept"
    )


def _refusal(error: BaseException) -> tuple[str, str] | None:
    if isinstance(error, OSError) and error.errno in _REASONS:
        known = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
        if known or error.filename is not None:  # else it may be a socket's
            return str(error.filename or ""), _REASONS[error.errno]
    for number, pattern in _TEXTS.items():
        if re.search(pattern, str(error), re.IGNORECASE):
            return "", _REASONS[number]
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _is_full(folder: Path) -> bool:
    return free(folder) < _ROOM
