"""Searches that configs start from."""

import ml_collections


def layerwise(method: str = 'tsv_m') -> ml_collections.ConfigDict:
  """Layer-wise fusion: a coefficient an expert, layer and component.

  Of climbs, screening and races it has what surely paid at equal cost, see
  results/ablation.json; rungs cost nothing there, and doubled the candidates.
  """
  config = ml_collections.ConfigDict()
  config.method = method  # any that has numbers to search, see merging/
  config.semantics = 'mergekit-0.1.5'  # or paper, where they differ
  config.space = 'layerwise'  # see search/settings.py
  config.space_options = ml_collections.ConfigDict()
  config.layers_per_group = 1
  config.components = 'coarse'  # attention, MLP, the rest; or fine, own, tensor
  config.ranges = ml_collections.ConfigDict()  # e.g. {'weight': (-0.5, 1.5)}
  config.explore = 0  # candidates from everywhere, beside the start points
  config.explore_design = 'latin'  # evenly, or uniform: independently
  config.hand_made_starts = True  # experts, their average, a grid of weights
  config.designs = ()  # recipe files to start from as well
  config.objective = 'accuracy'  # or log_likelihood; mean over tasks
  config.objectives = ()  # e.g. ('movie', 'sarcasm') for a front
  config.constraints = ml_collections.ConfigDict()  # e.g. {'movie': 0.01}
  config.reference = 'base'  # what constraints are relative to
  config.task_weights = ml_collections.ConfigDict()  # in the mean
  config.preference = ()  # weights of the objectives; (): the front's knee
  config.derived = ()  # experts that are merges themselves
  config.optimizer = 'cma_es'  # see search/settings.py
  config.std = 0.05  # first step, as a share of each range
  config.population = 8
  config.budget = '50'  # full evaluations; or '80000 items', '30 minutes'
  config.candidates = 0  # most, start points included; 0: as the budget pays
  config.batch_size = 0  # candidates vmapped together; 0: one at a time
  config.rungs = (50, 200)  # items a task
  config.schedule = 'halving'  # or hyperband, asynchronous: who is promoted
  config.eta = 4  # one in so many candidates reaches the next rung
  config.promote = ()  # instead of eta, so many of a generation; (): by eta
  config.race = 0.0  # error rate of stopping early inside a rung; 0: no race
  config.looks = 4  # of a race, in a rung
  config.screen = 1  # proposals a candidate, for the surrogate; 1: none
  config.acquisition = 'ucb'  # or ei, log_ei; of optimizer bayes as well
  config.gradient_steps = 16  # of a climb along the gradient; 0: none
  config.gradient_rate = 0.04  # as a share of each range
  config.gradient_objective = ''  # as objective; or margin, experts, ...
  config.gradient_every = 0  # generations between climbs; 0: one at the start
  config.gradient_validation = 0.25  # share of items that gradients do not see
  config.gradient_shrinkage = 1.0  # pull to the mean of each layer
  config.minibatches = 4  # gradient steps take the search items in turn
  # What df_merge weights with, see docs/df_merge.md.
  config.fisher_examples = 30  # search items a task
  config.fisher_estimate = 'exact'  # or sampled, label
  config.fisher_normalisation = 'none'  # or global_norm, trace
  config.fisher_at = 'candidate'  # or expert: measured once
  config.finalists = 8  # compared on select items, beside the mean
  config.select = 500  # items a task
  config.heldout = 1000  # items a task
  # Grids of the tuned baselines; the first is also the search's start design.
  config.weights = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0)
  config.ties_scales = (0.6, 0.8, 1.0, 1.2, 1.5)
  config.ties_densities = (0.2, 0.5, 1.0)
  config.tsv_scales = (0.8, 1.0, 1.2, 1.4)  # of tuned TSV-Merge; (): none
  config.dtype = 'float32'  # or bfloat16, float16: in which models compute
  config.denoise = True  # rank by accuracies drawn to their log-likelihoods
  config.gate = True  # refuse what is far beyond its parents on plain sentences
  config.force_test_split = False  # whether test items may be searched on
  return config


def brief() -> ml_collections.ConfigDict:
  """Layer-wise fusion in minutes: a smaller budget, few baselines."""
  config = layerwise()
  config.budget = '30'
  config.finalists = 2
  config.ties_scales = (0.8, 1.2)
  config.ties_densities = (0.2, 0.5)
  config.tsv_scales = (1.0, 1.3)
  config.select = 200
  return config


def likelihood(method: str = 'task_arithmetic') -> ml_collections.ConfigDict:
  """Layer-wise fusion by log-likelihood, without singular vectors.

  For large models, whose singular vectors take minutes, and for few items,
  whose accuracy says little.
  """
  config = layerwise(method)
  config.objective = 'log_likelihood'
  config.budget = ''
  config.candidates = 50
  config.gradient_rate = 0.03
  config.gradient_validation = 0.0
  config.gradient_shrinkage = 0.0
  config.gradient_steps = 24
  config.minibatches = 8
  config.ties_scales = (0.8, 1.2)
  config.ties_densities = (0.2, 0.5)
  config.tsv_scales = ()
  config.select = 200
  return config


def modelwise() -> ml_collections.ConfigDict:
  """Model-wise merging: one coefficient an expert."""
  config = layerwise()
  config.space = 'modelwise'
  return config
