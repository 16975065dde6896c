"""What objectives are likely to be, beside what few items say they are.

Which of two good merges gets more of a hundred items right is mostly chance;
how likely they hold the right answers to be is less so. Each objective is
therefore drawn to its regression on the same items' log-likelihoods, as far as
it scatters around it by chance alone: the empirical best linear predictor of
Fay and Herriot, https://doi.org/10.1080/01621459.1979.10482505.
"""

import numpy as np

_LEAST = 8  # merges, of which half or more are near the line
_FAR = 3.0  # times as far below the best as the median is


def drawn(
  values: np.ndarray, likelihoods: np.ndarray, noise: float
) -> np.ndarray:
  """One objective of all merges, drawn to its line, [N].

  The line is that of merges which are not much less likely than most: far
  below, where models break, another one holds. Where it does not rise, or
  merges are too few, values stay as they are.

  Args:
    values: measured on the same items, [N].
    likelihoods: of the right answers, nats, [N].
    noise: variance of what chance adds to differences of values.
  """
  if len(values) < _LEAST or not np.isfinite(likelihoods).all():
    return values
  top = likelihoods.max()
  likely = likelihoods >= top - _FAR * (top - np.median(likelihoods))
  y, z = values[likely], likelihoods[likely]
  moved = z - z.mean()
  spread = float(moved @ moved)
  slope = float(moved @ y) / spread if spread > 0 else 0.0
  if slope <= 0:
    return values
  line = y.mean() + slope * (likelihoods - z.mean())
  left = values - line
  # Also of those that score well in spite of their likelihood.
  good = likely | (values >= np.median(values))
  scatter = float((left[good] ** 2).sum()) / (good.sum() - 2)
  if scatter <= 0:
    return values
  own = max(0.0, scatter - noise) / scatter
  return line + own * left


def noise(scores: np.ndarray, task: np.ndarray, weights: np.ndarray) -> float:
  """Variance of what chance adds to a merge's weighted mean of task means.

  All merges see the same items: what is hard for all of them is no difference
  between them.

  Args:
    scores: of N merges on n items, [N, n].
    task: of each item, [n].
    weights: of each task, [tasks].
  """
  apart = scores - scores.mean(0, keepdims=True)
  total = 0.0
  for t, weight in enumerate(weights):
    mine = apart[:, task == t]
    if weight and mine.shape[1] > 1:
      own = mine.var(axis=1, ddof=1).mean() / mine.shape[1]
      total += float(weight**2 * own)
  return total
