"""Several merge methods as one, of which each tensor takes one.

The one that is chosen runs under `lax.switch`, so a candidate pays for no
other. Experts are on the device once, as weights; methods that work on task
vectors form them on the fly.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from automerge_jax.merging import registry
from automerge_jax.types import Array, Fact, MergeMethod, Parameter, Stored

METHOD = 'method'


def can_mix(method: MergeMethod) -> bool:
  """Whether a method looks at one tensor alone, and at nothing measured."""
  return not (method.whole or method.statistics)


def of(methods: Sequence[MergeMethod]) -> MergeMethod:
  """A method that is told by `method` which of the given ones to apply.

  Parameters and facts of each are called `NAME/...`. `passthrough` picks one
  model: `passthrough/first` is an expert's index, or K for the base.

  Raises:
    ValueError: if there are none or two of one name, one looks at whole models
      or at measured data, or no recipe can name them all.
  """
  names = [method.name for method in methods]
  if not names or len(set(names)) < len(names):
    raise ValueError(f'methods are {names}; expected one or more, each once')
  for method in methods:
    if not can_mix(method):
      raise ValueError(
        f'{method.name} (semantics {method.semantics!r}) cannot be mixed with '
        'others: it looks at '
        + ('whole models' if method.whole else 'measured data')
      )
  mixed = [_PICK if m.name == _PICK.name else m for m in methods]
  return MergeMethod(
    name='mixed',
    merge=_rule(mixed),
    parameters=(
      Parameter(METHOD, 0.0, False),
      *(
        Parameter(
          f'{m.name}/{p.name}', p.default, p.per_expert, setting=p.setting
        )
        for m in mixed
        for p in m.parameters
      ),
    ),
    stack='weights',
    facts=tuple(_fact(m, fact) for m in mixed for fact in m.facts),
    semantics=semantics(methods),
    switch=True,
  )


def _rule(methods: Sequence[MergeMethod]) -> Callable[..., Array]:
  def branch(method: MergeMethod) -> Callable[..., Array]:
    def run(coefficients, facts, base, stack):
      if method.stack != 'weights':
        stack = stack - base[None]
      own = _of(method, coefficients), _of(method, facts)
      return method.merge(*own, base, stack)

    return run

  branches = [branch(method) for method in methods]

  def merge(
    coefficients: Mapping[str, Array],
    facts: Mapping[str, Array],
    base: Array,
    stack: Array,
  ) -> Array:
    index = jnp.asarray(coefficients[METHOD]).astype(jnp.int32)
    return jax.lax.switch(index, branches, coefficients, facts, base, stack)

  return merge


def _fact(method: MergeMethod, fact: Fact) -> Fact:
  def compute(stored: Stored, found: Mapping[str, np.ndarray]) -> np.ndarray:
    stack = stored.stack
    if method.stack != 'weights':
      stack = stack - stored.base[None]
    own = stored._replace(stack=stack, settings=_of(method, stored.settings))
    return fact.compute(own, _of(method, found))

  return fact._replace(name=f'{method.name}/{fact.name}', compute=compute)


def _of(method: MergeMethod, values: Mapping[str, Any]) -> dict[str, Any]:
  """What belongs to one method, by the names that it knows."""
  prefix = f'{method.name}/'
  return {
    name.removeprefix(prefix): value
    for name, value in values.items()
    if name.startswith(prefix)
  }


def semantics(methods: Sequence[MergeMethod]) -> str:
  """The semantics by which a recipe means all of these methods.

  Raises:
    ValueError: if there are none: a recipe has one `semantics`.
  """
  for found in registry.SEMANTICS:
    if all(registry.get(m.name, found) is m for m in methods):
      return found
  raise ValueError(
    f'no `semantics` of a recipe means all of '
    f'{[(m.name, m.semantics) for m in methods]}'
  )


def _pick(
  coefficients: Mapping[str, Array],
  facts: Mapping[str, Array],
  base: Array,
  stack: Array,
) -> Array:
  """One of the experts, or behind them the base, as it is."""
  del facts
  first = coefficients['first'].astype(jnp.int32)
  last = stack.shape[0] - 1
  return jnp.where(first > last, base, stack[jnp.minimum(first, last)])


_PICK = MergeMethod(
  name='passthrough',
  merge=_pick,
  parameters=(Parameter('first', 0.0, False),),
  stack='weights',
)
