"""From settings to the search space, and the method that merges in it."""

import dataclasses
import inspect
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from automerge_jax import trees
from automerge_jax.merging import export, mixed, registry
from automerge_jax.recipe import Recipe
from automerge_jax.recipes import evolve as evolutions
from automerge_jax.search import baselines
from automerge_jax.search.settings import Settings
from automerge_jax.spaces import (
  both,
  cells,
  depthwise,
  evolve,
  fusion,
  layerwise,
  pruning,
  published,
  published_depthwise,
)
from automerge_jax.types import Family, MergeMethod, SearchSpace

_PICK = 'passthrough'


def method(settings: Settings) -> MergeMethod:
  """What merges a candidate.

  Raises:
    ValueError: for an unknown method, or several where the space takes one.
  """
  if settings.space in ('depthwise', 'published_depthwise'):
    names: tuple[str, ...] = (_PICK,)
  elif settings.space == 'published_layerwise':
    names = published.METHODS
  elif settings.space == 'evolve':
    names = (_evolution(settings).genome.merge_method,)
  else:
    names = settings.methods
  found = [registry.get(name, settings.semantics) for name in names]
  if names == (_PICK,) or len(found) > 1 or _is_typed(settings):
    if settings.space not in (
      'layerwise',
      'depthwise',
      'published_layerwise',
      'published_depthwise',
    ):
      raise ValueError(
        f'the space {settings.space!r} takes one method, got {names}'
      )
    return mixed.of(found)
  if not found:
    raise ValueError(f'method is {settings.method!r}; expected a name')
  return found[0]


def build(
  settings: Settings, family: Family, experts: Sequence[str], base: str
) -> SearchSpace:
  """The search space.

  Args:
    settings: which, and its options.
    family: of base and experts.
    experts: names of the experts.
    base: name of the base.

  Raises:
    ValueError: for an option that the space does not have.
  """
  options = dict(settings.space_options)
  if settings.designs and settings.space != 'layerwise':
    raise ValueError(
      f'designs {settings.designs} are recipes to start from; only the space '
      f"'layerwise' takes them, not {settings.space!r}"
    )
  if settings.space == 'evolve':
    evolution = _evolution(settings)
    wanted = evolve.experts(evolution)
    if tuple(experts) != wanted:
      raise ValueError(f'experts are {list(experts)}; the genome has {wanted}')
    return evolve.space(evolution, family, settings.seed)
  if settings.space == 'modelwise':
    _only(options, (), settings.space)
    return fusion.space(
      method(settings), cells.whole(family), experts, base, settings.ranges
    )
  if settings.space == 'layerwise' and not _is_typed(settings):
    return fusion.space(
      method(settings),
      division(settings, family),
      experts,
      base,
      settings.ranges,
    )
  given: dict[str, Any] = {}
  if settings.space in ('layerwise', 'both'):
    given['cells'] = division(settings, family)
    given['ranges'] = settings.ranges
  if settings.space == 'layerwise':
    given['methods'] = [
      registry.get(name, settings.semantics) for name in settings.methods
    ]
    given['designs'] = designs(settings, experts, base)
    given['wanted'] = from_files(settings, experts, base)
  else:
    given['family'] = family
  if settings.space == 'both':
    given['method'] = method(settings)
  builder: Callable[..., SearchSpace] = {
    'layerwise': layerwise.space,
    'depthwise': depthwise.space,
    'pruning': pruning.space,
    'both': both.space,
    'published_layerwise': published.space,
    'published_depthwise': published_depthwise.space,
  }[settings.space]
  known = [
    p.name
    for p in inspect.signature(builder).parameters.values()
    if p.kind is p.KEYWORD_ONLY and p.name not in given
  ]
  _only(options, known, settings.space)
  return builder(experts=experts, base_model=base, **given, **options)


def division(settings: Settings, family: Family) -> cells.Cells:
  """Groups of layers and components."""
  components: Any = settings.components
  if '=' in components:
    pairs = [part.split('=') for part in components.split(',')]
    if any(len(pair) != 2 for pair in pairs):
      raise ValueError(
        f'components is {components!r}; expected NAME=FILTER,...,NAME='
      )
    components = [(name, part or None) for name, part in pairs]
  return cells.layered(family, settings.layers_per_group, components)


def filters(
  settings: Settings, family: Family
) -> Sequence[tuple[str, str | None]]:
  """How a report sorts tensors: (component, filter) pairs."""
  if settings.space in ('layerwise', 'both'):
    return division(settings, family).filters
  return family.components['coarse']


def designs(
  settings: Settings, experts: Sequence[str], base: str
) -> list[tuple[str, Recipe]]:
  """Recipes to start from: hand-made grids."""
  parents = [name for name in experts if name not in settings.derived]
  found = [('uniform', baselines.uniform(parents))]
  for name, grid in baselines.grids(parents, base, settings).items():
    found += [(f'{name}:{i}', recipe) for i, recipe in enumerate(grid)]
  return found


def from_files(
  settings: Settings, experts: Sequence[str], base: str
) -> list[tuple[str, Recipe]]:
  """Recipes of files to start from.

  Raises:
    ValueError: if one merges other models than those of this search.
  """
  found = []
  places = {
    pathlib.Path(folder).resolve(): name
    for name, folder in {base: settings.base, **settings.experts}.items()
  }
  for file in map(pathlib.Path, settings.designs):
    path = file / export.RECIPE if file.is_dir() else file
    recipe, folders = export.read(path)
    names = {
      model: places.get(pathlib.Path(folder), model)
      for model, folder in folders.items()
    }
    unknown = sorted(set(names.values()) - {base, *experts})
    if unknown:
      raise ValueError(
        f'{path} merges {unknown}, which are no models of this search; it has '
        f'{[base, *experts]}'
      )
    found.append((f'file:{file.name}', export.rename(recipe, names)))
  return found


def _is_typed(settings: Settings) -> bool:
  """Whether layer-wise fusion needs the typed space."""
  if settings.space != 'layerwise':
    return False
  if len(settings.methods) > 1 or settings.space_options or settings.designs:
    return True
  plain = isinstance(settings.layers_per_group, int) and (
    settings.components in ('coarse', 'fine')
  )
  found = [registry.get(name, settings.semantics) for name in settings.methods]
  return not plain and all(map(mixed.can_mix, found))


def _evolution(settings: Settings) -> evolutions.Evolution:
  """The genome that the options state, models called as in the search."""
  options = dict(settings.space_options)
  random = options.pop('random_init', False)
  known = [f.name for f in dataclasses.fields(evolutions.Genome)]
  _only(options, [*known, 'random_init'], settings.space)
  if 'models' not in options or 'merge_method' not in options:
    raise ValueError(
      'the space evolve needs a genome; give its file: '
      'experiments.search --evolve=FILE'
    )
  genome = evolutions.Genome(**options)
  return evolutions.Evolution(genome, (), random_init=random)


def _only(options: Mapping[str, Any], known: Sequence[str], space: str) -> None:
  for name in options:
    if name not in known:
      raise ValueError(
        f'space_options: unknown {name!r} for the space {space!r}'
        + trees.nearest(name, known)
      )
