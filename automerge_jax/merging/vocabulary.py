"""Whether models share a vocabulary, and which tensors have a row a token."""

import itertools
import re
from collections.abc import Mapping

from automerge_jax.io import tokenizers

_INPUTS = re.compile(
  r'(?:^|\.)(?:embed_tokens|wte|word_embeddings|tok_embeddings|shared|embed_in)'
  r'\.weight$'
)
_OUTPUTS = re.compile(
  r'(?:^|\.)(?:(?:lm_head|generator_lm_head|embed_out|vocab_projector)'
  r'\.(?:weight|bias)|(?:cls\.predictions|lm_head|predictions)'
  r'\.(?:bias|decoder\.(?:weight|bias))|output\.weight)$'
)


def tensors(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
  """Rows of a model's vocabulary tensors, by stored name.

  Input embeddings, output heads and head biases, known by their names; heads
  only if they have as many rows as the first input embedding.
  """
  inputs = {n: s[0] for n, s in shapes.items() if _INPUTS.search(n) and s}
  rows = next(iter(inputs.values()), None)
  outputs = {
    n: s[0]
    for n, s in shapes.items()
    if _OUTPUTS.search(n) and s and rows in (None, s[0])
  }
  return inputs | outputs


def check(
  texts: Mapping[str, str | None], vocab_rows: Mapping[str, int]
) -> None:
  """Refuses models whose vocabularies are not the same, row by row.

  Stricter than mergekit 0.1.5, which compares sizes alone. A row may hold a
  token in one model and nothing in another (an added token in rows that
  padded).

  Args:
    texts: each model's `tokenizer.json`; None where it has none, of which only
      the size is compared.
    vocab_rows: rows of each model's embedding.

  Raises:
    ValueError: naming the models, sizes and first tokens that differ.
  """
  fix = 'align them by token with `tokenizer_source: union` in the recipe'
  if len(set(vocab_rows.values())) > 1:
    raise ValueError(
      f'vocabularies differ in size: embeddings have {dict(vocab_rows)} rows; '
      + fix
    )
  distinct: dict[str, str] = {}  # the first model with each text
  for model in vocab_rows:
    text = texts.get(model)
    if text is not None:
      distinct.setdefault(text, model)
  if len(distinct) < 2:
    return
  ids = {m: tokenizers.vocabulary(text) for text, m in distinct.items()}
  for one, other in itertools.combinations(ids, 2):
    rows = vocab_rows[one]
    unlike = _unlike(ids[one], ids[other], rows)
    if unlike:
      shown = ', '.join(f'{i}: {a!r} and {b!r}' for i, a, b in unlike[:3])
      raise ValueError(
        f'{one} and {other} have {rows} rows each but differ in {len(unlike)} '
        f'of them (row {shown}); {fix}'
      )


def _unlike(
  one: Mapping[str, int], other: Mapping[str, int], rows: int
) -> list[tuple[int, str | None, str]]:
  """Rows with another token, or a token that has another row in `one`."""
  tokens = {i: token for token, i in one.items()}
  return [
    (i, tokens.get(i), token)
    for token, i in sorted(other.items(), key=lambda item: item[1])
    if i < rows and (tokens.get(i, token) != token or one.get(token, i) != i)
  ]
