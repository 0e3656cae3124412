"""What bf16 changes in what is learned: the loss of 100 steps, beside that of fp32.

A batch's loss is rounded as well, by one or two percent of a batch of two questions before anything
is learned. What was learned apart from that is the loss on questions that were kept aside, which
fp32 computes for both.
"""

from __future__ import annotations

from statistics import mean

import torch
from inputs import Inputs
from torch import Tensor

SMOOTHED = 10
HELD_OUT = 20
"""Batches at the end that nothing is trained on."""
LEARNING_RATE = 5e-4


def train(inputs: Inputs, dtype: str, steps: int) -> tuple[list[float], list[Tensor]]:
    """Training losses in nats a token, from the same start on the same batches, and the adapters
    at the end."""
    torch.manual_seed(13)
    model = inputs.run.model.load(
        inputs.run.task, inputs.with_dtype(dtype), encode_queries=False
    ).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    torch.manual_seed(13)  # dropout's numbers too are the same
    optimizer = torch.optim.AdamW(trained, LEARNING_RATE)
    found = []
    for step in range(steps):
        batch = model.collate(inputs.batches[step % (len(inputs.batches) - HELD_OUT)])
        loss = model(**batch)["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item())
    return found, [p.detach().clone() for p in trained]


def held_out_losses(inputs: Inputs, adapters: list[list[Tensor]]) -> list[float]:
    """Loss in fp32 on the batches that were kept aside, with each of several adapters."""
    model = inputs.run.model.load(
        inputs.run.task, inputs.with_dtype("float32"), encode_queries=False
    ).eval()
    trained = [p for p in model.parameters() if p.requires_grad]
    batches = [model.collate(batch) for batch in inputs.batches[-HELD_OUT:]]
    found = []
    with torch.no_grad():
        for own in adapters:
            for parameter, value in zip(trained, own, strict=True):
                parameter.copy_(value)
            found.append(mean(model(**batch)["loss"].item() for batch in batches))
    return found


def print_curves(inputs: Inputs, steps: int = 100) -> float:
    """Print the curves, each point a mean of ten steps; return bf16's largest distance."""
    wide, wide_adapters = train(inputs, "float32", steps)
    narrow, narrow_adapters = train(inputs, "bfloat16", steps)
    print("| steps | fp32 | bf16 | distance |\n|---|---|---|---|")
    worst = 0.0
    for first in range(0, steps, SMOOTHED):
        places = slice(first, first + SMOOTHED)
        distance = abs(mean(narrow[places]) / mean(wide[places]) - 1)
        worst = max(worst, distance)
        print(
            f"| {first + 1} to {min(first + SMOOTHED, steps)} | {mean(wide[places]):.4f} "
            f"| {mean(narrow[places]):.4f} | {distance:.2%} |"
        )
    whole = abs(mean(narrow) / mean(wide) - 1)
    print(f"largest distance {worst:.2%}, of the whole curve's mean {whole:.2%}")
    ours, theirs = held_out_losses(inputs, [narrow_adapters, wide_adapters])
    print(
        f"{HELD_OUT} batches kept aside, in fp32: {theirs:.4f} after fp32, {ours:.4f} after bf16, "
        f"distance {abs(ours / theirs - 1):.2%}"
    )
    return worst
