"""Standard errors of metrics over the samples; a metric's 95 % interval is its value ± 1.96 standard errors.

An interval covers the values that other sets of N samples would give against the same reference.  It does not
cover bias: FID and the inception score of N samples differ from those of infinitely many.  Class labels that
repeat in cycles make an interval wider than necessary, never narrower.

Checked by simulation (tests/evaluation/test_uncertainty.py, -m slow): 3 to 5 problems for each metric, with
normal features, N from 100 to 5,000 and 200 to 300 fresh sample sets.  The coverage is the share of intervals
that contain the mean over all sets.  The ratio is the root mean square standard error over the observed
standard deviation.

    metric     coverage     ratio         remarks
    IS         91 to 96 %   0.88 to 1.08  too narrow if a chunk has only one or two samples of each class
    KID        92 to 94 %   0.99 to 1.02  a delete-d jackknife over its subsets has a ratio of 2 to 4
    precision  over 92 %    -             94 % on average, from N = 100
    recall     94 to 99 %   1.02 to 1.29  plain resamples: 77 to 100 % and 0.7 to 1.9; with the radii of all
                                          samples: 67 to 99 % and 0.5 to 1.4; delete-group jackknife: 97 to
                                          100 % and 1.3 to 1.6
    Frechet    96 to 99 %   1.07 to 1.30  too wide, because a jackknife counts the variance of pairs twice

N samples, M real images, F features, K classes, B resamples, G groups.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

# scipy.stats.bootstrap would replace none of this: no metric here is a plain mean, and recorded intervals would move.
RESAMPLES = 500
Z_95 = 1.96
"""Half the width of a 95 % interval, in standard errors."""


def jackknife_standard_error(leave_out_values: Sequence[float]) -> float:
    """Compute a delete-group jackknife standard error from G values, each with one group left out."""
    groups, values = len(leave_out_values), np.asarray(leave_out_values)
    return float(np.sqrt((groups - 1) / groups * np.square(values - values.mean()).sum()))


def proportion_standard_error(flags_N: np.ndarray) -> float:
    """Compute the bootstrap standard error of a proportion in closed form, from its binomial distribution.

    Two flags of each value are added (Agresti and Coull 1998); otherwise a proportion of 0 or 1 has no error.
    """
    n, hits = len(flags_N) + 4, float(np.sum(flags_N)) + 2
    return float(np.sqrt(hits / n * (1 - hits / n) / n))


def bootstrap_counts(rng: np.random.Generator, size: int) -> np.ndarray:
    """Draw resamples with replacement: (B, N) float64, how often each resample contains each sample."""
    counts = (np.bincount(rng.integers(size, size=size), minlength=size) for _ in range(RESAMPLES))
    return np.stack([c.astype(np.float64) for c in counts])


def inception_score_standard_error(
    score: float, p_NK: np.ndarray, entropy_N: np.ndarray, chunks: Iterable[np.ndarray]
) -> float:
    """Bootstrap an inception score, resampling within each chunk (row numbers) of the protocol.

    `p_NK` are class probabilities and `entropy_N` their sum of p log p, both float64.  Resamples contain fewer
    distinct images, so their scores are lower.  The result is their relative spread times the score.
    """
    rng, chunk_scores = np.random.default_rng(0), []
    for rows in chunks:
        weights = torch.from_numpy(bootstrap_counts(rng, len(rows))) / len(rows)
        q, entropy = weights @ torch.from_numpy(p_NK[rows]), weights @ torch.from_numpy(entropy_N[rows])
        chunk_scores.append((entropy - q.xlogy(q).sum(1)).exp())
    scores_B = torch.stack(chunk_scores).mean(0)
    return float(scores_B.std() / scores_B.mean()) * score


def kid_standard_error(samples_NF: np.ndarray, real_MF: np.ndarray, subsets: Iterable[tuple[np.ndarray, ...]]) -> float:
    """Compute the bootstrap standard error of KID over the samples in closed form.

    `subsets` are pairs of row numbers, of the samples and of the real images.  A sample's term is the derivative
    of the mean MMD^2 by that sample's weight, and the error is that of the sum of all terms.  A term is itself a
    mean over partners.  With all partners, that noise counts the variance of pairs twice; the product of terms
    from two halves of the partners does not count it at all.  The average of both counts it once.
    """
    half_N = torch.from_numpy(np.random.RandomState(0).permutation(len(samples_NF)) % 2).double()
    terms, count = torch.zeros(2, len(samples_NF), dtype=torch.float64), 0
    for sample_rows, real_rows in subsets:
        x, y = (torch.from_numpy(a).double() for a in (samples_NF[sample_rows], real_MF[real_rows]))
        k = polynomial_kernel(x, x) - polynomial_kernel(x, y).mean(1, keepdim=True)
        k.fill_diagonal_(0)
        half = half_N[sample_rows]
        pairs = len(sample_rows) * (len(sample_rows) - 1)
        terms[:, sample_rows] += 2 * torch.stack([k @ half, k @ (1 - half)]) / pairs
        count += 1
    terms = (terms - terms.mean(1, keepdim=True)) / count
    counted_twice, not_counted = terms.sum(0).square().sum(), 4 * (terms[0] * terms[1]).sum()
    return float(((counted_twice + not_counted.clamp(min=0)) / 2).sqrt())


def polynomial_kernel(a_NF: Tensor, b_MF: Tensor) -> Tensor:
    """Compute KID's kernel (a b / F + 1)^3 (arXiv:1801.01401, section 4): (N, M)."""
    return (a_NF @ b_MF.T / a_NF.shape[1] + 1) ** 3
