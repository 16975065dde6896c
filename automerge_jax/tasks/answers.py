"""From a generated text to an answer, and whether it is an accepted one."""

import dataclasses
import decimal
import functools
import re
import string
from collections.abc import Sequence
from typing import NamedTuple

import regex

LONGEST = 1 << 14  # characters of a text that are looked at
_LONGEST_PATTERN = 1000
_PROBE = 2048  # characters that a pattern is tried on when it is read ...
_PROBE_SECONDS = 0.5  # ... and the time it has, a hundred times its need
_SECONDS = 60.0  # of a pattern that went astray on a text all the same
_PUNCTUATION = str.maketrans('', '', string.punctuation)


class Reading(NamedTuple):
  """What a rule makes of one text.

  Attributes:
    answer: as it was found; None where there is none.
    right: whether it is an accepted one.
  """

  answer: str | None
  right: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule:
  """How an answer is found in a text, and compared with the accepted ones.

  Both sides are treated alike before they are compared, in this order.

  Attributes:
    pattern: regular expression of the answer (Python's syntax); None takes the
      whole text. Without white space around it, an answer must not be empty.
    match: 'first' or 'last' match of the pattern.
    group: number of the group that is the answer, 0 for the whole match; None
      for the first that took part, or for the whole where there is no group.
    ignore: patterns of what is removed.
    ignore_case: whether 'Yes' is 'yes'.
    ignore_punctuation: whether 'yes.' is 'yes' (the marks of ASCII).
    numeric: whether '1,200.0' is '1200'; what is no number is compared as text.

  Raises:
    ValueError: for a pattern that is invalid, too long or does not come to an
      end, a group that it does not have, or an unknown `match`.
  """

  pattern: str | None = None
  match: str = 'first'
  group: int | None = None
  ignore: tuple[str, ...] = ()
  ignore_case: bool = False
  ignore_punctuation: bool = False
  numeric: bool = False

  def __post_init__(self):
    if self.match not in ('first', 'last'):
      raise ValueError(f"match is {self.match!r}, expected 'first' or 'last'")
    patterns = [] if self.pattern is None else [self.pattern]
    for pattern in [*patterns, *self.ignore]:
      _check(pattern)
    groups = _compile(self.pattern).groups if patterns else 0
    if self.group is not None and not 0 <= self.group <= groups:
      raise ValueError(
        f'group {self.group} of the pattern {self.pattern!r} is asked for; it '
        f'has the groups 0 to {groups}'
      )


def read(rule: Rule, text: str, accepted: Sequence[str]) -> Reading:
  """Finds the answer in a text and compares it with the accepted ones.

  Args:
    rule: how to.
    text: what was generated before its end; looked at up to `LONGEST`.
    accepted: at least one.

  Raises:
    RuntimeError: if a pattern does not come to an end on this text.
  """
  answer = extract(rule, text[:LONGEST])
  if answer is None:
    return Reading(None, False)
  wanted = {normalise(rule, other) for other in accepted}
  return Reading(answer, normalise(rule, answer) in wanted)


def extract(rule: Rule, text: str) -> str | None:
  """The answer in a text, without white space around it; None without one."""
  if rule.pattern is None:
    return text.strip() or None
  found = None
  try:
    for match in _compile(rule.pattern).finditer(text, timeout=_SECONDS):
      answer = _group(match, rule.group)
      found = answer.strip() or None if answer is not None else None
      if rule.match == 'first':
        break
  except TimeoutError as error:
    raise RuntimeError(_endless(rule.pattern, text, _SECONDS)) from error
  return found


def normalise(rule: Rule, answer: str) -> str | decimal.Decimal:
  """What makes two answers the same."""
  for pattern in rule.ignore:
    try:
      answer = _compile(pattern).sub('', answer, timeout=_SECONDS)
    except TimeoutError as error:
      raise RuntimeError(_endless(pattern, answer, _SECONDS)) from error
  if rule.ignore_case:
    answer = answer.casefold()
  number = _number(answer) if rule.numeric else None
  if number is not None:
    return number
  if rule.ignore_punctuation:
    answer = answer.translate(_PUNCTUATION)
  return ' '.join(answer.split())


def _number(answer: str) -> decimal.Decimal | None:
  """The number that an answer is: '-1,200.50', '$3', '7.', '5e3'."""
  plain = answer.strip().rstrip('.').replace('$', '').replace('%', '').strip()
  if re.fullmatch(r'[+-]?\d{1,3}(,\d{3})+(\.\d*)?', plain):
    plain = plain.replace(',', '')
  if not re.fullmatch(r'[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?', plain):
    return None
  # Decimals of equal value are equal and have equal hashes, 1.0 and 1.00.
  return decimal.Decimal(plain)


def _group(match: regex.Match, group: int | None) -> str | None:
  if group is not None:
    return match.group(group)
  taken = (part for part in match.groups() if part is not None)
  return next(taken, None) if match.re.groups else match.group()


@functools.cache
def _compile(pattern: str) -> regex.Pattern:
  return regex.compile(pattern, regex.VERSION0)  # as Python's own re


@functools.cache
def _check(pattern: str) -> None:
  """Raises ValueError for what is no pattern, or takes too long a time."""
  if len(pattern) > _LONGEST_PATTERN:
    raise ValueError(
      f'the pattern {pattern[:50]!r}... has {len(pattern)} characters, at most '
      f'{_LONGEST_PATTERN} are allowed'
    )
  try:
    re.compile(pattern)
    compiled = _compile(pattern)
  except (re.error, regex.error) as error:
    raise ValueError(
      f'{pattern!r} is no regular expression: {error}'
    ) from error
  # Where a pattern can go astray, runs of what it looks for lead it there.
  letters = [a for a in dict.fromkeys(pattern) if a.isalnum() or a in ' .,-#\n']
  for probe in dict.fromkeys(['a', '1', ' ', '\n', '1,', 'a ', *letters]):
    run = probe * (_PROBE // len(probe)) + '\0'
    try:
      for _ in compiled.finditer(run, timeout=_PROBE_SECONDS):
        pass
    except TimeoutError as error:
      raise ValueError(_endless(pattern, run, _PROBE_SECONDS)) from error


def _endless(pattern: str, text: str, seconds: float) -> str:
  return (
    f'the pattern {pattern!r} takes more than {seconds} s for a text of '
    f'{len(text)} characters that begins with {text[:30]!r}; do not nest its '
    'repetitions, such as (a+)+'
  )
