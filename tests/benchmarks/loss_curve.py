"""What bf16 changes in what is learned: the loss of 100 steps, beside that of fp32.

Training amplifies any difference, so a third curve says how much of the distance that alone makes:
fp32 again, from adapters that are off by as much as rounding them to bf16 would.
"""

from __future__ import annotations

from statistics import mean

import torch
from inputs import Inputs, Sizes

SMOOTHED = 10
LEARNING_RATE = 5e-4
ROUNDING = 2.0**-9  # half of bf16's last place, relative


def losses(inputs: Inputs, sizes: Sizes, dtype: str, steps: int, nudge: float = 0.0) -> list[float]:
    """Training losses in nats a token, from the same start on the same batches.

    `nudge` is how far the start is moved, relative to each number of the adapters.
    """
    torch.manual_seed(13)
    model = inputs.run.model.load(
        inputs.run.task, inputs.with_dtype(dtype), encode_queries=False
    ).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    with torch.no_grad():
        for parameter in trained if nudge else ():
            parameter.mul_(1 + nudge * (2 * torch.rand_like(parameter) - 1))
    torch.manual_seed(13)  # dropout's numbers too are the same
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
    """Print the curves, each point a mean of ten steps; return bf16's largest distance."""
    wide = losses(inputs, sizes, "float32", steps)
    others = {
        "bf16": losses(inputs, sizes, "bfloat16", steps),
        "fp32 nudged": losses(inputs, sizes, "float32", steps, ROUNDING),
    }
    print("| steps | fp32 |", " | ".join(f"{name} | distance" for name in others), "|")
    print("|---|---|" + "---|---|" * len(others))
    worst = dict.fromkeys(others, 0.0)
    for first in range(0, steps, SMOOTHED):
        places = slice(first, first + SMOOTHED)
        cells = [f"{first + 1} to {min(first + SMOOTHED, steps)}", f"{mean(wide[places]):.4f}"]
        for name, each in others.items():
            distance = abs(mean(each[places]) / mean(wide[places]) - 1)
            worst[name] = max(worst[name], distance)
            cells += [f"{mean(each[places]):.4f}", f"{distance:.2%}"]
        print("|", " | ".join(cells), "|")
    for name, each in others.items():
        whole = abs(mean(each) / mean(wide) - 1)
        print(f"{name}: largest distance {worst[name]:.2%}, of the whole curve's mean {whole:.2%}")
    return worst["bf16"]
