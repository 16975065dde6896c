"""WordPiece vocabularies: one cut to the tokens that some texts need."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence


def frequent(
  text: str, encoded: Iterable[Sequence[int]], size: int
) -> tuple[int, ...]:
  """Ids of the tokens worth keeping, ascending.

  Special tokens and single ASCII characters are always kept, so that words that
  are no token any more fall into pieces; the rest by how often they occur.

  Args:
    text: a `tokenizer.json` of WordPiece.
    encoded: token ids of texts.
    size: how many to keep.

  Raises:
    ValueError: if `size` is too small for those that are always kept, or there
      are fewer that occur.
  """
  content = json.loads(text)
  vocab = _vocabulary(content)
  kept = {token['id'] for token in content['added_tokens']}
  prefix = content['model']['continuing_subword_prefix']
  kept |= {
    index
    for token, index in vocab.items()
    if len(token.removeprefix(prefix)) == 1 and token.isascii()
  }
  counts = Counter(index for ids in encoded for index in ids)
  found = sorted(set(counts) - kept, key=lambda index: (-counts[index], index))
  if not len(kept) <= size <= len(kept) + len(found):
    raise ValueError(
      f'{size} tokens asked for; {len(kept)} are always kept and {len(found)} '
      f'others occur: choose {len(kept)} to {len(kept) + len(found)}'
    )
  return tuple(sorted(kept | set(found[: size - len(kept)])))


def cut(text: str, kept: Sequence[int]) -> str:
  """The `tokenizer.json` with only some tokens, numbered anew in their order.

  Args:
    text: a `tokenizer.json` of WordPiece.
    kept: ids, ascending; the i-th gets id i.

  Raises:
    ValueError: if it is of another kind, or a special token is not kept.
  """
  content = json.loads(text)
  vocab = _vocabulary(content)
  number = {old: new for new, old in enumerate(kept)}
  special = content['added_tokens']
  lost = [t['content'] for t in special if t['id'] not in number]
  if lost:
    raise ValueError(f'special tokens must be kept; {lost} are not')
  by_id = {index: token for token, index in vocab.items()}
  content['model']['vocab'] = {by_id[old]: new for old, new in number.items()}
  for token in special:
    token['id'] = number[token['id']]
  for token in content['post_processor']['special_tokens'].values():
    token['ids'] = [number[index] for index in token['ids']]
  if content.get('padding'):
    content['padding']['pad_id'] = number[content['padding']['pad_id']]
  return json.dumps(content, ensure_ascii=False)


def _vocabulary(content: dict) -> dict[str, int]:
  kind = content['model'].get('type')
  if kind != 'WordPiece':
    raise ValueError(
      f'the tokenizer is of kind {kind!r}; only WordPiece vocabularies can be '
      'cut'
    )
  return content['model']['vocab']
