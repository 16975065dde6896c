"""Recipes: what is merged how, in mergekit's YAML grammar.

A recipe lists `models` (or `slices` of layers) with parameters. A parameter is
a number, a gradient over depth, or a list of `{filter, value}` of which the
first whose filter is part of the tensor's name counts. The most specific
statement wins: source, then slice, then recipe, then the method's default.
Beyond mergekit's keys a recipe may hold `semantics` and `inputs` (SHA-256 of
each model's weights), which mergekit ignores.
"""

import dataclasses
import hashlib
import json
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


@dataclasses.dataclass(frozen=True)
class Resolved:
  """What happens to one tensor.

  Attributes:
    experts: the models that are merged, in order.
    base_model: the base, if any.
    parameters: `{name: value}`, a tuple [K] where it is per expert.
  """

  experts: tuple[str, ...]
  base_model: str | None
  parameters: Mapping[str, Any]


def resolve(
  recipe: Recipe, name: str, layer: int | None, num_layers: int
) -> Resolved:
  """The experts and numbers of one tensor.

  Args:
    recipe: the recipe.
    name: stored name of the tensor.
    layer: its layer; None outside the layers.
    num_layers: L.

  Raises:
    ValueError: if a required parameter is stated nowhere for this tensor.
  """
  method = registry.get(recipe.merge_method)
  part, depth = _slice_of(recipe, name, layer, num_layers)
  base = part.base_model or recipe.base_model
  excluded = base if method.stack == 'deltas' else None
  sources = [s for s in part.sources if s.model != excluded]
  if method.name == 'slerp':  # from the base to the other
    sources.sort(key=lambda source: source.model != base)
  values: dict[str, Any] = {}
  for parameter in method.parameters:
    shared = (part.parameters, recipe.parameters)
    if parameter.per_expert:
      found = [
        _first(parameter, (s.parameters, *shared), name, depth) for s in sources
      ]
      missing = [
        s.model for s, v in zip(sources, found, strict=True) if v is None
      ]
      values[parameter.name] = tuple(found)
    else:
      found = _first(parameter, shared, name, depth)
      missing = [] if found is not None else ['the recipe']
      values[parameter.name] = found
    if missing:
      raise ValueError(
        f'parameter {parameter.name!r} of {method.name} is not stated for '
        f'tensor {name!r} of {missing[0]}; add it under `parameters`, or end '
        'its list with a `value` without `filter`'
      )
  return Resolved(tuple(s.model for s in sources), base, values)


def effective_hash(
  recipe: Recipe, layer_of: Mapping[str, int | None], num_layers: int
) -> str:
  """Hash of what the recipe does to each tensor, however it is written.

  Args:
    recipe: the recipe.
    layer_of: stored names and their layers (None outside the layers).
    num_layers: L.
  """
  effect = [
    (name, *dataclasses.astuple(resolve(recipe, name, layer, num_layers)))
    for name, layer in sorted(layer_of.items())
  ]
  text = json.dumps([recipe.merge_method, recipe.semantics, effect])
  return hashlib.sha256(text.encode()).hexdigest()[:16]


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


def _slice_of(
  recipe: Recipe, name: str, layer: int | None, num_layers: int
) -> tuple[Slice, float]:
  """The slice that makes a tensor, and the tensor's depth in it, 0 to 1."""
  spans = [part.layers or (0, num_layers) for part in recipe.slices]
  ends = [*[start for start, _ in spans][1:], num_layers]
  if spans[0][0] != 0 or [end for _, end in spans] != ends:
    raise ValueError(
      f'slices cover layers {spans} of {num_layers}; expected each layer once '
      'and in order'
    )
  if layer is None:  # before the layers: first slice; after them: last
    return recipe.slices[0 if 'embed' in name else -1], 0.0
  for part, (start, end) in zip(recipe.slices, spans, strict=True):
    if start <= layer < end:
      last = end - start - 1
      return part, (layer - start) / last if last else 1.0
  raise ValueError(f'no slice holds layer {layer} of tensor {name!r}')


def _first(parameter, levels, name: str, depth: float) -> Any:
  for level in levels:
    value = _evaluate(level.get(parameter.name), name, depth)
    if value is not None:
      return float(value)
  return parameter.default


def _evaluate(setting: Setting, name: str, depth: float) -> Any:
  """Value of a setting for a tensor, None if it says nothing about it."""
  if isinstance(setting, dict):
    setting = [setting]
  if not isinstance(setting, list | tuple):
    return setting
  if not setting:
    return None
  if isinstance(setting[0], dict):
    for entry in setting:
      part = entry.get('filter')
      if part is None or part == '*' or part in name:
        return _evaluate(entry['value'], name, depth)
    return None
  position = depth * (len(setting) - 1)
  low = int(position)
  high = min(len(setting) - 1, low + 1)
  fraction = position - low
  return (1 - fraction) * setting[low] + fraction * setting[high]


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
