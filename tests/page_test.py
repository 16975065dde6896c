"""The report page: the summary's numbers, self-contained, escaped."""

import html.parser
import re

import pytest
import synthetic_report
from synthetic_report import RATES, TASKS

from automerge_jax.report import page, tables, wording

HOSTILE = 'x"><script>alert(1)</script>$\\frac$'


class _Reader(html.parser.HTMLParser):
  """Tags with their attributes, tables as text, unclosed elements."""

  VOID = ('meta', 'br', 'link', 'img')

  def __init__(self):
    super().__init__()
    self.tags, self.open, self.tables = [], [], []

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    if tag not in self.VOID:
      self.open.append(tag)
    if tag == 'table':
      self.tables.append([])
    if tag == 'tr':
      self.tables[-1].append([])
    if tag in ('td', 'th'):
      self.tables[-1][-1].append('')

  def handle_startendtag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    if self.open[-1:] and {'td', 'th'} & set(self.open):
      self.tables[-1][-1][-1] += data + ' '


def _read(text):
  reader = _Reader()
  reader.feed(text)
  reader.close()
  assert not reader.open
  for table in reader.tables:
    for row in table:
      row[:] = [re.sub(r'\s+', ' ', cell).strip() for cell in row]
  return reader


@pytest.fixture(scope='module')
def rendered():
  summary = synthetic_report.build()
  _, points = synthetic_report.search_log()
  return summary, page.render(summary, points)


def test_score_table_holds_the_summarys_numbers(rendered):
  summary, text = rendered
  header, *rows = _read(text).tables[0]
  assert header[:2] == ['Model', 'Mean']
  assert [cell.split()[0] for cell in header[2:]] == list(TASKS)
  names = tables.ordered(summary['models'])
  assert names[0] == 'merged' and names[-1] == 'base'
  assert [row[0] for row in rows[:-1]] == [wording.heading(n) for n in names]
  for name, row in zip(names, rows, strict=False):
    held = summary['models'][name]['heldout']
    for cell, shown in zip(
      (held['mean'], *(held['tasks'][task] for task in TASKS)),
      row[1:],
      strict=True,
    ):
      assert shown == (
        f'{100 * cell["accuracy"]:.1f} '
        f'{100 * cell["low"]:.1f}–{100 * cell["high"]:.1f}'
      )
  own = summary['experts_on_own_task']['heldout']['mean']['accuracy']
  assert rows[-1][1].startswith(f'{100 * own:.1f} ')


def test_the_best_single_model_of_each_column_is_bold(rendered):
  summary, text = rendered
  bold = re.findall(r'class=best><b>([\d.]+)</b>', text)
  models = summary['models'].values()
  best = [max(m['heldout']['mean']['accuracy'] for m in models)] + [
    max(m['heldout']['tasks'][task]['accuracy'] for m in models)
    for task in TASKS
  ]
  assert sorted(bold) == sorted(f'{100 * value:.1f}' for value in best)


def test_parents_table_holds_the_tests(rendered):
  summary, text = rendered
  _, *rows = _read(text).tables[1]
  for task, row in zip(TASKS, rows, strict=True):
    test = summary['comparisons']['merged_vs_own_expert'][task]
    assert row[0] == task
    assert row[3].split()[0] == wording.points(test['difference'])
    assert row[5:8] == [
      str(test['gained']),
      str(test['lost']),
      tables.p_value(test['p_holm']),
    ]


def test_marks_stay_inside_their_cells(rendered):
  _, text = rendered
  marks = re.findall(r'left:([-\d.]+)%;width:([-\d.]+)%', text)
  assert len(marks) > 20
  for left, width in marks:
    assert 0 <= float(left) and float(left) + float(width) <= 100.11


def test_the_verdict_is_the_heading_and_comes_first(rendered):
  summary, text = rendered
  heading = re.search(r'<h1>(.*?)</h1>', text).group(1)
  assert heading == summary['verdict']
  assert text.index('<h1>') < text.index('<table>')


def test_the_page_asks_for_nothing(rendered):
  _, text = rendered
  assert len(text) < 1_500_000
  for tag, attributes in _read(text).tags:
    assert tag not in ('script', 'link', 'iframe', 'object', 'base')
    for name, value in attributes.items():
      assert not name.startswith('on')
      if name in ('src', 'href', 'xlink:href', 'srcset', 'data', 'action'):
        assert value.startswith(('#', 'data:')), (tag, name, value)
  assert '@import' not in text
  assert not re.search(r'url\((?!#)', text)
  left = text.replace('xmlns="http://www.w3.org/2000/svg"', '')
  assert 'http:' not in left and 'https:' not in left


def test_ids_are_unique_and_references_resolve(rendered):
  tags = _read(rendered[1]).tags
  ids = [attributes['id'] for _, attributes in tags if 'id' in attributes]
  assert len(ids) == len(set(ids))
  used = re.findall(r'(?:href="|url\()#([^")]+)', rendered[1])
  used += [a['aria-labelledby'] for _, a in tags if 'aria-labelledby' in a]
  assert used and set(used) <= set(ids)


def test_every_drawing_is_named_or_hidden(rendered):
  drawings = [a for tag, a in _read(rendered[1]).tags if tag == 'svg']
  assert len(drawings) > 10
  named = [a for a in drawings if a.get('role') == 'img']
  assert all(a['aria-label'] for a in named)
  # The key's glyphs are hidden; the colour bar is inside a hidden element.
  assert len(drawings) - len(named) == 6


def test_hostile_names_are_text_only():
  rates = {**RATES, HOSTILE: (0.7,) * 4}
  log, points = synthetic_report.search_log()
  coefficients = synthetic_report.coefficients()
  coefficients['experts'][0] = HOSTILE
  coefficients['components'][1] = HOSTILE
  summary = synthetic_report.build(
    rates, log=log, coefficients=coefficients, environment={'note': HOSTILE}
  )
  text = page.render(summary, points)
  assert '<script' not in text
  assert text.count('alert(1)') >= 4
  _read(text)


def test_hostile_task_names_are_text_only():
  tasks = (HOSTILE, *TASKS[1:])
  renamed = {
    'expert:' + HOSTILE if name == 'expert:movie' else name: rate
    for name, rate in RATES.items()
  }
  log, points = synthetic_report.search_log()
  for point in points:
    point['scores'][HOSTILE] = point['scores'].pop('movie')
  summary = synthetic_report.build(
    renamed,
    metrics=dict.fromkeys(tasks, 'accuracy'),
    parents={task: task for task in tasks},
    log=log,
  )
  text = page.render(summary, points)
  assert '<script' not in text
  _read(text)


def test_same_input_same_page(rendered):
  _, points = synthetic_report.search_log()
  assert page.render(synthetic_report.build(), points) == rendered[1]


def test_a_page_without_optional_parts():
  summary = synthetic_report.build(
    coefficients=None, environment={}, finalists=[]
  )
  text = page.render(summary, [])
  assert 'id="heat"' not in text and 'id="finalists"' not in text
  _read(text)


def test_the_headline_says_when_another_model_does_better(rendered):
  assert '>Better than tuned task arithmetic<' in rendered[1]
  rates = {**RATES, 'modelwise': (0.85, 0.88, 0.96, 0.97)}
  text = page.render(synthetic_report.build(rates), [])
  assert 'arithmetic, but model-wise search does better<' in text


def test_failed_candidates_are_not_drawn(rendered):
  summary, text = rendered
  _, points = synthetic_report.search_log()
  failed = {**points[0], 'mean': float('nan'), 'scores': {}}
  assert page.render(summary, [*points, failed]) == text


def test_a_gap_that_does_not_exist_is_explained():
  rates = {name: (0.8,) * 4 for name in RATES}
  rates['task_arithmetic'] = (0.9,) * 4
  summary = synthetic_report.build(rates)
  text = page.render(summary, [])
  assert 'are not above the baseline' in text
  assert 'Worse than tuned task arithmetic' in text


def test_log_likelihoods_of_finalists_are_in_nats():
  summary = synthetic_report.build(objective='log_likelihood')
  for row in summary['finalists']:
    row |= {'search': -0.4567, 'select': -0.5123}
  text = page.render(summary, [])
  table = text[text.index('id="finalists"') :]
  assert '>−0.457<' in table and '>−0.512<' in table and 'nats' in table


@pytest.fixture(scope='module', params=[TASKS[:2], TASKS])
def front(request):
  coefficients = synthetic_report.coefficients(layers=9)
  coefficients['program'] = synthetic_report.program()
  summary = synthetic_report.front(
    request.param,
    {'movie': 0.03, 'reuters': 0.01},
    coefficients=coefficients,
  )
  return summary, page.render(summary, [])


def test_members_have_their_scores_and_commands(front):
  summary, text = front
  table = next(t for t in _read(text).tables if t[0][-1] == 'To export it')
  members = summary['front']['members']
  rows = {row[0].split(' the ')[0]: row for row in table[1:]}
  assert table[1][0] == 'member 1 the one at its knee'
  for i, member in enumerate(members):
    row = rows[f'member {i}']
    for one, shown in zip(summary['objectives'], row[1:], strict=False):
      cell = member['objectives'][one['name']]
      assert shown == (
        f'{100 * cell["value"]:.1f} '
        f'{100 * cell["low"]:.1f}–{100 * cell["high"]:.1f}'
      )
    assert row[-2] == ', '.join(member['broken'])
    assert row[-1] == (
      f'python -m experiments.merge --recipe=front/{i}.yaml --out=OUT'
    )
  assert {'Tuned TIES', 'Uniform average'} <= set(rows)
  assert wording.front(summary) in text


def test_constraints_have_their_verdict(front):
  summary, text = front
  table = next(t for t in _read(text).tables if t[0][-1] == 'The constraint is')
  for row, shown in zip(summary['constraints'], table[1:], strict=True):
    assert shown[0] == row['task']
    assert shown[2:4] == [
      wording.points(-row['most']),
      wording.points(row['difference']),
    ]
    assert shown[-1] == wording.constraint(row)
  assert '>Better than tuned task arithmetic, and it breaks a' in text


def test_ids_of_fronts_and_programs_are_unique(front):
  tags = _read(front[1]).tags
  ids = [attributes['id'] for _, attributes in tags if 'id' in attributes]
  assert len(ids) == len(set(ids))
  assert {'front', 'members', 'constraints', 'program'} <= set(ids)
  used = re.findall(r'(?:href="|url\()#([^")]+)', front[1])
  assert set(used) <= set(ids)


def test_a_stack_of_layers_is_told_and_drawn(front):
  _, text = front
  assert 'It has 9 layers, more than the 6 of the base.' in text
  named = [a.get('aria-label', '') for t, a in _read(text).tags if t == 'svg']
  assert sum('9 layers, more than' in name for name in named) == 2


def test_a_plain_search_has_no_front_program_or_constraints(rendered):
  for name in ('front', 'members', 'constraints', 'program'):
    assert f'id="{name}"' not in rendered[1]


def test_a_stack_without_weights_has_no_heat_map():
  coefficients = synthetic_report.coefficients(layers=9)
  coefficients |= {'parameter': '', 'program': synthetic_report.program()}
  text = page.render(synthetic_report.build(coefficients=coefficients), [])
  assert 'id="heat"' not in text and 'id="program"' in text


def test_hostile_names_in_a_front_are_text_only():
  coefficients = synthetic_report.coefficients(layers=9)
  coefficients['program'] = synthetic_report.program(
    names=(HOSTILE, *TASKS[1:])
  )
  summary = synthetic_report.front(TASKS[:2], coefficients=coefficients)
  others = summary['front']['others']
  others[HOSTILE] = others['ties']
  summary['objectives'][0]['name'] = HOSTILE
  for cells in (
    *others.values(),
    *(row['objectives'] for row in summary['front']['members']),
  ):
    cells[HOSTILE] = cells['movie']
  text = page.render(summary, [])
  assert '<script' not in text and text.count('alert(1)') >= 4
  _read(text)


@pytest.fixture(scope='module')
def told():
  summary = synthetic_report.build(
    {**RATES, 'merged': (0.77, 0.79, 0.89, 0.87)},
    weights={'movie': 3.0},
    **synthetic_report.extras(),
  )
  _, points = synthetic_report.search_log()
  return summary, page.render(summary, points)


def _table(text, last):
  return next(t for t in _read(text).tables if t[0][-1] == last)


def test_the_budgets_table_adds_up(told):
  summary, text = told
  spending = summary['search']['spending']
  rows = _table(text, 'Share')[1:]
  for row, shown in zip(spending['rungs'], rows, strict=False):
    assert shown[1:5] == [
      f'{row[key]:,}' for key in ('completed', 'stopped', 'failed', 'scored')
    ]
  assert rows[-1][0] == 'Gradient steps' and rows[-1][4] == '9,600'
  assert sum(float(row[5].rstrip('%')) for row in rows) == pytest.approx(
    100, abs=0.21
  )
  assert 'spared\n    another 3,400' in text
  assert _table(text, 'Candidates')[1:] == [
    ['hidden states are not finite', '3'],
    ['out of memory', '1'],
  ]


def test_stated_and_found_differences_stand_beside_each_other(told):
  summary, text = told
  rows = {row[0]: row[1:] for row in _table(text, 'Difference found')[1:]}
  for split, name in (('search', 'Search'), ('heldout', 'Held-out')):
    row, stated = (
      summary['resolution'][split],
      summary['plan']['detectable'][split],
    )
    percent = wording.percent
    assert rows[name] == [
      f'{row["items"]:,}',
      f'{percent(stated["difference"])} for 10.0%',
      f'{percent(row["discordant"])}%',
      percent(row['detectable']),
      wording.points(row['difference']),
    ]
  for warning in summary['plan']['warnings'] + summary['warnings']:
    assert warning in text
  assert summary['warnings'] and text.index('class="warning"') < text.index(
    'class="figures"'
  )


def test_weights_and_the_choice_are_told(told):
  summary, text = told
  plain = re.sub(r'\s+', ' ', text)
  assert 'tasks weigh movie 50.0%, sarcasm 16.7%,' in plain
  assert _read(text).tables[0][0][1] == 'Weighted mean'
  contest = summary['contest']
  assert f'Of {contest["finalists"]} finalists the merge had' in plain
  for key in ('merged', 'baseline', 'difference'):
    assert wording.percent(contest[key]['value']) in plain
  assert 'The surrogate chose the candidates of 6 of 11 generations' in plain


def test_ids_and_drawings_of_a_full_page(told):
  tags = _read(told[1]).tags
  ids = [attributes['id'] for _, attributes in tags if 'id' in attributes]
  assert len(ids) == len(set(ids))
  assert {'budget', 'failures', 'screening', 'resolution', 'gaps'} <= set(ids)
  used = re.findall(r'(?:href="|url\()#([^")]+)', told[1])
  used += [a['aria-labelledby'] for _, a in tags if 'aria-labelledby' in a]
  assert set(used) <= set(ids)


def test_sections_without_data_are_left_out(rendered):
  for name in ('budget', 'failures', 'screening', 'gaps'):
    assert f'id="{name}"' not in rendered[1]
  assert 'not stated' in rendered[1]  # there was no plan


def test_a_surrogate_that_never_chose_is_said():
  extras = synthetic_report.extras()
  rows = [{**row, 'on': False} for row in extras['screening']]
  summary = synthetic_report.build(**(extras | {'screening': rows}))
  assert 'chose none of the candidates' in page.render(summary, [])
