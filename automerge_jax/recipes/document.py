"""A recipe as data: what is merged how.

The names are those of the YAML grammar, see `automerge_jax/recipe.py`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

# number | gradient | {'filter': str, 'value': ...} | list of such dicts
Setting = Any


class ModelRef(NamedTuple):
  """What a model's name in a recipe says.

  Attributes:
    path: of the model, relative to the recipe.
    revision: of the model, if stated.
    lora: path of an adapter that is applied first.
    lora_revision: of the adapter, if stated.
  """

  path: str
  revision: str | None = None
  lora: str | None = None
  lora_revision: str | None = None

  def __str__(self) -> str:
    text = _at(self.path, self.revision)
    if self.lora is not None:
      text += '+' + _at(self.lora, self.lora_revision)
    return text


def model_ref(text: str) -> ModelRef:
  """Takes `path[@revision][+lora[@revision]]` apart.

  Raises:
    ValueError: if a part is empty or there are several `+` or `@`.
  """
  parts = [part.split('@') for part in text.split('+')]
  if len(parts) > 2 or any(len(p) > 2 or '' in p for p in parts):
    raise ValueError(
      f'model {text!r}; expected path[@revision][+lora[@revision]]'
    )
  ends: list[str | None] = []
  for part in parts:
    ends += [part[0], part[1] if len(part) > 1 else None]
  path, *others = ends
  return ModelRef(path or '', *others)


def _at(path: str, revision: str | None) -> str:
  return path if revision is None else f'{path}@{revision}'


@dataclasses.dataclass(frozen=True)
class Source:
  """One model in a slice, with its parameters.

  Attributes:
    model: its name, `path[@revision][+lora[@revision]]`.
    parameters: settings by parameter.
    layers: its layers [start, end); None for all of them.
  """

  model: str
  parameters: Mapping[str, Setting] = dataclasses.field(default_factory=dict)
  layers: tuple[int, int] | None = None


class Scale(NamedTuple):
  """A factor on merged tensors: w becomes value (w + offset) - offset.

  Attributes:
    filter: part of the stored name; None: any name.
    value: the factor.
    offset: what the architecture adds to the weight when it uses it.
  """

  filter: str | None
  value: float
  offset: float = 0.0


@dataclasses.dataclass(frozen=True)
class Slice:
  """Layers of the output: as many layers of each source, merged pairwise.

  All but the first three are beyond mergekit's grammar.

  Attributes:
    sources: what is merged; empty with `parts`.
    base_model: the base, where it is not the recipe's.
    parameters: settings of this slice.
    merge_method: where it is not the recipe's.
    scales: applied to what is merged; the first whose filter is part of a
      tensor's name counts.
    filter: of a part: what the names of its tensors contain; None: any name.
    parts: slices of the same depth for some tensors each; the first counts
      whose filter is part of a tensor's stored name.
  """

  sources: tuple[Source, ...] = ()
  base_model: str | None = None
  parameters: Mapping[str, Setting] = dataclasses.field(default_factory=dict)
  merge_method: str | None = None
  scales: tuple[Scale, ...] = ()
  filter: str | None = None
  parts: tuple['Slice', ...] = ()

  def __post_init__(self):
    if self.parts and self.sources:
      raise ValueError(
        f'a slice has the sources {[s.model for s in self.sources]} and '
        f'{len(self.parts)} parts; give the sources to one of its parts'
      )

  @property
  def leaves(self) -> tuple['Slice', ...]:
    """Its parts, or itself, with its method, base and scales handed down."""
    return tuple(
      dataclasses.replace(
        part,
        base_model=part.base_model or self.base_model,
        merge_method=part.merge_method or self.merge_method,
        scales=(*part.scales, *self.scales),
      )
      for part in self.parts
    ) or (self,)


def applies(filter: str | None, name: str) -> bool:
  """Whether a filter holds for a tensor's stored name."""
  return filter is None or filter == '*' or filter in name


@dataclasses.dataclass(frozen=True)
class Module:
  """A stack of layers of its own, such as an encoder, with its slices."""

  name: str
  slices: tuple[Slice, ...]
  parameters: Mapping[str, Setting] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class ModelToken:
  """The embedding of a token of a model, by its text or its number."""

  model: str
  token: str | None = None
  token_id: int | None = None


@dataclasses.dataclass(frozen=True)
class ZeroToken:
  """An embedding of zeros."""


@dataclasses.dataclass(frozen=True)
class TokenSpec:
  """Where a token's embedding comes from.

  Attributes:
    source: a model's name, a token of a model, zeros; None: as without it.
    force: also for models that have the token.
  """

  source: str | ModelToken | ZeroToken | None = None
  force: bool = False


@dataclasses.dataclass(frozen=True)
class TokenizerSpec:
  """The tokenizer of the merged model.

  Attributes:
    source: 'union', 'base' or a model's name.
    tokens: what is stated of single tokens.
    pad_to_multiple_of: rows of the embeddings are padded to a multiple.
  """

  source: str = 'union'
  tokens: Mapping[str, TokenSpec] = dataclasses.field(default_factory=dict)
  pad_to_multiple_of: int | None = None


@dataclasses.dataclass(frozen=True)
class Recipe:
  """A merge.

  Attributes:
    merge_method: name of the method.
    slices: what makes the layers, in their order; empty with `modules`.
    base_model: the base, where a slice has no other.
    parameters: settings where nothing nearer states them.
    inputs: SHA-256 of the weights by model.
    statistics: folder of what was measured of a model, by model.
    semantics: whose definition of the method, 'mergekit-0.1.5' or 'paper'.
    dtype: of the computation's result; None: what the inputs promote to.
    out_dtype: what is stored, where it is not `dtype`.
    tokenizer: of the merged model; None: all models share theirs.
    chat_template: 'auto', a template's name or a template; None: the copied.
    seed: of the random masks.
    modules: stacks with slices of their own; empty with `slices`.
    warnings: what was read and has no effect, with its place.
  """

  merge_method: str
  slices: tuple[Slice, ...] = ()
  base_model: str | None = None
  parameters: Mapping[str, Setting] = dataclasses.field(default_factory=dict)
  inputs: Mapping[str, str] = dataclasses.field(default_factory=dict)
  statistics: Mapping[str, str] = dataclasses.field(default_factory=dict)
  semantics: str = 'mergekit-0.1.5'
  dtype: str | None = 'float32'
  out_dtype: str | None = None
  tokenizer: TokenizerSpec | None = None
  chat_template: str | None = None
  seed: int = 0
  modules: tuple[Module, ...] = ()
  warnings: tuple[str, ...] = dataclasses.field(default=(), compare=False)

  @property
  def stacks(self) -> tuple[Module, ...]:
    """The modules; slices that belong to none are one without a name."""
    return self.modules or (Module('', self.slices),)

  @property
  def models(self) -> tuple[str, ...]:
    """Every model once, in order of appearance; the base first, if any."""
    found = [self.base_model]
    for part in self.leaves:
      found += [s.model for s in part.sources]
      found.append(part.base_model)
    if self.tokenizer is not None:
      found += _tokenizer_models(self.tokenizer)
    return tuple(dict.fromkeys(m for m in found if m is not None))

  @property
  def leaves(self) -> list[Slice]:
    """What has sources of its own: slices, and parts of slices."""
    return [
      leaf
      for module in self.stacks
      for part in module.slices
      for leaf in part.leaves
    ]

  @property
  def methods(self) -> tuple[str, ...]:
    """The method of every slice and part, each once, in order."""
    found = [leaf.merge_method or self.merge_method for leaf in self.leaves]
    return tuple(dict.fromkeys(found))

  @property
  def extended(self) -> bool:
    """Whether slices say what mergekit's grammar has no word for."""
    return any(leaf.merge_method or leaf.scales for leaf in self.leaves) or any(
      part.parts for module in self.stacks for part in module.slices
    )


def _tokenizer_models(spec: TokenizerSpec) -> list[str]:
  found = [] if spec.source in ('union', 'base') else [spec.source]
  for token in spec.tokens.values():
    if isinstance(token.source, ModelToken):
      found.append(token.source.model)
    elif isinstance(token.source, str):
      found.append(token.source)
  return found


def over_all_layers(module: Module) -> bool:
  """Whether it is written as `models`: one slice of every source's layers."""
  if len(module.slices) != 1:
    return False
  (part,) = module.slices
  return all(s.layers is None for leaf in part.leaves for s in leaf.sources)
