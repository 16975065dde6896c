"""Recipes: what is merged how, in mergekit's YAML grammar.

A recipe lists `models` (or `slices` of layers) with parameters. A parameter is
a number, a gradient over depth, or a list of `{filter, value}` of which the
first whose filter is part of the tensor's name counts. The most specific
statement wins: source, then slice, then recipe, then the method's default.
Beyond mergekit's keys a recipe may hold `semantics` and `inputs` (SHA-256 of
each model's weights), which mergekit ignores.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from automerge_jax import trees
from automerge_jax.merging import registry

Setting = Any  # number | gradient | [{'filter': str, 'value': ...}, ...]
_TOP = {
  'merge_method',
  'models',
  'slices',
  'base_model',
  'parameters',
  'dtype',
  'semantics',
  'inputs',
}

_NO_EFFECT = {'int8_mask'}  # mergekit's, of its memory and no tensor


@dataclasses.dataclass(frozen=True)
class Source:
  """One model (a folder) in a slice, with its parameters."""

  model: str
  parameters: Mapping[str, Setting] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Slice:
  """Layers [start, end) of each source, merged with each other."""

  sources: tuple[Source, ...]
  layers: tuple[int, int] | None = None  # None: all of them
  base_model: str | None = None
  parameters: Mapping[str, Setting] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Recipe:
  """A merge. `inputs` maps each model to the SHA-256 of its weights."""

  merge_method: str
  slices: tuple[Slice, ...]
  base_model: str | None = None
  parameters: Mapping[str, Setting] = dataclasses.field(default_factory=dict)
  inputs: Mapping[str, str] = dataclasses.field(default_factory=dict)
  semantics: str = 'mergekit-0.1.5'

  @property
  def models(self) -> tuple[str, ...]:
    """Every model once, in order of appearance; the base first, if any."""
    found = [] if self.base_model is None else [self.base_model]
    found += [s.model for part in self.slices for s in part.sources]
    return tuple(dict.fromkeys(found))


def to_yaml(recipe: Recipe, header: Iterable[str] = ()) -> str:
  """The recipe as YAML; `from_yaml` gives it back.

  Raises:
    ValueError: if recipe and its one slice of all layers state the same twice,
      which `models` has no place for.
  """
  recipe = _lifted(recipe)
  content: dict[str, Any] = {'merge_method': recipe.merge_method}
  if recipe.base_model is not None:
    content['base_model'] = recipe.base_model
  if len(recipe.slices) == 1 and recipe.slices[0].layers is None:
    part = recipe.slices[0]
    content['models'] = [_source(s, None) for s in part.sources]
  else:
    content['slices'] = [_slice(part) for part in recipe.slices]
  if recipe.parameters:
    content['parameters'] = dict(recipe.parameters)
  content['dtype'] = 'float32'
  content['semantics'] = recipe.semantics
  if recipe.inputs:
    content['inputs'] = dict(recipe.inputs)
  text = yaml.dump(content, sort_keys=False, default_flow_style=None, width=79)
  return ''.join(f'# {line}\n' for line in header) + text


def from_yaml(text: str, where: str = 'recipe') -> Recipe:
  """Reads a recipe.

  Raises:
    ValueError: naming the key or value that is wrong, and what was expected.
  """
  content = yaml.safe_load(text)
  if not isinstance(content, dict):
    raise ValueError(f'{where}: expected a mapping of keys, got {content!r}')
  _check_keys(content, _TOP, where)
  if ('models' in content) == ('slices' in content):
    raise ValueError(f'{where}: give exactly one of `models` and `slices`')
  if 'merge_method' not in content:
    raise ValueError(f'{where}: `merge_method` is missing')
  if content.get('dtype', 'float32') not in ('float32', 'torch.float32'):
    raise ValueError(
      f'{where}: dtype {content["dtype"]!r} is not supported; use float32'
    )
  method = registry.get(content['merge_method'])
  if 'models' in content:
    sources = tuple(
      _read_source(s, f'{where}: models[{i}]', {'model', 'parameters'})
      for i, s in enumerate(content['models'])
    )
    slices: tuple[Slice, ...] = (Slice(sources),)
  else:
    slices = tuple(
      _read_slice(part, f'{where}: slices[{i}]')
      for i, part in enumerate(content['slices'])
    )
  recipe = Recipe(
    merge_method=content['merge_method'],
    slices=slices,
    base_model=content.get('base_model'),
    parameters=content.get('parameters') or {},
    inputs=content.get('inputs') or {},
    semantics=content.get('semantics', 'mergekit-0.1.5'),
  )
  valid = {p.name for p in method.parameters} | _NO_EFFECT
  for owner in (recipe, *slices, *(s for part in slices for s in part.sources)):
    _check_keys(owner.parameters, valid, f'{where}: `parameters`')
  return recipe


def _lifted(recipe: Recipe) -> Recipe:
  """What a single slice of all layers states, stated by the recipe."""
  if len(recipe.slices) != 1 or recipe.slices[0].layers is not None:
    return recipe
  (part,) = recipe.slices
  twice = sorted(set(part.parameters) & set(recipe.parameters))
  if part.base_model and recipe.base_model not in (None, part.base_model):
    twice.append('base_model')
  if twice:
    raise ValueError(f'{twice} stand in the recipe and in its only slice')
  return dataclasses.replace(
    recipe,
    slices=(Slice(part.sources),),
    base_model=part.base_model or recipe.base_model,
    parameters={**recipe.parameters, **part.parameters},
  )


def _check_keys(content: Mapping[str, Any], valid: set[str], where: str):
  for key in content:
    if key not in valid:
      raise ValueError(
        f'{where}: unknown key {key!r}' + trees.nearest(key, valid)
      )


def _read_source(content, where: str, valid: set[str]) -> Source:
  _check_keys(content, valid, where)
  if 'model' not in content:
    raise ValueError(f'{where}: `model` is missing')
  return Source(content['model'], content.get('parameters') or {})


def _read_slice(content, where: str) -> Slice:
  _check_keys(content, {'sources', 'base_model', 'parameters'}, where)
  sources = tuple(
    _read_source(
      s, f'{where}: sources[{i}]', {'model', 'layer_range', 'parameters'}
    )
    for i, s in enumerate(content['sources'])
  )
  if any('layer_range' not in s for s in content['sources']):
    raise ValueError(
      f'{where}: a source without `layer_range`; expected [start, end)'
    )
  ranges = {tuple(s['layer_range']) for s in content['sources']}
  if len(ranges) != 1:
    raise ValueError(
      f'{where}: sources have layer ranges {sorted(ranges)}; merging layers '
      'of different indices is not supported, expected one range'
    )
  (span,) = ranges
  return Slice(
    sources, span, content.get('base_model'), content.get('parameters') or {}
  )


def _source(source: Source, span: tuple[int, int] | None) -> dict[str, Any]:
  content: dict[str, Any] = {'model': source.model}
  if span is not None:
    content['layer_range'] = list(span)
  if source.parameters:
    content['parameters'] = dict(source.parameters)
  return content


def _slice(part: Slice) -> dict[str, Any]:
  content: dict[str, Any] = {
    'sources': [_source(s, part.layers) for s in part.sources]
  }
  if part.base_model is not None:
    content['base_model'] = part.base_model
  if part.parameters:
    content['parameters'] = dict(part.parameters)
  return content
