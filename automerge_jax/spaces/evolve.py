"""mergekit-evolve's files as search spaces over a model family.

A dimension is a gene of mergekit-evolve, in its order: group of layers, model,
filter, parameter. Its search knows no bounds; here weights end where the
method's range does (below 0 where the file allows it), densities at 0 and 1,
SLERP's genes at 0 and 4, which is a t from 0.018 to 0.982.
"""

import dataclasses
import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from automerge_jax.merging import layers, registry
from automerge_jax.models import base as models
from automerge_jax.recipes import genotype
from automerge_jax.recipes.document import Recipe
from automerge_jax.recipes.evolve import Evolution, Genome
from automerge_jax.spaces import grid
from automerge_jax.types import Array, Family, Key, MergePlan, SearchSpace

_MOST_T = 4.0  # largest gene of SLERP


def space(evolution: Evolution, family: Family, seed: int = 0) -> SearchSpace:
  """The search space of a mergekit-evolve file.

  Experts are `experts(evolution)`. Recipes say `dtype: float32`, as candidates
  are computed. With `smooth`, a recipe's gradients differ from the decoded
  values in the last bit (float64 against float32), and densities between the
  groups are not on the grid.

  Args:
    evolution: the file.
    family: of the models.
    seed: of a random start.

  Raises:
    ValueError: if groups of layers do not fill the family's layers.
  """
  genome = _effective(evolution.genome)
  evolution = dataclasses.replace(evolution, genome=genome)
  method = registry.get(genome.merge_method)
  depth = family.num_layers
  of = genotype.shape(genome, depth)
  spans = genotype.spans(genome, depth)
  spherical = genome.merge_method == 'slerp'
  names, owners, parameters, lows, highs = [], [], [], [], []
  ranges = {p.name: _range(p, genome) for p in method.parameters}
  parts = [*genome.filters, 'rest' if genome.filters else 'all']
  for (start, end), model, part, name in itertools.product(
    spans, genome.models, parts, genome.parameters
  ):
    low, high = ranges[name]
    names.append(f'{name}/{model}/{start}-{end}/{part}')
    owners.append(f'{name}/{model}')
    parameters.append(name)
    lows.append(low)
    highs.append(high)
  quantise, encode = grid.quantiser(parameters, lows, highs)
  rows = models.by_leaf(family.keys)
  places = {
    path: _places(genome, keys, of[0], depth) for path, keys in rows.items()
  }
  fixed = {
    p.name: float(genome.normalized) if p.name == 'normalize' else p.default
    for p in method.parameters
    if p.name not in genome.parameters
  }

  def mixed(genes: Array, place: '_Place') -> dict[str, Array]:
    low = genes[place.low, :, place.part]  # [..., K, P]
    high = genes[place.high, :, place.part]
    share = jnp.asarray(place.share)[..., None, None]
    values = jnp.moveaxis((1 - share) * low + share * high, -2, 0)
    found = {name: values[..., p] for p, name in enumerate(genome.parameters)}
    for parameter in method.parameters:
      if parameter.name in fixed:
        axes = (of[1],) * parameter.per_expert
        found[parameter.name] = jnp.full(
          (*axes, *place.low.shape), fixed[parameter.name], jnp.float32
        )
    return found

  def decode(c: Array) -> MergePlan:
    genes = jnp.asarray(c).reshape(of)
    if not spherical:
      return {path: mixed(genes, place) for path, place in places.items()}
    chosen = _pairs(genes[:, :, 0, 0])
    return {
      path: {name: value[place.low] for name, value in chosen.items()}
      for path, place in places.items()
    }

  pairs = jax.jit(lambda c: _pairs(c.reshape(of)[:, :, 0, 0]))

  def describe(c) -> Recipe:
    if spherical:
      found = jax.device_get(pairs(jnp.asarray(c, jnp.float32)))
      recipe = genotype.of_pairs(
        evolution,
        [
          (int(first), int(second), grid.shortest(t))
          for first, second, t in zip(
            found['first'], found['second'], found['t'], strict=True
          )
        ],
        depth,
      )
    else:
      genes = np.asarray([grid.shortest(v) for v in np.ravel(c)])
      recipe = genotype.to_recipe(evolution, genes, depth)
    stated = {} if spherical else {'normalize': genome.normalized}
    return dataclasses.replace(recipe, parameters=stated, dtype='float32')

  return SearchSpace(
    tuple(names),
    grid.correlation(owners),
    quantise,
    encode,
    decode,
    describe,
    starts=_starts(
      evolution,
      genotype.initial(evolution, depth, seed),
      lambda genes: np.asarray(
        quantise(encode(jnp.asarray(genes.ravel()))), np.float32
      ),
    ),
  )


def experts(evolution: Evolution) -> tuple[str, ...]:
  """The models with genes that count, K: a base of deltas has none."""
  return _effective(evolution.genome).models


@dataclasses.dataclass(frozen=True)
class _Place:
  """Where the entries of a leaf find their genes; arrays [L] or [].

  Attributes:
    low, high: groups between which a value lies.
    share: of `high`, 0 to 1.
    part: filter.
  """

  low: np.ndarray
  high: np.ndarray
  share: np.ndarray
  part: np.ndarray


def _effective(genome: Genome) -> Genome:
  """The genome without what changes no tensor: genes of a base, or a base."""
  base = genome.base_model
  if base is None:
    return genome
  if registry.get(genome.merge_method).stack == 'deltas':
    kept = tuple(m for m in genome.models if m != base)
    if not kept:
      raise ValueError(f'the only model is the base {base!r}; add another')
    return dataclasses.replace(genome, models=kept)
  source = genome.tokenizer_source
  return dataclasses.replace(
    genome,
    base_model=None,
    tokenizer_source=base if source == 'base' else source,
  )


def _starts(
  evolution: Evolution,
  initial: np.ndarray,
  on_grid: Callable[[np.ndarray], np.ndarray],
) -> tuple[tuple[str, np.ndarray], ...] | None:
  """Start designs of its own: a random one, or those of SLERP.

  SLERP starts at halves of each pair of models, and near each model.
  """
  genome = evolution.genome
  if evolution.random_init:
    return (('random', on_grid(initial)),)
  if genome.merge_method != 'slerp':
    return None
  found = []
  for size, kind in ((2, 'pair'), (1, 'nearly')):
    for some in itertools.combinations(range(len(genome.models)), size):
      genes = np.zeros_like(initial)
      genes[:, list(some)] = 1.0 if size > 1 else _MOST_T
      label = '+'.join(genome.models[k] for k in some)
      found.append((f'{kind}:{label}', on_grid(genes)))
  return tuple(found)


def _range(parameter, genome: Genome) -> tuple[float, float]:
  if parameter.name == 't':
    return 0.0, _MOST_T
  if parameter.name != 'weight':
    return 0.0, 1.0
  high = parameter.high or 1.0
  return (-high if genome.allow_negative_weights else 0.0), high


def _places(
  genome: Genome, keys: list[Key], groups: int, num_layers: int
) -> _Place:
  found = []
  for key in keys:
    layer = layers.layer_of(key.stored)
    part = next(
      (f for f, text in enumerate(genome.filters) if text in key.stored),
      len(genome.filters),
    )
    if genome.smooth:  # outside the layers the first value counts
      depth = 0.0
      if layer is not None:
        depth = layer / (num_layers - 1) if num_layers > 1 else 1.0
      position = depth * (groups - 1)
      low = int(position)
      found.append((low, min(low + 1, groups - 1), position - low, part))
    else:
      group = 0
      if layer is not None:
        group = layer * groups // num_layers
      elif not layers.is_before(key.stored):
        group = groups - 1
      found.append((group, group, 0.0, part))
  shape = () if keys[0].layer is None else (len(keys),)
  low, high, share, part = (
    np.reshape(column, shape) for column in zip(*found, strict=True)
  )
  return _Place(low, high, share.astype(np.float32), part)


def _pairs(genes: Array) -> dict[str, Array]:
  """SLERP's pair and t of each group, from genes [G, K]; t is a decimal."""
  ranking = jnp.argsort(-genes, axis=1, stable=True)
  first, second = ranking[:, 0], ranking[:, 1]
  rows = jnp.arange(genes.shape[0])
  share = jax.nn.sigmoid(genes[rows, second] - genes[rows, first])
  return {
    't': _decimal(share),
    'first': first.astype(jnp.float32),
    'second': second.astype(jnp.float32),
  }


@jax.custom_jvp
def _decimal(share: Array) -> Array:
  """Shares rounded to the grid, which gradients pass through."""
  index = jnp.rint(share * grid.UNIT).astype(jnp.int32)
  return jnp.asarray(grid.decimals(0, grid.UNIT))[index]


_decimal.defjvp(lambda primals, tangents: (_decimal(*primals), *tangents))
