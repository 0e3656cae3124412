"""The marginal likelihoods against enumeration, and what must leave them as they are."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_experiments.functional.likelihood import (
    rag_sequence_log_likelihood,
    rag_token_log_likelihood,
    rag_token_next_log_probs,
    sequence_log_probs,
    sequence_posterior,
    token_log_probs,
    token_posterior,
)

LIKELIHOODS = [rag_sequence_log_likelihood, rag_token_log_likelihood]
POSTERIORS = [sequence_posterior, token_posterior]


def close(actual, expected, tolerance=1e-12):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def draw(seed, b, n, t, absent=0.3):
    """Random log-probabilities, a prior with absent passages, and answers of 1 to t tokens."""
    generator = torch.Generator().manual_seed(seed)
    log_probs = -5 * torch.rand(b, n, t, generator=generator, dtype=torch.float64)
    scores = 2 * torch.randn(b, n, generator=generator, dtype=torch.float64)
    gone = torch.rand(b, n, generator=generator) < absent
    gone[:, 0] = False  # a question has at least one passage
    prior = torch.log_softmax(scores.masked_fill(gone, -torch.inf), 1)
    lengths = torch.randint(1, t + 1, (b,), generator=generator)
    return log_probs, prior, torch.arange(t) < lengths[:, None]


shapes = {
    "seed": st.integers(0, 10_000),
    "b": st.integers(1, 3),
    "n": st.integers(1, 4),
    "t": st.integers(1, 4),
}
examples = settings(max_examples=60, deadline=None)


class TinyModel:
    """p(y_t | z, y_<t) as a table: any distribution over v tokens for each passage and prefix."""

    def __init__(self, seed, n, v, t):
        generator = torch.Generator().manual_seed(seed)
        self.n, self.v, self.t = n, v, t
        self.table = {
            (z, prefix): torch.softmax(2 * torch.randn(v, generator=generator).double(), 0).tolist()
            for z in range(n)
            for length in range(t)
            for prefix in itertools.product(range(v), repeat=length)
        }
        self.prior = torch.softmax(torch.randn(n, generator=generator).double(), 0).tolist()

    def probability(self, z, answer):
        """Of each token of the answer."""
        return [self.table[z, answer[:i]][y] for i, y in enumerate(answer)]

    def tensors(self, answers):
        log_probs = torch.tensor(
            [[self.probability(z, a) for z in range(self.n)] for a in answers],
            dtype=torch.float64,
        ).log()
        prior = torch.tensor(self.prior, dtype=torch.float64).log().expand(len(answers), -1)
        return log_probs, prior, torch.ones(len(answers), self.t, dtype=torch.bool)

    def all_answers(self):
        return list(itertools.product(range(self.v), repeat=self.t))


@pytest.mark.parametrize("seed", range(3))
def test_rag_sequence_sums_over_passages(seed):
    model = TinyModel(seed, n=3, v=3, t=3)
    answers = model.all_answers()
    expected = [
        sum(model.prior[z] * math.prod(model.probability(z, a)) for z in range(3)) for a in answers
    ]
    actual = rag_sequence_log_likelihood(*model.tensors(answers)).exp()
    close(actual, torch.tensor(expected, dtype=torch.float64))
    assert actual.sum().item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_rag_token_sums_over_sequences_of_passages(seed):
    """p(y|x) = sum over (z_1, ..., z_t) of prod_t p(z_t|x) p(y_t|x, z_t, y_<t)."""
    model = TinyModel(seed, n=3, v=3, t=3)
    answers = model.all_answers()
    expected = []
    for answer in answers:
        each = [model.probability(z, answer) for z in range(3)]
        expected.append(
            sum(
                math.prod(model.prior[z] * each[z][i] for i, z in enumerate(passages))
                for passages in itertools.product(range(3), repeat=3)
            )
        )
    actual = rag_token_log_likelihood(*model.tensors(answers)).exp()
    close(actual, torch.tensor(expected, dtype=torch.float64))
    assert actual.sum().item() == pytest.approx(1, abs=1e-12)


def test_posteriors_by_bayes():
    model = TinyModel(5, n=3, v=3, t=2)
    answers = model.all_answers()
    tensors = model.tensors(answers)
    by_sequence, by_token = sequence_posterior(*tensors), token_posterior(*tensors)
    for i, answer in enumerate(answers):
        each = [model.probability(z, answer) for z in range(3)]
        joint = [model.prior[z] * math.prod(each[z]) for z in range(3)]
        assert by_sequence[i].tolist() == pytest.approx([j / sum(joint) for j in joint])
        # The passages of the tokens are independent: the expected share of tokens from z.
        total, share = 0.0, [0.0] * 3
        for passages in itertools.product(range(3), repeat=2):
            weight = math.prod(model.prior[z] * each[z][t] for t, z in enumerate(passages))
            total += weight
            for z in passages:
                share[z] += weight / 2
        assert by_token[i].tolist() == pytest.approx([s / total for s in share])


def test_by_hand():
    """Two passages of prior 3/4 and 1/4, two tokens of 1/2, 1/4 under one and 1/8, 1/2 under the
    other. RAG-Sequence: 3/4 * 1/8 + 1/4 * 1/16 = 7/64. RAG-Token: (3/8 + 1/32)(3/16 + 1/8)
    = 13/32 * 5/16 = 65/512. Posterior of the first passage: (3/32) / (7/64) = 6/7, and
    (12/13 + 3/5) / 2."""
    log_probs = torch.tensor([[[1 / 2, 1 / 4], [1 / 8, 1 / 2]]], dtype=torch.float64).log()
    prior = torch.tensor([[3 / 4, 1 / 4]], dtype=torch.float64).log()
    mask = torch.ones(1, 2, dtype=torch.bool)
    assert rag_sequence_log_likelihood(log_probs, prior, mask).exp().item() == pytest.approx(7 / 64)
    assert rag_token_log_likelihood(log_probs, prior, mask).exp().item() == pytest.approx(65 / 512)
    assert sequence_posterior(log_probs, prior, mask)[0, 0].item() == pytest.approx(6 / 7)
    assert token_posterior(log_probs, prior, mask)[0, 0].item() == pytest.approx(
        (12 / 13 + 3 / 5) / 2
    )


def test_next_token_of_rag_token_is_a_distribution_and_gives_the_likelihood():
    model = TinyModel(9, n=3, v=4, t=3)
    prior = torch.tensor([model.prior], dtype=torch.float64).log()
    answer, value = (2, 0, 3), 0.0
    for i, token in enumerate(answer):
        rows = [model.table[z, answer[:i]] for z in range(3)]
        following = rag_token_next_log_probs(
            torch.tensor([rows], dtype=torch.float64).log(), prior
        )[0]
        assert following.exp().sum().item() == pytest.approx(1, abs=1e-12)
        value += following[token].item()
    assert rag_token_log_likelihood(*model.tensors([answer])).item() == pytest.approx(value)


@pytest.mark.parametrize("function", LIKELIHOODS + POSTERIORS)
@given(**shapes, order=st.randoms(use_true_random=False))
@examples
def test_permuting_passages_changes_nothing(function, seed, b, n, t, order):
    log_probs, prior, mask = draw(seed, b, n, t)
    places = list(range(n))
    order.shuffle(places)
    actual = function(log_probs[:, places], prior[:, places], mask)
    expected = function(log_probs, prior, mask)
    close(actual, expected if function in LIKELIHOODS else expected[:, places])


@pytest.mark.parametrize("function", LIKELIHOODS + POSTERIORS)
@given(**shapes, junk=st.floats(-1e30, 0), place=st.integers(0, 4))
@examples
def test_an_absent_passage_changes_nothing(function, seed, b, n, t, junk, place):
    log_probs, prior, mask = draw(seed, b, n, t)
    place = min(place, n)
    wide_probs = torch.cat(
        [log_probs[:, :place], torch.full((b, 1, t), junk).double(), log_probs[:, place:]], 1
    )
    gone = torch.full((b, 1), -torch.inf).double()
    wide_prior = torch.cat([prior[:, :place], gone, prior[:, place:]], 1)
    kept = [i for i in range(n + 1) if i != place]
    weights = torch.rand(b, n, dtype=torch.float64)  # of the posterior, for a scalar

    def run(probs, own_prior, columns):
        probs, own_prior = probs.clone().requires_grad_(), own_prior.clone().requires_grad_()
        value = function(probs, own_prior, mask)
        scalar = value.sum() if function in LIKELIHOODS else (value[:, columns] * weights).sum()
        scalar.backward()
        return value, probs.grad, own_prior.grad

    value, probs_grad, prior_grad = run(log_probs, prior, list(range(n)))
    wide_value, wide_probs_grad, wide_prior_grad = run(wide_probs, wide_prior, kept)
    if function in LIKELIHOODS:
        close(wide_value, value)
    else:
        close(wide_value[:, kept], value)
        assert (wide_value[:, place] == 0).all()
    for wide, narrow in ((wide_probs_grad, probs_grad), (wide_prior_grad, prior_grad)):
        assert wide.isfinite().all()
        close(wide[:, kept], narrow)
        assert (wide[:, place] == 0).all()


@pytest.mark.parametrize("function", LIKELIHOODS)
@given(seed=shapes["seed"], b=shapes["b"], t=shapes["t"])
@examples
def test_one_passage_is_the_plain_language_model(function, seed, b, t):
    log_probs, _, mask = draw(seed, b, 1, t)
    plain = (log_probs[:, 0] * mask).sum(-1)
    close(function(log_probs, torch.zeros(b, 1, dtype=torch.float64), mask), plain)
    # So are passages that all say the same, whatever their prior.
    _, prior, _ = draw(seed, b, 3, t)
    close(function(log_probs.expand(-1, 3, -1), prior, mask), plain)


@pytest.mark.parametrize("function", LIKELIHOODS + POSTERIORS)
@given(**shapes, junk=st.floats(-1e30, 0))
@examples
def test_padded_targets_change_nothing(function, seed, b, n, t, junk):
    log_probs, prior, mask = draw(seed, b, n, t)
    padded = log_probs.masked_fill(~mask[:, None], junk).requires_grad_()
    value = function(padded, prior, mask)
    for i in range(b):
        alone = log_probs[i : i + 1, :, mask[i]]
        close(value[i : i + 1], function(alone, prior[i : i + 1], mask[i : i + 1, mask[i]]))
    value.sum().backward()
    assert padded.grad.isfinite().all()
    assert (padded.grad.masked_select(~mask[:, None].expand_as(padded)) == 0).all()


@given(**shapes)
@examples
def test_the_two_agree_on_one_token_and_differ_on_more(seed, b, n, t):
    log_probs, prior, mask = draw(seed, b, n, t, absent=0.0)
    one = mask & (torch.arange(t) == 0)
    close(
        rag_sequence_log_likelihood(log_probs, prior, one),
        rag_token_log_likelihood(log_probs, prior, one),
    )
    several = mask.sum(1) > 1
    if n > 1 and several.any():
        difference = rag_sequence_log_likelihood(log_probs, prior, mask)
        difference = difference - rag_token_log_likelihood(log_probs, prior, mask)
        assert (difference[several].abs() > 1e-9).any()


def test_gradients_against_finite_differences():
    log_probs, prior, mask = draw(3, 2, 3, 4)
    prior = torch.log_softmax(torch.randn(2, 3, dtype=torch.float64), 1)
    for function in LIKELIHOODS:
        inputs = (log_probs.clone().requires_grad_(), prior.clone().requires_grad_())
        assert torch.autograd.gradcheck(lambda p, z, f=function: f(p, z, mask), inputs)


@pytest.mark.parametrize("function", LIKELIHOODS)
def test_very_unlikely_answers_stay_finite(function):
    log_probs = torch.full((1, 2, 3), -1e4)
    value = function(log_probs, torch.tensor([[0.5, 0.5]]).log(), torch.ones(1, 3).bool())
    assert value.item() == pytest.approx(-3e4)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_label_smoothing_is_torchs(smoothing):
    torch.manual_seed(0)
    logits, targets = torch.randn(2, 3, 5, 7).double(), torch.randint(7, (2, 3, 5))
    loss = torch.nn.CrossEntropyLoss(reduction="none", label_smoothing=smoothing)
    expected = -loss(logits.permute(0, 3, 1, 2), targets)
    close(token_log_probs(logits, targets, smoothing), expected)
    # And by its definition.
    each = torch.log_softmax(logits, -1)
    own = each.gather(-1, targets[..., None])[..., 0]
    close(expected, (1 - smoothing) * own + smoothing * each.mean(-1))


def test_log_probs_are_float32_or_wider():
    logits = torch.randn(4, 6)
    targets = torch.tensor([0, 1, 2, 5])
    narrow = token_log_probs(logits.bfloat16(), targets)
    assert narrow.dtype == torch.float32
    assert torch.equal(narrow, token_log_probs(logits.bfloat16().float(), targets))
    assert token_log_probs(logits.double(), targets).dtype == torch.float64


def test_sequence_log_probs_leave_padding_out():
    log_probs = torch.tensor([[[-1.0, -2.0, -4.0], [-8.0, -16.0, -32.0]]])
    mask = torch.tensor([[True, True, False]])
    assert sequence_log_probs(log_probs, mask).tolist() == [[-3.0, -24.0]]
