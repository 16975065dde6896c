"""Merge methods by name, and by semantics where there are several."""

from automerge_jax import trees
from automerge_jax.merging.methods import (
  arcee_fusion,
  breadcrumbs,
  consensus,
  dare,
  della,
  df_merge,
  fisher,
  iso,
  karcher,
  linear,
  magmax,
  model_stock,
  multislerp,
  nearswap,
  nuslerp,
  passthrough,
  ram,
  regmean,
  sce,
  slerp,
  star,
  task_arithmetic,
  ties,
  tsv,
  wudi,
)
from automerge_jax.types import MergeMethod

SEMANTICS = ('mergekit-0.1.5', 'paper')


_MODULES = (
  arcee_fusion,
  breadcrumbs,
  consensus,
  dare,
  della,
  df_merge,
  fisher,
  iso,
  karcher,
  linear,
  magmax,
  model_stock,
  multislerp,
  nearswap,
  nuslerp,
  passthrough,
  ram,
  regmean,
  sce,
  slerp,
  star,
  task_arithmetic,
  ties,
  tsv,
  wudi,
)

METHODS: dict[str, dict[str, MergeMethod]] = {}
for _module in _MODULES:
  for _method in _module.METHODS:
    METHODS.setdefault(_method.name, {})[_method.semantics] = _method


def get(name: str, semantics: str = SEMANTICS[0]) -> MergeMethod:
  """The method of that name.

  Args:
    name: as in recipes.
    semantics: whose definition, where there are several; a method with only one
      definition is that whatever is asked.

  Raises:
    ValueError: naming the nearest valid method or semantics.
  """
  if name not in METHODS:
    raise ValueError(
      f'unknown merge method {name!r}' + trees.nearest(name, METHODS)
    )
  if semantics not in SEMANTICS:
    raise ValueError(
      f'unknown semantics {semantics!r}' + trees.nearest(semantics, SEMANTICS)
    )
  known = METHODS[name]
  return known.get(semantics) or next(iter(known.values()))
