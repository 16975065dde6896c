"""Four experts of a tiny encoder: real texts, candidates in milliseconds.

  python -m experiments.finetune --config=configs/tiny_suite.py \
    --workdir=runs/tiny_suite
  python -m experiments.search --config=configs/tiny_suite.py --workdir=DIR

For comparing searches over many seeds. The base is pretrained here, on training
items only: it learns the sentence features of MiniLM. Experts reach 0.938
(election), 0.695 (movie), 0.920 (Reuters R8) and 0.773 (sarcasm) on 1,000
held-out items a task; the probed base has 0.842, 0.668, 0.835 and 0.654, and
the experts' uniform average is 4.4 points below their mean. A word behind the
colon of the config is one of `KINDS`, or `runlocal` for a smoke run.
"""

import ml_collections

from configs import encoder_suite, searches

SOURCES = (*encoder_suite.TASKS, 'tweets', 'amazon', 'nyt')
MAX_TOKENS = 24


def pretrain(examples: int = 1400, steps: int = 1200):
  """How the base is made, see tasks/small_base.py and tasks/pretrain.py."""
  config = ml_collections.ConfigDict()
  config.shape = ml_collections.ConfigDict()
  config.shape.sources = SOURCES
  config.shape.examples = examples  # of each source
  config.shape.max_tokens = MAX_TOKENS
  config.shape.vocabulary = 4000
  config.shape.layers = 8
  config.shape.hidden_size = 64
  config.shape.heads = 4
  config.shape.mlp_size = 128
  config.options = ml_collections.ConfigDict()
  config.options.steps = steps
  config.options.batch_size = 32
  config.options.learning_rate = 5e-3
  return config


def layerwise() -> ml_collections.ConfigDict:
  """Layer-wise fusion by the default search."""
  config = searches.layerwise()
  config.rungs = (25, 100)
  config.select = 200
  return config


def depthwise() -> ml_collections.ConfigDict:
  """Depth-wise integration, six to ten layers."""
  config = layerwise()
  config.method = ''
  config.space = 'depthwise'
  config.space_options = ml_collections.ConfigDict(
    {'min_layers': 6, 'max_layers': 10, 'copies': 2, 'repeats': 1}
  )
  config.optimizer = 'mixed'
  config.gradient_steps = 0  # little of it is a number
  return config


def published() -> ml_collections.ConfigDict:
  """The 112 variables of arXiv 2502.04030's layer-wise fusion, three tasks."""
  config = layerwise()
  config.method = 'task_arithmetic,linear,ties,slerp'
  config.space = 'published_layerwise'
  config.space_options = ml_collections.ConfigDict({'layer_granularity': 2})
  config.optimizer = 'mixed'
  config.gradient_steps = 0  # as published
  return config


KINDS = {
  'layerwise': layerwise,
  'depthwise': depthwise,
  'published': published,
}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """The suite with a search of the kind `arg`, by default layer-wise."""
  kinds = (*KINDS, 'runlocal')
  if arg and arg not in kinds:
    raise ValueError(
      f'configs/tiny_suite.py takes a kind of search, got {arg!r}; valid: '
      f'{", ".join(kinds)}'
    )
  config = ml_collections.ConfigDict()
  config.base = 'minilm'  # teaches the base
  config.seed = 0
  names = encoder_suite.TASKS[: 3 if arg == 'published' else None]
  config.tasks = ml_collections.ConfigDict(
    {name: {'max_tokens': MAX_TOKENS} for name in names}
  )
  config.pretrain = pretrain()
  config.train = encoder_suite.train(examples=3000, epochs=2)
  config.train.learning_rate = 1e-3
  config.train.lengths = (16, MAX_TOKENS)
  config.train.checkpoint_every = 0  # an expert is made in seconds
  if arg == 'runlocal':
    config.pretrain = pretrain(examples=100, steps=20)
    config.pretrain.shape.vocabulary = 1000
    config.train.update(examples=128, epochs=1, select=100, heldout=100)
  config.experts = 'runs/tiny_suite/experts'
  config.search = KINDS.get(arg or '', layerwise)()
  return config
