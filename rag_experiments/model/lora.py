"""Low-rank adapters (Hu et al. 2021) of peft, put into a network and computed in fewer passes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.nn import functional

from rag_experiments.contracts import UserError
from rag_experiments.model.generator import Generator


def adapt(network: Any, option: Generator, adapted: Path | None) -> PeftModel:
    """Put new adapters into a network, as the option has them, or those of a folder that
    `LanguageModel.save` wrote. Raises UserError where it has fewer layers than adapters want."""
    with _passing_for_float32(network), warnings.catch_warnings():
        # peft still asks transformers by an older name; no user can do anything about it.
        warnings.filterwarnings("ignore", ".is_gradient_checkpointing. is deprecated")
        adapted_network = _adapt(network, option, adapted)
    for module in adapted_network.modules():
        if _is_plain(module):
            module.forward = MethodType(_forward, module)
    return adapted_network


def _is_plain(module: nn.Module) -> bool:
    """Whether a module is a matrix of plain numbers with one adapter, without dropout or bias."""
    return (
        type(module) is Linear
        and type(module.base_layer) is nn.Linear
        and not module.lora_variant
        and all(isinstance(dropout, nn.Identity) for dropout in module.lora_dropout.values())
        and all(matrix.bias is None for matrix in module.lora_B.values())
    )


def _forward(self: Any, x: Tensor, *arguments: Any, **others: Any) -> Tensor:
    """x W^T + b + s (x A^T) B^T, the last sum within the product.

    peft widens x to the adapter's type, scales and adds in passes of their own over all of the
    output: together a tenth of a training step.
    """
    if self.disable_adapters or self.merged or arguments or others:
        return type(self).forward(self, x, *arguments, **others)
    (name,) = self.active_adapters
    down, up, base = self.lora_A[name].weight, self.lora_B[name].weight, self.base_layer
    flat = x.reshape(-1, x.shape[-1])
    if torch.is_autocast_enabled(x.device.type):
        flat = flat.to(torch.get_autocast_dtype(x.device.type))  # once, for both products
    output = functional.linear(flat, base.weight, base.bias)
    narrow = functional.linear(flat, down)
    output = torch.addmm(output, narrow, (up * self.scaling[name]).t())
    return output.view(*x.shape[:-1], -1)


def _adapt(network: Any, option: Generator, adapted: Path | None) -> PeftModel:
    if option.quantization:
        network = prepare_model_for_kbit_training(
            network, use_gradient_checkpointing=option.gradient_checkpointing
        )
    if adapted is not None:
        return PeftModel.from_pretrained(network, str(adapted), is_trainable=True)
    assert option.adapter is not None
    count, last = network.config.num_hidden_layers, option.adapter.last_layers
    if last is not None and last > count:
        raise UserError(
            f"model.generator.adapter.last_layers: {last}, but the weights {option.weights!r} "
            f"have {count} layers; legal: 1 to {count}, or null for all"
        )
    targets = option.adapter.target_modules
    if last is not None and targets == "all-linear":
        # peft takes layers together with names only.
        head = network.get_output_embeddings()
        linear = [
            n for n, m in network.named_modules() if isinstance(m, nn.Linear) and m is not head
        ]
        targets = sorted({name.rpartition(".")[2] for name in linear})
    adapted_network = get_peft_model(
        network,
        LoraConfig(
            layers_to_transform=None if last is None else list(range(count - last, count)),
            r=option.adapter.rank,
            lora_alpha=option.adapter.alpha,  # type: ignore[arg-type]  # a factor, so a float does
            lora_dropout=option.adapter.dropout,
            target_modules=targets,
            task_type="SEQ_2_SEQ_LM" if option.kind == "encoder_decoder" else "CAUSAL_LM",
        ),
    )
    # The path of this machine would be written beside the adapters otherwise.
    for config in adapted_network.peft_config.values():
        config.base_model_name_or_path = option.weights
    return adapted_network


@contextmanager
def _passing_for_float32(network: nn.Module) -> Iterator[None]:
    """Show narrowed matrices as float32, for adapters are made in the type of their matrix."""
    narrow = {
        module: module.weight
        for module in network.modules()
        if isinstance(module, nn.Linear) and module.weight.dtype in (torch.bfloat16, torch.float16)
    }
    for module, weight in narrow.items():
        stand_in = torch.empty(1, device=weight.device).expand(weight.shape)  # takes no memory
        module.weight = nn.Parameter(stand_in, requires_grad=False)
    try:
        yield
    finally:
        for module, weight in narrow.items():
            module.weight = weight.requires_grad_(False)


def narrow_matrices(network: nn.Module, dtype: torch.dtype) -> None:
    """Keep matrices that adapters will freeze in the type that products run in.

    Autocast would cast them again at every step; the products are the same either way. An
    embedding that shares its matrix with the output layer stays as it is: states that begin
    in the narrow type would stay in it through all layers.
    """
    if dtype == torch.float32:
        return
    for module in network.modules():
        if isinstance(module, nn.Linear) and module.weight.is_floating_point():
            module.weight = nn.Parameter(module.weight.data.to(dtype), requires_grad=False)
