"""Start designs of spaces of layer programs."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from automerge_jax.spaces.stacks import layout as program_layout
from automerge_jax.spaces.stacks.dimensions import Field
from automerge_jax.spaces.stacks.layout import YES, Layout
from automerge_jax.spaces.stacks.restacking import Restacking

Starts = tuple[tuple[str, np.ndarray], ...]


def maker(
  layout: Layout, space: Restacking, **defaults: float
) -> Callable[..., np.ndarray]:
  """`(removed=..., number=..., **values by field) -> c [D]`.

  Layers stand once each as far as their `number` allows, by default the
  `nearest`; `removed` tells which go first, by default from the middle
  outwards. Values are a number or as many as the field has genes.
  """
  quantise = jax.jit(lambda c: space.quantise(space.genes.encode(c)))

  def make(
    removed: Sequence[int] | None = None, number: int | None = None, **values
  ) -> np.ndarray:
    order = middle_outward(layout.depth) if removed is None else removed
    count = nearest(layout) if number is None else number
    c: dict[str, Any] = {'slot': _slots(layout, order, count), 'depth': count}
    c |= {'again': 1 - YES, 'start': 0, 'length': 1}
    joined = space.genes.join(c | defaults | values)
    return np.asarray(quantise(joined), np.float32)

  return make


def nearest(layout: Layout) -> int:
  """The number of layers that is nearest to that of the sources."""
  return min(max(layout.depth, layout.least), layout.most)


def block(layout: Layout) -> dict[str, Any] | None:
  """Genes that run the middle again, as far as there is room; or None."""
  room = layout.most - nearest(layout)
  if not layout.repeats or not room or not layout.longest:
    return None
  length = min(room, layout.longest, max(1, layout.depth // 2))
  middle = (layout.depth - length) // 2
  start = min(max(middle, layout.free.start), layout.free.stop - length)
  again = np.full(layout.repeats, 1 - YES)
  again[0] = YES
  return {'again': again, 'start': start, 'length': length}


def unique(found: Iterable[tuple[str, np.ndarray]]) -> Starts:
  """Each point once, under its first name."""
  points: dict[bytes, tuple[str, np.ndarray]] = {}
  for origin, c in found:
    points.setdefault(c.tobytes(), (origin, c))
  return tuple(points.values())


def fused(
  layout: Layout,
  core: Restacking,
  experts: Sequence[str],
  fields: Mapping[str, Field],
) -> Starts:
  """Every expert and their average; then with a block that is run again."""
  make = maker(layout, core, scale=1.0)
  plain = {name: min(max(1.0, f.low), f.high) for name, f in fields.items()}
  weights = [name for name in fields if name.startswith('weight/')]
  points = {
    f'expert:{e}': {w: float(w == f'weight/{e}') for w in weights}
    for e in experts
  } | {'uniform': dict.fromkeys(weights, 1 / len(experts))}
  exact = nearest(layout) == layout.depth
  found = []
  for origin, values in points.items():
    wanted = plain | values
    kept = all(fields[w].low <= v <= fields[w].high for w, v in values.items())
    if not kept:
      continue
    if not exact or any(v != 1 for n, v in plain.items() if n not in weights):
      origin = origin.replace('expert:', 'nearly:')
    found.append((origin, make(**wanted)))
    again = block(layout)
    if again is not None:
      name = origin.rpartition(':')[2]
      found.append((f'repeat:{name}', make(**wanted, **again)))
  return unique(found)


def higher_first(depth: int) -> list[int]:
  """Layers from the last to the first."""
  return list(range(depth - 1, -1, -1))


def middle_outward(depth: int) -> list[int]:
  """Layers from the middle to the ends."""
  middle = (depth - 1) / 2
  return sorted(range(depth), key=lambda i: (abs(i - middle), -i))


def alternating(depth: int) -> list[int]:
  """Every other layer from the last but one down, then the others."""
  return [*range(depth - 2, -1, -2), *range(depth - 1, -1, -2)]


def _slots(layout: Layout, order: Sequence[int], number: int) -> np.ndarray:
  """Flags of so many layers: those of the order go, or come again, first."""
  layers, columns = program_layout.flags(layout)
  found = np.full(layers.size, 1 - YES)
  count = number - layout.depth
  ranks = np.asarray(order).argsort()[layers]
  if count < 0:
    found[np.argsort(np.where(columns == 0, ranks, np.inf))[:-count]] = YES
  elif count > 0:
    rank = np.where(columns > 0, ranks + columns * layout.depth, np.inf)
    found[np.argsort(rank)[:count]] = YES
  return found
