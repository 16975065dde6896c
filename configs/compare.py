"""Problems on which searches are compared.

  python -m experiments.bench.search_compare

The word behind the colon is one of `SCENES`; `configs/compare.py:layerwise` is
also a config for `experiments.search`.
"""

import ml_collections

from configs import encoder_suite, searches, spaces, tiny_suite

# Full evaluations of each search.
_TINY, _ENCODER = '50', '100'


def _tiny(search: ml_collections.ConfigDict, tasks: int = 4):
  config = tiny_suite.get_config()
  names = encoder_suite.TASKS[:tasks]
  config.tasks = ml_collections.ConfigDict(
    {name: config.tasks[name] for name in names}
  )
  config.search = search
  config.search.objective = 'accuracy'
  config.search.candidates = 0
  config.search.budget = _TINY
  config.search.rungs = (25, 100)
  config.search.promote = ()
  config.search.select = 500
  config.search.heldout = 1000
  return config


def layerwise():
  """Tiny transformers, the default search."""
  return _tiny(searches.layerwise())


def published():
  """Tiny transformers, the layout of arXiv 2502.04030: 112 variables."""
  search = spaces.published_layerwise()
  search.population = 8
  search.explore = 16  # its start points are the models themselves
  search.eta = 2
  default = searches.layerwise()
  for name in ('steps', 'rate', 'validation'):
    search[f'gradient_{name}'] = default[f'gradient_{name}']
  search.minibatches = default.minibatches
  config = _tiny(search, tasks=3)
  config.search.rungs = (50, 100)  # fewer items cannot rank what is all over
  return config


def depthwise():
  """Tiny transformers, which layers stand where."""
  search = spaces.depthwise()
  search.space_options.min_layers = 6
  search.space_options.max_layers = 10
  search.population = 8
  search.eta = 2
  config = _tiny(search)
  config.search.rungs = (50, 100)  # fewer items cannot rank layer programs
  return config


def front():
  """Tiny transformers, two objectives."""
  search = searches.layerwise()
  search.optimizer = 'nsga2'
  config = _tiny(search, tasks=2)
  config.search.objectives = encoder_suite.TASKS[:2]
  config.search.rungs = config.search.rungs[-1:]  # ranks of fronts are coarse
  return config


def encoder():
  """The encoder suite with the default search."""
  config = encoder_suite.get_config()
  config.experts = 'runs/encoder_suite/experts'
  config.search = searches.layerwise()
  config.search.budget = _ENCODER
  return config


SCENES = {
  'layerwise': layerwise,
  'published': published,
  'depthwise': depthwise,
  'front': front,
  'encoder': encoder,
}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """The problem `arg`."""
  if arg not in SCENES:
    raise ValueError(
      f'configs/compare.py takes a problem, got {arg!r}; valid: '
      f'{", ".join(SCENES)}'
    )
  return SCENES[arg]()
