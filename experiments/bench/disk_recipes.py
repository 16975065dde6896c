"""What disk_route compares on: candidates of the encoder suite as recipes."""

import json
import pathlib
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from automerge_jax.io import checkpoints, safetensors
from automerge_jax.merging import export
from automerge_jax.recipe import to_yaml
from automerge_jax.search import job as jobs
from automerge_jax.search import space as spaces
from automerge_jax.search.job import BASE, Job
from automerge_jax.search.settings import Settings
from automerge_jax.tasks import experts, splits
from automerge_jax.tasks.itemset import ItemSet
from automerge_jax.types import SearchSpace
from configs import encoder_suite, searches
from experiments import choices

_RANGE = (0.1, 0.5)  # of each dimension: what merges well, and what does not


class Suite(NamedTuple):
  """Models, tasks and items, and where they are searched."""

  job: Job
  space: SearchSpace
  items: ItemSet


def settings(folder: pathlib.Path, method: str) -> Settings:
  """Layer-wise fusion of the encoder suite's experts by one method."""
  config = encoder_suite.get_config()
  config.experts = str(folder)
  config.search = searches.layerwise(method)
  return choices.settings(config)


def load(chosen: Settings) -> Suite:
  """A suite with the items of its last rung."""
  job = jobs.load(chosen)
  items = {
    name: splits.search_items(reference, chosen.rungs[-1])
    for name, reference in job.references.items()
  }
  space = spaces.build(chosen, job.family, job.experts, BASE)
  return Suite(job, space, job.items(items))


def candidates(space: SearchSpace, count: int) -> np.ndarray:
  """Coefficients on the grid, [count, D]."""
  draw = np.random.default_rng(0)
  x = draw.uniform(*_RANGE, (count, len(space.names)))
  return np.asarray(jax.vmap(space.quantise)(jnp.asarray(x, jnp.float32)))


def copies(job: Job, folder: pathlib.Path) -> dict[str, pathlib.Path]:
  """The models under the names that mergekit infers for a BERT."""
  places = {}
  for model, source in job.folders.items():
    places[model] = place = folder / model
    place.mkdir(parents=True)
    experts.copy_companions(source, place)
    config = json.loads((place / 'config.json').read_text())
    config['architectures'] = ['BertTrunk']  # none that it has a table of
    (place / 'config.json').write_text(json.dumps(config))
    tensors = checkpoints.read(source)
    named = {
      f'bert.{key.stored}': tensors[key.stored] for key in job.family.keys
    }
    safetensors.write(place, named)
  return places


def write(
  space: SearchSpace,
  c: np.ndarray,
  places: Mapping[str, pathlib.Path],
  folder: pathlib.Path,
) -> list[pathlib.Path]:
  """Recipe files of candidates [P, D] over models at these places."""
  names = {model: str(place) for model, place in places.items()}
  files = []
  for i, one in enumerate(c):
    recipe = export.rename(space.describe(one), names)
    files.append(folder / f'candidate{i}.yaml')
    files[-1].write_text(to_yaml(recipe))
  return files
