"""Item sets of made-up token ids, for tests."""

import numpy as np

from automerge_jax.tasks import classification
from automerge_jax.tasks.itemset import ItemSet
from automerge_jax.tasks.partition import Item


def classified(tasks, ids, tokens, task, label):
  """Texts to classify that are token ids already."""
  label = np.asarray(label, np.int32)
  return ItemSet(
    tuple(tasks),
    tuple(ids),
    tuple(map(tuple, tokens)),
    np.asarray(task, np.int32),
    label,
    np.zeros(len(ids), np.uint8),
    tuple(classification.Task(name, ('a', 'b'), 64) for name in tasks),
    tuple(Item(i, i, int(y)) for i, y in zip(ids, label, strict=True)),
  )
