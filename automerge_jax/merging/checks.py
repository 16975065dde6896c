"""What to be wary of before merging: found from configs and a few samples."""

from collections.abc import Iterator, Mapping

import numpy as np

from automerge_jax.io.tensors import Checkpoint
from automerge_jax.merging import layers
from automerge_jax.merging import plan as plans
from automerge_jax.merging.plan import Plan, Step
from automerge_jax.merging.sources import Opened
from automerge_jax.recipe import Recipe, portable

# Where these differ, equal shapes do not mean equal roles.
_MEANINGS = (
  'model_type',
  'hidden_act',
  'hidden_size',
  'num_attention_heads',
  'num_key_value_heads',
  'head_dim',
  'rope_theta',
  'rope_scaling',
  'rms_norm_eps',
  'layer_norm_eps',
  'sliding_window',
  'vocab_size',
)
# Tried: its list of architectures has a fault there.
_BEYOND_MERGEKIT = frozenset({'BertModel'})
_TENSORS = 6  # that are looked into
_ENTRIES = 1 << 16  # of each
_RELATED = 0.9  # cosine; unrelated weights have about 0, fine-tunes about 1


def warnings(recipe: Recipe, models: Opened, plan: Plan) -> list[str]:
  """Lines to show to whoever is about to merge."""
  return [
    *recipe.warnings,
    *_configs(models),
    *_heads(models, plan),
    *_dtypes(models, plan),
    *_tokens(models),
    *_relations(models, plan),
    *_scales(recipe, plan),
  ]


def not_portable(recipe: Recipe, models: Opened, plan: Plan) -> list[str]:
  """Why mergekit 0.1.5 cannot make the same tensors; empty if it can."""
  reasons = portable(recipe)
  known = {
    name for c in models.configs.values() for name in c.get('architectures', ())
  }
  reasons += [
    f'it stops with an error on {name} checkpoints'
    for name in sorted(known & _BEYOND_MERGEKIT)
  ]
  types = {i.dtype for s in plan.steps if not s.copied for i in s.inputs}
  if recipe.dtype is None and types - {np.dtype(np.float32)}:
    reasons.append('it computes in the types of the inputs, here it is float32')
  return reasons


def _configs(models: Opened) -> Iterator[str]:
  for key in _MEANINGS:
    stated = {m: c.get(key) for m, c in models.configs.items()}
    if len({repr(value) for value in stated.values()}) > 1:
      if key == 'vocab_size' and models.alignment is not None:
        continue
      yield f'the configs differ in {key}: {stated}'


def _heads(models: Opened, plan: Plan) -> Iterator[str]:
  for step in plan.steps:
    if layers.is_head(step.output.name):
      tied = [m for m, name in step.output.sources if name != step.output.name]
      if tied:
        yield (
          f'{tied} tie {step.output.name} and do not store it: their input '
          'embedding is merged in its place, and the merged head is not tied'
        )
  for model, config in models.configs.items():
    heads = [n for n in models.checkpoints[model].names() if layers.is_head(n)]
    if config.get('tie_word_embeddings') and heads:
      yield (
        f'{model} ties its word embeddings but stores {heads[0]} too; readers '
        'ignore one of the two'
      )


def _dtypes(models: Opened, plan: Plan) -> Iterator[str]:
  found = {
    model: sorted({str(c.info(name).dtype) for name in c.names()})
    for model, c in models.checkpoints.items()
  }
  if len({tuple(dtypes) for dtypes in found.values()}) > 1:
    yield f'the models have different types of numbers: {found}'
  narrower = [
    step.output.name
    for step in plan.steps
    if not step.copied
    and any(i.dtype.itemsize > step.info.dtype.itemsize for i in step.inputs)
  ]
  if narrower:
    yield (
      f'{len(narrower)} tensors are rounded to {plan.steps[0].info.dtype}; '
      'state `out_dtype: float32` to keep their precision'
    )


def _tokens(models: Opened) -> Iterator[str]:
  if models.alignment is not None and models.alignment.absent:
    tokens = list(models.alignment.absent)
    yield (
      f'{len(tokens)} tokens have an embedding in no model and become zeros: '
      f'{tokens[:5]}'
    )


def _scales(recipe: Recipe, plan: Plan) -> Iterator[str]:
  """Scales that count for no tensor."""
  used = {(s.output.part_of, s.output.scale) for s in plan.steps}
  vain: dict[str | None, list[int]] = {}
  for m, module in enumerate(recipe.stacks):
    for i, part in enumerate(module.slices):
      for scale in (s for one in (part, *part.parts) for s in one.scales):
        if ((m, i), scale) not in used:
          vain.setdefault(scale.filter, []).append(i)
  for text, slices in vain.items():
    yield (
      f'the scale with the filter {text!r} counts for no tensor of the slices '
      f'{slices}: it is part of no name, or stands behind one that is'
    )


def _relations(models: Opened, plan: Plan) -> Iterator[str]:
  """Experts that do not look like fine-tunes of one base."""
  cosines: dict[tuple[str, str], list[float]] = {}
  moved: dict[tuple[str, str], bool] = {}
  for step in _sampled(plan):
    places = plans.places_of(step.output)
    if step.output.base is not None and step.output.base not in places:
      places.append(step.output.base)
    reference = places.pop()
    theirs = _sample(models.checkpoints, reference)
    for place in places:
      if place[0] == reference[0]:
        continue  # of one model: other layers, or twice the same
      pair = (place[0], reference[0])
      ours = _sample(models.checkpoints, place)
      length = np.linalg.norm(ours) * np.linalg.norm(theirs)
      if length > 0:
        cosines.setdefault(pair, []).append(float(ours @ theirs / length))
      moved[pair] = moved.get(pair, False) or bool((ours != theirs).any())
  for (model, base), found in cosines.items():
    typical = float(np.median(found))
    if typical < _RELATED:
      yield (
        f'{model} does not look like a fine-tune of one base with {base}: the '
        f'cosine of their weights is {typical:.2f} in {len(found)} sampled '
        'tensors, where fine-tunes have nearly 1; merges of unrelated models '
        'are noise'
      )
    elif not moved[model, base]:
      yield f'{model} and {base} are equal wherever they were looked at'


def _sampled(plan: Plan) -> list[Step]:
  """A few large matrices, spread over the depth."""
  matrices = [s for s in plan.steps if not s.copied and len(s.info.shape) > 1]
  if not matrices:
    return [step for step in plan.steps if not step.copied][:_TENSORS]
  typical = float(np.median([s.info.size for s in matrices]))
  large = [s for s in matrices if s.info.size >= typical]
  spread = np.linspace(0, len(large) - 1, min(_TENSORS, len(large)))
  return [large[int(i)] for i in spread]


def _sample(
  checkpoints: Mapping[str, Checkpoint], place: tuple[str, str]
) -> np.ndarray:
  flat = checkpoints[place[0]].get(place[1]).reshape(-1)
  return flat[:_ENTRIES].astype(np.float64)
