"""The kinds of search, one by one, on the encoder suite.

  python -m experiments.finetune --config=configs/encoder_suite.py \
    --workdir=runs/encoder_suite
  python -m experiments.search --config=configs/spaces.py:depthwise \
    --workdir=DIR

The word behind the colon is one of `KINDS`. Any leaf can be set, such as
`--config.search.optimizer=gp_bo` or `--config.search.space_options.keep=5`.
"""

import ml_collections

from configs import encoder_suite, searches

METHODS = 'task_arithmetic,linear,ties,slerp'


def _search(space: str, method: str = 'task_arithmetic', **options):
  config = searches.likelihood(method)
  config.space = space
  config.space_options = ml_collections.ConfigDict(options)
  config.components = 'own'
  config.optimizer = 'mixed'
  config.std = 0.1
  config.population = 16
  config.candidates = 160
  config.rungs = (50, 300)
  config.promote = (4,)
  config.select = 400
  return config


def layerwise() -> ml_collections.ConfigDict:
  """Layer-wise fusion: a method for each group of layers, and its numbers."""
  config = _search('layerwise', METHODS, choice='group')
  config.layers_per_group = 2
  return config


def smooth() -> ml_collections.ConfigDict:
  """Layer-wise fusion whose numbers change smoothly over depth."""
  config = _search('layerwise', METHODS, choice='group', knots=3)
  with config.ignore_type():
    config.layers_per_group = (0, 1, 5)  # first layers of uneven groups
  return config


def depthwise() -> ml_collections.ConfigDict:
  """Depth-wise integration: which layers, in which order, how often."""
  config = _search(
    'depthwise', '', min_layers=5, max_layers=9, copies=2, repeats=1
  )
  config.gradient_steps = 0  # little of it is a number
  config.rungs = (150, 300)  # fewer items cannot rank layer programs
  config.promote = (8,)
  config.candidates = 110
  return config


def pruning() -> ml_collections.ConfigDict:
  """Fewer layers, each merged of what the experts have there."""
  config = _search('pruning', keep=4)
  config.gradient_steps = 0  # no coefficient follows a gradient
  return config


def both() -> ml_collections.ConfigDict:
  """Coefficients and layer programs at once."""
  config = _search('both', min_layers=5, max_layers=8)
  config.layers_per_group = 2
  return config


def front() -> ml_collections.ConfigDict:
  """The trade-offs between all four tasks, instead of their mean."""
  config = _search('layerwise')
  config.components = 'coarse'
  config.layers_per_group = 2
  config.objective = 'accuracy'
  config.objectives = encoder_suite.TASKS
  config.optimizer = 'nsga2'
  config.rungs = (200,)  # a front of few items keeps the wrong ones
  config.promote = ()
  config.candidates = 100
  config.finalists = 16
  return config


def constrained() -> ml_collections.ConfigDict:
  """One task raised, while no other falls more than a point below a model."""
  config = _search('layerwise')
  config.components = 'coarse'
  config.layers_per_group = 2
  config.objectives = ('movie',)
  config.constraints = ml_collections.ConfigDict({'*': 0.01})
  config.reference = 'sarcasm'
  return config


def published_layerwise() -> ml_collections.ConfigDict:
  """The layout of arXiv 2502.04030's layer-wise fusion, for comparison."""
  config = _search('published_layerwise', layer_granularity=2)
  config.gradient_steps = 0  # as published
  return config


def published_depthwise() -> ml_collections.ConfigDict:
  """The layout of its depth-wise integration."""
  config = _search('published_depthwise', layers=8)
  config.gradient_steps = 0
  return config


KINDS = {
  'layerwise': layerwise,
  'smooth': smooth,
  'depthwise': depthwise,
  'layerwise_depthwise': layerwise,
  'pruning': pruning,
  'both': both,
  'front': front,
  'constrained': constrained,
  'published_layerwise': published_layerwise,
  'published_depthwise': published_depthwise,
}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """The encoder suite with a search of the kind `arg`."""
  if arg not in KINDS:
    raise ValueError(
      f'configs/spaces.py takes a kind of search, got {arg!r}; valid: '
      f'{", ".join(KINDS)}'
    )
  config = encoder_suite.get_config()
  config.experts = 'runs/encoder_suite/experts'
  config.search = KINDS[arg]()
  if arg == 'layerwise_depthwise':
    config.then = depthwise()
  return config
