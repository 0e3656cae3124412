"""Krippendorff's alpha against a published worked example and an independent implementation."""

from __future__ import annotations

import krippendorff
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rag_experiments.functional.agreement import krippendorff_alpha

_ = np.nan
PUBLISHED = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, _, _, _],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, _, 3],
        [_, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, _],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, _],
    ]
)
"""Krippendorff 2011, example C: four observers, twelve units, missing data."""


@pytest.mark.parametrize(
    ("level", "alpha"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)]
)
def test_the_published_example(level, alpha):
    assert krippendorff_alpha(PUBLISHED, level) == pytest.approx(alpha, abs=0.0005)


@settings(max_examples=50, deadline=None)
@given(
    arrays(
        np.float64,
        st.tuples(st.integers(2, 4), st.integers(1, 8)),
        elements=st.sampled_from([1.0, 2.0, 3.0, 5.0, np.nan]),
    ),
    st.sampled_from(["nominal", "ordinal", "interval"]),
)
def test_as_the_package_krippendorff(ratings, level):
    own = krippendorff_alpha(ratings, level)
    pairable = (~np.isnan(ratings)).sum(axis=0) >= 2
    kept = ratings[:, pairable]
    if len(np.unique(kept[~np.isnan(kept)])) < 2:
        assert np.isnan(own)
        return
    theirs = krippendorff.alpha(reliability_data=kept, level_of_measurement=level)
    assert own == pytest.approx(theirs, abs=1e-12)


def test_what_is_not_defined_is_not_a_number():
    assert np.isnan(krippendorff_alpha(np.full((2, 3), np.nan)))
    assert np.isnan(krippendorff_alpha(np.full((2, 3), 4.0)))  # no chance to disagree
    assert np.isnan(krippendorff_alpha(np.array([[1.0, np.nan], [np.nan, 2.0]])))
    assert np.isnan(krippendorff_alpha(np.empty((2, 0))))


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="shape"):
        krippendorff_alpha(np.array([1.0, 2.0]))
    with pytest.raises(ValueError, match="ratio"):
        krippendorff_alpha(PUBLISHED, "ratio")  # type: ignore[arg-type]
