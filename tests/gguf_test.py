"""GGUF files: names, layout, quantised numbers, tokenizer, damage."""

import gguf as peer
import ml_dtypes
import numpy as np
import pytest
import tokenizers as hf_tokenizers
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from automerge_jax.io import checkpoints, gguf, gguf_tokenizer, tokenizers
from automerge_jax.io import safetensors as st_io
from tests import tiny_gguf


@pytest.fixture(scope='module')
def converted(tmp_path_factory):
  """A tiny file as a Hugging Face folder."""
  folder = tmp_path_factory.mktemp('gguf')
  tiny_gguf.write(folder / 'x.gguf', kind='Q8_0')
  gguf.to_hugging_face(folder / 'x.gguf', folder / 'out', '60KB')
  return folder


def test_query_rows_are_halves_of_a_head_again(tmp_path):
  """Converters store row i and i + half side by side."""
  values = tiny_gguf.write(tmp_path / 'x.gguf')
  half = tiny_gguf.WIDTH // tiny_gguf.HEADS // 2
  with checkpoints.open_checkpoint(tmp_path / 'x.gguf') as checkpoint:
    for part, heads in (('q', tiny_gguf.HEADS), ('k', tiny_gguf.KV_HEADS)):
      stored = values[f'blk.1.attn_{part}.weight']
      have = checkpoint.get(f'model.layers.1.self_attn.{part}_proj.weight')
      for head in range(heads):
        for i in range(half):
          row = head * 2 * half
          np.testing.assert_array_equal(have[row + i], stored[row + 2 * i])
          np.testing.assert_array_equal(
            have[row + half + i], stored[row + 2 * i + 1]
          )
    up = checkpoint.get('model.layers.0.mlp.up_proj.weight')
    np.testing.assert_array_equal(up, values['blk.0.ffn_up.weight'])
    assert not up.flags.writeable


@pytest.mark.parametrize(
  'kind, dtype, tolerance',
  [
    ('F16', np.float16, 1e-3),
    ('BF16', ml_dtypes.bfloat16, 1e-2),
    ('Q8_0', np.float32, 1e-2),
    ('Q4_0', np.float32, 0.2),
  ],
)
def test_numbers_of_each_kind(tmp_path, kind, dtype, tolerance):
  path = tmp_path / 'x.gguf'
  values = tiny_gguf.write(path, kind=kind, tied=False)
  with checkpoints.open_checkpoint(tmp_path) as checkpoint:
    head = checkpoint.get('lm_head.weight')
    assert head.dtype == checkpoint.info('lm_head.weight').dtype == dtype
    want = values['output.weight']
    np.testing.assert_allclose(head.astype(np.float32), want, atol=tolerance)
    assert (head.astype(np.float32) != want).any()
    assert checkpoint.get('model.norm.weight').dtype == np.float32


def test_biases_of_qwen_keep_their_order(tmp_path):
  values = tiny_gguf.write(tmp_path / 'x.gguf', 'qwen2')
  with checkpoints.open_checkpoint(tmp_path) as checkpoint:
    have = checkpoint.get('model.layers.0.self_attn.q_proj.bias')
    np.testing.assert_array_equal(have, values['blk.0.attn_q.bias'])
  config = gguf.config(tmp_path / 'x.gguf')
  assert config['architectures'] == ['Qwen2ForCausalLM']
  assert config['attention_bias']


def test_the_folder_reads_as_a_hugging_face_model(converted):
  assert len(set(st_io.files(converted / 'out').values())) > 1
  with (
    checkpoints.open_checkpoint(converted / 'x.gguf') as source,
    checkpoints.open_checkpoint(converted / 'out') as out,
  ):
    assert source.names() != []
    assert set(source.names()) == set(out.names())
    for name in out.names():
      np.testing.assert_array_equal(out.get(name), source.get(name))
  config = transformers.AutoConfig.from_pretrained(converted / 'out')
  assert type(config) is transformers.LlamaConfig
  assert config.num_key_value_heads == tiny_gguf.KV_HEADS
  assert config.head_dim == tiny_gguf.WIDTH // tiny_gguf.HEADS
  assert config.rms_norm_eps == 1e-6
  assert config.rope_parameters['rope_theta'] == 5000.0
  assert config.vocab_size == tiny_gguf.VOCABULARY
  assert config.tie_word_embeddings
  assert (config.bos_token_id, config.eos_token_id) == (1, 0)


def test_the_tokenizer_has_its_special_tokens_and_template(converted):
  tokenizer = transformers.AutoTokenizer.from_pretrained(converted / 'out')
  assert tokenizer.bos_token == '<|begin|>'
  assert tokenizer.eos_token == tokenizer.pad_token == '<|end|>'
  assert tokenizer.model_max_length == 128
  ids = tokenizer('hello<|end|>')['input_ids']
  tokens = tokenizer.convert_ids_to_tokens(ids)
  assert tokens == ['<|begin|>', 'hell', 'o', '<|end|>']
  assert tokenizer.decode(ids, skip_special_tokens=True) == 'hello'
  message = [{'role': 'user', 'content': 'hi'}]
  assert tokenizer.apply_chat_template(message, tokenize=False) == 'hi'


@settings(max_examples=50, deadline=None)
@given(text=st.text(st.characters(min_codepoint=33, max_codepoint=126)))
def test_texts_come_back(converted, text):
  text = text.replace('|', ' ').strip()
  tokenizer = tokenizers.load(converted / 'out')
  assert tokenizer.decode(tokenizer.encode(text).ids) == text


def _split(pre, text):
  metadata = {
    'tokenizer.ggml.model': 'gpt2',
    'tokenizer.ggml.pre': pre,
    'tokenizer.ggml.tokens': ['a'],
  }
  tokenizer, _ = gguf_tokenizer.convert(metadata.get, 8)
  assert isinstance(tokenizer, hf_tokenizers.Tokenizer)
  words = tokenizer.pre_tokenizer.pre_tokenize_str(text)
  return [word.replace('Ġ', '_') for word, _ in words]


def test_words_and_numbers_are_split_as_named():
  text = "it's 12345 ok"
  assert _split('gpt-2', text) == ['it', "'s", '_12345', '_ok']
  digits = ['1', '2', '3', '4', '5']
  assert _split('smollm', text) == ['it', "'s", '_', *digits, '_ok']
  assert _split('qwen2', text) == ['it', "'s", '_', *digits, '_ok']
  assert _split('llama-bpe', text) == ['it', "'s", '_', '123', '45', '_ok']
  with pytest.raises(ValueError, match="splits texts as 'tekken'"):
    _split('tekken', text)


def test_sentencepiece_is_refused():
  with pytest.raises(ValueError, match="of the kind 'llama', expected gpt2"):
    gguf_tokenizer.convert({'tokenizer.ggml.model': 'llama'}.get, 8)


def test_what_is_not_known_is_named(tmp_path):
  path = tmp_path / 'x.gguf'
  tiny_gguf.write(path, 'gemma')
  with pytest.raises(
    ValueError, match=r"architecture 'gemma'.*expected one of"
  ):
    gguf.open_gguf(path)
  expert = {'blk.0.ffn_gate_exps.weight': np.zeros((2, 4, 32), np.float32)}
  tiny_gguf.write(path, tensors=expert)
  with pytest.raises(ValueError, match=r'ffn_gate_exps.*no dense Llama-like'):
    gguf.open_gguf(path)
  tiny_gguf.write(path, extra={'llama.rope.scaling.type': 'yarn'})
  with pytest.raises(ValueError, match=r'rotary embedding \(yarn'):
    gguf.to_hugging_face(path, tmp_path / 'out')
  assert [p.name for p in tmp_path.iterdir()] == ['x.gguf']


@pytest.mark.parametrize('share', [0.0, 0.001, 0.05, 0.3, 0.99])
def test_truncated_file_is_named(tmp_path, share):
  path = tmp_path / 'x.gguf'
  tiny_gguf.write(path)
  whole = path.read_bytes()
  path.write_bytes(whole[: int(share * len(whole))])
  with pytest.raises(ValueError, match=r'x\.gguf is damaged'):
    checkpoints.open_checkpoint(path)


def test_a_part_of_a_model_is_refused(tmp_path):
  tiny_gguf.write(tmp_path / 'x.gguf', parts=3)
  with pytest.raises(ValueError, match='one of 3 parts; join them'):
    gguf.open_gguf(tmp_path / 'x.gguf')


def test_several_files_want_a_choice(tmp_path):
  for name in 'ab':
    (tmp_path / f'{name}.gguf').write_bytes(b'')
  with pytest.raises(ValueError, match=r"several models: \['a.gguf'"):
    checkpoints.open_checkpoint(tmp_path)


def test_tables_name_what_the_format_names():
  names = peer.get_tensor_name_map(peer.MODEL_ARCH.LLAMA, 1)
  for stored, name in (
    ('token_embd', 'model.embed_tokens'),
    ('blk.0.attn_q', 'model.layers.0.self_attn.q_proj'),
    ('blk.0.ffn_down', 'model.layers.0.mlp.down_proj'),
    ('blk.0.ffn_norm', 'model.layers.0.post_attention_layernorm'),
    ('output', 'lm_head'),
  ):
    assert names.get_name(name) == stored
    assert gguf.hugging_face_name(f'{stored}.weight', '') == f'{name}.weight'
