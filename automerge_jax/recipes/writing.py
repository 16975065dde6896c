"""From a recipe to YAML that mergekit reads as well."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import yaml

from automerge_jax.recipes import peer
from automerge_jax.recipes.document import (
  ModelToken,
  Module,
  Recipe,
  Scale,
  Setting,
  Slice,
  Source,
  TokenizerSpec,
  TokenSpec,
  ZeroToken,
  over_all_layers,
)
from automerge_jax.recipes.settings import FLAGS


def to_yaml(recipe: Recipe, header: Iterable[str] = ()) -> str:
  """The recipe as YAML; `from_yaml` gives it back.

  Where a slice's sources have the same layers, its base is written as one of
  them, as mergekit demands.

  Raises:
    ValueError: if recipe and its one slice of all layers state the same twice,
      or that slice what is said of layers, which `models` has no place for.
  """
  if not recipe.modules:
    recipe = _lifted(recipe)
  content: dict[str, Any] = {'merge_method': recipe.merge_method}
  if recipe.base_model is not None:
    content['base_model'] = recipe.base_model
  if recipe.modules:
    content['modules'] = {m.name: _module(m, recipe) for m in recipe.modules}
  else:
    content |= _body(recipe.stacks[0], recipe)
  if recipe.parameters:
    content['parameters'] = _settings(recipe.parameters)
  for key in ('dtype', 'out_dtype'):
    if getattr(recipe, key) is not None:
      content[key] = getattr(recipe, key)
  if recipe.tokenizer is not None:
    content |= _tokenizer(recipe.tokenizer)
  if recipe.chat_template is not None:
    content['chat_template'] = recipe.chat_template
  content['semantics'] = recipe.semantics
  if recipe.seed:
    content['seed'] = recipe.seed
  if recipe.inputs:
    content['inputs'] = dict(recipe.inputs)
  if recipe.statistics:
    content['statistics'] = dict(recipe.statistics)
  text = yaml.dump(
    content,
    Dumper=_Dumper,
    sort_keys=False,
    default_flow_style=None,
    width=79,
    allow_unicode=True,
  )
  return ''.join(f'# {line}\n' for line in header) + text


class _Dumper(yaml.SafeDumper):
  def ignore_aliases(self, data: Any) -> bool:
    return True


def _lifted(recipe: Recipe) -> Recipe:
  """What a single slice of all layers states, stated by the recipe."""
  if not over_all_layers(recipe.stacks[0]):
    return recipe
  (part,) = recipe.slices
  _check_plain(part)
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


def _module(module: Module, recipe: Recipe) -> dict[str, Any]:
  content = _body(module, recipe)
  if module.parameters:
    content['parameters'] = _settings(module.parameters)
  return content


def _body(module: Module, recipe: Recipe) -> dict[str, Any]:
  if not over_all_layers(module):
    return {'slices': [_slice(part, recipe) for part in module.slices]}
  (part,) = module.slices
  _check_plain(part)
  if part.base_model or part.parameters:
    raise ValueError(
      f'module {module.name!r}: its only slice of all layers states a base or '
      'parameters; state them in the module or the recipe'
    )
  return {'models': [_source(s) for s in part.sources]}


def _check_plain(part: Slice) -> None:
  if part.parts or part.scales or part.merge_method:
    raise ValueError(
      'a slice with `merge_method`, `parts` or `scales` of its own is written '
      'with the layers of its sources; state `layer_range`'
    )


def _slice(part: Slice, recipe: Recipe) -> dict[str, Any]:
  content: dict[str, Any] = {}
  if part.filter is not None:
    content['filter'] = part.filter
  if part.merge_method is not None:
    content['merge_method'] = part.merge_method
  if part.parts:
    content['parts'] = [_slice(leaf, recipe) for leaf in part.parts]
  else:
    content['sources'] = [_source(s) for s in _with_base(part, recipe)]
  if part.base_model is not None:
    content['base_model'] = part.base_model
  if part.parameters:
    content['parameters'] = _settings(part.parameters)
  if part.scales:
    content['scales'] = [_scale(scale) for scale in part.scales]
  return content


def _scale(scale: Scale) -> dict[str, Any]:
  content: dict[str, Any] = (
    {} if scale.filter is None else {'filter': scale.filter}
  )
  content['value'] = scale.value
  if scale.offset:
    content['offset'] = scale.offset
  return content


def _with_base(part: Slice, recipe: Recipe) -> tuple[Source, ...]:
  base = part.base_model or recipe.base_model
  spans = {s.layers for s in part.sources}
  if (
    base is None
    or recipe.extended
    or peer.is_pair(recipe.merge_method, part)
    or not peer.wants_base_among_sources(recipe.merge_method)
    or any(s.model == base for s in part.sources)
    or len(spans) > 1
  ):
    return part.sources
  return (*part.sources, Source(base, layers=next(iter(spans))))


def _source(source: Source) -> dict[str, Any]:
  content: dict[str, Any] = {'model': source.model}
  if source.layers is not None:
    content['layer_range'] = list(source.layers)
  if source.parameters:
    content['parameters'] = _settings(source.parameters)
  return content


def _tokenizer(spec: TokenizerSpec) -> dict[str, Any]:
  if not spec.tokens and spec.pad_to_multiple_of is None:
    return {'tokenizer_source': spec.source}
  content: dict[str, Any] = {'source': spec.source}
  if spec.tokens:
    content['tokens'] = {t: _token(s) for t, s in spec.tokens.items()}
  if spec.pad_to_multiple_of is not None:
    content['pad_to_multiple_of'] = spec.pad_to_multiple_of
  return {'tokenizer': content}


def _token(spec: TokenSpec) -> dict[str, Any]:
  content: dict[str, Any] = {}
  if isinstance(spec.source, ZeroToken):
    content['source'] = {'kind': 'zero'}
  elif isinstance(spec.source, ModelToken):
    stated = {k: v for k, v in vars(spec.source).items() if v is not None}
    content['source'] = {'kind': 'model_token', **stated}
  elif spec.source is not None:
    content['source'] = spec.source
  if spec.force:
    content['force'] = True
  return content


def _settings(parameters: Mapping[str, Setting]) -> dict[str, Any]:
  return {
    name: _plain(setting, bool if name in FLAGS else _same)
    for name, setting in parameters.items()
  }


def _plain(setting: Setting, of: Callable[[Any], Any]) -> Any:
  """A setting as dicts and lists, whatever kinds of them they were."""
  if isinstance(setting, Mapping):
    return {**setting, 'value': _plain(setting['value'], of)}
  if isinstance(setting, list | tuple):
    return [_plain(entry, of) for entry in setting]
  return of(setting)


def _same(value: Any) -> Any:
  return value
