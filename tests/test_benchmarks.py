"""Benchmarks run on tiny models, and that of the core notices sides that compute differently."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from entry_calls import SMALL_SMOKE

BENCHMARKS = Path(__file__).parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import core  # noqa: E402
import corpora  # noqa: E402
import rag_sides  # noqa: E402
import ranks  # noqa: E402
import reuse  # noqa: E402
from inputs import QUICK, read_inputs  # noqa: E402
from side_by_side import OURS_FP32, RECIPE, Times, run_in_turns  # noqa: E402


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def test_every_row_runs_on_tiny_models(cache, capsys):
    core.main(["--quick", "--rounds", "1", "--cache-dir", str(cache), *core.ROWS[:-1]])
    printed = capsys.readouterr().out
    table = [line for line in printed.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(core.ROWS) - 1
    assert all(line.count("x [") in (2, 3) for line in table[2:])
    assert printed.count("the same in fp32") == 2
    checked = printed.partition("Shown to be the same before:")[2].splitlines()
    assert len([line for line in checked if line.startswith("- ")]) == len(core.ROWS) - 1


@pytest.mark.slow
def test_memory_is_measured_in_a_process_a_side(cache):
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "core.py", "--quick", "memory", "--cache-dir", cache],
        capture_output=True,
        text=True,
        check=True,
    )
    row = next(line for line in done.stdout.splitlines() if line.startswith("| peak memory"))
    assert row.count("MiB") == 3


@pytest.mark.slow
def test_curves_of_both_precisions_are_printed(cache, capsys):
    core.main(["--quick", "--curve", "--steps", "20", "--cache-dir", str(cache)])
    printed = capsys.readouterr().out
    assert "| 1 to 10 |" in printed
    assert "| 11 to 20 |" in printed
    assert "largest distance" in printed
    assert "20 batches kept aside, in fp32: " in printed


@pytest.mark.slow
def test_reuse_changes_no_prediction(cache, monkeypatch, capsys):
    line = ["--runs", "2", "--weights", str(cache / "weights"), *SMALL_SMOKE, "tracking=none"]
    monkeypatch.setattr(sys, "argv", ["reuse.py", *line])
    reuse.main()
    printed = capsys.readouterr().out
    assert "predictions are the same bytes" in printed
    assert "| stage untrained |" in printed


@pytest.mark.slow
@pytest.mark.parametrize(
    "trained",
    [
        "trainer=contrastive",
        "trainer=reranker retriever/reranker=bi_encoder retriever.reranker.weights=random:bert",
        "trainer=distill model/generator=tiny_causal",
        "trainer=joint model/generator=tiny_causal",
        "trainer=end_to_end model/generator=tiny_causal trainer.passage_learning_rate=1e-2",
    ],
)
def test_what_trains_a_retriever_is_compared_on_two_seeds(trained, cache, monkeypatch, capsys):
    rate = "query_learning_rate" if "generator" in trained and "distill" not in trained else None
    line = f"{trained} trainer.max_steps=2 trainer.{rate or 'learning_rate'}=1e-2"
    shared = [*SMALL_SMOKE, "retriever.top_k=3", f"cache_dir={cache}"]
    call = ["ranks.py", "trainer=frozen", line, "--seeds", "1", "2", "--with", *shared]
    monkeypatch.setattr(sys, "argv", call)
    ranks.main()
    first, second = capsys.readouterr().out.split("trainer=frozen: 4 questions, ")
    assert first.count("trainer=frozen, seed ") == 2
    assert f"{line}, seed 2: recall " in second
    before, *_, after, gain = (row for row in second.splitlines() if row.startswith("  "))
    assert before != after
    for name in ("recall", "all_recall", "mrr", "ndcg"):
        found = [float(re.search(rf" {name} ([^ ]+) \[", row)[1]) for row in (before, after, gain)]
        assert found[2] == pytest.approx(found[1] - found[0], abs=0.0011)


@pytest.mark.slow
def test_corpora_of_two_sizes_give_a_plan(cache, tmp_path, capsys):
    line = ["--quick", "--cache-dir", str(cache), "--folder", str(tmp_path)]
    corpora.main([*line, "--indexes", "flat", "ivf_pq"])
    printed = capsys.readouterr().out
    assert printed.count("| `flat` |") == 3
    assert printed.count("| `ivf_pq` |") == 3
    flat = next(row for row in printed.splitlines() if row.startswith("| 600 | `flat` |"))
    assert flat.split(" | ")[7] == "1.000"
    assert "Embedding 3,000 passages" in printed
    assert "Reading and preparing 3,000 passages" in printed
    corpora.main([*line, "--indexes", "flat", "ivf_pq"])  # nothing is measured again
    assert capsys.readouterr().out == printed


def test_growth_is_fitted_by_a_power_and_a_line():
    sizes = [10, 100, 1000]
    assert corpora.fit_power(sizes, [2 * n**1.5 for n in sizes], 10_000) == pytest.approx(
        (1.5, 2_000_000)
    )
    assert corpora.fit_power(sizes, [0, 0, 0], 10_000) == (0, 0)
    assert corpora.fit_line(sizes, [7 + 3 * n for n in sizes], 10_000) == pytest.approx((3, 30_007))


def test_drawn_vectors_are_as_far_from_real_ones_as_those_are_apart():
    chance = np.random.default_rng(0)
    real = chance.normal(size=(500, 8)).astype(np.float32) * [4, 2, 1, 1, 0.5, 0.5, 0.1, 0.1]
    real /= np.linalg.norm(real, axis=1, keepdims=True)
    drawn = corpora.draw_vectors(real, np.arange(500, 1500), corpora.find_scale(real, chance))
    assert np.linalg.norm(drawn, axis=1) == pytest.approx(np.ones(1000), abs=1e-5)
    moved = np.linalg.norm(drawn - real[np.arange(500, 1500) % 500], axis=1)
    scores = real @ real.T - 2 * np.eye(500)
    apart = np.median(np.sqrt(2 - 2 * scores.max(1)))
    assert 0.5 < np.median(moved) / apart < 1.5
    np.testing.assert_array_equal(corpora.draw_vectors(real, np.arange(9), 1.0), real[:9])


@pytest.fixture
def sides(cache, tmp_path):
    inputs = read_inputs(None, QUICK, cache)
    bart = rag_sides.bart_folder(inputs, QUICK, tmp_path)
    return rag_sides.RagSides("rag_token", inputs, QUICK, bart, [RECIPE, OURS_FP32])


def test_sides_with_other_weights_are_noticed(sides):
    sides.check_training()
    sides.check_decoding()
    next(sides.theirs.generator.parameters()).data.mul_(1.1)
    with pytest.raises(AssertionError):
        sides.check_training()
    with pytest.raises(AssertionError, match="other answers"):
        sides.check_decoding()


def test_ratios_are_of_medians_and_spread_is_of_rounds():
    times = Times({"recipe": [4.0, 8.0, 6.0], "ours": [2.0, 2.0, 1.0]})
    assert times.ratio("recipe", "ours") == (3.0, 3.0, 5.0)
    assert times.ratio("tuned", "ours") is None


def test_sides_take_turns_on_the_same_batches():
    seen = []
    sides = {name: lambda turn, name=name: seen.append((name, turn)) for name in "ab"}
    times = run_in_turns(sides, 2)
    assert seen[2:] == [("a", 0), ("b", 0), ("b", 1), ("a", 1)]  # the first two warm up
    assert {name: len(each) for name, each in times.seconds.items()} == {"a": 2, "b": 2}
