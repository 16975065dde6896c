"""A language expert from base to report, on a small random Llama."""

import dataclasses
import json

import numpy as np
import pytest

from automerge_jax.io import checkpoints, safetensors, tokenizers
from automerge_jax.models import registry
from automerge_jax.tasks import (
  generation,
  language_experts,
  language_finetune,
  language_sources,
  sealed,
  splits,
)
from automerge_jax.tasks.language_finetune import Options
from configs import lm_suite
from experiments import finetune as entry
from experiments import finetune_language
from tests import tiny_gguf, tiny_language

TASK = generation.Task(
  'lm_arithmetic', 100, max_new_tokens=4, stop=('%',), delimiter=''
)
OPTIONS = Options(
  epochs=1, batch_size=8, learning_rate=1e-2, lengths=(104,), rank=2, alpha=4.0
)
SIZES = {'examples': 16, 'select': 6, 'heldout': 8}


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  """Base, expert and adapter folders, and the report."""
  root = tmp_path_factory.mktemp('experts')
  base = tiny_language.write(root / 'base')
  report = language_experts.make_expert(
    root / 'expert',
    base,
    TASK,
    OPTIONS,
    adapter=root / 'adapter',
    progress=False,
    **SIZES,
  )
  return base, root / 'expert', root / 'adapter', report


@pytest.fixture
def untrainable(monkeypatch):
  def fail(*arguments, **keywords):
    raise AssertionError('it trained')

  monkeypatch.setattr(language_finetune, 'train', fail)


def _files(folder):
  return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_expert_is_the_base_with_its_adapter(made):
  base, expert, adapter, report = made
  assert {path.name for path in adapter.iterdir()} == {
    'adapter_config.json',
    'adapter_model.safetensors',
    'train.json',
  }
  have = safetensors.read(expert)
  with checkpoints.open_checkpoint(f'{base}+{adapter}') as want:
    assert set(have) == set(want.names())
    for name in have:
      np.testing.assert_array_equal(have[name], want.get(name))
  changed = [
    n for n, t in safetensors.read(base).items() if (t != have[n]).any()
  ]
  assert len(changed) == 7 and all('layers.1.' in name for name in changed)
  assert registry.load(expert).family.name == 'llama'
  told = json.loads((expert / 'train.json').read_text())
  assert told == report == json.loads((adapter / 'train.json').read_text())
  for model in ('expert', 'base'):
    assert report[model]['select']['n'] == 6
    assert report[model]['heldout']['n'] == 8
  assert (
    report['expert']['select']['log_likelihood']
    > report['base']['select']['log_likelihood']
  )


def test_finished_expert_is_kept_and_other_settings_refused(made, untrainable):
  base, expert, adapter, report = made
  again = language_experts.make_expert(
    expert, base, TASK, OPTIONS, adapter=adapter, **SIZES
  )
  assert again == report
  other = dataclasses.replace(OPTIONS, learning_rate=0.5)
  with pytest.raises(ValueError, match=r'learning_rate: 0\.01, asked for 0\.5'):
    language_experts.make_expert(
      expert, base, TASK, other, adapter=adapter, **SIZES
    )


def test_adapter_made_before_is_taken(made, untrainable, tmp_path):
  base, expert, adapter, report = made
  taken = language_experts.make_expert(
    tmp_path / 'expert',
    base,
    TASK,
    OPTIONS,
    adapter=tmp_path / 'adapter',
    given=adapter,
    **SIZES,
  )
  assert taken == report
  assert _files(tmp_path / 'expert') == _files(expert)
  assert _files(tmp_path / 'adapter') == _files(adapter)


def test_adapter_of_other_settings_is_not_taken(made, untrainable, tmp_path):
  base, _, adapter, _ = made
  with pytest.raises(AssertionError, match='it trained'):
    language_experts.make_expert(
      tmp_path / 'expert',
      base,
      TASK,
      dataclasses.replace(OPTIONS, seed=1),
      adapter=tmp_path / 'adapter',
      given=adapter,
      progress=False,
      **SIZES,
    )


def test_run_killed_before_its_scores_does_not_train_again(
  made, untrainable, tmp_path
):
  base, expert, adapter, report = made
  begun = tmp_path / 'adapter'
  begun.mkdir()
  for name, content in _files(adapter).items():
    (begun / name).write_bytes(content)
  half = {k: report[k] for k in ('settings', 'environment')}
  (begun / 'train.json').write_text(json.dumps(half))
  (tmp_path / 'expert').mkdir()
  (tmp_path / 'expert' / 'model.safetensors').write_bytes(b'half of it')
  again = language_experts.make_expert(
    tmp_path / 'expert', base, TASK, OPTIONS, adapter=begun, **SIZES
  )
  assert again == report
  assert _files(tmp_path / 'expert') == _files(expert)


def test_examples_are_prompts_with_right_answers(made):
  tokenizer = tokenizers.load(made[0])
  items = splits.train_items('lm_arithmetic', 3)
  for item, (ids, start) in zip(
    items, language_experts.encode(tokenizer, TASK, items), strict=True
  ):
    assert tokenizer.decode(list(ids[start:])) == f'{item.answers[0]}%'
    assert list(ids[:start]) == tokenizer.encode(item.text).ids
  choice = sealed.select_items('lm_sarcasm', 1)
  task = language_sources.make_task('lm_sarcasm')
  ((ids, start),) = language_experts.encode(tokenizer, task, choice)
  want = choice[0].choices[choice[0].label]
  assert tokenizer.decode(list(ids[start:])) == want


def test_the_suite_from_a_gguf_file(tmp_path):
  (tmp_path / 'given').mkdir()
  tiny_gguf.write(tmp_path / 'given' / 'model.gguf')
  config = lm_suite.get_config('runlocal')
  config.base = str(tmp_path / 'given')
  config.tasks = {'lm_arithmetic': config.tasks.lm_arithmetic}
  config.tasks.lm_arithmetic.examples = 8
  config.train.lengths = (112,)
  reports = entry.run(config, tmp_path / 'run')
  assert {path.name for path in (tmp_path / 'run' / 'experts').iterdir()} == {
    'base',
    'lm_arithmetic',
  }
  told = tmp_path / 'run' / 'adapters' / 'lm_arithmetic' / 'train.json'
  assert json.loads(told.read_text()) == reports['lm_arithmetic']
  assert reports['lm_arithmetic']['settings']['learning_rate'] == 3e-3


def test_committed_adapters_are_those_of_the_config():
  """What a clone finds was made by what the config says now."""
  config = lm_suite.get_config()
  folder = finetune_language.resolve(config.adapters)
  for name, task in config.tasks.items():
    report = json.loads((folder / name / 'train.json').read_text())
    size = (folder / name / 'adapter_model.safetensors').stat().st_size
    assert size < 2_000_000
    wanted = language_experts.settings_of(
      report['settings']['base'],
      language_sources.make_task(name),
      splits.train_items(name, task.examples),
      finetune_language.options(config, name),
      examples=task.examples,
      select=task.select,
      heldout=task.heldout,
    )
    assert report['settings'] == wanted
    gain = [report[m]['heldout']['accuracy'] for m in ('expert', 'base')]
    assert gain[0] > gain[1] + 0.15
