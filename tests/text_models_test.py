"""GPT-2, BERT, RoBERTa and T5 against recorded Hugging Face models."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from automerge_jax.io import safetensors
from automerge_jax.models import base, registry
from tests import text_models

CASES = text_models.cases('')


@pytest.fixture(scope='module')
def loaded(tmp_path_factory):
  """`case -> (model, jitted forward, inputs, hidden states)`."""
  folder, found = tmp_path_factory.mktemp('models'), {}

  def get(case):
    if case not in found:
      model = registry.load(text_models.write(folder / case, case))
      forward = jax.jit(lambda p, x: base.forward(model.family, p, x))
      inputs = text_models.of(case, 'inputs')
      found[case] = model, forward, inputs, forward(model.params, inputs)
    return found[case]

  return get


@pytest.fixture(params=CASES)
def case(request):
  return request.param


def test_hidden_states_match_hugging_face(case, loaded):
  _, _, inputs, hidden = loaded(case)
  real = text_models.own(inputs, 'mask') > 0
  wanted = text_models.golden()[f'{case}/hidden']
  np.testing.assert_allclose(hidden[real], wanted[real], atol=1e-5)


@pytest.mark.parametrize(
  'case', ['gpt2_tied', 'gpt2_untied', 't5_tied', 't5_gated']
)
def test_logits_match_hugging_face(case, loaded):
  model, _, inputs, hidden = loaded(case)
  logits = model.family.logits(model.params, hidden)
  real = text_models.own(inputs, 'mask') > 0
  wanted = text_models.golden()[f'{case}/logits']
  assert logits.dtype == jnp.float32
  np.testing.assert_allclose(logits[real], wanted[real], atol=1e-5)


@pytest.mark.parametrize('case', ['gpt2_bare', 't5_bare'])
def test_jit_equals_eager(case, loaded):
  model, _, inputs, hidden = loaded(case)
  with jax.disable_jit():
    eager = base.forward(model.family, model.params, inputs)
  np.testing.assert_allclose(hidden, eager, atol=5e-6)


def test_rows_in_one_are_as_rows_of_their_own(case, loaded):
  model, forward, inputs, hidden = loaded(case)
  row = text_models.packed(inputs)
  together = forward(model.params, row)
  real = text_models.own(inputs, 'mask') > 0
  np.testing.assert_allclose(
    together[text_models.own(row, 'mask') > 0], hidden[real], atol=1e-5
  )
  assert np.isfinite(together).all()


def test_padding_does_not_reach_real_tokens(case, loaded):
  _, forward, inputs, hidden = loaded(case)
  changed = dict(inputs)
  for name in ('ids', 'decoder_ids'):
    if name in inputs:
      mask = inputs[name.replace('ids', 'mask')]
      changed[name] = np.where(mask > 0, inputs[name], 7).astype(np.int32)
      assert (changed[name] != inputs[name]).any()
  real = text_models.own(inputs, 'mask') > 0
  after = forward(loaded(case)[0].params, changed)
  np.testing.assert_array_equal(after[real], hidden[real])


def test_write_back_is_bit_exact(case, loaded, tmp_path):
  model, stored = loaded(case)[0], text_models.of(case, 'weights')
  written = base.unpack(model.family.keys, model.params)
  assert set(written) == set(stored)
  safetensors.write(tmp_path / 'again', written)
  for name, tensor in safetensors.stream(tmp_path / 'again'):
    assert tensor.dtype == stored[name].dtype, name
    assert tensor.shape == stored[name].shape, name
    assert tensor.tobytes() == stored[name].tobytes(), name


@pytest.mark.parametrize(
  ('dtype', 'most'), [('bfloat16', 0.03), ('float16', 0.005)]
)
@pytest.mark.parametrize('case', ['gpt2_tied', 'roberta_masked', 't5_gated'])
def test_half_precision_runs_near_float32(case, loaded, dtype, most):
  model, forward, inputs, _ = loaded(case)
  half = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), model.params)
  found = forward(half, inputs)
  assert found.dtype == dtype
  same = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), half)
  hidden = forward(same, inputs)
  real = text_models.own(inputs, 'mask') > 0
  error = np.asarray(found, np.float32)[real] - hidden[real]
  assert np.sqrt(np.mean(error**2)) < most * np.std(hidden[real])


def _steps(inputs, prefix, free, first):
  """The first tokens at once, then one at a time, for `extend`."""
  mask = inputs[f'{prefix}mask']
  count = mask.shape[1]
  bounds = [0, first, *range(first + 1, count + 1)]
  places = np.broadcast_to(np.arange(count), mask.shape)
  for start, end in itertools.pairwise(bounds):
    now = slice(start, end)
    yield (
      now,
      {
        f'{prefix}ids': inputs[f'{prefix}ids'][:, now],
        f'{prefix}mask': mask[:, now],
        f'{prefix}positions': places[:, now],
        # Real tokens sit behind one another, here from the second slot on.
        'slot': np.where(mask[:, now] > 0, places[:, now] + 1, free),
      },
    )


@pytest.mark.parametrize(
  'case', [c for c in CASES if c.startswith(('gpt2', 't5'))]
)
def test_extending_step_by_step_equals_the_forward_pass(case, loaded):
  model, _, inputs, hidden = loaded(case)
  family, prefix = model.family, 'decoder_' if 'decoder_ids' in inputs else ''
  mask = inputs[f'{prefix}mask']
  slots = mask.shape[1] + 3
  memory = family.cache(model.params, inputs, slots)
  extend = jax.jit(lambda p, x, m: base.extend(family, p, x, m))
  found = np.zeros_like(hidden)
  for now, new in _steps(inputs, prefix, slots, first=4):
    found[:, now], memory = extend(model.params, new, memory)
  real = mask > 0
  np.testing.assert_allclose(found[real], hidden[real], atol=1e-5)
  np.testing.assert_array_equal(memory['mask'].sum(1), mask.sum(1))


@pytest.mark.parametrize('case', ['gpt2_tied', 't5_gated'])
def test_branches_are_as_rows_with_one_of_them(case, loaded):
  """Two answers to one prompt, its tokens computed once."""
  model, forward, inputs, _ = loaded(case)
  prefix = 'decoder_' if 'decoder_ids' in inputs else ''
  ids = inputs[f'{prefix}ids'][:1, :9]
  first = {name: array[:1] for name, array in inputs.items() if prefix}
  own = {
    'ids': ids,
    'positions': np.array([[0, 1, 2, 3, 4, 5, 6, 4, 5]]),
    'branch': np.array([[0, 0, 0, 0, 1, 1, 1, 2, 2]]),
    'mask': np.ones((1, 9), np.int32),
  }

  def outputs(tokens):
    own = {f'{prefix}{name}': array for name, array in tokens.items()}
    return forward(model.params, first | own)[0]

  together = outputs(own)
  for branch in (1, 2):
    mine = np.isin(own['branch'][0], (0, branch))
    # The tokens of the other are pushed behind, as padding.
    order = np.argsort(~mine, kind='stable')
    alone = {name: array[:, order] for name, array in own.items()}
    alone['mask'] = mine[order][None].astype(np.int32)
    alone['branch'] = np.zeros_like(alone['branch'])
    np.testing.assert_allclose(
      together[mine], outputs(alone)[: mine.sum()], atol=1e-5
    )
