"""Four image experts fine-tuned from one ViT-S/14.

  python -m experiments.finetune --config=configs/vision_suite.py \
    --workdir=runs/vision_suite
  python -m experiments.search --config=configs/vision_suite.py \
    --workdir=runs/vision_suite/search

The digits expert reached 0.993 on 300 held-out images (its probe: 0.910), in
seven minutes of two very busy CPU cores. `:runlocal` is a smoke run.
"""

import ml_collections

from configs import searches

IMAGE_SIZES = {
  'digits': 56,
  'mnist5k': 56,
  'cifar10_vehicles': 70,
  'cifar10_animals': 70,
}


def tasks() -> ml_collections.ConfigDict:
  """Tasks by name, with the size that their images are given, in pixels."""
  config = ml_collections.ConfigDict()
  for name, size in IMAGE_SIZES.items():
    config[name] = ml_collections.ConfigDict({'image_size': size})
  return config


def train(examples: int = 800, epochs: int = 3) -> ml_collections.ConfigDict:
  """How an expert is made; a smaller share is a subset of a larger one."""
  config = ml_collections.ConfigDict()
  config.examples = examples
  config.heldout = 300
  config.select = 200
  config.epochs = epochs
  config.batch_size = 32
  config.learning_rate = 3e-5  # at 1e-4 the features are lost at once
  config.warmup = 0.2  # share of the steps
  config.weight_decay = 0.01
  config.clip = 1.0
  config.lengths = (32,)  # of texts; images of a task are of one size
  config.checkpoint_every = 25  # steps
  return config


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """The full suite; `runlocal` shrinks it to a smoke run."""
  if arg not in (None, '', 'runlocal'):
    raise ValueError(f"unknown config argument {arg!r}; valid: 'runlocal'")
  config = ml_collections.ConfigDict()
  config.base = 'vit'  # an asset, or a Hugging Face folder
  config.seed = 0
  config.tasks = tasks()
  config.train = train()
  config.experts = 'runs/vision_suite/experts'
  config.search = searches.likelihood()
  config.search.population = 16
  config.search.promote = (3,)
  config.search.heldout = 300
  if arg == 'runlocal':
    config.train = train(examples=64, epochs=1)
    config.train.heldout = config.train.select = 50
    config.search.rungs = (16, 40)
    config.search.select = config.search.heldout = 50
  return config
