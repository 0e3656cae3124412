"""Agreement of raters beyond chance. Pure numpy.

Legend: m raters, u rated units, v distinct values.
"""

from __future__ import annotations

from typing import Literal

import numpy as np


def krippendorff_alpha(
    ratings: np.ndarray, level: Literal["nominal", "ordinal", "interval"] = "ordinal"
) -> float:
    """Return Krippendorff's alpha of ratings `[m, u]`, not a number where a rating is missing.

    alpha = 1 - D_o / D_e, the disagreement within units over that of ratings paired at random:
    1 is perfect agreement, 0 what chance gives, below 0 systematic disagreement. Any number of
    raters, who need not have rated the same units; a unit with one rating says nothing about
    agreement and is left out. The distance of two values is 0 or 1 (nominal), their difference
    squared (interval), or the squared number of ratings that lie between them in order, each
    end counted half (ordinal). Not a number where no unit has two ratings or all ratings are
    alike: agreement beyond chance is then not defined.
    Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability".
    """
    matrix = np.asarray(ratings, dtype=np.float64)
    if matrix.ndim != 2:
        raise ValueError(f"ratings has shape {matrix.shape}; it must be [raters, units]")
    known = ~np.isnan(matrix)
    values = np.unique(matrix[known])
    counts = np.stack([((matrix == value) & known).sum(axis=0) for value in values] or [[]])
    counts = counts[:, counts.sum(axis=0) >= 2].astype(np.float64)  # [v, pairable units]
    if counts.size == 0:
        return float("nan")
    # Every unit gives its ordered pairs of ratings, weighted so that each rating counts once.
    weighted = counts / (counts.sum(axis=0) - 1)
    coincidences = weighted @ counts.T - np.diag(weighted.sum(axis=1))
    totals = coincidences.sum(axis=1)
    n = totals.sum()
    distances = _distances(values, totals, level)
    expected = totals @ distances @ totals / (n - 1)
    if expected == 0:
        return float("nan")
    return float(1 - (coincidences * distances).sum() / expected)


def _distances(values: np.ndarray, totals: np.ndarray, level: str) -> np.ndarray:
    """Squared distances `[v, v]` of values that occur `totals` times."""
    if level == "nominal":
        return 1.0 - np.eye(len(values))
    if level == "interval":
        return (values[:, None] - values[None, :]) ** 2
    if level == "ordinal":
        middles = np.cumsum(totals) - totals / 2
        return (middles[:, None] - middles[None, :]) ** 2
    raise ValueError(f"level: {level!r}; legal: nominal, ordinal, interval")
