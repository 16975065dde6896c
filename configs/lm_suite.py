"""Four experts fine-tuned from SmolLM2-135M: LoRA on its upper fifteen layers.

  python -m experiments.finetune --config=configs/lm_suite.py \
    --workdir=runs/lm_suite

takes the adapters in configs/lm_suite_adapters, which this config made, and
adds them to the base, in half a minute; `--config.adapters=` trains them again,
some 16 examples a second on two cores: 2 to 9 minutes an expert. Held-out
accuracies are 0.838 (sarcasm), 0.860 (movie), 0.935 (topic) and 0.464
(arithmetic).
`--config=configs/lm_suite.py:runlocal` is a smoke run of two minutes.

Learning rates were chosen on 250 select items: movie, 1,000 examples once,
0.828 at 3e-4 and 0.856 at 1e-3; arithmetic, 2,000 twice, 0.248 at 1e-3 and
0.304 at 3e-3.
"""

import ml_collections

from configs import searches

TASKS = ('lm_sarcasm', 'lm_movie', 'lm_topic', 'lm_arithmetic')


def tasks(
  examples: int = 2000, heldout: int = 500
) -> ml_collections.ConfigDict:
  """Tasks by name; BBC has fewer articles, and sums take more practice."""
  config = ml_collections.ConfigDict()
  for name in TASKS:
    config[name] = ml_collections.ConfigDict(
      {
        'examples': examples,
        'select': 200,
        'heldout': heldout,
        'epochs': 2,
        'learning_rate': 1e-3,
      }
    )
  config.lm_topic.examples = min(examples, 1100)
  config.lm_topic.heldout = min(heldout, 370)
  config.lm_arithmetic.examples = max(examples, 4300)
  config.lm_arithmetic.learning_rate = 3e-3
  return config


def train() -> ml_collections.ConfigDict:
  """How an expert is made."""
  config = ml_collections.ConfigDict()
  config.frozen = 0.5  # share of the layers
  config.rank = 6  # of the adapters; 0 trains the upper layers themselves
  config.alpha = 12.0
  config.batch_size = 16
  config.warmup = 0.1  # share of the steps
  config.weight_decay = 0.0
  config.clip = 1.0
  config.lengths = (16, 24, 32, 40, 48, 72)
  config.checkpoint_every = 50  # steps
  return config


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """The full suite; `runlocal` shrinks it to a smoke run."""
  if arg not in (None, '', 'runlocal'):
    raise ValueError(f"unknown config argument {arg!r}; valid: 'runlocal'")
  config = ml_collections.ConfigDict()
  config.kind = 'language'
  config.base = 'smollm2'  # an asset, or a Hugging Face folder
  config.adapters = 'configs/lm_suite_adapters'  # made before; '' for none
  config.seed = 0
  config.tasks = tasks()
  config.train = train()
  config.experts = 'runs/lm_suite/experts'
  config.search = searches.likelihood()
  config.search.layers_per_group = 3
  config.search.candidates = 44
  config.search.rungs = (15, 50)
  config.search.promote = (2,)
  config.search.gradient_steps = 30
  config.search.minibatches = 5
  config.search.finalists = 3
  config.search.select = 60
  config.search.heldout = 200
  config.search.weights = (0.3, 0.5, 0.7, 1.0)
  config.search.ties_scales = (1.0,)
  config.search.ties_densities = (0.2, 0.5)
  if arg == 'runlocal':
    config.tasks = tasks(heldout=20)
    for task in config.tasks.values():
      task.examples, task.select, task.epochs = 32, 20, 1
    config.adapters = ''
  return config
