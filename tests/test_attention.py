"""Grouped attention against transformers' own eager attention."""

import importlib
import inspect

import pytest
import torch
from rag_reference import make_network
from torch import nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import eager_attention_forward

from rag_experiments.model.attention import FAMILIES, GROUPED, group_heads, grouped_attention


@pytest.mark.parametrize("family", FAMILIES)
def test_eager_attention_of_each_family_is_the_plain_one(family):
    module = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
    assert inspect.getsource(module.eager_attention_forward) == inspect.getsource(
        eager_attention_forward
    )


@pytest.mark.parametrize("queries", [1, 5], ids=["step", "prompt"])
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("groups", [1, 3])
def test_output_and_gradients_are_those_of_eager(queries, masked, groups):
    torch.manual_seed(1)
    module = nn.Module()
    module.num_key_value_groups = groups
    shapes = [(4, 2 * groups, queries, 8), (4, 2, 7, 8), (4, 2, 7, 8)]
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    hidden = torch.rand(4, 1, queries, 7) < 0.3 if masked else torch.zeros(1)
    mask = torch.zeros(hidden.shape).masked_fill(hidden, -1e9) if masked else None
    results = []
    for attend in (eager_attention_forward, grouped_attention):
        output = attend(module, *inputs, mask, scaling=0.3)[0]
        weight = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).view(output.shape)
        results.append((output, *torch.autograd.grad((output * weight).sum(), inputs)))
    for actual, expected in zip(*results[::-1], strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-7)


def test_it_takes_the_place_of_eager_alone_and_where_heads_share_keys():
    sizes = {"vocab_size": 16, "hidden_size": 16, "num_attention_heads": 4, "num_hidden_layers": 2}
    shared = LlamaConfig(num_key_value_heads=2, intermediate_size=16, **sizes)
    own = LlamaConfig(num_key_value_heads=4, intermediate_size=16, **sizes)
    assert group_heads("eager", shared) == GROUPED
    assert group_heads("sdpa", shared) == "sdpa"
    assert group_heads("eager", own) == "eager"
    shared.model_type = "gemma2"
    assert group_heads("eager", shared) == "eager"


def test_a_model_says_the_same_with_it():
    network = make_network("llama", width=24, heads=6, std=0.02).float()
    ids = torch.randint(0, 16, (3, 9))
    mask = torch.tensor([[1] * 9, [0] * 4 + [1] * 5, [0] + [1] * 8])
    logits = {}
    for attention in ("eager", GROUPED):
        network.set_attn_implementation(attention)
        with torch.no_grad():
            logits[attention] = network(input_ids=ids, attention_mask=mask).logits[mask.bool()]
    torch.testing.assert_close(logits[GROUPED], logits["eager"], rtol=1e-5, atol=1e-6)
