"""What bf16 changes in what is learned: the loss of 100 steps, beside that of fp32."""

from __future__ import annotations

import torch
from inputs import Inputs, Sizes

SMOOTHED = 10
LEARNING_RATE = 5e-4


def losses(inputs: Inputs, sizes: Sizes, dtype: str, steps: int) -> list[float]:
    """Training losses in nats a token, from the same start on the same batches."""
    torch.manual_seed(13)
    model = inputs.run.model.load(
        inputs.run.task, inputs.with_dtype(dtype), encode_queries=False
    ).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, LEARNING_RATE)
    found = []
    for step in range(steps):
        batch = model.collate(inputs.batches[step % len(inputs.batches)])
        loss = model(**batch)["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item())
    return found


def print_curves(inputs: Inputs, sizes: Sizes, steps: int = 100) -> float:
    """Print both curves, each point a mean of ten steps; return their largest relative distance."""
    curves = {dtype: losses(inputs, sizes, dtype, steps) for dtype in ("float32", "bfloat16")}
    print("| steps | fp32 | bf16 | distance |\n|---|---|---|---|")
    worst = 0.0
    for first in range(0, steps, SMOOTHED):
        wide, narrow = (
            sum(each[first : first + SMOOTHED]) / len(each[first : first + SMOOTHED])
            for each in (curves["float32"], curves["bfloat16"])
        )
        distance = abs(narrow - wide) / wide
        worst = max(worst, distance)
        last = min(first + SMOOTHED, steps)
        print(f"| {first + 1} to {last} | {wide:.4f} | {narrow:.4f} | {100 * distance:.2f}% |")
    mean = {dtype: sum(each) / steps for dtype, each in curves.items()}
    whole = abs(mean["bfloat16"] - mean["float32"]) / mean["float32"]
    print(f"largest distance {100 * worst:.2f}%, of the whole curve's mean {100 * whole:.2f}%")
    return worst
