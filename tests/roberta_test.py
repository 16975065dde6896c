"""RoBERTa's positions, and what checkpoints of its and BERT's heads hold."""

import numpy as np
import pytest

from automerge_jax.models import base, registry
from tests import text_models

MASKED = 'roberta_masked'


@pytest.fixture
def model(tmp_path):
  return registry.load(text_models.write(tmp_path / MASKED, MASKED))


def test_positions_count_real_tokens_behind_padding(model):
  """Padding in front moves nothing, as positions are counted."""
  inputs = text_models.of(MASKED, 'inputs')
  real = inputs['mask'] > 0
  left = {n: np.pad(array, [(0, 0), (1, 0)]) for n, array in inputs.items()}
  found = base.forward(model.family, model.params, left)[:, 1:]
  wanted = text_models.golden()[f'{MASKED}/hidden']
  np.testing.assert_allclose(found[real], wanted[real], atol=1e-5)


def test_most_tokens_leave_out_paddings_positions(model):
  # 16 positions, of which 0 to 3 are padding's and before.
  assert model.family.max_tokens == 12
  ones = np.ones((1, 13), np.int32)
  with pytest.raises(ValueError, match=r'13 tokens.*for 12'):
    base.forward(model.family, model.params, {'ids': ones, 'mask': ones})


@pytest.mark.parametrize('value', [None, -1, 16])
def test_padding_without_a_position_is_refused(tmp_path, value):
  folder = text_models.write(tmp_path / MASKED, MASKED, pad_token_id=value)
  with pytest.raises(ValueError, match=f'pad_token_id={value!r}'):
    registry.load(folder)


@pytest.mark.parametrize(
  ('case', 'head'),
  [
    ('bert_masked', 'cls.predictions.transform.dense.weight'),
    ('bert_classifier', 'classifier.weight'),
    ('roberta_masked', 'lm_head.layer_norm.weight'),
    ('xlm_roberta_classifier', 'classifier.out_proj.bias'),
  ],
)
def test_heads_are_leaves_of_their_own(tmp_path, case, head):
  model = registry.load(text_models.write(tmp_path / case, case))
  np.testing.assert_array_equal(
    model.params['final'][head], text_models.of(case, 'weights')[head]
  )


def test_buffers_are_skipped(tmp_path):
  name = 'roberta.embeddings.position_ids'
  add = {name: np.arange(16, dtype=np.int64)[None]}
  folder = text_models.write(tmp_path / MASKED, MASKED, add=add)
  model = registry.load(folder)
  assert name not in base.unpack(model.family.keys, model.params)


def test_scales_stored_as_gamma_and_beta(tmp_path):
  case = 'bert_masked'
  weights = text_models.of(case, 'weights')
  old = {
    name.replace('Norm.weight', 'Norm.gamma').replace('Norm.bias', 'Norm.beta')
    if name.startswith('bert.')
    else name: tensor
    for name, tensor in weights.items()
  }
  folder = text_models.write(tmp_path / case, case, drop=weights, add=old)
  model = registry.load(folder)
  inputs = text_models.of(case, 'inputs')
  hidden = base.forward(model.family, model.params, inputs)
  real = inputs['mask'] > 0
  wanted = text_models.golden()[f'{case}/hidden']
  np.testing.assert_allclose(hidden[real], wanted[real], atol=1e-5)
  assert set(base.unpack(model.family.keys, model.params)) == set(old)


def test_a_refusal_calls_the_model_by_its_name(tmp_path):
  folder = text_models.write(tmp_path / MASKED, MASKED, hidden_act='mish')
  with pytest.raises(ValueError, match="RoBERTa config has hidden_act='mish'"):
    registry.load(folder)
