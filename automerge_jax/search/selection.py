"""Choosing among finished merges on items that no search has seen.

Finalists and tuned baselines are chosen on the select items; the chosen few
are then scored once on the held-out items. Everything is scored from the same
tensors that an export writes.
"""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from automerge_jax.io import checkpoints
from automerge_jax.merging import resolve, streaming
from automerge_jax.merging.layers import layer_of
from automerge_jax.models import base as models
from automerge_jax.recipe import Recipe
from automerge_jax.search import evaluate, fidelity, outside, restacked
from automerge_jax.search.ledger import Ledger, Scores
from automerge_jax.search.objectives import Objectives
from automerge_jax.tasks import kinds
from automerge_jax.tasks.itemset import ItemSet
from automerge_jax.types import Family

BASE = 'base'  # name of the base among the folders


class Judge(NamedTuple):
  """Scores whole models on one item set, remembering in the ledger.

  Attributes:
    items: what is scored.
    score_tensors: `(key, load, sources) -> Scores`; `load` gives stored
      tensors and is called only if the ledger has no scores under `key`;
      `sources` are the source layers of a restacked model, else None.
    score_recipe: `recipe -> Scores`.
    hash: effective hash of a recipe.
  """

  items: ItemSet
  score_tensors: Callable[..., Scores]
  score_recipe: Callable[[Recipe], Scores]
  hash: Callable[[Recipe], str]

  def by_task(self, scores: Scores) -> dict[str, np.ndarray]:
    """Means by metric, [tasks]."""
    return {
      'accuracy': fidelity.by_task(scores.score, self.items.task),
      'log_likelihood': fidelity.by_task(
        scores.log_likelihood, self.items.task
      ),
    }


def judge(
  family: Family,
  heads: evaluate.Heads,
  items: ItemSet,
  setting: str,
  ledger: Ledger,
  folders: Mapping[str, pathlib.Path],
  known: Sequence[Ledger] = (),
  dtype: str = 'float32',
  positions: int | None = None,
  merge: Callable[[Recipe], dict[str, np.ndarray]] | None = None,
) -> Judge:
  """A judge over an item set.

  Args:
    family: of all models.
    heads: stacked task heads.
    items: select, held-out or search items.
    setting: name of the items and evaluation settings in the ledger.
    ledger: where scores are kept.
    folders: of the models that recipes name.
    known: ledgers of other runs; scores of the same key, setting and items are
      copied from them.
    dtype: in which models compute.
    positions: most layers of a model, where recipes stack layers anew; all
      depths then share one compiled function. None where all layers stay.
    merge: recipes to tensors; None: by what they state alone.
  """
  if positions is None:
    run = evaluate.scorer(family, dtype)
  else:
    run = restacked.scorer(family, dtype)
    positions = max(positions, family.num_layers)
  data = kinds.arrays(items)
  layers = {k.stored: layer_of(k.stored) for k in family.keys}
  ledger.record_items(setting, items)

  def score_tensors(key, load, sources=None) -> Scores:
    found = ledger.scores(key, setting, items.tasks, items.task)
    if found is not None:
      return found
    for other in known:
      if other.has_items(setting, items):
        found = other.scores(key, setting, items.tasks, items.task)
        if found is not None:
          ledger.record(setting, items.tasks, items.task, {key: found})
          return found
    tensors = load()
    model = (
      models.pack(family.keys, tensors)
      if positions is None
      else restacked.pack(family, tensors, sources, positions)
    )
    scores = jax.device_get(
      run(jax.tree.map(jnp.asarray, model), heads, data, len(items))
    )
    result = outside.complete(
      items, evaluate.finish(items, scores), lambda: tensors, folders[BASE]
    )
    ledger.record(setting, items.tasks, items.task, {key: result})
    return result

  def effective(recipe: Recipe) -> str:
    return resolve.effective_hash(recipe, layers, family.num_layers)

  def score_recipe(recipe: Recipe) -> Scores:
    return score_tensors(
      effective(recipe),
      lambda: merge(recipe) if merge else streaming.merge(recipe, folders),
      restacked.sources(recipe, layers) if positions else None,
    )

  return Judge(items, score_tensors, score_recipe, effective)


def model_scores(
  judge_: Judge, names: Sequence[str], folders: Mapping[str, pathlib.Path]
) -> dict[str, Scores]:
  """Scores of unmerged models, by name."""
  return {
    name: judge_.score_tensors(
      name, lambda n=name: checkpoints.read(folders[n])
    )
    for name in names
  }


def best(
  judge_: Judge,
  contenders: Sequence[Recipe],
  objectives: Objectives,
  reference: np.ndarray | None = None,
) -> tuple[int, list[float]]:
  """Index of the best recipe on the judge's items, and every mean objective.

  Who keeps the constraints comes first. Ties go to the higher log-likelihood,
  then to the first; failed merges are never chosen.

  Args:
    judge_: of the select items.
    contenders: what is compared.
    objectives: by whose mean.
    reference: scores of the model that constraints are relative to, [tasks].

  Raises:
    ValueError: if all of them failed.
  """
  keys, means = [], []
  for recipe in contenders:
    scores = judge_.score_recipe(recipe)
    if scores.failure is not None:
      keys.append((-np.inf, -np.inf, -np.inf))
      means.append(float('nan'))
      continue
    by_task = judge_.by_task(scores)
    means.append(float(objectives.values(by_task).mean()))
    keys.append(
      (
        -objectives.violation(by_task, reference),
        means[-1],
        float(by_task['log_likelihood'].mean()),
      )
    )
  index = max(range(len(keys)), key=lambda i: (keys[i], -i))
  if np.isnan(means[index]):
    raise ValueError(f'all {len(contenders)} contenders failed to score')
  return index, means
