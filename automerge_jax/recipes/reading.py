"""From YAML to a recipe, strictly: what is not understood is an error."""

import dataclasses
from collections.abc import Sequence

from automerge_jax import trees
from automerge_jax.merging import registry
from automerge_jax.recipes import nodes, peer, settings, tokens
from automerge_jax.recipes.document import (
  Module,
  Recipe,
  Scale,
  Setting,
  Slice,
  Source,
)
from automerge_jax.recipes.nodes import Node
from automerge_jax.recipes.references import reference
from automerge_jax.types import MergeMethod

DTYPES = ('float32', 'bfloat16', 'float16')
_TOP = (
  'merge_method',
  'base_model',
  'models',
  'slices',
  'modules',
  'parameters',
  'dtype',
  'out_dtype',
  'tokenizer_source',
  'tokenizer',
  'chat_template',
  'semantics',
  'inputs',
  'statistics',
  'seed',
)
_LEAF = ('sources', 'base_model', 'parameters', 'merge_method', 'scales')
_SEMANTICS = {
  'mergekit-0.1.5': 'mergekit-0.1.5',
  'mergekit': 'mergekit-0.1.5',
  'paper': 'paper',
}
# What belongs to other tools' files, and what to do with it.
_FOREIGN = {
  'genome': 'it is a search space of mergekit-evolve, no recipe',
  'experts': 'it builds a mixture of experts (mergekit-moe), which no merge is',
  'gate_mode': 'it builds a mixture of experts (mergekit-moe), which no merge '
  'is',
}


def from_yaml(text: str, where: str = 'recipe') -> Recipe:
  """Reads a recipe; what has no effect stands in its `warnings`.

  Raises:
    ValueError: naming file, line and key or value that is wrong, what was
      expected and the nearest valid name.
  """
  found = nodes.documents(text, where)
  if len(found) != 1:
    raise ValueError(
      f'{where}: {len(found)} YAML documents; expected one recipe'
      + ('. Write each merge into a file of its own' if found else '')
    )
  (top,) = found
  if top.is_mapping():
    keys = {str(key.value) for key, _ in top.node.value}
    for key in sorted(keys & set(_FOREIGN)):
      top.fail(f'not a recipe: {key!r} says that {_FOREIGN[key]}')
  else:
    top.fail('expected the keys of a recipe, such as `merge_method`')
  return _Reader(top).recipe()


class _Reader:
  """One recipe being read: its method and its warnings."""

  def __init__(self, top: Node):
    self.top = top
    self.fields = top.fields(_TOP)
    self.warnings: list[str] = []
    if 'merge_method' not in self.fields:
      top.fail('`merge_method` is missing')
    self.semantics = _SEMANTICS[
      self.fields['semantics'].one_of(_SEMANTICS)
      if 'semantics' in self.fields
      else 'mergekit'
    ]
    self.method = self._method(self.fields['merge_method'])
    self.base = nodes.optional(self.fields, 'base_model', reference)

  def recipe(self) -> Recipe:
    fields = self.fields
    form = [k for k in ('models', 'slices', 'modules') if k in fields]
    if len(form) != 1:
      self.top.fail(
        'give exactly one of `models`, `slices` and `modules`, got '
        + (' and '.join(form) or 'none')
      )
    parts, modules = (), ()
    if form == ['modules']:
      modules = tuple(
        self._module(name, node)
        for name, node in fields['modules'].fields().items()
      )
      if not modules:
        fields['modules'].fail('it is empty; name a module')
    else:
      parts = self._slices(fields)
    return Recipe(
      merge_method=self.method.name,
      slices=parts,
      modules=modules,
      base_model=self.base,
      parameters=self._parameters(fields, self._methods(parts, modules)),
      inputs=nodes.optional(fields, 'inputs', _texts) or {},
      statistics=nodes.optional(fields, 'statistics', _texts) or {},
      semantics=self.semantics,
      dtype=nodes.optional(fields, 'dtype', _dtype),
      out_dtype=nodes.optional(fields, 'out_dtype', _dtype),
      tokenizer=tokens.tokenizer(fields),
      chat_template=nodes.optional(fields, 'chat_template', Node.text),
      seed=nodes.optional(fields, 'seed', _seed) or 0,
      warnings=tuple(self.warnings),
    )

  def _methods(
    self, slices: Sequence[Slice], modules: Sequence[Module] = ()
  ) -> tuple[MergeMethod, ...]:
    """What slices merge with, and the recipe's method."""
    slices = [*slices, *(part for m in modules for part in m.slices)]
    names = [leaf.merge_method for part in slices for leaf in part.leaves]
    return tuple(
      registry.get(name, self.semantics)
      for name in dict.fromkeys([self.method.name, *filter(None, names)])
    )

  def _method(self, node: Node) -> MergeMethod:
    try:
      return registry.get(node.text(), self.semantics)
    except ValueError as error:
      node.fail(str(error))

  def _module(self, name: str, node: Node) -> Module:
    fields = node.fields(('models', 'slices', 'parameters'))
    if ('models' in fields) == ('slices' in fields):
      node.fail('give exactly one of `models` and `slices`')
    slices = self._slices(fields)
    parameters = self._parameters(fields, self._methods(slices))
    return Module(name, slices, parameters)

  def _slices(self, fields: dict[str, Node]) -> tuple[Slice, ...]:
    if 'models' in fields:
      self._check_base(self.method, self.fields['merge_method'])
      sources = _filled(fields['models'])
      return (
        Slice(self._distinct([self._model(s) for s in sources], sources)),
      )
    parts = tuple(self._slice(part) for part in _filled(fields['slices']))
    longer = len(parts[-1].sources) > len(parts[0].sources)
    if longer and not Recipe('', parts).extended and self.semantics != 'paper':
      self._warn(
        fields['slices'],
        'the last slice has more sources than the first; as in mergekit 0.1.5 '
        'those too many have no part in what follows the layers (`semantics: '
        'paper` lets them)',
      )
    return parts

  def _model(self, node: Node) -> Source:
    fields = node.fields(('model', 'parameters', 'layer_range'))
    if 'layer_range' in fields:
      self._warn(
        fields['layer_range'],
        'it has no effect under `models`; use `slices` to choose layers',
      )
    return self._source(node, fields, None, self.method)

  def _slice(self, node: Node) -> Slice:
    fields = node.fields((*_LEAF, 'parts', 'residual_weight'))
    if 'residual_weight' in fields:
      self._warn(fields['residual_weight'], 'it has no effect')
    if 'parts' not in fields:
      return self._leaf(node, fields, fields)
    if 'sources' in fields:
      node.fail(
        'give either `sources` or `parts`; the sources of a slice with parts '
        'stand in these'
      )
    listed = _filled(fields['parts'])
    parts = [
      self._leaf(part, part.fields((*_LEAF, 'filter')), fields)
      for part in listed
    ]
    _last_without_filter(listed, parts, 'part')
    depths = [_depth(part) for part in parts]
    if len(set(depths)) > 1:
      fields['parts'].fail(
        f'parts have unequal numbers of layers: {depths}; a slice is as deep '
        'as each of its parts'
      )
    own = Slice(
      base_model=nodes.optional(fields, 'base_model', reference),
      merge_method=nodes.optional(fields, 'merge_method', self._name),
      scales=nodes.optional(fields, 'scales', _scales) or (),
      parts=tuple(parts),
    )
    parameters = self._parameters(fields, self._methods([own]))
    return dataclasses.replace(own, parameters=parameters)

  def _leaf(
    self, node: Node, fields: dict[str, Node], outer: dict[str, Node]
  ) -> Slice:
    """A slice without parts, or a part of the slice with the outer fields."""
    named = fields.get('merge_method') or outer.get('merge_method')
    method = self.method if named is None else self._method(named)
    if 'base_model' not in fields and 'base_model' not in outer:
      self._check_base(method, named or self.fields['merge_method'])
    if 'sources' not in fields:
      node.fail('`sources` is missing')
    listed = _filled(fields['sources'])
    sources = []
    for source in listed:
      own = source.fields(('model', 'layer_range', 'parameters'))
      if 'layer_range' not in own:
        source.fail('`layer_range` is missing; expected [start, end]')
      span = _span(own['layer_range'])
      sources.append(self._source(source, own, span, method))
    counts = {
      s.model: end - start
      for s in sources
      for start, end in [s.layers or (0, 0)]
    }
    if len(set(counts.values())) > 1:
      fields['sources'].fail(
        f'sources have unequal numbers of layers: {counts}'
      )
    return Slice(
      self._distinct(sources, listed),
      nodes.optional(fields, 'base_model', reference),
      self._parameters(fields, (method,)),
      nodes.optional(fields, 'merge_method', self._name),
      nodes.optional(fields, 'scales', _scales) or (),
      nodes.optional(fields, 'filter', Node.text),
    )

  def _name(self, node: Node) -> str:
    return self._method(node).name

  def _check_base(self, method: MergeMethod, node: Node) -> None:
    if method.stack == 'deltas' and self.base is None:
      node.fail(f'{method.name} needs a `base_model`')

  def _source(
    self, node: Node, fields: dict[str, Node], span, method: MergeMethod
  ) -> Source:
    if 'model' not in fields:
      node.fail('`model` is missing')
    parameters = self._parameters(fields, (method,), of_model=True)
    return Source(reference(fields['model']), parameters, span)

  def _distinct(self, sources: list[Source], where: list[Node]):
    seen = set()
    for source, node in zip(sources, where, strict=True):
      if source.model in seen:
        node.fail(f'the model {source.model!r} stands twice in one slice')
      seen.add(source.model)
    return tuple(sources)

  def _parameters(
    self,
    fields: dict[str, Node],
    methods: Sequence[MergeMethod],
    of_model: bool = False,
  ) -> dict[str, Setting]:
    if 'parameters' not in fields:
      return {}
    taken = {p.name: p.per_expert for m in methods for p in m.parameters}
    name = ' and '.join(m.name for m in methods)
    found = {}
    for key, node in fields['parameters'].fields().items():
      if key not in taken:
        if not any(peer.has_no_effect(m.name, key) for m in methods):
          node.fail(_unknown(key, name, taken))
        self._warn(node, f'it has no effect with {name}')
      elif of_model and not taken[key]:
        node.fail(
          f'{key!r} of {name} is one for all models; state it in the '
          '`parameters` of the slice or of the recipe'
        )
      found[key] = settings.read(node, key)
    return found

  def _warn(self, node: Node, message: str) -> None:
    line = node.node.start_mark.line + 1
    self.warnings.append(f'{node.where}:{line}: {node.path}: {message}')


def _filled(node: Node) -> list[Node]:
  found = node.items()
  if not found:
    node.fail('the list is empty')
  return found


def _depth(part: Slice) -> int:
  start, end = part.sources[0].layers or (0, 0)
  return end - start


def _last_without_filter(listed: list[Node], found, what: str) -> None:
  for node, one in list(zip(listed, found, strict=True))[:-1]:
    if one.filter in (None, '*'):
      node.fail(
        f'a {what} without `filter` takes every tensor, so what follows never '
        'counts; put it last'
      )


def _scales(node: Node) -> tuple[Scale, ...]:
  listed = _filled(node)
  scales = []
  for one in listed:
    fields = one.fields(('filter', 'value', 'offset'))
    if 'value' not in fields:
      one.fail('`value` is missing')
    scales.append(
      Scale(
        nodes.optional(fields, 'filter', Node.text),
        settings.number(fields['value']),
        nodes.optional(fields, 'offset', settings.number) or 0.0,
      )
    )
  _last_without_filter(listed, scales, 'scale')
  return tuple(scales)


def _span(node: Node) -> tuple[int, int]:
  ends = [end.integer() for end in node.items()]
  if len(ends) != 2 or not 0 <= ends[0] < ends[1]:
    node.fail(f'{ends} is no range; expected [start, end], 0 <= start < end')
  return ends[0], ends[1]


def _dtype(node: Node) -> str:
  name = node.text().removeprefix('torch.')
  if name not in DTYPES:
    node.fail(f'dtype {name!r} is not supported; valid: {list(DTYPES)}')
  return name


def _seed(node: Node) -> int:
  if node.integer() < 0:
    node.fail(f'{node.integer()} is negative; expected 0 or more')
  return node.integer()


def _texts(node: Node) -> dict[str, str]:
  return {model: value.text() for model, value in node.fields().items()}


def _unknown(key: str, method: str, taken) -> str:
  others = peer.takers(key)
  if others:
    takes = 'take' if ' and ' in method else 'takes'
    return (
      f'{method} {takes} no parameter {key!r} ({", ".join(others)} '
      f'{"do" if len(others) > 1 else "does"}); it takes {sorted(taken)}'
    )
  return f'unknown key {key!r}' + trees.nearest(key, taken)
