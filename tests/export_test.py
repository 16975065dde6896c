"""The whole command: what a merge's folder holds, and what faults leave."""

import errno
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import ml_dtypes
import numpy as np
import pytest
import yaml

from automerge_jax import recipe as recipes
from automerge_jax.io import checkpoints, gguf, lora, lora_extraction, orbax
from automerge_jax.io import safetensors as st_io
from automerge_jax.merging import export
from experiments import merge
from tests import tiny_gguf, tiny_models

PROJECT = pathlib.Path(__file__).parents[1]


@pytest.fixture
def models(tmp_path):
  return tiny_models.family(tmp_path)


def _weights(folder):
  return {p.name: p.read_bytes() for p in folder.glob('*.safetensors*')}


def _run(path, name='out', **options):
  out = path.parent / name
  merge.run(path, out, **options)
  return out


def _adapter(folder, tensors, seed):
  """A LoRA adapter of rank 2 for the first projection."""
  draw = np.random.default_rng(seed)
  module = 'model.layers.0.self_attn.q_proj'
  shape = tensors[f'{module}.weight'].shape
  factors = {
    f'{lora.PREFIX}{module}.lora_A.weight': draw.normal(size=(2, shape[1])),
    f'{lora.PREFIX}{module}.lora_B.weight': draw.normal(size=(shape[0], 2)),
  }
  held = {name: factor.astype(np.float32) for name, factor in factors.items()}
  st_io.write(folder, held, lora.WEIGHTS)
  config = {'peft_type': 'LORA', 'r': 2, 'lora_alpha': 2}
  (folder / lora.CONFIG).write_text(json.dumps(config))
  return factors


# -- what the folder holds


def test_what_comes_along(tmp_path, models):
  (tmp_path / 'base' / 'LICENSE').write_text('free')
  (tmp_path / 'e0' / 'LICENSE').write_text('of an expert')
  out = _run(tiny_models.recipe(tmp_path, 'ties', parameters={'density': 0.5}))
  assert sorted(os.listdir(out)) == [
    'LICENSE',
    'README.md',
    'config.json',
    'generation_config.json',
    'model.safetensors',
    'recipe.yaml',
    'tokenizer.json',
  ]
  for name in (
    *('LICENSE', 'config.json', 'generation_config.json'),
    'tokenizer.json',
  ):
    have = (out / name).read_bytes()
    assert have == (tmp_path / 'base' / name).read_bytes(), name
  text = (out / 'recipe.yaml').read_text()
  assert text.startswith('# mergekit 0.1.5 makes the same tensors')
  document = yaml.safe_load(text)
  assert document['base_model'] == '../base'
  assert [m['model'] for m in document['models']] == ['../e0', '../e1']
  assert document['inputs'] == {
    f'../{m}': st_io.fingerprint(tmp_path / m) for m in models
  }
  card = (out / 'README.md').read_text()
  assert text.rstrip() in card
  for words in ('- ../e1', 'by `ties`', "mergekit 0.1.5's", 'No evaluation'):
    assert words in card, words
  mode = (out / 'recipe.yaml').stat().st_mode
  assert mode == (out / 'model.safetensors').stat().st_mode


def test_what_mergekit_cannot_make_says_why(tmp_path, models):
  parameters = {'density': 0.5}
  path = tiny_models.recipe(tmp_path, 'dare_ties', parameters=parameters)
  lines = (_run(path) / 'recipe.yaml').read_text().splitlines()
  assert (
    lines[0] == '# mergekit 0.1.5 cannot make the same tensors from this file:'
  )
  assert 'masks of dare_ties are random' in lines[1]
  keys = {'parameters': parameters, 'semantics': 'paper'}
  out = _run(tiny_models.recipe(tmp_path, 'ties', **keys), 'paper')
  assert 'means the paper' in (out / 'recipe.yaml').read_text()
  assert 'as its paper defines it' in (out / 'README.md').read_text()


def test_a_type_of_numbers_is_written_where_the_config_says_it(
  tmp_path, models
):
  out = _run(tiny_models.recipe(tmp_path, out_dtype='bfloat16'))
  config = json.loads((out / 'config.json').read_text())
  assert config == tiny_models.CONFIG | {'torch_dtype': 'bfloat16'}
  merged = tiny_models.read(out)
  assert {t.dtype for t in merged.values()} == {np.dtype(ml_dtypes.bfloat16)}


def test_a_stack_is_as_deep_as_its_config_says(tmp_path):
  kinds = {'layer_types': ['full', 'sliding']}
  models = tiny_models.family(tmp_path, config=kinds)
  slices = [
    {'sources': [{'model': 'e0', 'layer_range': [0, 2]}]},
    {'sources': [{'model': 'e1', 'layer_range': [1, 2]}]},
  ]
  keys = {'models': None, 'base_model': None, 'slices': slices}
  out = _run(tiny_models.recipe(tmp_path, 'passthrough', **keys))
  config = json.loads((out / 'config.json').read_text())
  assert config['num_hidden_layers'] == 3
  assert config['layer_types'] == ['full', 'sliding', 'sliding']
  merged = tiny_models.read(out)
  for layer, (model, own) in enumerate((('e0', 0), ('e0', 1), ('e1', 1))):
    for part in ('self_attn.q_proj', 'mlp.up_proj', 'input_layernorm'):
      np.testing.assert_array_equal(
        merged[f'model.layers.{layer}.{part}.weight'],
        models[model][f'model.layers.{own}.{part}.weight'],
      )


def test_a_depth_that_no_config_says_is_refused(tmp_path, monkeypatch):
  tiny_models.family(tmp_path)
  for model in ('base', 'e0', 'e1'):
    config = dict(tiny_models.CONFIG)
    del config['num_hidden_layers']
    (tmp_path / model / 'config.json').write_text(json.dumps(config))
  slices = [{'sources': [{'model': 'e0', 'layer_range': [0, 1]}]}]
  keys = {'models': None, 'base_model': None, 'slices': slices}
  path = tiny_models.recipe(tmp_path, 'passthrough', **keys)
  monkeypatch.setattr(export.streaming, 'run', pytest.fail)
  for attempt in (_run, merge.dry_run):
    with pytest.raises(ValueError, match='num_hidden_layers'):
      attempt(path)
  assert _left(tmp_path) == []


def test_vocabularies_are_refused_or_made_one(tmp_path):
  base = tiny_models.base()
  tiny_models.write(tmp_path / 'base', base)
  for k, more in enumerate(('x', 'yz')):
    words = [*tiny_models.WORDS, *more]
    tensors = tiny_models.base(k + 1, rows=len(words))
    config = {'vocab_size': len(words)}
    tiny_models.write(tmp_path / f'e{k}', tensors, config, words)
  path = tiny_models.recipe(tmp_path)
  with pytest.raises(ValueError, match=r'differ in size.*union'):
    _run(path)
  assert _left(tmp_path) == []
  out = _run(tiny_models.recipe(tmp_path, tokenizer_source='union'))
  rows = tiny_models.ROWS + 3
  assert json.loads((out / 'config.json').read_text())['vocab_size'] == rows
  merged = tiny_models.read(out)
  assert merged['lm_head.weight'].shape == (rows, tiny_models.WIDTH)
  text = (out / 'tokenizer.json').read_text()
  from automerge_jax.io import tokenizers

  vocabulary = tokenizers.vocabulary(text)
  assert sorted(vocabulary.values()) == list(range(rows))
  name = 'model.embed_tokens.weight'
  one, two = (tiny_models.read(tmp_path / e)[name] for e in ('e0', 'e1'))
  shared, own = tiny_models.ROWS, vocabulary['z']
  want = base[name] + 0.5 * (one[:shared] - base[name])
  want += 0.75 * (two[:shared] - base[name])
  np.testing.assert_allclose(merged[name][:shared], want, atol=1e-5)
  # Only e1 has it: the others take its row, and nothing is left to add.
  np.testing.assert_allclose(merged[name][own], two[-1], atol=1e-6)


def test_shards(tmp_path, models):
  path = tiny_models.recipe(tmp_path)
  whole = tiny_models.read(_run(path, 'whole'))
  out = _run(path, max_shard_size='600B')
  assert len(list(out.glob('model-*-of-*.safetensors'))) > 3
  tiny_models.assert_same(tiny_models.read(out), whole)
  with checkpoints.open_checkpoint(out) as checkpoint:
    assert set(checkpoint.names()) == set(whole)


def test_orbax_and_lora_beside_it(tmp_path, models):
  out = _run(tiny_models.recipe(tmp_path), with_orbax=True, lora_rank=8)
  merged = tiny_models.read(out)
  with checkpoints.open_checkpoint(out / 'orbax') as checkpoint:
    stored = {name: checkpoint.get(name) for name in checkpoint.names()}
  tiny_models.assert_same(stored, merged)
  report = json.loads((out / 'lora' / lora_extraction.REPORT).read_text())
  assert max(report['tensors'].values()) < 1e-4
  with checkpoints.open_checkpoint(f'{tmp_path}/base+{out}/lora') as near:
    name = 'model.layers.1.mlp.up_proj.weight'
    np.testing.assert_allclose(near.get(name), merged[name], atol=1e-5)
  text = (out / 'lora' / lora.CONFIG).read_text()
  assert '.partial' not in text


def test_an_adapter_that_cannot_be_is_refused_at_once(
  tmp_path, models, monkeypatch
):
  slices = [{'sources': [{'model': 'e0', 'layer_range': [0, 1]}]}]
  keys = {'models': None, 'base_model': None, 'slices': slices}
  path = tiny_models.recipe(tmp_path, 'passthrough', **keys)
  begun = []
  monkeypatch.setattr(export.streaming, 'run', lambda *args: begun.append(args))
  with pytest.raises(ValueError, match='for an adapter of') as error:
    _run(path, lora_rank=2)
  assert '- model.layers.1.mlp.up_proj.weight' in str(error.value)
  assert not begun
  assert _left(tmp_path) == []


# -- recipes that make the same again


def test_its_recipe_makes_the_same_bytes(tmp_path, models):
  parameters = {'density': [0.3, 0.8]}
  path = tiny_models.recipe(tmp_path, 'della', parameters=parameters, seed=11)
  out = _run(path, max_shard_size='600B')
  again = _run(out / 'recipe.yaml', '../again', max_shard_size='600B')
  assert _weights(again) == _weights(out)
  text = (out / 'recipe.yaml').read_text()
  assert (again / 'recipe.yaml').read_text() == text
  other = _run(
    tiny_models.recipe(tmp_path, 'della', parameters=parameters), 'o'
  )
  assert _weights(other) != _weights(out)  # another seed


def test_recipes_with_adapters(tmp_path, models):
  sources = []
  for k in range(2):
    _adapter(tmp_path / f'a{k}', models['base'], k)
    sources += [{'model': f'base+a{k}', 'parameters': {'weight': 0.5}}]
  out = _run(tiny_models.recipe(tmp_path, models=sources))
  document = yaml.safe_load((out / 'recipe.yaml').read_text())
  assert [m['model'] for m in document['models']] == [
    '../base+../a0',
    '../base+../a1',
  ]
  again = _run(out / 'recipe.yaml', '../again')
  assert _weights(again) == _weights(out)
  name = 'model.layers.0.self_attn.q_proj.weight'
  assert not np.array_equal(tiny_models.read(out)[name], models['base'][name])
  # An adapter's bytes are pinned too.
  _adapter(tmp_path / 'a1', models['base'], 7)
  with pytest.raises(ValueError, match=r'a1 has weights with SHA-256'):
    _run(out / 'recipe.yaml', '../third')


def test_recipes_with_orbax_inputs(tmp_path, models):
  for model in models:
    with checkpoints.open_checkpoint(tmp_path / model) as source:
      orbax.save_checkpoint(tmp_path / 'orbax' / model, source)
  want = _weights(_run(tiny_models.recipe(tmp_path)))
  out = _run(tiny_models.recipe(tmp_path / 'orbax'))
  assert _weights(out) == want
  assert _weights(_run(out / 'recipe.yaml', '../again')) == want


def test_recipes_with_gguf_inputs(tmp_path):
  for k, model in enumerate(('base', 'e0', 'e1')):
    norm = {'output_norm.weight': np.full(tiny_gguf.WIDTH, k, np.float32)}
    (tmp_path / model).mkdir()
    tiny_gguf.write(tmp_path / model / 'm.gguf', tensors=norm)
  models = [
    {'model': f'e{k}/m.gguf', 'parameters': {'weight': 0.5}} for k in range(2)
  ]
  keys = {'models': models, 'base_model': 'base/m.gguf'}
  out = _run(tiny_models.recipe(tmp_path, **keys))
  merged = tiny_models.read(out)
  np.testing.assert_array_equal(merged['model.norm.weight'], 0.5 * (1 + 2))
  text = (out / 'recipe.yaml').read_text()
  assert 'it does not read GGUF files' in text
  gguf.to_hugging_face(tmp_path / 'base' / 'm.gguf', tmp_path / 'converted')
  for name in ('config.json', 'tokenizer.json', 'tokenizer_config.json'):
    want = (tmp_path / 'converted' / name).read_text()
    assert (out / name).read_text() == want, name
  assert _weights(_run(out / 'recipe.yaml', '../again')) == _weights(out)


def test_a_recipe_moves_with_its_models(tmp_path, models):
  out = _run(tiny_models.recipe(tmp_path))
  moved = tmp_path.parent / f'{tmp_path.name}_moved'
  shutil.copytree(tmp_path, moved)
  again = _run(moved / 'out' / 'recipe.yaml', '../again')
  assert _weights(again) == _weights(out)


# -- faults


def _left(folder):
  """What a merge may have left: all but models and recipe."""
  kept = {'base', 'e0', 'e1', 'recipe.yaml'}
  return sorted(set(os.listdir(folder)) - kept)


def test_other_weights_than_pinned(tmp_path, models):
  out = _run(tiny_models.recipe(tmp_path))
  before = st_io.fingerprint(tmp_path / 'e1')
  st_io.write(tmp_path / 'e1', tiny_models.tuned(models['base'], 9))
  after = st_io.fingerprint(tmp_path / 'e1')
  with pytest.raises(ValueError, match='restore it or remove') as error:
    _run(out / 'recipe.yaml', '../again')
  for words in (str(tmp_path / 'e1'), before, after):
    assert words in str(error.value)
  assert _left(tmp_path) == ['out']


def test_an_output_that_exists(tmp_path, models):
  (tmp_path / 'out').mkdir()
  (tmp_path / 'out' / 'mine').write_text('kept')
  with pytest.raises(FileExistsError, match='out exists; choose another'):
    _run(tiny_models.recipe(tmp_path))
  assert _left(tmp_path) == ['out']
  assert os.listdir(tmp_path / 'out') == ['mine']


def test_models_that_are_not_there(tmp_path, models):
  shutil.rmtree(tmp_path / 'e1')
  with pytest.raises(FileNotFoundError, match="names the model 'e1'"):
    _run(tiny_models.recipe(tmp_path))
  (tmp_path / 'e1').mkdir()
  with pytest.raises(FileNotFoundError, match='e1 holds no checkpoint'):
    _run(tiny_models.recipe(tmp_path))
  sources = [{'model': 'e0@main', 'parameters': {'weight': 1}}]
  with pytest.raises(ValueError, match=r"'e0@main' with a revision"):
    _run(tiny_models.recipe(tmp_path, models=sources))
  assert _left(tmp_path) == []


def test_recipes_that_are_no_text(tmp_path, models):
  path = tmp_path / 'recipe.yaml'
  path.write_bytes(b'\xff\xfe')
  with pytest.raises(ValueError, match=r'recipe\.yaml is no text in UTF-8'):
    _run(path)


def _damage_shard(folder):
  shard = sorted(folder.glob('*.safetensors'))[1]
  shard.write_bytes(shard.read_bytes()[:-5])
  return f'{shard.name} is damaged'


def _damage_index(folder):
  path = folder / st_io.INDEX
  index = json.loads(path.read_text())
  del index['weight_map']['model.norm.weight']
  path.write_text(json.dumps(index))
  return r"does not list: \['model\.norm\.weight'\]"


def _damage_value(folder):
  tensors = tiny_models.read(folder)
  tensors['model.norm.weight'][2] = np.nan
  for path in folder.glob('*.safetensors*'):
    path.unlink()
  st_io.write(folder, tensors)
  return r"e1 has 1 NaN and 0 infinite .*'model\.norm\.weight'"


def _damage_config(folder):
  (folder / 'config.json').write_text('{"model_type": ')
  return r'e1.config\.json is damaged'


def _damage_tokenizer(folder):
  (folder / 'tokenizer.json').write_text('{"model": ')
  return r'tokenizer'


@pytest.mark.parametrize(
  'damage',
  [
    _damage_shard,
    _damage_index,
    _damage_value,
    _damage_config,
    _damage_tokenizer,
  ],
)
def test_damaged_inputs(tmp_path, damage):
  tiny_models.family(tmp_path, shard='600B')
  message = damage(tmp_path / 'e1')
  with pytest.raises(ValueError, match=message):
    _run(tiny_models.recipe(tmp_path))
  assert _left(tmp_path) == []


def test_failures_after_merging_leave_nothing(tmp_path, models, monkeypatch):
  path = tiny_models.recipe(tmp_path)

  def fail(*args):
    raise OSError(errno.ENOSPC, 'No space left on device')

  for module, name in ((export.companions_lib, 'card'), (export, '_put')):
    with monkeypatch.context() as patch:
      patch.setattr(module, name, fail)
      with pytest.raises(OSError, match='the disk is full'):
        _run(path)
    assert _left(tmp_path) == []


def _command(path, out, *flags, before='', **options):
  """The command in a process of its own, after the statements `before`."""
  code = (
    'import sys\n'
    f'{before}\n'
    'from absl import app\n'
    'from experiments import merge\n'
    'app.run(merge.main)\n'
  )
  flags = (f'--recipe={path}', f'--out={out}', *flags)
  return subprocess.Popen(
    [sys.executable, '-c', code, *flags],
    cwd=PROJECT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    env=os.environ | {'JAX_PLATFORMS': 'cpu'},
    **options,
  )


_LIMIT = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))
sys.dont_write_bytecode = True
"""
_NOBODY = """
import os
if os.getuid() == 0:
  import experiments.merge  # while its libraries may be read
  os.setgid(65534)
  os.setuid(65534)
"""


def test_a_disk_that_fills_up(tmp_path, models):
  process = _command(
    tiny_models.recipe(tmp_path), tmp_path / 'out', before=_LIMIT
  )
  _, said = process.communicate(timeout=120)
  assert process.returncode == 1
  assert 'Traceback' not in said
  assert 'merge: ' in said
  assert 'a file would grow beyond what is permitted' in said
  assert _left(tmp_path) == []


def test_a_folder_that_may_not_be_written():
  # Seen by a user without rights, who may not enter pytest's own folders.
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    tiny_models.family(folder)
    path = tiny_models.recipe(folder)
    folder.chmod(0o555)
    process = _command(path, folder / 'out', before=_NOBODY)
    _, said = process.communicate(timeout=120)
    folder.chmod(0o755)
    assert process.returncode == 1, said
    assert 'Traceback' not in said, said
    assert 'no permission to write; choose another folder' in said
    assert _left(folder) == []


_SLOW = r"""
import os, time
from automerge_jax.merging import chunks
cast = chunks.cast
def slow(*args):
  os.write(1, b'merging\n')
  time.sleep(0.4)
  return cast(*args)
chunks.cast = slow
"""


def _interrupt(path, out, number):
  process = _command(path, out, '--workers=2', before=_SLOW)
  assert process.stdout.readline() == 'merging\n', process.stderr.read()
  (partial,) = [p for p in os.listdir(out.parent) if '.partial' in p]
  assert not out.exists()
  process.send_signal(number)
  begun = time.monotonic()
  _, said = process.communicate(timeout=60)
  assert time.monotonic() - begun < 30
  assert process.returncode != 0
  assert not out.exists()
  return partial, said, process.returncode


def test_kill_in_the_middle(tmp_path, models):
  path, out = tiny_models.recipe(tmp_path), tmp_path / 'out'
  partial, _, _ = _interrupt(path, out, signal.SIGKILL)
  assert partial.startswith('.out.')
  assert _left(tmp_path) == [partial]
  _run(path)
  assert _left(tmp_path) == ['out']
  want = _weights(_run(path, 'again'))
  assert _weights(out) == want


def test_interrupt_in_the_middle(tmp_path, models):
  path, out = tiny_models.recipe(tmp_path), tmp_path / 'out'
  _, said, code = _interrupt(path, out, signal.SIGINT)
  assert _left(tmp_path) == []
  assert 'Traceback' not in said
  assert 'interrupted; nothing half-done is left' in said
  assert code == 130


def test_renaming_reaches_every_mention():
  text = """
merge_method: ties
base_model: base
slices:
- sources: [{model: a, layer_range: [0, 1]}, {model: base, layer_range: [0, 1]}]
parameters: {weight: 1, density: 0.5}
inputs: {a: '%s'}
tokenizer:
  source: a
  tokens:
    x: {source: a}
    y: {source: {kind: model_token, model: base, token: x}}
    z: {source: {kind: zero}}
""" % ('0' * 64)
  recipe = recipes.from_yaml(text)
  renamed = export.rename(recipe, {'a': '../a', 'base': '../base'})
  assert renamed.models == ('../base', '../a')
  back = export.rename(renamed, {'../a': 'a', '../base': 'base'})
  assert back == recipe
  assert recipes.from_yaml(recipes.to_yaml(renamed)) == renamed
