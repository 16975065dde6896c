"""What a search job loads once: models, heads, tasks, search items."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from automerge_jax.io import safetensors, tokenizers
from automerge_jax.merging import registry, resolve
from automerge_jax.merging.layers import layer_of
from automerge_jax.models import base as models
from automerge_jax.models import registry as families
from automerge_jax.recipe import Recipe
from automerge_jax.search.settings import Settings
from automerge_jax.tasks import classification, experts, itemset
from automerge_jax.tasks.splits import Item
from automerge_jax.types import Family, MergeMethod

BASE = 'base'


@dataclasses.dataclass(frozen=True)
class Job:
  """Everything that depends on the checkpoints and tasks alone.

  Attributes:
    family: of base and experts.
    method: the merge method that is searched.
    folders: of each model, by the name that recipes use; `base` is the base.
    fingerprints: SHA-256 of each model's weights.
    heads: stacked task heads, on the device.
    tasks: in the order of `Settings.tasks`.
    setting: hash of all that item scores depend on besides recipe and items.
  """

  family: Family
  method: MergeMethod
  folders: Mapping[str, pathlib.Path]
  fingerprints: Mapping[str, str]
  heads: Mapping[str, Any]
  tasks: tuple[classification.Task, ...]
  setting: str

  def items(self, chosen: Mapping[str, Sequence[Item]]) -> itemset.ItemSet:
    """Tokenised items of every task."""
    tokenizer = tokenizers.load(self.folders[BASE])
    return itemset.build(self.tasks, chosen, tokenizer)

  def tensors(self, model: str) -> dict[str, np.ndarray]:
    """Stored tensors of one model."""
    return safetensors.read(self.folders[model])

  def recipe_hash(self, recipe: Recipe) -> str:
    """Effective hash of a recipe."""
    layers = {k.stored: layer_of(k.stored) for k in self.family.keys}
    return resolve.effective_hash(recipe, layers, self.family.num_layers)


def load(settings: Settings) -> Job:
  """Reads heads and checks the checkpoints.

  Raises:
    ValueError: if base and key table, or an expert and the base, do not match.
  """
  folders = {BASE: settings.base}
  folders |= {task: settings.experts / task for task in settings.tasks}
  stored = list(safetensors.files(settings.base))
  family = families.family_of(settings.base, stored)
  models.check_keys(family, stored)
  heads = {task: experts.read_head(folders[task]) for task in settings.tasks}
  fingerprints = {
    name: safetensors.fingerprint(folder) for name, folder in folders.items()
  }
  tasks = tuple(heads[task].task for task in settings.tasks)
  stacked = classification.stack_heads(
    [(heads[task].kernel, heads[task].bias) for task in settings.tasks]
  )
  digest = hashlib.sha256()
  for name in sorted(stacked):
    digest.update(np.ascontiguousarray(stacked[name]).tobytes())
  depends = [fingerprints, digest.hexdigest(), [str(task) for task in tasks]]
  setting = hashlib.sha256(json.dumps(depends, sort_keys=True).encode())
  return Job(
    family=family,
    method=registry.get(settings.method, settings.semantics),
    folders=folders,
    fingerprints=fingerprints,
    heads=jax.tree.map(jnp.asarray, stacked),
    tasks=tasks,
    setting=setting.hexdigest()[:12],
  )
