"""Runs recorded in MLflow."""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast
from urllib.parse import quote

from omegaconf import DictConfig, OmegaConf
from pydantic import Field

from rag_experiments.contracts import Option, Pruned, UserError
from rag_experiments.parameters import differing, flatten, mask
from rag_experiments.tracking import address
from rag_experiments.tracking.journal import Journal, Kept
from rag_experiments.tracking.mlflow_recorder import MlflowRecorder, legal_name
from rag_experiments.tracking.recorder import Recorder

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun

log = logging.getLogger(__name__)

_UI = "http://127.0.0.1:5000"
_VIEW = "mlflow.sharedViewState."
_BY_START = ["attributes.start_time"]


class Mlflow(Option):
    """Records runs in MLflow: a database file, a database, or a tracking server."""

    uri: str | None = None
    """Address of the store, e.g. `sqlite:///runs.db` or `http://host:5000`; null: the environment
    variable MLFLOW_TRACKING_URI, else the file `outputs/mlflow.db`."""

    experiment_name: Annotated[str, Field(min_length=1)] = "rag_experiments"
    """The runs that are compared with each other share it."""

    tags: dict[str, str] = Field(default_factory=dict)
    """Tags of your own for each run."""

    traces: Annotated[int, Field(ge=0)] = 20
    """Test questions, spread over the test, of which a trace shows passages, prompt, answer and
    scores; 0: none."""

    def problems(self) -> list[str]:
        """Return what is wrong with the address, before MLflow is imported."""
        source = "uri" if self.uri else "uri (from MLFLOW_TRACKING_URI)"
        problem = address.find_problem(self._uri())
        return [f"{source}: {mask(self._uri())!r} {problem}"] if problem else []

    def prepare(self) -> str:
        """Create the store and the experiment where they do not exist; return its id.

        Done before the jobs of a sweep start: two processes that create the same database at
        the same time crash.
        """
        from filelock import FileLock

        self._require_answer()
        database = address.sqlite_file(self._uri())
        if database is None:
            return self._experiment()
        database.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{database}.lock"):
            if not database.exists():
                self._create(database)
            return self._experiment()

    def _create(self, database: Path) -> None:
        """Make a database file whole before it has its name: MLflow cannot read half of one."""
        partial = database.with_name(f".{database.name}.partial")
        partial.unlink(missing_ok=True)
        self.model_copy(update={"uri": f"sqlite:///{partial}"})._client().search_experiments()
        partial.replace(database)

    @contextmanager
    def start(
        self,
        raw: DictConfig,
        output_dir: Path,
        name: str | None = None,
        sweep: str | None = None,
        choices: Mapping[str, str] | None = None,
    ) -> Iterator[Recorder]:
        """Record a run until the block is left.

        `raw` is the configuration before its interpolations are resolved; it is recorded as
        parameters and whole. `sweep` is the tag that runs to be compared share, `choices` the
        option chosen from each group. The run is marked FAILED, with the error, where an
        exception leaves the block or the process is asked to end, and KILLED, with the reason,
        where its search prunes it. What the store does not take
        is kept in `output_dir`, and said.
        """
        tags = {"output_dir": str(output_dir), **self._tags(raw)}
        if sweep:
            tags["sweep"] = sweep
        facts = {
            "tags": {key: mask(value) for key, value in tags.items()},
            "name": mask(name) if name else None,
        }
        journal = Journal(output_dir)
        journal.path.unlink(missing_ok=True)  # an earlier attempt's
        kept = Kept(journal, facts, self.traces)
        kept.open(lambda: self._begin(facts))
        end = ("FINISHED", "")
        try:
            kept.log_config(*_configuration(raw, choices or {}))
            yield cast(Recorder, kept)
        except Pruned as reason:
            kept.tag("pruned", str(reason))
            end = ("KILLED", "")
            raise
        except Exception as error:
            end = ("FAILED", f"{type(error).__name__}: {error}")
            raise
        except BaseException as error:  # Ctrl-C, SIGTERM, sys.exit
            end = ("FAILED", f"ended by {type(error).__name__}: {error}".rstrip(": "))
            raise
        finally:
            kept.end(*end)
            if kept.reason:
                self._retry(journal, kept.reason)

    def _begin(self, facts: Mapping[str, Any]) -> MlflowRecorder:
        """Make the run that a journal's facts describe, or find it again."""
        experiment = self.prepare()
        client = self._client()
        tags = facts["tags"]
        if "run_id" not in facts:
            self._replace_attempts(client, experiment, tags)
        number = facts.get("run_id") or (
            client.create_run(experiment, tags=tags, run_name=facts["name"]).info.run_id
        )
        page, command = self._page(experiment), self._command()
        recorder = MlflowRecorder(client, number, page, command)
        recorder.store, recorder.traces = self, self.traces
        return recorder

    def _replace_attempts(
        self, client: MlflowClient, experiment: str, tags: Mapping[str, str]
    ) -> None:
        """Close earlier attempts at a run whose process died, and take them out of the sweep, so
        that each of its jobs counts once."""
        clause = f"tags.output_dir = {_text(tags['output_dir'])}"
        for run in client.search_runs([experiment], clause):
            number = run.info.run_id
            if run.info.status == "RUNNING":
                client.set_tag(number, "error", "it ended without a word and was begun again")
                client.set_terminated(number, "FAILED")
            if "sweep" in tags and run.data.tags.get("sweep") == tags["sweep"]:
                client.set_tag(number, "earlier_attempt_of", tags["sweep"])
                client.delete_tag(number, "sweep")

    def _retry(self, journal: Journal, reason: str) -> None:
        """Try once more to record what was kept; else say how it is done by hand."""
        folder = journal.path.parent
        try:
            self.upload(folder)
            log.info("tracking answers again: what was kept is recorded")
        except Exception:
            again = shlex.join(["python", "-m", "rag_experiments.upload", str(folder)])
            log.warning("not all is recorded in %s (%s)", mask(self._uri()), mask(reason))
            log.warning("when it answers again:  %s", again)

    def upload(self, folder: Path) -> str:
        """Record what the store did not take while the run of a folder went on; return the run's
        address. Raises UserError where nothing is left to record."""
        journal = Journal(folder)
        if not journal.path.is_file():
            raise UserError(f"{folder}: nothing is left to record here")
        facts, _ = journal.read()
        recorder = self._begin(facts)
        if "run_id" not in facts:  # so that another try goes on with the same run
            journal.name_run(recorder.run_id)
        journal.replay(recorder)
        return recorder.url

    def settle(self, sweep: str, ended: Mapping[Path, str]) -> None:
        """Mark the runs of a sweep whose process died, which would seem to go on for ever.

        `ended` has the folder of each job that no process is at work on, and why the job failed;
        an empty text: it did not.
        """
        client = self._client()
        clause = f"tags.sweep = {_text(sweep)} and attributes.status = 'RUNNING'"
        reasons = {str(folder.absolute()): reason for folder, reason in ended.items()}
        for run in client.search_runs([self.prepare()], clause, max_results=50_000):
            reason = reasons.get(run.data.tags.get("output_dir", ""))
            if reason:
                client.set_tag(run.info.run_id, "error", mask(reason)[:5000])
            if reason is not None:
                client.set_terminated(run.info.run_id, "FAILED" if reason else "FINISHED")

    def _tags(self, raw: DictConfig) -> dict[str, str]:
        """Return the user's tags as they are written, so that `${oc.env:NAME}` stays so."""
        if "tracking" not in raw:
            return self.tags  # made in Python, not from a configuration
        written = flatten(raw)
        return {
            key: written.get(f"tracking.tags.{key}", "as written in config.yaml")
            for key in self.tags
        }

    def comparison(self, sweep: str) -> str:
        """Return the command and the address that open the runs of a sweep side by side."""
        client = self._client()
        experiment = self.prepare()
        clause = f"tags.sweep = {_text(sweep)}"
        runs = client.search_runs([experiment], clause, order_by=_BY_START)
        if not runs:
            return f"no run of the sweep {sweep} was tracked in {mask(self._uri())}"
        columns = _columns([run.data.params for run in runs], [run.data.metrics for run in runs])
        view = {"searchFilter": clause, "selectedColumns": columns, "runListHidden": False}
        # Undocumented, so a convenience: without it the same page shows its usual columns.
        key = legal_name(_VIEW + sweep)
        client.set_experiment_tag(experiment, key, json.dumps(view))
        page = self._page(experiment)
        chosen = quote(json.dumps([run.info.run_id for run in runs], separators=(",", ":")))
        number = quote(json.dumps([experiment]))
        site = page.partition("#")[0]
        command = self._command()
        return "\n".join(
            [
                *([f"compare the runs with:  {command}"] if command else []),
                f"  table and charts:     {page}/runs?workflowType=machine_learning"
                f"&viewStateShareKey={quote(key.removeprefix(_VIEW))}",
                f"  side by side:         {site}#/compare-runs?runs={chosen}&experiments={number}",
            ]
        )

    def find(self, folder: Path) -> MlflowRun | None:
        """Return the run that wrote a folder, the latest of several; None: none is known."""
        if self._is_missing():
            return None
        self._require_answer()
        client = self._client()
        experiment = client.get_experiment_by_name(self.experiment_name)
        if experiment is None:
            return None
        runs = client.search_runs(
            [experiment.experiment_id],
            f"tags.output_dir = {_text(str(folder))}",
            order_by=["attributes.start_time DESC"],
            max_results=1,
        )
        return runs[0] if runs else None

    @property
    def address(self) -> str:
        """The store's address, also where the environment or nothing names it."""
        return self._uri()

    def folders(self, name: str) -> list[Path]:
        """Return the folder of the run with an id, or those of the runs of a sweep by its tag, in
        the order of their start; none where the store knows no such name."""
        if self._is_missing():
            return []
        self._require_answer()
        client = self._client()
        experiments = [found.experiment_id for found in client.search_experiments()]
        key = "attributes.run_id" if re.fullmatch(r"[0-9a-f]{32}", name) else "tags.sweep"
        runs = client.search_runs(
            experiments, f"{key} = {_text(name)}", max_results=50_000, order_by=_BY_START
        )
        return [Path(run.data.tags["output_dir"]) for run in runs if "output_dir" in run.data.tags]

    def attach(self, folders: Sequence[Path], files: Sequence[Path], place: str) -> str:
        """Add files as artifacts, under a folder `place`, to the runs that wrote given folders.

        Returns the address of the first of these runs in the MLflow UI; empty: none was tracked.
        """
        address = ""
        for run in filter(None, map(self.find, folders)):
            for file in files:
                self._client().log_artifact(run.info.run_id, str(file), place)
            page = f"{self._page(run.info.experiment_id)}/runs/{run.info.run_id}"
            address = address or f"{page}/artifacts"
        return address

    def _is_missing(self) -> bool:
        """Whether the store is a file that does not exist; to ask it would create it."""
        database = address.sqlite_file(self._uri())
        return database is not None and not database.is_file()

    def _uri(self) -> str:
        default = f"sqlite:///{Path('outputs/mlflow.db').absolute()}"
        uri = self.uri or os.environ.get("MLFLOW_TRACKING_URI") or default
        head, _, path = uri.partition("sqlite:///")
        if not head and path and not path.startswith(("/", ":")):
            return f"sqlite:///{Path(path).absolute()}"
        return uri

    def _client(self) -> MlflowClient:
        # Nothing is sent anywhere but to the store.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        # A server that went away would hold a run for minutes; its records are kept instead.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
        from mlflow import MlflowClient

        logging.getLogger("alembic").setLevel(logging.WARNING)
        # What it logs with a traceback it raises as well.
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
        return MlflowClient(tracking_uri=self._uri())

    def _experiment(self) -> str:
        from mlflow.exceptions import MlflowException

        try:
            client = self._client()
            found = client.get_experiment_by_name(self.experiment_name)
            if found is None:
                return client.create_experiment(self.experiment_name, self._artifacts())
        except (MlflowException, ImportError, _database_error()) as error:
            # A driver's own words, without the statement.
            own = (getattr(each, "orig", None) for each in (error, error.__cause__))
            said = next(filter(None, own), error)
            reason = mask(" ".join(str(said).split()))[:200]
            raise UserError(
                f"tracking.uri: {mask(self._uri())!r}: {reason}; mend it, or choose another store "
                "with tracking.uri="
            ) from error
        if found.lifecycle_stage != "active":
            raise UserError(
                f"tracking.experiment_name: {self.experiment_name!r} was deleted in MLflow; choose "
                f"another name, or: mlflow experiments restore -x {found.experiment_id}"
            )
        return str(found.experiment_id)

    def _artifacts(self) -> str | None:
        """Return where files go: beside a database file, else where the server keeps them."""
        if not self._uri().startswith(address.DATABASES):
            return None
        database = address.sqlite_file(self._uri())
        folder = database.parent if database else Path("outputs").absolute()
        return (folder / "mlartifacts").as_uri()

    def _require_answer(self, seconds: float = 10) -> None:
        # MLflow itself tries a silent server, or database, again for minutes.
        reason, hint = address.find_silence(self._uri(), seconds)
        if reason:
            raise UserError(
                f"tracking.uri: nothing answers at {mask(self._uri())} ({mask(reason)[:200]}); "
                f"{hint}, or leave tracking.uri and MLFLOW_TRACKING_URI empty for a file"
            )

    def _page(self, experiment: str) -> str:
        uri = self._uri()
        site = mask(uri).rstrip("/") if uri.startswith("http") else _UI
        return f"{site}/#/experiments/{experiment}"

    def _command(self) -> str:
        if not self._uri().startswith(address.DATABASES):
            return ""
        masked = mask(self._uri())
        # As a comment, so that the line stays one that a shell takes.
        note = "" if masked == self._uri() else "  # your user and password in place of ***"
        return f"mlflow ui --backend-store-uri {shlex.quote(masked)}{note}"


def _configuration(raw: DictConfig, choices: Mapping[str, str]) -> tuple[dict[str, str], str]:
    """Return a configuration as parameters, and as a text."""
    parameters = {str(key): str(value) for key, value in choices.items()}
    return {**parameters, **flatten(raw)}, mask(OmegaConf.to_yaml(raw, resolve=False))


def _database_error() -> type[Exception]:
    from sqlalchemy.exc import SQLAlchemyError  # which the client of a server does without

    return SQLAlchemyError


def _text(value: str) -> str:
    """Return a text as MLflow's searches take it."""
    return '"' + value.replace('"', "") + '"' if "'" in value else f"'{value}'"


def _columns(parameters: Sequence[Mapping[str, str]], metrics: Sequence[Mapping[str, float]]):
    """Return the columns of a comparison: parameters that differ, and scores on the test set."""
    scores = sorted({key for run in metrics for key in run if key.startswith("test/")})
    bounds = ("_low", "_high")
    # Neither the ends of intervals nor the scores of a part of the test set.
    scores = [name for name in scores if name.count("/") == 1 and not name.endswith(bounds)]
    return [f"params.`{n}`" for n in differing(parameters)] + [
        f"metrics.`{n}`" for n in scores[:20]
    ]
