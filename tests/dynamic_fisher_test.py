"""Fisher information where a search is, against closed forms and torch."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from automerge_jax import trees
from automerge_jax.models import base as models
from automerge_jax.models import registry
from automerge_jax.statistics import dynamic, examples, information
from automerge_jax.tasks import (
  choice,
  classification,
  experts,
  generation,
  itemset,
  perplexity,
  splits,
)
from automerge_jax.tasks.itemset import ItemSet
from automerge_jax.tasks.likelihood import Query
from automerge_jax.tasks.packing import Request
from automerge_jax.tasks.partition import Item
from automerge_jax.types import Family
from tests import text_models, tiny_decoder, tiny_suite

TORCH = pathlib.Path(__file__).parent / 'testdata' / 'dynamic_fisher_torch.npz'
LABELS = (0, 2, 1, 1, 0, 2)
TABLE = np.random.default_rng(0).normal(size=(3 + len(LABELS), 4)).astype('f4')
KERNEL = np.random.default_rng(1).normal(size=(4, 3)).astype('f4')


def _items(tasks, queries, labels=None):
  """An item set of `{task: queries}`."""
  rows = [(t, query) for t, task in enumerate(tasks) for query in queries[task]]
  labels = [0] * len(rows) if labels is None else labels
  return ItemSet(
    tuple(task.name for task in tasks),
    tuple(map(str, range(len(rows)))),
    tuple(query for _, query in rows),
    np.asarray([t for t, _ in rows], np.int32),
    np.asarray(labels, np.int32),
    np.zeros(len(rows), np.uint8),
    tuple(tasks),
    tuple(Item(str(i), '', label) for i, label in enumerate(labels)),
  )


def _query(context, choices, compared=True, start=None):
  return Query(
    tuple((Request(context, one),) for one in choices),
    (1.0,) * len(choices),
    compared,
    start,
  )


def _softmax_regression():
  """p(y | x) = softmax(x W) over a vocabulary of 3; x of the last token."""
  family = Family(
    'softmax_regression',
    1,
    embed=lambda params, inputs: jnp.asarray(TABLE)[inputs['ids']],
    block=lambda layer, carry, info: carry,
    head=lambda params, carry: carry,
    layer_info=None,
    keys=(),
    components={},
    logits=lambda params, hidden: hidden @ params['final']['kernel'],
  )
  idle = {'stem': {'idle': jnp.ones(2)}, 'layers': {'none': jnp.zeros((1, 2))}}
  return family, idle | {'final': {'kernel': jnp.asarray(KERNEL)}}


def _regression_items(others=()):
  task = choice.Task('classes', 8)
  asked = [_query((3 + i,), [(0,), (1,), (2,)]) for i in range(len(LABELS))]
  return _items((task,), {task: [*asked, *others]}, [*LABELS, *others])


def _closed_form():
  x = TABLE[3:].astype('f8')
  return x, scipy.special.softmax(x @ KERNEL, axis=1)


def _kernel(found):
  return np.asarray(found['final']['kernel'])


def test_softmax_regression_in_closed_form():
  family, params = _softmax_regression()
  given = examples.build(_regression_items())
  found = jax.jit(
    lambda p: dynamic.information(family, p, {}, given, 0, epsilon=0.5)
  )(params)
  x, p = _closed_form()
  want = np.einsum('ni,nc->ic', x**2, p * (1 - p)) / len(x)
  np.testing.assert_allclose(_kernel(found), want + 0.5, rtol=1e-5)
  # What has no gradient has no information, and no error.
  np.testing.assert_array_equal(found['stem']['idle'], 0.5)
  fixed = {'stem': params['stem']}
  own = {name: part for name, part in params.items() if name not in fixed}
  less = jax.jit(
    lambda p: dynamic.information(
      family, p, {}, given, 0, fixed=fixed, epsilon=0.5
    )
  )(own)
  assert set(less) == set(own)
  np.testing.assert_array_equal(_kernel(less), _kernel(found))


def test_labels_and_draws_in_closed_form():
  family, params = _softmax_regression()
  given = examples.build(_regression_items())

  def run(estimate, key=None):
    return dynamic.information(
      family, params, {}, given, 0, key, epsilon=0, estimate=estimate
    )

  x, p = _closed_form()
  miss = np.eye(3)[list(LABELS)] - p
  want = np.einsum('ni,nc->ic', x**2, miss**2) / len(x)
  np.testing.assert_allclose(
    _kernel(jax.jit(lambda: run('label'))()), want, rtol=1e-5
  )
  keys = jax.random.split(jax.random.key(0), 5000)
  draws = jax.jit(lambda keys: jax.lax.map(lambda k: run('sampled', k), keys))
  each = _kernel(draws(keys))
  want = np.einsum('ni,nc->ic', x**2, p * (1 - p)) / len(x)
  error = each.std(0) / np.sqrt(len(each))
  assert (error < 0.05 * want).all()
  np.testing.assert_array_less(np.abs(each.mean(0) - want), 4 * error)


@pytest.mark.parametrize(
  'p', [(0.5, 0.3, 0.2), (1 - 1e-7, 1e-7), (0.0, 0.6, 1e-4, 0.4 - 1e-4), (1.0,)]
)
def test_contrasts_are_a_factor_of_the_covariance(p):
  p = np.asarray(p, 'f8')
  with np.errstate(divide='ignore'):
    rows = np.asarray(dynamic.contrasts(jnp.log(jnp.asarray(p, 'f4'))), 'f8')
  assert rows.shape == (len(p) - 1, len(p))
  want = np.diag(p) - np.outer(p, p)
  np.testing.assert_allclose(rows.T @ rows, want, rtol=1e-5, atol=1e-12)
  # Fewer classes than columns: those that are not there come first.
  padded = jnp.append(jnp.log(jnp.asarray(p, 'f4')), -jnp.inf)
  wider = np.asarray(dynamic.contrasts(padded))
  np.testing.assert_array_equal(wider[0], 0)
  np.testing.assert_allclose(wider[1:, :-1], rows, rtol=1e-6)


def test_tokens_of_texts_are_drawn_one_a_position():
  family, params = _softmax_regression()
  task = perplexity.Task('text', 16)
  text = (1, 2, 0, 0, 1)
  items = _items((task,), {task: [_query((5,), [text], compared=False)]})
  given = examples.build(items)

  def run(estimate, key=None):
    return dynamic.information(
      family, params, {}, given, 0, key, epsilon=0, estimate=estimate
    )

  x = TABLE[[5, *text[:-1]]].astype('f8')
  p = scipy.special.softmax(x @ KERNEL, axis=1)
  want = np.einsum('ti,tc->ic', x, np.eye(3)[list(text)] - p) ** 2 / len(x) ** 2
  found = jax.jit(lambda: run('label'))()
  np.testing.assert_allclose(_kernel(found), want, rtol=1e-4, atol=1e-6)
  # So is the answer of an item whose answers are generated.
  writing = generation.Task('write', 16, 8, stop=('.',))
  written = generation.Encoded((), (5,), text, 0, None, None)
  given = examples.build(_items((writing,), {writing: [written]}))
  np.testing.assert_allclose(
    _kernel(jax.jit(lambda: run('label'))()), _kernel(found), rtol=1e-6
  )
  # Draws are independent: the mean square of the mean over T positions.
  keys = jax.random.split(jax.random.key(0), 5000)
  draws = jax.jit(lambda keys: jax.lax.map(lambda k: run('sampled', k), keys))
  each = _kernel(draws(keys))
  want = np.einsum('ti,tc->ic', x**2, p * (1 - p)) / len(x) ** 2
  error = each.std(0) / np.sqrt(len(each))
  assert (error < 0.05 * want).all()
  np.testing.assert_array_less(np.abs(each.mean(0) - want), 4 * error)
  with pytest.raises(ValueError, match="'exact' needs items with a set"):
    run('exact')


def test_normalisations():
  family, params = _softmax_regression()
  given = examples.build(_regression_items())

  def run(**options):
    run = jax.jit(
      lambda total: dynamic.information(
        family, params, {}, given, 0, total=total, **options
      )
    )
    return _kernel(run(jax.tree.map(jnp.ones_like, params))) - 1

  plain = run(epsilon=0)
  unit = run(epsilon=0.25, normalisation='global_norm') - 0.25
  np.testing.assert_allclose(unit, plain / np.linalg.norm(plain), atol=1e-6)
  trace = run(epsilon=0, normalisation='trace')
  np.testing.assert_allclose(trace, plain / plain.sum(), atol=1e-6)


def test_what_is_wrong_is_named():
  family, params = _softmax_regression()
  items = _regression_items()
  given = examples.build(items)

  def run(**options):
    dynamic.information(family, params, {}, given, 0, **options)

  with pytest.raises(ValueError, match="estimate is 'true'; expected one of"):
    run(estimate='true')
  with pytest.raises(ValueError, match="normalisation is 'l2'; expected one"):
    run(normalisation='l2')
  with pytest.raises(ValueError, match='needs a key'):
    run(estimate='sampled')
  other = dataclasses.replace(
    items,
    tasks=('classes', 'none'),
    definitions=(*items.definitions, choice.Task('none', 8)),
  )
  with pytest.raises(ValueError, match="'none' of the kind 'choice' gives 0"):
    examples.build(other)


@pytest.fixture(scope='module')
def encoder(tiny):
  """Family, params, stacked heads and items of three tasks."""
  heads, defined, items = [], [], {}
  for task, count in zip(tiny_suite.TASKS, (5, 7, 4), strict=True):
    head = experts.read_head(tiny / 'experts' / task)
    heads.append((head.kernel, head.bias))
    defined.append(head.task)
    items[task] = splits.train_items(task, count)
  loaded = registry.load(tiny / 'experts' / tiny_suite.TASKS[1])
  family, params = loaded.family, jax.tree.map(jnp.asarray, loaded.params)
  encoded = itemset.build(defined, items, family, tiny / 'base')
  texts = [ids[: 8 + 3 * (i % 3)] for i, ids in enumerate(encoded.encoded)]
  encoded = dataclasses.replace(encoded, encoded=tuple(texts))
  stacked = classification.stack_heads(heads)
  return family, params, jax.tree.map(jnp.asarray, stacked), encoded


def _close(have, want, tolerance=1e-4):
  have, want = trees.flatten(have), trees.flatten(want)
  assert set(have) == set(want)
  for name, leaf in want.items():
    # Biases of keys change nothing: there is nothing but rounding.
    atol = max(tolerance * np.abs(leaf).max(), 1e-10)
    np.testing.assert_allclose(have[name], leaf, rtol=0, atol=atol)


def test_encoders_are_as_measured_before(encoder):
  family, params, heads, items = encoder
  given = examples.build(items, 1)
  run = jax.jit(
    lambda task, given, memory: dynamic.information(
      family, params, heads, given, task, memory=memory
    ),
    static_argnums=2,
  )
  classify = information.classifier(family)
  found = {}
  for task in (0, 1):  # of two and of three classes
    tokens = [items.encoded[i] for i in np.flatnonzero(items.task == task)]
    zeros = [0] * len(tokens)
    head = heads['kernel'][task], heads['bias'][task]
    buckets = classification.bucket(tokens, zeros, zeros, (16,), 64)
    want = information.diagonal(classify, params, head, buckets, len(tokens))
    found[task] = run(task, given, 1)
    _close(found[task], want)
  # Three examples side by side, and all, are no other than one by one.
  layer = sum(leaf.size for leaf in jax.tree.leaves(params['layers']))
  each = 4 * layer // family.num_layers
  _close(run(1, given, 3 * each + 1), found[1], 1e-5)
  _close(run(1, given, 2**30), found[1], 1e-5)


def test_padding_has_no_information(encoder):
  family, params, heads, items = encoder
  given = examples.build(items, 1)
  (piece,) = given.pieces
  mine = np.flatnonzero(items.task == 1)

  @jax.jit
  def run(given):
    return dynamic.information(family, params, heads, given, 1, epsilon=0)

  def without(rows, change=0):
    data = piece.data
    inputs = data.inputs | {'ids': data.inputs['ids'].at[rows].add(change)}
    slot = data.slot.at[rows].set(given.end + change)
    data = dataclasses.replace(data, inputs=inputs, slot=slot)
    return dataclasses.replace(
      given,
      pieces=(dataclasses.replace(piece, data=data),),
      counts=given.counts.at[1].add(-len(rows)),
    )

  first = run(without(mine[:3]))
  _close(run(without(mine[:3], change=1)), first, 0)
  rest = run(without(mine[3:]))
  share = 3 / len(mine)
  both = jax.tree.map(lambda a, b: (1 - share) * a + share * b, first, rest)
  _close(both, run(given), 1e-5)


@pytest.mark.parametrize('memory', [0, 2**30])
def test_rows_of_repeated_tokens_count_once(encoder, memory):
  family, params, heads, items = encoder
  twice = (4, 5, 4, 4, 6)
  queries = [twice] * len(items.encoded)
  given = examples.build(dataclasses.replace(items, encoded=tuple(queries)))

  def run(family):
    return jax.jit(
      lambda p: dynamic.information(
        family, p, heads, given, 0, memory=memory, epsilon=0
      )
    )(params)

  found = run(family)
  whole = run(dataclasses.replace(family, lookup=None))
  table = np.asarray(found['stem']['word']['embedding'])
  assert (np.flatnonzero(table.any(1)) == sorted(set(twice))).all()
  _close(found, whole)


def test_choices_of_language_models_one_by_one():
  family, params = tiny_decoder.model()
  groups = [
    [tuple(request) for request in requests]
    for requests in tiny_decoder.questions(9)
    if len(requests) > 1
  ]
  tasks = choice.Task('one', 40), choice.Task('two', 40)
  queries = [
    _query(requests[0][0], [answer for _, answer in requests])
    for requests in groups
  ]
  items = _items(tasks, {tasks[0]: queries[:3], tasks[1]: queries[3:]})
  found = jax.jit(
    lambda given, task: dynamic.information(family, params, {}, given, task)
  )(examples.build(items), 1)

  @jax.jit
  def value(params, ids, scored):
    inputs = {'ids': ids[None, :-1], 'mask': jnp.ones_like(ids[None, :-1])}
    logits = family.logits(params, models.forward(family, params, inputs))[0]
    each = jnp.take_along_axis(jax.nn.log_softmax(logits), ids[1:, None], 1)[
      :, 0
    ]
    return jnp.sum(each * scored) / jnp.sum(scored)

  gradient = jax.jit(jax.value_and_grad(value))
  count = len(groups[3:])
  want = jax.tree.map(np.zeros_like, params)
  longest = max(len(c) + len(a) for group in groups for c, a in group)
  for group in groups[3:]:
    rows = []
    for context, answer in group:
      ids, scored = np.zeros(longest, np.int32), np.zeros(longest - 1)
      ids[: len(context) + len(answer)] = (*context, *answer)
      scored[len(context) - 1 : len(context) + len(answer) - 1] = 1
      rows.append(gradient(params, jnp.asarray(ids), jnp.asarray(scored, 'f4')))
    share = scipy.special.softmax([float(v) for v, _ in rows])
    for p, (_, slope) in zip(share, rows, strict=True):
      want = jax.tree.map(
        lambda w, g, s=p / count: w + s * np.square(g), want, slope
      )
  _close(found, want)


def test_an_example_in_several_chunks_is_refused():
  family, params = _softmax_regression()
  given = examples.build(_regression_items())
  (piece,) = given.pieces
  packed = jax.tree.map(
    lambda leaf: jnp.concatenate([leaf, leaf], 1), piece.data.packed
  )
  data = dataclasses.replace(piece.data, packed=packed)
  given = dataclasses.replace(
    given, pieces=(dataclasses.replace(piece, data=data),)
  )
  with pytest.raises(ValueError, match='packed into 2 chunks; expected one'):
    dynamic.information(family, params, {}, given, 0)


def test_gradients_of_t5_are_those_of_torch(tmp_path):
  with np.load(TORCH) as file:
    golden = dict(file)
  loaded = registry.load(text_models.write(tmp_path / 't5', 't5_tied'))
  family, params = loaded.family, jax.tree.map(jnp.asarray, loaded.params)
  task = choice.Task('answers', 40)
  queries = []
  for index in range(int(golden['items'])):
    context = tuple(map(int, golden[f'{index}/context']))
    choices = [
      tuple(map(int, golden[f'{index}/choice/{c}']))
      for c in range(int(golden[f'{index}/choices']))
    ]
    queries.append(_query(context, choices, start=0))
  given = examples.build(_items((task,), {task: queries}))
  found = jax.jit(
    lambda params: dynamic.information(family, params, {}, given, 0)
  )(params)
  stored = models.unpack(family.keys, jax.device_get(found))
  compared = 0
  for name, want in golden.items():
    if name.startswith('fisher/'):
      have = stored[name.removeprefix('fisher/')]
      atol = max(1e-4 * want.max(), 1e-10)
      np.testing.assert_allclose(have, want, rtol=0, atol=atol)
      compared += 1
  assert compared == len(stored)
