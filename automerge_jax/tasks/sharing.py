"""Which tokens are computed once for many texts: trunks and their branches.

A model reads each text from its first token on, so texts that begin alike can
share that beginning. A block is a trunk, which all of its texts begin with, and
branches, which see the trunk and themselves. The trunks are chosen so that the
fewest tokens are computed in all: a prompt with its answers, or the examples
and instructions that many prompts begin with, whichever saves more.
"""

import bisect
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

Tokens = tuple[int, ...]


class Block(NamedTuple):
  """Texts computed together: `paths[i]` is trunk + `branches[i]`.

  Attributes:
    trunk: number of tokens of the trunk.
    paths: the whole texts, each longer than the trunk unless it is the only.
  """

  trunk: int
  paths: tuple[Tokens, ...]

  @property
  def size(self) -> int:
    """Tokens that are computed."""
    return self.trunk + sum(len(path) - self.trunk for path in self.paths)


class _Node(NamedTuple):
  """Texts [begin, end) in order, the tokens they take and their groups."""

  depth: int
  begin: int
  cost: int
  groups: list[tuple[int, int, int]]  # begin, end, trunk


def leaves(texts: Sequence[Tokens]) -> list[Tokens]:
  """The distinct texts that no other begins with, in lexicographic order."""
  ordered = sorted(set(texts))
  return [
    text
    for text, following in zip(ordered, [*ordered[1:], ()], strict=True)
    if following[: len(text)] != text
  ]


def home(ordered: Sequence[Tokens], text: Tokens) -> Tokens:
  """The first of the `leaves` that begins with the text."""
  return ordered[bisect.bisect_left(ordered, text)]


def neighbours(ordered: Sequence[Tokens]) -> list[int]:
  """How many tokens each text and the next one begin with, [n - 1]."""
  return [_common(left, right) for left, right in itertools.pairwise(ordered)]


def block(ordered: Sequence[Tokens]) -> Block:
  """All the `leaves` in one block."""
  first, last = ordered[0], ordered[-1]
  return Block(_common(first, last), tuple(ordered))


def _common(left: Tokens, right: Tokens) -> int:
  most = min(len(left), len(right))
  return next((i for i in range(most) if left[i] != right[i]), most)


def blocks(
  ordered: Sequence[Tokens], shared: Sequence[int], capacity: int
) -> list[Block]:
  """Blocks of at most `capacity` tokens that hold each text once.

  Over the tree that the texts form it is chosen at every fork, from the leaves
  up, what takes fewer tokens: one trunk to here, again in each row that it
  needs, or what is best on each side for itself.

  Args:
    ordered: the `leaves`.
    shared: `neighbours` of these, [n - 1].
    capacity: no less than the longest text.
  """
  before = [0]
  for path in ordered:
    before.append(before[-1] + len(path))

  def close(node: _Node, end: int) -> _Node:
    if node.depth == 0:
      return node
    rest = before[end] - before[node.begin] - (end - node.begin) * node.depth
    rows = math.ceil(rest / (capacity - node.depth))
    together = rest + rows * node.depth
    if together >= node.cost:
      return node
    group = (node.begin, end, node.depth)
    return node._replace(cost=together, groups=[group])

  stack: list[_Node] = []
  for i, path in enumerate(ordered):
    child = _Node(len(path), i, len(path), [(i, i + 1, len(path))])
    depth = shared[i] if i + 1 < len(ordered) else 0
    while stack and stack[-1].depth > depth:
      child = close(_join(stack.pop(), child), i + 1)
    if stack and stack[-1].depth == depth:
      stack.append(_join(stack.pop(), child))
    else:
      stack.append(child._replace(depth=depth))
  made = []
  for begin, end, trunk in stack[0].groups if stack else []:
    made += _divide(ordered[begin:end], trunk, capacity)
  return made


def best_fit(sizes: Sequence[int], capacity: int) -> list[list[int]]:
  """Best-fit decreasing: indices of the sizes in bins of that capacity."""
  bins: list[list[int]] = []
  free: list[tuple[int, int]] = []  # room and bin, ascending
  for index in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
    spot = bisect.bisect_left(free, (sizes[index], -1))
    if spot == len(free):
      room, chosen = capacity, len(bins)
      bins.append([])
    else:
      room, chosen = free.pop(spot)
    bins[chosen].append(index)
    bisect.insort(free, (room - sizes[index], chosen))
  return bins


def _join(left: _Node, right: _Node) -> _Node:
  left.groups.extend(right.groups)
  return left._replace(cost=left.cost + right.cost)


def _divide(paths: Sequence[Tokens], trunk: int, capacity: int) -> list[Block]:
  """A group as blocks that each fit."""
  bins = best_fit([len(path) - trunk for path in paths], capacity - trunk)
  return [
    Block(
      trunk if len(members) > 1 else len(paths[members[0]]),
      tuple(paths[i] for i in sorted(members)),
    )
    for members in bins
  ]
