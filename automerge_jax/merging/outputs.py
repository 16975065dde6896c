"""From a recipe and the stored names to what each merged tensor is made of."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from automerge_jax import trees
from automerge_jax.merging import layers, registry
from automerge_jax.merging import roles as roles_lib
from automerge_jax.merging import stacks as stacks_lib
from automerge_jax.merging.roles import Roles
from automerge_jax.merging.stacks import Names
from automerge_jax.recipes.document import (
  Recipe,
  Source,
)
from automerge_jax.types import MergeMethod


@dataclasses.dataclass(frozen=True)
class Output:
  """One tensor of the merged checkpoint.

  Attributes:
    name: stored name in the merged checkpoint.
    sources: (model, stored name) of each expert, in order, K.
    base: (model, stored name) of the base, if it takes part.
    parameters: every parameter of the method: value, or tuple [K] where per
      expert.
    layer: its layer in the merged checkpoint, None outside the layers.
  """

  name: str
  sources: tuple[tuple[str, str], ...]
  base: tuple[str, str] | None
  parameters: Mapping[str, Any]
  layer: int | None


def outputs(
  recipe: Recipe, names: Mapping[str, Sequence[str]]
) -> tuple[Output, ...]:
  """What each tensor of the merged checkpoint is made of.

  Layers are found by name. What comes before them is made by the first slice,
  what comes after them by the last. An output head that some models lack is
  there their input embedding, as they tie them. Where slices keep every layer
  of the deepest stack in place, shallower ones take part as far as they go.

  Args:
    recipe: what to merge.
    names: stored names of each model that the recipe merges.

  Raises:
    ValueError: if models do not hold the same tensors (listed as - missing and
      + unexpected), layers or modules that the recipe names do not exist, or a
      parameter is missing.
  """
  method = registry.get(recipe.merge_method, recipe.semantics)
  stored = {model: Names(listed) for model, listed in names.items()}
  builder = _Builder(method, recipe, stored)
  found: list[Output] = []
  everyone = [s.model for who in builder.who.values() for s in _everyone(who)]
  owners = stacks_lib.owners(recipe.stacks, [stored[m] for m in everyone])
  for m, (_, outside) in enumerate(owners):
    found += builder.outside(m, outside, before=True)
  for m, (stacks, outside) in enumerate(owners):
    for stack in stacks:
      found += builder.in_layers(m, stack)
    found += builder.outside(m, outside, before=False)
  builder.check()
  return tuple(found)


class _Builder:
  """Collects outputs, and differences between the models' tensors."""

  def __init__(
    self, method: MergeMethod, recipe: Recipe, stored: Mapping[str, Names]
  ):
    self.method, self.recipe, self.stored = method, recipe, stored
    self.modules = recipe.stacks
    self.unlike: list[str] = []
    self.who = {
      (m, i): roles_lib.roles(method, recipe, module, part)
      for m, module in enumerate(self.modules)
      for i, part in enumerate(module.slices)
    }
    for who in self.who.values():
      for source in _everyone(who):
        if source.model not in stored:
          raise ValueError(
            f'no names of the model {source.model!r}; got those of '
            f'{sorted(stored)}'
          )

  def check(self) -> None:
    if self.unlike:
      raise ValueError(
        f'the models differ in {len(self.unlike)} tensors (- missing, + '
        f'unexpected):{trees.listing(self.unlike)}'
      )

  def in_layers(self, m: int, stack: str) -> list[Output]:
    """The tensors of one stack of layers, in order."""
    found, layer = [], 0
    for i in range(len(self.modules[m].slices)):
      who = self.who[m, i]
      spans = {s.model: self._span(m, s, stack) for s in _everyone(who)}
      counts = {model: end - start for model, (start, end) in spans.items()}
      if len(set(counts.values())) > 1:
        raise ValueError(
          f'models have unequal numbers of layers in {stack!r}: {counts}; '
          'choose as many of each with `slices`'
        )
      count = counts[who.experts[0].model]
      for at in range(count):
        held = {
          model: self.stored[model].stacks[stack].get(start + at, {})
          for model, (start, _) in spans.items()
        }
        for key in self._common(held):
          found.append(
            self._output(
              (m, i),
              who,
              layers.renumber(key, layer),
              {model: own[key] for model, own in held.items()},
              {model: own[key] for model, own in held.items()},
              layer,
              roles_lib.depth_of(at, count),
            )
          )
        layer += 1
    return found

  def outside(self, m: int, names: Sequence[str], before: bool) -> list[Output]:
    """The tensors before or after the layers."""
    at = (m, 0 if before else len(self.modules[m].slices) - 1)
    who = self.who[at]
    if self.recipe.semantics != 'paper':
      # mergekit 0.1.5 pairs the first slice's sources with the last one's.
      kept = self._sources(at)[: len(self._sources((m, 0)))]
      experts = tuple(s for s in who.experts if s.model in kept)
      who = dataclasses.replace(who, experts=experts)
    names = [n for n in names if layers.is_before(n) == before]
    models = [s.model for s in _everyone(who)]
    held = {}
    for model in models:
      own = set(self.stored[model].outside)
      held[model] = {name: name for name in names if name in own}
    for name in names:
      if layers.is_head(name) and any(name in own for own in held.values()):
        for model, own in held.items():
          tied = layers.tied_embedding(name, self.stored[model].outside)
          if name not in own and tied is not None:
            own[name] = tied
    return [
      self._output(
        at,
        who,
        name,
        dict.fromkeys(models, name),
        {model: own[name] for model, own in held.items()},
        None,
        0.0,
      )
      for name in self._common(held)
    ]

  def _sources(self, at: tuple[int, int]) -> list[str]:
    """Models of a slice in the order in which they stand, with the base."""
    listed = [s.model for s in self.modules[at[0]].slices[at[1]].sources]
    everyone = [s.model for s in _everyone(self.who[at])]
    return list(dict.fromkeys([*listed, *everyone]))

  def _common(self, held: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Keys that all models have; notes the others as differences."""
    (first, wanted), *others = held.items()
    for model, own in others:
      self.unlike += [
        f'- {model}: {wanted[key]} (in {first})' for key in wanted.keys() - own
      ]
      self.unlike += [
        f'+ {model}: {own[key]} (not in {first})' for key in own.keys() - wanted
      ]
    return [key for key in wanted if all(key in own for own in held.values())]

  def _span(self, m: int, source: Source, stack: str) -> tuple[int, int]:
    stored = self.stored[source.model]
    if stack not in stored.stacks:
      raise ValueError(
        f'{source.model!r} has no layers {stack!r} as other models; it has '
        f'{list(stored.stacks)}'
      )
    depth = stored.depth(stack)
    start, end = source.layers or (0, depth)
    if stacks_lib.in_place(self.modules[m]) == stored.deepest():
      return min(start, depth), min(end, depth)
    if end > depth:
      raise ValueError(
        f'layers {[start, end]} of {source.model!r}: it has {depth} in '
        f'{stack!r}'
      )
    return start, end

  def _output(
    self,
    at: tuple[int, int],
    who: Roles,
    name: str,
    called: Mapping[str, str],
    held: Mapping[str, str],
    layer: int | None,
    depth: float,
  ) -> Output:
    module = self.modules[at[0]]
    experts = [s.model for s in who.experts]
    base = None
    if who.base is not None:
      base = (who.base.model, held[who.base.model])
    return Output(
      name,
      tuple((model, held[model]) for model in experts),
      base,
      roles_lib.parameters(
        self.method,
        self.recipe,
        module,
        module.slices[at[1]],
        who,
        [called[model] for model in experts],
        name,
        depth,
      ),
      layer,
    )


def _everyone(who: Roles) -> list[Source]:
  if who.base is None or who.base in who.experts:
    return list(who.experts)
  return [*who.experts, who.base]
