"""What a tracking store did not take, kept in the run's folder until it is uploaded."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from rag_experiments.runtime import disk

log = logging.getLogger(__name__)

NAME = "unrecorded.jsonl"
"""Name of the file: first what the run is, then a call on its recorder in each line."""


class Journal:
    """The calls on a recorder that are still to be made, in order."""

    def __init__(self, folder: Path):
        self.path = folder / NAME

    def begin(self, facts: Mapping[str, Any]) -> None:
        """Start with what the run is: its id in the store, if it has one, its name and tags."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        disk.write_whole(self.path, json.dumps(facts) + "\n")

    def add(self, name: str, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        """Append a call; its arguments are plain data or paths."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps([name, arguments, named], default=str) + "\n")

    def read(self) -> tuple[dict[str, Any], list[tuple[str, list[Any], dict[str, Any]]]]:
        """Return what the run is and the calls; a line that a kill cut short was never made."""
        first, *lines = self.path.read_text(encoding="utf-8").split("\n")[:-1]
        return json.loads(first), [tuple(json.loads(line)) for line in lines]

    def name_run(self, run_id: str) -> None:
        """Note which run of the store the calls belong to."""
        facts, calls = self.read()
        content: list[Any] = [{**facts, "run_id": run_id}, *calls]
        disk.write_whole(self.path, "".join(f"{json.dumps(line)}\n" for line in content))

    def replay(self, recorder: Any) -> int:
        """Make the calls on a recorder and forget them; return how many there were."""
        _, calls = self.read()
        for name, arguments, named in calls:
            getattr(recorder, name)(*arguments, **named)
        self.path.unlink()
        return len(calls)


class Kept:
    """A recorder that cannot fail: what its store does not take, it keeps in a journal.

    After one failure everything goes into the journal, in order, and nothing waits for the store
    again until the end.
    """

    def __init__(self, journal: Journal, facts: Mapping[str, Any], traces: int = 0):
        self.reason = ""
        """Why the store took no more; empty: it has all."""

        self.traces = traces
        """Test questions that traces are wanted of, at most."""

        self._journal = journal
        self._facts = dict(facts)
        self._recorder: Any = None

    def open(self, start: Callable[[], Any]) -> None:
        """Take the recorder of a run that `start` makes in the store."""
        try:
            self._recorder = start()
            self._facts["run_id"] = self._recorder.run_id
        except Exception as error:
            self._give_up(error)

    @property
    def run_id(self) -> str:
        """Number of the run in the store; empty where the store does not know it."""
        return str(self._facts.get("run_id", ""))

    @property
    def url(self) -> str:
        """Address of the run; empty where the store does not have it whole."""
        return "" if self.reason else str(self._recorder.url)

    @property
    def ui_command(self) -> str:
        """Command that starts the UI."""
        return "" if self.reason else str(self._recorder.ui_command)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return partial(self._call, name)

    def _call(self, name: str, *arguments: Any, **named: Any) -> None:
        if not self.reason:
            call = getattr(self._recorder, name)
            try:
                call(*arguments, **named)
                return
            except Exception as error:
                self._give_up(error)
        self._journal.add(name, arguments, named)

    def _give_up(self, error: Exception) -> None:
        self.reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        self._journal.begin(self._facts)
        log.warning(
            "the run goes on, but tracking does not take its records (%s); they are kept in %s",
            self.reason,
            self._journal.path,
        )
