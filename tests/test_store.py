"""The store: keys that say what a result depends on, entries that are whole or not there."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from pydantic import Field
from safetensors.numpy import save_file

from rag_experiments.contracts import Option
from rag_experiments.store import __main__ as command_line
from rag_experiments.store import entries, scratch
from rag_experiments.store.entries import Entry, Store
from rag_experiments.store.keys import Key, describe, differences, make_key


class Inner(Option):
    size: int = 1
    names: tuple[str, ...] = ()
    options: dict[str, int] = Field(default_factory=dict)


class Outer(Option):
    inner: Inner = Inner()
    weights: str = "random:bert"
    rate: float = 0.5
    folder: Path = Path("here")
    speed: int = 1


def keep(store: Store, key: Key, value: str = "text") -> str:
    """A result through the store."""
    return store.result(
        key,
        lambda: value,
        lambda text, folder: (folder / "text").write_text(text) and None,
        lambda folder: (folder / "text").read_text(),
    )


@pytest.fixture
def store(tmp_path, caplog) -> Store:
    caplog.set_level("INFO", "rag_experiments.store")
    scratch.warn_once.cache_clear()
    return Store(tmp_path)


A = make_key("stage", 1, {"top_k": 3})


# --- Keys -------------------------------------------------------------------------------------


def test_a_key_is_that_of_its_parts_in_any_order_and_of_those_above():
    same = make_key("stage", 1, {"b": [1, 2], "a": None})
    assert same.digest == make_key("stage", 1, {"a": None, "b": (1, 2)}).digest
    others = [
        make_key("stage", 2, {"a": None, "b": [1, 2]}),
        make_key("other", 1, {"a": None, "b": [1, 2]}),
        make_key("stage", 1, {"a": None, "b": [2, 1]}),
        make_key("stage", 1, {"b": [1, 2]}),
        make_key("stage", 1, {"a": None, "b": [1, 2]}, A),
        make_key("stage", 1, {"a": None, "b": [1, 2]}, make_key("stage", 1, {"top_k": 4})),
    ]
    assert len({key.digest for key in (same, *others)}) == len(others) + 1
    with pytest.raises(ValueError, match="top_k is 3 and 5"):
        make_key("below", 1, {"top_k": 5}, A)


def test_an_option_is_described_by_its_class_and_every_field_but_those_named(tmp_path):
    option = Outer(inner=Inner(size=2, names=("x",), options={"y": 1}))
    parts = describe(option, "group", tmp_path, frozenset({"group.speed"}))
    own = f"{__name__}.Outer"
    assert {name: value for name, value in parts.items() if not name.endswith(" code")} == {
        "group": own,
        "group.inner": f"{__name__}.Inner",
        "group.inner.size": 2,
        "group.inner.names": ["x"],
        "group.inner.options": {"y": 1},
        "group.weights": "random:bert",
        "group.rate": 0.5,
        "group.folder": repr(Path("here")),
    }


def test_the_source_of_a_class_from_elsewhere_counts(tmp_path, monkeypatch):
    source = "from rag_experiments.contracts import Option\nclass Mine(Option):\n    a: int = 1\n"
    found = []
    monkeypatch.syspath_prepend(tmp_path)
    for text in (source, source + "# changed\n"):
        (tmp_path / "my_package.py").write_text(text)
        sys.modules.pop("my_package", None)
        import my_package

        found.append(describe(my_package.Mine(), "mine", tmp_path)["mine code"])
    assert found[0] != found[1]


def test_weights_in_a_folder_count_by_their_content(tmp_path):
    parts = []
    for name, content in (("one", 1.0), ("two", 1.0), ("three", 2.0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        save_file({"weight": np.array(content)}, tmp_path / name / "model.safetensors")
        weights = str(tmp_path / name)
        parts.append(describe(Outer(weights=weights), "group", tmp_path)["group.weights"])
    assert parts[0] == parts[1] != parts[2]


def test_differences_are_named_with_short_values():
    old = make_key("stage", 1, {"a": 1, "b": "x" * 64, "c": 2})
    new = make_key("stage", 1, {"a": 4, "b": "y" * 64, "d": 2})
    assert differences(old, new) == ["a is new (4, not 1)", "b is new", "c is gone", "d is new"]


# --- Entries ----------------------------------------------------------------------------------


def test_a_result_is_computed_once_and_the_log_says_why(store, caplog):
    assert keep(store, A) == "text"
    assert "stage: computing, the store has none yet" in caplog.text
    caplog.clear()
    assert keep(Store(store.root.parent), A, "not computed") == "text"
    assert f"stage: read, every part of the key is that of {A.digest}" in caplog.text
    caplog.clear()
    keep(store, make_key("stage", 1, {"top_k": 5}))
    assert "stage: computing, top_k is new (5, not 3)" in caplog.text
    caplog.clear()
    keep(store, make_key("stage", 2, {"top_k": 5}))
    assert "computing, stage version is new (2, not 1)" in caplog.text  # the nearest, not the first


def test_what_is_computed_is_read_back_as_later_jobs_read_it(store):
    def read(folder):
        return json.loads((folder / "value").read_text())

    def write(value, folder):
        (folder / "value").write_text(json.dumps(value))

    assert store.result(A, lambda: (1, 2), write, read) == [1, 2]


def damage_cut(folder):
    with (folder / "text").open("r+") as file:
        file.truncate(2)


def damage_changed(folder):
    state = (folder / "text").stat()
    (folder / "text").write_text("tezt")
    os.utime(folder / "text", ns=(state.st_atime_ns, state.st_mtime_ns + 1))


def damage_missing(folder):
    (folder / "text").unlink()


def damage_added(folder):
    (folder / "more").write_text("x")


def damage_manifest_cut(folder):
    with (folder / "entry.json").open("r+") as file:
        file.truncate(30)


def damage_manifest_gone(folder):
    (folder / "entry.json").unlink()


def damage_parts(folder):
    text = (folder / "entry.json").read_text()
    (folder / "entry.json").write_text(text.replace('"top_k": 3', '"top_k": 4'))


def damage_checksum(folder):
    content = json.loads((folder / "entry.json").read_text())
    content["files"]["text"]["sha256"] = "0" * 64
    (folder / "entry.json").write_text(json.dumps(content))


def damage_format(folder):
    content = json.loads((folder / "entry.json").read_text())
    (folder / "entry.json").write_text(json.dumps({**content, "format": 0}))


def damage_no_checksum(folder):
    content = json.loads((folder / "entry.json").read_text())
    del content["files"]["text"]["sha256"]
    (folder / "entry.json").write_text(json.dumps(content))


def damage_seconds(folder):
    content = json.loads((folder / "entry.json").read_text())
    (folder / "entry.json").write_text(json.dumps({**content, "seconds": None}))


def damage_nested(folder):
    (folder / "entry.json").write_text("[" * 200_000)


DAMAGES = {
    damage_cut: "text: its size differs",
    damage_changed: "text: its checksum differs",
    damage_missing: "text is missing",
    damage_added: "more was added",
    damage_manifest_cut: "entry.json: JSONDecodeError",
    damage_manifest_gone: "entry.json: FileNotFoundError",
    damage_parts: "its parts are not those of the key",
    damage_checksum: "text: its checksum differs",
    damage_format: "its format is 0, not 1",
    damage_no_checksum: "entry.json: KeyError",
    damage_seconds: "entry.json: TypeError",
    damage_nested: "entry.json: RecursionError",
}


@pytest.mark.parametrize(
    ("damage", "reason"), DAMAGES.items(), ids=lambda each: getattr(each, "__name__", "said")
)
def test_a_damaged_entry_is_said_and_made_again(store, caplog, damage, reason):
    keep(store, A)
    folder = store.root / "stage" / A.digest
    damage(folder)
    assert command_line.verify_entries(store, None) == 1
    assert command_line.list_entries(store, None) == 0
    caplog.clear()
    assert keep(store, A, "again") == "again"
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert reason in warning.getMessage()
    assert command_line.verify_entries(store, None) == 0
    assert {path.name for path in folder.iterdir()} == {"text", "entry.json"}


def test_a_failure_leaves_nothing_and_the_next_try_computes(store):
    def fail():
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        store.result(A, fail, lambda value, folder: None, lambda folder: None)
    assert list(store.entries()) == []
    assert keep(store, A) == "text"
    assert not list(store.root.glob("*/.*.partial"))


def test_what_is_resumable_goes_on_with_what_was_left(store, tmp_path, capsys):
    tries = []

    def make(folder):
        tries.append([path.name for path in folder.iterdir()])
        (folder / f"part{len(tries)}").write_text("x")
        if len(tries) in (1, 3):
            raise KeyboardInterrupt

    def stop():
        with pytest.raises(KeyboardInterrupt):
            store.folder(A, make, resumable=True)
        assert list(store.entries()) == list(store.leftovers()) == []
        ((folder, size, grown),) = store.begun()
        assert (folder.name, size) == (A.digest, 1)
        assert time.time() - grown < 60

    stop()
    folder = store.folder(A, make, resumable=True)
    assert tries == [[], ["part1"]]
    Entry.read(folder).check()
    assert sorted(Entry.read(folder).files) == ["part1", "part2"]
    assert not list(store.begun())

    # It is shown, and pruned when nobody goes on with it.
    entries.remove(folder)
    stop()
    assert tries[2:] == [[]]
    assert run(tmp_path, "list") == 0
    assert re.search(rf"stage +{A.digest} +1 B  begun, grew 20", capsys.readouterr().out)
    assert run(tmp_path, "prune", "--older-than", "1d", "--max-size", "0") == 0
    assert len(list(store.begun())) == 1
    (file,) = tmp_path.glob("store/stage/.*.begun/part3")
    os.utime(file, (1, 1))
    assert run(tmp_path, "prune", "--older-than", "1d") == 0
    assert not list(store.begun())


def test_a_result_that_cannot_be_written_goes_on(store, caplog):
    def full(text, folder):
        raise OSError(28, "No space left on device")

    assert store.result(A, lambda: "text", full, lambda folder: None) == "text"
    assert "stage: the result could not be kept (No space left on device)" in caplog.text
    assert list(store.entries()) == []
    with pytest.raises(OSError, match="of the computation itself"):
        store.result(
            A, lambda: (_ for _ in ()).throw(OSError("of the computation itself")), full, full
        )


@pytest.fixture
def shared_folder():
    """A folder that an unprivileged user can look into."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def unprivileged():
    """Root writes where nobody else may; the test then goes on as somebody else."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    yield
    os.seteuid(0)


@pytest.mark.parametrize("warm", [False, True])
def test_a_read_only_cache_is_read_and_else_done_without(
    shared_folder, warm, request, caplog, monkeypatch
):
    caplog.set_level("INFO", "rag_experiments.store")
    scratch.warn_once.cache_clear()
    monkeypatch.setattr(tempfile, "tempdir", "/tmp" if sys.platform == "linux" else None)
    store = Store(shared_folder)
    other = make_key("stage", 1, {"top_k": 9})
    if warm:
        keep(store, A)
    for path in (shared_folder, *shared_folder.rglob("*")):
        path.chmod(path.stat().st_mode & 0o555)
    request.getfixturevalue("unprivileged")
    scratch.scratch_dir.cache_clear()  # one of this user
    assert keep(store, A, "text") == "text"
    assert ("stage: read" in caplog.text) == warm
    assert keep(store, other, "else") == "else"
    assert keep(store, other, "not computed") == "else"  # within the process
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "results are not kept there" in warnings[0].getMessage()
    scratch.scratch_dir.cache_clear()


def test_weights_that_cannot_be_kept_are_made_for_the_process(
    shared_folder, request, caplog, monkeypatch
):
    from rag_experiments import weights

    scratch.warn_once.cache_clear()
    monkeypatch.setattr(tempfile, "tempdir", "/tmp" if sys.platform == "linux" else None)
    shared_folder.chmod(0o555)
    request.getfixturevalue("unprivileged")
    scratch.scratch_dir.cache_clear()

    def write(folder):
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_text("x")

    made = weights.keep(shared_folder, "key", write)
    assert weights.keep(shared_folder, "key", write) == made
    assert (made / "config.json").is_file()
    assert list(shared_folder.iterdir()) == []
    assert caplog.text.count("weights are not kept") == 1
    scratch.scratch_dir.cache_clear()


WORKER = """
import sys, time
from pathlib import Path
from rag_experiments.store.entries import Entry, Store
from rag_experiments.store.keys import make_key

root, name = Path(sys.argv[1]), sys.argv[2]
computing, writing = float(sys.argv[3]), float(sys.argv[4])

def compute():
    with (root / "computed").open("a") as file:
        file.write(name + "\\n")
    time.sleep(computing)
    return "by " + name

def write(text, folder):
    (folder / "text").write_text(text)
    time.sleep(writing)
    (folder / "more").write_text(text)

key = make_key("stage", 1, {"top_k": 3})
print(Store(root).result(key, compute, write, lambda folder: (folder / "text").read_text()))
"""


def work(root, name, computing, writing):
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, str(root), name, str(computing), str(writing)],
        stdout=subprocess.PIPE,
        text=True,
    )


def test_processes_that_need_the_same_compute_it_once(tmp_path):
    workers = [work(tmp_path, str(n), 0.2, 0.2) for n in range(4)]
    said = {worker.communicate(timeout=60)[0] for worker in workers}
    assert len(said) == 1
    assert len((tmp_path / "computed").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("times", "sign"), [((60, 0), "computed"), ((0, 60), "store/stage/.*.partial/text")]
)
def test_a_killed_process_leaves_nothing_that_is_read(store, tmp_path, times, sign):
    worker = work(tmp_path, "killed", *times)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(sign)):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    assert list(store.entries()) == []
    assert [path.name for path in store.leftovers()] == [A.digest]
    assert run(tmp_path, "prune", "--older-than", "1d") == 0
    assert list(store.leftovers()) == []
    assert keep(store, A) == "text"


# --- Command line -----------------------------------------------------------------------------


def run(cache_dir: Path, *arguments: str) -> int:
    """The command line in this process; its exit code."""
    parsed = command_line.make_parser().parse_args([*arguments, "--cache-dir", str(cache_dir)])
    return parsed.command(Store(parsed.cache_dir), parsed)


@pytest.fixture
def filled(store):
    """Three entries of 4, 400 and 4000 bytes, last used 3, 2 and 1 days ago."""
    keys = [make_key("stage", 1, {"top_k": n}) for n in range(3)]
    for n, key in enumerate(keys):
        keep(store, key, "x" * [4, 400, 4000][n])
        used = time.time() - (3 - n) * 86400
        os.utime(store.root / "stage" / key.digest / "entry.json", (used, used))
    return [key.digest for key in keys]


def test_entries_are_listed_and_explained(filled, tmp_path, capsys):
    assert run(tmp_path, "list") == 0
    printed = capsys.readouterr().out
    assert all(digest in printed for digest in filled)
    assert "4.0 kB" in printed
    assert "3 entries, 4.4 kB" in printed
    assert run(tmp_path, "explain", filled[1][:8]) == 0
    printed = capsys.readouterr().out
    assert "  top_k: 1" in printed
    assert "text: 400 B, SHA-256" in printed
    assert run(tmp_path, "explain", filled[1], filled[2]) == 0
    assert capsys.readouterr().out == "top_k is new (1, not 2)\n"


def test_a_list_that_nobody_reads_to_its_end_is_no_error(filled, tmp_path):
    line = [sys.executable, "-u", "-m", "rag_experiments.store", "list"]
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        ended = subprocess.run(
            [*line, "--cache-dir", str(tmp_path)],
            stdout=closed,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert (ended.returncode, ended.stderr) == (1, b"")


def test_an_unknown_key_is_one_line(filled, tmp_path, monkeypatch, capsys):
    line = ["store", "explain", "zzz", "--cache-dir", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", line)
    with pytest.raises(SystemExit) as ended:
        command_line.main()
    assert ended.value.code == 2
    assert "'zzz': no entry in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "kept"),
    [
        (["--older-than", "60h"], [1, 2]),
        (["--older-than", "1.5d"], [2]),
        (["--max-size", "4.1K"], [2]),
        (["--max-size", "4410"], [0, 1, 2]),
        (["--max-size", "0"], []),
        (["--older-than", "60h", "--max-size", "4000"], [2]),
    ],
)
def test_pruning_begins_with_what_was_not_used_for_longest(filled, tmp_path, arguments, kept):
    def there():
        return [path.name for path in (tmp_path / "store" / "stage").iterdir() if path.is_dir()]

    assert run(tmp_path, "prune", *arguments, "--dry-run") == 0
    assert sorted(there()) == sorted(filled)
    assert run(tmp_path, "prune", *arguments) == 0
    assert sorted(there()) == sorted(filled[n] for n in kept)


def test_reading_an_entry_counts_as_use(filled, store, tmp_path):
    keep(store, make_key("stage", 1, {"top_k": 0}))
    assert run(tmp_path, "prune", "--older-than", "1h") == 0
    assert [folder.name for folder, _ in store.entries()] == [filled[0]]


def test_what_a_process_holds_is_not_pruned(filled, store, tmp_path, capsys):
    from filelock import FileLock

    with FileLock(entries._beside(store.root / "stage" / filled[0], "lock")):
        assert run(tmp_path, "prune", "--max-size", "0") == 0
    assert "in use, kept" in capsys.readouterr().out
    assert [folder.name for folder, _ in store.entries()] == [filled[0]]
