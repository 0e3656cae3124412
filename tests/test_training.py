"""Trainers: what a validation must give, learning rates, and several processes."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys

import pytest
import torch

from rag_experiments.contracts import Example, Passage, Question, Runtime, Training, UserError
from rag_experiments.model.generator import Generator
from rag_experiments.model.query_encoder import QueryEncoder
from rag_experiments.model.rag_token import RagToken
from rag_experiments.task.prompt import Prompt
from rag_experiments.task.question_answering import QuestionAnswering
from rag_experiments.trainer.joint import Joint
from rag_experiments.trainer.loop import JointLoop, _arguments, fit
from rag_experiments.trainer.supervised import Supervised

PROMPT = Prompt(template="{context}\n{question}", closed_book="{question}")
TASK = QuestionAnswering(prompt=PROMPT, max_answer_tokens=4)


@pytest.fixture
def make_training(tmp_path):
    runtime = Runtime(cache_dir=tmp_path / "cache")
    option = RagToken(
        generator=Generator(weights="random:llama", kind="causal"),
        query_encoder=QueryEncoder(weights="random:bert"),
    )

    def make(validate=None) -> Training:
        model = option.load(TASK, runtime, encode_queries=True)
        example = Example(Question("q", "Why?", ("so",)), (Passage("p", "", "text"),), (0.0,))
        return Training(
            model=model,
            examples=[example] * 4,
            retrieve=None,  # type: ignore[arg-type]
            validate=validate,
            objective="f1",
            log=lambda *_: None,
            folder=tmp_path / "checkpoints",
            runtime=runtime,
        )

    return make


@pytest.mark.parametrize("scores", [{}, {"f1": float("nan")}])
def test_an_objective_that_validation_does_not_define_is_refused(make_training, scores):
    option = Supervised(max_steps=1, eval_strategy="steps", eval_steps=1)
    with pytest.raises(
        UserError, match=r"^task\.objective: 'f1' is not defined for any validation"
    ):
        option.fit(make_training(lambda: scores))


def test_a_training_with_nothing_to_choose_among_says_so(make_training, caplog):
    option = Supervised(max_steps=2, eval_strategy="steps", eval_steps=3)
    with caplog.at_level(logging.WARNING):
        result = option.fit(make_training(lambda: {"f1": 1.0}))
    assert "trainer.eval_steps 3 is more than the 2 steps of the training" in caplog.text
    assert result.best_step == 2


def test_joint_training_decays_what_others_decay_at_its_own_rates(make_training):
    option = Joint(learning_rate=1e-3, query_learning_rate=1e-5, weight_decay=0.1)
    training = make_training()
    model = training.model
    model.train_query_encoder(True)
    loop = JointLoop(option, training, _arguments(option, training, validated=False))
    groups = loop.create_optimizer().param_groups
    found = {
        id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]
    }
    assert len(found) == sum(p.requires_grad for p in model.parameters())
    query = {id(p) for p in model.query_network.parameters()}
    for name, parameter in model.named_parameters():
        rate = 1e-5 if id(parameter) in query else 1e-3
        plain = "norm" in name.lower() or name.endswith("bias")
        assert found[id(parameter)] == (rate, 0.0 if plain else 0.1), name


def test_checkpoints_are_gone_after_training(make_training):
    training = make_training(lambda: {"f1": 0.5})
    result = fit(Supervised(num_train_epochs=1.0), training, Supervised()._loop())
    assert result.best_score == 0.5
    assert not training.folder.exists()


@pytest.mark.slow
def test_two_processes_train_as_one_run(tmp_path, lay_store):
    """Joint training, whose query encoder both processes have to move alike."""
    lay_store(tmp_path / "outputs" / "mlflow.db")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port)]
    line = ["-m", "rag_experiments", "+experiment=smoke", "device=cpu", "precision=float32"]
    line += ["trainer.max_steps=-1", "trainer.num_train_epochs=1.0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    done = subprocess.run(
        [sys.executable, *launcher, *line],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("saved in ") == 1
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path}/outputs/mlflow.db")
    experiment = client.get_experiment_by_name("rag_experiments")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["train/steps"] == 2  # 16 questions, 4 in each of 2 processes
    (metrics,) = tmp_path.glob("outputs/runs/*/*/metrics.json")
    assert "trained" in json.loads(metrics.read_text())
    assert not list(tmp_path.glob("outputs/runs/*/*/checkpoints"))
    (trained,) = tmp_path.glob("outputs/runs/*/*/model/query_encoder/model.safetensors")
    from safetensors.torch import load_file

    start = load_file(tmp_path / "outputs/cache/weights/random-bert/model.safetensors")
    end = load_file(trained)
    assert any(not torch.equal(start[name], end[name]) for name in start)
