"""Recorded plans of mergekit, made again by us and compared."""

import json

import recipe_documents

from automerge_jax import recipe as recipes
from automerge_jax.merging import registry, resolve


def compare(recorded):
  """`(tensors, refused)` that agree; raises AssertionError where one differs.

  Args:
    recorded: [document, plan or error] of each document.
  """
  names = {m: recipe_documents.names(m) for m in recipe_documents.LAYERS}
  tensors = refused = 0
  for text, wanted in recorded:
    try:
      recipe = recipes.from_yaml(text)
      outputs = resolve.outputs(recipe, names)
    except ValueError as error:
      assert isinstance(wanted, str), (str(error), text)
      # Which tensor is named depends on the order alone.
      missed = wanted.removeprefix('Missing required parameter ').split()[0]
      assert str(error).startswith(f"parameter '{missed}' of "), (error, wanted)
      refused += 1
      continue
    assert not isinstance(wanted, str), (wanted, text)
    ours = {output.name: output for output in outputs}
    assert len(ours) == len(outputs)
    assert set(ours) == {row[0] for row in wanted}, text
    for row in wanted:
      _compare(recipe, ours[row[0]], row, text)
    tensors += len(wanted)
  return tensors, refused


def _compare(recipe, output, row, text):
  _, sources, base, shared, own = row
  method = registry.get(recipe.merge_method, recipe.semantics)
  sources = [tuple(source) for source in sources]
  at_base = [source for source in sources if source[0] == base]
  experts = sources
  if method.stack != 'weights':
    experts = [source for source in sources if source[0] != base]
  if method.name == 'slerp':
    experts = at_base + [s for s in sources if s[0] != base]
  tied = {  # mergekit finds these when it reads
    ('tied', 'lm_head.weight'): ('tied', 'model.embed_tokens.weight')
  }
  experts = [tied.get(source, source) for source in experts]
  at_base = [tied.get(source, source) for source in at_base]
  assert list(output.sources) == experts, (output, row, text)
  if at_base or base is None or output.layer is not None:
    assert output.base == (at_base[0] if at_base else None), (output, row, text)
  for parameter in method.parameters:
    key, value = parameter.name, output.parameters[parameter.name]
    if parameter.per_expert:
      want = [own[model][key] for model, _ in experts]
      want = [parameter.default if w is None else w for w in want]
      assert list(value) == want, (key, output, row, text)
    elif key in shared:
      assert value == shared[key], (key, output, row, text)
    else:  # ours alone, so not stated
      assert value == parameter.default, (key, output)


def read(archive):
  return json.loads(str(archive['recorded']))
