"""A task of the user's own: a short YAML beside JSONL data, see docs/tasks.md.

Read strictly: what is not understood is an error that names file and line.
"""

import hashlib
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

from automerge_jax import trees
from automerge_jax.recipes import nodes
from automerge_jax.recipes.nodes import Node
from automerge_jax.tasks import (
  choice,
  classification,
  external,
  generation,
  jsonl,
  partition,
  perplexity,
  prompts,
  sources,
  task_data,
  task_grammar,
  task_rows,
  template,
)
from automerge_jax.tasks.definitions import Definition
from automerge_jax.tasks.jsonl import Row
from automerge_jax.tasks.sources import Example, Source


def read(path: pathlib.Path, *, force_test_split: bool = False) -> Definition:
  """The task of a YAML file, with its data.

  Args:
    path: of the file; what it names is relative to it.
    force_test_split: as the key of this name.

  Raises:
    FileNotFoundError: if the file, or one that it names, is missing.
    ValueError: for what is wrong, naming file and line.
  """
  text, top = _document(path)
  kind, fields = task_grammar.keys(top)
  flag = nodes.optional(fields, 'force_test_split', Node.flag)
  forced = force_test_split or bool(flag)
  if kind == 'lm_eval':
    return _lm_eval(fields, path, forced)
  return _Reader(kind, fields, path, forced, text).definition()


def _document(path: pathlib.Path) -> tuple[str, Node]:
  if not path.is_file():
    folder = path.parent
    beside = [p.name for p in folder.glob('*.y*ml')] if folder.is_dir() else []
    near = trees.nearest(path.name, beside)
    raise FileNotFoundError(f'{path} is no file{near}')
  try:
    text = path.read_text(encoding='utf-8')
  except UnicodeDecodeError as error:
    raise ValueError(f'{path} is not UTF-8: {error}; save it so') from error
  found = nodes.documents(text, str(path))
  if len(found) != 1 or not found[0].is_mapping():
    raise ValueError(
      f'{path}: expected the keys of one task, such as `kind: choice`'
    )
  return text, found[0]


class _Reader:
  """One task file being read."""

  def __init__(
    self,
    kind: str,
    fields: Mapping[str, Node],
    path: pathlib.Path,
    forced: bool,
    text: str,
  ):
    self.kind, self.fields, self.path, self.forced = kind, fields, path, forced
    self.digest = hashlib.sha256(text.encode())
    self.name = _name(fields, path)
    self.chat = self._get('chat_template', Node.flag, False)
    if 'system_prompt' in fields and not self.chat:
      fields['system_prompt'].fail('it needs `chat_template: true`')
    self.columns = task_grammar.columns(kind, fields, self.chat)
    self.id = self._get('id', task_grammar.template_of, template.parse('{id}'))

  def definition(self) -> Definition:
    rows = task_data.rows_by_group(self.fields, self._rows, self.forced)
    found = {
      group: [(row, self._example(row)) for row in mine]
      for group, mine in rows.items()
    }
    if self._get('duplicates', task_grammar.duplicates, 'refuse') == 'refuse':
      task_data.refuse_duplicates(found)
    groups = {g: tuple(e for _, e in pairs) for g, pairs in found.items()}
    source = Source(
      self._classes(),
      groups.pop('train', ()),
      groups.pop('heldout', ()),
      groups,
    )
    seed, shares = task_grammar.split(self.fields)
    made = Definition(self._task(), source, seed, shares)
    self._check_splits(made)
    return made._replace(
      prompts=self._prompts(made), fingerprint=self.digest.hexdigest()
    )

  def _get(self, key: str, read: Callable[[Node], Any], default: Any) -> Any:
    return read(self.fields[key]) if key in self.fields else default

  def _rows(self, node: Node) -> list[Row]:
    path = self.path.parent / node.text()
    try:
      rows = jsonl.read(path)
    except FileNotFoundError as error:
      line = node.node.start_mark.line + 1
      raise FileNotFoundError(
        f'{node.where}:{line}: {node.path}: {error}'
      ) from None
    self.digest.update(hashlib.sha256(path.read_bytes()).digest())
    return rows

  def _example(self, row: Row) -> Example:
    if self.kind == 'external':
      return Example(task_data.at(row, template.render, self.id, row.fields), 0)
    return task_data.at(row, task_rows.example, self.columns, row.fields)

  def _classes(self) -> tuple[str, ...]:
    if self.kind != 'classification':
      return ()
    return tuple(node.text() for node in self.fields['choices'].items())

  def _task(self) -> Any:
    most = self._get('max_tokens', task_grammar.count, task_grammar.MAX_TOKENS)
    if self.kind == 'external':
      return _external(self.name, self.fields, self.path)
    if self.kind == 'generation':
      return _generation(
        self.name, most, self.fields, self.columns.delimiter, self.chat
      )
    valid = task_grammar.METRICS[self.kind]
    metric = self._get('metric', lambda n: n.one_of(valid), valid[0])
    if self.kind == 'classification':
      return classification.Task(self.name, self._classes(), most, metric)
    if self.kind == 'choice':
      return choice.Task(self.name, most, metric)
    return perplexity.Task(self.name, most, metric)

  def _check_splits(self, made: Definition) -> None:
    parts = _parts(made)
    empty = [s for s in ('search', 'select', 'heldout') if not parts[s]]
    if empty:
      sizes = {split: len(items) for split, items in parts.items()}
      self.fields['data'].fail(
        f'the splits {empty} are empty, of {sizes}; give more items or other '
        '`split.shares`'
      )

  def _prompts(self, made: Definition) -> Mapping[str, str | prompts.Chat]:
    none = (0, 0, '')
    count, seed, separator = self._get('few_shot', task_grammar.few_shot, none)
    if not count and not self.chat:
      return {}
    shown = self._shown(made, count, seed) if count else []
    system = self._get('system_prompt', Node.text, None)
    source = made.source
    groups = (source.train, source.test, *source.stated.values())
    return {
      partition.item_id(self.name, sources.content(example)): (
        prompts.chat(example.text, shown, system)
        if self.chat
        else prompts.plain(example.text, shown, separator)
      )
      for group in groups
      for example in group
    }

  def _shown(
    self, made: Definition, count: int, seed: int
  ) -> list[tuple[str, str]]:
    train = _parts(made)['train']
    if count > len(train):
      self.fields['few_shot'].fail(
        f'{count} examples asked for; they come from the split train, which '
        f'has {len(train)}'
      )
    return [
      (item.text, task_rows.answer_of(self.columns, Example(*item[1:])))
      for item in partition.stratified(train, seed)[:count]
    ]


def _parts(made: Definition) -> Mapping[str, tuple[partition.Item, ...]]:
  return partition.partition(
    made.task.name, made.source, made.seed, made.shares
  )


def _name(fields: Mapping[str, Node], path: pathlib.Path) -> str:
  name = nodes.optional(fields, 'name', Node.text) or path.stem
  if not re.fullmatch(r'[\w.-]+', name):
    fields.get('name', fields['kind']).fail(
      f'the name {name!r}; expected letters, digits and . _ - only'
    )
  return name


def _generation(
  name: str,
  most: int,
  fields: Mapping[str, Node],
  delimiter: str,
  chat: bool,
) -> generation.Task:
  readers: dict[str, Callable[[Node], Any]] = {
    'max_new_tokens': task_grammar.count,
    'stop': task_grammar.texts,
    'pattern': Node.text,
    'match': Node.text,
    'group': Node.integer,
    'ignore_case': Node.flag,
    'ignore_punctuation': Node.flag,
    'numeric': Node.flag,
    'temperature': task_grammar.number,
    'seed': Node.integer,
    'metric': Node.text,
  }
  options: dict[str, Any] = {'max_new_tokens': task_grammar.MAX_NEW_TOKENS} | {
    key: read(fields[key]) for key, read in readers.items() if key in fields
  }
  try:
    return generation.Task(
      name=name,
      max_tokens=most,
      delimiter=delimiter,
      special_tokens=not chat,
      **options,
    )
  except ValueError as error:
    fields.get('pattern', fields['kind']).fail(str(error))


def _external(
  name: str, fields: Mapping[str, Node], path: pathlib.Path
) -> external.Task:
  readers: dict[str, Callable[[Node], Any]] = {
    'command': task_grammar.arguments,
    'function': Node.text,
    'timeout': task_grammar.number,
    'attempts': task_grammar.count,
  }
  options = {
    key: read(fields[key]) for key, read in readers.items() if key in fields
  }
  try:
    return external.Task(name, folder=str(path.parent.resolve()), **options)
  except ValueError as error:
    fields['kind'].fail(str(error))


def _lm_eval(
  fields: Mapping[str, Node], path: pathlib.Path, forced: bool
) -> Definition:
  from automerge_jax.tasks import harness  # needs lm_eval

  include = nodes.optional(fields, 'include_path', Node.text)
  readers: dict[str, Callable[[Node], Any]] = {
    'num_fewshot': Node.integer,
    'metric': Node.text,
    'max_tokens': task_grammar.count,
    'chat_template': Node.flag,
    'system_prompt': Node.text,
  }
  options = {
    key: read(fields[key]) for key, read in readers.items() if key in fields
  }
  seed, shares = task_grammar.split(fields)
  if task_grammar.split_field(fields) is not None:
    fields['split'].fail('lm_eval tasks have splits of their own; no `field`')
  wanted = harness.Wanted(
    fields['task'].text(),
    name=_name(fields, path) if 'name' in fields else '',
    include_path=None if include is None else str(path.parent / include),
    **options,
  )
  try:
    made = harness.read(
      wanted, force_test_split=forced, seed=seed, shares=shares
    )
  except ValueError as error:
    fields['task'].fail(str(error))
  return made
