"""Recipes: what is merged how, in mergekit's YAML grammar.

A recipe lists `models` (or `slices` of layers, or `modules` with either) with
parameters. A parameter is a number, a gradient over depth, or a list of
`{filter, value}` of which the first whose filter is part of the tensor's name
counts. The most specific statement wins: source, then slice, then module, then
recipe, then the method's default. Beyond mergekit's keys a recipe may hold
`semantics`, `seed` (of random masks) and `inputs` (SHA-256 of each model's
weights), which mergekit ignores.

Beyond mergekit, too, a slice may name its own `merge_method`; hold `parts`,
slices of the same depth with a `filter` each, in place of `sources`; and
`scales`, `{filter, value, offset}`, by which merged tensors w become
value (w + offset) - offset.
"""

from automerge_jax.recipes.document import (
  ModelRef,
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
  model_ref,
)
from automerge_jax.recipes.peer import portable
from automerge_jax.recipes.reading import from_yaml
from automerge_jax.recipes.writing import to_yaml

__all__ = [
  'ModelRef',
  'ModelToken',
  'Module',
  'Recipe',
  'Scale',
  'Setting',
  'Slice',
  'Source',
  'TokenSpec',
  'TokenizerSpec',
  'ZeroToken',
  'from_yaml',
  'model_ref',
  'portable',
  'to_yaml',
]
