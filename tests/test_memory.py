"""The memory of this process."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest

from rag_experiments.runtime import memory


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux can start anew")
def test_the_peak_of_memory_is_that_since_the_last_reset():
    held = np.ones(200 * 2**20 // 8)
    high = memory.peak()
    del held
    assert memory.reset_peak()
    assert memory.peak() < high - 150
    held = np.ones(200 * 2**20 // 8)
    assert memory.peak() > high - 50
    assert held.all()


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc keeps what is freed")
def test_what_is_freed_between_blocks_that_live_on_is_given_back():
    def held() -> float:
        status = Path("/proc/self/status").read_text("utf-8")
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    # Below the size from which glibc maps blocks by themselves.
    blocks = [np.ones(12_000) for _ in range(3000)]
    kept = blocks[::100]
    high = held()
    del blocks
    memory.release()
    assert held() < high - 150
    assert len(kept) == 30


def test_what_a_control_group_leaves_is_below_its_limit(tmp_path):
    def write(**files):
        for name, text in files.items():
            (tmp_path / f"memory.{name}").write_text(text)

    assert memory._room(tmp_path) == math.inf
    write(max="1000\n", current="900\n", stat="anon 500\nfile 300\nkernel 100\n")
    assert memory._room(tmp_path) == 400
    write(max="max\n")
    assert memory._room(tmp_path) == math.inf
    assert 0 < memory.available() < 2**50
