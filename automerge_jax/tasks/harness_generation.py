"""Generated answers judged by lm_eval's own filters and metrics."""

import dataclasses
import functools
from typing import Any

from automerge_jax.tasks import (
  answers,
  generation,
  harness_docs,
  partition,
  sources,
)
from automerge_jax.tasks.harness_docs import Wanted
from automerge_jax.tasks.partition import Item
from automerge_jax.tasks.sources import Example

MAX_NEW_TOKENS = 256  # where a task says nothing, as in lm_eval
_LENGTHS = (
  'max_gen_toks',
  'max_new_tokens',
  'max_tokens',
  'max_completion_tokens',
)
_KNOWN = ('until', 'do_sample', 'temperature', *_LENGTHS)
_NOTHING = ('', '[invalid]')  # what lm_eval's filters give for no answer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task(generation.Task):
  """A generation task whose texts lm_eval reads and scores.

  Attributes:
    wanted: the task of lm_eval.
    measure: name of its metric.
    chain: name of its chain of filters.
  """

  wanted: Wanted
  measure: str
  chain: str

  def read(self, text: str, item: Item) -> answers.Reading:
    """What lm_eval makes of a text: its answer and the metric's value."""
    from lm_eval.api.instance import Instance

    task = harness_docs.load(self.wanted)
    doc = _documents(self.wanted, self.name)[item.id]
    asked = Instance('generate_until', doc, (item.text, {}), 0, resps=[text])
    (chain,) = (f for f in task._filters if f.name == self.chain)
    chain.apply([asked])
    found = asked.filtered_resps[self.chain]
    values = task.process_results(doc, [found])
    answer = found if isinstance(found, str) else str(found)
    none = answer.strip() in _NOTHING
    return answers.Reading(None if none else answer, values[self.measure])


def make(name: str, wanted: Wanted, task: Any) -> Task:
  """The task here that asks for texts as the task of lm_eval does.

  Raises:
    ValueError: for sampling that is not done here, a metric that has no value
      for single items, or an unknown chain of filters.
  """
  told = dict(task.config.generation_kwargs or {})
  strange = sorted(set(told) - set(_KNOWN))
  sampled = bool(told.get('do_sample', told.get('temperature', 0) > 0))
  if sampled and strange:
    raise ValueError(
      f'the task {wanted.task!r} samples with {strange}; only a temperature is '
      'known here'
    )
  until = told.get('until') or []
  measure, _, chain = wanted.metric.partition(',')
  chains = [f.name for f in task._filters]
  if chain and chain not in chains:
    raise ValueError(
      f'the task {wanted.task!r} has no filter {chain!r}; it has {chains}'
    )
  better = task.higher_is_better()
  measure = measure or next((m for m in better if better[m]), '')
  if not better.get(measure):
    raise ValueError(
      f'the task {wanted.task!r} has no metric of which more is better: '
      f'{list(better)}'
    )
  return Task(
    name=name,
    max_tokens=wanted.max_tokens,
    max_new_tokens=int(
      next((told[n] for n in _LENGTHS if told.get(n)), MAX_NEW_TOKENS)
    ),
    stop=tuple(s for s in ([until] if isinstance(until, str) else until) if s),
    delimiter='' if wanted.chat_template else task.config.target_delimiter,
    special_tokens=not wanted.chat_template,
    temperature=float(told.get('temperature', 1.0)) if sampled else 0.0,
    wanted=wanted,
    measure=measure,
    chain=chain or chains[0],
  )


def targets(task: Any, doc: Any) -> tuple[str, ...]:
  """Accepted answers to a document."""
  found = task.doc_to_target(doc)
  if task.config.doc_to_choice is not None and isinstance(found, int):
    found = task.doc_to_choice(doc)[found]
  several = found if isinstance(found, list | tuple) else [found]
  return tuple(str(one) for one in several)


@functools.cache
def _documents(wanted: Wanted, name: str) -> dict[str, Any]:
  """Documents by the ids of their items."""
  task = harness_docs.load(wanted)
  found = {}
  groups, asked = harness_docs.collected(wanted)
  for group, docs in groups.items():
    for doc, one in zip(docs, asked[group], strict=True):
      example = Example(str(one.prompt), 0, answers=targets(task, doc))
      found[partition.item_id(name, sources.content(example))] = doc
  return found
