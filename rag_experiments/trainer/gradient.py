"""Settings that all trainers by gradient descent share; names are transformers' own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from rag_experiments.contracts import Option, Part, Training, TrainingResult

if TYPE_CHECKING:
    from rag_experiments.trainer.loop import Loop


class GradientTrainer(Option):
    """Base of the trainers that run on transformers' `Trainer`."""

    trains: ClassVar[frozenset[Part]] = frozenset({"generator"})

    learning_rate: Annotated[float, Field(gt=0)] = 5e-4
    """Highest learning rate of AdamW."""
    num_train_epochs: Annotated[float, Field(gt=0)] = 2.0
    """Passes over the training questions."""
    max_steps: Annotated[int, Field(ge=-1)] = -1
    """Optimizer steps; overrides num_train_epochs where it is positive."""
    per_device_train_batch_size: Annotated[int, Field(ge=1)] = 8
    """Questions in a batch; each brings up to top_k passages."""
    gradient_accumulation_steps: Annotated[int, Field(ge=1)] = 1
    """Batches before an optimizer step."""
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear"
    """How the learning rate goes down."""
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the steps in which the learning rate goes up."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Of AdamW."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Gradients are scaled down to this norm."""
    eval_strategy: Literal["epoch", "steps", "no"] = "epoch"
    """When the validation questions are answered and a checkpoint is written."""
    eval_steps: Annotated[int, Field(ge=1)] | None = None
    """Steps between two evaluations, for eval_strategy: steps."""
    early_stopping_patience: Annotated[int, Field(ge=1)] | None = None
    """Evaluations without a better objective before training stops; null never stops."""
    logging_steps: Annotated[int, Field(ge=1)] = 5
    """Steps between two points of the training curve."""
    save_seconds: Annotated[float, Field(ge=0)] = 60.0
    """Seconds between two checkpoints from which an interrupted training goes on, beside those
    of the evaluations; written with a point of the curve, and never for more than a twentieth of
    the time."""

    @model_validator(mode="after")
    def _check(self) -> GradientTrainer:
        if self.eval_strategy == "steps" and self.eval_steps is None:
            raise ValueError("eval_steps: null, but eval_strategy is 'steps'; give a number")
        if self.eval_strategy != "steps" and self.eval_steps is not None:
            raise ValueError(
                f"eval_steps: {self.eval_steps}, but eval_strategy is {self.eval_strategy!r}; "
                "set eval_strategy=steps or leave eval_steps out"
            )
        if self.eval_strategy == "no" and self.early_stopping_patience is not None:
            raise ValueError(
                f"early_stopping_patience: {self.early_stopping_patience}, but eval_strategy is "
                "'no', so nothing would stop; set eval_strategy=epoch"
            )
        return self

    def fit(self, training: Training) -> TrainingResult:
        """Train the model in place and leave it with its best weights."""
        from rag_experiments.trainer.loop import fit

        return fit(self, training, self._loop())

    def _loop(self) -> type[Loop]:
        from rag_experiments.trainer.loop import Loop

        return Loop
