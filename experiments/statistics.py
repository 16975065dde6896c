"""Measures what Fisher and RegMean merging need to know of an expert.

  python -m experiments.statistics --model=DIR --task=NAME --out=DIR

DIR is an expert: a Hugging Face folder with a head. Training items are used.
"""

import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from absl import app, flags

from automerge_jax import trees
from automerge_jax.io import safetensors
from automerge_jax.models import base, registry
from automerge_jax.statistics import folder, grams, information
from automerge_jax.tasks import classification, experts, itemset, splits
from experiments import startup

KINDS = ('fisher', 'regmean')


def run(
  model: str | pathlib.Path,
  task: str,
  out: str | pathlib.Path,
  *,
  head: str | pathlib.Path | None = None,
  kinds: Sequence[str] = KINDS,
  n: int = 256,
) -> dict[str, Any]:
  """Measures a model on the first n training items of a task.

  Args:
    model: Hugging Face folder.
    task: name of the task.
    out: folder to be made.
    head: folder of the head; None looks into `model`.
    kinds: for which methods.
    n: how many items.

  Returns:
    What `statistics.json` says.

  Raises:
    FileNotFoundError: if there is no model or no head.
    FileExistsError: if `out` exists.
    ValueError: for an unknown kind, or a head of another task.
  """
  for kind in kinds:
    if kind not in KINDS:
      raise ValueError(f'unknown kind {kind!r}' + trees.nearest(kind, KINDS))
  found = experts.read_head(head or model)
  if found.task.name != task:
    raise ValueError(
      f'the head in {head or model} is for the task {found.task.name!r}, not '
      f'{task!r}'
    )
  loaded = registry.load(model)
  family, params = loaded.family, jax.tree.map(jnp.asarray, loaded.params)
  items = itemset.build(
    [found.task], {task: splits.train_items(task, n)}, family, model
  )
  data = classification.bucket(items.encoded, items.task, items.label)
  fisher = gram = None
  if 'fisher' in kinds:
    measured = information.diagonal(
      information.classifier(family),
      params,
      (found.kernel, found.bias),
      data,
      len(items),
    )
    fisher = base.unpack(family.keys, measured)
  if 'regmean' in kinds:
    gram = grams.measure(family, params, data, len(items))
  about = {
    'model': safetensors.fingerprint(model),
    'task': task,
    'split': 'train',
    'n': len(items),
  }
  folder.save(out, about, fisher, gram)
  return folder.about(out)


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments {argv[1:]}')
  startup.prepare()
  try:
    run(
      flags.FLAGS.model,
      flags.FLAGS.task,
      flags.FLAGS.out,
      head=flags.FLAGS.head,
      kinds=flags.FLAGS.kinds,
      n=flags.FLAGS.n,
    )
  except (KeyError, OSError, ValueError) as error:
    message = error.args[0] if isinstance(error, KeyError) else error
    sys.exit(f'statistics: {message}')
  print(flags.FLAGS.out)


if __name__ == '__main__':
  # Not on import: other entry points have flags of these names too.
  flags.DEFINE_string('model', None, 'The model folder.', required=True)
  flags.DEFINE_string('task', None, 'Name of the task.', required=True)
  flags.DEFINE_string('out', None, 'Folder to be made.', required=True)
  flags.DEFINE_string('head', None, "The head's folder; by default the model.")
  flags.DEFINE_list('kinds', list(KINDS), f'Some of {", ".join(KINDS)}.')
  flags.DEFINE_integer('n', 256, 'How many items.', lower_bound=1)
  app.run(main)
