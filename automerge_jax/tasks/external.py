"""Scores from outside: a command or a Python function that gets a checkpoint.

For what cannot run in JAX: another inference engine, a judge, generated code in
a sandbox of the scorer's own. The scorer is a process with a time limit; its
whole process group is killed at the limit. It is started without a shell and
answers with a JSON file, `{item id: score}` or `{item id: {"score": ...,
"log_likelihood": ..., "flags": [...]}}`, for exactly the items asked for.
"""

import dataclasses
import json
import math
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from automerge_jax import trees

PLACEHOLDERS = ('model', 'items', 'out')
FLAGS = ('truncated', 'unparsed')
_FIELDS = ('score', 'log_likelihood', 'flags')
_TAIL = 2000  # characters of a scorer's output that a failure quotes


@dataclasses.dataclass(frozen=True)
class Task:
  """A task whose items are scored by another program.

  Attributes:
    name: of the task.
    command: arguments of a program, in which {model} stands for the checkpoint
      folder, {items} for a JSON file with the list of item ids and {out} for
      the JSON file that it must write; empty with `function`.
    function: `package.module:function`, called in a process of its own with
      the checkpoint folder and the list of item ids, returning the answer.
    timeout: seconds that an attempt may take.
    attempts: how often to try before the failure counts.
    folder: where the program runs and modules are looked for first.
  """

  name: str
  command: tuple[str, ...] = ()
  function: str = ''
  timeout: float = 3600.0
  attempts: int = 1
  folder: str = '.'

  kind: ClassVar[str] = 'external'
  metric: ClassVar[str] = 'score'
  max_tokens: ClassVar[None] = None

  def __post_init__(self):
    if bool(self.command) == bool(self.function):
      raise ValueError(
        f'task {self.name!r}: give one of `command` and `function`, got '
        + ('both' if self.command else 'none')
      )
    if not self.timeout > 0 or self.attempts < 1:
      raise ValueError(
        f'task {self.name!r}: timeout {self.timeout!r} and attempts '
        f'{self.attempts!r} must be above 0'
      )
    _check_command(self)


class Score(NamedTuple):
  """What a scorer says of an item.

  Attributes:
    score: higher is better.
    log_likelihood: of the right answer, nats; None if the scorer has none.
    flags: those of FLAGS that hold.
  """

  score: float
  log_likelihood: float | None = None
  flags: tuple[str, ...] = ()


class ScorerError(RuntimeError):
  """A scorer that failed at each attempt, with the reason of each."""


def score(
  task: Task, model: str | pathlib.Path, items: Sequence[str]
) -> dict[str, Score]:
  """Scores of a checkpoint folder on some items, in their order.

  Raises:
    ScorerError: if no attempt gave a whole and valid answer.
  """
  reasons = []
  for attempt in range(1, task.attempts + 1):
    try:
      return _attempt(task, pathlib.Path(model), list(items))
    except _FailedAttempt as error:
      reasons.append(f'attempt {attempt} of {task.attempts}: {error}')
  raise ScorerError(
    f'external scorer of {task.name!r} failed on {model}:'
    + trees.listing(reasons)
  )


def parse(text: str, items: Sequence[str]) -> dict[str, Score]:
  """The answer of a scorer, checked.

  Raises:
    ValueError: if it is no JSON object with exactly one finite score an item.
  """
  try:
    answer: Any = json.loads(text)
  except ValueError as error:
    raise ValueError(
      f'its answer is no JSON ({error}): {text[:80]!r}; expected '
      '{item id: score}'
    ) from error
  if not isinstance(answer, dict):
    raise ValueError(
      f'its answer is {text[:80]!r}; expected an object {{item id: score}}'
    )
  lines = [f'- {name} (not scored)' for name in items if name not in answer]
  lines += [f'+ {n} (not asked for)' for n in sorted(set(answer) - set(items))]
  scores = {}
  for name in items:
    if name in answer:
      try:
        scores[name] = _score(answer[name])
      except ValueError as error:
        lines.append(f'! {name}: {error}')
  if lines:
    raise ValueError(
      f'its answer does not fit the {len(items)} items asked for:'
      + trees.listing(lines)
    )
  return scores


class _FailedAttempt(Exception):
  pass


def _attempt(
  task: Task, model: pathlib.Path, items: list[str]
) -> dict[str, Score]:
  with tempfile.TemporaryDirectory(prefix='automerge_scorer_') as scratch:
    folder = pathlib.Path(scratch)
    (folder / 'items.json').write_text(json.dumps(items))
    places = {
      'model': str(model.resolve()),
      'items': str(folder / 'items.json'),
      'out': str(folder / 'out.json'),
    }
    _run(_arguments(task, places), task, folder / 'log')
    tail = _tail(folder / 'log')
    try:
      text = pathlib.Path(places['out']).read_text(encoding='utf-8')
    except FileNotFoundError:
      raise _FailedAttempt(f'it ended without writing {{out}}{tail}') from None
    except UnicodeDecodeError as error:
      raise _FailedAttempt(f'its answer is not UTF-8: {error}') from error
    try:
      return parse(text, items)
    except ValueError as error:
      raise _FailedAttempt(f'{error}{tail}') from error


def _run(arguments: list[str], task: Task, log: pathlib.Path) -> None:
  """Runs a scorer to its end, its output into a file that never blocks it."""
  with open(log, 'wb') as output:
    try:
      process = subprocess.Popen(
        arguments,
        cwd=task.folder,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # its children can be killed with it
      )
    except OSError as error:
      raise _FailedAttempt(
        f'cannot start {arguments[0]!r}: {error.strerror}'
      ) from error
  try:
    status = process.wait(task.timeout)
  except subprocess.TimeoutExpired:
    raise _FailedAttempt(
      f'killed, it took more than {task.timeout:g} s{_tail(log)}'
    ) from None
  finally:
    _kill_group(process)
  if status:
    what = (
      f'killed by {signal.Signals(-status).name}'
      if status < 0
      else f'it ended with exit code {status}'
    )
    raise _FailedAttempt(what + _tail(log))


def _kill_group(process: subprocess.Popen) -> None:
  """Ends what is left of a scorer: nothing of it outlives its evaluation."""
  try:
    os.killpg(process.pid, signal.SIGKILL)
  except ProcessLookupError:
    pass
  process.wait()


def _arguments(task: Task, places: Mapping[str, str]) -> list[str]:
  if task.function:
    child = [sys.executable, '-m', 'automerge_jax.tasks.external_call']
    return [*child, task.function, *(places[name] for name in PLACEHOLDERS)]
  return [_fill(argument, places) for argument in task.command]


def _fill(argument: str, places: Mapping[str, str]) -> str:
  for name, place in places.items():
    argument = argument.replace(f'{{{name}}}', place)
  return argument


def _check_command(task: Task) -> None:
  if task.function:
    module, _, name = task.function.partition(':')
    if not all(p.isidentifier() for p in [*module.split('.'), name]):
      raise ValueError(
        f'task {task.name!r}: function {task.function!r}; expected '
        'package.module:function'
      )
    return
  for needed in ('model', 'out'):
    if not any(f'{{{needed}}}' in argument for argument in task.command):
      raise ValueError(
        f'task {task.name!r}: command {list(task.command)} has no {{{needed}}}'
        '; expected {model} for the checkpoint folder and {out} for the file '
        'that it writes'
      )


def _score(value: Any) -> Score:
  if not isinstance(value, dict):
    return Score(_number(value, 'score'))
  unknown = sorted(set(value) - set(_FIELDS))
  if unknown:
    raise ValueError(
      f'unknown field {unknown[0]!r}' + trees.nearest(unknown[0], _FIELDS)
    )
  if 'score' not in value:
    raise ValueError(f"{value} has no 'score'")
  flags = value.get('flags', [])
  if not isinstance(flags, list) or not set(map(str, flags)) <= set(FLAGS):
    raise ValueError(f'flags {flags!r}; expected a list of {list(FLAGS)}')
  nats = value.get('log_likelihood')
  return Score(
    _number(value['score'], 'score'),
    None if nats is None else _number(nats, 'log_likelihood'),
    tuple(flags),
  )


def _number(value: Any, what: str) -> float:
  # Python's JSON reads NaN and Infinity, which no score can be.
  if not isinstance(value, int | float) or not math.isfinite(value):
    raise ValueError(f'{what} {value!r}; expected a finite number')
  return float(value)


def _tail(log: pathlib.Path) -> str:
  with open(log, 'rb') as file:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _TAIL))
    text = file.read().decode('utf-8', 'replace').strip()
  if not text:
    return '; it printed nothing'
  lines = ['    ' + line for line in text.splitlines()]
  return '; the end of what it printed:\n' + '\n'.join(lines)
