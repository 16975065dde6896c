"""The searches behind results/df_merge.json: coefficients of task vectors.

  python -m experiments.finetune --config=configs/encoder_suite.py \
    --workdir=runs/encoder_suite
  python -m experiments.search --config=configs/df_merge.py:encoder/gta_bo \
    --workdir=DIR

Behind the colon stand a suite and a search, or one of `ABLATIONS`. All searches
of a suite take the same number of full evaluations, and choose their finalists
on the same select items:

df_merge_ei, df_merge_ucb  as published: arXiv 2504.18992
df_merge_layerwise         coefficients by layer and component, our optimizer,
                           from 1/K and larger ones: our extension
gta_bo                     the same without Fisher information
random_search              the same without an optimizer
lfs_search                 the suite's own layer-wise search
"""

import ml_collections

from configs import domain_suite, encoder_suite, lm_suite, searches

SUITES = {'encoder': encoder_suite, 'domain': domain_suite, 'lm': lm_suite}
SEARCHES = (
  'df_merge_ei',
  'df_merge_ucb',
  'df_merge_layerwise',
  'gta_bo',
  'random_search',
  'lfs_search',
)
RANDOM = 10  # uniform points that a published search begins with
EARLY = RANDOM + 9  # full evaluations that the paper found nearly enough
STEPS = {'encoder': 60, 'domain': 60, 'lm': EARLY}
ITEMS = {'encoder': 200, 'domain': 200, 'lm': 50}  # search items a task
SEEDS = {'encoder': (0, 1, 2), 'domain': (0, 1, 2), 'lm': (0,)}
EXAMPLES = 30  # of a task, on which Fisher information is measured
# What differs from df_merge_ei.
ABLATIONS = {
  **{
    f'items_{share}': {
      'rungs': (ITEMS['encoder'] * share // 100,),
      'fisher_examples': min(EXAMPLES, ITEMS['encoder'] * share // 100),
    }
    for share in (5, 10, 30)
  },
  'static': {'fisher_at': 'expert'},
  'examples_5': {'fisher_examples': 5},
  'examples_100': {'fisher_examples': 100},
}
ABLATED = 'encoder'


def _modelwise(suite: str) -> ml_collections.ConfigDict:
  """Bayesian optimisation of one coefficient an expert, as published."""
  config = searches.modelwise()
  config.semantics = 'paper'
  config.ranges.weight = (0.0, 1.0)
  config.optimizer = 'bayes'
  config.acquisition = 'ei'
  config.population = 1
  config.explore = RANDOM
  config.explore_design = 'uniform'
  config.hand_made_starts = False
  return _alike(config, suite)


def _alike(
  config: ml_collections.ConfigDict, suite: str
) -> ml_collections.ConfigDict:
  """One rung, no gradients, items and finalists as every search has them."""
  config.budget = ''
  config.candidates = STEPS[suite]
  config.rungs = (ITEMS[suite],)
  config.gradient_steps = 0
  return _chosen(config, suite)


def _chosen(
  config: ml_collections.ConfigDict, suite: str
) -> ml_collections.ConfigDict:
  """Select and held-out items of the suite; no grids of other methods."""
  own = SUITES[suite].get_config()
  if 'search' in own:
    own = own.search
    config.finalists = 8 if suite == 'domain' else own.finalists
    config.select, config.heldout = own.select, own.heldout
  config.ties_scales = config.ties_densities = ()
  return config


def _fisher(
  config: ml_collections.ConfigDict, suite: str
) -> ml_collections.ConfigDict:
  config.method = 'df_merge'
  config.weights = (0.3,)
  config.tsv_scales = ()
  config.fisher_examples = EXAMPLES
  # Sums are written, not chosen: there is no set of answers to go through.
  config.fisher_estimate = 'sampled' if suite == 'lm' else 'exact'
  config.fisher_normalisation = 'none'
  config.fisher_at = 'candidate'
  return config


def _arithmetic(
  config: ml_collections.ConfigDict,
) -> ml_collections.ConfigDict:
  config.method = 'task_arithmetic'
  config.weights = (0.3,)
  config.tsv_scales = ()
  return config


def df_merge_ei(suite: str) -> ml_collections.ConfigDict:
  return _fisher(_modelwise(suite), suite)


def df_merge_ucb(suite: str) -> ml_collections.ConfigDict:
  config = df_merge_ei(suite)
  config.acquisition = 'ucb'
  return config


def df_merge_layerwise(suite: str) -> ml_collections.ConfigDict:
  """By layer and component; experts, 1/K and larger weights are starts."""
  config = _fisher(_alike(searches.layerwise(), suite), suite)
  config.semantics = 'paper'
  with config.ignore_type():
    config.weights = (0.3, 0.4, 0.5)  # with experts and 1/K one population
    if suite == 'lm':  # the lower half is shared
      config.layers_per_group = (0, 15, 20, 25)
  config.std = 0.1
  config.population = 4  # many generations for so few candidates
  return config


def gta_bo(suite: str) -> ml_collections.ConfigDict:
  return _arithmetic(_modelwise(suite))


def random_search(suite: str) -> ml_collections.ConfigDict:
  config = gta_bo(suite)
  config.optimizer = 'random'
  return config


def lfs_search(suite: str) -> ml_collections.ConfigDict:
  """The suite's own layer-wise search, within the same budget."""
  own = SUITES[suite].get_config()
  config = own.search if 'search' in own else searches.layerwise()
  config.candidates = 0
  config.budget = str(STEPS[suite])
  if suite == 'lm':  # a climb that a third of the evaluations pays
    config.gradient_steps = config.gradient_steps // 3
  return _chosen(config, suite)


_MADE = {
  'df_merge_ei': df_merge_ei,
  'df_merge_ucb': df_merge_ucb,
  'df_merge_layerwise': df_merge_layerwise,
  'gta_bo': gta_bo,
  'random_search': random_search,
  'lfs_search': lfs_search,
}


def ablation(name: str) -> ml_collections.ConfigDict:
  """The published search, but for what the ablation changes."""
  config = df_merge_ei(ABLATED)
  with config.ignore_type():
    config.update(ABLATIONS[name])
  return config


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """`SUITE/SEARCH`, or `encoder/ABLATION`."""
  suite, _, name = (arg or '').partition('/')
  ablated = suite == ABLATED and name in ABLATIONS
  if suite not in SUITES or not (name in SEARCHES or ablated):
    raise ValueError(
      f'configs/df_merge.py takes SUITE/SEARCH, got {arg!r}; suites: '
      f'{", ".join(SUITES)}; searches: {", ".join(SEARCHES)}; for {ABLATED} '
      f'also {", ".join(ABLATIONS)}'
    )
  config = SUITES[suite].get_config()
  config.experts = f'runs/{suite}_suite/experts'
  config.search = ablation(name) if ablated else _MADE[name](suite)
  return config
