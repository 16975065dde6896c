"""Packed rows hold every request, in few rows, whatever their order."""

import itertools

import jax
import numpy as np
import pytest

from automerge_jax.tasks import packing
from automerge_jax.tasks.packing import Request
from tests import tiny_decoder


def _seen(packed, chunk, row, place, prefix=''):
  """Tokens that a place sees, itself included, in order of position."""
  names = ('ids', 'mask', 'positions', 'branch')
  ids, mask, positions, branch = (
    packed.inputs[prefix + name][chunk, row] for name in names
  )
  seen = (mask == mask[place]) & (positions <= positions[place])
  seen &= (branch == 0) | (branch == branch[place])
  order = np.argsort(positions[seen], kind='stable')
  np.testing.assert_array_equal(positions[seen][order], np.arange(seen.sum()))
  return tuple(int(token) for token in ids[seen][order])


def _asked(packed, owners, prefix=''):
  """What each owner is asked, as (tokens seen, token predicted) pairs."""
  found = {owner: set() for owner in range(owners)}
  width = packed.inputs[f'{prefix}ids'].shape[-1]
  for chunk in range(packed.read.shape[0]):
    for target, token, owner in zip(
      packed.target[chunk],
      packed.token[chunk],
      packed.owner[chunk],
      strict=True,
    ):
      if owner < owners:
        row, place = divmod(int(packed.read[chunk, target]), width)
        assert packed.inputs[f'{prefix}mask'][chunk, row, place] > 0
        pair = (_seen(packed, chunk, row, place, prefix), int(token))
        assert pair not in found[owner]
        found[owner].add(pair)
  return found


@pytest.fixture(scope='module')
def requests():
  return list(itertools.chain(*tiny_decoder.questions()))


@pytest.mark.parametrize('tokens_per_chunk', [64, 200, 10_000])
def test_each_token_is_predicted_from_all_before_it(requests, tokens_per_chunk):
  packed = packing.pack(
    requests, range(len(requests)), tokens_per_chunk=tokens_per_chunk
  )
  found = _asked(packed, len(requests))
  for pairs, (context, continuation) in zip(
    found.values(), requests, strict=True
  ):
    assert pairs == {
      (context + continuation[:i], token)
      for i, token in enumerate(continuation)
    }


def test_encoder_reads_prompts_and_decoder_continuations(requests):
  packed = packing.pack(
    requests, range(len(requests)), decoder_start=1, tokens_per_chunk=100
  )
  found = _asked(packed, len(requests), 'decoder_')
  for pairs, (_, continuation) in zip(found.values(), requests, strict=True):
    assert pairs == {
      ((1, *continuation[:i]), token) for i, token in enumerate(continuation)
    }
  # Owner -> the encoder's text of the same number in the same row.
  width = packed.inputs['decoder_ids'].shape[-1]
  for chunk, index in np.ndindex(packed.owner.shape):
    owner = packed.owner[chunk, index]
    if owner < len(requests):
      place = packed.read[chunk, packed.target[chunk, index]]
      row, column = divmod(int(place), width)
      number = packed.inputs['decoder_mask'][chunk, row, column]
      source = packed.inputs['mask'][chunk, row] == number
      ids = packed.inputs['ids'][chunk, row][source]
      assert tuple(ids.tolist()) == requests[owner].context


def test_one_token_choices_add_no_inputs_and_read_one_state():
  prompts = [(1, *range(i, i + 7)) for i in range(10, 90, 10)]
  asked = [Request(p, (choice,)) for p in prompts for choice in (5, 6, 7)]
  packed = packing.pack(asked, range(len(asked)))
  assert (packed.inputs['mask'] > 0).sum() <= 8 * len(prompts)
  assert packed.read.size == len(prompts)
  assert packed.owner.size == len(asked)


def test_identical_prompts_of_several_items_are_computed_once():
  asked = [Request((1, 2, 3, 4), (5, 6))] * 7
  packed = packing.pack(asked, range(7))
  assert (packed.inputs['mask'] > 0).sum() == 5
  assert (packed.owner < 7).sum() == 14


def test_little_is_padding():
  draw = np.random.default_rng(0)
  asked = [
    Request(tuple(draw.integers(0, 99, size).tolist()), (1,))
    for size in draw.integers(15, 60, 300)
  ]
  packed = packing.pack(asked, range(300))
  mask = packed.inputs['mask']
  assert (mask > 0).mean() > 0.93


def test_shares_have_equal_shapes_and_hold_their_own(requests):
  shares = [requests[i::4] for i in range(4)]
  owners = [range(len(share)) for share in shares]
  made = packing.pack_shares(shares, owners, count=20, tokens_per_chunk=128)
  shapes = [[leaf.shape for leaf in jax.tree.leaves(one)] for one in made]
  assert all(found == shapes[0] for found in shapes)
  for one, share in zip(made, shares, strict=True):
    found = _asked(one, 20)
    sizes = [len(found[i]) for i in range(len(share))]
    assert sizes == [len(r.continuation) for r in share]


def test_what_is_empty_is_refused():
  with pytest.raises(ValueError, match='0 context and 1 continuation'):
    packing.pack([Request((), (1,))], [0])
  with pytest.raises(ValueError, match='1 context and 0 continuation'):
    packing.pack([Request((1,), ())], [0])


@pytest.mark.parametrize(
  ('context', 'continuation', 'kept', 'scored', 'cut'),
  [
    ((1, 2, 3), (4, 5), (1, 2, 3), (4, 5), False),
    ((1, 2, 3, 4), (5, 6), (2, 3, 4), (5, 6), True),
    ((1, 2), (3, 4, 5, 6), (2,), (3, 4, 5, 6), True),
    ((1, 2), (3, 4, 5, 6, 7), (3,), (4, 5, 6, 7), True),
  ],
)
def test_truncation_spares_the_continuation(
  context, continuation, kept, scored, cut
):
  found = packing.truncate(Request(context, continuation), 4)
  assert found == (Request(kept, scored), cut)


def test_truncation_of_encoder_and_decoder_apart():
  request = Request((1, 2, 3), (4, 5))
  assert packing.truncate(request, 3, apart=True) == (request, False)
  cut = packing.truncate(request, 2, apart=True)
  assert cut == (Request((2, 3), (4, 5)), True)
