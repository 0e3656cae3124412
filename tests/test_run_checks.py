"""What is refused or counted before a model is loaded, and what a saved model needs."""

from __future__ import annotations

import json
import logging
import shutil

import pytest
import torch
from datasets import Dataset
from omegaconf import OmegaConf

from rag_experiments.composition.composer import Composer
from rag_experiments.contracts import Question, Runtime, UserError
from rag_experiments.experiment import check_data
from rag_experiments.model.concat import Concat
from rag_experiments.model.generator import Generator, Lora
from rag_experiments.model.query_encoder import QueryEncoder
from rag_experiments.model.rag_token import RagToken
from rag_experiments.pipeline import RagPipeline
from rag_experiments.retriever.dense import Dense
from rag_experiments.retriever.encoder import Encoder
from rag_experiments.stages import read_data, write_data
from rag_experiments.task.prompt import Prompt
from rag_experiments.task.question_answering import QuestionAnswering
from rag_experiments.weights import RANDOM_POSITIONS, resolve

PROMPT = Prompt(template="{context}\n{question}", closed_book="{question}")
TASK = QuestionAnswering(prompt=PROMPT, max_answer_tokens=20)
QUESTIONS = [Question("a", "Why?", ("a word",)), Question("b", "Who?", ("x" * 50,))]
KINDS = {"llama": "causal", "t5": "encoder_decoder", "bart": "encoder_decoder"}


@pytest.fixture(scope="module")
def runtime(tmp_path_factory) -> Runtime:
    return Runtime(cache_dir=tmp_path_factory.mktemp("cache"))


def make_generator(name: str, limit: int = 512, **fields) -> Generator:
    return Generator(weights=f"random:{name}", kind=KINDS[name], max_prompt_tokens=limit, **fields)


def find(runtime, generator, questions=QUESTIONS, task=TASK) -> list[str]:
    return Concat(generator=generator).question_problems(questions, task, 1, runtime)


def test_answers_that_are_no_labels_are_named_by_file_and_line(runtime, tmp_path):
    rows = [("a", "yes"), ("b", "maybe"), ("c", "no"), ("d", None)]
    lines = [
        json.dumps({"id": name, "question": f"Is {name} one?", "answers": answer or []})
        for name, answer in rows
    ]
    for name in ("train", "test"):
        text = "\n".join(lines).replace('"id": "', f'"id": "{name}-')
        (tmp_path / f"{name}.jsonl").write_text(text.replace("Is ", f"Is {name} "))
    (tmp_path / "passages.jsonl").write_text(json.dumps({"id": "p", "text": "A text."}))
    line = ["data=folder", f"data.path={tmp_path}", "task=yes_no", "metrics=yes_no"]
    line += ["data.validation_fraction=0", "trainer.eval_strategy=no", "tracking=none"]
    (run,) = Composer().plan(line).jobs
    data = run.data.load(runtime)
    write_data(data, tmp_path)
    assert read_data(tmp_path).places == data.places
    with pytest.raises(UserError) as refused:
        check_data(run, data, runtime)
    found = [problem for problem in refused.value.problems if "answers" in problem]
    assert [problem.partition(" of 8")[0] for problem in found] == [
        f"{tmp_path}/train.jsonl:4:answers: 2",
        f"{tmp_path}/train.jsonl:2:answers: 'maybe', of 2",
    ]


@pytest.mark.parametrize(("name", "legal"), [("llama", RANDOM_POSITIONS - 52), ("bart", 2048)])
def test_prompt_and_answer_must_have_positions(runtime, name, legal):
    # 50 bytes, the blank that leads an answer, its end; beside the prompt in a causal model only
    assert find(runtime, make_generator(name, legal)) == []
    (problem,) = find(runtime, make_generator(name, legal + 1))
    assert problem.startswith(f"model.generator.max_prompt_tokens: {legal + 1}")
    assert problem.endswith(f"'random:{name}'; legal: at most {legal}")


def test_relative_positions_have_no_end(runtime):
    assert find(runtime, make_generator("t5", 5000)) == []


def test_targets_that_no_answer_can_reach_are_counted(runtime, caplog):
    with caplog.at_level(logging.WARNING):
        find(runtime, make_generator("t5"), QUESTIONS[:1])
        assert not caplog.text
        find(runtime, make_generator("t5"))
    assert "1 of 2 different target answers are longer than task.max_answer_tokens 20" in (
        caplog.text
    )


def test_questions_that_do_not_fit_are_one_line_with_the_value_that_helps(runtime):
    questions = [Question(str(n), "w" * n, ("x",)) for n in (10, 100, 300, 200)]
    (problem,) = find(runtime, make_generator("llama", 64), questions)
    assert "64 is too small for 3 of 4 questions; the longest, '300'" in problem
    enough = int(problem.rpartition(" ")[2])
    assert find(runtime, make_generator("llama", enough), questions) == []
    assert find(runtime, make_generator("llama", enough - 1), questions) != []


def test_weights_that_are_not_there_are_found_without_loading():
    assert make_generator("t5").problems() == []
    lama = Generator(weights="random:lama", kind="causal")
    assert "did you mean 'llama'" in lama.problems()[0]
    assert QueryEncoder(weights="./nope").problems()[0].startswith("weights: './nope' is not a")


def test_four_bits_are_refused_on_a_cpu_before_weights_are_fetched(tmp_path):
    generator = make_generator("llama", quantization="nf4", adapter=Lora())
    problems = find(Runtime(cache_dir=tmp_path), generator)
    assert problems[0].startswith("model.generator.quantization: nf4 needs an NVIDIA GPU, but")
    with pytest.raises(UserError, match="needs an NVIDIA GPU"):
        generator.load(Runtime(cache_dir=tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_answers_are_not_scored_where_no_posterior_is_defined(runtime, monkeypatch):
    model = Concat(generator=make_generator("llama")).load(TASK, runtime, encode_queries=False)
    monkeypatch.setattr(model, "score_answers", None)
    pipeline = make_pipeline(runtime, model=model)
    (prediction,) = pipeline.predict(QUESTIONS[:1], [[]])
    assert prediction.posterior == ()


def make_pipeline(runtime, weights: str = "random:bert", model=None) -> RagPipeline:
    encoder = Encoder(weights=weights, max_length=64)
    retriever = Dense(encoder=encoder, top_k=2)
    rows = [{"id": f"p{n}", "title": "", "text": f"text {n}", "document_id": "d"} for n in range(4)]
    passages = Dataset.from_list(rows)
    if model is None:
        option = RagToken(
            generator=make_generator("llama"), query_encoder=QueryEncoder(weights=weights)
        )
        model = option.load(TASK, runtime, encode_queries=True)
    searcher = retriever.build(passages, runtime)
    return RagPipeline(TASK, retriever, model, searcher, passages)


def describe(option) -> dict:
    """The configuration node of an option."""
    kind = type(option)
    fields = {name: getattr(option, name) for name in kind.model_fields}
    return {"_target_": f"{kind.__module__}.{kind.__qualname__}"} | {
        name: describe(value) if hasattr(value, "model_fields") else value
        for name, value in fields.items()
    }


def test_a_saved_run_keeps_its_query_encoder_and_outlives_the_folders_it_began_with(
    runtime, tmp_path
):
    weights = tmp_path / "weights"
    shutil.copytree(resolve("random:bert", runtime.cache_dir), weights)
    pipeline = make_pipeline(runtime, str(weights))
    model = pipeline.model
    model.train_query_encoder(True)
    with torch.no_grad():
        for parameter in model.query_network.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    groups = {"task": TASK, "model": model.option, "retriever": pipeline.retriever}
    raw = OmegaConf.create({name: describe(option) for name, option in groups.items()})
    raw.update({"seed": 1, "cache_dir": str(runtime.cache_dir)})
    pipeline.save(tmp_path / "first", raw, runtime.cache_dir)
    shutil.rmtree(weights)

    loaded = RagPipeline.load(tmp_path / "first", device="cpu", precision="float32")
    loaded.save(tmp_path / "second", raw, runtime.cache_dir)
    again = RagPipeline.load(tmp_path / "second", device="cpu", precision="float32")
    expected = pipeline.ask("Why?")
    assert again.ask("Why?").retrieval_scores == pytest.approx(expected.retrieval_scores)


def test_a_temperature_says_what_it_was_fitted_on(runtime, caplog):
    pipeline = make_pipeline(runtime)
    questions = [Question("q", "text 1", ("x",), ("p1",))]
    with caplog.at_level(logging.INFO):
        pipeline.fit_temperature(questions, name="train")
        assert "fitted on 1 train questions" in caplog.text
        pipeline.fit_temperature([Question("q", "text 1")], pipeline.search(questions), "test")
    assert "the spread of the scores; none of 1 test questions tells" in caplog.text
    assert pipeline.temperature > 0
