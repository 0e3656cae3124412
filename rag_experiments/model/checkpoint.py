"""Checkpoints in transformers' RAG layout: taken apart to be trained here, and written back.

The layout, as `facebook/rag-token-nq` has it: a config.json of model type `rag`, the weights of a
DPR question encoder and of an encoder-decoder under the prefixes `question_encoder.` and
`generator.` (both below `rag.`, where there is a head), and their tokenizers in the folders
`question_encoder_tokenizer` and `generator_tokenizer`. It has no passage encoder: that is DPR's
context encoder, in whose space the question encoder was trained (`retriever/encoder=dpr`).
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rag_experiments.contracts import UserError
from rag_experiments.weights import fingerprint, keep, resolve

if TYPE_CHECKING:
    from rag_experiments.model.rag_model import RagModel

log = logging.getLogger(__name__)

Part = Literal["generator", "question_encoder"]

PARTS: tuple[Part, ...] = ("generator", "question_encoder")

_PLACE = "model.weights"
_HEADS = {"RagToken": "RagTokenForGeneration", "RagSequence": "RagSequenceForGeneration"}
"""Of an option of the group `model`: its class in transformers."""


def name_part(checkpoint: str, part: Part) -> str:
    """The weights that are a part of a checkpoint, as `locate` reads them."""
    return f"{checkpoint}#{part}"


def locate(weights: str | None, cache_dir: Path, place: str) -> Path:
    """Local folder of weights that `from_pretrained` loads.

    `weights` is what `weights.resolve` takes, or a part of a checkpoint, which is taken out once
    and kept in `cache_dir`. Raises UserError, its lines under the key `place`.
    """
    if weights is None:
        raise UserError(f"{place}: null, and {_PLACE} names no checkpoint to take them from")
    checkpoint, _, part = weights.rpartition("#")
    if part not in PARTS:
        return resolve(weights, cache_dir, place)
    folder = resolve(checkpoint, cache_dir, _PLACE)
    problems = find_problems(folder)
    if problems:
        raise UserError([f"{_PLACE}: {checkpoint!r}: {problem}" for problem in problems])
    digest = hashlib.sha256(fingerprint(checkpoint, cache_dir, _PLACE).encode()).hexdigest()[:20]
    return keep(cache_dir, f"rag-{digest}-{part}", lambda into: _take_out(folder, part, into))


def find_problems(folder: Path) -> list[str]:
    """What keeps a folder from being a checkpoint of this layout; reads its config.json only."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    kind = config.get("model_type")
    if kind != "rag":
        return [
            f"its config.json is of model_type {kind!r}, a checkpoint of transformers' RAG is of "
            "'rag'; a generator alone is given as model.generator.weights"
        ]
    problems = []
    encoder = (config.get("question_encoder") or {}).get("model_type", "dpr")
    if encoder != "dpr":
        problems.append(f"its question encoder is of model_type {encoder!r}; legal: 'dpr'")
    problems += [
        f"the folder {part}_tokenizer is missing; write it with RagTokenizer.save_pretrained"
        for part in PARTS
        if not (folder / f"{part}_tokenizer").is_dir()
    ]
    return problems


def _take_out(folder: Path, part: str, into: Path) -> None:
    """Write one part of a checkpoint as a model of its own, with its tokenizer."""
    import torch
    from transformers import AutoTokenizer
    from transformers import RagModel as Checkpoint

    log.info("taking the %s out of %s (once)", part.replace("_", " "), folder)
    loaded: Any = Checkpoint.from_pretrained(  # a pair, which its annotation leaves out
        folder, dtype=torch.float32, output_loading_info=True
    )
    whole, found = loaded
    wrong = sorted(map(str, (*found["missing_keys"], *found["mismatched_keys"])))
    if wrong:  # transformers would go on with random numbers
        shown = ", ".join(wrong[:3]) + (", ..." if len(wrong) > 3 else "")
        raise UserError(
            f"{_PLACE}: {str(folder)!r} lacks weights that its config asks for: {shown}"
        )
    network = getattr(whole, part)
    network.save_pretrained(into)
    tokenizer = AutoTokenizer.from_pretrained(
        folder, subfolder=f"{part}_tokenizer", config=network.config
    )
    tokenizer.save_pretrained(into)


def save_checkpoint(model: RagModel, folder: Path, passages: int, temperature: float = 1.0) -> None:
    """Write a model so that transformers' RAG loads it, with the same outputs.

    `passages` is how many a question gets at most. Adapters are merged into the weights, and the
    temperature of p(z|x), which the layout has no place for, into the question encoder: its
    vectors are divided by it. Raises UserError where transformers has no such model.
    """
    import transformers

    check_exportable(model.option)
    encoder = model.query_encoder
    assert encoder is not None, "loaded without the query encoder"
    question_encoder = _divide(encoder.network, temperature)
    generator = _merge(model.generator.network)
    config = transformers.RagConfig.from_question_encoder_generator_configs(
        question_encoder.config,
        generator.config,
        n_docs=passages,
        max_combined_length=model.option.generator.max_prompt_tokens,
        retrieval_vector_size=encoder.dimension,
    )
    for part in (config.question_encoder, config.generator):
        part._name_or_path = ""  # a folder of this machine
    head = getattr(transformers, _HEADS[type(model.option).__name__])
    network = head(config, question_encoder=question_encoder, generator=generator)
    start: int = model.generator.start_id  # type: ignore[assignment]
    network.generation_config = transformers.GenerationConfig(
        decoder_start_token_id=start,
        eos_token_id=model.generator.end_id,
        pad_token_id=model.generator.pad_id,
    )
    network.save_pretrained(folder)
    tokenizer: Any = transformers.RagTokenizer(encoder.tokenizer, model.generator.tokenizer)
    tokenizer.save_pretrained(folder)


def check_exportable(option: Any) -> None:
    """Raise UserError where the layout cannot hold the model of an option; loads no weights."""
    encoder = getattr(option, "query_encoder", None)
    problems = []
    if type(option).__name__ not in _HEADS:
        problems.append(
            f"model: transformers' RAG has nothing like {type(option).__name__}; legal: "
            "model=rag_token, model=rag_sequence"
        )
    if option.generator.kind != "encoder_decoder":
        problems.append(
            f"model.generator.kind: {option.generator.kind!r}; transformers' RAG has generators "
            "of kind 'encoder_decoder' only"
        )
    if encoder is None:
        problems.append("model.query_encoder: null; transformers' RAG needs one of DPR")
    elif encoder.pooling != "dpr" or encoder.normalize:
        problems.append(
            f"model.query_encoder: pooling {encoder.pooling!r} and normalize {encoder.normalize}; "
            "transformers' RAG takes DPR's vectors as they are: pooling 'dpr', normalize false"
        )
    if problems:
        raise UserError(problems)


def _merge(network: Any) -> Any:
    """The network with its adapters merged, where it has some; the original stays as it is."""
    from peft import PeftModel

    if not isinstance(network, PeftModel):
        return network
    return copy.deepcopy(network).merge_and_unload()


def _divide(network: Any, temperature: float) -> Any:
    """A DPR question encoder whose vectors are those of `network` over a temperature."""
    if temperature == 1.0:
        return network
    divided = copy.deepcopy(network)
    base = divided.question_encoder
    # The vector is the first token's state: what comes out of the last layer's norm, or of the
    # projection after it.
    last = base.bert_model.encoder.layer[-1].output.LayerNorm
    if base.projection_dim > 0:
        last = base.encode_proj
    for parameter in last.parameters():
        parameter.data /= temperature
    return divided
