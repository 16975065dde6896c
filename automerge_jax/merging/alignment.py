"""Vocabularies of several models made one: which row is which token.

Semantics are mergekit 0.1.5's. A token that a model has keeps that model's
embedding. One that it lacks gets the token's default: what the recipe says of
it, else the base model's embedding, else the mean over the models that have it.
Rows that pad the size get the mean of the model's aligned rows.

A union holds the base's tokens under their ids, then every other model's as
added tokens: first those of their vocabularies, then those that were added
there. The tokenizer's own rules (the merges of a BPE, say) stay the base's, so
that foreign tokens are matched before them. Two things differ: mergekit numbers
those tokens in the random order of a set, here they come by model and id; and
it fails where a token lies beyond the rows of a model, which here lacks it.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from automerge_jax.io import tokenizers
from automerge_jax.recipes.document import ModelToken, TokenizerSpec, ZeroToken

MISSING = -1


@dataclasses.dataclass(frozen=True)
class Alignment:
  """Rows of the merged vocabulary and where they come from.

  `rows` and `defaults` are [size] for each model, MISSING where there is none:
  `rows` points into the model's own tensor; where that is MISSING, the row is
  the mean over the models of what `defaults` points to, and zero without any.
  """

  source: str  # the model whose tokenizer it is or extends
  tokenizer: str  # tokenizer.json
  vocabulary: Mapping[str, int]
  num_tokens: int  # rows beyond are padding
  size: int
  rows: Mapping[str, np.ndarray]
  defaults: Mapping[str, np.ndarray]
  absent: tuple[str, ...]  # tokens that no model has, zero unasked: a warning

  def keeps(self, model: str, rows: int) -> bool:
    """Whether the model's tensors of so many rows are what they shall be."""
    same = self.num_tokens == self.size == rows
    return same and bool((self.rows[model] == np.arange(rows)).all())


def align(
  spec: TokenizerSpec,
  texts: Mapping[str, str | None],
  base_model: str | None,
  vocab_rows: Mapping[str, int],
) -> Alignment:
  """The merged tokenizer and, for each model, the row of each of its tokens.

  Args:
    spec: what the recipe says. `base` and `union` start from `base_model`,
      without one from the first model (mergekit: from any).
    texts: each model's `tokenizer.json`; also that of a model that is not
      merged, if it is the tokenizer's source.
    base_model: whose embeddings stand in for missing ones, if any.
    vocab_rows: rows of each merged model's embedding, in the recipe's order.

  Raises:
    ValueError: for a model without tokenizer, or a stated embedding that no
      merged model has.
  """
  models = sorted(vocab_rows, key=lambda m: m != base_model)  # stable
  source = models[0] if spec.source in ('union', 'base') else spec.source
  known = _texts(dict.fromkeys((*models, source)), texts)
  if spec.pad_to_multiple_of is not None and spec.pad_to_multiple_of < 1:
    raise ValueError(
      f'pad_to_multiple_of is {spec.pad_to_multiple_of}; expected 1 or more'
    )
  parsed = {text: tokenizers.vocabulary(text) for text in set(known.values())}
  ids = {m: parsed[text] for m, text in known.items()}
  text = known[source]
  extra = _extra(spec, models, source, ids, known)
  if extra:
    text = tokenizers.extend(text, extra)
  merged = tokenizers.vocabulary(text)
  num_tokens = 1 + max(merged.values())
  step = spec.pad_to_multiple_of or 1
  size = -(-num_tokens // step) * step
  rows = _rows(merged, ids, source, vocab_rows, size)
  if base_model in rows and spec.source == 'base':
    # As mergekit has it, a base with rows to spare has every token.
    new = [merged[token['content']] for token in extra]
    new = [i for i in new if i < vocab_rows[base_model]]
    rows[base_model][new] = new
  defaults = {m: r.copy() for m, r in rows.items()}
  if base_model in rows:
    for model in set(rows) - {base_model}:
      defaults[model][rows[base_model] >= 0] = MISSING
  for token, choice in spec.tokens.items():
    i = merged[token]
    if choice.force:
      for own in rows.values():
        own[i] = MISSING
    if choice.source is None or all(r[i] != MISSING for r in rows.values()):
      continue
    for default in defaults.values():
      default[i] = MISSING
    if not isinstance(choice.source, ZeroToken):
      model, row = _pointed(token, choice.source, ids, vocab_rows)
      defaults[model][i] = row
  found = np.stack(list(defaults.values())).max(0) >= 0
  zero = {t for t, c in spec.tokens.items() if c.source == ZeroToken()}
  absent = tuple(t for t, i in merged.items() if not (found[i] or t in zero))
  return Alignment(
    source, text, merged, num_tokens, size, rows, defaults, absent
  )


def _texts(
  models: Iterable[str], texts: Mapping[str, str | None]
) -> dict[str, str]:
  known = {}
  for model in models:
    text = texts.get(model)
    if text is None:
      raise ValueError(
        f'{model} has no tokenizer to align its vocabulary by; expected a '
        'tokenizer.json in its folder'
      )
    known[model] = text
  return known


def _rows(
  merged: Mapping[str, int],
  ids: Mapping[str, Mapping[str, int]],
  source: str,
  vocab_rows: Mapping[str, int],
  size: int,
) -> dict[str, np.ndarray]:
  """Row of each merged token in each model, MISSING where it has none."""
  at = np.fromiter(merged.values(), np.int64, len(merged))
  rows = {}
  for model, count in vocab_rows.items():
    own = np.full(size, MISSING, np.int64)
    if model == source:  # ids that name no token are rows of its own
      own[: at.max()] = np.arange(at.max())
    own[at] = [ids[model].get(token, MISSING) for token in merged]
    own[own >= count] = MISSING
    rows[model] = own
  return rows


def _extra(
  spec: TokenizerSpec,
  models: list[str],
  source: str,
  ids: Mapping[str, Mapping[str, int]],
  texts: Mapping[str, str],
) -> list[dict[str, Any]]:
  """Tokens to add to the source's tokenizer, with attributes, in order."""
  added = {m: tokenizers.added(texts[m]) for m in (*models, source)}
  plain: dict[str, dict[str, Any]] = {}
  special: dict[str, dict[str, Any]] = {}
  if spec.source == 'union':
    for model in models:
      for token in sorted(ids[model], key=ids[model].__getitem__):
        if token in ids[source] or token in plain or token in special:
          continue
        if token in added[model]:
          special[token] = added[model][token]
        else:
          plain[token] = {'content': token}
  for token in spec.tokens:
    if token not in ids[source] and token not in plain:
      like = (added[m][token] for m in models if token in added[m])
      special.setdefault(token, next(like, {'content': token}))
  return [*plain.values(), *special.values()]


def _pointed(
  token: str,
  source: str | ModelToken,
  ids: Mapping[str, Mapping[str, int]],
  vocab_rows: Mapping[str, int],
) -> tuple[str, int]:
  """Model and row of the embedding that the recipe names for a token."""
  if isinstance(source, str):
    source = ModelToken(source, token)
  if source.model not in vocab_rows:
    raise ValueError(
      f'the token {token!r} shall get an embedding of {source.model!r}, which '
      f'is not merged; expected one of {list(vocab_rows)}'
    )
  row = source.token_id
  if row is None:
    row = ids[source.model].get(source.token or '', MISSING)
  count = vocab_rows[source.model]
  if not 0 <= row < count:
    wanted = source.token if source.token_id is None else source.token_id
    raise ValueError(
      f'the token {token!r} shall get the embedding of {wanted!r} in '
      f'{source.model}, which has none among its {count} rows'
    )
  return source.model, row
