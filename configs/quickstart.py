"""The main job in minutes: four small text experts and their best merge.

  make quickstart

or, once its experts exist, the search alone into any folder:

  python -m experiments.search --config=configs/quickstart.py --workdir=DIR
"""

import ml_collections

from configs import encoder_suite, searches


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """A smaller share of the encoder suite; takes no argument."""
  if arg:
    raise ValueError(f'configs/quickstart.py takes no argument, got {arg!r}')
  config = encoder_suite.get_config()
  config.train = encoder_suite.train(examples=800, epochs=2)
  config.train.heldout = 500
  config.train.select = 200
  config.train.lengths = (32, 48)  # fewer shapes compile sooner
  config.experts = 'runs/quickstart/experts'
  config.search = searches.brief()
  config.search.heldout = 500
  return config
