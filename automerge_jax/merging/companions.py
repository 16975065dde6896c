"""What a merged model's folder holds beside its weights and recipe."""

import copy
import json
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from automerge_jax.io import chat_templates, tokenizer_files, tokenizers
from automerge_jax.merging import layers
from automerge_jax.merging.plan import Plan
from automerge_jax.merging.sources import CONFIG, Opened, read_json
from automerge_jax.recipe import Recipe

_DEPTHS = ('num_hidden_layers', 'n_layer', 'num_layers', 'n_layers')
_QUERIES = re.compile(r'q_proj|query|qkv|c_attn')
_DTYPES = ('dtype', 'torch_dtype')
_GENERATION = 'generation_config.json'
_COPIED = ('preprocessor_config.json', 'processor_config.json')
_LICENCES = ('LICENSE', 'LICENSE.txt', 'LICENSE.md', 'NOTICE')

Files = dict[str, str | pathlib.Path]


def files(recipe: Recipe, models: Opened, plan: Plan) -> Files:
  """Texts, or files to copy, by their names in the merged folder.

  Config and tokenizer are the leading model's (the base's, without one the
  first model's), changed where the merge changed what they describe.
  """
  lead = recipe.models[0]
  folder = models.folders[lead]
  found: Files = {
    name: folder / name
    for name in (*_COPIED, *_LICENCES)
    if (folder / name).is_file()
  }
  owner, text = folder, None
  if models.alignment is not None:
    owner = models.folders[models.alignment.source]
    text = models.alignment.tokenizer
  template = chat_templates.choose(
    recipe.chat_template, list(models.folders.values())
  )
  found |= tokenizer_files.files(owner, text, template)
  for name in (CONFIG, _GENERATION):
    if (folder / name).is_file():
      config = read_json(folder / name)
      changed = _with_tokens(config, lead, models)
      if name == CONFIG:
        changed = config_of(changed, recipe, models, plan)
      found[name] = (
        json.dumps(changed, indent=2, ensure_ascii=False) + '\n'
        if changed != config
        else folder / name
      )
  return found


def _with_tokens(
  config: Mapping[str, Any], lead: str, models: Opened
) -> dict[str, Any]:
  """A config whose vocabulary size and token ids are the merged ones."""
  alignment = models.alignment
  text = tokenizers.read(models.folders[lead])
  if alignment is None or text is None:
    return dict(config)
  owner = models.folders[alignment.source]
  return tokenizer_files.renumbered(
    config,
    tokenizers.vocabulary(text),
    alignment.vocabulary,
    tokenizer_files.special_tokens(owner),
    config.get('vocab_size', 0),
    alignment.size,
  )


def config_of(
  config: Mapping[str, Any], recipe: Recipe, models: Opened, plan: Plan
) -> dict[str, Any]:
  """A config with the depth, head and type of numbers that the merge gives.

  Raises:
    ValueError: if the merge changes the number of layers and the config does
      not say how many there are.
  """
  changed = dict(config)
  depth = _depths(step.output.name for step in plan.steps)
  lead = models.checkpoints[recipe.models[0]]
  if depth != _depths(lead.names()):
    keys = [key for key in _DEPTHS if key in changed]
    if len(depth) != 1 or not keys:
      raise ValueError(
        f'the merge has {depth} layers and {CONFIG} says it in none of '
        f'{_DEPTHS}; layers cannot be stacked for this architecture'
      )
    changed |= dict.fromkeys(keys, next(iter(depth.values())))
  if _restacked(plan, lead.names()):
    types = _layer_types(config, recipe.models[0], models, plan)
    changed |= {} if types is None else {'layer_types': types}
  merged_heads = any(layers.is_head(s.output.name) for s in plan.steps)
  if merged_heads and not any(map(layers.is_head, lead.names())):
    changed['tie_word_embeddings'] = False
  dtypes = {str(s.info.dtype) for s in plan.steps if not s.copied}
  if len(dtypes) == 1:
    changed |= {key: dtypes.copy().pop() for key in _DTYPES if key in changed}
  return changed


def _depths(names) -> dict[str, int]:
  """Number of layers of each stack."""
  found: dict[str, int] = {}
  for place in map(layers.place, names):
    if place is not None:
      found[place.stack] = max(found.get(place.stack, 0), place.layer + 1)
  return found


def _restacked(plan: Plan, names: Iterable[str]) -> bool:
  """Whether layers were moved, or left out at the end, or added."""
  origins = _origins(plan).items()
  moved = any(origin[1] != layer for layer, origin in origins)
  return moved or _depths(s.output.name for s in plan.steps) != _depths(names)


def _layer_types(
  config: Mapping[str, Any], lead: str, models: Opened, plan: Plan
) -> list[str] | None:
  """The kind of each output layer: that of the layer it attends like.

  None where layers have no kinds, or one and the config does not say it.
  """
  own = _kinds(config)
  if own is None or (len(set(own)) < 2 and 'layer_types' not in config):
    return None
  origins = _origins(plan)
  of = {lead: own}
  found = []
  for layer in sorted(origins):
    model, source = origins[layer]
    if model not in of:
      of[model] = _kinds(models.configs.get(model, {})) or own
    found.append(of[model][source])
  return found


def _origins(plan: Plan) -> dict[int, tuple[str, int]]:
  """(model, layer) that each output layer has its (first) queries from."""
  found: dict[int, tuple[str, int]] = {}
  for step in plan.steps:
    model, name = step.output.sources[0]
    layer = layers.layer_of(name)
    if step.output.layer is None or layer is None:
      continue
    if step.output.layer not in found or _QUERIES.search(name):
      found[step.output.layer] = model, layer
  return found


def _kinds(config: Mapping[str, Any]) -> list[str] | None:
  """What a config says of each layer, be it by the defaults of its type."""
  if isinstance(config.get('layer_types'), list):
    return config['layer_types']
  from huggingface_hub.errors import StrictDataclassError
  from transformers import AutoConfig  # takes a second

  # A copy: what is nested gets its defaults in place.
  entries = copy.deepcopy(
    {k: v for k, v in config.items() if k != 'model_type'}
  )
  try:
    full = AutoConfig.for_model(str(config.get('model_type')), **entries)
  except (StrictDataclassError, TypeError, ValueError, KeyError):
    return None  # a type or a config that only others understand
  return getattr(full, 'layer_types', None)


def card(recipe: Recipe, text: str, names: Mapping[str, str]) -> str:
  """A short model card: what was merged how, and the recipe."""
  listed = '\n'.join(f'- {names[model]}' for model in recipe.models)
  methods = ', '.join(f'`{method}`' for method in recipe.methods)
  described = {
    'paper': 'as its paper defines it',
    'mergekit-0.1.5': "with mergekit 0.1.5's semantics",
  }[recipe.semantics]
  return f"""---
tags:
- merge
- automerge_jax
---
# Merged model

Made without training, by {methods} ({described}), of:

{listed}

No evaluation has been made of it. The recipe, which `python -m
experiments.merge --recipe=recipe.yaml --out=DIR` turns into the same weights:

```yaml
{text.rstrip()}
```
"""
