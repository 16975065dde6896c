"""The model card: front matter, the summary's numbers, hostile names."""

import pytest
import synthetic_report
import yaml
from synthetic_report import TASKS

from automerge_jax.report import model_card, wording

RECIPE = 'merge_method: task_arithmetic\nmodels:\n  - model: ../experts/a\n'


def _table(card, first):
  lines = card.splitlines()
  start = next(i for i, line in enumerate(lines) if line.startswith(first))
  rows = []
  for line in lines[start:]:
    if not line.startswith('|'):
      break
    rows.append([cell.strip() for cell in line.strip('|').split(' |')])
  return rows


def test_front_matter_is_yaml_and_leaves_out_what_is_unknown():
  summary = synthetic_report.build()
  card = model_card.render(summary, RECIPE, {})
  assert yaml.safe_load(card.split('---\n')[1]) == {
    'library_name': 'transformers',
    'tags': ['merge', 'automerge_jax'],
  }
  card = model_card.render(
    summary, RECIPE, {}, base_model=['a/b: c'], license_id='apache-2.0'
  )
  fields = yaml.safe_load(card.split('---\n')[1])
  assert fields['base_model'] == ['a/b: c']
  assert fields['license'] == 'apache-2.0'


def test_tables_hold_the_summarys_numbers():
  summary = synthetic_report.build()
  card = model_card.render(summary, RECIPE, {})
  header, rule, *rows = _table(card, '| Model')
  assert header == ['Model', 'Mean', *TASKS] and len(rule) == 6
  assert len(rows) == len(summary['models'])
  assert rows[0][0] == '**Merge**'
  held = summary['models']['merged']['heldout']
  for cell, text in zip(
    (held['mean'], *(held['tasks'][task] for task in TASKS)),
    rows[0][1:],
    strict=True,
  ):
    assert text == (
      f'{100 * cell["accuracy"]:.1f} '
      f'({100 * cell["low"]:.1f}–{100 * cell["high"]:.1f})'
    )
  tests = _table(card, '| Task')[2:]
  for task, row in zip(TASKS, tests, strict=True):
    want = summary['comparisons']['merged_vs_own_expert'][task]
    assert row[:2] == [task, wording.points(want['difference'])]


def test_verdict_recipe_and_files_are_there():
  summary = synthetic_report.build()
  card = model_card.render(
    summary, RECIPE, {'heads/a/head.safetensors': 'a head', 'x.bin': 'x'}
  )
  assert summary['verdict'] in card
  assert f'```yaml\n{RECIPE}```' in card
  assert "holds one task's\nclassification head" in card
  assert '- `x.bin`: x' in card
  assert summary['models']['merged']['recipe_hash'] in card
  merge = 'python -m experiments.merge --recipe=recipe.yaml --out=OUT'
  score = f'experiments.evaluate --model=OUT --task={summary["tasks"][0]}'
  assert merge in card and score in card
  bare = model_card.render(summary, RECIPE, {})
  assert '`heads/`' not in bare and 'experiments.evaluate' not in bare


def test_a_recipe_cannot_close_its_fence():
  recipe = 'name: "```\\n# Title"\n'
  card = model_card.render(synthetic_report.build(), recipe, {})
  assert f'````yaml\n{recipe}````' in card


def test_hostile_names_stay_text():
  assert model_card.plain('a|b\n<script> [x](y) `z`') == (
    'a\\|b &lt;script&gt; \\[x\\](y) \\`z\\`'
  )
  rates = {**synthetic_report.RATES, 'x|<b>\n# y': (0.7,) * 4}
  card = model_card.render(synthetic_report.build(rates), RECIPE, {})
  assert '<b>' not in card and '\n# y' not in card
  assert '| X\\|&lt;b&gt; \\# y |' in card


def test_front_constraints_and_depth_are_told():
  coefficients = synthetic_report.coefficients()
  coefficients['program'] = synthetic_report.program(4)
  summary = synthetic_report.front(
    ('movie', 'mean'), {'sarcasm': 0.05}, coefficients=coefficients
  )
  card = model_card.render(summary, RECIPE, {})
  assert '\nIt has 4 of 6 layers, ' in card
  assert wording.front(summary).split('.')[0] in card
  (row,) = summary['constraints']
  (shown,) = [
    cells
    for cells in _table(card, '| Task | Reference')[2:]
    if cells[0] == 'sarcasm'
  ]
  assert shown[2:4] == ['−5.0', wording.points(row['difference'])]
  assert shown[-1] == wording.constraint(row)
  bare = model_card.render(synthetic_report.build(), RECIPE, {})
  assert 'front' not in bare and 'Constraint' not in bare
  assert '\nIt has ' not in bare


@pytest.mark.parametrize(
  ('sources', 'words'),
  [
    ([[0], [1]], 'in their places'),
    ([[0], [2]], 'in their order'),
    ([[1], [1]], 'stacked anew'),
    ([[2], [0]], 'stacked anew'),
  ],
)
def test_where_layers_stand(sources, words):
  rows = [{'sources': row} for row in sources]
  assert model_card._places({'layers': rows}) == words
