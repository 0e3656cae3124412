"""A run under way, as MLflow keeps it."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_experiments.parameters import mask
from rag_experiments.tracking.recorder import Recorder

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from rag_experiments.tracking.mlflow import Mlflow

log = logging.getLogger(__name__)


class MlflowRecorder(Recorder):
    store: Mlflow

    def __init__(self, client: MlflowClient, run_id: str, page: str, command: str):
        self._client = client
        self.run_id = run_id
        self.url = f"{page}/runs/{run_id}"
        self.ui_command = command

    def tag(self, name: str, value: str) -> None:
        self._client.set_tag(self.run_id, name, mask(value)[:5000])

    def log_config(self, parameters: Mapping[str, str], text: str) -> None:
        """Record each key as a parameter, and the whole as a file."""
        from mlflow.entities import Param

        entities = [Param(legal_name(key), value) for key, value in parameters.items()]
        for i in range(0, len(entities), 100):
            self._client.log_batch(self.run_id, params=entities[i : i + 100])
        self.log_text(text, "config.yaml")

    def end(self, status: str, error: str) -> None:
        """Mark the run as FINISHED, KILLED or FAILED, with what failed."""
        if error:
            self.tag("error", error)
        self._client.set_terminated(self.run_id, status)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        entities = [Metric(legal_name(k), float(v), now, step or 0) for k, v in metrics.items()]
        for i in range(0, len(entities), 1000):
            self._client.log_batch(self.run_id, metrics=entities[i : i + 1000])

    def log_text(self, text: str, name: str) -> None:
        self._client.log_text(self.run_id, text, name)

    def log_environment(self, facts: Mapping[str, Any]) -> None:
        self._client.log_dict(self.run_id, dict(facts), "environment.json")
        if facts.get("git_commit"):
            self.tag("mlflow.source.git.commit", str(facts["git_commit"]))

    def log_data(self, name: str, fingerprint: str, sizes: Mapping[str, int]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        entity = Dataset(
            name=name, digest=fingerprint[:36], source_type="code", source=json.dumps({"tags": {}})
        )
        tags = [InputTag(key, str(value)) for key, value in sizes.items()]
        tags.append(InputTag("mlflow.data.context", "training and evaluation"))
        self._client.log_inputs(self.run_id, [DatasetInput(entity, tags)])

    def log_predictions(self, rows: Sequence[Mapping[str, Any]], name: str = "predictions") -> None:
        columns = dict.fromkeys(key for row in rows for key in row)
        table = {column: [row.get(column) for row in rows] for column in columns}
        self._client.log_table(self.run_id, table, f"{name}.json")

    def log_model(self, folder: Path, name: str) -> None:
        from mlflow.entities import LoggedModelOutput

        model = self._client.create_logged_model(self._experiment, name, self.run_id)
        self._client.log_model_artifacts(model.model_id, str(folder))
        self._client.finalize_logged_model(model.model_id, "READY")
        self._client.log_outputs(self.run_id, [LoggedModelOutput(model.model_id, step=0)])

    def log_traces(self, rows: Sequence[Mapping[str, Any]]) -> None:
        from rag_experiments.tracking import traces

        # Else each would be tried for minutes; it answered before, so it may be busy.
        self.store._require_answer(seconds=60)
        try:
            answered = traces.read(rows)
            traces.log_traces(self.store.address, self._experiment, self.run_id, answered)
        except Exception as error:  # a store can be without traces, and they repeat the folder
            reason = mask(" ".join(str(error).split()))[:200]
            log.warning("no traces of this run: %s: %s", type(error).__name__, reason)

    @property
    def _experiment(self) -> str:
        return str(self._client.get_run(self.run_id).info.experiment_id)


def legal_name(name: str) -> str:
    """Return a name that MLflow takes: `recall@5` is recorded as `recall_at_5`."""
    return re.sub(r"[^\w\-. /:]", "_", name.replace("@", "_at_"))[:250]
