"""When a generated text ends, as one table that a device can follow.

An automaton reads the text of each token as it is generated (Aho & Corasick,
Commun. ACM 18, 1975), so that a stop string is seen wherever it lies across
tokens, and `table[token, state]` is all that a step has to look up.
"""

import json
import pathlib
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tokenizers as hf_tokenizers

_UNKNOWN = '\ufffd'  # what a piece of a character decodes to


class Stops(NamedTuple):
  """What ends a text.

  Attributes:
    ends: ids of tokens that end it and are no part of it.
    strings: what ends it where it first appears, and is no part of it.
    table: next state by token and state, int16 [V + 1, Q]: 0 is the start,
      Q - 1 the end. The last row is for ids that the tokenizer does not know.
  """

  ends: tuple[int, ...]
  strings: tuple[str, ...]
  table: np.ndarray


def build(
  tokenizer: hf_tokenizers.Tokenizer,
  ends: Sequence[int],
  strings: Sequence[str],
) -> Stops:
  """The ends of one tokenizer.

  A string that is a special token of the tokenizer ends a text by its id,
  since special tokens are no part of it. A character of a stop string that is
  split over tokens is not seen by the table; `cut` finds it all the same.

  Args:
    tokenizer: of the model.
    ends: ids such as that of the end of the text.
    strings: may lie anywhere across tokens.

  Raises:
    ValueError: for an empty string, or an id that is no token.
  """
  if '' in strings:
    raise ValueError('a stop string is empty; remove it')
  size = max(tokenizer.get_vocab().values()) + 1
  unknown = [index for index in ends if not 0 <= index < size]
  if unknown:
    raise ValueError(
      f'ids {unknown} end a text; the tokenizer has 0..{size - 1}'
    )
  added = tokenizer.get_added_tokens_decoder()
  special = {t.content: i for i, t in added.items() if t.special}
  ids = sorted({*ends, *(special[s] for s in strings if s in special)})
  strings = tuple(s for s in strings if s not in special)
  table = _follow(_texts(tokenizer, size), *_automaton(strings))
  table[ids] = table.shape[1] - 1
  return Stops(tuple(ids), strings, table)


def text(tokenizer: hf_tokenizers.Tokenizer, ids: Sequence[int]) -> str:
  """Text of tokens that follow others; a space in front of it is kept."""
  anchor = _anchor(tokenizer)
  before = tokenizer.decode(anchor)
  return tokenizer.decode([*anchor, *ids])[len(before) :]


def cut(
  tokenizer: hf_tokenizers.Tokenizer, stops: Stops, ids: Sequence[int]
) -> tuple[str, bool]:
  """What was generated before its end, and whether there is an end.

  Args:
    tokenizer: of the model.
    stops: what ends a text.
    ids: generated tokens.
  """
  places = [place for place, index in enumerate(ids) if index in stops.ends]
  whole = text(tokenizer, ids[: places[0]] if places else ids)
  found = [at for at in (whole.find(s) for s in stops.strings) if at >= 0]
  return (whole[: min(found)] if found else whole), bool(places or found)


def ends(folder: str | pathlib.Path) -> tuple[int, ...]:
  """Ids that end a text by a Hugging Face folder's own account.

  The first of `generation_config.json` and `config.json` that has an
  `eos_token_id` decides; empty if neither does.
  """
  for name in ('generation_config.json', 'config.json'):
    path = pathlib.Path(folder) / name
    told = json.loads(path.read_text()) if path.is_file() else {}
    index = told.get('eos_token_id')
    if index is not None:
      return tuple(index) if isinstance(index, list) else (index,)
  return ()


def _anchor(tokenizer: hf_tokenizers.Tokenizer) -> list[int]:
  """A token in front: decoders treat the first token of a text differently."""
  return tokenizer.encode('a', add_special_tokens=False).ids


def _texts(tokenizer: hf_tokenizers.Tokenizer, size: int) -> list[str]:
  """What each token adds to a text; nothing if it is special."""
  anchor = _anchor(tokenizer)
  before = tokenizer.decode(anchor)
  decoded = tokenizer.decode_batch([[*anchor, i] for i in range(size)])
  return [
    whole[len(before) :] if whole.startswith(before) else _UNKNOWN
    for whole in decoded
  ]


def _automaton(strings: Sequence[str]) -> tuple[np.ndarray, dict[str, int]]:
  """Next state by state and kind of character, [Q, kinds], and those kinds.

  Kind 0 is every other character. The last state is the end and keeps itself.
  """
  letters = sorted({letter for string in strings for letter in string})
  kinds = {letter: i + 1 for i, letter in enumerate(letters)}
  children: list[dict[int, int]] = [{}]
  final = set()
  for string in strings:
    node = 0
    for letter in string:
      if kinds[letter] not in children[node]:
        children[node][kinds[letter]] = len(children)
        children.append({})
      node = children[node][kinds[letter]]
    final.add(node)
  step = np.zeros((len(children), len(kinds) + 1), np.int16)
  shorter = [0] * len(children)  # longest proper suffix that is a node too
  queue = deque([0])
  while queue:
    node = queue.popleft()
    if shorter[node] in final:
      final.add(node)
    if node:
      step[node] = step[shorter[node]]
    for kind, child in children[node].items():
      shorter[child] = int(step[node, kind]) if node else 0
      queue.append(child)
    for kind, child in children[node].items():
      step[node, kind] = child
  kept = [node for node in range(len(children)) if node not in final]
  rename = np.full(len(children), len(kept), np.int16)
  rename[kept] = np.arange(len(kept))
  end = np.full((1, step.shape[1]), len(kept), np.int16)
  return np.concatenate([rename[step[kept]], end]), kinds


def _follow(
  texts: Sequence[str], step: np.ndarray, kinds: dict[str, int]
) -> np.ndarray:
  """State behind each text from each state, [V + 1, Q]."""
  states = np.arange(len(step), dtype=np.int16)
  table = np.zeros((len(texts) + 1, len(step)), np.int16)
  table[:, -1] = len(step) - 1
  empty = [row for row, piece in enumerate(texts) if not piece]
  table[[*empty, len(texts)]] = states
  known = frozenset(kinds)
  for row, piece in enumerate(texts):
    if known.intersection(piece):
      state = states
      for letter in piece:
        state = step[state, kinds.get(letter, 0)]
      table[row] = state
  return table
