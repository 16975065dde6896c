"""Select and held-out scores of merges that a search took."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from automerge_jax import judges
from automerge_jax.search import evaluate, fidelity
from experiments.bench.compare import scene
from experiments.bench.compare.evaluated import Evaluated
from experiments.bench.compare.scene import Scene

SPLITS = ('select', 'heldout')
_TOGETHER = 4  # merges in one call


class Marks:
  """Means by task, each merge once a split; compiles once a split."""

  def __init__(self, place: Scene):
    self._place = place
    self._items = {
      split: judges.item_set(split, place.settings, place.job)
      for split in SPLITS
    }
    self._data = {
      split: scene.arrays(place, items) for split, items in self._items.items()
    }
    self._scorer = evaluate.population_scorer(
      place.job.family,
      place.job.method,
      place.space.decode,
      rungs=len(SPLITS),
      program=place.space.program,
    )
    self._known: dict[tuple[str, str], np.ndarray] = {}

  def means(self, split: str, merges: Sequence[Evaluated]) -> np.ndarray:
    """Accuracy of each merge on each task, [n, tasks]."""
    new = {
      one.recipe: one.c
      for one in merges
      if (one.recipe, split) not in self._known
    }
    recipes = list(new)
    for i in range(0, len(recipes), _TOGETHER):
      self._score(split, {r: new[r] for r in recipes[i : i + _TOGETHER]})
    return np.stack([self._known[one.recipe, split] for one in merges])

  def _score(self, split: str, merges: dict[str, np.ndarray]) -> None:
    place, items = self._place, self._items[split]
    c = np.zeros((_TOGETHER, len(place.space.names)), np.float32)
    c[: len(merges)] = list(merges.values())
    scores, _ = jax.device_get(
      self._scorer(
        jnp.asarray(c),
        jnp.arange(_TOGETHER) < len(merges),
        place.stack,
        place.job.heads,
        place.gate,
        self._data[split],
        len(items),
      )
    )
    for i, recipe in enumerate(merges):
      one = jax.tree.map(lambda leaf, i=i: leaf[i], scores)
      found = evaluate.finish(items, one)
      assert found.score is not None, 'a merge that was scored before'
      self._known[recipe, split] = fidelity.by_task(found.score, items.task)
