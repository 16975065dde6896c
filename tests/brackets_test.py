"""Hyperband's brackets are SMAC's, and cost alike whatever the rungs."""

import itertools
import json
import pathlib

import brackets_replay
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from automerge_jax.search import brackets

GOLDEN = pathlib.Path(__file__).parent / 'testdata/brackets_smac_2.4.1.json'


def test_brackets_are_smacs():
  cases = json.loads(GOLDEN.read_text())
  assert len(cases) == 10
  assert brackets_replay.compare(cases) == sum(
    len(case['Hyperband']) for case in cases
  )


def test_the_published_table():
  table = brackets.hyperband(3, (1, 3, 9, 27, 81))
  assert [list(zip(*stages, strict=True)) for stages in table] == [
    [(81, 27, 9, 3, 1), (0, 1, 2, 3, 4)],
    [(34, 11, 3, 1), (1, 2, 3, 4)],
    [(15, 5, 1), (2, 3, 4)],
    [(8, 2), (3, 4)],
    [(5,), (4,)],
  ]


@given(
  st.integers(2, 5),
  st.lists(st.integers(1, 900), min_size=1, max_size=4, unique=True),
)
def test_no_bracket_costs_less_than_the_first(eta, sizes):
  sizes = sorted(sizes)

  def cost(start, count):
    return sum(
      count / eta ** (r - start) * sizes[r] for r in range(start, len(sizes))
    )

  table = brackets.hyperband(eta, sizes)
  assert [stages[0].rung for stages in table] == list(range(len(sizes)))
  assert table[0][0].candidates == eta ** (len(sizes) - 1)
  for start, stages in enumerate(table):
    whole = cost(0, table[0][0].candidates)
    # Sizes that are nearly geometric count as such.
    slack = 2 * (stages[0].candidates + eta ** (len(sizes) - 1))
    assert cost(start, stages[0].candidates) >= whole - slack
    assert cost(start, stages[0].candidates - 1) < whole + slack
    for one, further in itertools.pairwise(stages):
      assert further == (max(one.candidates // eta, 1), one.rung + 1)


@given(st.lists(st.integers(1, 90), min_size=1, max_size=5))
def test_starts_are_in_proportion_and_spread(shares):
  order = brackets.interleaved(shares)
  have = np.bincount(order, minlength=len(shares))
  np.testing.assert_array_equal(
    have * sum(shares), np.asarray(shares) * len(order)
  )
  place = np.asarray(order)[:, None] == np.arange(len(shares))
  due = np.arange(1, len(order) + 1)[:, None] * np.asarray(shares) / sum(shares)
  assert np.abs(place.cumsum(0) - due).max() < len(shares)


@pytest.mark.parametrize('sizes', [(), (0, 5), (5, 5), (9, 5)])
def test_sizes_must_ascend(sizes):
  with pytest.raises(ValueError, match='expected ascending'):
    brackets.hyperband(3, sizes)


@pytest.mark.parametrize('eta', [1, 0, 2.5])
def test_eta_must_divide(eta):
  with pytest.raises(ValueError, match=f'eta is {eta}: expected a whole'):
    brackets.hyperband(eta, (1, 3))
