"""Merges and an expert on data of other sources than the search saw."""

import pathlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from automerge_jax.io import checkpoints
from automerge_jax.models import registry
from automerge_jax.search import evaluate
from automerge_jax.tasks import (
  classification,
  definitions,
  division,
  experts,
  itemset,
  kinds,
)
from automerge_jax.tasks.partition import Item

# Tasks with the same labels as another of a suite, from elsewhere. Nobody
# else's headlines are labelled for sarcasm.
OTHERS = {'movie': ('amazon', 'tweets', 'nyt')}


def scores(
  models: Mapping[str, pathlib.Path],
  head: pathlib.Path,
  source: str,
  workdir: pathlib.Path,
) -> dict[str, np.ndarray]:
  """0/1 scores [n] of model folders on every item of another source.

  Args:
    models: folders by name.
    head: expert folder whose head and task all of them use.
    source: where the items are from; its classes are the task's.
    workdir: what was scored is kept there, by the models' fingerprints.

  Raises:
    ValueError: if the source has other classes than the head.
  """
  found = experts.read_head(head)
  definition = definitions.read(source)
  if definition.source.classes != found.task.classes:
    raise ValueError(
      f'{source} has the classes {definition.source.classes}, but the head of '
      f'{found.task.name} has {found.task.classes}; choose another source'
    )
  items = [one for part in division.divide(definition).values() for one in part]
  return {
    name: _scored(folder, found, source, items, workdir)
    for name, folder in models.items()
  }


def _scored(
  folder: pathlib.Path,
  head: experts.Head,
  source: str,
  items: list[Item],
  workdir: pathlib.Path,
) -> np.ndarray:
  key = checkpoints.fingerprint(folder)[:16]
  path = workdir / f'{head.task.name}-{key}-{source}-{len(items)}.npy'
  if path.is_file():
    return np.load(path)
  loaded = registry.load(folder)
  encoded = itemset.build(
    [head.task], {head.task.name: items}, loaded.family, folder
  )
  told = jax.device_get(
    evaluate.scorer(loaded.family)(
      jax.tree.map(jnp.asarray, loaded.params),
      jax.tree.map(
        jnp.asarray, classification.stack_heads([(head.kernel, head.bias)])
      ),
      kinds.arrays(encoded),
      len(encoded),
    )
  )
  right = evaluate.finish(encoded, told).score
  assert right is not None
  workdir.mkdir(parents=True, exist_ok=True)
  np.save(path, right)
  return right
