"""Seeds, device, precision and versions."""

from __future__ import annotations

import logging
import random
import subprocess

import numpy as np
import pytest
import torch

from rag_experiments.contracts import UserError
from rag_experiments.runtime import reproducibility


def test_the_same_seed_gives_the_same_numbers():
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(1))

    reproducibility.seed_everything(3)
    first = draw()
    reproducibility.seed_everything(3)
    assert draw() == first
    reproducibility.seed_everything(4)
    assert draw() != first


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert reproducibility.resolve_device("auto") == "cuda"
    assert reproducibility.resolve_device("cuda:0") == "cuda:0"
    with pytest.raises(UserError, match=r"'cuda:1': .* CUDA_VISIBLE_DEVICES=1 .* device=cuda"):
        reproducibility.resolve_device("cuda:1")
    assert reproducibility.resolve_device("cpu") == "cpu"
    with pytest.raises(UserError, match=r"device: 'cuda:2' is not there; there are: cpu \(1\), cu"):
        reproducibility.resolve_device("cuda:2")


@pytest.mark.parametrize(
    ("flags", "dtype", "why"),
    [
        ({"avx512_bf16", "sse"}, "bfloat16", "the CPU has avx512_bf16"),
        ({"amx_bf16", "avx512_bf16"}, "bfloat16", "the CPU has amx_bf16 and avx512_bf16"),
        ({"avx512f", "avx2"}, "float32", "the CPU has neither avx512_bf16 nor amx_bf16"),
    ],
)
def test_precision_follows_the_flags_of_the_cpu_and_is_said(monkeypatch, caplog, flags, dtype, why):
    monkeypatch.setattr(reproducibility, "cpu_flags", lambda: flags)
    with caplog.at_level(logging.INFO):
        assert reproducibility.resolve_dtype("auto", "cpu") == dtype
    assert why in caplog.text
    assert reproducibility.resolve_dtype("float16", "cuda") == "float16"
    with pytest.raises(UserError, match="precision: 'float16' cannot be trained on cpu; legal"):
        reproducibility.resolve_dtype("float16", "cpu")


@pytest.mark.parametrize(("major", "dtype"), [(7, "float32"), (8, "bfloat16"), (9, "bfloat16")])
def test_precision_follows_the_capability_of_the_gpu(monkeypatch, major, dtype):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (major, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    assert reproducibility.resolve_dtype("auto", "cuda:0") == dtype


def test_flags_agree_with_torch():
    # torch asks the processor itself, we read what the system says of it
    known = torch.cpu._is_avx512_bf16_supported()
    assert ("avx512_bf16" in reproducibility.cpu_flags()) == known


def test_versions_and_hardware_are_complete():
    versions = reproducibility.versions()
    assert versions["torch"].startswith(torch.__version__.split("+")[0])
    assert "rag-experiments" in versions
    assert reproducibility.hardware()["cores"] >= 1


def test_the_commit_of_a_work_tree(tmp_path):
    assert reproducibility.git_commit(tmp_path) is None

    def git(*arguments: str) -> str:
        settings = ["-c", "user.name=a", "-c", "user.email=a@b"]
        command = ["git", *settings, *arguments]
        return subprocess.run(
            command, cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout.strip()

    git("init")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-m", "x")
    commit = git("rev-parse", "HEAD")
    assert reproducibility.git_commit(tmp_path) == commit
    (tmp_path / "a").write_text("2")
    assert reproducibility.git_commit(tmp_path) == f"{commit}-dirty"
