"""The training loop: transformers' Trainer, with our loss, our validation and our checkpoints."""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    EarlyStoppingCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import PrinterCallback, TrainerState

from rag_experiments.contracts import Example, Question, Training, TrainingResult, UserError
from rag_experiments.runtime import interruption, memory, processes
from rag_experiments.trainer.gradient import GradientTrainer
from rag_experiments.trainer.joint import Joint

log = logging.getLogger(__name__)

WINDOW = "window.json"
"""File of a checkpoint with the loss since the last point of the training curve."""


class Loop(Trainer):
    """Trains on examples whose passages are fixed."""

    resumed: Path | None = None
    """Checkpoint from which the training goes on."""

    def __init__(self, option: GradientTrainer, training: Training, arguments: TrainingArguments):
        self.option = option
        self.training = training
        super().__init__(
            model=self.module(training),
            args=arguments,
            train_dataset=cast(Any, self.items()),
            eval_dataset=[],
            data_collator=self.collate,
            callbacks=[Curves(training)],
        )
        self.checkpoints = Checkpoints(self, option.save_seconds)
        self.add_callback(self.checkpoints)
        self.model_accepts_loss_kwargs = False
        self.remove_callback(PrinterCallback)
        if option.early_stopping_patience is not None and training.validate is not None:
            self.add_callback(EarlyStoppingCallback(option.early_stopping_patience))

    def module(self, training: Training) -> Any:
        """What is called with a batch and returns its loss."""
        return training.model

    def items(self) -> Sequence[Any]:
        """What batches are drawn from."""
        return self.training.examples

    def collate(self, examples: Sequence[Example]) -> dict[str, Any]:
        return self.training.model.collate(examples)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Score the model as it is on the validation questions."""
        assert self.training.validate is not None
        # Once for all processes: they must agree on the best checkpoint and on when to stop.
        found = processes.share(self.training.validate() if processes.is_first() else None)
        if math.isnan(found.get(self.training.objective, math.nan)):
            raise UserError(
                f"task.objective: {self.training.objective!r} is not defined for any validation "
                "question, so no checkpoint can be chosen by it; choose another objective, or "
                "trainer.eval_strategy=no"
            )
        scores = {f"eval_{name}": value for name, value in found.items()}
        self.log(scores)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, scores
        )
        return scores

    def save_weights(self, folder: Path) -> None:
        """Write what training changes."""
        self.training.model.save(folder)

    def load_weights(self, folder: Path) -> None:
        """Take over, in place, what `save_weights` wrote."""
        self.training.model.load_trained(folder)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        self.save_weights(folder)
        window = {"loss": float(self._tr_loss), "since": self._globalstep_last_logged}
        (folder / WINDOW).write_text(json.dumps(window), encoding="utf-8")

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        with self.checkpoints.timed():
            super()._save_checkpoint(model, trial)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.resumed = Path(resume_from_checkpoint)
        self.load_weights(self.resumed)

    def restore_window(self) -> None:
        """Take up the mean loss of the next point of the curve where the checkpoint left it."""
        if self.resumed is not None and processes.count() == 1:
            window = json.loads((self.resumed / WINDOW).read_text(encoding="utf-8"))
            self._tr_loss = torch.tensor(window["loss"], device=self.args.device)
            self._globalstep_last_logged = window["since"]

    def take_over(self, checkpoint: Path) -> bool:
        """Load the outcome of a training that had ended when it was cut short; False: it had not,
        and goes on."""
        state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        control: Any = state.stateful_callbacks["TrainerControl"]
        if not control["args"]["should_training_stop"]:
            return False
        self.state = state
        self.load_weights(Path(state.best_model_checkpoint or checkpoint))
        return True

    def _load_best_model(self) -> None:
        assert self.state.best_model_checkpoint is not None
        self.load_weights(Path(self.state.best_model_checkpoint))


class SearchingModel(nn.Module):
    """A RAG model that searches each batch with its query encoder as it is.

    One module, so that in several processes the gradients of the query encoder are averaged
    with the others.
    """

    def __init__(self, training: Training):
        super().__init__()
        self.rag = training.model
        self.retrieve = training.retrieve

    def forward(self, questions: Sequence[Question]) -> dict[str, Tensor]:
        """The loss of questions and of the passages found for them, as `RagModel.forward`."""
        rag = self.rag
        queries = rag.query_encoder.forward_texts([q.query for q in questions])
        examples = self.retrieve.examples(questions, queries.detach().float().cpu().numpy())
        batch = {name: x.to(rag.device) for name, x in rag.collate(examples).items()}
        batch["log_prior"] = self.log_prior(examples, queries)
        return rag(**batch)

    def log_prior(self, examples: Sequence[Example], queries: Tensor) -> Tensor:
        """log p(z|x) [b, n] of passages, by query vectors [b, dimension], with its gradient."""
        rows = []
        vectors = self.passage_vectors(examples)
        with torch.autocast(queries.device.type, enabled=False):  # 16 bits would even scores out
            for own, query in zip(vectors, queries, strict=True):
                if len(own) == 0:  # there is one prompt all the same, and it is sure
                    rows.append(query.new_zeros(1))
                    continue
                scores = own.to(query) @ query / self.retrieve.temperature
                rows.append(torch.log_softmax(scores, dim=0))
            return pad_sequence(rows, batch_first=True, padding_value=-torch.inf)

    def passage_vectors(self, examples: Sequence[Example]) -> list[Tensor]:
        """Vectors [n, dimension] of the passages of each example."""
        return [
            torch.as_tensor(self.retrieve.passage_vectors([p.id for p in example.passages]))
            for example in examples
        ]


class JointLoop(Loop):
    """Searches each batch with the query encoder as it is, and trains it through p(z|x)."""

    def module(self, training: Training) -> SearchingModel:
        return SearchingModel(training)

    def items(self) -> Sequence[Any]:
        return [example.question for example in self.training.examples]

    def collate(self, questions: Sequence[Question]) -> dict[str, Any]:  # type: ignore[override]
        return {"questions": list(questions)}

    def create_optimizer(self, *arguments: Any, **named: Any) -> torch.optim.Optimizer:
        """The usual optimizer, in which encoders have learning rates of their own."""
        optimizer = super().create_optimizer(*arguments, **named)
        for network, rate in self.own_rates():
            parameters = {id(p) for p in network.parameters()}
            for group in list(optimizer.param_groups):
                own = [p for p in group["params"] if id(p) in parameters]
                group["params"] = [p for p in group["params"] if id(p) not in parameters]
                if own:
                    optimizer.add_param_group({**group, "params": own, "lr": rate})
        return optimizer

    def own_rates(self) -> list[tuple[nn.Module, float]]:
        """Networks with a highest learning rate of their own."""
        rate = cast(Joint, self.option).query_learning_rate
        return [(self.training.model.query_network, rate)]


class Curves(TrainerCallback):
    """Hands the training curves on: `train/...` and `validation/...`."""

    def __init__(self, training: Training):
        self.training = training

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if args.eval_strategy == "steps" and args.eval_steps > state.max_steps:
            log.warning(
                "trainer.eval_steps %g is more than the %d steps of the training: the last "
                "weights alone are validated, and kept, whatever they score",
                args.eval_steps,
                state.max_steps,
            )

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        values = {}
        for name, value in (logs or {}).items():
            if name.startswith("eval_"):
                values[f"validation/{name.removeprefix('eval_')}"] = float(value)
            elif name in ("loss", "grad_norm", "learning_rate"):
                values[f"train/{name}"] = float(value)
        if values and state.is_world_process_zero:
            self.training.log(values, state.global_step)
        memory.trim()  # what batches of all sizes leave behind would grow by gigabytes


class Checkpoints(TrainerCallback):
    """Asks for checkpoints between those of the evaluations."""

    def __init__(self, loop: Loop, seconds: float):
        self.loop = loop
        self.seconds = seconds
        self.cost = 0.0
        self.latest = time.monotonic()

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Note when a checkpoint was written, and how long it took."""
        begin = time.monotonic()
        yield
        self.latest = time.monotonic()
        self.cost = self.latest - begin

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.latest = time.monotonic()
        self.loop.restore_window()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        interruption.check()
        last = state.global_step >= state.max_steps
        if args.eval_strategy == "epoch" and (last or float(state.epoch).is_integer()):
            return  # it follows the evaluation, which a checkpoint before it would leave out
        if last:
            control.should_save = True
        elif control.should_log:  # so that points of the curve are not cut in two
            wait = max(self.seconds, 19 * self.cost)
            control.should_save |= processes.share(time.monotonic() - self.latest >= wait)


def find_checkpoint(folder: Path) -> Path | None:
    """Return the newest whole checkpoint; those that a kill cut short are removed."""
    for path in sorted(folder.glob("checkpoint-*"), key=_step, reverse=True):
        if _is_whole(path):
            return path
        shutil.rmtree(path)
    return None


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _is_whole(checkpoint: Path) -> bool:
    ranks = range(processes.count())
    names = [f"rng_state_{rank}.pth" for rank in ranks] if len(ranks) > 1 else ["rng_state.pth"]
    try:  # the state is written last
        state = json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    best = state["best_model_checkpoint"]
    return all((checkpoint / n).is_file() for n in names) and (best is None or Path(best).is_dir())


def fit(option: GradientTrainer, training: Training, loop: type[Loop]) -> TrainingResult:
    """Train in place; the model ends with the weights of the best validation objective.

    Checkpoints are written to `training.folder`. Where one is there already, the training goes on
    from it, and ends with the weights that it would have had without the interruption.
    """
    validated = training.validate is not None and option.eval_strategy != "no"
    if not validated:
        log.warning("no validation: the last weights are kept, whatever they score")
    training.model.train_query_encoder("query_encoder" in option.trains)
    trainer = loop(option, training, _arguments(option, training, validated))
    found = processes.share(find_checkpoint(training.folder) if processes.is_first() else None)
    if found is not None:
        log.info("training goes on from the checkpoint of step %d", _step(found))
    if found is None or not trainer.take_over(found):
        trainer.train(resume_from_checkpoint=None if found is None else str(found))
    set_seed(training.runtime.seed)  # a training that went on has drawn fewer numbers
    state = trainer.state
    processes.wait()  # another process may be reading the best checkpoint still
    if not validated or state.best_metric is None:
        return TrainingResult(steps=state.global_step)
    return TrainingResult(
        steps=state.global_step,
        best_step=state.best_global_step,
        best_score=float(state.best_metric),
        scores=_scores(state),
    )


def _scores(state: TrainerState) -> dict[str, float]:
    """Return what the validation of the checkpoint that is kept gave."""
    found: dict[str, float] = {}
    for point in state.log_history:
        if point["step"] == state.best_global_step:
            found |= {k[len("eval_") :]: v for k, v in point.items() if k.startswith("eval_")}
    return found


def _arguments(option: GradientTrainer, training: Training, validated: bool) -> TrainingArguments:
    runtime = training.runtime
    strategy = option.eval_strategy if validated else "no"
    arguments = TrainingArguments(
        output_dir=str(training.folder),
        learning_rate=option.learning_rate,
        num_train_epochs=option.num_train_epochs,
        max_steps=option.max_steps,
        per_device_train_batch_size=option.per_device_train_batch_size,
        gradient_accumulation_steps=option.gradient_accumulation_steps,
        lr_scheduler_type=option.lr_scheduler_type,
        warmup_steps=option.warmup_ratio,  # a number below one is a share of the steps
        weight_decay=option.weight_decay,
        max_grad_norm=option.max_grad_norm,
        logging_steps=option.logging_steps,
        eval_strategy=strategy,
        eval_steps=option.eval_steps,
        save_strategy=strategy,
        save_steps=option.eval_steps or 500,
        save_total_limit=2,  # with 1, Trainer ends by removing the last one: what says it ended
        load_best_model_at_end=validated,
        restore_callback_states_from_checkpoint=True,  # how long early stopping has waited
        metric_for_best_model=training.objective if validated else None,
        greater_is_better=True if validated else None,
        bf16=runtime.dtype == "bfloat16",
        fp16=runtime.dtype == "float16",
        use_cpu=runtime.device == "cpu",
        dataloader_pin_memory=runtime.device.startswith("cuda"),
        remove_unused_columns=False,
        report_to="none",
        seed=runtime.seed,
        data_seed=runtime.seed,
    )
    # Batches are rows of all passages: they cannot be split over GPUs in one process. Several
    # GPUs are used with torchrun, one process each.
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1
    return arguments
