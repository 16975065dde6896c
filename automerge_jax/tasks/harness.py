"""Any task of lm-evaluation-harness as items: `lm_eval:TASK[:SHOTS]`.

Validation documents, or else training documents, are searched on; test
documents are held out, prompted exactly as lm_eval prompts them. Examples in
the prompts of items that are searched on come from items that are not.
"""

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from automerge_jax.tasks import (
  choice,
  definitions,
  harness_docs,
  harness_generation,
  partition,
  perplexity,
  sources,
)
from automerge_jax.tasks.definitions import Definition
from automerge_jax.tasks.harness_docs import Asked, Wanted
from automerge_jax.tasks.prompts import Chat
from automerge_jax.tasks.sources import Example, Source

_UNITS = {
  'perplexity': 'token',
  'word_perplexity': 'word',
  'byte_perplexity': 'byte',
  'bits_per_byte': 'byte',
}
_OWN = ('acc_tokens',)  # which lm_eval does not have, of any multiple choice


def reference(text: str) -> Wanted:
  """Reads `lm_eval:TASK[:SHOTS]`.

  Raises:
    ValueError: if it is none.
  """
  found = re.fullmatch(r'lm_eval:([^:]+)(?::(\d+))?', text)
  if found is None:
    raise ValueError(
      f'{text!r}; expected lm_eval:TASK or lm_eval:TASK:SHOTS, such as '
      'lm_eval:arc_easy:5'
    )
  name, shots = found.groups()
  return Wanted(name, None if shots is None else int(shots))


def read(
  wanted: Wanted,
  *,
  force_test_split: bool = False,
  seed: int = partition.SEED,
  shares: Mapping[str, float] = partition.SHARES,
) -> Definition:
  """A task of lm_eval with its documents.

  Args:
    wanted: which, and how it is asked.
    force_test_split: whether test documents may be searched on.
    seed: of the splits.
    shares: of the splits that are cut, in proportion.

  Raises:
    ImportError: without lm_eval.
    ValueError: if it cannot be loaded or has no equal here, or if only test
      documents could be searched on.
  """
  task = harness_docs.load(wanted)
  docs, asked = harness_docs.collected(wanted)
  names = _groups(wanted, docs, force_test_split)
  made = _task(wanted, task)
  examples = {
    group: [
      _example(wanted, task, made, doc, one)
      for doc, one in zip(docs[split], asked[split], strict=True)
    ]
    for group, split in names.items()
  }
  source = Source(
    (),
    tuple(examples['train']),
    tuple(examples.get('test', ())),
    {'validation': tuple(examples['validation'])}
    if 'validation' in examples
    else {},
  )
  definition = Definition(made, source, seed, shares)
  found = _prompts(wanted, task, definition, names, examples)
  return definition._replace(
    prompts=found, fingerprint=_fingerprint(wanted, source, found)
  )


def _groups(
  wanted: Wanted, docs: Mapping[str, list[Any]], forced: bool
) -> dict[str, str]:
  """Splits of lm_eval by group; there is always a 'train' to cut from."""
  if not docs:
    raise ValueError(f'the task {wanted.task!r} of lm_eval has no documents')
  if 'train' in docs:
    return {split: split for split in docs}
  if 'validation' not in docs and not forced:
    raise ValueError(
      f'the task {wanted.task!r} of lm_eval has test documents only: '
      + definitions.TEST_SPLIT
    )
  pool = 'validation' if 'validation' in docs else 'test'
  return {'train': pool} | {split: split for split in docs if split != pool}


def _task(wanted: Wanted, task: Any) -> Any:
  """What the task is here."""
  name = wanted.name or _name(wanted, task)
  kind = task.OUTPUT_TYPE
  metrics = list(task.higher_is_better())
  if kind == 'multiple_choice':
    metrics += [m for m in _OWN if m not in metrics]
  metric = wanted.metric.partition(',')[0]
  if metric and metric not in metrics:
    raise ValueError(
      f'the task {wanted.task!r} has no metric {metric!r}; it has {metrics}'
    )
  if kind == 'generate_until':
    return harness_generation.make(name, wanted, task)
  if callable(task.config.process_results):
    raise ValueError(
      f'the task {wanted.task!r} works out its scores by a function of its own '
      'from likelihoods, which has no equal here; score it once with '
      'experiments.lm_eval'
    )
  if kind == 'multiple_choice':
    known = [m for m in metrics if m in choice.METRICS]
    if metric and metric not in known:
      raise ValueError(
        f'metric {metric!r} has no value for single items here; of the task '
        f'{wanted.task!r} there is {known}'
      )
    return choice.Task(
      name, wanted.max_tokens, metric or next(iter(known), 'acc')
    )
  known = [m for m in metrics if m in _UNITS]
  if (metric and metric not in known) or not known:
    raise ValueError(
      f'of the metrics {metrics} of the task {wanted.task!r} there is '
      f'{known} here'
    )
  return perplexity.Task(name, wanted.max_tokens, _UNITS[metric or known[0]])


def _name(wanted: Wanted, task: Any) -> str:
  name = os.path.basename(str(task.config.task or wanted.task))
  return name + (f'-{wanted.num_fewshot}shot' if wanted.num_fewshot else '')


def _example(
  wanted: Wanted, task: Any, made: Any, doc: Any, asked: Asked
) -> Example:
  """A document as an example, without others in front."""
  if made.kind == 'generation':
    return Example(
      _text(asked.prompt), 0, answers=harness_generation.targets(task, doc)
    )
  if made.kind == 'perplexity':
    *context, text = asked.requests[0]
    return Example(context[0] if context else '', 0, choices=(text,))
  count = len(task.doc_to_choice(doc))
  pairs = asked.requests[:count]
  if len({context for context, _ in pairs}) > 1:
    raise ValueError(
      f'the task {wanted.task!r} has prompts that differ between the choices, '
      'which has no equal here; score it once with experiments.lm_eval'
    )
  gold = task.doc_to_target(doc)
  choices = tuple(continuation for _, continuation in pairs)
  if isinstance(gold, str) and gold in task.doc_to_choice(doc):
    gold = task.doc_to_choice(doc).index(gold)
  if not isinstance(gold, int) or not 0 <= gold < count:
    raise ValueError(
      f'a document of the task {wanted.task!r} has the answer {gold!r}; '
      f'expected one of its {count} choices'
    )
  return Example(_text(asked.prompt), gold, choices=choices)


def _prompts(
  wanted: Wanted,
  task: Any,
  definition: Definition,
  names: Mapping[str, str],
  examples: Mapping[str, Sequence[Example]],
) -> dict[str, str | Chat]:
  """Prompts with examples in front, or as chats, by item id."""
  shots = task.config.num_fewshot
  if not shots and not wanted.chat_template:
    return {}
  docs, _ = harness_docs.collected(wanted)
  ids = {
    group: [
      partition.item_id(definition.task.name, sources.content(e)) for e in some
    ]
    for group, some in examples.items()
  }
  drawn = harness_docs.drawn_from(task, docs)
  cut = names.get('validation', names['train'])
  shown = None
  if shots and drawn == cut:
    # Those that are cut off for training, so that no answer leaks.
    own = {item.id for item in _parts(definition)['train']}
    pairs = zip(docs[names['train']], ids['train'], strict=True)
    shown = [doc for doc, key in pairs if key in own]
    if shots >= len(shown):
      raise ValueError(
        f'{shots} examples asked for; the task {wanted.task!r} has '
        f'{len(shown)} documents that they may come from'
      )
  found = {}
  for group, split in names.items():
    asked = harness_docs.ask(
      wanted,
      task,
      docs[split],
      shots=shots,
      chat=wanted.chat_template,
      # Documents held out by the publisher get the very prompts of lm_eval.
      shown=None if group == 'test' else shown,
      own_split=drawn == split,
    )
    for key, one in zip(ids[group], asked, strict=True):
      found[key] = one.prompt
  return found


def _parts(made: Definition) -> Mapping[str, tuple[partition.Item, ...]]:
  return partition.partition(
    made.task.name, made.source, made.seed, made.shares
  )


def _text(prompt: str | Chat) -> str:
  assert isinstance(prompt, str)
  return prompt


def _fingerprint(
  wanted: Wanted, source: Source, found: Mapping[str, Any]
) -> str:
  digest = hashlib.sha256(repr(wanted).encode())
  for group in (source.train, source.test, *source.stated.values()):
    digest.update(repr(group).encode())
  digest.update(repr(sorted(found.items())).encode())
  return digest.hexdigest()
