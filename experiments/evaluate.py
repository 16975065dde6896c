"""Scores one model on one task; prints one JSON object.

  python -m experiments.evaluate --model=DIR --task=NAME

DIR is a Hugging Face folder: a merge with heads in DIR/heads, or an expert.
"""

import json
import pathlib
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from automerge_jax import trees
from automerge_jax.models import registry
from automerge_jax.search import evaluate, statistics
from automerge_jax.tasks import (
  classification,
  experts,
  itemset,
  kinds,
  sealed,
  splits,
)
from experiments import startup

SPLITS = {
  'train': splits.train_items,
  'search': splits.search_items,
  'select': sealed.select_items,
  'heldout': sealed.heldout_items,
}

MODEL = flags.DEFINE_string('model', None, 'The model folder.', required=True)
TASK = flags.DEFINE_string('task', None, 'Name of the task.', required=True)
HEAD = flags.DEFINE_string(
  'head',
  None,
  "Folder of the task's head; by default MODEL/heads/TASK or MODEL.",
)
SPLIT = flags.DEFINE_enum('split', 'heldout', list(SPLITS), 'Which items.')
ITEMS = flags.DEFINE_integer('n', 500, 'How many items.', lower_bound=1)


def run(
  model: str | pathlib.Path,
  task: str,
  *,
  head: str | pathlib.Path | None = None,
  split: str = 'heldout',
  n: int = 500,
) -> dict[str, Any]:
  """Scores a model folder.

  Args:
    model: Hugging Face folder.
    task: name of the task.
    head: folder of the head; None looks into `model`.
    split: which items.
    n: the first so many of them.

  Returns:
    `accuracy` with its 95% Wilson interval, mean `log_likelihood` (nats), `n`,
    and what was asked for.

  Raises:
    FileNotFoundError: if there is no model, or no head of the task.
    ValueError: if head and task, or head and model, do not fit.
  """
  folder = pathlib.Path(model)
  loaded = registry.load(folder)
  found = _head(folder, task, None if head is None else pathlib.Path(head))
  items = itemset.build(
    [found.task], {task: SPLITS[split](task, n)}, loaded.family, folder
  )
  heads = classification.stack_heads([(found.kernel, found.bias)])
  scores = jax.device_get(
    evaluate.scorer(loaded.family)(
      jax.tree.map(jnp.asarray, loaded.params),
      jax.tree.map(jnp.asarray, heads),
      kinds.arrays(items),
      len(items),
    )
  )
  right = int(np.sum(scores.score))
  return {
    'model': str(model),
    'task': task,
    'split': split,
    'n': len(items),
    'accuracy': right / len(items),
    'interval': list(statistics.wilson(right, len(items))),
    'log_likelihood': float(scores.log_likelihood.mean(dtype=np.float64)),
  }


def _head(
  folder: pathlib.Path, task: str, given: pathlib.Path | None
) -> experts.Head:
  """The head of a task, from where it was asked for or where it should be."""
  inside = folder / experts.HEADS / task
  if (
    given is None
    and not inside.is_dir()
    and not (folder / experts.TASK).is_file()
  ):
    heads = folder / experts.HEADS
    have = [path.name for path in heads.iterdir()] if heads.is_dir() else []
    raise FileNotFoundError(
      f'{folder} has no head for the task {task!r}'
      + trees.nearest(task, have)
      + '; name a folder with one by --head'
    )
  place = given or (inside if inside.is_dir() else folder)
  head = experts.read_head(place)
  if head.task.name != task:
    raise ValueError(
      f'the head in {place} is for the task {head.task.name!r}, not {task!r}'
    )
  return head


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments {argv[1:]}')
  startup.prepare()
  try:
    result = run(
      MODEL.value,
      TASK.value,
      head=HEAD.value,
      split=SPLIT.value,
      n=ITEMS.value,
    )
  except (KeyError, OSError, ValueError) as error:
    message = error.args[0] if isinstance(error, KeyError) else error
    sys.exit(f'evaluate: {message}')
  print(json.dumps(result))


if __name__ == '__main__':
  app.run(main)
