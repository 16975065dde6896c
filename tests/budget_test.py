"""Budgets: what users write, what it is in items, and when it is spent."""

import dataclasses

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from automerge_jax.search import budget, fidelity
from automerge_jax.tasks import generation
from automerge_jax.tasks.likelihood import Query
from automerge_jax.tasks.packing import Request
from tests import tiny_items

COST = budget.Costs(np.asarray([40, 120]), np.asarray([400, 1600]))


@pytest.mark.parametrize(
  ('text', 'amount', 'unit'),
  [
    ('100', 100, 'evaluations'),
    (' 2.5 ', 2.5, 'evaluations'),
    ('1 evaluation', 1, 'evaluations'),
    ('80000 items', 80000, 'items'),
    ('2e6 tokens', 2e6, 'tokens'),
    ('90 seconds', 90, 'seconds'),
    ('30 Minutes', 1800, 'seconds'),
    ('1 hour', 3600, 'seconds'),
    ('1.5hours', 5400, 'seconds'),
  ],
)
def test_what_users_write(text, amount, unit):
  assert budget.parse(text) == (amount, unit)


def test_no_text_is_no_bound():
  assert budget.parse('') is None
  assert budget.parse('  ') is None


@pytest.mark.parametrize(
  'text', ['0', '-3', 'minutes', '1.2.3', '80,000 items', 'nan', 'inf', '1e999']
)
def test_what_is_no_amount_is_refused(text):
  with pytest.raises(ValueError, match=r"expected a number .* '30 minutes'"):
    budget.parse(text)


def test_unknown_units_are_refused_with_the_nearest():
  with pytest.raises(ValueError, match=r"'minuts'; did you mean 'minutes'\?"):
    budget.parse('30 minuts')


@pytest.mark.parametrize(
  ('text', 'items'),
  [
    ('100', 16000),
    ('0.5', 80),
    ('81234 items', 81234),
    ('25000 tokens', 2000),
    ('2 minutes', 6000),
  ],
)
def test_a_budget_in_items(text, items):
  rate = budget.items_a_second(100, 2.0)
  assert budget.in_items(budget.parse(text), COST, rate) == items


def test_time_needs_a_rate_and_tokens_need_tokens():
  with pytest.raises(ValueError, match='needs a measured rate'):
    budget.in_items(budget.parse('1 hour'), COST)
  blind = budget.Costs(COST.items, None)
  with pytest.raises(ValueError, match='some items have no tokens'):
    budget.in_items(budget.parse('9 tokens'), blind)
  assert budget.in_items(budget.parse('9'), blind) == 9 * 160


@pytest.mark.parametrize('text', ['0.001', '0.3 items', '1 token'])
def test_a_budget_that_pays_nothing_is_refused(text):
  with pytest.raises(ValueError, match=r'pays for no item; .* takes 160'):
    budget.in_items(budget.parse(text), COST)


@pytest.mark.parametrize(('items', 'seconds'), [(0, 1), (5, 0), (5, np.inf)])
def test_no_rate_without_items_and_time(items, seconds):
  with pytest.raises(ValueError, match='no rate: state the budget in'):
    budget.items_a_second(items, seconds)


def test_costs_count_what_each_rung_adds():
  subsets = [
    tiny_items.classified(
      ('a', 'b'), ('x', 'y'), ((1, 2), (3,)), (0, 1), (0, 1)
    ),
    tiny_items.classified(('a', 'b'), ('z',), ((1, 2, 3, 4),), (0,), (0,)),
  ]
  cost = budget.costs(subsets)
  assert (cost.items.tolist(), cost.tokens.tolist()) == ([2, 1], [3, 4])
  assert cost.full == 3
  images = dataclasses.replace(subsets[1], encoded=(np.zeros((3, 8, 8)),))
  assert budget.costs([subsets[0], images]).tokens is None


def test_choices_share_their_context():
  ask = Request((1, 2, 3), (4,))
  query = Query(
    ((ask,), (Request((1, 2, 3), (4, 5)),), (Request((1, 2, 3), (6,)),)),
    (1.0, 1.0, 1.0),
    True,
  )
  assert budget.tokens(query) == 6  # 1 2 3, then 4 5 and 6
  assert budget.tokens(Query(((ask,), (ask,)), (1.0, 1.0), True)) == 4
  windows = Query(((ask, Request((7,), (8, 9))),), (1.0,), False)
  assert budget.tokens(windows) == 7


@hypothesis.given(
  st.lists(
    st.lists(st.integers(0, 2), min_size=2, max_size=6), min_size=1, max_size=5
  )
)
def test_tokens_of_choices_are_their_distinct_beginnings(texts):
  query = Query(
    tuple((Request(tuple(t[:1]), tuple(t[1:])),) for t in texts),
    (1.0,) * len(texts),
    True,
  )
  beginnings = {tuple(t[:n]) for t in texts for n in range(1, len(t) + 1)}
  assert budget.tokens(query) == len(beginnings)


def test_tokens_of_prompts_and_of_what_has_none():
  prompt = generation.Encoded((), (1, 2, 3), (4, 5), 0, None, None)
  assert budget.tokens(prompt) == 5
  assert budget.tokens(prompt._replace(source=(7, 8), prompt=(0,))) == 5
  assert budget.tokens(np.zeros((3, 8, 8), np.float32)) is None
  assert budget.tokens('the name of an item') is None


def test_what_generations_are_expected_to_take():
  halving = fidelity.schedule('halving', (20, 80), 8, 4)
  assert budget.expected(halving, 5, COST) == 8 * 40 + 2 * 120
  bands = fidelity.schedule('hyperband', (20, 80), 8, 4)
  assert [budget.expected(bands, g, COST) for g in range(3)] == [560, 1280, 560]


def spend(paid, schedule, each):
  """Generations that a search makes, by the items that each really takes."""
  spent, generation = 0, 0
  while generation < len(each) and budget.fits(
    paid, spent, budget.expected(schedule, generation, COST)
  ):
    spent += each[generation]
    generation += 1
  return generation, spent


@hypothesis.given(
  st.sampled_from(['halving', 'hyperband', 'asynchronous']),
  st.integers(1, 9000),
  st.integers(0, 9000),
  st.lists(st.floats(0.3, 1), min_size=20, max_size=20),
)
def test_more_budget_only_appends_and_nothing_is_overspent(
  name, paid, more, shares
):
  schedule = fidelity.schedule(name, (20, 80), 8, 4)
  each = [
    int(share * budget.expected(schedule, g, COST))
    for g, share in enumerate(shares)
  ]
  short, spent = spend(paid, schedule, each)
  long, _ = spend(paid + more, schedule, each)
  assert spent <= paid
  assert short <= long
  if short < 20:
    assert spent + budget.expected(schedule, short, COST) > paid


def test_without_a_budget_everything_fits():
  assert budget.fits(None, 1e12, 1e12)
  assert budget.fits(100, 60, 40)
  assert not budget.fits(100, 60, 41)


@hypothesis.given(
  st.integers(1, 10**6), st.integers(1, 64), st.integers(1, 500)
)
def test_there_is_room_for_all_that_is_paid(paid, population, least):
  room = budget.most_candidates(paid, population, least)
  assert room % population == 0
  assert room >= min(paid // least, budget.MOST)
  assert room <= max(2 * (paid // least), 1) + population
  assert room < budget.MOST + population
  assert budget.most_candidates(paid + 999, population, least) >= room


def test_room_seldom_changes_with_the_budget():
  rooms = {budget.most_candidates(n, 8, 40) for n in range(12000, 20000, 50)}
  assert rooms == {512}
