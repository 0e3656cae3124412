"""Texts to vectors: one encoder class for passages and for questions.

Loads heavy libraries; options import it inside their methods.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import AutoConfig, AutoModel, AutoTokenizer

from rag_experiments import resident
from rag_experiments.contracts import Runtime, UserError
from rag_experiments.functional.rows import join_rows, split_by_length
from rag_experiments.weights import load_weights

log = logging.getLogger(__name__)

Pooling = Literal["mean", "cls", "dpr"]

_DPR = ("DPRQuestionEncoder", "DPRContextEncoder")
_SETTINGS_FILE = "encoder.json"
_SORTED_AT_ONCE = 1 << 14  # texts; the token ids of millions would not fit in memory
_TOKENS_AT_ONCE = 2048  # on a CPU, padding included; what a layer makes of more leaves its caches


class TextEncoder:
    """A transformer with pooling: texts to vectors that compare by inner product.

    Pooling: `mean` over the tokens that are not padding (Reimers and Gurevych, 2019), `cls`
    the first token's state, `dpr` the pooled output of DPRQuestionEncoder or
    DPRContextEncoder (Karpukhin et al., 2020).
    """

    def __init__(
        self,
        network: Any,
        tokenizer: Any,
        runtime: Runtime,
        pooling: Pooling = "mean",
        normalize: bool = True,
        max_length: int = 256,
    ):
        self.network = network.to(runtime.device)
        self.tokenizer = tokenizer
        self.runtime = runtime
        self.pooling = pooling
        self.normalize = normalize
        self.max_length = max_length
        self.folder: Path | None = None
        """What the weights were loaded from; None: they were given."""
        self.texts_cut = 0
        """Texts that `encode` has cut to `max_length` tokens so far."""

    @classmethod
    def load(
        cls,
        folder: Path,
        runtime: Runtime,
        pooling: Pooling = "mean",
        normalize: bool = True,
        max_length: int = 256,
        place: str = "encoder",
        frozen: bool = False,
    ) -> TextEncoder:
        """Encoder from a folder that `save_pretrained` wrote, in evaluation mode: in float32, or,
        where it is not trained (`frozen`), all of it in the runtime's type. What `save` wrote in
        float32 stays so: what training changed last would be rounded away.

        Raises UserError, its lines under the key `place`, where the weights do not fit.
        """
        problems = find_problems(folder, pooling, max_length)
        if problems:
            raise UserError([f"{place}.{line}" for line in problems])
        kind = "frozen encoder" if frozen else "encoder"
        dtype = "float32" if not frozen or _read_dtype(folder) == "float32" else runtime.dtype
        name = (resident.name_folder(folder), pooling == "dpr", runtime.device, dtype)
        network = resident.take(kind, name)
        if network is None:
            network = _load_network(folder, pooling).to(getattr(torch, dtype)).eval()
            resident.lend(kind, name, network)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        encoder = cls(network, tokenizer, runtime, pooling, normalize, max_length)
        encoder.folder = folder
        return encoder

    def thaw(self) -> None:
        """Make what was loaded `frozen` ready to be trained: load it again, in float32, where it
        is in a narrower type."""
        if self.network.dtype != torch.float32:
            assert self.folder is not None
            network = _load_network(self.folder, self.pooling).to(torch.float32).eval()
            self.network = network.to(self.runtime.device)

    def release(self) -> None:
        """Leave the weights to the next user in this process, if training did not change them.

        The encoder is of no use then.
        """
        resident.give_back(self.network)

    def save(self, folder: Path) -> None:
        """Write weights and tokenizer, as `load` reads them, and the settings, for a reader."""
        folder.mkdir(parents=True, exist_ok=True)
        self.network.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        settings = {
            "pooling": self.pooling,
            "normalize": self.normalize,
            "max_length": self.max_length,
            "dtype": str(self.network.dtype).removeprefix("torch."),
        }
        (folder / _SETTINGS_FILE).write_text(json.dumps(settings, indent=2) + "\n", "utf-8")

    def load_weights(self, folder: Path) -> None:
        """Take over, in place, the weights that `save` wrote."""
        load_weights(self.network, folder)

    @property
    def dimension(self) -> int:
        """Numbers in a vector."""
        return _dimension(self.network.config, self.pooling)

    def encode(
        self,
        texts: Sequence[str],
        batch_size: int = 32,
        progress: str | None = None,
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        """Vectors `[n, dimension]` float32 of n texts, in their order, without gradient.

        Texts are batched by length, longest first, so that little padding is computed and
        memory that does not suffice shows at once. A batch has `batch_size` texts at most, on a
        CPU fewer where they are long. `progress` names the bar (None: no bar),
        `out` takes the vectors (e.g. a memory map). `texts` needs a length and slices only.
        """
        if out is None:
            out = np.empty((len(texts), self.dimension), dtype=np.float32)
        was_training = self.network.training
        self.network.eval()
        try:
            with (
                torch.inference_mode(),
                tqdm(total=len(texts), desc=progress, unit="text", disable=progress is None) as bar,
            ):
                for start in range(0, len(texts), _SORTED_AT_ONCE):
                    block = texts[start : start + _SORTED_AT_ONCE]
                    tokenized = self._tokenize(block)
                    lengths = np.array([len(ids) for ids in tokenized["input_ids"]])
                    order = np.argsort(-lengths, kind="stable")
                    first = 0
                    while first < len(block):
                        most = batch_size
                        if self.runtime.device == "cpu":
                            most = min(most, max(1, _TOKENS_AT_ONCE // lengths[order[first]]))
                        rows = order[first : first + most]
                        first += len(rows)
                        batch = self._pad(_select(tokenized, rows))
                        out[start + rows] = self._pool(batch).cpu().numpy()
                        bar.update(len(rows))
        finally:
            self.network.train(was_training)
        return out

    def forward_texts(self, texts: Sequence[str]) -> Tensor:
        """Vectors `[n, dimension]` of n texts, with gradient, on the device, in float32, or in
        float64 where the network is. On a CPU texts of about one length are read together."""
        tokenized = self._tokenize(texts, quiet=self.texts_cut > 0)
        parts = [list(range(len(texts)))]
        if self.runtime.device == "cpu":
            lengths = [len(ids) for ids in tokenized["input_ids"]]
            parts = split_by_length(lengths, _TOKENS_AT_ONCE)
        vectors = [self._pool(self._pad(_select(tokenized, rows))) for rows in parts]
        return join_rows(vectors, [torch.tensor(rows, device=vectors[0].device) for rows in parts])

    def _tokenize(self, texts: Sequence[str], quiet: bool = False) -> dict[str, list[list[int]]]:
        batch = self.tokenizer(list(texts), truncation=True, max_length=self.max_length)
        # A fast tokenizer keeps what it cut, one encoding a text.
        cut = sum(1 for encoding in batch.encodings or () if encoding.overflowing)
        self.texts_cut += cut
        if cut and not quiet:  # else every batch of a training would say so
            log.info(
                "%d of %d texts are longer than %d tokens and were cut for the encoder",
                cut,
                len(texts),
                self.max_length,
            )
        return dict(batch)

    def _pad(self, batch: dict[str, list[list[int]]]) -> dict[str, Tensor]:
        padded = self.tokenizer.pad(batch, padding=True, return_tensors="pt")
        return {name: values.to(self.runtime.device) for name, values in padded.items()}

    def _pool(self, batch: dict[str, Tensor]) -> Tensor:
        # Autocast would widen the norms of a network that is narrow as a whole.
        mixed = precision(self.runtime) if self.network.dtype == torch.float32 else nullcontext()
        with mixed:
            output = self.network(**batch)
        # Pooling and norm in float32 or wider: sums over tokens lose digits in 16 bits.
        if self.pooling == "dpr":
            vectors = _widen(output.pooler_output)
        elif self.pooling == "cls":
            vectors = _widen(output.last_hidden_state[:, 0])
        else:
            states = _widen(output.last_hidden_state)  # [n, tokens, dimension]
            mask = batch["attention_mask"].unsqueeze(-1).to(states.dtype)  # [n, tokens, 1]
            vectors = (states * mask).sum(1) / mask.sum(1).clamp(min=1)
        return torch.nn.functional.normalize(vectors, dim=-1) if self.normalize else vectors


def _select(tokenized: dict[str, list[list[int]]], rows: Iterable[int]) -> Any:
    return {name: [values[i] for i in rows] for name, values in tokenized.items()}


def _widen(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


def precision(runtime: Runtime) -> Any:
    """Mixed precision for matrix products, where the run decided for it."""
    if runtime.dtype == "float32":
        return nullcontext()
    device = torch.device(runtime.device).type
    return torch.autocast(device, dtype=getattr(torch, runtime.dtype))


def find_problems(folder: Path, pooling: Pooling, max_length: int) -> list[str]:
    """What does not fit the weights in a folder, one line each; reads their config.json only."""
    config = AutoConfig.from_pretrained(folder)
    problems = []
    positions = getattr(config, "max_position_embeddings", None)
    # RoBERTa and its kin number positions from the padding id on.
    offset = (config.pad_token_id or 0) + 1 if "roberta" in config.model_type else 0
    if positions is not None and max_length > positions - offset:
        problems.append(
            f"max_length: {max_length} is more than the encoder reads; "
            f"legal: at most {positions - offset}"
        )
    names = config.architectures or []
    if pooling == "dpr" and not any(name in _DPR for name in names):
        problems.append(
            f"pooling: 'dpr' needs {' or '.join(_DPR)}, but {folder.name!r} holds "
            f"{', '.join(names) or config.model_type}; use 'mean' or 'cls'"
        )
    return problems


def read_dimension(folder: Path, pooling: Pooling) -> int:
    """Numbers in a vector of the encoder in a folder; reads its config.json only."""
    return _dimension(AutoConfig.from_pretrained(folder), pooling)


def _dimension(config: Any, pooling: Pooling) -> int:
    projection = getattr(config, "projection_dim", 0) if pooling == "dpr" else 0
    return int(projection or config.hidden_size)


def _read_dtype(folder: Path) -> str | None:
    """Type that `TextEncoder.save` wrote weights in; None: another wrote them."""
    file = folder / _SETTINGS_FILE
    return json.loads(file.read_text("utf-8")).get("dtype") if file.is_file() else None


def _load_network(folder: Path, pooling: Pooling) -> Any:
    if pooling != "dpr":
        return AutoModel.from_pretrained(folder)
    import transformers

    names = AutoConfig.from_pretrained(folder).architectures
    name = next(name for name in names if name in _DPR)
    return getattr(transformers, name).from_pretrained(folder)
