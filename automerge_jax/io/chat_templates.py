"""Chat templates: those of the models merged, and the formats by name.

The named ones write the published formats. mergekit 0.1.5's of the same names
write the same but for white space: line breaks of its own in `alpaca`, `llama3`
and `exaone`, where its `alpaca` prompt also runs into the last message.
"""

import collections
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from automerge_jax import trees

FILE = 'chat_template.jinja'
_CONFIG = 'tokenizer_config.json'

_ALPACA = """\
{%- for message in messages -%}
{%- if not loop.first %}{{ '\\n\\n' }}{% endif -%}
{%- if message.role == 'user' %}{{ '### Instruction:\\n' }}
{%- elif message.role == 'assistant' %}{{ '### Response:\\n' }}{% endif -%}
{{- message.content | trim -}}
{%- endfor -%}
{%- if add_generation_prompt and messages[-1].role != 'assistant' -%}
{{- '\\n\\n### Response:\\n' -}}
{%- endif -%}
"""
_CHATML = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' -}}
{{- message.content + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif -%}
"""
_EXAONE = """\
{%- if messages and messages[0].role != 'system' -%}
{{- '[|system|][|endofturn|]\\n' -}}
{%- endif -%}
{%- for message in messages -%}
{{- '[|' + message.role + '|]' + message.content -}}
{%- if message.role != 'user' %}{{ '[|endofturn|]' }}{% endif -%}
{{- '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '[|assistant|]' }}{% endif -%}
"""
_LLAMA3 = """\
{{- bos_token -}}
{%- for message in messages -%}
{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' -}}
{{- message.content | trim + '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
{%- endif -%}
"""
_MISTRAL = """\
{{- bos_token -}}
{%- set turns = namespace(system='', roles=['assistant', 'user']) -%}
{%- for message in messages -%}
{%- if loop.first and message.role == 'system' -%}
{%- set turns.system = message.content + '\\n\\n' -%}
{%- else -%}
{%- if message.role != turns.roles[1] -%}
{{- raise_exception('messages must alternate: user, assistant, user, ...') -}}
{%- endif -%}
{%- if message.role == 'user' -%}
{{- ' [INST] ' + turns.system + message.content + ' [/INST]' -}}
{%- set turns.system = '' -%}
{%- else -%}
{{- ' ' + message.content + eos_token -}}
{%- endif -%}
{%- set turns.roles = turns.roles | reverse | list -%}
{%- endif -%}
{%- endfor -%}
"""
NAMED: Mapping[str, str] = {
  'alpaca': _ALPACA,
  'chatml': _CHATML,
  'exaone': _EXAONE,
  'llama3': _LLAMA3,
  'mistral': _MISTRAL,
}


def read(folder: str | pathlib.Path) -> str | None:
  """Chat template of a Hugging Face folder, the default one if it has several.

  Raises:
    ValueError: for a damaged `tokenizer_config.json`.
  """
  folder = pathlib.Path(folder)
  if (folder / FILE).is_file():
    return (folder / FILE).read_text(encoding='utf-8')
  if not (folder / _CONFIG).is_file():
    return None
  try:
    content: Any = json.loads((folder / _CONFIG).read_text(encoding='utf-8'))
    found = content.get('chat_template')
    if isinstance(found, list):
      found = {t['name']: t['template'] for t in found}.get('default')
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise ValueError(
      f'{folder / _CONFIG} is damaged: {type(error).__name__}: {error}'
    ) from error
  return found


def choose(
  option: str | None, folders: Sequence[str | pathlib.Path]
) -> str | None:
  """The template that a recipe's `chat_template` stands for.

  Args:
    option: 'auto' for the one that most of the models have (the first such in
      their order; None if none has any), a name in NAMED, or a template.
    folders: of the models, in order.

  Raises:
    ValueError: for an unknown name.
  """
  if option is None:
    return None
  if option == 'auto':
    found = [read(folder) for folder in folders]
    count = collections.Counter(t for t in found if t is not None)
    return max(count, key=count.__getitem__, default=None)
  if option in NAMED:
    return NAMED[option]
  if '{' not in option:
    raise ValueError(
      f'unknown chat_template {option!r}; expected a jinja template or a name'
      + trees.nearest(option, {'auto', *NAMED})
    )
  return option
