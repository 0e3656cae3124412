"""Where results go that the cache folder does not take."""

from __future__ import annotations

import atexit
import logging
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import IO

log = logging.getLogger(__name__)


@cache
def scratch_dir() -> Path:
    """A temporary cache folder, which the process removes when it ends."""
    folder = tempfile.mkdtemp(prefix="rag_experiments-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def open_unnamed(cache_dir: Path) -> IO[bytes]:
    """A file without a name on the disk of the cache folder, or of a temporary one where that
    takes none; it is gone when nothing has it open, however the process ends."""
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryFile(dir=cache_dir)
    except OSError as error:
        reason = error.strerror or error
        warn_once(f"{cache_dir} cannot be written ({reason}): passages are prepared elsewhere")
        return tempfile.TemporaryFile(dir=scratch_dir())


@cache
def warn_once(message: str) -> None:
    """Log a warning, but not the same one again."""
    log.warning("%s", message)
