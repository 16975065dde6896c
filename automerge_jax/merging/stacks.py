"""Stored names sorted into stacks and layers, and the modules that own them."""

import functools
from collections.abc import Iterable, Sequence

from automerge_jax.merging import layers
from automerge_jax.recipes.document import Module, over_all_layers


class Names:
  """The stored names of one checkpoint, sorted into stacks and layers."""

  def __init__(self, names: Sequence[str]):
    self.outside: list[str] = []
    # Stack, then layer, then the name as in layer 0: the stored name.
    self.stacks: dict[str, dict[int, dict[str, str]]] = {}
    for name in names:
      at = layers.place(name)
      if at is None:
        self.outside.append(name)
      else:
        stack = self.stacks.setdefault(at.stack, {})
        stack.setdefault(at.layer, {})[layers.renumber(name, 0)] = name

  def depth(self, stack: str) -> int:
    return 1 + max(self.stacks.get(stack, {}), default=-1)

  def deepest(self) -> int:
    return max(map(self.depth, self.stacks), default=0)


@functools.lru_cache(maxsize=64)
def names_of(names: tuple[str, ...]) -> Names:
  """`Names`, sorted once: a search asks again for every candidate."""
  return Names(names)


def in_place(module: Module) -> int | None:
  """How many layers slices cover, each once and in order; None if otherwise."""
  end = 0
  for part in module.slices:
    spans = {s.layers for leaf in part.leaves for s in leaf.sources}
    span = spans.pop()
    if spans or span is None or span[0] != end:
      return None
    end = span[1]
  return end


def owners(
  modules: Sequence[Module], checkpoints: Iterable[Names]
) -> list[tuple[list[str], list[str]]]:
  """Stacks, and names outside of them, of each module.

  One module owns everything: its slices choose layers of one stack, or keep
  those of all stacks in place, counted in the deepest. Of several modules, each
  owns the names that begin with its own. What is left belongs to the first
  where it comes before the layers, else to the last.

  Raises:
    ValueError: if stacks and modules do not fit.
  """
  checkpoints = list(checkpoints)
  stacks: dict[str, None] = {}
  outside: dict[str, None] = {}
  for checkpoint in checkpoints:
    stacks |= dict.fromkeys(checkpoint.stacks)
    outside |= dict.fromkeys(checkpoint.outside)
  if len(modules) == 1:
    kept = {names.deepest() for names in checkpoints}
    whole = over_all_layers(modules[0]) or kept == {in_place(modules[0])}
    if len(stacks) != 1 and not whole:
      raise ValueError(
        f'slices choose layers of one stack, the models have '
        f'{list(stacks) or "none"}; name each under `modules`, or keep all '
        f'layers in place'
      )
    return [(list(stacks), list(outside))]
  found: list[tuple[list[str], list[str]]] = [([], []) for _ in modules]
  for stack in stacks:
    i = _owner(modules, stack)
    if i is None:
      raise ValueError(
        f'no module is named after the stack {stack!r}; modules are '
        f'{[m.name for m in modules]}, stacks are {list(stacks)}'
      )
    found[i][0].append(stack)
  for module, (own, _) in zip(modules, found, strict=True):
    if len(own) != 1 and not (own and over_all_layers(module)):
      raise ValueError(
        f'module {module.name!r} has the stacks {own} of {list(stacks)}; '
        'name a module after the beginning of one stack'
      )
  for name in outside:
    i = _owner(modules, name)
    if i is None:
      i = 0 if layers.is_before(name) else -1
    found[i][1].append(name)
  return found


def _owner(modules: Sequence[Module], name: str) -> int | None:
  """The module whose name is the longest beginning of a name."""
  fitting = [
    (len(module.name), i)
    for i, module in enumerate(modules)
    if name == module.name or name.startswith(f'{module.name}.')
  ]
  return max(fitting)[1] if fitting else None
