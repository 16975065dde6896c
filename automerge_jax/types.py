"""Every named contract of the library, and the axis letters, once.

Axis letters, used in names and docstrings everywhere:

  P candidates      K experts   L layers   D search dimensions
  M objectives      N archive   n items    B batch   T tokens

Parameters are nested dicts of arrays with three top-level keys: `stem` (what
comes before the layers and what they share), `layers` (every leaf stacked on a
leading axis [L, ...]) and `final` (what comes after). A leaf is addressed by
its name, such as `layers/attention/query/kernel`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

Array = jax.Array
Params = dict[str, Any]  # {'stem': ..., 'layers': [L, ...], 'final': ...}
Carry = Any  # whatever a family hands from one layer to the next

# Bits that tell how an item's score came about.
TRUNCATED = 1  # its text, or the answer to it, was cut off
UNPARSED = 2  # no answer was found in what was generated


class Key(NamedTuple):
  """One row of a key table: where a stored tensor lives in Params.

  Attributes:
    stored: name in the checkpoint, e.g. `encoder.layer.3.output.dense.weight`.
    path: name of the leaf, e.g. `layers/mlp/output/kernel`.
    layer: index on the leaf's leading axis, None outside `layers`.
    transpose: whether the leaf holds the stored tensor's last two axes swapped.
  """

  stored: str
  path: str
  layer: int | None
  transpose: bool


@dataclasses.dataclass(frozen=True)
class Family:
  """A model family: pure functions over one layout, and its key table.

  Inputs of token models are int32 [B, T]: `ids`; `mask`, 0 at padding and else
  the number of the text that a token belongs to, so that a row may hold several
  (1 where it holds one); and optionally `positions`, each token's place in its
  text (by default its place in the row), and `branch`: 0 for tokens that all of
  a text may see, c > 0 for those that only branch c may see, such as the
  answers to one prompt. A token sees those of its own text at no later
  position, of branch 0 or its own. Image models take `pixels` [B, C, H, W].

  Attributes:
    name: the Hugging Face `model_type`.
    num_layers: L; of an encoder-decoder model, of the deeper stack.
    embed: `(params, inputs) -> carry`.
    block: `(layer_params, carry, layer_info) -> carry`, one layer's leaves.
    head: `(params, carry) -> outputs`, the last hidden states [B, T, d].
    layer_info: per-layer arrays [L, ...] that steer `block`, or None.
    keys: the key table, one row a stored tensor.
    components: ways to sort tensors, `coarse` and `fine`: (name, filter) pairs
      of which the first counts whose filter is part of the stored name; the
      last filter is None and takes the rest. `stem` is a group of its own.
    skip: stored names that are rightly not read (integer buffers).
    stack: where in Params this family's layers are.
    logits: `(params, hidden [..., d]) -> [..., V]`, float32; None without a
      vocabulary head.
    cache: `(params, inputs, length) -> memory` of that many slots, empty, for
      as many rows as `inputs`; None for what cannot generate.
    step: `(layer_params, carry, layer_info, memory) -> (carry, memory)`: as
      `block`, reading and extending one layer's memory.
    max_tokens: most tokens of a text; None without a limit.
    branches: (filter, offset) of the stored tensors whose scaling scales what a
      layer adds to the residual stream: w becomes s (w + offset) - offset. The
      first counts whose filter is part of the name. Empty where layers cannot
      be restacked.
    lookup: path of a table of which `embed` reads the rows `ids`, that nothing
      else but `logits` reads, and that may have any number of rows; or None.
    encoder: of an encoder-decoder model: a family over the same Params whose
      outputs `forward` hands to this one as `encoded`; this one's own tokens
      are then `decoder_ids`, `decoder_mask`, ...
  """

  name: str
  num_layers: int
  embed: Callable[[Params, Mapping[str, Array]], Carry]
  block: Callable[[Params, Carry, Any], Carry]
  head: Callable[[Params, Carry], Array]
  layer_info: Any
  keys: tuple[Key, ...]
  components: Mapping[str, tuple[tuple[str, str | None], ...]]
  skip: tuple[str, ...] = ()
  stack: str = 'layers'
  logits: Callable[[Params, Array], Array] | None = None
  cache: Callable[[Params, Mapping[str, Array], int], Any] | None = None
  step: Callable[..., tuple[Carry, Any]] | None = None
  max_tokens: int | None = None
  encoder: 'Family | None' = None
  branches: tuple[tuple[str, float], ...] = ()
  lookup: str | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Items:
  """Items of one length bucket, in equal chunks; padding has weight 0.

  Attributes:
    inputs: arrays that `Family.embed` takes, leaves [C, B, T].
    task: index of the task that an item belongs to, int32 [C, B].
    label: index of the right class, int32 [C, B].
    slot: position of the item in the rung's item list, int32 [C, B]; padding
      points one past the end.
  """

  inputs: dict[str, Array]
  task: Array
  label: Array
  slot: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ItemScores:
  """What an evaluation says of each item; higher is better.

  Attributes:
    score: what the task's metric says, float32 [..., n]: 1.0 for right and 0.0
      for wrong, or any number; of a perplexity task the log-likelihood a token.
    log_likelihood: log-probability of the right answer, nats, [..., n].
    answer: token ids of generated answers, int32 [..., n, A], -1 behind their
      end; None where nothing is generated.
    choices: log-probabilities of all answers, [..., n, C]: -inf for those that
      an item lacks, and for all of an item without a set of answers. None
      unless asked for.
  """

  score: Array
  log_likelihood: Array
  answer: Array | None = None
  choices: Array | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ExpertStack:
  """Base and experts on the device, once.

  Attributes:
    base: Params, leaves [L, ...] or [...].
    stack: Params, leaves [K, L, ...] or [K, ...]: weights or task vectors, as
      the merge method declares.
    facts: `{path: {fact: array}}`, what the method precomputes per tensor; in
      `layers` with an axis L behind the leading axes of an elementwise fact,
      and in front of a table.
    below: stem and leading layers that all models share, which the others
      then leave out; None where they share none.
    calibration: what a dynamic method measures its candidates on, see
      `merging.calibration`; None for the others.
  """

  base: Params
  stack: Params
  facts: dict[str, dict[str, Array]]
  below: Params | None = None
  calibration: Any = None


# `{path: {parameter: array}}`: per expert [K, L] (or [K]), shared [L] (or []).
MergePlan = dict[str, dict[str, Array]]


@dataclasses.dataclass(frozen=True)
class Parameter:
  """A parameter of a merge method.

  Attributes:
    name: as in recipes.
    default: value where a recipe is silent; None means required.
    per_expert: one value for each expert (mergekit: per model) or one shared.
    low, high: range that searches explore; None where they leave the default.
    setting: facts depend on it, so it is one number for a whole tensor that
      no search moves. A density is none: facts hold for every density.
  """

  name: str
  default: float | None
  per_expert: bool
  low: float | None = None
  high: float | None = None
  setting: bool = False


class Stored(NamedTuple):
  """What facts are computed from: one stored tensor of base and experts.

  Attributes:
    name: of the tensor in the experts' checkpoints.
    base: float32 [...]; zeros where the recipe has no base.
    stack: float32 [K, ...], weights or deltas as the method declares.
    settings: values of the parameters that are settings, tuples [K] where per
      expert; also `density` where it is known in advance, as in an export.
    seed: of the random masks.
    statistics: what was measured on data, `{statistic: [K, ...]}`.
    whole: what was found on whole models before, by fact.
  """

  name: str
  base: np.ndarray
  stack: np.ndarray
  settings: Mapping[str, Any]
  seed: int = 0
  statistics: Mapping[str, np.ndarray] = {}
  whole: Mapping[str, Any] = {}


class Fact(NamedTuple):
  """What depends on checkpoints alone, computed once per stored tensor.

  Facts are numpy on the host and defined on the tensor as it is stored, so that
  a merge by tensor and a merge of stacked leaves see the same values.

  Attributes:
    name: key in the mapping that `MergeMethod.merge` gets.
    compute: `(stored, facts found before this one) -> array`.
    lead: leading axes before the tensor's own, 1 for [K, ...], 0 for [...].
    elementwise: the array has the tensor's axes (broadcast ones may be 1) and
      follows it through transposition and chunking; otherwise a small table.
    itemsize: bytes an entry in a merge by tensor.
  """

  name: str
  compute: Callable[[Stored, Mapping[str, np.ndarray]], np.ndarray]
  lead: int = 1
  elementwise: bool = True
  itemsize: int = 4


@dataclasses.dataclass(frozen=True)
class MergeMethod:
  """A merge method: one elementwise function on one stored tensor.

  Attributes:
    name: as in recipes.
    merge: `(coefficients, facts, base [...], stack [K, ...]) -> [...]`, where
      coefficients are `{parameter: [K] or []}`, all arrays float32. Given its
      facts it treats every entry alone, so that a tensor may come whole, in
      chunks, or stacked with others: what looks across entries is a fact.
    parameters: what it can be told.
    stack: what `stack` holds: 'weights', 'deltas', or 'either', which is deltas
      where the recipe has a base and weights (of base 0) where it has none.
    facts: what it wants precomputed.
    sources: (least, most) number of experts; most is None when unbounded. The
      base is no expert where the stack holds deltas.
    semantics: whose definition it follows where there are several:
      'mergekit-0.1.5' or 'paper'.
    whole: for methods that look at whole models: `(stacks, settings) ->
      Stored.whole`, where `stacks()` gives (stored name, [K, ...]) of each
      tensor and may be called again.
    statistics: names of what it needs measured on data.
    switch: it branches on a coefficient, so stacked layers are merged one by
      one and not side by side, which would take every branch.
    dynamic: a search measures its statistics anew for every candidate, at the
      candidate's own parameters.
  """

  name: str
  merge: Callable[
    [Mapping[str, Array], Mapping[str, Array], Array, Array], Array
  ]
  parameters: tuple[Parameter, ...]
  stack: str
  facts: tuple[Fact, ...] = ()
  sources: tuple[int, int | None] = (1, None)
  semantics: str = 'mergekit-0.1.5'
  whole: Callable[..., Mapping[str, Any]] | None = None
  statistics: tuple[str, ...] = ()
  switch: bool = False
  dynamic: bool = False


class LayerProgram(NamedTuple):
  """Which layers are stacked in which order; S positions, a fixed number.

  Attributes:
    layer: of the sources, at each position, int32 [S].
    scale: of what the layer adds to the residual stream, float32 [S].
    active: whether there is a layer at all, bool [S].
  """

  layer: Array
  scale: Array
  active: Array


class SearchSpace(NamedTuple):
  """A typed space of recipes over the unit cube.

  Candidates travel as coefficients `c [D]` in natural units on a decimal grid:
  what is scored is exactly what the recipe says. Of a categorical dimension of
  n options, c is the index 0 to n - 1 and x in [i / n, (i + 1) / n) means i.

  Attributes:
    names: D names, one a dimension, `parameter/expert/layers/component`.
    correlation: prior correlation of the dimensions, [D, D]: coefficients of
      one expert belong together before anything is known of their layers.
    quantise: `x [D] -> c [D]`, x clipped to [0, 1]; jittable.
    encode: `c [D] -> x [D]`; the inverse up to the grid.
    decode: `c [D] -> MergePlan`; pure indexing, jittable, differentiable in
      what is no category. With a `program`, leaves of `layers` are by position,
      [K, S] or [S], and not by source layer.
    describe: `c [D] -> Recipe`; on the host.
    choices: options of each dimension, int [D]: 0 for a float; None: all are.
    active: `c [D] -> bool [D]`, which dimensions change the recipe; jittable.
      None: all do.
    program: `c [D] -> LayerProgram`, jittable; None where all layers stay.
    starts: (origin, c [D]) start designs of the space's own; None where the
      baselines' grid of weights serves.
    smooth: dimensions that gradients may follow, bool [D]; None: those whose
      names say so, see `search/gradient.py`.
  """

  names: tuple[str, ...]
  correlation: Any
  quantise: Callable[[Array], Array]
  encode: Callable[[Array], Array]
  decode: Callable[[Array], MergePlan]
  describe: Callable[[Any], Any]
  choices: Any = None
  active: Callable[[Array], Array] | None = None
  program: Callable[[Array], LayerProgram] | None = None
  starts: tuple[tuple[str, Any], ...] | None = None
  smooth: Any = None


class Told(NamedTuple):
  """All that was proposed so far, and how good it is; N rows, a fixed number.

  Attributes:
    x: proposals on the grid, [N, D]; rows that are not filled yet hold 0.5.
    scores: rank scores over all rows, [N]: higher is better, and only their
      order counts. They are made anew for every `tell`: who got to a higher
      rung comes first; of several objectives by front, then crowding; who
      breaks a constraint comes behind. -inf where a row is not filled.
    fresh: rows of the last generation, int32 [P].
    asked: what was asked for where those rows are, before it was brought onto
      the grid and into its canonical form, [P, D]; `x[fresh]` where no
      optimizer asked.
    values: the objective itself, on the highest rung that any row reached,
      [N]; NaN of rows that did not. None where there are several objectives, or
      constraints.
  """

  x: Array
  scores: Array
  fresh: Array
  asked: Array
  values: Array | None = None


class Optimizer(NamedTuple):
  """A search algorithm as pure functions; scores are always maximised.

  All are jitted, and exact by their keys.

  Attributes:
    init: `(key, told) -> state`, from the start designs; `fresh` and `asked`
      say nothing.
    ask: `(key, state) -> x [P, D]`, x within [0, 1]. Asked several times with
      different keys it gives several times as many to choose from; to tell it
      only what was chosen is to draw from another distribution than its own.
    tell: `(key, told, state) -> state`; `fresh` are P rows that were asked for
      since it was told last.
    mean: `state -> x [D]`, the centre of the distribution, of categories the
      likeliest option; None without one.
    move: `(x [D], state) -> state` whose distribution is centred at x; None
      where the algorithm looks at all rows that it is told.
  """

  init: Callable[[Array, Told], Any]
  ask: Callable[[Array, Any], Array]
  tell: Callable[[Array, Told, Any], Any]
  mean: Callable[[Any], Array] | None = None
  move: Callable[[Array, Any], Any] | None = None
