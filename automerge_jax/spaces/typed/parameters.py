"""Parameters of the methods of a typed space: which are searched, and where."""

from collections.abc import Mapping, Sequence

from automerge_jax import trees
from automerge_jax.types import MergeMethod, Parameter

PICK, PAIR = 'passthrough', 'slerp'


def check(method: MergeMethod, count: int) -> None:
  """Raises ValueError for a method that cannot be one of these."""
  least, most = method.sources
  if method.name == PAIR:
    most = None
  if method.name != PICK and not least <= count <= (most or count):
    raise ValueError(
      f'{method.name} takes {least} to {most or "any number of"} experts, not '
      f'{count}; leave it out'
    )


def searched(
  methods: Sequence[MergeMethod],
  ranges: Mapping[str, tuple[float, float]],
  shared: Sequence[str],
) -> list[list[tuple[Parameter, tuple[float, float]]]]:
  """Parameters of each method with a range; [v, v] says what is fixed."""
  known = set()
  found = []
  for method in methods:
    found.append([])
    for parameter in method.parameters:
      name = parameter.name
      if (
        parameter.setting or method.name == PICK or name in ('first', 'second')
      ):
        continue
      full = f'{method.name}.{name}'
      known |= {name, full}
      low, high = ranges.get(
        full, ranges.get(name, (parameter.low, parameter.high))
      )
      if low is None or high is None:
        continue
      if low > high:
        raise ValueError(
          f'range of {full!r} is {[low, high]}; low is above high'
        )
      found[-1].append((parameter, (low, high)))
  for kind, given in (('ranges', ranges), ('shared', shared)):
    for name in given:
      if name not in known:
        raise ValueError(
          f'{kind}: {name!r} is no parameter of these methods that a search '
          'can move' + trees.nearest(name, known)
        )
  return found


def is_shared(method: MergeMethod, name: str, shared: Sequence[str]) -> bool:
  """Whether all experts have one value of it."""
  return name in shared or f'{method.name}.{name}' in shared
