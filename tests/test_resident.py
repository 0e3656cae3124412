"""Weights that stay in memory for the next job are those of a fresh load, to the last bit."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from rag_experiments import resident
from rag_experiments.contracts import Runtime
from rag_experiments.model.generator import Generator, Lora
from rag_experiments.retriever.encoder import Encoder

pytestmark = pytest.mark.usefixtures("nothing_waits")

WHOLE = Generator(weights="random:llama", kind="causal")
ADAPTED = Generator(weights="random:llama", kind="causal", adapter=Lora(rank=4, last_layers=1))
SEQ2SEQ = Generator(weights="random:t5", kind="encoder_decoder", adapter=Lora(rank=4))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def load(option, runtime):
    torch.manual_seed(3)  # adapters begin with random numbers
    return option.load(runtime)


def state(model) -> dict[str, tuple]:
    """Every tensor of a model with its type, whether it is trained, and its bytes."""
    network = model.network
    tensors = (*network.named_parameters(), *network.named_buffers())
    found = {
        name: (t.dtype, t.requires_grad, t.detach().reshape(-1).view(torch.uint8).tolist())
        for name, t in tensors
    }
    return found | {"mode": network.training, "modules": str(network), "hooks": hooks(network)}


def hooks(network) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules())


def logits(model) -> torch.Tensor:
    ids = torch.arange(8)[None]
    kind = {"decoder_input_ids": ids} if model.network.config.is_encoder_decoder else {}
    with torch.inference_mode(), model.autocast():
        return model.network(input_ids=ids, **kind).logits


def train(model) -> None:
    """Two steps on everything that can be trained."""
    model.train()
    trained = [p for p in model.network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.1)
    ids = torch.arange(8)[None]
    for _ in range(2):
        with model.autocast():
            model.network(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("option", [ADAPTED, SEQ2SEQ], ids=["causal", "encoder_decoder"])
def test_adapters_are_taken_off_and_the_base_is_as_loaded(cache, option, dtype):
    runtime = Runtime(cache_dir=cache, dtype=dtype)
    fresh = load(option, runtime)
    expected, said = state(fresh), logits(fresh)
    base = weakref.ref(fresh.network.get_base_model())
    train(fresh)
    assert not torch.equal(logits(fresh), said)
    fresh.release()
    del fresh
    again = load(option, runtime)
    assert again.network.get_base_model() is base()  # not loaded once more
    assert state(again) == expected
    assert torch.equal(logits(again), said)

    again.release()
    other = option.model_copy(update={"adapter": Lora(rank=2, target_modules=["q_proj", "q"])})
    taken = load(other, runtime)
    assert taken.network.get_base_model() is base()
    resident.clear()
    assert state(taken) == state(load(other, runtime))


def test_what_was_trained_whole_is_loaded_again(cache):
    runtime = Runtime(cache_dir=cache)
    model = load(WHOLE, runtime)
    expected, network = state(model), weakref.ref(model.network)
    model.release()
    model = load(WHOLE, runtime)
    assert model.network is network()  # nobody trained it
    assert state(model) == expected
    train(model)
    model.release()
    del model
    gc.collect()
    assert network() is None
    assert state(load(WHOLE, runtime)) == expected


def test_one_changed_bit_is_noticed(cache):
    runtime = Runtime(cache_dir=cache, dtype="bfloat16")
    model = load(ADAPTED, runtime)
    weight = model.network.get_base_model().model.layers[0].mlp.up_proj.weight
    weight.data.view(torch.int16)[0, 0] ^= 1
    assert not resident.give_back(model.network.unload())


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "bfloat16"},
        {"option": WHOLE},
        {"option": ADAPTED.model_copy(update={"attention": "sdpa"})},
        {"option": ADAPTED.model_copy(update={"gradient_checkpointing": True})},
        {"option": SEQ2SEQ},
    ],
    ids=lambda change: str(change)[:40],
)
def test_other_weights_take_the_place_and_free_it_first(cache, change):
    model = load(ADAPTED, Runtime(cache_dir=cache))
    base = weakref.ref(model.network.get_base_model())
    model.release()
    del model
    gc.collect()
    assert base() is not None
    runtime = Runtime(cache_dir=cache, dtype=change.get("dtype", "float32"))
    load(change.get("option", ADAPTED), runtime)
    gc.collect()
    assert base() is None


def test_weights_that_were_replaced_on_disk_are_loaded_again(cache, tmp_path):
    from rag_experiments.weights import resolve

    folder = tmp_path / "weights"
    model = load(WHOLE, Runtime(cache_dir=cache))
    model.network.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    option = WHOLE.model_copy(update={"weights": str(resolve(str(folder), cache))})
    first = load(option, Runtime(cache_dir=cache))
    network = first.network
    first.release()
    with torch.no_grad():
        model.network.lm_head.weight.add_(1)
    model.network.save_pretrained(folder)
    again = load(option, Runtime(cache_dir=cache))
    assert again.network is not network
    assert torch.equal(again.network.lm_head.weight, model.network.lm_head.weight)


def test_an_encoder_stays_unless_it_was_trained(cache):
    runtime = Runtime(cache_dir=cache)
    encoder = Encoder(weights="random:bert", max_length=64)
    first = encoder.load(runtime)
    expected, network = state(first), first.network
    vectors = first.encode(["a", "b"])
    first.network.requires_grad_(False)  # as a model does whose retriever is not trained
    first.release()
    again = encoder.load(runtime)
    assert again.network is network
    assert state(again) == expected
    assert (again.encode(["a", "b"]) == vectors).all()
    with torch.no_grad():
        next(again.network.parameters()).add_(1e-3)
    again.release()
    assert encoder.load(runtime).network is not network
