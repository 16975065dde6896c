"""The tokenizer that a recipe asks for."""

from automerge_jax.recipes.document import (
  ModelToken,
  TokenizerSpec,
  TokenSpec,
  ZeroToken,
)
from automerge_jax.recipes.nodes import Node, optional
from automerge_jax.recipes.references import reference


def tokenizer(fields: dict[str, Node]) -> TokenizerSpec | None:
  """What `tokenizer_source` or `tokenizer` says, None without either."""
  if 'tokenizer_source' in fields:
    if 'tokenizer' in fields:
      fields['tokenizer'].fail('give one of `tokenizer_source` and `tokenizer`')
    return TokenizerSpec(reference(fields['tokenizer_source']))
  if 'tokenizer' not in fields:
    return None
  node = fields['tokenizer']
  own = node.fields(('source', 'tokens', 'pad_to_multiple_of'))
  pad = optional(own, 'pad_to_multiple_of', Node.integer)
  if pad is not None and pad < 1:
    own['pad_to_multiple_of'].fail(f'{pad} is not positive')
  tokens = own['tokens'].fields() if 'tokens' in own else {}
  return TokenizerSpec(
    optional(own, 'source', reference) or 'union',
    {token: _token(spec) for token, spec in tokens.items()},
    pad,
  )


def _token(node: Node) -> TokenSpec:
  fields = node.fields(('source', 'force'))
  force = fields['force'].flag() if 'force' in fields else False
  return TokenSpec(optional(fields, 'source', _token_source), force)


def _token_source(node: Node) -> str | ModelToken | ZeroToken:
  if not node.is_mapping() or 'kind' not in node.fields():
    return reference(node)
  kind = node.fields()['kind'].one_of(('model_token', 'zero'))
  if kind == 'zero':
    node.fields(('kind',))
    return ZeroToken()
  fields = node.fields(('kind', 'model', 'token', 'token_id'))
  if 'model' not in fields or ('token' in fields) == ('token_id' in fields):
    node.fail('expected `model` and one of `token` and `token_id`')
  return ModelToken(
    reference(fields['model']),
    optional(fields, 'token', Node.text),
    optional(fields, 'token_id', Node.integer),
  )
