"""The keys of a task file, by the kind of the task, and what may be a value."""

from collections.abc import Mapping

from automerge_jax import trees
from automerge_jax.recipes import nodes
from automerge_jax.recipes.nodes import Node
from automerge_jax.tasks import partition, template
from automerge_jax.tasks.task_rows import Columns
from automerge_jax.tasks.template import Field, Template

MAX_TOKENS = 1024
MAX_NEW_TOKENS = 64
SEPARATOR = '\n\n'
_COMMON = ('name', 'kind', 'data', 'split', 'duplicates', 'force_test_split')
_ASKED = ('prompt', 'max_tokens', 'metric')
_SHOWN = ('few_shot', 'chat_template', 'system_prompt', 'delimiter')
KEYS: Mapping[str, tuple[str, ...]] = {
  'choice': (*_COMMON, *_ASKED, *_SHOWN, 'choices', 'label'),
  'generation': (
    *(*_COMMON, *_ASKED, *_SHOWN),
    *('answer', 'max_new_tokens', 'stop', 'pattern'),
    *('match', 'group', 'ignore_case', 'ignore_punctuation', 'numeric'),
    *('temperature', 'seed'),
  ),
  'perplexity': (*_COMMON, *_ASKED, 'text'),
  'classification': (*_COMMON, *_ASKED, 'choices', 'label'),
  'external': (*_COMMON, 'id', 'command', 'function', 'timeout', 'attempts'),
  'lm_eval': (
    *('name', 'kind', 'task', 'num_fewshot', 'include_path', 'metric'),
    *('max_tokens', 'chat_template', 'system_prompt', 'split'),
    'force_test_split',
  ),
}
NEEDED: Mapping[str, tuple[str, ...]] = {
  'choice': ('data', 'prompt', 'choices', 'label'),
  'generation': ('data', 'prompt', 'answer'),
  'perplexity': ('data', 'text'),
  'classification': ('data', 'prompt', 'choices', 'label'),
  'external': ('data',),
  'lm_eval': ('task',),
}
METRICS: Mapping[str, tuple[str, ...]] = {  # the first is the default
  'choice': ('acc', 'acc_norm', 'acc_bytes', 'acc_tokens'),
  'generation': ('exact_match',),
  'perplexity': ('token', 'byte', 'word'),
  'classification': ('accuracy', 'log_likelihood'),
}


def keys(top: Node) -> tuple[str, dict[str, Node]]:
  """The kind of a task, and its keys.

  Raises:
    ValueError: for a key that is unknown, missing or of another kind.
  """
  every = sorted({key for keys in KEYS.values() for key in keys})
  fields = top.fields(every)
  if 'kind' not in fields:
    top.fail(f'`kind` is missing; expected one of {sorted(KEYS)}')
  kind = fields['kind'].one_of(tuple(KEYS))
  for key, node in fields.items():
    if key not in KEYS[kind]:
      node.fail(
        f'a task of the kind {kind!r} has no such key'
        + trees.nearest(key, KEYS[kind])
      )
  missing = [key for key in NEEDED[kind] if key not in fields]
  if missing:
    top.fail(f'`{missing[0]}` is missing, which the kind {kind!r} needs')
  return kind, fields


def columns(kind: str, fields: Mapping[str, Node], chat: bool) -> Columns:
  """Where the parts of an example are in a row.

  Nothing stands between a prompt and its continuation in a chat, or behind
  white space; else a space.
  """
  prompt = nodes.optional(fields, 'prompt', template_of) or Template(())
  end = prompt.parts[-1] if prompt.parts else ''
  joined = chat or (isinstance(end, str) and end[-1:].isspace())
  delimiter = nodes.optional(fields, 'delimiter', Node.text)
  return Columns(
    kind,
    prompt,
    nodes.optional(fields, 'choices', _choices) or (),
    nodes.optional(fields, 'label', field),
    nodes.optional(fields, 'answer', _answers) or (),
    nodes.optional(fields, 'text', _field_or_template),
    ('' if joined else ' ') if delimiter is None else delimiter,
  )


def template_of(node: Node) -> Template:
  """A template; one that names no field is the same for every row.

  Raises:
    ValueError: if it is none, or names no field.
  """
  made = _parsed(node)
  if all(isinstance(part, str) for part in made.parts):
    node.fail(
      f'{node.text()!r} names no field, so that all items would be alike; '
      'write fields in braces, such as {question}'
    )
  return made


def field(node: Node) -> Field:
  """A field, with or without braces."""
  text = node.text().strip()
  if text.startswith('{') and text.endswith('}'):
    text = text[1:-1]
  try:
    return template.field(text)
  except ValueError as error:
    node.fail(str(error))


def _parsed(node: Node) -> Template:
  text = node.text()
  try:
    return template.parse(text)
  except ValueError as error:
    node.fail(str(error))


def _field_or_template(node: Node) -> Template:
  """A template; a bare name is a field, for a constant makes no sense."""
  if '{' in node.text() or '}' in node.text():
    return template_of(node)
  return Template((field(node),))


def _answers(node: Node) -> tuple[Template, ...]:
  found = node.items() if node.is_list() else [node]
  return tuple(map(_field_or_template, found))


def _choices(node: Node) -> tuple[Template, ...] | Field:
  if node.is_list():
    return tuple(map(_parsed, node.items()))
  return field(node)


def count(node: Node) -> int:
  value = node.integer()
  if value < 1:
    node.fail(f'expected 1 or more, got {value}')
  return value


def duplicates(node: Node) -> str:
  return node.one_of(('refuse', 'drop'))


def few_shot(node: Node) -> tuple[int, int, str]:
  if not node.is_mapping():
    return count(node), 0, SEPARATOR
  fields = node.fields(('n', 'seed', 'separator'))
  if 'n' not in fields:
    node.fail('`n` is missing, the number of examples')
  return (
    count(fields['n']),
    nodes.optional(fields, 'seed', Node.integer) or 0,
    nodes.optional(fields, 'separator', Node.text) or SEPARATOR,
  )


def split_field(fields: Mapping[str, Node]) -> Node | None:
  if 'split' not in fields:
    return None
  return fields['split'].fields(('seed', 'shares', 'field')).get('field')


def split(fields: Mapping[str, Node]) -> tuple[int, Mapping[str, float]]:
  if 'split' not in fields:
    return partition.SEED, partition.SHARES
  split = fields['split'].fields(('seed', 'shares', 'field'))
  seed = nodes.optional(split, 'seed', Node.integer) or 0
  if 'shares' not in split:
    return seed, partition.SHARES
  given = split['shares'].fields(partition.SHARES)
  shares = {name: number(given[name]) for name in given}
  missing = [name for name in partition.SHARES if name not in shares]
  if missing:
    split['shares'].fail(f'`{missing[0]}` is missing; state all four shares')
  if sum(shares.values()) <= 0:
    split['shares'].fail('they add up to nothing')
  return seed, {name: shares[name] for name in partition.SHARES}


def number(node: Node) -> float:
  value = node.scalar()
  if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
    node.fail(f'expected a number from 0 on, got {value!r}')
  return float(value)


def texts(node: Node) -> tuple[str, ...]:
  return tuple(n.text() for n in (node.items() if node.is_list() else [node]))


def arguments(node: Node) -> tuple[str, ...]:
  if not node.is_list():
    node.fail(
      'expected a list of arguments, such as [python, score.py, "{model}", '
      '"{items}", "{out}"]; no shell reads it'
    )
  return texts(node)
