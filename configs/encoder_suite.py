"""Four text experts fine-tuned from one MiniLM-L6 encoder.

  python -m experiments.finetune --config=configs/encoder_suite.py \
    --workdir=runs/encoder_suite

Reaches 0.974 (election), 0.831 (movie), 0.969 (Reuters R8) and 0.879 (sarcasm)
on 1,000 held-out items a task, in 100 to 250 s an expert on two busy CPU cores.
`--config=configs/encoder_suite.py:runlocal` is a smoke run of a minute.
"""

import ml_collections

TASKS = ('movie', 'sarcasm', 'election', 'reuters')


def tasks() -> ml_collections.ConfigDict:
  """Tasks by name, with the number of tokens that their texts are cut to."""
  config = ml_collections.ConfigDict()
  for name in TASKS:
    config[name] = ml_collections.ConfigDict({'max_tokens': 32})
  config.reuters.max_tokens = 48
  return config


def train(examples: int = 3000, epochs: int = 2) -> ml_collections.ConfigDict:
  """How an expert is made; a smaller share is a subset of a larger one."""
  config = ml_collections.ConfigDict()
  config.examples = examples
  config.heldout = 1000
  config.select = 500
  config.epochs = epochs
  config.batch_size = 32
  config.learning_rate = 2e-4
  config.warmup = 0.1  # share of the steps
  config.weight_decay = 0.01
  config.clip = 1.0
  config.lengths = (16, 24, 32, 48)
  config.checkpoint_every = 50  # steps
  return config


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """The full suite; `runlocal` shrinks it to a smoke run."""
  if arg not in (None, '', 'runlocal'):
    raise ValueError(f"unknown config argument {arg!r}; valid: 'runlocal'")
  config = ml_collections.ConfigDict()
  config.base = 'minilm'  # an asset, or a Hugging Face folder
  config.seed = 0
  config.tasks = tasks()
  config.train = train()
  if arg == 'runlocal':
    config.train = train(examples=128, epochs=1)
    config.train.heldout = config.train.select = 100
  return config
