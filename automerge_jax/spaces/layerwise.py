"""Typed layer-wise fusion (LFS): a merge method for each group of layers.

After https://arxiv.org/abs/2502.04030, with its dead dimensions gone: a method
is a category, only the numbers of the one that is chosen count, and vectors
that say the same are the same vector. `published.py` has the layout as it was
published.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from automerge_jax.merging import mixed
from automerge_jax.recipe import Recipe
from automerge_jax.spaces import grid
from automerge_jax.spaces.cells import Cells
from automerge_jax.spaces.typed import coding as typed_coding
from automerge_jax.spaces.typed import designs as typed_designs
from automerge_jax.spaces.typed import layout as typed_layout
from automerge_jax.spaces.typed import recipe as typed_recipe
from automerge_jax.spaces.typed.layout import Block, Layout
from automerge_jax.spaces.typed.parameters import PAIR, PICK
from automerge_jax.types import Array, MergeMethod, MergePlan, SearchSpace


def space(
  methods: Sequence[MergeMethod],
  cells: Cells,
  experts: Sequence[str],
  base_model: str,
  *,
  ranges: Mapping[str, tuple[float, float]] | None = None,
  shared: Sequence[str] = (),
  choice: str = 'group',
  knots: int | None = None,
  designs: Sequence[tuple[str, Recipe]] = (),
  wanted: Sequence[tuple[str, Recipe]] = (),
) -> SearchSpace:
  """The space of all recipes that choose among methods; merged by `mixed.of`.

  Dimensions are called `ties.density/movie/0-2/attention`; categories
  `method/all/0-2/all`, `slerp.pair/...` (an unordered pair of experts, with
  `slerp.t` from the first to the second) and `passthrough.model/...` (an
  expert, or behind them the base). Inactive dimensions are at rest, in the
  middle of their range. Weights that count only by their ratios (under
  `normalize`) are scaled so that the largest is 1, or as near as its range
  allows; without knots, and from 0 on.

  Args:
    methods: to choose from.
    cells: groups of layers, times components. What is in no layer and a cell of
      its own chooses for itself.
    experts: model names as recipes shall name them, K.
    base_model: the base's name.
    ranges: other (low, high) than the methods', by `PARAMETER` of every method
      or `METHOD.PARAMETER`; also of parameters that are else at their default.
      A range of one value fixes the parameter.
    shared: parameters, named likewise, with one value for all experts.
    choice: 'group': one method for all components of a layer group, as
      published; 'cell': one for each.
    knots: numbers vary over depth: each stands at so many evenly spaced layers
      and is interpolated between them. None: one in each layer group.
    designs: (origin, recipe) pairs to start from. What the space cannot express
      is no start; why is logged. See `typed_designs.place`.
    wanted: likewise, but it is an error if the space cannot say one.

  Raises:
    ValueError: for a wanted start that the space cannot say; for methods that
      cannot be mixed, take another number of experts or have other
      `semantics`; for names of parameters that no search can move; for other
      choices or numbers of knots.
  """
  of = typed_layout.layout(
    methods,
    cells,
    experts,
    base_model,
    ranges=ranges,
    shared=shared,
    choice=choice,
    knots=knots,
  )
  made = from_layout(of)
  starts, missed = typed_designs.starts(of, made, [*wanted, *designs])
  for origin, _ in wanted:
    if origin in missed:
      raise ValueError(
        f'the search cannot start from {origin}: {missed[origin]}; widen the '
        'space (methods, ranges, groups), or leave it out'
      )
  for origin, reason in missed.items():
    logging.info('start %s is left out: %s', origin, reason)
  return made._replace(starts=starts)


def from_layout(layout: Layout) -> SearchSpace:
  """The space of a layout, without starts."""
  quantise, encode, active = typed_coding.coder(layout)

  def decode(c: Array) -> MergePlan:
    values = site_values(layout, c)
    return {
      path: {name: value[..., site] for name, value in values.items()}
      for path, site in layout.sites.of_leaf.items()
    }

  compiled = jax.jit(lambda c: site_values(layout, c))

  def describe(c) -> Recipe:
    values = jax.device_get(compiled(jnp.asarray(c, jnp.float32)))
    return typed_recipe.write(layout, values)

  owners = [name.rsplit('/', 2)[0] for name in layout.names]
  return SearchSpace(
    layout.names,
    grid.correlation(owners),
    quantise,
    encode,
    decode,
    describe,
    choices=typed_coding.by_dimension(layout, 'choices').astype(np.int32),
    active=active,
  )


def site_values(layout: Layout, c: Array) -> dict[str, Array]:
  """Every parameter of the mixed method at each site, [K, sites] or [sites]."""
  count, sites = len(layout.experts), len(layout.unit_of)
  zeros = jnp.zeros(sites, jnp.float32)

  def category(block: Block | None) -> Array:
    return zeros if block is None else c[block.dims][layout.unit_of]

  found = {mixed.METHOD: category(layout.block(None, mixed.METHOD))}
  for m, method in enumerate(layout.methods):
    if method.name == PICK:
      found[f'{method.name}/first'] = category(layout.block(m, 'model'))
      continue
    for parameter in method.parameters:
      name = f'{method.name}/{parameter.name}'
      axes = (count,) * parameter.per_expert
      block = layout.block(m, parameter.name)
      if block is None:
        found[name] = jnp.full((*axes, sites), layout.fixed[name], jnp.float32)
        continue
      rows = c[block.dims].reshape(block.shape)
      rows = _at_sites(layout, block, rows)
      found[name] = (
        jnp.broadcast_to(rows, (count, sites))
        if parameter.per_expert
        else rows[0]
      )
    if method.name == PAIR:
      pair = jnp.asarray(layout.pairs)[
        category(layout.block(m, 'pair')).astype(jnp.int32)
      ].astype(jnp.float32)
      found |= {'slerp/first': pair[:, 0], 'slerp/second': pair[:, 1]}
  return found


def _at_sites(layout: Layout, block: Block, rows: Array) -> Array:
  """Numbers of columns [owners, columns] at the sites, [owners, sites]."""
  if not layout.knotted:
    return rows[:, layout.low_of]
  share = jnp.asarray(layout.share)[None]
  between = (1 - share) * rows[:, layout.low_of]
  between = between + share * rows[:, layout.high_of]
  return grid.snapper([block.parameter], [block.low], [block.high])(between)
