"""A mergekit-evolve file is a search: the whole way, and what is refused."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import yaml

from automerge_jax import delivery, pipeline
from automerge_jax.io import lora, safetensors
from automerge_jax.merging import export, resident, streaming
from automerge_jax.models import base as models
from automerge_jax.recipes import evolve, genotype
from automerge_jax.search import job as jobs
from automerge_jax.search import shared, space
from automerge_jax.search.ledger import Ledger
from configs import own_models
from experiments import evolution
from tests import tiny_decoder, tiny_harness, tiny_own, tiny_text

SMALL = {
  'rungs': (4, 8),
  'promote': (2,),
  'population': 4,
  'candidates': 12,
  'gradient_steps': 0,
  'minibatches': 2,
  'finalists': 2,
  'select': 6,
  'heldout': 8,
  'weights': (0.5,),
  'ties_scales': (),
  'ties_densities': (),
}
FILE = {
  'genome': {
    'models': ['one', 'two'],
    'merge_method': 'task_arithmetic',
    'base_model': 'base',
    'layer_granularity': 3,
    'allow_negative_weights': True,
    'filters': ['self_attn', 'mlp'],
    'tokenizer_source': 'union',
  },
  'tasks': [{'name': 'answer', 'weight': 2.0}, 'text'],
  'limit': 8,
}
SLERP = {'models': ['one', 'two', 'base'], 'merge_method': 'slerp'}
GENOMES = {
  'negative weights and filters': FILE['genome'],
  'slerp, no base': SLERP | {'layer_granularity': 1},
  'smooth ties': {
    'models': ['one', 'base', 'two'],
    'merge_method': 'ties',
    'base_model': 'base',
    'smooth': True,
    'layer_granularity': 1,
    'normalize': False,
  },
  'linear, the base too': {
    'models': ['base', 'one'],
    'merge_method': 'linear',
    'base_model': 'base',
    'filters': ['mlp'],
  },
  'dare_ties': {
    'models': ['one', 'two'],
    'merge_method': 'dare_ties',
    'base_model': 'base',
  },
}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  made = tiny_own.write(tmp_path_factory.mktemp('evolve'))
  return made


def _config(**changes):
  config = own_models.get_config()
  config.search.update(SMALL | changes)
  config.lock()  # as the command line's is
  return config


def _settings(folder, file, workdir=None, config=None, stated=(), name='f.yml'):
  """Settings and what was told."""
  path = folder / name
  path.write_text(yaml.safe_dump(file))
  told = []
  made = evolution.settings(
    path,
    config or _config(),
    workdir or folder / 'out',
    tell=told.append,
    stated=stated,
  )
  return made, told


def _compare(settings, job, found, c):
  """The plan's merge, as it is scored, against the recipe's."""
  stack = shared.build(
    job.method,
    job.family,
    job.tensors('base'),
    [job.tensors(name) for name in job.experts],
  )
  assert stack.below is None
  c = np.asarray(c, np.float32)
  params = resident.merge(job.method, jax.jit(found.decode)(c), stack)
  scored = models.unpack(job.family.keys, params)
  streamed = streaming.merge(found.describe(c), job.folders)
  assert set(streamed) == set(scored)
  for name, value in streamed.items():
    most = np.abs(value).max()
    np.testing.assert_allclose(scored[name], value, rtol=0, atol=1e-6 * most)
  return streamed


@pytest.mark.parametrize('case', list(GENOMES))
def test_what_is_scored_is_what_the_recipe_merges(case, folder):
  settings, _ = _settings(folder, FILE | {'genome': GENOMES[case]})
  job = jobs.load(settings)
  found = space.build(settings, job.family, job.experts, 'base')
  x = np.random.default_rng(0).random(len(found.names), np.float32)
  merged = _compare(settings, job, found, np.asarray(found.quantise(x)))
  for name in job.folders:
    tensors = job.tensors(name)
    assert all((merged[n] != tensors[n]).any() for n in merged)


def test_an_adapter_is_an_expert(folder):
  adapter = folder / 'adapter'
  adapter.mkdir()
  rng = np.random.default_rng(9)
  name = f'{lora.PREFIX}model.layers.1.mlp.up_proj'
  rows, columns = tiny_decoder.tensors()[
    'model.layers.1.mlp.up_proj.weight'
  ].shape
  pair = {'A': (2, columns), 'B': (rows, 2)}
  safetensors.write(
    adapter,
    {
      f'{name}.lora_{side}.weight': rng.normal(size=shape).astype(np.float32)
      for side, shape in pair.items()
    },
    lora.WEIGHTS,
  )
  told = {'peft_type': 'LORA', 'r': 2, 'lora_alpha': 2, 'bias': 'none'}
  told |= {'fan_in_fan_out': False, 'base_model_name_or_path': 'base'}
  (adapter / lora.CONFIG).write_text(json.dumps(told))
  genome = {'models': ['base+adapter', 'one'], 'merge_method': 'linear'}
  file = FILE | {'genome': genome | {'base_model': 'base'}}
  settings, _ = _settings(folder, file)
  assert list(settings.experts) == ['adapter', 'one']
  job = jobs.load(settings)
  found = space.build(settings, job.family, job.experts, 'base')
  merged = _compare(settings, job, found, np.float32([1.0, 0.0]))
  base = tiny_decoder.tensors()
  changed = [n for n, value in merged.items() if (value != base[n]).any()]
  assert changed == ['model.layers.1.mlp.up_proj.weight']
  file['genome']['base_model'] = 'base+adapter'
  with pytest.raises(
    ValueError, match=r"'base\+adapter' has an adapter; a base"
  ):
    _settings(folder, file)


def test_gradients_pass_through_slerp(folder):
  settings, _ = _settings(folder, FILE | {'genome': SLERP})
  job = jobs.load(settings)
  found = space.build(settings, job.family, job.experts, 'base')

  def ts(c):
    return sum(of_leaf['t'].sum() for of_leaf in found.decode(c).values())

  slope = np.asarray(jax.grad(ts)(np.float32([2.0, 1.0, 0.0])))
  assert slope[0] < 0 < slope[1] and slope[2] == 0


@pytest.mark.parametrize('case', ['task_arithmetic', 'slerp'])
def test_a_whole_search(case, folder, tmp_path):
  one = {'genome': SLERP, 'tasks': ['answer'], 'limit': 6}
  file = {'task_arithmetic': FILE, 'slerp': one}[case]
  config = _config()
  if case == 'slerp':
    config = _config(rungs=(4,), promote=(), candidates=11)
  settings, _ = _settings(folder, file, tmp_path, config)
  assert settings.rungs == {'task_arithmetic': (4, 8), 'slerp': (6,)}[case]
  summary = pipeline.run(settings, tmp_path, 'command')
  assert summary['search']['failures'] == 0
  assert summary['objective'] == 'accuracy'
  assert set(summary['metrics'].values()) <= {'acc', 'inverse_perplexity'}
  job = jobs.load(settings)
  found = space.build(settings, job.family, job.experts, 'base')
  with Ledger(tmp_path / 'ledger.sqlite') as ledger:
    rows = [row for g in range(9) for row in ledger.proposals(g)]
  origins = {row.origin for row in rows}
  if case == 'slerp':
    assert 'pair:one+base-expert' in origins and 'search' in origins
  else:
    assert {'expert:one', 'expert:two', 'uniform', 'search'} <= origins
  # The score of the chosen candidate is that of the exported tensors.
  chosen = summary['models']['merged']['recipe_hash']
  scored = [row.coefficients for row in rows if row.recipe == chosen]
  wanted = safetensors.read(tmp_path / delivery.EXPORTED)
  for c in scored[:1]:
    for name, value in _compare(settings, job, found, c).items():
      np.testing.assert_array_equal(wanted[name], value)
  recipe, folders = export.read(tmp_path / delivery.EXPORTED / export.RECIPE)
  assert recipe.merge_method == case
  for name, value in streaming.merge(recipe, folders).items():
    np.testing.assert_array_equal(wanted[name], value)


@pytest.fixture(scope='module')
def harness(tmp_path_factory):
  """Models, and tasks of lm_eval, in one folder."""
  made = tiny_own.write(tmp_path_factory.mktemp('harness'))
  for name in ('answer', 'text', 'write', 'outside'):
    (made / f'{name}.yaml').unlink()
  tiny_harness.write(made, (('train', 60), ('validation', 40), ('test', 20)))
  return made


def test_tasks_of_lm_eval_keep_their_metrics(harness, tmp_path):
  tasks = [
    {'name': 'tiny_choice', 'metric': 'acc_norm,none', 'weight': 0.5},
    {'name': 'tiny_generation', 'metric': 'exact_match,letter'},
  ]
  file = FILE | {'tasks': tasks, 'num_fewshot': 2}
  settings, told = _settings(harness, file, tmp_path)
  job = jobs.load(settings)
  choice, generation = job.tasks
  assert (choice.name, choice.metric) == ('tiny_choice', 'acc_norm')
  assert (
    choice.max_tokens == tiny_decoder.CONFIG['max_position_embeddings']
  )  # what the model takes
  assert (generation.measure, generation.chain) == ('exact_match', 'letter')
  assert generation.max_tokens == choice.max_tokens - 8
  assert settings.task_weights == {'tiny_choice': 0.5, 'tiny_generation': 1.0}
  shown = next(iter(job.definitions['tiny_choice'].prompts.values()))
  assert shown.count('Q: ') == 3  # two examples and the question
  assert sum('has no chat template' in line for line in told) == 2
  again, _ = _settings(harness, file, tmp_path)
  assert again == settings


def test_a_chat_template_comes_around_prompts(harness, tmp_path):
  template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}"
  config = json.loads((harness / 'base' / 'tokenizer_config.json').read_text())
  named = config | {'chat_template': template + '{% endfor %}'}
  models_of = {}
  for name in ('base', 'one', 'two'):
    models_of[name] = tmp_path / 'models' / name
    models_of[name].parent.mkdir(exist_ok=True)
    models_of[name].mkdir()
    for file in (harness / name).iterdir():
      (models_of[name] / file.name).symlink_to(file)
    (models_of[name] / 'tokenizer_config.json').unlink()
    text = json.dumps(named)
    (models_of[name] / 'tokenizer_config.json').write_text(text)
  genome = FILE['genome'] | {
    'models': [str(models_of['one']), str(models_of['two'])],
    'base_model': str(models_of['base']),
  }
  file = FILE | {'genome': genome, 'tasks': ['tiny_choice']}
  file |= {'num_fewshot': 1, 'fewshot_as_multiturn': False}
  settings, told = _settings(harness, file, tmp_path)
  assert any(line.startswith('fewshot_as_multiturn') for line in told)
  (task,) = settings.tasks
  assert yaml.safe_load(open(task))['chat_template'] is True
  prompts = jobs.load(settings).definitions['tiny_choice'].prompts
  assert {len(chat.messages) for chat in prompts.values()} == {3}


def test_perplexity_is_turned_to_more_is_better(harness, tmp_path):
  task = {'name': 'tiny_perplexity', 'metric': 'word_perplexity,none'}
  config = _config(force_test_split=True)
  file = FILE | {'tasks': [task | {'weight': -2.0}]}
  settings, told = _settings(harness, file, tmp_path, config)
  assert settings.task_weights == {'tiny_perplexity': 2.0}
  assert any('inverse_perplexity a word' in line for line in told)
  with pytest.raises(ValueError, match='less is better; give it a negative'):
    _settings(harness, FILE | {'tasks': [task]}, tmp_path, config)


WRONG = [
  ({'tasks': [{'name': 'tiny_choice', 'metric': 'f1,none'}]}, 'no metric .f1'),
  (
    {'tasks': [{'name': 'tiny_choice', 'metric': 'acc,strict'}]},
    "filter 'strict' is for generated texts only",
  ),
  ({'tasks': [{'name': 'tiny_generation'}]}, "no metric 'acc'; it has .'exact"),
  (
    {'tasks': ['tiny_choice', {'name': 'tiny_choice', 'weight': 2}]},
    "the task 'tiny_choice' stands twice",
  ),
  ({'tasks': [{'name': 'tiny_choice', 'weight': 0}]}, 'weight 0; expected > 0'),
  ({'limit': 0}, 'limit is 0; expected 1 or more'),
]


@pytest.mark.parametrize(('changes', 'message'), WRONG)
def test_wrong_tasks_are_named(changes, message, harness, tmp_path):
  file = FILE | {'tasks': ['tiny_choice']} | changes
  with pytest.raises(ValueError, match=message):
    _settings(harness, file, tmp_path)


def test_a_task_file_measures_its_own_metric(folder):
  metric = {'name': 'write', 'metric': 'exact_match,none'}
  settings, told = _settings(folder, FILE | {'tasks': [metric, 'text']})
  assert settings.task_weights == {'write': 1.0, 'text': 1.0}
  assert 'text measures inverse_perplexity, not acc,none' in told
  assert settings.objectives == ('mean:accuracy',)
  wrong = FILE | {'tasks': [{'name': 'answer', 'metric': 'acc_norm,none'}]}
  with pytest.raises(ValueError, match='measures acc, not acc_norm,none'):
    _settings(folder, wrong)


MODELS = [
  ({'models': ['one', 'org/model']}, FileNotFoundError, 'hf download org/mod'),
  ({'models': ['one@main', 'two']}, ValueError, "'one@main' with a revision"),
  ({'models': ['one', './one']}, ValueError, "'one', './one'. are one model"),
  ({'models': ['base']}, ValueError, 'the only model is the base; add another'),
  ({'tokenizer_source': 'x'}, ValueError, "is 'x'; expected base, union or"),
]


@pytest.mark.parametrize(('changes', 'error', 'message'), MODELS)
def test_wrong_models_are_named(changes, error, message, folder):
  file = FILE | {'genome': FILE['genome'] | changes}
  with pytest.raises(error, match=message):
    _settings(folder, file)


def test_other_vocabularies_are_refused(folder, tmp_path):
  other = tiny_text.write(tmp_path / 'other', begins=True)
  text = (other / 'tokenizer.json').read_text()
  assert '"Ġyes":' in text
  (other / 'tokenizer.json').write_text(text.replace('"Ġyes":', '"Ġyet":'))
  genome = FILE['genome'] | {'models': ['one', str(other)]}
  with pytest.raises(ValueError, match=r'vocabularies of .* differ, in .*Ġye'):
    _settings(folder, FILE | {'genome': genome})


def test_models_are_called_by_their_folders(folder, tmp_path, monkeypatch):
  (tmp_path / 'two').symlink_to(folder / 'two')
  genome = SLERP | {'models': ['two', 'base']}
  made, told = _settings(folder, FILE | {'genome': genome})
  assert made.base == folder / 'two'
  assert list(made.experts) == ['two', 'base-expert']
  assert any(line.startswith('there is no base_model: two') for line in told)
  # Where the file's folder has no such model, the working directory may.
  monkeypatch.chdir(tmp_path)
  apart = tmp_path / 'apart'
  apart.mkdir()
  (apart / 'answer.yaml').write_text(
    (folder / 'answer.yaml')
    .read_text()
    .replace('data.jsonl', str(folder / 'data.jsonl'))
  )
  genome = SLERP | {'models': ['two', str(folder / 'one')]}
  file = {'genome': genome, 'tasks': ['answer']}
  made, _ = _settings(apart, file, tmp_path / 'out')
  assert made.experts['two'].resolve() == (folder / 'two').resolve()


@pytest.mark.parametrize(
  ('changes', 'stated', 'message'),
  [
    ({'method': 'ties'}, (), "says search.method = 'ties', and .*f.yml deci"),
    ({}, ('search.method',), 'search.method = .task_arithmetic'),
    ({'task_weights': {'answer': 1.0}}, (), 'says search.task_weights = '),
  ],
)
def test_what_both_say_is_refused(changes, stated, message, folder):
  with pytest.raises(ValueError, match=message):
    _settings(folder, FILE, config=_config(**changes), stated=stated)
  config = _config()
  config.base = 'elsewhere'
  with pytest.raises(ValueError, match=r"says base = 'elsewhere', and .* too"):
    _settings(folder, FILE, config=config)


@pytest.mark.parametrize(
  ('limit', 'rungs', 'promote'),
  [
    (50, (12, 50), (3,)),
    (100, (25, 100), (3,)),
    (1, (1,), ()),
    (2, (1, 2), (3,)),
  ],
)
def test_a_limit_scales_the_rungs(limit, rungs, promote, folder):
  config = _config(rungs=(25, 100), promote=(3,))
  made, _ = _settings(folder, FILE | {'limit': limit}, config=config)
  assert (made.rungs, made.promote) == (rungs, promote)


def test_a_random_start_takes_the_place_of_designs(folder):
  file = FILE | {'random_init': True, 'shuffle': True}
  made, told = _settings(folder, file)
  assert any(line.startswith('shuffle: ') for line in told)
  job = jobs.load(made)

  def starts(seed):
    one = dataclasses.replace(made, seed=seed)
    return space.build(one, job.family, job.experts, 'base').starts

  (first,), (again,), (other,) = starts(0), starts(0), starts(1)
  assert first[0] == 'random'
  np.testing.assert_array_equal(first[1], again[1])
  assert (first[1] != other[1]).mean() > 0.9


PUBLISHED = """\
genome:
  models:
    - maths-7b
    - chat-7b
    - code-7b
  merge_method: dare_ties
  base_model: base-7b
  tokenizer_source: base
  layer_granularity: 8
  normalize: true
  allow_negative_weights: false
  smooth: false
  filters:
    - self_attn
    - mlp
tasks:
  - name: arc_challenge
    weight: 1.0
    metric: "acc_norm,none"
  - name: gsm8k
    weight: 0.5
    metric: "exact_match,strict-match"
limit: 1000
num_fewshot: 5
shuffle: true
random_init: false
apply_chat_template: false
"""


def test_a_file_as_people_write_them_is_read():
  evolution = evolve.from_yaml(PUBLISHED)
  assert genotype.shape(evolution.genome, 32) == (4, 3, 3, 2)
  assert [task.metric for task in evolution.tasks] == [
    'acc_norm,none',
    'exact_match,strict-match',
  ]
  assert evolution.tasks[1].weight == 0.5 and evolution.limit == 1000
