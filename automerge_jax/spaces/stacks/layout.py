"""Which layer programs there are: bounds, options, and the genes they need."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from automerge_jax.spaces.stacks.dimensions import CATEGORY, WHOLE, Field

YES = 0  # options are (yes, no): the middle of the cube changes nothing


class Layout(NamedTuple):
  """Which programs there are, over L layers.

  Attributes:
    depth: L.
    least, most: layers of a program, both included; there are S = `most`
      positions.
    copies: C, how often a layer may stand in a row.
    repeats: R, blocks of layers that may be run again behind their end.
    skips: whether layers may be left out.
    fixed: how many of the first and of the last layers stand once, always.
  """

  depth: int
  least: int
  most: int
  copies: int = 1
  repeats: int = 0
  skips: bool = True
  fixed: tuple[int, int] = (0, 0)

  @property
  def free(self) -> range:
    """Layers that the program decides about."""
    return range(self.fixed[0], self.depth - self.fixed[1])

  @property
  def always(self) -> int:
    """Number of layers that stand in every program."""
    return self.depth - len(self.free) * self.skips

  @property
  def filled(self) -> tuple[int, int]:
    """Least and most slots that are filled."""
    slots = self.depth + len(self.free) * (self.copies - 1)
    return self.least, min(self.most, slots)

  @property
  def slack(self) -> int:
    """Layers by which slots and number may differ and slots are believed."""
    least, most = self.filled
    return min(2, (most - least) // 2)

  @property
  def longest(self) -> int:
    """Most layers of a block that is run again."""
    return min(len(self.free), self.most - self.least)


def check(layout: Layout) -> None:
  """Raises ValueError if no program or not every depth meets the bounds."""
  least, most = layout.least, layout.most
  front, back = layout.fixed
  if min(front, back) < 0 or front + back > layout.depth:
    raise ValueError(
      f'fixed is {layout.fixed}; expected two numbers of layers, together at '
      f'most {layout.depth}'
    )
  if layout.copies < 1 or layout.repeats < 0:
    raise ValueError(
      f'copies is {layout.copies} and repeats {layout.repeats}; expected at '
      'least 1 and 0'
    )
  slots = layout.depth + len(layout.free) * (layout.copies - 1)
  reach = slots if not layout.repeats else most
  if not max(1, layout.always) <= least <= min(most, slots) or most > reach:
    raise ValueError(
      f'programs of {least} to {most} layers; with these options they have '
      f'{max(1, layout.always)} to {slots} (more with repeats): change the '
      'bounds, or skips, copies, repeats or fixed'
    )


def fields(layout: Layout) -> dict[str, Field]:
  """The genes of a program: `slot`, `depth`, `again`, `start`, `length`."""
  least, most = layout.filled
  depth, free = layout.depth, layout.free
  blocks = range(layout.repeats if free and layout.longest else 0)
  inside = least < depth < most
  return {
    'slot': Field(_flag_names(layout), 0, 1, CATEGORY),
    'depth': Field(
      ('depth',) * (least < most), least, most, WHOLE, depth if inside else None
    ),
    'again': Field(tuple(f'repeat/{r}' for r in blocks), 0, 1, CATEGORY),
    'start': Field(
      tuple(f'repeat_start/{r}' for r in blocks),
      free.start,
      max(free.stop - 1, free.start),
      WHOLE,
    ),
    'length': Field(
      tuple(f'repeat_length/{r}' for r in blocks), 1, layout.longest, WHOLE
    ),
  }


def slot_names(layout: Layout) -> list[str]:
  """Of the slots that a program may fill: `LAYER`, `LAYER/1`, ..."""
  return [f'{i}/{j}' if j else f'{i}' for i, j in _cells(layout)]


def places(layout: Layout) -> np.ndarray:
  """Where these slots are in [L, C] flat."""
  return np.asarray([i * layout.copies + j for i, j in _cells(layout)])


def flags(layout: Layout) -> tuple[np.ndarray, np.ndarray]:
  """(layer, column) of the slots that have a gene."""
  columns = range(0 if layout.skips else 1, layout.copies)
  found = [(layer, j) for layer in layout.free for j in columns]
  layers, columns_ = np.asarray(found, np.int32).reshape(-1, 2).T
  return layers, columns_


def scale_field(
  slots: Sequence[str], scales: tuple[float, float] | None
) -> Field:
  """Scales of slots; 1 in the middle of the cube.

  Raises:
    ValueError: if 1 does not lie in the range.
  """
  if scales is None:
    return Field((), 1.0, 1.0)
  low, high = scales
  if not low <= 1.0 <= high or low == high:
    raise ValueError(
      f'scales are {scales}; expected (low, high) around 1, or None'
    )
  return Field(tuple(f'scale/{slot}' for slot in slots), low, high, middle=1.0)


def _cells(layout: Layout) -> list[tuple[int, int]]:
  return [
    (i, j)
    for i in range(layout.depth)
    for j in range(layout.copies if i in layout.free else 1)
  ]


def _flag_names(layout: Layout) -> tuple[str, ...]:
  return tuple(
    f'copy/{layer}/{j}' if j else f'skip/{layer}'
    for layer, j in zip(*flags(layout), strict=True)
  )
