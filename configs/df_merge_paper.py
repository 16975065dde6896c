"""DF-Merge as it was published: https://arxiv.org/abs/2504.18992.

  python -m experiments.search --config=configs/df_merge_paper.py \
    --config.base=DIR --config.experts=DIR/paws,DIR/qasc \
    --config.tasks=paws.yaml,qasc.yaml --workdir=OUT

Experts are named like their tasks. `configs/df_merge_paper.py:ucb` takes the
other acquisition. docs/df_merge.md says how to state the tasks, and what is
not as in the published code.

One coefficient in [0, 1] an expert; Fisher information of each candidate by
exact expectation over the answers of 30 validation items of its task; 10 random
points and 50 steps of Bayesian optimisation. The merge is the candidate of the
highest accuracy on the search items, the published choice: there is one
finalist, and select items serve the tuned baselines alone.
"""

import ml_collections

from configs import own_models, searches

ACQUISITIONS = ('ei', 'ucb')


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Takes an acquisition; base, experts and tasks must be given."""
  arg = arg or ACQUISITIONS[0]
  if arg not in ACQUISITIONS:
    raise ValueError(
      f'configs/df_merge_paper.py takes an acquisition, got {arg!r}; valid: '
      f'{", ".join(ACQUISITIONS)}'
    )
  config = own_models.get_config()
  config.search = searches.layerwise('df_merge')
  config.search.semantics = 'paper'
  config.search.space = 'modelwise'
  config.search.ranges.weight = (0.0, 1.0)
  config.search.optimizer = 'bayes'
  config.search.acquisition = arg
  config.search.population = 1
  config.search.hand_made_starts = False
  config.search.explore = 10
  config.search.explore_design = 'uniform'
  config.search.candidates = 60
  config.search.budget = ''
  config.search.gradient_steps = 0
  config.search.gate = False  # every point is scored
  config.search.denoise = False  # and ranked by what it scored
  # All items, as published, cannot be said: it is one number for all tasks, at
  # most what the smallest has. Raise it to that.
  config.search.rungs = (300,)
  config.search.finalists = 1
  config.search.select = 100
  config.search.heldout = 300
  config.search.tsv_scales = ()  # came later, and takes singular vectors
  return config
