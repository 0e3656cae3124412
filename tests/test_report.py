"""Runs compared: pooled seeds, tests against scipy, what to try next, the pages."""

from __future__ import annotations

import csv
import json
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hydra.types import RunMode
from omegaconf import OmegaConf
from scipy import stats

from rag_experiments import __main__ as entry
from rag_experiments.composition.composer import Composer
from rag_experiments.contracts import UserError
from rag_experiments.report import __main__ as command_line
from rag_experiments.report import advice, figures, page, questions, rules, runs, writing
from rag_experiments.report.comparison import ALL_PAIRS, compare, difference, estimate
from rag_experiments.report.settings import Setting, pool
from rag_experiments.sweep import outcomes
from rag_experiments.tracking.mlflow import Mlflow

BASE = ["model=concat", "trainer=frozen", "tracking=none"]


@pytest.fixture(scope="session")
def composer():
    return Composer()


def write_run(
    composer: Composer,
    folder: Path,
    overrides: Sequence[str],
    scores: Sequence[float],
    *,
    untrained: Sequence[float] | None = None,
    closed_book: Sequence[float] | None = None,
    gold: Sequence[float] | None = None,
    bins: Sequence[str] = (),
    found: bool = True,
    names: Sequence[str] | None = None,
    question: str = "Which gene?",
    metric: str = "f1",
) -> Path:
    """Write what a finished run leaves in its folder, with a real configuration."""
    composed = composer.compose([*BASE, *overrides], RunMode.RUN)
    settings = OmegaConf.masked_copy(composed, [k for k in composed if k != "hydra"])
    (folder / ".hydra").mkdir(parents=True)
    OmegaConf.save(settings, folder / ".hydra" / "config.yaml")
    hydra = OmegaConf.create({"hydra": {}})
    hydra.hydra.runtime = {
        "choices": OmegaConf.to_container(composed.hydra.runtime.choices),
        "config_sources": [],
        "output_dir": str(folder),
    }
    hydra.hydra.overrides = {"task": [*BASE, *overrides]}
    OmegaConf.save(hydra, folder / ".hydra" / "hydra.yaml")
    names = names or [f"q{i}" for i in range(len(scores))]
    final = "untrained" if untrained is None else "trained"
    stages = {final: scores, "closed_book": closed_book, "gold": gold}
    if untrained is not None:
        stages["untrained"] = untrained
    metrics: dict = {"gold_source": "annotated", "seconds": {"test": 3.0}}
    for stage, values in stages.items():
        if values is None:
            continue
        rows = [
            {
                "id": name,
                "question": question,
                "prediction": f"answer of {score}",
                "answers": ["LIG1", "ligase"],
                "passage_ids": ["p1", "p2"],
                "gold_passage_ids": ["p2"] if found else ["p3"],
                metric: score,
                "answer_in_context": float(found),
            }
            for name, score in zip(names, values, strict=True)
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"predictions_{stage}.jsonl").write_text(text)
        mean = float(np.mean(values))
        part = {"value": mean, "low": mean, "high": mean, "n": len(rows)}
        metrics[stage] = {metric: part, "answer_in_context": {**part, "value": float(found)}}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    outcomes.Outcome(metric, outcomes.Score(0.5), None, overrides=tuple(overrides)).write(folder)
    if bins:
        lines = [
            json.dumps({"id": n, "bin": b, "question_type": ("what", "who")[i % 2]})
            for i, (n, b) in enumerate(zip(names, bins, strict=True))
        ]
        (folder / "errors.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def settings_of(*folders: Path) -> list[Setting]:
    return pool([runs.read(folder) for folder in folders])[0]


# Statistics -------------------------------------------------------------------------------------


def test_runs_that_differ_in_the_seed_alone_are_one_setting(composer, tmp_path):
    folders = [
        write_run(composer, tmp_path / f"{r}{seed}", [f"retriever={r}", f"seed={seed}"], [s, 1.0])
        for r, seed, s in (("bm25", 1, 0.0), ("none", 1, 0.5), ("bm25", 2, 1.0))
    ]
    found = compare([runs.read(folder) for folder in folders])
    assert [setting.label for setting in found.settings] == ["retriever=bm25", "retriever=none"]
    assert found.names == ("retriever",)  # what follows from the choice is not said again
    bm25, none = found.settings
    assert bm25.seeds == ("1", "2")
    assert {name: list(s) for name, s in bm25.scores("f1", "untrained").items()} == {
        "q0": [0.0, 1.0],
        "q1": [1.0, 1.0],
    }
    assert estimate(bm25, "f1", "untrained").value == pytest.approx(0.75)
    # Averaged over seeds both settings score 0.5 and 1 on the two questions.
    assert difference(bm25, none, "f1").ties == 2


def test_a_run_repeated_with_its_seed_counts_once(composer, tmp_path):
    folders = [
        write_run(composer, tmp_path / str(i), [], [score]) for i, score in enumerate((0, 1))
    ]
    found = compare([runs.read(folder) for folder in folders])
    assert estimate(found.settings[0], "f1", "untrained").value == 1
    assert any("repeated" in note and str(folders[0]) in note for note in found.notes)


def test_keys_that_an_older_version_lacks_make_no_setting(composer, tmp_path):
    old, new = (write_run(composer, tmp_path / name, [], [0.5]) for name in ("old", "new"))
    config = OmegaConf.load(old / ".hydra" / "config.yaml")
    del config.retriever.b
    OmegaConf.save(config, old / ".hydra" / "config.yaml")
    settings, names, notes = pool([runs.read(old), runs.read(new)])
    assert len(settings) == 1
    assert names == []
    assert any("retriever.b" in note for note in notes)


def test_p_values_are_those_of_scipy_with_holms_correction(composer, tmp_path):
    generator = np.random.default_rng(3)
    scores = [generator.random(9) + shift for shift in (0, 0.1, 0.4)]
    found = compare(
        [
            runs.read(write_run(composer, tmp_path / str(i), [f"retriever.top_k={i + 1}"], each))
            for i, each in enumerate(scores)
        ]
    )
    pairs = ((0, 1), (0, 2), (1, 2))
    raw = [
        stats.permutation_test(
            (scores[b], scores[a]),
            lambda x, y: np.mean(x - y),
            permutation_type="samples",
            n_resamples=np.inf,
        ).pvalue
        for a, b in pairs
    ]
    # Holm: the smallest times 3, the next times 2, the largest times 1, none below one before.
    order = np.argsort(raw)
    expected, before = [0.0] * 3, 0.0
    for factor, index in zip((3, 2, 1), order, strict=True):
        before = expected[index] = min(1.0, max(before, factor * raw[index]))
    assert [each.p for each in found.differences] == pytest.approx(expected)
    assert [each.value for each in found.differences] == pytest.approx(
        [np.mean(scores[b] - scores[a]) for a, b in pairs]
    )
    labels = [setting.label for setting in found.settings]
    turned = found.between(labels[2], labels[0])
    assert turned.value == -found.differences[1].value
    assert (turned.low, turned.high) == (-found.differences[1].high, -found.differences[1].low)
    assert (turned.wins, turned.losses) == (found.differences[1].losses, found.differences[1].wins)
    assert found.best.label == labels[2]


def test_only_questions_that_both_answered_are_compared(composer, tmp_path):
    one = write_run(
        composer, tmp_path / "1", ["retriever.top_k=1"], [0, 0, 1], names=["a", "b", "c"]
    )
    two = write_run(
        composer, tmp_path / "2", ["retriever.top_k=2"], [1, 0, 1], names=["b", "c", "d"]
    )
    found = compare([runs.read(one), runs.read(two)])
    (only,) = found.differences
    assert (only.n, only.wins, only.losses) == (2, 1, 1)
    assert any("different questions" in note for note in found.notes)
    # The same ids with other questions are other questions.
    three = write_run(
        composer, tmp_path / "3", ["retriever.top_k=3"], [1, 1, 1], names=["a", "b", "c"],
        question="Which cell?",
    )  # fmt: skip
    assert compare([runs.read(one), runs.read(three)]).differences == ()


def test_an_evaluation_on_other_questions_is_named_and_nothing_is_best(composer, tmp_path):
    run = write_run(composer, tmp_path / "1", ["retriever.top_k=1"], [0, 1], names=["a", "b"])
    other = write_run(composer, tmp_path / "2", ["retriever.top_k=2"], [1, 1], names=["c", "d"])
    (other / "parent.json").write_text(json.dumps({"parent_folder": str(run)}))
    found = runs.find([str(run), str(other)])
    _, text = page.render(found, compare(found.runs))
    assert "Best" not in text
    assert "No other setting answered these questions" in text
    assert "1 not at all" in text
    assert f"retriever.top_k=2: an evaluation of the model that {run} saved" in text
    assert "After retriever.top_k=1" in text
    assert "After retriever.top_k=2" not in text


def test_many_settings_are_tested_against_the_first(composer, tmp_path):
    run = runs.read(write_run(composer, tmp_path / "1", [], [0.5, 1]))
    key = "retriever.top_k"
    many = [replace(run, parameters={**run.parameters, key: str(k)}) for k in range(ALL_PAIRS + 1)]
    found = compare(many)
    assert {each.first for each in found.differences} == {"retriever.top_k=0"}
    assert any("against the first" in note for note in found.notes)
    assert len(compare(many[:-1]).differences) == ALL_PAIRS * (ALL_PAIRS - 1) / 2


def test_training_is_compared_with_its_own_start(composer, tmp_path):
    folder = write_run(
        composer, tmp_path / "1", ["trainer=supervised"], [1.0] * 6, untrained=[0.0] * 6
    )
    found = compare([runs.read(folder)])
    gain = found.gains["the setting"]
    assert gain.value == 1
    assert gain.p == 2 / 2**6  # of all sign patterns two are as extreme


def test_smaller_scores_are_better_where_the_metric_says_so(composer, tmp_path):
    labels = ["task=yes_no", "metrics=yes_no", "trainer=supervised"]
    worse, better = (
        write_run(
            composer,
            tmp_path / str(top_k),
            [*labels, f"retriever.top_k={top_k}"],
            scores,
            untrained=[1.0] * 6,
            metric="brier",
        )
        for top_k, scores in ((1, [0.9] * 6), (2, [0.5] * 5 + [1.0]))
    )
    found = compare([runs.read(worse), runs.read(better)], "brier")
    assert found.best.label == "retriever.top_k=2"
    assert [setting.label for setting in found.ranked][-1] == "retriever.top_k=1"
    (only,) = found.differences
    assert only.value == pytest.approx(0.9 - 3.5 / 6)
    assert (only.wins, only.losses) == (5, 1)
    assert only.low < only.value < only.high
    assert found.gains["retriever.top_k=2"].value == pytest.approx(1 - 3.5 / 6)
    changed = questions.changes(*found.settings, "brier")
    assert (len(changed.wins), len(changed.losses)) == (5, 1)
    # What made it worse was tried in vain, what made it better was not.
    evidence = rules.Evidence(found.settings[1], found)
    (tried,) = advice.measured(evidence, ("retriever.top_k=1",))
    assert tried.gain.value < 0
    for text in page.render(runs.find([str(worse), str(better)]), found):
        assert "First less second" in text
        assert "brier (smaller is better)" in text
        assert "Best: retriever.top_k=2" in text
    # The scores say it, whatever they are called: by the metric's settings, too.
    found = compare([runs.read(worse), runs.read(better)], "calibration_error")
    assert found.smaller_is_better
    assert not compare([runs.read(worse)], "accuracy").smaller_is_better


def test_a_metric_that_is_not_here_is_taken_for_one_of_larger_scores(composer, tmp_path):
    folder = write_run(composer, tmp_path / "1", [], [0.5, 1.0])
    config = OmegaConf.load(folder / ".hydra" / "config.yaml")
    config.metrics.mine = {"_target_": "not_here.Mine"}
    OmegaConf.save(config, folder / ".hydra" / "config.yaml")
    (note,) = runs.read(folder).notes
    assert note.startswith("metrics.mine._target_: 'not_here.Mine' cannot be imported")
    assert note.endswith("larger scores of it are taken for the better ones")


def test_wins_and_losses_are_sorted_and_complete(composer, tmp_path):
    one, two = settings_of(
        write_run(composer, tmp_path / "1", ["retriever.top_k=1"], [0, 0.5, 1, 0.2]),
        write_run(composer, tmp_path / "2", ["retriever.top_k=2"], [0.5, 0.6, 0, 0.2]),
    )
    found = questions.changes(one, two, "f1")
    assert [change.second_score for change in found.wins] == [0.5, 0.6]
    assert [change.first for change in found.losses] == ["answer of 1"]


def test_rounding_makes_no_wins(composer, tmp_path):
    seeds = [(1, 0.1, 0.3), (2, 0.2, 0.2), (3, 0.3, 0.1)]  # 0.1 + 0.2 + 0.3 > 0.3 + 0.2 + 0.1
    one, two = settings_of(
        *(
            write_run(
                composer,
                tmp_path / f"{top_k} {seed}",
                [f"retriever.top_k={top_k}", f"seed={seed}"],
                [scores[top_k - 1]],
            )
            for top_k in (1, 2)
            for seed, *scores in seeds
        )
    )
    found = questions.changes(one, two, "f1")
    assert (found.wins, found.losses) == ((), ())
    assert difference(one, two, "f1").ties == 1


def test_bins_are_broken_down_over_all_seeds(composer, tmp_path):
    bins = ["right", "distracted", "right", "not_retrieved"]
    (setting,) = settings_of(
        *(
            write_run(composer, tmp_path / str(seed), [f"seed={seed}"], [1, 0, 1, 0], bins=bins)
            for seed in (1, 2)
        )
    )
    assert setting.share("right") == 0.5
    (found,) = questions.breakdowns(setting).values()
    assert found["what"]["right"] == 4
    assert (found["who"]["distracted"], found["who"]["not_retrieved"]) == (2, 2)


def test_retrieval_depth_is_recall_at_each_k(composer, tmp_path):
    (setting,) = settings_of(write_run(composer, tmp_path / "1", [], [1, 1]))
    assert figures.depth(setting) == [0.0, 1.0]  # the gold passage is the second of two


def test_a_line_of_several_settings_is_named_for_all_of_them(composer, tmp_path):
    lines = [
        ["trainer=supervised", f"data.preparation.limit.train={size}", f"retriever={retriever}"]
        for size, retriever in ((10, "bm25"), (20, "bm25"), (10, "dense"))
    ]
    folders = [write_run(composer, tmp_path / str(i), o, [1, 1]) for i, o in enumerate(lines)]
    sizes = compare([runs.read(folder) for folder in folders[:2]])
    drawn = {drawing.name: drawing.svg for drawing in figures.draw(sizes)}
    assert ">1.00 all settings<" in drawn["retrieval_depth"]
    every = compare([runs.read(folder) for folder in folders])
    first, second, third = every.settings
    assert figures._shared((first, second), every) == "retriever=bm25"
    assert figures._shared((second, third), every) == f"{second.label}; {third.label}"


# What to try next -------------------------------------------------------------------------------


def counts(**bins: int) -> list[str]:
    """Bins of 20 answers: as many as named, the others right."""
    named = [name for name, count in bins.items() for _ in range(count)]
    return [*named, *["right"] * (20 - len(named))]


HALF = [0.0] * 10 + [1.0] * 10
TOKENS = "model.generator.max_prompt_tokens=1024"

CASES = {
    "not_retrieved, bm25": (
        {"overrides": ["model=rag_token"], "bins": counts(not_retrieved=2)},
        [("retriever=hybrid", "retriever.top_k=6")],
    ),
    "not_retrieved, concat": (
        {"overrides": ["retriever=dense"], "bins": counts(not_retrieved=2)},
        [("retriever=hybrid", "retriever.top_k=6", TOKENS)],
    ),
    "not_retrieved, hybrid": (
        {"overrides": ["model=rag_token", "retriever=hybrid"], "bins": counts(not_retrieved=2)},
        [("retriever.top_k=6",), ("retriever/reranker=cross_encoder",)],
    ),
    "not_retrieved, few": ({"bins": counts(not_retrieved=1)}, []),
    "low_ceiling": (
        {"overrides": ["model=rag_token"], "found": False},
        [("retriever=hybrid", "retriever.top_k=6")],
    ),
    "low_ceiling, closed book": ({"overrides": ["retriever=none"], "found": False}, []),
    "gold_is_better": (
        {"overrides": ["model=rag_token"], "gold": [1.0] * 20},
        [("retriever=hybrid", "retriever.top_k=6")],
    ),
    "gold_is_better, not clearly": ({"gold": [0.0] * 9 + [1.0] * 11}, []),
    "distracted": (
        {"bins": counts(distracted=2)},
        [("retriever/reranker=cross_encoder",), ("retriever.top_k=1",), ("model=rag_token",)],
    ),
    "distracted, few": ({"bins": counts(distracted=1)}, []),
    "reading_failure, frozen": (
        {"bins": counts(reading_failure=2)},
        [("trainer=supervised",), ("model/generator=qwen_0_6b",)],
    ),
    "reading_failure, part of the data": (
        {
            "overrides": ["trainer=supervised", "data.preparation.limit.train=160"],
            "bins": counts(reading_failure=2),
        },
        [("data.preparation.limit.train=null",), ("model/generator=qwen_0_6b",)],
    ),
    "reading_failure, all data": (
        {
            "overrides": ["trainer=supervised", "model/generator=qwen_7b"],
            "bins": counts(reading_failure=2),
        },
        [("trainer.num_train_epochs=4.0",)],
    ),
    "reading_failure, steps": (
        {
            "overrides": ["trainer=supervised", "trainer.max_steps=50"],
            "bins": counts(reading_failure=2),
        },
        [("trainer.max_steps=100",), ("model/generator=qwen_0_6b",)],
    ),
    "reading_failure, steps on part of the data": (
        {
            "overrides": [
                "trainer=supervised",
                "trainer.max_steps=50",
                "data.preparation.limit.train=160",
            ],
            "bins": counts(reading_failure=2),
        },
        [
            ("data.preparation.limit.train=null", "trainer.max_steps=100"),
            ("model/generator=qwen_0_6b",),
        ],
    ),
    "reading_failure, few": ({"bins": counts(reading_failure=1)}, []),
    "wrong_format": (
        {"bins": counts(wrong_format=1)},
        [("trainer=supervised",), ("task/prompt=extract",)],
    ),
    "wrong_format, none": ({"bins": counts()}, []),
    "answered_unanswerable": (
        {
            "overrides": ["task.abstention=none", "trainer=supervised"],
            "bins": counts(answered_unanswerable=2),
        },
        [("task/prompt=abstain",), ("trainer.num_train_epochs=4.0",)],
    ),
    "answered_unanswerable, asked for it": (
        {
            "overrides": ["task.abstention=none", "task/prompt=abstain"],
            "bins": counts(answered_unanswerable=2),
        },
        [("trainer=supervised",)],
    ),
    "answered_unanswerable, few": ({"bins": counts(answered_unanswerable=1)}, []),
    "not_in_knowledge_source, limited": (
        {
            "overrides": ["data.preparation.limit.passages=50", "data.preparation.max_words=40"],
            "bins": counts(not_in_knowledge_source=2),
        },
        [("data.preparation.limit.passages=null", "data.preparation.max_words=null")],
    ),
    "not_in_knowledge_source, whole": ({"bins": counts(not_in_knowledge_source=2)}, [()]),
    "not_in_knowledge_source, few": ({"bins": counts(not_in_knowledge_source=1)}, []),
    "closed_book, as good": ({"closed_book": HALF}, [("retriever=none",)]),
    "closed_book, retrieval fails": (
        {"overrides": ["model=rag_token"], "closed_book": HALF, "gold": [0.0] + [1.0] * 19},
        [("retriever=hybrid", "retriever.top_k=6")],
    ),
    "gold_is_better, nothing retrieved": (
        {"overrides": ["retriever=none"], "gold": [1.0] * 20, "found": False},
        [("retriever=hybrid",)],
    ),
    "closed_book, worse": ({"closed_book": [0.0] * 20}, []),
    "closed_book, nothing retrieved": (
        {"overrides": ["retriever=none"], "closed_book": HALF, "found": False},
        [],
    ),
    "no_gain": (
        {"overrides": ["trainer=supervised"], "untrained": HALF},
        [("trainer.num_train_epochs=4.0",)],
    ),
    "no_gain, gained": ({"overrides": ["trainer=supervised"], "untrained": [0.0] * 20}, []),
    "wide_interval": (
        {"overrides": ["data.preparation.limit.test=20"]},
        [("data.preparation.limit.test=null",)],
    ),
    "wide_interval, whole test": ({}, []),
}


@pytest.mark.parametrize("case", CASES)
def test_each_rule_proposes_what_it_says_and_the_command_composes(case, composer, tmp_path):
    made, expected = CASES[case]
    made = {"overrides": [], **made}
    run = runs.read(write_run(composer, tmp_path / "run", made.pop("overrides"), HALF, **made))
    comparison = compare([run])
    rule = {rule.__name__: rule for rule in rules.RULES}[case.partition(",")[0]]
    proposals = list(rule(rules.Evidence(comparison.settings[0], comparison)))
    assert [proposal.overrides for proposal in proposals] == expected
    for proposal in proposals:
        assert re.search(r"\d", proposal.reason), "no counts in the reason"
        assert not re.match(r"[a-z]+_\w+:? ", proposal.reason), "starts with the name of a key"
        if proposal.overrides:
            words = shlex.split(advice.command(comparison.settings[0], proposal.overrides))
            assert words[:3] == ["python", "-m", "rag_experiments"]
            assert composer.plan(words[3:]).jobs


def test_a_low_ceiling_is_said_in_words(composer, tmp_path):
    run = runs.read(write_run(composer, tmp_path / "run", [], HALF, found=False))
    comparison = compare([run])
    (first, *_) = rules.low_ceiling(rules.Evidence(comparison.settings[0], comparison))
    assert first.reason == (
        "only 0% of the questions have an accepted answer anywhere in the passages retrieved for "
        "them (answer_in_context 0.000 [0.000, 0.000]); the others can only be answered from the "
        "model's memory"
    )


def test_every_rule_is_documented_and_has_cases():
    assert {case.partition(",")[0] for case in CASES} | {"undecided"} == {
        rule.__name__ for rule in rules.RULES
    }
    assert all(rule.__doc__ and ":" in rule.__doc__ for rule in rules.RULES)


def test_settings_that_cannot_be_told_apart_ask_for_seeds(composer, tmp_path):
    close = [*HALF[:-1], 0.0]
    for name, scores, expected in (("close", close, True), ("far", [0.0] * 20, False)):
        folders = [
            write_run(
                composer,
                tmp_path / name / str(k),
                ["trainer=supervised", f"retriever.top_k={k}"],
                each,
            )
            for k, each in ((1, HALF), (2, scores))
        ]
        comparison = compare([runs.read(folder) for folder in folders])
        said = page.headline(comparison)
        assert ("may be chance" in said, "more than chance" in said) == (expected, not expected)
        found = advice.advise(comparison.best, comparison)
        commands = [each.command for each in found if "seed=14,15" in each.overrides]
        assert len(commands) == expected
        for line in commands:
            words = shlex.split(line)
            assert "-m" in words[3:]
            words = [word for word in words[3:] if word != "-m"]
            assert len(composer.plan(words, multirun=True).jobs) == 2


@pytest.mark.parametrize(
    ("overrides", "change"),
    [
        (["retriever=bm25", "retriever.k1=0.9", "retriever.top_k=2"], ("retriever=hybrid",)),
        (["retriever=dense", "retriever/encoder=minilm"], ("retriever=hybrid",)),
        (["retriever=bm25", "retriever.top_k=2", "retriever.b=0.5"], ("retriever=none",)),
        (["model/generator=smollm2_135m", "model.generator.chat=false"], ("model=rag_token",)),
        (["task.prompt.examples=2", "task.prompt.separator=x"], ("task/prompt=extract",)),
        (["model.generator.adapter.rank=8"], ("model/generator=qwen_0_6b",)),
        (["+experiment=bio_qa", "model=rag_token", "retriever=hybrid"], ("retriever.top_k=5",)),
    ],
)
def test_a_command_drops_what_no_longer_fits(overrides, change, composer, tmp_path):
    (setting,) = settings_of(write_run(composer, tmp_path / "run", overrides, [0.5]))
    words = shlex.split(advice.command(setting, change))[3:]
    assert words[-len(change) :] == list(change)
    (job,) = composer.plan(words).jobs
    if change == ("retriever=hybrid",) and "retriever.top_k=2" in overrides:
        assert job.retriever.top_k == 2  # what every retriever understands is kept
    if change == ("task/prompt=extract",):
        assert job.task.prompt.examples == 2
        assert job.task.prompt.separator != "x"


@pytest.mark.parametrize(
    ("overrides", "kept"),
    [
        (
            ["+experiment=smoke", "model=concat", "trainer=supervised"],
            ["retriever/encoder@retriever.dense.encoder=tiny"],
        ),
        (
            ["retriever=dense", "retriever/encoder=dpr", "model/query_encoder=dpr"],
            ["retriever/encoder@retriever.dense.encoder=dpr"],
        ),
        (
            ["retriever=dense", "retriever/index=ivf_pq", "retriever.index.nprobe=32"],
            ["retriever/index@retriever.dense.index=ivf_pq", "retriever.dense.index.nprobe=32"],
        ),
        (["retriever=bm25", "retriever.k1=0.9"], ["retriever.lexical.k1=0.9"]),
        (["retriever=dense", "retriever/encoder=minilm", "retriever.top_k=2"], None),
        (["retriever=dense", "retriever/reranker=bi_encoder"], None),
        (["retriever=iterative"], []),
    ],
)
def test_a_retriever_becomes_the_part_of_hybrid_that_it_was(overrides, kept, composer, tmp_path):
    (setting,) = settings_of(write_run(composer, tmp_path / "run", overrides, [0.5]))
    words = shlex.split(advice.command(setting, ("retriever=hybrid",)))[3:]
    assert composer.plan(words).jobs
    if kept is not None:
        assert [w for w in words if w.startswith(("retriever/", "retriever."))] == kept


def test_what_the_parts_of_hybrid_have_by_themselves_is_known(composer):
    (job,) = composer.plan(["retriever=hybrid"]).jobs
    choices = composer.compose(["retriever=hybrid"], RunMode.RUN).hydra.runtime.choices
    for group, option in advice.DENSE_PART.items():
        assert choices[f"{group}@retriever.dense.{group.removeprefix('retriever/')}"] == option
    assert all(hasattr(job.retriever, part) for part in advice.PARTS.values())


def write_retrievals(composer, folder: Path, lines: Sequence[tuple]) -> list[Path]:
    """Runs of rag_token that differ in retriever, top_k and scores; many lack their passage."""
    return [
        write_run(
            composer,
            folder / str(i),
            ["model=rag_token", f"retriever={retriever}", f"retriever.top_k={top_k}"],
            scores,
            bins=counts(not_retrieved=4, distracted=2),
        )
        for i, (retriever, top_k, scores) in enumerate(lines)
    ]


def test_advice_that_was_run_carries_its_gain_and_goes_last_if_in_vain(composer, tmp_path):
    lines = (("bm25", 3, HALF), ("hybrid", 6, [0.0] * 20), ("hybrid", 3, [0.0, *HALF[1:-1], 0.0]))
    folders = write_retrievals(composer, tmp_path, lines)
    comparison = compare([runs.read(folder) for folder in folders])
    first, whole, part = comparison.settings
    found = advice.advise(first, comparison)
    change = ("retriever=hybrid", "retriever.top_k=6")
    assert found[-1].overrides == change
    assert found[-1].tried_in_vain
    (known,) = found[-1].measured
    assert known.gain == comparison.between(first.label, whole.label)
    assert known.gain.value == -0.5
    # Without the run of the whole change its parts are named.
    comparison = compare([runs.read(folders[0]), runs.read(folders[2])])
    (known,) = next(
        each
        for each in advice.advise(comparison.settings[0], comparison)
        if each.overrides == change
    ).measured
    assert known.overrides == ("retriever=hybrid",)
    assert known.gain.second == part.label.replace(", retriever.top_k=3", "")


def test_a_gain_is_not_that_of_a_change_beside_another(composer, tmp_path):
    lines = (("bm25", 3, HALF), ("hybrid", 2, [1.0] * 20))
    folders = write_retrievals(composer, tmp_path, lines)
    comparison = compare([runs.read(folder) for folder in folders])
    evidence = rules.Evidence(comparison.settings[0], comparison)
    assert advice.measured(evidence, ("retriever=hybrid", "retriever.top_k=6")) == ()
    (known,) = advice.measured(evidence, ("retriever=hybrid", "retriever.top_k=2"))
    assert known.gain.value == 0.5


# Pages ------------------------------------------------------------------------------------------


@pytest.fixture
def swept(composer, tmp_path):
    """A sweep over two retrievers and two training sizes, with all that a report shows."""
    generator = np.random.default_rng(1)
    home = tmp_path / "sweeps" / "mine" / "today"
    for number, (retriever, size) in enumerate(
        (r, s) for r in ("bm25", "hybrid") for s in (40, 80)
    ):
        folder = write_run(
            composer,
            home / str(number),
            [
                "trainer=supervised",
                f"retriever={retriever}",
                f"data.preparation.limit.train={size}",
            ],
            (generator.random(20) < 0.3 + size / 400).astype(float),
            untrained=[0.0] * 20,
            closed_book=[0.0] * 20,
            gold=[1.0] * 20,
            bins=counts(not_retrieved=5, reading_failure=3, distracted=3),
            question="Which <script>alert(1)</script> gene | factor?",
        )
        points = [{"step": step, "train/loss": 1 / step} for step in (1, 2, 4)]
        (folder / "curves.jsonl").write_text("".join(json.dumps(p) + "\n" for p in points))
    failed = outcomes.Outcome(problems=("retriever: gone",), overrides=("retriever=x",))
    (home / "4" / ".hydra").mkdir(parents=True)
    failed.write(home / "4")
    return home


class Links(HTMLParser):
    """What a page loads or links to, and the tags that it has."""

    def __init__(self, text: str):
        super().__init__()
        self.loaded: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        own = [v for name, v in attrs if name in ("src", "href", "xlink:href", "data", "srcset")]
        self.loaded += [value for value in own if value and not value.startswith("#")]


def test_the_report_of_a_sweep(swept, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["report", str(swept)])
    command_line.main()
    said = capsys.readouterr().out
    assert "Best: " in said
    assert str(swept / "report.html") in said
    text = (swept / "report.html").read_text("utf-8")
    found = Links(text)
    assert found.loaded == []  # nothing outside the page
    assert "script" not in found.tags
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    for name in ("metric_by_setting", "error_bins", "retrieval_depth", "learning_curve"):
        assert f'id="{name}"' in text
    assert 'id="training_curves"' in text
    assert "job 4: retriever: gone" in text
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert not re.search(r"\bnan\b", re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL))
    assert ids.count("metric_by_setting") == 1

    markdown = (swept / "report.md").read_text("utf-8")
    tables = re.findall(r"(?:^\|.*\n)+", markdown, re.MULTILINE)
    assert len(tables) >= 3
    for table in tables:
        cells = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(cells) == 1, table
    assert markdown.count("```") % 2 == 0
    assert "retriever=hybrid" in markdown

    with (swept / "report.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert len(rows) == 1 + 20
    assert {len(row) for row in rows} == {3 + 3 * 4}


def test_the_same_runs_give_the_same_page(swept):
    found = runs.find([str(swept)])
    assert page.render(found, compare(found.runs)) == page.render(found, compare(found.runs))


def test_runs_without_bins_and_references_say_so(composer, tmp_path):
    folder = write_run(composer, tmp_path / "1", [], [0.5, 1.0])
    found = runs.find([str(folder)])
    text, markdown = page.render(found, compare(found.runs))
    assert "without error bins" in text
    assert "without error bins" in markdown
    assert 'id="error_bins"' not in text


def test_names_that_are_no_runs_are_all_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(sys, "argv", ["report", "empty", "gone", "0" * 32])
    with pytest.raises(SystemExit) as exit_:
        command_line.main()
    assert exit_.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["empty", "gone", "0" * 32]
    assert not (tmp_path / "outputs").exists()  # looking for a tag makes no store


def test_a_metric_that_a_run_lacks_is_refused(composer, tmp_path):
    found = runs.find([str(write_run(composer, tmp_path / "1", [], [0.5]))])
    with pytest.raises(UserError, match=r"'f2'; legal, as all runs have it: answer_in_context, f1"):
        writing.write(found, tmp_path, "f2")


def test_a_report_is_an_artifact_of_each_run_and_its_tag_finds_them(
    composer, tmp_path, monkeypatch, lay_store
):
    monkeypatch.chdir(tmp_path)
    lay_store(tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    store = Mlflow(uri=uri)
    ids = []
    for top_k in (1, 2):
        folder = tmp_path / f"it's {top_k}"
        lines = [f"retriever.top_k={top_k}", "tracking=mlflow", f"tracking.uri={uri}"]
        write_run(composer, folder, lines, [0.5, 1.0])
        raw = OmegaConf.create({})
        with store.start(raw, folder, name="x", sweep="mine-today") as recorder:
            ids.append(recorder.run_id)
    for names in (["mine-today"], ids):
        found = runs.find(names, store)
        assert [run.folder.name for run in found.runs] == ["it's 1", "it's 2"]
    # It is the same run where its folder has been moved to.
    (tmp_path / "it's 2").rename(tmp_path / "moved")
    found = runs.find([str(tmp_path / "it's 1"), str(tmp_path / "moved")])
    said = writing.write(found, tmp_path / "out")
    assert f"runs/{ids[0]}/artifacts" in said
    for run_id in ids:
        files = store._client().list_artifacts(run_id, "report")
        assert [Path(file.path).name for file in files] == [
            "report.csv",
            "report.html",
            "report.md",
        ]


def test_a_report_that_fails_does_not_fail_the_sweep(swept, monkeypatch, capsys):
    def fail(*_):
        raise RuntimeError("no ink")

    monkeypatch.setattr(writing, "write", fail)
    entry.write_report(swept, "mine-today")
    said = capsys.readouterr().err
    assert "RuntimeError: no ink" in said
    assert f"python -m rag_experiments.report {swept}" in said
