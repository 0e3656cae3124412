"""Experiments on public data, scaled down: every stage, on a few records of a copy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from entry_calls import call

TINY = [
    *("model/generator=tiny_causal", "model.generator.max_prompt_tokens=1200", "tracking=none"),
    *("task.max_answer_tokens=4", "trainer.max_steps=2", "hydra.run.dir=run"),
]
FACTS = [f"Enzyme{n} joins part{n} of a cell. It is the {n}th of its kind." for n in range(6)]

QUESTIONS = [
    {
        "question": f"Which enzyme joins part{n}?",
        "answers": [f"Enzyme{n}"],
        "passage_ids": [f"p{n}"],
    }
    for n in range(6)
]
LABELS = [
    {
        "question": f"Does enzyme{n} join part{n}?",
        "answers": [("yes", "no", "maybe")[n % 3]],
        "passage_ids": [f"p{n}"],
        "long_answer": FACTS[n],
    }
    for n in range(6)
]
DOCUMENTS = [
    {"title": f"Part {n}", "document": " ".join(FACTS), "summaries": [FACTS[n], "An enzyme."]}
    for n in range(6)
]
RUNS: dict[str, tuple[list[dict[str, Any]], set[str], list[str]]] = {
    "bioasq": (QUESTIONS, {"f1", "exact_match", "recall"}, ["model=rag_token"]),
    "pubmedqa": (LABELS, {"accuracy", "macro_f1", "calibration_error"}, []),
    "scitldr": (DOCUMENTS, {"rouge1", "rouge2", "rougeL", "rougeL_mean"}, []),
    "cochrane_plain": (DOCUMENTS, {"rouge1", "rouge2", "rougeL", "rougeL_mean"}, []),
}
"""Records of a split, metrics, and what is chosen beside, by experiment."""


@pytest.mark.parametrize("name", RUNS)
def test_an_experiment_reads_a_copy_trains_and_is_scored(name, tmp_path, monkeypatch):
    records, metrics, chosen = RUNS[name]
    monkeypatch.chdir(tmp_path)
    folder = Path("my_data")
    folder.mkdir()
    for split in ("train", "validation", "test"):
        lines = [json.dumps({"id": f"{split} {n}", **row}) for n, row in enumerate(records)]
        (folder / f"{split}.jsonl").write_text("\n".join(lines), "utf-8")
    if "document" not in records[0]:
        passages = [json.dumps({"id": f"p{n}", "text": text}) for n, text in enumerate(FACTS)]
        (folder / "passages.jsonl").write_text("\n".join(passages), "utf-8")
    tiny = [word for word in TINY if name != "pubmedqa" or "max_answer_tokens" not in word]
    line = [f"+experiment={name}", "data.path=my_data", *tiny, *chosen]
    assert call(monkeypatch, *line) == 0
    found = json.loads(Path("run/metrics.json").read_text("utf-8"))
    for stage in ("untrained", "trained"):
        scored = found[stage]
        assert metrics <= scored.keys()
        assert all(scored[metric]["n"] == 6 for metric in metrics)
    answered = Path("run/predictions_trained.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(row)["id"] for row in answered] == [f"test {n}" for n in range(6)]
    assert Path("run/model").is_dir()
