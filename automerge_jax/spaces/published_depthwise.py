"""The depth-wise space as published, https://arxiv.org/abs/2502.04030.

Variables and decoding are those of the authors' code (release c45aaac), with
layer granularity 1: at each layer, blocks are chosen from the models' layers of
that number, permuted, and the last one is scaled. Depth is bounded otherwise:
there, too deep a program scores worst without being evaluated, as nearly all
random ones do (with 3 models, 40 layers and a bound of 50, 99.98 %); here the
blocks that are wanted least are dropped until it fits.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from automerge_jax.models import program as programs_lib
from automerge_jax.recipe import Recipe
from automerge_jax.spaces import grid
from automerge_jax.spaces.stacks import block_orders, dimensions, programs
from automerge_jax.spaces.stacks import plans as stacking
from automerge_jax.spaces.stacks.dimensions import Field
from automerge_jax.types import (
  Array,
  Family,
  LayerProgram,
  MergePlan,
  SearchSpace,
)


def space(
  family: Family,
  experts: Sequence[str],
  base_model: str,
  *,
  layers: int,
  repeat: int = 1,
  remain_base: bool = True,
  fix_layers: int = 0,
) -> SearchSpace:
  """The published space: L' (1 + [P > 1] + B) variables.

  L' is the number of layers that are not fixed, B = K `repeat` that of blocks
  and P that of their orders in which a model's copies keep theirs.

  Args:
    family: of the models, with L layers.
    experts: model names as recipes shall name them, K.
    base_model: whose layer stands where no block is chosen.
    layers: most layers of a program.
    repeat: how often a layer of one model may be chosen.
    remain_base: whether a layer without blocks is the base's, or is left out.
    fix_layers: how many of the first and of the last layers are those of the
      first expert.

  Raises:
    ValueError: if the bound is below what is always there, there are too many
      orders, or the family's layers cannot be restacked.
  """
  programs_lib.check(family)
  depth, count = family.num_layers, len(experts)
  inner = depth - 2 * fix_layers
  blocks = count * repeat
  always = 2 * fix_layers + (inner if remain_base else fix_layers == 0)
  if inner < 1 or not always <= layers:
    raise ValueError(
      f'layers is {layers} and fix_layers {fix_layers} for {depth} layers; '
      f'expected some that are not fixed, and a bound of at least {always}'
    )
  table = block_orders.table(count, repeat)
  permutations = table.order.shape[0]
  powers = 2 ** np.arange(blocks)[None]
  rows = range(fix_layers, depth - fix_layers)
  genes = dimensions.genes(
    {
      'scale': Field(tuple(f'scale_{i}' for i in range(inner)), 0.0, 2.0),
      'permutation': dimensions.categories(
        [f'layer_{i}_permutation_selection' for i in range(inner)],
        permutations,
      ),
      'block': dimensions.categories(
        [
          f'layer_{i}_block_{j}_selection'
          for i in range(inner)
          for j in range(blocks)
        ],
        2,
      ),
    }
  )

  def settled(c: Array, x: Array):
    """(subset [L'], permutation [L'], scale [L']) in their only spelling."""
    own, want = genes.split(c), genes.split(x)['block']
    chosen = own['block'] > 0
    ranking = jnp.lexsort((programs.ties(chosen), -want, ~chosen))
    rank = jnp.zeros(want.size, int).at[ranking].set(jnp.arange(want.size))
    rank = rank.reshape(inner, blocks)
    chosen = chosen.reshape(inner, blocks)
    if remain_base:  # one block of a layer is no deeper than none
      first = chosen & (rank == rank.min(1, keepdims=True))
    else:  # one layer at least, if none is fixed
      first = (rank == 0) & (fix_layers == 0)
    others = jnp.where(chosen & ~first, rank, want.size).reshape(-1)
    order = jnp.argsort(others, stable=True)
    place = jnp.zeros(want.size, int).at[order].set(jnp.arange(want.size))
    fits = place.reshape(inner, blocks) < layers - always
    chosen = first | (chosen & fits)
    subset = (chosen * powers).sum(1)
    permutation = jnp.zeros(inner, int)
    if 'permutation' in own:
      permutation = own['permutation'].astype(int)
    subset, permutation = (
      jnp.asarray(spelling)[permutation, subset]
      for spelling in (table.subset, table.permutation)
    )
    return subset, permutation, jnp.where(subset > 0, own['scale'], 1.0)

  def quantise(x: Array) -> Array:
    x = jnp.asarray(x, jnp.float32)
    subset, permutation, scale = settled(genes.snap(x), x)
    bits = subset[:, None] // powers % 2
    return genes.join(
      {'scale': scale, 'permutation': permutation, 'block': bits.reshape(-1)}
    )

  def active(c: Array) -> Array:
    subset, *_ = settled(c, genes.encode(c))
    mixes = jnp.asarray(table.mixes)[subset]
    used = {'scale': subset > 0, 'permutation': mixes, 'block': True}
    return genes.join(used) > 0

  def stacked(c: Array) -> tuple[LayerProgram, Array]:
    subset, permutation, scale = settled(c, genes.encode(c))
    model = jnp.asarray(table.order)[permutation, subset]  # [L', B]
    if remain_base:
      alone = np.where(np.arange(blocks) == 0, count, -1)
      model = jnp.where(subset[:, None] == 0, alone[None], model)
    number = (model >= 0).sum(1)
    last = np.arange(blocks)[None] == number[:, None] - 1
    scaled = jnp.where(last & (subset > 0)[:, None], scale[:, None], 1.0)
    # Fixed layers around it: those of the first expert, once.
    model = jnp.pad(
      model, [(fix_layers, fix_layers), (0, 0)], constant_values=-1
    )
    fixed = np.asarray([i not in rows for i in range(depth)])
    model = model.at[:, 0].set(jnp.where(fixed, 0, model[:, 0]))
    scaled = jnp.pad(
      scaled, [(fix_layers, fix_layers), (0, 0)], constant_values=1.0
    )
    missing = max(0, layers - model.size)
    flat = jnp.pad(model.reshape(-1), (0, missing), constant_values=-1)
    slot = jnp.argsort(flat < 0, stable=True)[:layers]
    there = flat[slot] >= 0
    slot = jnp.where(there, slot, 0)
    program = LayerProgram(
      layer=(slot // blocks).astype(jnp.int32),
      scale=jnp.where(there, scaled.reshape(-1)[slot], 1.0),
      active=there,
    )
    return program, jnp.where(there, flat[slot], 0)

  def decode(c: Array) -> MergePlan:
    program, model = stacked(c)
    return stacking.picks(family, model, program)

  compiled = jax.jit(stacked)
  models = (*experts, base_model)

  def describe(c) -> Recipe:
    program, model = jax.device_get(compiled(jnp.asarray(c, jnp.float32)))
    kinds = [int(index) for index in model]
    return Recipe(
      'passthrough',
      stacking.runs(family, kinds, program, stacking.single(models)),
    )

  def alone(expert: int) -> np.ndarray:
    bits = np.tile(np.arange(blocks) == expert, inner)
    c = genes.join({'scale': 1.0, 'permutation': 0.0, 'block': bits})
    return np.asarray(jax.jit(quantise)(genes.encode(c)), np.float32)

  singles = [(f'expert:{name}', alone(i)) for i, name in enumerate(experts)]
  if fix_layers:  # the ends are the first expert's
    singles[1:] = [
      (origin.replace('expert:', 'nearly:'), c) for origin, c in singles[1:]
    ]
  return SearchSpace(
    names=genes.names,
    correlation=grid.correlation(genes.owners),
    quantise=quantise,
    encode=genes.encode,
    decode=decode,
    describe=describe,
    choices=genes.choices,
    active=active,
    program=lambda c: stacked(c)[0],
    starts=tuple(singles),
  )
