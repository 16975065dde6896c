"""Depth-wise integration (DIS): whose layers stand in which order.

After https://arxiv.org/abs/2502.04030, with bounds on the depth that every
point of the space meets. A layer of a program is a layer of one model, in the
order of the sources; layers may be skipped, stand several times in a row, and
blocks of them may be run again behind their end.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from automerge_jax.models import program as programs_lib
from automerge_jax.recipe import Recipe
from automerge_jax.spaces import dimensions, grid, layouts, programs, stacking
from automerge_jax.spaces.layouts import Layout
from automerge_jax.types import Array, Family, LayerProgram, SearchSpace


def space(
  family: Family,
  experts: Sequence[str],
  base_model: str,
  *,
  min_layers: int,
  max_layers: int,
  copies: int = 2,
  repeats: int = 0,
  skips: bool = True,
  scales: tuple[float, float] | None = (0.8, 1.2),
  fixed: tuple[int, int] = (0, 0),
  with_base: bool = True,
) -> SearchSpace:
  """The space of layer programs over single models.

  Merged by the mixed method of `passthrough`. The middle of the cube is an
  unchanged model, where it is not as shallow or as deep as programs may be.

  Args:
    family: of the models, with L layers.
    experts: model names as recipes shall name them, K.
    base_model: the base's name.
    min_layers, max_layers: bounds of the depth, both included.
    copies: how often a source layer may stand in a row.
    repeats: how many blocks of layers may be run again, as in frankenmerges.
    skips: whether layers may be left out.
    scales: range of the scale of what a layer adds to the residual stream;
      None leaves it at 1.
    fixed: how many of the first and last layers stand exactly once.
    with_base: whether layers may be the base's.

  Raises:
    ValueError: if the bounds cannot be met with these options, 1 is no scale,
      nothing is left to search, or the family's layers cannot be restacked.
  """
  programs_lib.check(family)
  depth = family.num_layers
  layout = Layout(
    depth, min_layers, max_layers, copies, repeats, skips, tuple(fixed)
  )
  layouts.check(layout)
  models = (*experts, base_model) if with_base else tuple(experts)
  slots = layouts.slot_names(layout)
  genes = dimensions.genes(
    layouts.fields(layout)
    | {
      'model': dimensions.categories(
        [f'model/{slot}' for slot in slots], len(models)
      ),
      'scale': layouts.scale_field(slots, scales),
    }
  )
  wide = len(slots)
  at = layouts.places(layout)

  def settled(c: Array, x: Array):
    own = genes.split(c)
    found = programs.settle(layout, own, genes.split(x))
    model = own.get('model', jnp.zeros(wide))
    scale = own.get('scale', jnp.ones(wide))
    model, scale = (
      programs.moved(layout, at, found, value) for value in (model, scale)
    )
    # What is not used follows the layer before it, so that an inserted layer
    # is by default of the model that stands there.
    model = programs.inherited(found.kept, model)
    return found, model, jnp.where(found.kept, scale, 1.0)

  def canonical(c: Array, x: Array) -> Array:
    found, model, scale = settled(c, x)
    return genes.join(
      programs.spelled(layout, found)
      | {'model': model.reshape(-1)[at], 'scale': scale.reshape(-1)[at]}
    )

  def quantise(x: Array) -> Array:
    return canonical(genes.snap(x), jnp.asarray(x, jnp.float32))

  def stacked(c: Array) -> tuple[LayerProgram, Array]:
    found, model, scale = settled(c, genes.encode(c))
    slot, active = programs.positions(layout, found)
    program = programs.program(layout, slot, active, scale)
    return program, jnp.where(active, model.reshape(-1)[slot], 0)

  def decode(c: Array):
    program, model = stacked(c)
    # In the order of experts, then base, whatever is left out.
    return stacking.picks(family, model, program)

  def active(c: Array) -> Array:
    found, *_ = settled(c, genes.encode(c))
    used = found.kept.reshape(-1)[at]
    return genes.join(
      {'slot': True, 'depth': True, 'again': True}
      | {'start': found.again, 'length': found.again}
      | {'model': used, 'scale': used}
    ).astype(bool)

  compiled = jax.jit(stacked)

  def describe(c) -> Recipe:
    program, model = jax.device_get(compiled(jnp.asarray(c, jnp.float32)))
    slices = stacking.runs(family, models, model, program)
    return Recipe('passthrough', slices)

  plain = {'slot': 1.0, 'depth': depth, 'again': 1.0, 'start': 0.0}
  plain |= {'length': 1.0, 'model': 0.0, 'scale': 1.0}
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
    starts=_starts(layout, genes, quantise, plain, models, len(experts)),
  )


def _starts(layout, genes, quantise, plain, models, num_experts):
  """Every single model, experts in turn, and a block run again."""
  nearest = min(max(layout.depth, layout.least), layout.most)
  exact = nearest == layout.depth
  slots = layouts.fields(layout)['slot'].names
  wants = np.asarray([_want(layout, name) for name in slots], np.float32)

  def made(**own) -> np.ndarray:
    x = genes.encode(genes.join(plain | {'depth': nearest} | own))
    if not exact:
      x = genes.join(genes.split(x) | {'slot': wants})
    return np.asarray(quantise(x), np.float32)

  kind = 'expert' if exact else 'nearly'
  found = []
  for i, name in enumerate(models):
    is_base = i == num_experts
    label = 'base' if exact and is_base else f'{kind}:{name}'
    found.append((label, made(model=i)))
  layer = layouts.places(layout) // layout.copies
  if num_experts > 1:
    found.append(('alternating', made(model=layer % num_experts)))
    halves = np.minimum(layer * num_experts // layout.depth, num_experts - 1)
    found.append(('in_turn', made(model=halves)))
  room = layout.most - nearest
  if exact and room and 'again' in genes.owners:
    length = min(room, layout.longest, max(1, layout.depth // 2))
    start = min(
      max((layout.depth - length) // 2, layout.free.start),
      layout.free.stop - length,
    )
    again = np.ones(layout.repeats)
    again[0] = 0
    for i, name in enumerate(models[:num_experts]):
      block = made(model=i, again=again, start=start, length=length)
      found.append((f'repeat:{name}', block))
  unique: dict[bytes, tuple[str, np.ndarray]] = {}
  for origin, c in found:
    unique.setdefault(c.tobytes(), (origin, c))
  return tuple(unique.values())


def _want(layout: Layout, name: str) -> float:
  """In the unit cube: layers of the middle go, or come again, first."""
  kind, layer, *copy = name.split('/')
  middle = (layout.depth - 1) / 2
  distance = abs(int(layer) - middle) / (middle + 1)  # 0 to 1, never 1
  if layout.depth > layout.most:
    return 0.5 + 0.4 * distance if kind == 'skip' else 0.95
  return 0.95 if kind == 'skip' else 0.5 + 0.4 * distance + 0.01 * int(copy[0])
