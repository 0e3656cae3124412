"""Where results go that the cache folder does not take."""

from __future__ import annotations

import atexit
import logging
import shutil
import tempfile
from functools import cache
from pathlib import Path

log = logging.getLogger(__name__)


@cache
def scratch_dir() -> Path:
    """A temporary cache folder, which the process removes when it ends."""
    folder = tempfile.mkdtemp(prefix="rag_experiments-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@cache
def warn_once(message: str) -> None:
    """Log a warning, but not the same one again."""
    log.warning("%s", message)
