"""The forward entry point against recorded torch models, and its refusals."""

import subprocess
import sys

import numpy as np
import pytest

from experiments import forward
from tests import text_models, vit_test

NAMES = {
  'ids': 'input_ids',
  'mask': 'attention_mask',
  'decoder_ids': 'decoder_input_ids',
  'decoder_mask': 'decoder_attention_mask',
  'segments': 'token_type_ids',
}


def _text(folder, case):
  """A model's folder, inputs as a user writes them, and where tokens are."""
  given = text_models.of(case, 'inputs')
  real = text_models.own(given, 'mask') > 0
  inputs = {NAMES[k]: v for k, v in given.items() if k in NAMES}
  return text_models.write(folder / case, case), inputs, real


@pytest.fixture(scope='module')
def bert(tmp_path_factory):
  return _text(tmp_path_factory.mktemp('m'), 'bert_classifier')


@pytest.fixture(scope='module')
def t5(tmp_path_factory):
  return _text(tmp_path_factory.mktemp('m'), 't5_tied')


@pytest.fixture(scope='module')
def images(tmp_path_factory):
  with np.load(vit_test.GOLDEN) as file:
    golden = dict(file)
  folder = tmp_path_factory.mktemp('m') / 'vit'
  vit_test.write(golden, 'vit', folder)
  pixels = vit_test.pixels(golden, 'vit', '12x32')
  return folder, {'pixel_values': pixels}, golden['vit/12x32/hidden']


@pytest.mark.parametrize('case', ['gpt2_tied', 't5_gated'])
def test_logits_of_a_model_with_a_vocabulary_head(tmp_path, case):
  folder, inputs, real = _text(tmp_path, case)
  outputs = forward.run(folder, inputs)
  assert set(outputs) == {'logits'}
  wanted = text_models.golden()[f'{case}/logits']
  np.testing.assert_allclose(outputs['logits'][real], wanted[real], atol=1e-5)


def test_hidden_states_of_an_encoder(bert):
  folder, inputs, real = bert
  outputs = forward.run(folder, inputs)
  assert set(outputs) == {'last_hidden_state'}
  hidden = outputs['last_hidden_state']
  wanted = text_models.golden()['bert_classifier/hidden']
  np.testing.assert_allclose(hidden[real], wanted[real], atol=1e-5)


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_half_precision_is_close_and_differs(images, dtype):
  folder, inputs, wanted = images
  hidden = forward.run(folder, inputs, dtype)['last_hidden_state']
  assert hidden.dtype == np.float32
  gap = np.abs(hidden - wanted).mean() / wanted.std()
  assert 1e-5 < gap < 0.04


def test_the_command_reads_and_writes_files(images, tmp_path):
  folder, inputs, wanted = images
  np.savez(tmp_path / 'in.npz', **inputs)

  def call(given):
    return subprocess.run(
      [
        *(sys.executable, '-m', 'experiments.forward', f'--model={folder}'),
        *(f'--inputs={given}', f'--out={tmp_path / "out.bin"}'),
      ],
      capture_output=True,
      text=True,
      check=False,
    )

  ran = call(tmp_path / 'in.npz')
  assert ran.returncode == 0, ran.stderr
  with np.load(tmp_path / 'out.bin') as file:
    np.testing.assert_allclose(file['last_hidden_state'], wanted, atol=1e-5)
  assert not list(tmp_path.glob('*.partial'))
  (tmp_path / 'in.npz').write_text('no arrays')
  failed = call(tmp_path / 'in.npz')
  assert failed.returncode == 1
  assert 'is no .npz file' in failed.stderr
  assert 'Traceback' not in failed.stderr


def test_python_objects_are_not_read(tmp_path):
  np.savez(tmp_path / 'x.npz', input_ids=np.array([{}], object))
  with pytest.raises(ValueError, match='plain arrays'):
    forward.read(tmp_path / 'x.npz')


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'input_ids': None}, r"lack \['input_ids'\]"),
    ({'inputs_ids': 0}, r"unknown \['inputs_ids'\]"),
    ({'pixel_values': 0}, r"unknown \['pixel_values'\]"),
    ({'input_ids': np.ones(3, int)}, r'input_ids is int64 \[3\]; expected'),
    ({'input_ids': np.ones((2, 3))}, r'input_ids is float64'),
    ({'input_ids': np.ones((0, 3), int)}, r'input_ids is int64 \[0, 3\]'),
    ({'input_ids': np.full((1, 2), 10**6)}, r'value 1000000; expected 0 to'),
    ({'input_ids': np.full((1, 2), -1)}, r'value -1; expected 0 to'),
    ({'input_ids': np.ones((1, 999), int)}, r'999 tokens a row; .* takes \d+'),
    ({'attention_mask': np.ones((1, 1), int)}, r'attention_mask is int64'),
    ({'attention_mask': 2}, r'attention_mask has the value 2'),
    ({'attention_mask': 0}, r'leaves row 0 without a token'),
  ],
)
def test_odd_texts_are_refused(bert, change, message):
  folder, inputs, _ = bert
  for name, value in change.items():
    if value is None:
      inputs = {k: v for k, v in inputs.items() if k != name}
    elif isinstance(value, int):
      value = np.full_like(inputs['input_ids'], value)
      inputs = inputs | {name: value}
    else:
      keep = {} if name == 'input_ids' else inputs
      inputs = keep | {name: value}
  with pytest.raises(ValueError, match=message):
    forward.run(folder, inputs)


def test_decoders_of_t5_need_their_own_ids(t5):
  folder, inputs, _ = t5
  short = {k: v for k, v in inputs.items() if not k.startswith('decoder')}
  with pytest.raises(ValueError, match=r"lack \['decoder_input_ids'\]"):
    forward.run(folder, short)
  odd = short | {'decoder_input_ids': np.ones((9, 2), int)}
  with pytest.raises(ValueError, match=r'decoder_input_ids 9; expected as'):
    forward.run(folder, odd)


@pytest.mark.parametrize(
  ('pixels', 'message'),
  [
    (np.ones((3, 8, 8)), r'float64 \[3, 8, 8\]; expected floats'),
    (np.ones((1, 3, 8, 8), np.uint8), r'uint8 .*normalised'),
    (np.full((1, 3, 8, 8), np.nan), r'not finite'),
    (np.ones((1, 1, 8, 8)), r'expected 3 channels'),
    (np.ones((1, 3, 8, 2)), r'at least 4 x 4'),
  ],
)
def test_odd_images_are_refused(images, pixels, message):
  with pytest.raises(ValueError, match=message):
    forward.run(images[0], {'pixel_values': pixels})


def test_unknown_models_are_named(tmp_path):
  with pytest.raises(FileNotFoundError, match='no checkpoint'):
    forward.run(tmp_path / 'none', {})
