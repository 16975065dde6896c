"""Chat templates by name, against mergekit's and the published formats."""

import json
import pathlib

import jinja2.sandbox
import numpy as np
import pytest

from automerge_jax.io import chat_templates

GOLDEN = (
  pathlib.Path(__file__).parent / 'testdata' / 'vocabulary_mergekit_0.1.5.npz'
)
TURNS = {
  'S': {'role': 'system', 'content': 'Be kind.'},
  'U': {'role': 'user', 'content': 'How are you?'},
  'A': {'role': 'assistant', 'content': 'Very well.\nAnd you?'},
}


class Refused(Exception):
  """What a template raises."""


def render(template, turns, prompt=False):
  """As transformers renders it."""

  def refuse(message):
    raise Refused(message)

  environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True
  )
  return environment.from_string(template).render(
    messages=[TURNS[t] for t in turns],
    add_generation_prompt=prompt,
    bos_token='<s>',
    eos_token='</s>',
    raise_exception=refuse,
  )


@pytest.mark.parametrize('name', chat_templates.NAMED)
def test_same_as_mergekits_but_for_white_space(name):
  with np.load(GOLDEN) as recorded:
    theirs = recorded[f'template/{name}'].tolist()
  ours = [
    render(chat_templates.NAMED[name], turns, prompt)
    for turns in ('U', 'UA', 'SU', 'SUAU')
    for prompt in (False, True)
  ]
  assert [''.join(t.split()) for t in ours] == [
    ''.join(t.split()) for t in theirs
  ]
  if name in ('chatml', 'mistral'):
    assert ours == theirs


@pytest.mark.parametrize(
  ('name', 'expected'),
  [
    (
      'alpaca',
      'Be kind.\n\n### Instruction:\nHow are you?\n\n### Response:\n',
    ),
    (
      'llama3',
      '<s><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>'
      '<|start_header_id|>user<|end_header_id|>\n\nHow are you?<|eot_id|>'
      '<|start_header_id|>assistant<|end_header_id|>\n\n',
    ),
    (
      'exaone',
      '[|system|]Be kind.[|endofturn|]\n[|user|]How are you?\n[|assistant|]',
    ),
  ],
)
def test_published_formats(name, expected):
  assert render(chat_templates.NAMED[name], 'SU', prompt=True) == expected


def test_mistral_refuses_turns_that_do_not_alternate():
  for turns in ('UU', 'A', 'SA', 'UAA'):
    with pytest.raises(Refused, match='alternate'):
      render(chat_templates.NAMED['mistral'], turns)


def test_choice(tmp_path):
  folders = []
  for i, template in enumerate((None, '{{ 1 }}', '{{ 2 }}', '{{ 2 }}')):
    folders.append(tmp_path / str(i))
    folders[i].mkdir()
    config = {} if template is None else {'chat_template': template}
    (folders[i] / 'tokenizer_config.json').write_text(json.dumps(config))
  choose = chat_templates.choose
  assert choose(None, folders) is None
  assert choose('auto', folders[:1]) is None
  assert choose('auto', folders) == '{{ 2 }}'
  assert choose('auto', folders[:3]) == '{{ 1 }}'
  assert choose('auto', folders[2::-1]) == '{{ 2 }}'
  assert choose('{{ 3 }}', folders) == '{{ 3 }}'
  assert choose('chatml', folders) == chat_templates.NAMED['chatml']
  with pytest.raises(ValueError, match="did you mean 'chatml'"):
    choose('chat-ml', folders)


def test_read_knows_every_place(tmp_path):
  assert chat_templates.read(tmp_path) is None
  config = tmp_path / 'tokenizer_config.json'
  several = [{'name': n, 'template': n * 2} for n in ('tool_use', 'default')]
  config.write_text(json.dumps({'chat_template': several}))
  assert chat_templates.read(tmp_path) == 'defaultdefault'
  (tmp_path / 'chat_template.jinja').write_text('{{ 4 }}')
  assert chat_templates.read(tmp_path) == '{{ 4 }}'
  (tmp_path / 'chat_template.jinja').unlink()
  config.write_text('{"chat_template": [3]}')
  with pytest.raises(ValueError, match='damaged'):
    chat_templates.read(tmp_path)
