"""Image tasks: preprocessing, chunks, sources, experts, scores."""

import base64
import gzip
import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from automerge_jax.io import assets
from automerge_jax.models import base, registry
from automerge_jax.search import evaluate
from automerge_jax.tasks import (
  classification,
  experts,
  finetune,
  images,
  itemset,
  kinds,
  partition,
  sealed,
  splits,
  suite,
  vision_sources,
)
from experiments import evaluate as entry
from tests import tiny_onnx, tiny_vision, vit_test

SIZE = 12
HOW = images.Preprocessing((0.5, 0.4, 0.3), (0.2, 0.25, 0.3), 2, 1 / 255)


@pytest.fixture(scope='module', autouse=True)
def source():
  """The tiny task, for this module."""
  with pytest.MonkeyPatch.context() as patch:
    name = tiny_vision.TASK
    patch.setitem(vision_sources.SOURCES, name, tiny_vision.source)
    patch.setitem(vision_sources.IMAGE_SIZES, name, SIZE)
    yield


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return tiny_vision.write(tmp_path_factory.mktemp('base') / 'tiny')


@pytest.fixture(scope='module')
def task():
  return vision_sources.make_task(tiny_vision.TASK)


def test_an_image_of_the_right_size_is_only_normalised():
  pixels = np.arange(3 * 4 * 4, dtype=np.uint8).reshape(3, 4, 4)
  made = images.prepare(pixels, 4, HOW)
  assert made.dtype == np.float32
  for channel in range(3):
    want = (pixels[channel] / 255 - HOW.mean[channel]) / HOW.std[channel]
    np.testing.assert_allclose(made[channel], want, atol=1e-6)


def test_grey_images_have_equal_channels_before_they_are_normalised():
  pixels = np.full((1, 8, 8), 51, np.uint8)
  made = images.prepare(pixels, 16, HOW)
  assert made.shape == (3, 16, 16)
  for channel in range(3):
    want = (0.2 - HOW.mean[channel]) / HOW.std[channel]
    np.testing.assert_allclose(made[channel], want, atol=1e-6)


def test_resizing_keeps_orientation():
  pixels = np.zeros((3, 8, 8), np.uint8)
  pixels[:, :4, 4:] = 255  # top right
  made = images.prepare(pixels, 16, HOW)
  bright = made > made.mean((1, 2), keepdims=True)
  assert bright[:, 1:6, 10:15].all()
  assert not bright[:, 10:, :].any() and not bright[:, :, :6].any()


@pytest.mark.parametrize(
  'pixels',
  [
    np.zeros((3, 8, 8), np.float32),
    np.zeros((8, 8), np.uint8),
    np.zeros((2, 8, 8), np.uint8),
  ],
)
def test_odd_images_are_refused(pixels):
  with pytest.raises(ValueError, match=r'expected uint8 \[1 or 3, height'):
    images.prepare(pixels, 8, HOW)


@pytest.mark.parametrize(
  ('change', 'want'),
  [
    ({}, HOW),
    ({'do_normalize': False}, ((0.0,) * 3, (1.0,) * 3, 2, 1 / 255)),
    ({'do_rescale': False}, (HOW.mean, HOW.std, 2, 1.0)),
  ],
)
def test_preprocessing_is_read(tmp_path, change, want):
  path = tmp_path / images.PREPROCESSING
  path.write_text(json.dumps(tiny_vision.PREPROCESSING | change))
  got = images.preprocessing(tmp_path)
  assert tuple(vars(got).values()) == (
    tuple(vars(want).values()) if want is HOW else want
  )


def test_missing_and_odd_preprocessing_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match=images.PREPROCESSING):
    images.preprocessing(tmp_path)
  for std in ([0.2, 0.3], [0.2, 0.3, 0.0], None):
    folder = tmp_path / str(std)
    folder.mkdir()
    told = tiny_vision.PREPROCESSING | {'image_std': std}
    (folder / images.PREPROCESSING).write_text(json.dumps(told))
    with pytest.raises(ValueError, match='image_std'):
      images.preprocessing(folder)


def test_buckets_hold_each_image_once():
  rng = np.random.default_rng(0)
  shapes = [(3, 28, 28)] * 5 + [(3, 14, 14)] * 3 + [(3, 28, 28)] * 2
  given = [rng.normal(size=s).astype(np.float32) for s in shapes]
  labels, tasks = np.arange(10) % 4, np.arange(10) % 2
  slots = np.arange(10) + 20
  made = images.bucket(
    given, tasks, labels, tokens_per_chunk=12, slots=slots, total=99
  )
  assert [b.inputs['pixels'].shape for b in made] == [
    (1, 3, 3, 14, 14),
    (3, 3, 3, 28, 28),
  ]
  seen = []
  for bucket in made:
    for at in np.ndindex(bucket.slot.shape):
      slot = bucket.slot[at]
      if slot == 99:
        assert not bucket.inputs['pixels'][at].any()
        continue
      seen.append(slot)
      np.testing.assert_array_equal(
        bucket.inputs['pixels'][at], given[slot - 20]
      )
      assert bucket.label[at] == labels[slot - 20]
      assert bucket.task[at] == tasks[slot - 20]
  assert sorted(seen) == list(slots)


def test_features_are_those_of_the_class_token():
  hidden = jnp.arange(24.0).reshape(2, 3, 4)
  features = classification.features(hidden, {'pixels': jnp.zeros(())})
  np.testing.assert_allclose(jnp.square(features).mean(-1), 1.0, rtol=1e-5)
  first = hidden[:, 0]
  ratio = features[1] / first[1]
  np.testing.assert_allclose(ratio, ratio[0], rtol=1e-5)


def test_scores_do_not_depend_on_chunks(folder, task):
  items = splits.search_items(task.name, 20)
  model = registry.load(folder)
  chosen = itemset.build([task], {task.name: items}, model.family, folder)
  rng = np.random.default_rng(1)
  heads = classification.stack_heads(
    [(rng.normal(size=(16, 3)).astype('f'), np.zeros(3, np.float32))]
  )
  heads = jax.tree.map(jnp.asarray, heads)
  found = [
    evaluate.scorer(model.family)(
      model.params, heads, kinds.arrays(chosen, tokens), len(chosen)
    )
    for tokens in (5, 2048)
  ]
  np.testing.assert_allclose(
    found[0].log_likelihood, found[1].log_likelihood, atol=1e-5
  )
  how = images.preprocessing(folder)
  for slot in (0, 13):
    pixels = images.prepare(items[slot].pixels, SIZE, how)[None]
    hidden = base.forward(model.family, model.params, {'pixels': pixels})
    first = np.asarray(hidden[0, 0], np.float64)
    first /= np.sqrt(np.mean(first**2))
    values = first @ np.asarray(heads['kernel'][0], np.float64)
    values -= np.log(np.exp(values).sum())
    want = values[items[slot].label]
    np.testing.assert_allclose(found[0].log_likelihood[slot], want, atol=1e-4)


def test_an_expert_is_better_than_its_probe(folder, task, tmp_path):
  options = finetune.Options(
    epochs=4, batch_size=16, learning_rate=3e-3, checkpoint_every=0
  )
  made = suite.make_expert(
    tmp_path / task.name,
    folder,
    task,
    options,
    examples=120,
    select=24,
    heldout=50,
    progress=False,
  )
  assert made['settings']['image_size'] == SIZE
  assert made['expert']['heldout']['accuracy'] > 0.9
  assert (
    made['expert']['heldout']['log_likelihood']
    > made['probed_base']['heldout']['log_likelihood']
  )
  head = experts.read_head(tmp_path / task.name)
  assert head.task == task
  again = entry.run(tmp_path / task.name, task.name, n=50)
  assert again['accuracy'] == made['expert']['heldout']['accuracy']
  np.testing.assert_allclose(
    again['log_likelihood'],
    made['expert']['heldout']['log_likelihood'],
    atol=1e-5,
  )


def test_an_onnx_base_is_kept_as_a_folder(tmp_path):
  with np.load(vit_test.GOLDEN) as file:
    start = 'dinov2/weights/'
    tensors = {k.removeprefix(start): file[k] for k in file if start in k}
  del tensors['embeddings.mask_token']
  (tmp_path / 'asset').mkdir()
  tiny_onnx.write(tmp_path / 'asset' / 'model.onnx', tensors, 2)
  kept = experts.keep_base(tmp_path / 'asset', tmp_path / 'experts')
  assert registry.load(kept).family.name == 'dinov2'
  assert images.preprocessing(kept).mean == (0.485, 0.456, 0.406)
  assert experts.keep_base(tmp_path / 'asset', tmp_path / 'experts') == kept


def test_texts_are_no_images(folder, task):
  item = partition.Item('x', 'a text', 0)
  with pytest.raises(ValueError, match='item x has none'):
    images.encode(task, [item], registry.load(folder).family, folder)


def test_splits_of_images_are_apart(task):
  seen = [
    item.pixels.tobytes()
    for items in (
      splits.train_items(task.name, 100),
      splits.search_items(task.name, 30),
      sealed.select_items(task.name, 20),
      sealed.heldout_items(task.name, 40),
    )
    for item in items
  ]
  assert len(set(seen)) == len(seen)


def test_tables_of_digits(tmp_path, monkeypatch):
  rows = np.zeros((3, 65))
  rows[:, -1] = (7, 0, 9)
  rows[1, 8] = 16
  with gzip.open(tmp_path / 'digits.csv.gz', 'wt') as file:
    np.savetxt(file, rows, '%d', ',')
  monkeypatch.setattr(assets, 'fetch', lambda name: tmp_path)
  source = vision_sources.digits()
  assert [example.label for example in source.train] == [7, 0, 9]
  pixels = source.train[1].pixels
  assert pixels.shape == (1, 8, 8)
  assert (pixels.dtype, pixels[0, 1, 0], pixels.sum()) == ('uint8', 255, 255)


def test_cifar_is_divided_by_classes(tmp_path, monkeypatch):
  names = [*vision_sources.ANIMALS, *vision_sources.VEHICLES]
  rows = []
  for index, name in enumerate(names):
    image = np.full((32, 32, 3), index, np.uint8)
    image[0, 5] = (200, 100, 50)
    png = io.BytesIO()
    Image.fromarray(image).save(png, 'PNG')
    scores = {other: int(other == name) for other in names}
    text = base64.b64encode(png.getvalue()).decode()
    rows.append({'input': text, 'target_scores': scores})
  (tmp_path / 'test.json').write_text(json.dumps({'examples': rows}))
  monkeypatch.setattr(assets, 'fetch', lambda name: tmp_path)
  vision_sources._cifar10.cache_clear()
  try:
    animals = vision_sources.cifar10(vision_sources.ANIMALS)
    vehicles = vision_sources.cifar10(vision_sources.VEHICLES)
  finally:
    vision_sources._cifar10.cache_clear()
  assert [e.label for e in animals.train] == list(range(6))
  assert [e.label for e in vehicles.train] == list(range(4))
  assert [e.pixels[0, 9, 9] for e in vehicles.train] == [6, 7, 8, 9]
  assert list(vehicles.train[0].pixels[:, 0, 5]) == [200, 100, 50]
