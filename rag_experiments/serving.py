"""A saved model as an MLflow model: `mlflow models serve -m FOLDER --env-manager local`.

Models from code: no object is pickled, and the folder's own code is a few lines that load it with
this package.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow.pyfunc import PythonModel

from rag_experiments.contracts import Prediction

if TYPE_CHECKING:
    from rag_experiments.pipeline import RagPipeline

CODE = "served_model.py"
"""Of a bundle: the code that MLflow loads it with."""

_CODE = '''\
"""Loads the folder that it lies in, as MLflow does when it serves a model."""

from pathlib import Path

from mlflow.models import set_model

from rag_experiments.serving import ServedModel

set_model(ServedModel(Path(__file__).parent))
'''


class ServedModel(PythonModel):
    """A saved model that answers questions."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.pipeline: RagPipeline | None = None
        self._lock = threading.Lock()  # requests come in threads, and answers are made one by one

    def load_context(self, context: Any) -> None:
        """Load the model; raise UserError where its parts do not belong together."""
        from rag_experiments.pipeline import RagPipeline

        self.pipeline = RagPipeline.load(self.folder)

    # MLflow takes hints for schemas: a request is {"inputs": ["..."]}. It has none that fits what
    # is returned.
    def predict(self, model_input: list[str]):  # type: ignore[override]
        """Answer each question, with the passages behind the answer and their scores."""
        from mlflow.exceptions import MlflowException

        from rag_experiments.contracts import Question

        if self.pipeline is None:
            raise RuntimeError("load_context comes first")
        empty = [row for row, text in enumerate(model_input) if not text.strip()]
        if empty:
            raise MlflowException.invalid_parameter_value(
                f"inputs[{empty[0]}]: empty; legal: the text of a question"
            )
        questions = [Question(str(row), text.strip()) for row, text in enumerate(model_input)]
        with self._lock:
            return [describe(each) for each in self.pipeline.predict(questions)]


def describe(prediction: Prediction) -> dict[str, Any]:
    """Return an answer and its passages, best first, as a server sends it.

    `abstained` says whether the answer is that there is none, where the model was trained for it.
    `prior` is p(z|x) of a passage; `posterior` p(z|x, y) given this answer, where the model
    defines it.
    """
    passages = []
    for i, passage_id in enumerate(prediction.passage_ids):
        passage: dict[str, Any] = {
            "id": passage_id,
            "text": prediction.passages[i],
            "score": prediction.retrieval_scores[i],
            "prior": prediction.prior[i],
        }
        if prediction.posterior:
            passage["posterior"] = prediction.posterior[i]
        passages.append(passage)
    answer: dict[str, Any] = {"answer": prediction.prediction, "passages": passages}
    if prediction.label_scores:
        answer["label_scores"] = prediction.label_scores
    if prediction.abstained is not None:
        answer["abstained"] = prediction.abstained
    return answer


def make_servable(folder: Path) -> None:
    """Add to a bundle what makes it an MLflow model: its code, `MLmodel` and requirements."""
    import mlflow.pyfunc
    from mlflow.models import Model

    with tempfile.TemporaryDirectory() as place:
        code = Path(place, CODE)
        code.write_text(_CODE, encoding="utf-8")
        saved = Path(place, "model")
        requirements = [f"rag-experiments=={version('rag-experiments')}"]
        mlflow.pyfunc.save_model(saved, python_model=str(code), pip_requirements=requirements)
        described = Model.load(saved)
        described.flavors["python_function"]["model_code_path"] = CODE  # not a path of this machine
        described.save(saved / "MLmodel")
        for file in saved.iterdir():
            shutil.move(file, folder / file.name)
