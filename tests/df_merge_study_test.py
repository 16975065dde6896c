"""The study of DF-Merge: its searches, its hand-made merges, its figures."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from automerge_jax.io import safetensors
from automerge_jax.models import registry
from automerge_jax.search import job as jobs
from automerge_jax.search import space as spaces
from automerge_jax.tasks import (
  classification,
  finetune,
  generation,
  language_experts,
  language_finetune,
  multitask,
)
from configs import df_merge
from experiments import (
  choices,
  df_merge_baselines,
  df_merge_figures,
  df_merge_kept,
  df_merge_plot,
  df_merge_runs,
  df_merge_table,
)
from experiments import df_merge as study
from experiments.bench import df_merge_cost
from experiments.claims_figures import Figures
from tests import tiny_language, tiny_suite

OPTIONS = finetune.Options(
  epochs=1, batch_size=8, learning_rate=1e-2, lengths=(16,)
)
ALL = [
  *(f'{s}/{n}' for s in df_merge.SUITES for n in df_merge.SEARCHES),
  *(f'{df_merge.ABLATED}/{name}' for name in df_merge.ABLATIONS),
]


@pytest.mark.parametrize('arg', ALL)
def test_every_search_is_one_of_settings(arg):
  suite, _, name = arg.partition('/')
  settings = choices.settings(df_merge.get_config(arg))
  assert set(settings.tasks) == set(df_merge.SUITES[suite].TASKS)
  assert (settings.candidates or float(settings.budget)) == df_merge.STEPS[
    suite
  ]
  assert spaces.method(settings).name == {
    'gta_bo': 'task_arithmetic',
    'random_search': 'task_arithmetic',
    'lfs_search': 'task_arithmetic' if suite == 'lm' else 'tsv_m',
  }.get(name, 'df_merge')
  one_rung = name not in ('lfs_search', *df_merge.ABLATIONS)
  if one_rung:
    assert settings.rungs == (df_merge.ITEMS[suite],)
  same = choices.settings(df_merge.get_config(f'{suite}/df_merge_ei'))
  for field in ('finalists', 'select', 'heldout'):
    assert getattr(settings, field) == getattr(same, field)


def test_the_published_search_is_as_published():
  settings = choices.settings(df_merge.get_config('encoder/df_merge_ei'))
  assert (settings.method, settings.space) == ('df_merge', 'modelwise')
  assert (settings.optimizer, settings.acquisition) == ('bayes', 'ei')
  assert (settings.explore, settings.explore_design) == (10, 'uniform')
  assert not settings.hand_made_starts and settings.population == 1
  assert settings.ranges == {'weight': (0.0, 1.0)}
  assert settings.fisher_examples == 30 and settings.candidates == 60
  gta = choices.settings(df_merge.get_config('encoder/gta_bo'))
  changed = {
    field.name
    for field in dataclasses.fields(settings)
    if getattr(settings, field.name) != getattr(gta, field.name)
  }
  assert changed == {'method'}


def test_ablations_change_what_they_say():
  few = choices.settings(df_merge.get_config('encoder/items_5'))
  assert few.rungs == (10,) and few.fisher_examples == 10
  static = choices.settings(df_merge.get_config('encoder/static'))
  assert static.fisher_at == 'expert'


@pytest.mark.parametrize('arg', [None, 'encoder', 'lm/static', 'x/gta_bo'])
def test_an_unknown_search_is_told_with_those_there_are(arg):
  with pytest.raises(ValueError, match=r'SUITE/SEARCH.*gta_bo.*static'):
    df_merge.get_config(arg)


def test_the_first_of_the_best_of_the_first_is_chosen():
  values = np.asarray([0.5, np.nan, 0.7, 0.7, 0.9])
  assert df_merge_runs.first_best(values, 4) == 2
  assert df_merge_runs.first_best(values, 5) == 4
  with pytest.raises(ValueError, match=r'expected 6 candidates'):
    df_merge_runs.first_best(values, 6)


@pytest.fixture(scope='module')
def joint(tiny, tmp_path_factory):
  """One model for two tasks."""
  folder = tmp_path_factory.mktemp('joint') / 'multitask'
  tasks = [_task(name) for name in tiny_suite.TASKS[:2]]
  arguments = (folder, tiny / 'base', tasks, OPTIONS, 100)
  report = multitask.make(*arguments, progress=False)
  assert multitask.make(*arguments, progress=False) == report  # read back
  return folder


def _task(name):
  classes = tiny_suite.SOURCES[name]().classes
  return classification.Task(name, classes, tiny_suite.MAX_TOKENS)


def test_one_model_learns_all_tasks(tiny, joint):
  settings = tiny_suite.settings(
    tiny,
    tasks=tiny_suite.TASKS[:2],
    experts={n: tiny / 'experts' / n for n in tiny_suite.TASKS[:2]},
    select=20,
  )
  found, _ = df_merge_baselines.scores(
    settings, joint.parent / 'scores', ('uniform',), joint
  )
  assert set(found) == {'uniform', 'experts', 'multitask', 'task'}
  assert len(found['task']) == 120
  for index in range(2):
    mine = found['task'] == index
    assert found['multitask'][mine].mean() > 0.6  # chance is 1/2 and 1/3


def test_heads_are_trained_within_their_tasks(tiny):
  family = registry.load(tiny / 'base').family
  tx = finetune.optimizer(OPTIONS, 4)
  head = {'kernel': jnp.zeros((32, 5)), 'bias': jnp.zeros(5)}
  params = {'trunk': registry.load(tiny / 'base').params, 'head': head}
  inputs = classification.pad([(4, 5, 6)] * 2, 16)
  groups = np.array([0, 0, 1, 1, 1])
  state, loss = finetune.step_fn(family, tx, groups)(
    finetune.State(params, tx.init(params)),
    inputs,
    np.array([1, 0]),
    np.ones(2, np.float32),
  )
  assert float(loss) == pytest.approx(np.log(2))
  change = np.abs(np.asarray(state.params['head']['kernel'])).sum(0)
  assert (change[2:] == 0).all()
  with pytest.raises(ValueError, match='cannot share a head'):
    tasks = [_task(name) for name in tiny_suite.TASKS[:2]]
    multitask.make(
      tiny / 'none', tiny / 'base', tasks, OPTIONS, 9, shared_head=True
    )


def test_hand_made_merges_are_tuned_on_select_items(tiny, tmp_path):
  settings = tiny_suite.settings(
    tiny,
    tasks=tiny_suite.TASKS[:2],
    experts={n: tiny / 'experts' / n for n in tiny_suite.TASKS[:2]},
    select=20,
  )
  arguments = (settings, tmp_path, ('uniform', 'fisher'))
  found, select = df_merge_baselines.scores(*arguments)
  assert set(found) == {'uniform', 'fisher', 'experts', 'task'}
  assert {name: len(means) for name, means in select.items()} == {
    'uniform': 1,
    'fisher': 2,
  }
  assert found['experts'].mean() > found['uniform'].mean()
  assert (tmp_path / 'statistics' / 'tiny_colour').is_dir()
  again, _ = df_merge_baselines.scores(*arguments)
  np.testing.assert_array_equal(again['fisher'], found['fisher'])


def test_all_hand_made_merges_are_recipes_that_differ(tiny):
  job = jobs.load(tiny_suite.settings(tiny))
  grids = df_merge_baselines.grids(job.experts)
  assert set(grids) == set(df_merge_baselines.METHODS)
  hashes = [job.recipe_hash(r) for grid in grids.values() for r in grid]
  assert len(set(hashes)) == len(hashes)


TASK = np.repeat([0, 1], 50)


def _right(*shares):
  """0/1 scores of 50 items a task, the first ones right."""
  return np.concatenate([np.arange(50) < share * 50 for share in shares]) * 1.0


def _results():
  """Figures of one suite from made-up scores."""
  figures = Figures()
  searched = {name: _right(0.7, 0.7)[None] for name in df_merge.SEARCHES}
  searched['df_merge_ei'] = np.stack([_right(0.8, 0.6), _right(0.9, 0.9)])
  made = {name: _right(0.5, 0.6) for name in df_merge_baselines.METHODS}
  made |= {'experts': _right(0.9, 0.9), 'multitask': _right(1.0, 0.9)}
  made['ties'] = _right(0.6, 0.6)
  df_merge_figures.suite(figures, 'encoder', searched, made, 'ties', TASK)
  df_merge_figures.ablations(
    figures,
    'encoder',
    _right(0.8, 0.6),
    {name: _right(0.6, 0.6) for name in df_merge.ABLATIONS},
    TASK,
  )
  after = {19: _right(0.7, 0.6)[None], 60: _right(0.8, 0.6)[None]}
  df_merge_figures.steps(figures, 'encoder', after, TASK)
  figures.values['encoder_df_merge_ei_full_evaluations'] = 60.0
  for part in ('fisher', 'merge', 'evaluation', 'gp'):
    figures.values[f'encoder_cost_{part}_s'] = 1.0
  figures.values['encoder_cost_step_s'] = 4.0
  return {
    'figures': figures.values,
    'intervals': figures.intervals,
    'best_hand_made': {'encoder': 'ties'},
    'curves': {'encoder': {'gta_bo': [0.5, 0.6], 'df_merge_ei': [0.4, 0.7]}},
    'seeds': {'encoder': [0, 1]},
  }


def test_figures_are_means_of_tasks_and_paired_differences():
  results = _results()
  values, intervals = results['figures'], results['intervals']
  assert values['encoder_df_merge_ei'] == pytest.approx(0.8)
  assert values['encoder_df_merge_ei_seed0'] == pytest.approx(0.7)
  assert values['encoder_df_merge_ei_minus_gta_bo'] == pytest.approx(0.1)
  assert values['encoder_df_merge_ei_minus_wudi'] == pytest.approx(0.25)
  assert values['encoder_df_merge_ei_minus_experts'] == pytest.approx(-0.1)
  above = 'encoder_df_merge_ei_minus_best_hand_made'
  assert values[above] == pytest.approx(0.2)
  assert values['encoder_best_hand_made'] == values['encoder_ties']
  low, high = intervals[above]
  assert 0 < low < 0.2 < high  # never worse on any item
  assert intervals['encoder_gta_bo'][0] < 0.7 < intervals['encoder_gta_bo'][1]
  assert values['encoder_static_minus_full'] == pytest.approx(-0.1)
  assert values['encoder_steps_60_minus_19'] == pytest.approx(0.05)


def test_the_best_hand_made_merge_is_chosen_on_select_items():
  select = {'ties': [0.5, 0.7], 'fisher': [0.6, 0.69], 'uniform': [np.nan, 0.1]}
  assert df_merge_figures.chosen(select) == 'ties'


def test_curves_hold_the_best_so_far():
  rows = [[0.1, None, 0.3], [0.5, 0.7, 0.1, 0.9]]
  np.testing.assert_allclose(
    df_merge_figures.curve(rows), [0.3, 0.4, 0.5], atol=1e-9
  )


def test_picture_and_table_tell_what_there_is(tmp_path):
  results = _results()
  path = tmp_path / 'study.svg'
  df_merge_plot.draw(results, path)
  whole = len(path.read_text())
  table = df_merge_table.table(results)
  assert '| TIES | 60.0 (' in table
  assert 'the best hand-made merge (TIES) +20.0 (' in table
  assert 'A step takes 4.0 s, 25% of it' in table
  del results['figures']['encoder_ties']
  df_merge_plot.draw(results, path)
  assert len(path.read_text()) < whole
  assert '| TIES |' not in df_merge_table.table(results)


def test_unknown_suites_and_parts_are_told(tmp_path):
  with pytest.raises(ValueError, match=r"--suites holds 'encodr'.*encoder"):
    study.run(['encodr'], ['cost'], [], ['1'], tmp_path, tmp_path, '')
  with pytest.raises(ValueError, match=r"--parts holds 'price'.*cost"):
    study.run(['lm'], ['price'], [], ['1'], tmp_path, tmp_path, '')
  with pytest.raises(ValueError, match=r"--searches holds 'gta'.*gta_bo"):
    study.run(['lm'], ['cost'], ['gta'], ['1'], tmp_path, tmp_path, '')
  parts = ['searches', 'hand_made']
  with pytest.raises(ValueError, match=r'--searches are gta_bo.*df_merge_ei'):
    study.run(['lm'], parts, ['gta_bo'], ['1'], tmp_path, tmp_path, '')


def test_seeds_are_counted_by_suite():
  suites = ['domain', 'lm']
  assert study.seeds_of(suites, ['3']) == {'domain': [0, 1, 2], 'lm': [0]}
  assert study.seeds_of(suites, ['2', '1']) == {'domain': [0, 1], 'lm': [0]}
  for counts in (['0'], ['1', 'one'], ['1', '2', '3'], []):
    with pytest.raises(ValueError, match='each suite: domain, lm'):
      study.seeds_of(suites, counts)


def test_kept_runs_are_read_back_and_never_mixed(tmp_path):
  task = np.repeat([0, 1], [3, 8])
  row = np.asarray([1, 0, 1, 1, 0, 0, 0, 1, 1, 1, 0])
  folders = {name: tmp_path / name for name in ('base', 'red')}
  for name, folder in folders.items():
    _model(folder, name == 'red')
  made = []

  def make(models):
    made.append(models)
    return df_merge_kept.Kept(models, task, {'merged': row}, {'values': [None]})

  kept = tmp_path / 'kept'
  found = df_merge_kept.kept(kept / 'gta_bo0.json', folders, make)
  np.testing.assert_array_equal(found.scores['merged'], row)
  np.testing.assert_array_equal(found.task, task)
  assert [found.models] == made and found.told == {'values': [None]}
  # With other checkpoints what is there is read, but nothing made beside it.
  _model(folders['red'], 2.0)
  again = df_merge_kept.kept(kept / 'gta_bo0.json', folders, make)
  assert again.models == found.models
  with pytest.raises(ValueError, match=r"gta_bo0.json.*\['red'\].*gta_bo1"):
    df_merge_kept.kept(kept / 'gta_bo1.json', folders, make)
  assert len(made) == 1
  with pytest.raises(ValueError, match=r"'merged'.*neither 0 nor 1"):
    df_merge_kept.dumps(dataclasses.replace(found, scores={'merged': row / 2}))


def _model(folder, value):
  folder.mkdir(exist_ok=True)
  tensors = {'w': np.full(3, value, np.float32)}
  safetensors.write(folder, tensors)


def test_passes_are_counted_and_timed_apart():
  # 10 examples of 3 classes: forward 0.1 s each, backward 0.2 s each.
  exact = df_merge_cost.Passes(10, 10, 30, 1.0, 3.0)
  assert df_merge_cost.limit([exact]) == pytest.approx(10 * 0.1 + 30 * 0.2)
  drawn = df_merge_cost.Passes(10, 20, 10, 1.0, 3.0)
  assert df_merge_cost.limit([exact, drawn]) == pytest.approx(7.0 + 4.0)


def test_a_class_but_one_is_a_backward_pass(tiny):
  settings = tiny_suite.settings(
    tiny, method='df_merge', semantics='paper', fisher_examples=4
  )
  examples = jobs.load(settings).calibration.examples
  end = int(examples.end)

  def total(estimate):
    counts = [df_merge_cost.counted(p, end, estimate) for p in examples.pieces]
    return tuple(map(sum, zip(*counts, strict=True)))

  # Tasks of two, three and two classes.
  assert total('exact') == (12, 12, 4 * (1 + 2 + 1))
  assert total('sampled') == (12, 12, 12)
  texts = dataclasses.replace(examples.pieces[0], finite=False)
  number, forward, backward = df_merge_cost.counted(texts, end, 'sampled')
  assert (forward, backward) == (2 * number, number)


def test_a_language_model_of_one_task_is_its_expert(tmp_path):
  base = tiny_language.write(tmp_path / 'base')
  task = generation.Task(
    'lm_arithmetic', 100, max_new_tokens=4, stop=('%',), delimiter=''
  )
  options = language_finetune.Options(
    epochs=1,
    batch_size=8,
    learning_rate=1e-2,
    lengths=(104,),
    rank=2,
    alpha=4.0,
  )
  arguments = (tmp_path / 'joint', base, {task: 16}, options, False)
  report = multitask.make_language(*arguments)
  assert multitask.make_language(*arguments) == report
  language_experts.make_expert(
    tmp_path / 'expert',
    base,
    task,
    options,
    adapter=tmp_path / 'adapter',
    progress=False,
    examples=16,
    select=6,
    heldout=8,
  )
  have = safetensors.read(tmp_path / 'joint')
  for name, tensor in safetensors.read(tmp_path / 'expert').items():
    np.testing.assert_array_equal(have[name], tensor)
