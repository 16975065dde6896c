"""Models as recipes name them."""

from automerge_jax.recipes.document import model_ref
from automerge_jax.recipes.nodes import Node


def reference(node: Node) -> str:
  """A model's name, from text or from {model: {path, revision}, lora: ...}."""
  if not node.is_mapping():
    text = node.text()
    try:
      return str(model_ref(text))
    except ValueError as error:
      node.fail(str(error))
  fields = node.fields(('model', 'lora', 'override_architecture'))
  if 'model' not in fields:
    node.fail('`model` is missing')
  if 'override_architecture' in fields:
    fields['override_architecture'].fail(
      'it is not supported and not needed: tensors are found by their names'
    )
  parts = [_path(fields[key]) for key in ('model', 'lora') if key in fields]
  return '+'.join(parts)


def _path(node: Node) -> str:
  fields = {'path': node}
  if node.is_mapping():
    fields = node.fields(('path', 'revision'))
  if 'path' not in fields:
    node.fail('`path` is missing')
  parts = [fields[k].text() for k in ('path', 'revision') if k in fields]
  for part in parts:
    if not part or set('@+') & set(part):
      node.fail(
        f'{part!r} cannot be named: `@` and `+` separate revision and adapter; '
        'rename the folder or link to it'
      )
  return '@'.join(parts)
