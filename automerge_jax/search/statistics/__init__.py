"""What item scores allow one to say: intervals, paired tests, optimism."""

from automerge_jax.search.statistics.bootstrap import (
  Estimate,
  by_weight,
  gap_closed,
  mean_bootstrap,
  optimism,
  paired_bootstrap,
  resampled_means,
  task_mean,
)
from automerge_jax.search.statistics.pairs import (
  McNemar,
  holm,
  mcnemar,
  mean,
  paired,
  wilson,
)
from automerge_jax.search.statistics.power import detectable, discordance
from automerge_jax.search.statistics.winners import (
  Simultaneous,
  Winner,
  best_of,
  difference_of_bests,
  simultaneous,
)

__all__ = [
  'Estimate',
  'McNemar',
  'Simultaneous',
  'Winner',
  'best_of',
  'by_weight',
  'detectable',
  'difference_of_bests',
  'discordance',
  'gap_closed',
  'holm',
  'mcnemar',
  'mean',
  'mean_bootstrap',
  'optimism',
  'paired',
  'paired_bootstrap',
  'resampled_means',
  'simultaneous',
  'task_mean',
  'wilson',
]
