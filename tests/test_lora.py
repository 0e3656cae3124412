"""Adapters in fewer passes, against peft's own arithmetic."""

from types import SimpleNamespace

import pytest
import rag_reference
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from rag_experiments.model.generator import Generator, Lora
from rag_experiments.model.lora import adapt

IDS = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])


def make_network():
    return rag_reference.make_network("llama", width=24, heads=6, layers=3, attention_bias=True)


def change(network):
    """As training does: B is no longer zero."""
    torch.manual_seed(3)
    for name, parameter in network.named_parameters():
        if ".lora_" in name:
            parameter.data = torch.randn_like(parameter) * 0.3


def option(**adapter):
    return Generator(weights="a/b", kind="causal", adapter=Lora(rank=4, alpha=6, **adapter))


def both(dtype=torch.float64, **adapter):
    """The same adapters in the same network: ours, and as peft computes them."""
    ours = adapt(make_network().to(dtype), option(**adapter), None)
    config = ours.peft_config["default"]
    theirs = get_peft_model(make_network().to(dtype), config)
    for network in (ours, theirs):
        change(network)
        network.to(dtype)
    return ours, theirs


def run(network):
    logits = network(input_ids=IDS).logits
    weight = torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view(logits.shape)
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad((logits * weight).sum(), list(trained.values()))
    return logits, dict(zip(trained, gradients, strict=True))


def count_own(network):
    return sum("forward" in module.__dict__ for module in network.modules())


@pytest.mark.parametrize("last_layers", [None, 2])
def test_outputs_and_gradients_are_those_of_peft(last_layers):
    ours, theirs = both(last_layers=last_layers)
    assert count_own(ours) == 7 * (last_layers or 3)
    (logits, gradients), (expected, others) = run(ours), run(theirs)
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-12)
    assert gradients.keys() == others.keys()
    for name, gradient in gradients.items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(gradient, others[name], rtol=1e-9, atol=1e-11)


def test_mixed_precision_is_as_near_to_full_as_that_of_peft():
    ours, theirs = both(torch.float32)
    expected = run(theirs)[0]
    with torch.autocast("cpu", torch.bfloat16):
        errors = [float((run(n)[0] - expected).norm().detach()) for n in (ours, theirs)]
    assert 0 < errors[0] < 1.5 * errors[1]


def test_adapters_can_be_left_out_merged_and_unloaded():
    ours, _ = both()
    plain = make_network().double()(input_ids=IDS).logits
    with ours.disable_adapter():
        torch.testing.assert_close(ours(input_ids=IDS).logits, plain)
    before = ours(input_ids=IDS).logits
    assert not torch.allclose(before, plain)
    ours.merge_adapter()
    torch.testing.assert_close(ours(input_ids=IDS).logits, before)
    ours.unmerge_adapter()
    torch.testing.assert_close(ours.unload()(input_ids=IDS).logits, plain)


def test_what_is_saved_is_what_peft_loads(tmp_path):
    ours, _ = both()
    ours.save_pretrained(tmp_path)
    theirs = PeftModel.from_pretrained(make_network().double(), str(tmp_path))
    again = adapt(make_network().double(), option(), tmp_path)
    expected = ours(input_ids=IDS).logits
    assert count_own(again) == 21
    for network in (theirs, again):
        torch.testing.assert_close(
            network.double()(input_ids=IDS).logits, expected, rtol=1e-6, atol=1e-6
        )


def test_dropout_and_variants_are_left_to_peft():
    ours, _ = both(dropout=0.1)
    assert count_own(ours) == 0
    from rag_experiments.model.lora import _is_plain

    changed = get_peft_model(
        make_network(), LoraConfig(r=2, target_modules=["q_proj"], use_dora=True)
    )
    assert not any(map(_is_plain, changed.modules()))
    assert not _is_plain(nn.Linear(2, 2))
    assert not _is_plain(SimpleNamespace())
