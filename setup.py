"""Packaging of automerge_jax."""

import pathlib

import setuptools

_HERE = pathlib.Path(__file__).parent

# Lower bounds are versions that the tests passed with.
_REQUIRES = [
  'absl-py>=2.5.1',
  'chex>=0.1.92',
  'evosax>=0.3.2',
  'flax>=0.12.8',
  'gguf>=0.19.0',
  'jax>=0.10.2',
  'jinja2>=3.1.6',
  'matplotlib>=3.11.2',
  'ml_collections>=1.1.0',
  'ml_dtypes>=0.6.0',
  'moocore>=0.3.2',
  'numpy>=2.4.6',
  'onnx>=1.23.2',
  'optax>=0.2.8',
  'orbax-checkpoint>=0.12.8',
  'pillow>=13.0.0',
  'pyyaml>=6.0.3',
  'regex>=2026.11.15',
  'safetensors>=0.8.0',
  'scipy>=1.17.1',
  'threadpoolctl>=3.8.0',
  'tinygp>=0.3.1',
  'tokenizers>=0.23.3',
  'tqdm>=4.70.1',
  'transformers>=5.23.0',
]
_EXTRAS = {
  'arithmetic': ['reasoning-gym==0.1.25'],  # draws chain_sum.tsv again
  'cuda': ['jax[cuda]>=0.10.2'],
  'lm_eval': ['lm_eval>=0.4.13'],
  'tpu': ['jax[tpu]>=0.10.2'],
  'test': [
    'hypothesis>=6.170.15',
    'lm_eval>=0.4.13',
    'pyrefly>=1.4.1',
    'pytest>=9.2.0',
    'pytest-xdist>=3.8.0',
    'ruff>=0.17.6',
  ],
}

setuptools.setup(
  name='automerge_jax',
  version='0.1.0',
  description='Automated model merging by search, in JAX.',
  long_description=(_HERE / 'README.md').read_text(),
  long_description_content_type='text/markdown',
  license='Apache-2.0',
  packages=setuptools.find_packages(
    include=['automerge_jax*', 'configs*', 'experiments*']
  ),
  package_data={
    'automerge_jax.report': ['*.html', '*.md'],
    'automerge_jax.tasks': ['*.tsv'],
  },
  python_requires='>=3.11,<3.14',
  install_requires=_REQUIRES,
  extras_require=_EXTRAS,
)
