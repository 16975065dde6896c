"""Plans before merging: resolved numbers, exact bytes, warnings, no writing."""

import json
import os
import pathlib
import re
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

from automerge_jax.io import safetensors as st_io
from automerge_jax.merging import checks, export, plan, registry, sources
from experiments import merge
from tests import tiny_models

PROJECT = pathlib.Path(__file__).parents[1]


def _plan(path):
  recipe, folders = export.read(path)
  with sources.opened(recipe, folders) as models:
    return plan.make(recipe, models.checkpoints)


def _warnings(path):
  recipe, folders = export.read(path)
  with sources.opened(recipe, folders) as models:
    found = plan.make(recipe, models.checkpoints)
    return checks.warnings(recipe, models, found)


def _edit_config(folder, **changes):
  path = folder / 'config.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# -- plans


def test_numbers_of_every_tensor(tmp_path):
  models = tiny_models.family(tmp_path)
  weights = [{'filter': 'mlp', 'value': [0, 1]}, {'value': 0.25}]
  listed = [
    {'model': 'e0', 'parameters': {'weight': weights, 'density': 0.5}},
    {'model': 'e1', 'parameters': {'weight': 2, 'density': [0.1, 0.3]}},
  ]
  path = tiny_models.recipe(tmp_path, 'ties', models=listed)
  found = {step.output.name: step.output for step in _plan(path).steps}
  assert set(found) == set(models['base'])
  up, query = 'mlp.up_proj.weight', 'self_attn.q_proj.weight'
  for layer in (0, 1):
    stated = found[f'model.layers.{layer}.{up}'].parameters
    assert stated['weight'] == (float(layer), 2.0)
    assert stated['density'] == pytest.approx((0.5, (0.1, 0.3)[layer]))
    stated = found[f'model.layers.{layer}.{query}'].parameters
    assert stated['weight'] == (0.25, 2.0)
  name = 'model.norm.weight'
  assert found[name].sources == (('e0', name), ('e1', name))
  assert found[name].base == ('base', name)
  assert found[name].layer is None
  lines = merge.dry_run(path).splitlines()
  assert lines[0] == 'ties (mergekit-0.1.5) of 3 models, base base'
  shown = next(line for line in lines if line.startswith('model.layers.1.mlp'))
  assert shown.startswith(f'model.layers.1.{up} [20, 8] float32: ties(')
  assert 'weight=[1, 2]' in shown
  assert 'density=[0.5, 0.3]' in shown
  tensors = [line for line in lines if re.match(r'\S+ \[[\d, ]*\] ', line)]
  assert [line.split()[0] for line in tensors] == list(found)


@pytest.mark.parametrize('method', ['task_arithmetic', 'linear', 'slerp'])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_bytes_are_exact(tmp_path, method, dtype):
  models = tiny_models.family(tmp_path, 1)
  for i, (name, tensors) in enumerate(models.items()):
    tensors['model.ids'] = np.arange(3) + i
    st_io.write(tmp_path / name, tensors)
  keys = {'out_dtype': dtype, 'parameters': {'weight': 1}}
  if method == 'slerp':
    keys = {'out_dtype': dtype, 'parameters': {'t': 0.5}}
  path = tiny_models.recipe(tmp_path, method, 1, **keys)
  found = _plan(path)
  floats = sum(t.size for n, t in models['base'].items() if n != 'model.ids')
  assert found.bytes_read == 4 * floats * 2 + 8 * 3
  width = np.dtype(dtype).itemsize
  assert found.bytes_written == width * floats + 8 * 3
  merge.run(path, tmp_path / 'out')
  written = tiny_models.read(tmp_path / 'out')
  assert found.bytes_written == sum(t.nbytes for t in written.values())


def test_memory_grows_with_the_largest_tensor_and_the_experts(tmp_path):
  costs = {}
  for count in (1, 3):
    folder = tmp_path / str(count)
    tiny_models.family(folder, count)
    keys = {'parameters': {'density': 0.5}}
    found = _plan(tiny_models.recipe(folder, 'ties', count, **keys))
    by_size = sorted(found.steps, key=lambda step: step.info.size)
    costs[count] = [plan.working_set(step) for step in by_size]
    assert costs[count] == sorted(costs[count])
    largest = by_size[-1].info.size
    # The stack, and one more of what is being selected from.
    assert costs[count][-1] >= 4 * (count + 1) * largest
  assert costs[3][-1] - costs[1][-1] >= 4 * 2 * largest


def test_copies_are_said(tmp_path):
  models = tiny_models.family(tmp_path)
  for name, tensors in models.items():
    st_io.write(tmp_path / name, tensors | {'model.ids': np.arange(3)})
  for method in ('task_arithmetic', 'linear'):
    keys = {'parameters': {'weight': 1}}
    lines = merge.dry_run(tiny_models.recipe(tmp_path, method, **keys))
    assert 'model.ids [3] int64: copied from base\n' in lines + '\n'


def test_other_names_and_layers_are_shown(tmp_path):
  tiny_models.family(tmp_path)
  stack = [
    {'sources': [{'model': 'e0', 'layer_range': [0, 2]}]},
    {'sources': [{'model': 'e1', 'layer_range': [0, 1]}]},
  ]
  keys = {'models': None, 'base_model': None, 'slices': stack}
  text = merge.dry_run(tiny_models.recipe(tmp_path, 'passthrough', **keys))
  where = text.index('model.layers.2.mlp.up_proj.weight [20, 8]')
  assert 'from e1: model.layers.0.mlp.up_proj.weight' in text[where:]


def test_nothing_is_written(tmp_path):
  tiny_models.family(tmp_path)
  path = tiny_models.recipe(tmp_path)

  def listing():
    found = sorted(p for p in tmp_path.rglob('*'))
    return [(p, p.stat().st_mtime_ns) for p in found]

  before = listing()
  text = merge.dry_run(path)
  assert listing() == before
  parameters = sum(t.size for t in tiny_models.base().values())
  assert f'9 tensors, {parameters:,} parameters' in text
  assert 'warning' not in text
  assert re.search(r'peak memory about [\d.]+ [MG]B', text)
  assert re.search(r'about \d+ s', text)


@pytest.mark.parametrize('method', ['fisher', 'regmean'])
def test_statistics_that_are_missing(tmp_path, method):
  tiny_models.family(tmp_path)
  path = tiny_models.recipe(tmp_path, method, parameters={'weight': 1})
  for attempt in (merge.dry_run, lambda p: merge.run(p, tmp_path / 'out')):
    with pytest.raises(
      ValueError, match=r'measure them with experiments\.stat'
    ):
      attempt(path)
  assert not (tmp_path / 'out').exists()


def test_what_mergekit_cannot_make_is_said(tmp_path):
  tiny_models.family(tmp_path)
  keys = {'parameters': {'density': 0.5}}
  text = merge.dry_run(tiny_models.recipe(tmp_path, 'della', **keys))
  assert 'mergekit 0.1.5 cannot make the same tensors:' in text
  assert 'masks of della are random' in text


DECLARED = [
  method
  for found in registry.METHODS.values()
  for method in found.values()
  if not method.statistics
]


@pytest.mark.parametrize(
  'declared', DECLARED, ids=lambda m: f'{m.name}-{m.semantics}'
)
def test_every_method_is_planned_and_merges(tmp_path, declared):
  models = tiny_models.family(tmp_path)
  method = declared.name
  count = min(declared.sources[1] or 2, 2)
  has_base = declared.stack != 'weights' or method == 'slerp'
  if method == 'slerp':
    count = 1
  stated = {p.name for p in declared.parameters}
  values = {'density': 0.5, 'weight': 0.5, 't': 0.4, 'scale': 0.9}
  document = {
    'base_model': 'base' if has_base else None,
    'models': [{'model': f'e{k}'} for k in range(count)],
    'parameters': {k: v for k, v in values.items() if k in stated},
    'semantics': 'paper' if declared.semantics == 'paper' else 'mergekit',
  }
  path = tiny_models.recipe(tmp_path, method, **document)
  text = merge.dry_run(path)
  assert text.startswith(f'{method} (')
  assert f'model.norm.weight [8] float32: {method}(' in text
  merge.run(path, tmp_path / 'out')
  merged = tiny_models.read(tmp_path / 'out')
  assert set(merged) == set(models['base'])
  assert any((merged[n] != t).any() for n, t in models['base'].items())
  again = tmp_path / 'again'
  merge.run(tmp_path / 'out' / 'recipe.yaml', again)
  tiny_models.assert_same(tiny_models.read(again), merged)


# -- warnings


def test_a_sound_family_has_no_warnings(tmp_path):
  tiny_models.family(tmp_path)
  assert _warnings(tiny_models.recipe(tmp_path)) == []


def test_unrelated_experts(tmp_path):
  models = tiny_models.family(tmp_path)
  st_io.write(tmp_path / 'e1', tiny_models.base(77))
  (warning,) = _warnings(tiny_models.recipe(tmp_path))
  assert warning.startswith('e1 does not look like a fine-tune of one base')
  stated = float(
    re.search(r'cosine of their weights is (-?[\d.]+)', warning)[1]
  )
  one, two = (
    np.concatenate([m[n].reshape(-1) for n in m if m[n].ndim > 1])
    for m in (models['base'], tiny_models.base(77))
  )
  cosine = one @ two / np.linalg.norm(one) / np.linalg.norm(two)
  assert stated == pytest.approx(cosine, abs=0.3)
  # Without a base, against each other.
  listed = [{'model': m, 'parameters': {'weight': 1}} for m in ('e0', 'e1')]
  keys = {'base_model': None, 'models': listed}
  (warning,) = _warnings(tiny_models.recipe(tmp_path, 'linear', **keys))
  assert warning.startswith('e0 does not look like a fine-tune of one base')


def test_an_expert_that_is_the_base(tmp_path):
  models = tiny_models.family(tmp_path)
  st_io.write(tmp_path / 'e1', models['base'])
  (warning,) = _warnings(tiny_models.recipe(tmp_path))
  assert warning == 'e1 and base are equal wherever they were looked at'


def test_configs_that_differ(tmp_path):
  tiny_models.family(tmp_path)
  _edit_config(tmp_path / 'e1', rope_theta=5e5, num_attention_heads=4)
  found = _warnings(tiny_models.recipe(tmp_path))
  assert len(found) == 2
  assert found[0].startswith('the configs differ in num_attention_heads')
  assert "'e1': 500000.0" in found[1]


def test_sizes_of_vocabularies(tmp_path):
  tiny_models.family(tmp_path)
  _edit_config(tmp_path / 'e0', vocab_size=tiny_models.ROWS + 4)
  (warning,) = _warnings(tiny_models.recipe(tmp_path))
  assert warning.startswith('the configs differ in vocab_size')
  assert "'e0': 16" in warning


def test_tied_heads(tmp_path):
  models = tiny_models.family(tmp_path)
  tied = {n: t for n, t in models['e0'].items() if n != 'lm_head.weight'}
  st_io.write(tmp_path / 'e0', tied)
  _edit_config(tmp_path / 'e1', tie_word_embeddings=True)
  found = _warnings(tiny_models.recipe(tmp_path))
  assert len(found) == 2
  assert "['e0'] tie lm_head.weight and do not store it" in found[0]
  assert 'e1 ties its word embeddings but stores lm_head.weight' in found[1]
  step = next(
    s
    for s in _plan(tmp_path / 'recipe.yaml').steps
    if s.output.name == 'lm_head.weight'
  )
  assert step.output.sources[0] == ('e0', 'model.embed_tokens.weight')


def test_all_heads_tied_is_no_matter(tmp_path):
  base = tiny_models.base(head=False)
  config = {'tie_word_embeddings': True}
  for k, model in enumerate(('base', 'e0', 'e1')):
    tensors = tiny_models.tuned(base, k)
    tiny_models.write(tmp_path / model, tensors, config)
  path = tiny_models.recipe(tmp_path)
  assert _warnings(path) == []
  merge.run(path, tmp_path / 'out')
  merged = tiny_models.read(tmp_path / 'out')
  assert 'lm_head.weight' not in merged  # stored once
  written = json.loads((tmp_path / 'out' / 'config.json').read_text())
  assert written['tie_word_embeddings'] is True


def test_types_of_numbers(tmp_path):
  models = tiny_models.family(tmp_path)
  half = {n: t.astype(ml_dtypes.bfloat16) for n, t in models['e0'].items()}
  st_io.write(tmp_path / 'e0', half)
  (warning,) = _warnings(tiny_models.recipe(tmp_path))
  assert warning.startswith('the models have different types of numbers')
  assert "'e0': ['bfloat16']" in warning
  found = _warnings(tiny_models.recipe(tmp_path, out_dtype='bfloat16'))
  assert '9 tensors are rounded to bfloat16' in found[1]


def test_tokens_that_no_model_has(tmp_path):
  tiny_models.family(tmp_path)
  for model in ('base', 'e0', 'e1'):
    words = [*tiny_models.WORDS, 'more']  # one beyond the rows of all
    (tmp_path / model / 'tokenizer.json').write_text(
      tiny_models.tokenizer(words)
    )
  path = tiny_models.recipe(tmp_path, tokenizer_source='union')
  found = _warnings(path)
  assert any('1 tokens have an embedding in no model' in w for w in found), (
    found
  )
  assert any("'more'" in w for w in found)


def test_what_a_recipe_says_in_vain(tmp_path):
  tiny_models.family(tmp_path)
  path = tiny_models.recipe(tmp_path, parameters={'int8_mask': True})
  (warning,) = _warnings(path)
  assert 'int8_mask' in warning
  assert f'warning: {warning}' in merge.dry_run(path)


# -- the command


def _command(*flags):
  return subprocess.run(
    [sys.executable, '-m', 'experiments.merge', *flags],
    cwd=PROJECT,
    capture_output=True,
    text=True,
    check=False,
    timeout=120,
    env=os.environ | {'JAX_PLATFORMS': 'cpu'},
  )


def test_a_slip_in_the_recipe_is_named_with_its_line(tmp_path):
  tiny_models.family(tmp_path)
  path = tiny_models.recipe(tmp_path)
  lines = path.read_text().splitlines()
  lines.insert(2, ' "paramaters": {"normalize": true},')
  path.write_text('\n'.join(lines))
  done = _command(f'--recipe={path}', f'--out={tmp_path / "out"}')
  assert done.returncode == 1
  assert 'Traceback' not in done.stderr
  assert f'merge: {path}:3: ' in done.stderr
  assert "'paramaters'" in done.stderr
  assert "did you mean 'parameters'" in done.stderr
  assert not (tmp_path / 'out').exists()


def test_the_command_merges_and_plans(tmp_path):
  tiny_models.family(tmp_path)
  path = tiny_models.recipe(tmp_path, parameters={'int8_mask': True})
  done = _command(f'--recipe={path}', '--dry_run')
  assert done.returncode == 0, done.stderr
  assert done.stdout.startswith('task_arithmetic (mergekit-0.1.5) of 3 models')
  assert not (tmp_path / 'out').exists()
  out = tmp_path / 'out'
  done = _command(f'--recipe={path}', f'--out={out}', '--max_shard_size=600B')
  assert done.returncode == 0, done.stderr
  assert done.stdout == f'Merged model: {out}\n'
  assert 'warning: ' in done.stderr and 'int8_mask' in done.stderr
  merge.run(path, tmp_path / 'same')
  tiny_models.assert_same(
    tiny_models.read(out), tiny_models.read(tmp_path / 'same')
  )
