"""Four experts on the sentiment of movies, tweets, Amazon and NYT texts.

  python -m experiments.finetune --config=configs/domain_suite.py \
    --workdir=runs/domain_suite

All share one head, probed on the training items of all four domains and not
trained further, so that experts differ in the trunk alone.
"""

import ml_collections

from configs import encoder_suite, searches

TASKS = ('movie', 'tweets', 'amazon', 'nyt')


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """The suite and its search; `runlocal` shrinks it to a smoke run."""
  config = encoder_suite.get_config(arg)
  config.tasks = ml_collections.ConfigDict(
    {name: {'max_tokens': 32} for name in TASKS}
  )
  if arg != 'runlocal':
    config.train = encoder_suite.train(examples=1400, epochs=2)
    config.train.select, config.train.heldout = 200, 400
  config.train.shared_head = True
  config.experts = 'runs/domain_suite/experts'
  config.search = searches.brief()
  config.search.heldout = 400
  return config
