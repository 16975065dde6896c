"""Your own models and tasks: which merge does them best?

  python -m experiments.search --config=configs/own_models.py \
    --config.base=DIR --config.experts=DIR,DIR --config.tasks=TASK.yaml \
    --workdir=OUT

Checkpoints are Hugging Face folders, Orbax checkpoints or BASE+ADAPTER. A task
is a YAML file (docs/tasks.md), `lm_eval:TASK`, or a name such as lm_movie.
"""

import ml_collections

from configs import searches


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Takes no argument; base, experts and tasks must be given."""
  if arg:
    raise ValueError(f'configs/own_models.py takes no argument, got {arg!r}')
  config = ml_collections.ConfigDict()
  config.base = ''  # checkpoint of the base
  config.experts = ''  # checkpoints of the experts, with commas between
  config.tasks = ''  # tasks, with commas between
  config.seed = 0
  config.search = searches.likelihood()
  config.search.rungs = (25, 100)
  config.search.candidates = 0
  config.search.budget = '30'
  config.search.select = 100
  config.search.heldout = 150
  config.search.weights = (0.3, 0.5, 0.7, 1.0)
  return config
