"""Claims: searches begin at the task's expert, figures from made-up scores."""

import numpy as np
import pytest

from automerge_jax.models import bert
from automerge_jax.search import baselines
from automerge_jax.search import space as spaces
from automerge_jax.search.ledger import Candidate, Ledger
from configs import claims
from experiments import choices, claims_figures, claims_plot, claims_runs
from experiments.claims_figures import Figures
from tests import tiny_encoder

TASK = np.repeat([0, 1], 50)
BERT = tiny_encoder.CONFIG | {'num_hidden_layers': 6}


def _right(*shares):
  """0/1 scores of 50 items a task, the first ones right."""
  return np.concatenate([np.arange(50) < share * 50 for share in shares]) * 1.0


def test_a_search_of_one_task_sees_that_task_and_all_experts():
  settings = choices.settings(claims.get_config('encoder/movie/lfs'))
  assert settings.tasks == ('movie',)
  assert set(settings.experts) == {'movie', 'sarcasm', 'election', 'reuters'}
  assert settings.base.name == 'base'
  assert settings.rungs == (50, 200) and settings.budget == '100'


@pytest.mark.parametrize('kind', ['lfs', 'dis'])
def test_the_tasks_expert_is_a_start(kind):
  settings = choices.settings(claims.get_config(f'encoder/movie/{kind}'))
  family = bert.family(bert.config_from_hf(BERT))
  space = spaces.build(settings, family, list(settings.experts), 'base')
  starts = baselines.starts(space, list(settings.experts), settings.weights)
  assert 'expert:movie' in dict(starts)


def test_lfs_is_followed_by_dis_with_what_it_found(tmp_path):
  config = claims.get_config('lm/lm_topic/lfs_dis')
  (first, _), (second, _) = choices.stages(config, tmp_path)
  alone = choices.settings(claims.get_config('lm/lm_topic/lfs'))
  assert first == alone
  assert second.space == 'depthwise'
  assert second.derived == (choices.FUSION,)


def test_an_unknown_search_is_told_with_those_there_are():
  with pytest.raises(ValueError, match=r"got 'encoder/lm_movie/lfs'.*kinds"):
    claims.get_config('encoder/lm_movie/lfs')


def test_merges_are_counted_that_are_surely_above():
  figures = Figures()
  experts = {'a': _right(0.5, 0.5), 'b': _right(0.5, 0.5)}
  merged = {'a': _right(0.9, 0.9)[None], 'b': _right(0.5, 0.52)[None]}
  claims_figures.own_tasks(figures, 'x_{task}lfs', merged, experts)
  claims_figures.corrected(figures, 'x', ['lfs'])
  values = figures.values
  assert values['x_a_lfs_minus_expert'] == pytest.approx(0.4)
  assert values['x_b_lfs_minus_expert'] == pytest.approx(0.01)
  assert values['x_lfs_minus_expert'] == pytest.approx(0.205)
  assert values['x_lfs_tasks_surely_above_expert'] == 1
  assert values['x_lfs_tasks_surely_below_expert'] == 0
  assert (values['x_a_lfs_gained'], values['x_a_lfs_lost']) == (40, 0)
  assert values['x_searches'] == 2
  assert values['x_searches_above_expert_holm'] == 1
  low, high = figures.intervals['x_b_lfs_minus_expert']
  assert low <= 0 < high


def test_seeds_are_averaged_item_by_item():
  rows = np.stack([_right(0.8, 0.0), _right(0.0, 0.0)])
  told = claims_figures.difference(rows, _right(0.2, 0.2), TASK)
  assert told.value == pytest.approx(0.0)


def test_coverage_is_the_share_that_is_dominated():
  best, worse = _right(0.9, 0.9), _right(0.2, 0.2)
  level, equal = _right(0.1, 1.0), _right(0.9, 0.9)
  covers = claims_figures.coverage([best], [worse, level, equal, worse], TASK)
  assert covers.value == 0.5
  assert covers.low <= 0.5 <= covers.high
  assert claims_figures.coverage([worse], [best], TASK).value == 0


def test_a_front_is_compared_with_experts_and_hand_made_merges(tmp_path):
  members = [{'name': 'front:0', 'recipe_hash': 'h'}]
  volume = {
    'front': 0.6,
    'others': 0.5,
    'difference': 0.1,
    'low': -0.1,
    'high': 0.2,
  }
  summary = {
    'tasks': ['election', 'movie'],
    'front': {'members': members, 'volume': volume},
  }
  scores = {
    'task': TASK,
    'merged': _right(0.9, 0.9),
    'front:0': _right(0.9, 0.9),
    'expert:movie': _right(0.1, 1.0),
    'expert:election': _right(0.8, 0.8),
    'ties': _right(0.4, 0.4),
    'base': _right(0.2, 0.2),
  }
  figures = Figures()
  claims_figures.front(figures, 'encoder', summary, scores)
  values = figures.values
  assert values['encoder_front_volume_gain'] == 0.1
  assert figures.intervals['encoder_front_volume_gain'] == [-0.1, 0.2]
  assert values['encoder_front_covers_others'] == 0.75
  assert values['encoder_front_covers_experts'] == 0.5
  assert values['encoder_front_covers_hand_made'] == 1
  assert values['encoder_front_covered_by_others'] == 0
  assert values['encoder_expert_movie_heldout_movie'] == 1


def test_the_picture_has_every_search_that_there_is(tmp_path):
  values, intervals = {'encoder_front_members': 1}, {}
  for task in claims.SUITES['encoder'].TASKS:
    for model in ('front_0', f'expert_{task}', 'ties'):
      values[f'encoder_{model}_heldout_{task}'] = 0.5
    values[f'encoder_{task}_lfs_minus_expert'] = 0.01
    intervals[f'encoder_{task}_lfs_minus_expert'] = [-0.01, 0.03]
  path = tmp_path / 'claims.svg'
  results = {'figures': values, 'intervals': intervals}
  claims_plot.draw(results, path)
  empty = tmp_path / 'empty.svg'
  del values['encoder_movie_lfs_minus_expert']
  claims_plot.draw(results, empty)
  assert len(path.read_text()) > len(empty.read_text())


def _run(folder, origins, chosen):
  """A finished search with one candidate a generation."""
  with Ledger(folder / 'ledger.sqlite') as ledger:
    for generation, origin in enumerate(origins):
      candidate = Candidate(origin, f'hash of {origin}', np.zeros(1))
      ledger.propose(generation, [candidate])
  summary = {
    'models': {'merged': {'recipe_hash': f'hash of {chosen}'}},
    'search': {
      'generations': len(origins),
      'candidates': len(origins),
      'full_evaluations': 2.0,
      'items': 10,
    },
    'environment': {'search_seconds': {'total': 1.5}},
    'front': {'members': [{'recipe_hash': f'hash of {chosen}'}]},
  }
  step, origin = claims_runs.chosen(folder, summary)
  return claims_runs.Run(folder, None, summary, {}, step, origin)


def test_steps_count_candidates_up_to_the_chosen_one(tmp_path):
  (tmp_path / 'one').mkdir()
  (tmp_path / 'two').mkdir()
  first = _run(tmp_path / 'one', ['expert:movie', 'search', 'mean'], 'search')
  assert (first.step, first.origin) == (2, 'search')
  assert claims_runs.experts_in(first) == 0
  origins = ['expert:movie', 'expert:fusion', 'search']
  second = _run(tmp_path / 'two', origins, 'search')
  costs = claims_runs.costs([first, second])
  assert costs['step'] == 3 + 3
  assert costs['candidates'] == 6 and costs['full_evaluations'] == 4.0
  assert claims_runs.costs([first])['step'] == 2


def test_what_lfs_had_found_already_is_its_own_step(tmp_path):
  (tmp_path / 'one').mkdir()
  (tmp_path / 'two').mkdir()
  first = _run(tmp_path / 'one', ['expert:movie', 'search'], 'expert:movie')
  second = _run(tmp_path / 'two', ['x', 'expert:fusion'], 'expert:fusion')
  assert claims_runs.found_by([first, second]) is first
  assert claims_runs.costs([first, second])['step'] == 1
  assert claims_runs.experts_in(first) == 1


def test_a_mean_that_was_no_candidate_is_the_last_step(tmp_path):
  run = _run(tmp_path, ['expert:movie', 'search'], 'the mean')
  assert (run.step, run.origin) == (2, 'mean')
