"""What a result depends on beside its configuration: seeds, device, precision, versions."""

from __future__ import annotations

import logging
import os
import platform
import random
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rag_experiments.contracts import Runtime, UserError

log = logging.getLogger(__name__)

LIBRARIES = (
    "rag-experiments",
    "torch",
    "transformers",
    "accelerate",
    "peft",
    "datasets",
    "faiss-cpu",
    "bm25s",
    "evaluate",
    "hydra-core",
    "mlflow",
    "numpy",
)


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch (all devices), and make torch's own choices repeatable."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.backends.cudnn.benchmark = False


def resolve_device(device: str) -> str:
    """Return the torch device to use; `auto` is the first accelerator, else the CPU.

    Raises UserError where the device that was asked for is not there.
    """
    import torch

    present = {"cpu": 1, "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0}
    present["mps"] = int(torch.backends.mps.is_available())
    present["xpu"] = torch.xpu.device_count() if torch.xpu.is_available() else 0
    if device == "auto":
        device = next(name for name in ("cuda", "xpu", "mps", "cpu") if present[name])
        log.info("device: %s, chosen by device=auto", device)
        return device
    kind, _, index = device.partition(":")
    if int(index or 0) >= present[kind]:
        there = ", ".join(f"{name} ({count})" for name, count in present.items() if count)
        raise UserError(f"device: {device!r} is not there; there are: {there}; or device=auto")
    if int(index or 0) > 0:
        # transformers' Trainer takes the first GPU that it sees, whatever it is told.
        raise UserError(
            f"device: {device!r}: a run takes the first GPU that it sees; choose another one with "
            f"CUDA_VISIBLE_DEVICES={index} (XPUs: ZE_AFFINITY_MASK) and device={kind}"
        )
    return device


def resolve_dtype(precision: str, device: str) -> str:
    """Return the type that matrix products run in, and say in the log why.

    `auto` is bfloat16 where the device has instructions for it, else float32: a CPU without
    them emulates bfloat16 and is slower than in float32.
    """
    if precision == "float16" and not device.startswith(("cuda", "xpu")):
        raise UserError(
            f"precision: 'float16' cannot be trained on {device}; legal there: auto, float32, "
            "bfloat16"
        )
    if precision != "auto":
        return precision
    fast, why = _fast_bfloat16(device)
    dtype = "bfloat16" if fast else "float32"
    log.info("precision: %s, chosen by precision=auto (%s)", dtype, why)
    return dtype


def resolve_runtime(cache_dir: Path, device: str, precision: str, seed: int) -> Runtime:
    """Return where and how to run, with `auto` resolved to what this machine has."""
    device = resolve_device(device)
    return Runtime(cache_dir, device, resolve_dtype(precision, device), seed)


def _fast_bfloat16(device: str) -> tuple[bool, str]:
    import torch

    kind = device.partition(":")[0]
    if kind == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        name = torch.cuda.get_device_name(device)
        return major >= 8, f"{name} has compute capability {major}.{minor}; bfloat16 needs 8.0"
    if kind == "xpu":
        fast = bool(torch.xpu.is_bf16_supported())
        return fast, f"the XPU {'has' if fast else 'lacks'} bfloat16"
    if kind == "mps":
        return False, "bfloat16 gains little on Apple GPUs"
    flags = sorted({"avx512_bf16", "amx_bf16"} & cpu_flags())
    if flags:
        return True, f"the CPU has {' and '.join(flags)}"
    return False, "the CPU has neither avx512_bf16 nor amx_bf16"


def cpu_flags() -> set[str]:
    """Return the instruction sets of the CPU as Linux names them; elsewhere what torch knows."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("flags"):
                return set(line.partition(":")[2].split())
    except OSError:
        import torch

        known = {"avx512_bf16": "_is_avx512_bf16_supported", "amx_bf16": "_is_amx_tile_supported"}
        return {flag for flag, name in known.items() if getattr(torch.cpu, name, bool)()}
    return set()


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that a result depends on."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def hardware() -> dict[str, str | int]:
    """Return the processor, its cores and threads, the memory in MiB, and the GPUs."""
    import torch

    summary: dict[str, str | int] = {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
    }
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
        summary["memory_mib"] = pages * size // 2**20
    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        summary[f"cuda:{i}"] = torch.cuda.get_device_name(i)
    return summary


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def git_commit(folder: Path | None = None) -> str | None:
    """Return the commit of the work tree around a folder (the current one), None without git.

    A commit with changes that are not committed ends in `-dirty`.
    """
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
