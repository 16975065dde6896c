"""The real SmolLM2-135M from its GGUF file: an answer, and its tokenizer."""

import json

import jax
import jax.numpy as jnp
import jinja2
import numpy as np
import pytest
import tokenizers

from automerge_jax.io import assets, gguf
from automerge_jax.models import base, registry


@pytest.fixture(scope='module')
def files():
  return gguf.companions(assets.fetch('smollm2') / 'model.gguf')


@pytest.fixture(scope='module')
def tokenizer(files):
  return tokenizers.Tokenizer.from_str(files['tokenizer.json'])


def _prompt(files, question):
  """The question as the model's chat template writes it."""
  template = json.loads(files['tokenizer_config.json'])['chat_template']
  return (
    jinja2.Environment(autoescape=False)
    .from_string(template)
    .render(
      messages=[{'role': 'user', 'content': question}],
      add_generation_prompt=True,
    )
  )


def test_the_capital_of_france(files, tokenizer):
  family, params = registry.load(assets.fetch('smollm2') / 'model.gguf')
  assert family.max_tokens == 8192
  end = tokenizer.token_to_id('<|im_end|>')
  prompt = _prompt(files, 'What is the capital of France?')
  ids = tokenizer.encode(prompt, add_special_tokens=False).ids

  @jax.jit
  def extend(params, tokens, start, memory):
    slot = start + jnp.arange(tokens.shape[1])[None]
    inputs = {'ids': tokens, 'mask': jnp.ones_like(tokens)}
    inputs |= {'positions': slot, 'slot': slot}
    hidden, memory = base.extend(family, params, inputs, memory)
    return family.logits(params, hidden[:, -1]).argmax(-1)[:, None], memory

  params = jax.tree.map(jnp.asarray, params)
  tokens = np.array([ids], np.int32)
  memory = family.cache(params, {'ids': tokens}, len(ids) + 10)
  answer, start = [], 0
  while len(answer) < 10 and answer[-1:] != [end]:
    chosen, memory = extend(params, tokens, start, memory)
    start += tokens.shape[1]
    tokens = np.asarray(chosen, np.int32)
    answer.append(int(tokens[0, 0]))
  assert tokenizer.decode(answer) == 'The capital of France is Paris.'
  assert answer[-1] == end


@pytest.mark.parametrize(
  'text',
  [
    'What is the capital of France?',
    ' In 1789, 3.14159 and -42 came to 12,345,678.\n\n\tTabs too.  Two blanks',
    'Naïve café: 東京 — über ß ﷽ \U0001f469\u200d\U0001f4bb é',
    '<|im_start|>user\n5 + 7?<|im_end|>\n<|im_start|>assistant\n12<|im_end|>',
    '',
  ],
)
def test_tokenizer_round_trips(tokenizer, text):
  ids = tokenizer.encode(text, add_special_tokens=False).ids
  assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_digits_and_special_tokens_stand_alone(tokenizer):
  coded = tokenizer.encode('<|im_start|>2026<|im_end|>')
  assert coded.tokens == ['<|im_start|>', '2', '0', '2', '6', '<|im_end|>']
  assert tokenizer.get_vocab_size() == 49152
