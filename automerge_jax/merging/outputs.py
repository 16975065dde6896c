"""From a recipe and the stored names to what each merged tensor is made of."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from automerge_jax import trees
from automerge_jax.merging import layers
from automerge_jax.merging import leaves as leaves_lib
from automerge_jax.merging import roles as roles_lib
from automerge_jax.merging import stacks as stacks_lib
from automerge_jax.merging.leaves import Leaf
from automerge_jax.merging.stacks import Names
from automerge_jax.recipes.document import Recipe, Scale, Source, applies
from automerge_jax.types import MergeMethod


@dataclasses.dataclass(frozen=True)
class Output:
  """One tensor of the merged checkpoint.

  Attributes:
    name: stored name in the merged checkpoint.
    method: what it is merged with.
    sources: (model, stored name) of each expert, in order, K.
    base: (model, stored name) of the base, if it takes part.
    parameters: every parameter of the method: value, or tuple [K] where per
      expert.
    layer: its layer in the merged checkpoint, None outside the layers.
    scale: of what was merged, if any.
    part_of: index of its module, and of its slice there.
  """

  name: str
  method: MergeMethod
  sources: tuple[tuple[str, str], ...]
  base: tuple[str, str] | None
  parameters: Mapping[str, Any]
  layer: int | None
  scale: Scale | None
  part_of: tuple[int, int]

  @property
  def whole(self) -> tuple[Any, ...]:
    """What is one whole to methods that look at whole models: its key."""
    models = tuple(model for model, _ in self.sources)
    return self.method.name, models, self.base and self.base[0]


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
      + unexpected), layers or modules that the recipe names do not exist, no
      part of a slice takes a tensor, or a parameter is missing.
  """
  stored = {m: stacks_lib.names_of(tuple(own)) for m, own in names.items()}
  builder = _Builder(recipe, stored)
  found: list[Output] = []
  everyone = dict.fromkeys(
    s.model
    for leaves in builder.leaves.values()
    for leaf in leaves
    for s in leaf.everyone
  )
  owners = stacks_lib.owners(recipe.stacks, [stored[m] for m in everyone])
  for m, (_, outside) in enumerate(owners):
    found += builder.outside(m, outside, before=True)
  for m, (stacks, outside) in enumerate(owners):
    for stack in stacks:
      found += builder.in_layers(m, stack)
    found += builder.outside(m, outside, before=False)
  builder.check()
  return tuple(found)


# Stored names by model, by what they are called in the merged checkpoint; one
# for each leaf of a slice.
_Held = list[dict[str, dict[str, str]]]


class _Builder:
  """Collects outputs, and differences between the models' tensors."""

  def __init__(self, recipe: Recipe, stored: Mapping[str, Names]):
    self.recipe, self.stored = recipe, stored
    self.modules = recipe.stacks
    self.unlike: list[str] = []
    self.leaves = {
      (m, i): leaves_lib.of(recipe, module, part)
      for m, module in enumerate(self.modules)
      for i, part in enumerate(module.slices)
    }
    for leaf in (leaf for leaves in self.leaves.values() for leaf in leaves):
      for source in leaf.everyone:
        if source.model not in stored:
          raise ValueError(
            f'no names of the model {source.model!r}; got those of '
            f'{sorted(stored)}'
          )
    self.kept = {m: stacks_lib.in_place(x) for m, x in enumerate(self.modules)}

  def check(self) -> None:
    if self.unlike:
      lines = list(dict.fromkeys(self.unlike))
      raise ValueError(
        f'the models differ in {len(lines)} tensors (- missing, + '
        f'unexpected):{trees.listing(lines)}'
      )

  def in_layers(self, m: int, stack: str) -> list[Output]:
    """The tensors of one stack of layers, in order."""
    found, layer = [], 0
    for i in range(len(self.modules[m].slices)):
      leaves = self.leaves[m, i]
      spans = [
        {s.model: self._span(m, s, stack) for s in leaf.everyone}
        for leaf in leaves
      ]
      counts = {
        model: end - start
        for own in spans
        for model, (start, end) in own.items()
      }
      if len({end - start for s in spans for start, end in s.values()}) > 1:
        raise ValueError(
          f'models have unequal numbers of layers in {stack!r}: {counts}; '
          'choose as many of each with `slices`'
        )
      count = next(iter(counts.values()))
      # Of each leaf, where they are the same for every tensor.
      values: list[Mapping[str, Any] | None] = [None] * len(leaves)
      for at in range(count):
        held: _Held = [
          {
            model: self.stored[model].stacks[stack].get(start + at, {})
            for model, (start, _) in own.items()
          }
          for own in spans
        ]
        depth = roles_lib.depth_of(at, count)
        for key in self._common(held):
          name = layers.renumber(key, layer)
          j = self._taking((m, i), name)
          own = {model: names[key] for model, names in held[j].items()}
          found.append(
            self._output(
              (m, i), leaves[j], name, own, own, layer, depth, values[j]
            )
          )
          if leaves[j].plain:
            values[j] = found[-1].parameters
        layer += 1
    return found

  def outside(self, m: int, names: Sequence[str], before: bool) -> list[Output]:
    """The tensors before or after the layers."""
    at = (m, 0 if before else len(self.modules[m].slices) - 1)
    leaves = self.leaves[at]
    if self.recipe.semantics != 'paper' and not self.recipe.extended:
      # mergekit 0.1.5 pairs the first slice's sources with the last one's.
      (leaf,) = leaves
      kept = self._sources(at)[: len(self._sources((m, 0)))]
      experts = tuple(s for s in leaf.who.experts if s.model in kept)
      who = dataclasses.replace(leaf.who, experts=experts)
      leaves = [leaf._replace(who=who, everyone=leaves_lib.everyone(who))]
    names = [n for n in names if layers.is_before(n) == before]
    held: _Held = [
      {s.model: self._outside(s.model, names) for s in leaf.everyone}
      for leaf in leaves
    ]
    for name in names:
      if not layers.is_head(name):
        continue
      if any(name in own for leaf in held for own in leaf.values()):
        for leaf in held:
          for model, own in leaf.items():
            tied = layers.tied_embedding(name, self.stored[model].outside)
            if name not in own and tied is not None:
              own[name] = tied
    found = []
    for name in self._common(held):
      j = self._taking(at, name)
      called = dict.fromkeys(held[j], name)
      own = {model: names[name] for model, names in held[j].items()}
      found.append(self._output(at, leaves[j], name, called, own, None, 0.0))
    return found

  def _taking(self, at: tuple[int, int], name: str) -> int:
    """Which leaf of a slice makes a tensor."""
    for j, leaf in enumerate(self.leaves[at]):
      if applies(leaf.part.filter, name):
        return j
    filters = [leaf.part.filter for leaf in self.leaves[at]]
    raise ValueError(
      f'no part of slice {at[1]} takes the tensor {name!r}, its filters are '
      f'{filters}; end its `parts` with one without `filter`'
    )

  def _outside(self, model: str, names: Sequence[str]) -> dict[str, str]:
    own = set(self.stored[model].outside)
    return {name: name for name in names if name in own}

  def _sources(self, at: tuple[int, int]) -> list[str]:
    """Models of a slice in the order in which they stand, with the base."""
    (leaf,) = self.leaves[at]
    listed = [s.model for s in leaf.part.sources]
    return list(dict.fromkeys([*listed, *(s.model for s in leaf.everyone)]))

  def _common(self, held: _Held) -> list[str]:
    """Keys that all models have; notes the others as differences."""
    pairs = [item for leaf in held for item in leaf.items()]
    (first, wanted), *others = pairs
    for model, own in others:
      if own.keys() != wanted.keys():
        self.unlike += [
          f'- {model}: {wanted[key]} (in {first})'
          for key in wanted.keys() - own
        ]
        self.unlike += [
          f'+ {model}: {own[key]} (not in {first})'
          for key in own.keys() - wanted
        ]
    if not self.unlike:
      return list(wanted)
    return [key for key in wanted if all(key in own for _, own in pairs)]

  def _span(self, m: int, source: Source, stack: str) -> tuple[int, int]:
    stored = self.stored[source.model]
    if stack not in stored.stacks:
      raise ValueError(
        f'{source.model!r} has no layers {stack!r} as other models; it has '
        f'{list(stored.stacks)}'
      )
    depth = stored.depth(stack)
    start, end = source.layers or (0, depth)
    if self.kept[m] == stored.deepest():
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
    leaf: Leaf,
    name: str,
    called: Mapping[str, str],
    held: Mapping[str, str],
    layer: int | None,
    depth: float,
    values: Mapping[str, Any] | None = None,
  ) -> Output:
    experts = [s.model for s in leaf.who.experts]
    base = None
    if leaf.who.base is not None:
      base = (leaf.who.base.model, held[leaf.who.base.model])
    return Output(
      name=name,
      method=leaf.method,
      sources=tuple((model, held[model]) for model in experts),
      base=base,
      parameters=values
      or roles_lib.parameters(
        leaf.method,
        leaf.levels,
        leaf.who,
        [called[model] for model in experts],
        name,
        depth,
      ),
      layer=layer,
      scale=next(
        (s for s in leaf.part.scales if applies(s.filter, name)), None
      ),
      part_of=at,
    )
