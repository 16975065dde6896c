"""Tasks of lm_eval as items: splits, prompts without leaks, judged answers."""

import json
import pathlib
import sys

import pytest

from automerge_jax.tasks import (
  choice,
  definitions,
  division,
  harness,
  harness_docs,
  perplexity,
  sealed,
  splits,
)
from automerge_jax.tasks.prompts import Chat
from tests import tiny_harness

GOLDEN = pathlib.Path(__file__).parent / 'testdata'
GOLDEN /= 'harness_lm_eval_0.4.13.json'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return tiny_harness.write(tmp_path_factory.mktemp('harness'))


def _wanted(folder, task, **options):
  return harness_docs.Wanted(task, include_path=str(folder), **options)


def _theirs(task):
  return json.loads(GOLDEN.read_text())['samples'][task]


def test_choices_are_asked_as_lm_eval_asks_them(folder):
  made = harness.read(_wanted(folder, 'tiny_choice', num_fewshot=2))
  assert made.task == choice.Task('tiny_choice-2shot', 1024, 'acc')
  parts = division.divide(made)
  sizes = {split: len(items) for split, items in parts.items()}
  assert sizes == {'train': 24, 'search': 7, 'select': 5, 'heldout': 10}
  ours = {(item.text, *item.choices): item.label for item in parts['heldout']}
  theirs = {
    (row['arguments'][0][0], *(choice for _, choice in row['arguments'])): row
    for row in _theirs('tiny_choice')
  }
  assert set(ours) == set(theirs)
  for key, row in theirs.items():
    nats = [resp[0] for resp in row['filtered_resps']]
    assert row['acc'] == float(max(nats) == nats[ours[key]])


def test_examples_in_front_are_no_items(folder):
  made = harness.read(_wanted(folder, 'tiny_generation', num_fewshot=2))
  parts = division.divide(made)
  train = {item.text.split('\n\n')[-1] for item in parts['train']}
  for split in ('train', 'search', 'select'):
    for item in parts[split]:
      *shown, asked = item.text.split('\n\n')
      assert len(shown) == 2
      assert asked not in {text.rsplit(' ', 1)[0] for text in shown}
      assert {text.rsplit(' ', 1)[0] for text in shown} <= train
  # What the publisher holds out is asked with lm_eval's very own prompts.
  assert {item.text for item in parts['heldout']} == {
    row['arguments'][0][0] for row in _theirs('tiny_generation')
  }


def test_texts_are_judged_by_lm_eval(folder):
  wanted = _wanted(folder, 'tiny_generation', num_fewshot=2)
  made = harness.read(wanted)
  task = made.task
  assert (task.stop, task.max_new_tokens) == (('\n', 'BB'), 8)
  items = division.divide(made)['heldout']
  theirs = {r['arguments'][0][0]: r for r in _theirs('tiny_generation')}
  for item in items:
    row = theirs[item.text]
    reading = task.read(row['resps'][0][0], item)
    assert reading.right == row['exact_match']
    assert reading.answer == row['filtered_resps'][0]
  assert {r['exact_match'] for r in theirs.values()} == {0.0, 1.0}
  assert task.read('`abc`', items[0]).answer is None  # `[invalid]`
  right = f'a`{items[0].answers[0]}&!F'
  assert task.read(right, items[0]) == (items[0].answers[0], 1.0)


def test_perplexity_of_test_documents_must_be_forced(folder):
  wanted = _wanted(folder, 'tiny_perplexity')
  with pytest.raises(ValueError, match='has test documents only'):
    harness.read(wanted)
  made = harness.read(wanted, force_test_split=True)
  assert made.task == perplexity.Task('tiny_perplexity', 1024, 'word')
  (item, *_) = made.source.train
  row = tiny_harness.rows('test', 1)[0]
  assert item.choices == (f'{row["question"]} {row["answer"]}',)


def test_likelihood_of_a_target(folder, tmp_path):
  text = (folder / 'tiny_choice.yaml').read_text()
  head, metrics = text.split('doc_to_choice')
  head = head.replace('multiple_choice', 'loglikelihood')
  del metrics
  (tmp_path / 'c.yaml').write_text(
    head.replace('tiny_choice', 'last_word')
    + 'doc_to_target: " {{answer}}"\nmetric_list:\n  - metric: perplexity\n'
    '  - {metric: acc, aggregation: mean, higher_is_better: true}\n'
  )
  made = harness.read(harness_docs.Wanted(str(tmp_path / 'c.yaml')))
  assert made.task == perplexity.Task('last_word', 1024, 'token')
  row = tiny_harness.rows('test', 1)[0]
  first = made.source.test[0]
  assert first.text == f'Q: {row["question"]}\nA:'
  assert first.choices == (f' {row["answer"]}',)


def test_validation_documents_alone_are_cut(folder, tmp_path):
  text = (folder / 'tiny_choice.yaml').read_text()
  text = text.replace('task: tiny_choice', 'task: only')
  for split in ('training', 'test'):
    name = split.removesuffix('ing')
    text = text.replace(f'{split}_split: {name}\n', '')
  (tmp_path / 'only.yaml').write_text(text)
  made = harness.read(_wanted(tmp_path, 'only', num_fewshot=1))
  parts = division.divide(made)
  sizes = {split: len(items) for split, items in parts.items()}
  assert sizes == {'train': 6, 'search': 2, 'select': 2, 'heldout': 2}
  train = {i.text.split('\n\n')[-1]: i for i in parts['train']}
  for split in ('search', 'select', 'heldout'):
    for item in parts[split]:
      shown, _ = item.text.split('\n\n')
      example = train[shown[: shown.index('A:') + 2]]
      assert shown.endswith(example.choices[example.label])


def test_chats_keep_turns_until_a_model_is_known(folder):
  wanted = _wanted(
    folder,
    'tiny_choice',
    num_fewshot=1,
    chat_template=True,
    system_prompt='Be brief.',
  )
  made = harness.read(wanted)
  item = division.divide(made)['search'][0]
  assert item.text.startswith('Q: ') and item.text.endswith('A:')
  assert not item.choices[0].startswith(' ')
  talk = made.prompts[item.id]
  assert isinstance(talk, Chat) and not talk.opened
  assert [role for role, _ in talk.messages] == [
    'system',
    'user',
    'assistant',
    'user',
  ]
  assert talk.messages[0][1] == 'Be brief.'
  assert talk.messages[-1][1] == item.text


def test_by_yaml_and_by_reference(folder, tmp_path):
  path = tmp_path / 'mine.yaml'
  path.write_text(
    'name: mine\nkind: lm_eval\ntask: tiny_choice\nnum_fewshot: 2\n'
    f'include_path: {folder}\nmetric: acc_norm\nmax_tokens: 99\n'
    'split: {seed: 5, shares: {train: 0, search: 1, select: 1, heldout: 1}}\n'
  )
  made = definitions.read(path)
  assert made.task == choice.Task('mine', 99, 'acc_norm')
  assert len(splits.search_items(str(path), 6)) == 6
  assert len(sealed.heldout_items(str(path), 10)) == 10
  tokens = tmp_path / 'tokens.yaml'
  tokens.write_text(path.read_text().replace('acc_norm', 'acc_tokens'))
  made = definitions.read(tokens)
  assert made.task == choice.Task('mine', 99, 'acc_tokens')
  made = definitions.read(f'lm_eval:{folder / "tiny_choice.yaml"}:1')
  assert made.task.name == 'tiny_choice-1shot'
  assert len(made.fingerprint) == 64
  path.write_text(path.read_text().replace('acc_norm', 'f2'))
  other = path.rename(tmp_path / 'other.yaml')
  with pytest.raises(ValueError) as caught:
    definitions.read(other)
  assert f"{other}:3: task: the task 'tiny_choice' has no metric 'f2'" in str(
    caught.value
  )


def test_unknown_names(folder, monkeypatch):
  # Listing lm_eval's own tasks takes seconds; those of the folder will do.
  listing = harness_docs._manager
  monkeypatch.setattr(
    harness_docs, '_manager', lambda path, _: listing(path, False)
  )
  with pytest.raises(
    ValueError, match="no task 'tiny_choise' among its 3; did"
  ):
    harness.read(_wanted(folder, 'tiny_choise'))


@pytest.mark.parametrize(
  'options, message',
  [
    ({'metric': 'f1'}, "has no metric 'f1'; it has"),
    ({'num_fewshot': 20}, 'documents that they may come from'),
  ],
)
def test_what_is_refused(folder, options, message):
  with pytest.raises(ValueError, match=message):
    harness.read(_wanted(folder, 'tiny_generation', **options))


@pytest.mark.parametrize(
  'change, message',
  [
    (('task: tiny_choice', 'task: c\nunsafe_code: true'), 'generated code'),
    (('task: tiny_choice', 'task: c\nrepeats: 3'), 'asks each document 3'),
    (('task: tiny_choice', 'task: c\nnum_fewshot: 0'), 'takes no examples'),
    (
      ('{{gold}}', "{{9 if 'three' in question else gold}}"),
      'has the answer 9; expected one of its 3',
    ),
    (('train.jsonl', 'nowhere.jsonl'), 'cannot load the task'),
    (
      ('doc_to_text: "Q: {{question}}\\nA:"', 'doc_to_text: "{{gold}}"'),
      'prompts that differ between the choices',
    ),
    (('multiple_choice', 'loglikelihood'), r"metrics \['acc', 'acc_norm'\]"),
  ],
)
def test_tasks_that_have_no_equal_here(folder, tmp_path, change, message):
  text = (folder / 'tiny_choice.yaml').read_text()
  assert change[0] in text
  (tmp_path / 'c.yaml').write_text(text.replace(*change))
  wanted = harness_docs.Wanted(str(tmp_path / 'c.yaml'), num_fewshot=1)
  with pytest.raises(ValueError, match=message):
    harness.read(wanted)


def test_groups_are_no_task(folder, tmp_path):
  for task in ('tiny_choice', 'tiny_generation'):
    text = (folder / f'{task}.yaml').read_text()
    (tmp_path / f'{task}.yaml').write_text(text)
  (tmp_path / 'both.yaml').write_text(
    'group: both\ntask: [tiny_choice, tiny_generation]\n'
  )
  with pytest.raises(ValueError, match="'both' stands for several tasks"):
    harness.read(_wanted(tmp_path, 'both'))


def test_references():
  assert harness.reference('lm_eval:arc_easy') == harness_docs.Wanted(
    'arc_easy'
  )
  assert harness.reference('lm_eval:a/b.yaml:5') == harness_docs.Wanted(
    'a/b.yaml', 5
  )
  with pytest.raises(ValueError, match='expected lm_eval:TASK'):
    harness.reference('lm_eval:arc_easy:five')


def test_without_lm_eval(monkeypatch, tmp_path):
  monkeypatch.setitem(sys.modules, 'lm_eval.tasks', None)
  with pytest.raises(ImportError, match=r'automerge_jax\[lm_eval\]'):
    harness.read(harness_docs.Wanted('x', include_path=str(tmp_path)))
