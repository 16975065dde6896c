"""Decoders of Llama's shape: parity, key tables, packing, memory, refusals."""

import json
import pathlib

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from automerge_jax.io import checkpoints, orbax, safetensors
from automerge_jax.models import base, llama, registry

GOLDEN = pathlib.Path(__file__).parent / 'testdata' / 'llama_tiny.npz'
CASES = (
  'llama2',
  'llama2_biases',
  'llama3',
  'llama_bare',
  'mistral',
  'qwen2',
  'qwen3',
  'gemma',
  'gemma2',
  'gemma3',
)
SPECIAL = ('mistral', 'qwen2', 'gemma2', 'gemma3')


@pytest.fixture(scope='module')
def golden():
  with np.load(GOLDEN) as file:
    return dict(file)


def _weights(golden, case):
  prefix = f'{case}/weights/'
  return {k.removeprefix(prefix): v for k, v in golden.items() if prefix in k}


def _config(golden, case, **entries):
  return json.loads(str(golden[f'{case}/config'])) | entries


def _model(golden, case, **entries):
  stored = _weights(golden, case)
  family = registry.from_config(_config(golden, case, **entries), list(stored))
  base.check_keys(family, list(stored))
  return registry.Model(family, base.pack(family.keys, stored))


def _folder(golden, case, path, **entries):
  path.mkdir()
  config = json.dumps(_config(golden, case, **entries))
  (path / 'config.json').write_text(config)
  safetensors.write(path, _weights(golden, case))
  return path


def _inputs(golden, case):
  return {name: golden[f'{case}/{name}'] for name in ('ids', 'mask')}


def _outputs(family, params, inputs):
  """Hidden states, and logits of models with a head."""

  def run(params, inputs):
    hidden = base.forward(family, params, inputs)
    return hidden, family.logits and family.logits(params, hidden)

  return jax.jit(run)(params, inputs)


@pytest.mark.parametrize('case', CASES)
def test_outputs_match_hugging_face(golden, case):
  family, params = _model(golden, case)
  inputs = _inputs(golden, case)
  real = inputs['mask'] > 0
  hidden, logits = _outputs(family, params, inputs)
  want = golden[f'{case}/hidden']
  np.testing.assert_allclose(hidden[real], want[real], atol=2e-5)
  assert np.isfinite(hidden).all()
  if case == 'llama_bare':
    assert logits is None
    return
  want = golden[f'{case}/logits']
  np.testing.assert_allclose(logits[real], want[real], atol=1e-5)


@pytest.mark.parametrize('case', CASES)
def test_write_back_is_bit_exact(golden, case):
  family, params = _model(golden, case)
  stored = _weights(golden, case)
  written = base.unpack(family.keys, params)
  assert set(written) == set(stored)
  for name, tensor in stored.items():
    assert written[name].dtype == tensor.dtype, name
    assert written[name].shape == tensor.shape, name
    assert written[name].tobytes() == tensor.tobytes(), name
  for sort in family.components.values():
    assert all(
      any(pattern is None or pattern in name for _, pattern in sort)
      for name in stored
    )


@pytest.mark.parametrize('case', SPECIAL)
def test_packed_rows_and_branches_equal_separate_rows(golden, case):
  family, params = _model(golden, case)
  draw = np.random.default_rng(0)
  prompt, first, second, other = (
    draw.integers(0, 37, n).astype(np.int32) for n in (6, 4, 5, 7)
  )
  rows = [np.r_[prompt, first], np.r_[prompt, second], other]
  length = max(map(len, rows))
  alone = {
    'ids': np.stack([np.pad(row, (0, length - len(row))) for row in rows]),
    'mask': np.stack([np.arange(length) < len(row) for row in rows]),
  }
  alone['mask'] = alone['mask'].astype(np.int32)
  pieces = [  # ids, text, branch, first position
    (other, 2, 0, 0),
    (prompt, 1, 0, 0),
    (first, 1, 1, 6),
    (second, 1, 2, 6),
    (np.zeros(3, np.int32), 0, 0, 0),
  ]
  packed = {
    'ids': np.concatenate([ids for ids, *_ in pieces]),
    'mask': np.concatenate([np.full(len(i), t) for i, t, *_ in pieces]),
    'branch': np.concatenate([np.full(len(i), b) for i, _, b, _ in pieces]),
    'positions': np.concatenate([s + np.arange(len(i)) for i, *_, s in pieces]),
  }
  packed = {name: x[None].astype(np.int32) for name, x in packed.items()}
  want, _ = _outputs(family, params, alone)
  have = _outputs(family, params, packed)[0][0]
  np.testing.assert_allclose(have[:7], want[2, :7], atol=2e-5)
  np.testing.assert_allclose(have[7:17], want[0, :10], atol=2e-5)
  np.testing.assert_allclose(have[17:22], want[1, 6:11], atol=2e-5)
  assert np.isfinite(have).all()


@pytest.mark.parametrize('case', SPECIAL)
def test_extending_a_memory_equals_the_forward_pass(golden, case):
  family, params = _model(golden, case)
  inputs = _inputs(golden, case)
  batch, tokens = inputs['ids'].shape
  want, _ = _outputs(family, params, inputs)
  extend = jax.jit(lambda *arguments: base.extend(family, *arguments))
  # Rows lie in the memory at different places, and in no order.
  order = np.random.default_rng(0).permutation(tokens + 3)
  slots = np.stack([np.roll(order, i)[:tokens] for i in range(batch)])
  for size in (1, 4):
    sizes = [size] * (tokens // size) + [1] * (tokens % size)
    memory = family.cache(params, inputs, tokens + 3)
    found, start = [], 0
    for size in sizes:
      part = {k: v[:, start : start + size] for k, v in inputs.items()}
      # Padding is given no slot, and leaves no trace.
      slot = np.where(part['mask'] > 0, slots[:, start : start + size], -1)
      positions = np.arange(start, start + size)[None]
      part['positions'] = np.broadcast_to(positions, slot.shape)
      hidden, memory = extend(params, dict(part, slot=slot), memory)
      found.append(hidden)
      start += size
    real = inputs['mask'] > 0
    have = np.concatenate(found, axis=1)
    np.testing.assert_allclose(have[real], want[real], atol=2e-5)
    assert np.isfinite(have).all()
    lengths = (np.asarray(memory['mask']) > 0).sum(1)
    np.testing.assert_array_equal(lengths, inputs['mask'].sum(1))


@pytest.mark.parametrize(
  ('case', 'dtype', 'close'),
  [
    ('llama3', ml_dtypes.bfloat16, 0.06),
    ('gemma2', np.float16, 0.01),
    ('gemma3', ml_dtypes.bfloat16, 0.06),
    ('qwen3', np.float16, 0.01),
  ],
)
def test_half_precision_stays_near(golden, case, dtype, close):
  family, params = _model(golden, case)
  inputs = _inputs(golden, case)
  real = inputs['mask'] > 0
  _, want = _outputs(family, params, inputs)
  half = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
  hidden, have = _outputs(family, half, inputs)
  assert hidden.dtype == dtype
  assert have.dtype == np.float32
  error = np.square(have[real] - want[real]).mean() ** 0.5
  assert 0 < error < close * want[real].std()
  memory = family.cache(half, inputs, real.shape[1])
  slots = np.broadcast_to(np.arange(real.shape[1])[None], real.shape)
  extend = jax.jit(lambda *arguments: base.extend(family, *arguments))
  again, _ = extend(half, dict(inputs, slot=slots), memory)
  again = family.logits(half, again)
  error = np.square(again[real] - want[real]).mean() ** 0.5
  assert error < close * want[real].std()


@pytest.mark.parametrize('case', ['mistral', 'gemma3'])
def test_sliding_windows_hide_what_is_far(golden, case):
  family, params = _model(golden, case)
  wide, _ = _model(golden, case, sliding_window=1000)
  inputs = _inputs(golden, case)
  near, _ = _outputs(family, params, inputs)
  far, _ = _outputs(wide, params, inputs)
  np.testing.assert_allclose(near[0, :4], far[0, :4], atol=2e-5)
  assert np.abs(near[0, 8:] - far[0, 8:]).max() > 1e-2


def _filled(config):
  return llama.config_from_hf(config, ['lm_head.weight'])


def test_what_a_config_leaves_out_has_hugging_faces_defaults():
  gemma = _filled({'model_type': 'gemma2', 'hidden_size': 2304})
  assert gemma.head_size == 256
  assert (gemma.num_heads, gemma.num_kv_heads) == (8, 4)
  assert (gemma.attention_cap, gemma.logit_cap) == (50.0, 30.0)
  assert gemma.windows == (4096, None) * 13
  assert gemma.attention_scale == 256**-0.5
  assert gemma.activation == 'gelu_pytorch_tanh'
  llama2 = _filled({'model_type': 'llama', 'num_attention_heads': 16})
  assert (llama2.num_kv_heads, llama2.head_size) == (16, 256)
  assert llama2.max_tokens == 2048
  mistral = _filled({'model_type': 'mistral', 'sliding_window': None})
  assert mistral.windows == (None,) * 32
  qwen = {'model_type': 'qwen2', 'num_hidden_layers': 30}
  assert _filled(qwen).windows == (None,) * 30
  used = _filled(qwen | {'use_sliding_window': True, 'sliding_window': 7})
  assert used.windows == (None,) * 28 + (7, 7)


def test_entries_foreign_to_a_model_type_are_ignored_as_it_does():
  foreign = {'query_pre_attn_scalar': 7, 'attn_logit_softcapping': 2.0}
  foreign |= {'mlp_bias': True, 'final_logit_softcapping': 3.0}
  mistral = {'model_type': 'mistral'}
  assert _filled(mistral | foreign | {'attention_bias': True}) == (
    _filled(mistral)
  )
  qwen2 = _filled({'model_type': 'qwen2', 'attention_bias': True})
  assert (qwen2.qkv_bias, qwen2.output_bias) == (True, False)


@pytest.mark.parametrize(
  ('old', 'new'),
  [
    ({'rope_theta': 5e5}, {'rope_type': 'default', 'rope_theta': 5e5}),
    (
      {'rope_theta': 5e5, 'rope_scaling': {'type': 'linear', 'factor': 2.0}},
      {'rope_type': 'linear', 'type': 'linear'}
      | {'rope_theta': 5e5, 'factor': 2.0},
    ),
  ],
)
def test_both_forms_of_rope_settings_are_read(old, new):
  first = _filled({'model_type': 'llama', **old})
  given = {'model_type': 'llama', 'rope_parameters': dict(new)}
  assert first == _filled(given)
  assert given['rope_parameters'] == new


def test_gemma3_has_two_rotary_embeddings_in_both_forms():
  old = _filled(
    {
      'model_type': 'gemma3_text',
      'rope_theta': 3e6,
      'rope_local_base_freq': 2e4,
      'rope_scaling': {'rope_type': 'linear', 'factor': 8.0},
      'sliding_window_pattern': 3,
      'num_hidden_layers': 7,
    }
  )
  full, local = (dict(table) for table in old.rope)
  assert full == {'rope_type': 'linear', 'rope_theta': 3e6, 'factor': 8.0}
  assert local == {'rope_type': 'default', 'rope_theta': 2e4}
  assert old.rope_index == (1, 1, 0, 1, 1, 0, 1)
  assert old.windows == (4096, 4096, None, 4096, 4096, None, 4096)


@pytest.mark.parametrize(
  ('kind', 'entries', 'named'),
  [
    ('llama', {'hidden_act': 'relu'}, "hidden_act='relu'"),
    (
      'llama',
      {'rope_scaling': {'rope_type': 'dynamic', 'factor': 2.0}},
      "rope_type='dynamic'",
    ),
    (
      'llama',
      {'rope_scaling': {'rope_type': 'llama3', 'factor': 2.0}},
      'low_freq_factor',
    ),
    ('llama', {'partial_rotary_factor': 0.5}, 'partial_rotary_factor=0.5'),
    ('llama', {'num_key_value_heads': 5}, 'num_key_value_heads=5'),
    ('llama', {'head_dim': 7}, '`head_dim`=7'),
    ('llama', {'hidden_size': 65}, '65'),
    ('llama', {'quantization_config': {'bits': 4}}, 'quantization_config'),
    ('mistral', {'layer_types': ['full_attention'] * 32}, 'layer_types'),
    ('qwen3', {'layer_types': ['full_attention'] * 3}, '`layer_types` (3)'),
    ('qwen2', {'layer_types': ['chunked_attention'] * 32}, 'chunked'),
    (
      'gemma2',
      {'use_bidirectional_attention': True},
      'use_bidirectional_attention=True',
    ),
    ('gemma3_text', {'attn_logit_softcapping': 50.0}, 'attn_logit_softcapping'),
  ],
)
def test_unimplemented_feature_is_refused_by_name(kind, entries, named):
  with pytest.raises(ValueError, match='config') as error:
    _filled({'model_type': kind, **entries})
  assert named in str(error.value)


def test_a_stored_head_is_used_even_if_the_config_ties_it(golden):
  stored = _weights(golden, 'llama2')
  config = _config(golden, 'llama2', tie_word_embeddings=True)
  family = registry.from_config(config, list(stored))
  params = base.pack(family.keys, stored)
  _, logits = _outputs(family, params, _inputs(golden, 'llama2'))
  real = golden['llama2/mask'] > 0
  want = golden['llama2/logits'][real]
  np.testing.assert_allclose(logits[real], want, atol=1e-5)


def test_bare_model_of_a_tied_one_has_its_head(golden, tmp_path):
  stored = {
    name.removeprefix('model.'): tensor
    for name, tensor in _weights(golden, 'qwen3').items()
  }
  family = registry.from_config(_config(golden, 'qwen3'), list(stored))
  base.check_keys(family, list(stored))
  params = base.pack(family.keys, stored)
  _, logits = _outputs(family, params, _inputs(golden, 'qwen3'))
  real = golden['qwen3/mask'] > 0
  want = golden['qwen3/logits'][real]
  np.testing.assert_allclose(logits[real], want, atol=1e-5)


def test_missing_and_unmapped_tensors_are_named(golden):
  stored = _weights(golden, 'qwen2')
  stored['score.weight'] = stored.pop('model.layers.1.self_attn.q_proj.bias')
  family = registry.from_config(_config(golden, 'qwen2'), list(stored))
  with pytest.raises(ValueError, match='does not fit') as error:
    base.check_keys(family, list(stored))
  assert '- model.layers.1.self_attn.q_proj.bias' in str(error.value)
  assert '+ score.weight' in str(error.value)


def test_rotary_buffers_of_old_checkpoints_are_skipped(golden):
  stored = _weights(golden, 'llama2')
  buffers = [f'model.layers.{i}.self_attn.rotary_emb.inv_freq' for i in (0, 1)]
  family = registry.from_config(_config(golden, 'llama2'), list(stored))
  base.check_keys(family, [*stored, *buffers])


def test_every_format_loads_the_same(golden, tmp_path):
  folder = _folder(golden, 'qwen2', tmp_path / 'hf')
  want = registry.load(folder).params
  with checkpoints.open_checkpoint(folder) as source:
    orbax.save_checkpoint(folder / 'orbax', source)
  for path in (folder / 'model.safetensors', folder / 'orbax'):
    have = registry.load(path)
    assert have.family.name == 'qwen2'
    jax.tree.map(np.testing.assert_array_equal, have.params, want)
  (folder / 'config.json').unlink()
  with pytest.raises(FileNotFoundError, match=r'no config\.json'):
    registry.load(folder / 'orbax')


def test_logits_at_gathered_positions(golden):
  family, params = _model(golden, 'gemma2')
  hidden, logits = _outputs(family, params, _inputs(golden, 'gemma2'))
  rows, columns = np.array([0, 2, 3]), np.array([5, 1, 2])
  some = family.logits(params, jnp.asarray(hidden)[rows, columns])
  np.testing.assert_allclose(some, logits[rows, columns], atol=1e-5)
