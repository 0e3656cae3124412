"""Trainers: what a validation must give, learning rates, and several processes."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from trainings import TASK, Killed, go_on

from rag_experiments import __main__ as entry
from rag_experiments.contracts import Example, Passage, Question, Runtime, Training, UserError
from rag_experiments.model.generator import Generator, Lora
from rag_experiments.model.query_encoder import QueryEncoder
from rag_experiments.model.rag_token import RagToken
from rag_experiments.trainer import loop
from rag_experiments.trainer.joint import Joint
from rag_experiments.trainer.loop import JointLoop, _arguments, find_checkpoint
from rag_experiments.trainer.supervised import Supervised


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
            weigh=model.weigh,
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


@pytest.fixture
def start(tmp_path):
    """Starts the training of a model of its own in a folder, to die after so many points of the
    curves, or validations, or writing a checkpoint; returns what it left."""
    runtime = Runtime(cache_dir=tmp_path / "cache")
    option = RagToken(
        generator=Generator(weights="random:llama", kind="causal", adapter=Lora(dropout=0.5)),
        query_encoder=QueryEncoder(weights="random:bert"),
    )
    examples = [
        Example(Question(f"q{i}", f"Why {i}?", (f"so {i}",)), (Passage("p", "", "text"),), (0.0,))
        for i in range(10)
    ]

    def train(folder, trainer, scores, *, points=99, validations=99):
        torch.manual_seed(runtime.seed)
        model = option.load(TASK, runtime, encode_queries=True)
        curves, validated = [], []

        def log(values, step):
            if len(curves) == points:
                raise Killed
            curves.append((step, values))

        def validate():
            validated.append(1)
            if len(validated) > validations:
                raise Killed
            torch.rand(3)  # whatever a validation draws
            return {"f1": scores[min(trainer_step(model), len(scores) - 1)]}

        def trainer_step(model):  # a score that depends on the weights alone
            weights = torch.cat([p.flatten() for p in model.parameters() if p.requires_grad])
            return int(weights.double().abs().sum() * 1e6) % len(scores)

        result = trainer.fit(
            Training(
                model=model,
                examples=examples,
                retrieve=None,  # type: ignore[arg-type]
                validate=validate if trainer.eval_strategy != "no" else None,
                objective="f1",
                weigh=model.weigh,
                log=log,
                folder=tmp_path / folder,
                runtime=runtime,
            )
        )
        return result, {n: p.detach().clone() for n, p in model.named_parameters()}, curves

    return train


SETTINGS = {"per_device_train_batch_size": 2, "num_train_epochs": 3.0, "learning_rate": 1e-2}
TRAINERS = {
    "epochs": Supervised(**SETTINGS, logging_steps=2, save_seconds=0),
    "steps": Supervised(
        **SETTINGS, logging_steps=3, save_seconds=0, eval_strategy="steps", eval_steps=4
    ),
    "no validation": Supervised(**SETTINGS, logging_steps=2, save_seconds=0, eval_strategy="no"),
    "accumulation": Supervised(
        **SETTINGS, logging_steps=1, save_seconds=0, gradient_accumulation_steps=2
    ),
    "part of an epoch": Supervised(**SETTINGS, max_steps=8, logging_steps=1, save_seconds=0),
    "evaluations alone": Supervised(**SETTINGS, logging_steps=2, save_seconds=999),
    "early stopping": Supervised(
        **SETTINGS, logging_steps=2, save_seconds=0, early_stopping_patience=1
    ),
}


@pytest.mark.parametrize("name", TRAINERS)
def test_a_training_that_is_cut_short_goes_on_to_the_same_weights(start, name):
    trainer, scores = TRAINERS[name], [0.1 * i for i in range(7)]
    result, weights, curves = start("whole", trainer, scores)
    assert len(curves) >= 6

    def attempt(number):
        # Each gets two points, or one validation, further than the checkpoint.
        by_points = number % 2 or trainer.eval_strategy == "no"
        limit = {"points": 2} if by_points else {"validations": 1}
        return start("cut", trainer, scores, **limit)

    (again, found, last), killed = go_on(attempt)
    assert killed >= 1
    assert again == result
    assert all(torch.equal(found[n], weights[n]) for n in weights)
    assert last == curves[len(curves) - len(last) :]
    # And where the training had ended before the process did.
    ended, found, none = start("cut", trainer, scores, points=0, validations=0)
    assert ended == result
    assert none == []
    assert all(torch.equal(found[n], weights[n]) for n in weights)


def test_a_checkpoint_that_was_cut_short_is_not_read(tmp_path):
    def checkpoint(step, best=None, state=True):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "rng_state.pth").write_bytes(b"")
        text = json.dumps({"best_model_checkpoint": best and str(tmp_path / best)})
        (folder / "trainer_state.json").write_text(text if state else text[:9])
        return folder

    assert find_checkpoint(tmp_path) is None
    whole = checkpoint(8, best="checkpoint-8")
    checkpoint(9, best="checkpoint-2")  # which is gone
    (checkpoint(10) / "trainer_state.json").unlink()
    checkpoint(11, state=False)
    (checkpoint(12) / "rng_state.pth").unlink()
    assert find_checkpoint(tmp_path) == whole
    assert list(tmp_path.iterdir()) == [whole]


def test_checkpoints_take_a_twentieth_of_the_time_at_most(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(loop.time, "monotonic", lambda: now[0])
    asked = loop.Checkpoints(SimpleNamespace(restore_window=lambda: None), seconds=10)
    asked.on_train_begin(None, None, None)
    written = []
    for step in range(1, 1000):
        now[0] += 1
        control = SimpleNamespace(should_log=step % 2 == 0, should_save=False)
        state = SimpleNamespace(global_step=step, max_steps=1000, epoch=step / 1000)
        asked.on_step_end(SimpleNamespace(eval_strategy="epoch"), state, control)
        if control.should_save:
            written.append(step)
            with asked.timed():
                now[0] += 3
    assert written[0] == 10
    assert len(written) == pytest.approx(now[0] / (3 * 20), abs=2)


@pytest.mark.slow
def test_two_processes_train_as_one_run(tmp_path, lay_store, monkeypatch):
    """Joint training, whose query encoder both processes have to move alike: with half the batch
    each, to where one process comes (a batch's loss is that of a token, so answers are as long)."""
    rows = {"passages": [{"id": f"p{n}", "text": f"Word {n} means {n * n}."} for n in range(8)]}
    for split, count in (("train", 8), ("validation", 2), ("test", 2)):
        rows[split] = [
            {
                "id": f"{split} {n}",
                "question": f"What is word {n} of {split}?",
                "answers": [f"n{n}"],
                "passage_ids": [f"p{n}"],
            }
            for n in range(count)
        ]
    (tmp_path / "data").mkdir()
    for name, lines in rows.items():
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / "data" / f"{name}.jsonl").write_text(text, "utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port)]
    line = [
        "+experiment=smoke",
        "device=cpu",
        "precision=float32",
        "data=folder",
        "data.path=../data",
    ]
    line += ["metrics=question_answering", "task.max_answer_tokens=4"]
    line += ["retriever.temperature=0.1"]  # a smaller one, as it is fitted, multiplies rounding
    line += ["test={samples: 0, rewordings: false, references: false}"]
    line += ["trainer.max_steps=-1", "trainer.num_train_epochs=1.0"]
    batch = "trainer.per_device_train_batch_size="
    alone, together = tmp_path / "alone", tmp_path / "together"
    alone.mkdir()
    lay_store(together / "outputs" / "mlflow.db")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    done = subprocess.run(
        [sys.executable, *launcher, "-m", "rag_experiments", *line, f"{batch}2"],
        cwd=together,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("saved in ") == 1
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{together}/outputs/mlflow.db")
    experiment = client.get_experiment_by_name("rag_experiments")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["train/steps"] == 2  # 8 questions, 2 in each of 2 processes
    assert not list(together.glob("outputs/runs/*/*/checkpoints"))

    monkeypatch.chdir(alone)
    monkeypatch.setattr(sys, "argv", ["rag_experiments", *line, f"{batch}4", "tracking=none"])
    with pytest.raises(SystemExit) as ended:
        entry.main()
    assert not ended.value.code
    one, two = (
        next(folder.glob("outputs/runs/*/*/metrics.json")).parent for folder in (alone, together)
    )
    curves = [
        [point for point in map(json.loads, (run / "curves.jsonl").open()) if "train/loss" in point]
        for run in (one, two)
    ]
    assert len(curves[0]) == 2
    for point, other in zip(*curves, strict=True):
        assert point == pytest.approx(other, rel=1e-3)
    for name in ("predictions_untrained.jsonl", "predictions_trained.jsonl"):
        answers = [
            [json.loads(row)["prediction"] for row in (run / name).open()] for run in (one, two)
        ]
        assert answers[0] == answers[1]

    from safetensors.torch import load_file

    folders = (one / "model/query_encoder", two / "model/query_encoder")
    begun, *ended_at = (
        torch.cat([tensor.flatten() for _, tensor in sorted(load_file(file).items())])
        for file in (
            together / "outputs/cache/weights/random-bert/model.safetensors",
            *(folder / "model.safetensors" for folder in folders),
        )
    )
    moved, apart = ended_at[0] - begun, ended_at[0] - ended_at[1]
    assert moved.norm() > 0
    # Adam makes a whole step of what rounding left of a gradient of zero, as most of a random
    # encoder's are nearly: 0.4 was seen. Moved by halves of the data, they would be as far apart as
    # from the start.
    assert apart.norm() < 0.7 * moved.norm()
