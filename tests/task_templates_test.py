"""The task files in configs/tasks and docs/tasks.md do what they say."""

import pathlib
import re

import pytest
import yaml

from automerge_jax.tasks import definitions, external, sealed, splits
from automerge_jax.tasks import task_grammar as grammar

ROOT = pathlib.Path(__file__).parents[1]
FILES = sorted((ROOT / 'configs' / 'tasks').glob('*.yaml'))
LOCAL = [path for path in FILES if path.stem != 'lm_eval']
TASKS_MD = (ROOT / 'docs' / 'tasks.md').read_text()


def test_there_is_a_template_of_each_kind():
  kinds = {yaml.safe_load(path.read_text())['kind'] for path in FILES}
  assert kinds == set(grammar.KEYS)


@pytest.mark.parametrize('path', LOCAL, ids=lambda path: path.stem)
def test_templates_have_items_in_every_split(path):
  made = definitions.read(path)
  assert made.task.kind == path.stem
  assert len(made.source.train) == 73
  items = [
    *splits.search_items(str(path), 8),
    *sealed.select_items(str(path), 8),
    *sealed.heldout_items(str(path), 12),
  ]
  assert len({item.id for item in items}) == 28


def test_the_template_of_a_choice_reads_well():
  path = ROOT / 'configs' / 'tasks' / 'choice.yaml'
  (item,) = splits.search_items(str(path), 1)
  assert re.fullmatch(
    r'(Question: What is the capital of [\w ]+\?\nAnswer: [\w ]+\n\n){2}'
    r'Question: What is the capital of [\w ]+\?\nAnswer:',
    item.text,
  )
  assert len(item.choices) == 4
  assert all(re.fullmatch(r' [\w ]+', choice) for choice in item.choices)


def test_the_template_of_a_scorer_scores(tmp_path):
  path = ROOT / 'configs' / 'tasks' / 'external.yaml'
  (tmp_path / 'config.json').write_text('Peru')
  scores = external.score(
    definitions.read(path).task, tmp_path, ['Peru', 'Mali', 'Fiji', 'xyz']
  )
  assert [scores[i].score for i in scores] == [1.0, 0.0, 0.0, 0.0]
  assert scores['Peru'].flags == () and scores['xyz'].flags == ('unparsed',)


def test_the_page_names_every_key_and_no_other():
  table = TASKS_MD[TASKS_MD.index('## Keys') : TASKS_MD.index('**Templates**')]
  first = [line.split('|')[1] for line in table.splitlines() if '|' in line]
  named = set(re.findall(r'`(\w+)`', ' '.join(first)))
  keys = {key for keys in grammar.KEYS.values() for key in keys}
  assert named == keys - {'task', 'num_fewshot', 'include_path'}


def test_the_examples_on_the_page_have_known_keys():
  examples = re.findall(r'```yaml\n(.*?)```', TASKS_MD, re.DOTALL)
  assert len(examples) == 5
  for example in examples:
    told = yaml.safe_load(example)
    assert set(told) <= set(grammar.KEYS[told['kind']])
    assert set(grammar.NEEDED[told['kind']]) <= set(told)
