"""Trunks and branches: each text once, the fewest tokens, rows that fit."""

import itertools

import hypothesis
import pytest
from hypothesis import strategies as st

from automerge_jax.tasks import sharing

texts = st.lists(
  st.lists(st.integers(0, 2), min_size=1, max_size=6).map(tuple),
  min_size=1,
  max_size=12,
)


@hypothesis.given(texts, st.integers(0, 10))
def test_every_leaf_is_in_one_block_and_blocks_fit(found, room):
  ordered = sharing.leaves(found)
  capacity = max(map(len, ordered)) + room
  blocks = sharing.blocks(ordered, sharing.neighbours(ordered), capacity)
  assert sorted(itertools.chain(*(b.paths for b in blocks))) == ordered
  for block in blocks:
    assert block.size <= capacity
    assert len({path[: block.trunk] for path in block.paths}) == 1
    alone = len(block.paths) == 1
    assert all(len(p) - block.trunk > 0 or alone for p in block.paths)
  assert sum(b.size for b in blocks) <= sum(map(len, ordered))


@hypothesis.given(texts)
def test_home_begins_with_the_text(found):
  ordered = sharing.leaves(found)
  assert len(set(ordered)) == len(ordered)
  for text in found:
    assert sharing.home(ordered, text)[: len(text)] == text


@hypothesis.given(texts)
def test_with_room_for_all_no_other_trunks_are_cheaper(found):
  """Against every way of cutting the tree of texts into trunks."""
  ordered = sharing.leaves(found)

  def best(members, depth):
    """Fewest tokens for texts that agree up to `depth`."""
    together = depth + sum(len(text) - depth for text in members)
    if depth == 0:
      together = sum(map(len, members))
    if len(members) == 1:
      return len(members[0])
    split = {}
    for text in members:
      split.setdefault(text[depth], []).append(text)
    if len(split) == 1:
      return min(together, best(members, depth + 1))
    return min(together, sum(best(part, depth + 1) for part in split.values()))

  blocks = sharing.blocks(ordered, sharing.neighbours(ordered), 10_000)
  assert sum(block.size for block in blocks) == best(ordered, 0)


def test_long_common_examples_are_computed_once_a_row():
  examples = tuple(range(100))
  prompts = [(*examples, 200 + i, 300 + i, 400 + i) for i in range(20)]
  ordered = sharing.leaves(prompts)
  blocks = sharing.blocks(ordered, sharing.neighbours(ordered), 130)
  assert [block.size for block in blocks] == [130, 130]
  assert {block.trunk for block in blocks} == {100}


def test_choices_share_their_prompt_and_not_a_shorter_beginning():
  prompts = [(1, 2, *range(10 * i, 10 * i + 9)) for i in range(1, 4)]
  paths = [(*p, 90 + c, 95) for p in prompts for c in range(4)]
  ordered = sharing.leaves(paths)
  blocks = sharing.blocks(ordered, sharing.neighbours(ordered), 40)
  assert [(b.trunk, len(b.paths)) for b in blocks] == [(11, 4)] * 3


@pytest.mark.parametrize(
  ('sizes', 'capacity', 'bins'),
  [([5, 5, 5], 9, 3), ([4, 6, 3, 7, 5, 5], 10, 3), ([], 10, 0)],
)
def test_best_fit_fills_bins_and_never_more_than_full(sizes, capacity, bins):
  found = sharing.best_fit(sizes, capacity)
  assert len(found) == bins
  assert sorted(itertools.chain(*found)) == list(range(len(sizes)))
  assert all(sum(sizes[i] for i in members) <= capacity for members in found)
