"""Recipes over the tiny checkpoints, which a peer and we merge."""

import pathlib

EXAMPLES = pathlib.Path(__file__).parents[1] / 'configs' / 'recipes'
RANDOM = 'example_dare_ties'  # the one whose masks are drawn otherwise

_SPARSE = """
models:
  - {model: base}
  - {model: a, parameters: {weight: 0.7, density: 0.4}}
  - model: b
    parameters:
      weight: [{filter: mlp, value: [0.2, 1.1]}, {value: 0.5}]
      density: [1, 0.3, 0.6]
  - {model: c, parameters: {weight: -0.3, density: 0.8}}
base_model: base
dtype: float32
"""
_WHOLE = """
models:
  - {model: a, parameters: {weight: [0.7, 0.1], density: 1.0}}
  - {model: b, parameters: {weight: 0.5, density: 1.0}}
  - {model: c, parameters: {weight: -0.3, density: 1.0}}
base_model: base
dtype: float32
"""
_PLAIN = """
models: [{model: a}, {model: b}, {model: c}]
base_model: base
dtype: float32
"""
_TWO = """
models: [{model: base}, {model: a}]
base_model: base
dtype: float32
"""
_WEIGHTED = """
models:
  - {model: a, parameters: {weight: 0.3}}
  - {model: b, parameters: {weight: [{filter: v_proj, value: 2}, {value: 1}]}}
dtype: float32
"""
_HALF = """
models:
  - {model: half_a, parameters: {weight: 0.6}}
  - {model: half_b, parameters: {weight: 0.7}}
base_model: half
"""
_GPT2 = """
models:
  - {model: gpt2_a, parameters: {weight: 0.6, density: 0.5}}
  - {model: gpt2_b, parameters: {weight: [0.7, 0.1], density: 0.9}}
base_model: gpt2
dtype: float32
"""
_WORDS = """
merge_method: linear
models:
  - {model: words, parameters: {weight: 0.5}}
  - {model: words_a, parameters: {weight: 0.3}}
  - {model: words_b, parameters: {weight: 0.2}}
base_model: words
dtype: float32
"""
_SLERP = """
merge_method: slerp
base_model: base
slices:
  - sources:
      - {model: base, layer_range: [0, 4]}
      - {model: a, layer_range: [0, 4]}
parameters:
  t:
    - {filter: self_attn, value: [0, 0.5, 0.3, 0.7, 1]}
    - {filter: mlp, value: [1, 0.5, 0.7, 0.3, 0]}
    - {value: 0.5}
"""
_STACK = """
merge_method: passthrough
slices:
  - sources: [{model: a, layer_range: [0, 3]}]
  - sources:
      - model: b
        layer_range: [1, 4]
        parameters:
          scale:
            - {filter: o_proj, value: 0.5}
            - {filter: down_proj, value: [0.1, 0.9]}
            - {value: 1.0}
  - sources: [{model: shallow, layer_range: [2, 3]}]
dtype: float32
"""
_UNLIKE_SLICES = """
merge_method: ties
base_model: base
slices:
  - sources:
      - {model: base, layer_range: [0, 2]}
      - {model: a, layer_range: [0, 2], parameters: {density: 0.3}}
      - {model: b, layer_range: [0, 2], parameters: {weight: [0.1, 0.9]}}
    parameters: {weight: 0.5, normalize: false}
  - sources:
      - {model: c, layer_range: [2, 4], parameters: {weight: 0.2}}
      - {model: base, layer_range: [1, 3]}
      - {model: a, layer_range: [2, 4]}
    parameters: {density: [{filter: mlp, value: 0.2}, {value: 0.9}]}
parameters: {weight: 1.0, density: 0.7, lambda: 1.3}
dtype: float32
"""
_BASES = """
merge_method: task_arithmetic
base_model: base
slices:
  - sources:
      - {model: base, layer_range: [0, 2]}
      - {model: a, layer_range: [0, 2]}
  - base_model: shallow
    sources:
      - {model: shallow, layer_range: [1, 3]}
      - {model: c, layer_range: [2, 4]}
parameters: {weight: 0.4}
dtype: float32
"""


def _by(method: str, text: str, **parameters) -> str:
  stated = ', '.join(f'{k}: {v}' for k, v in parameters.items())
  own = f'parameters: {{{stated}}}\n' if parameters else ''
  return f'merge_method: {method}{text}{own}'


CASES = {
  'linear_filters': """
merge_method: linear
models:
  - {model: base, parameters: {weight: 0.1}}
  - model: a
    parameters:
      weight:
        - {filter: self_attn, value: [0, 0.3, 1]}
        - {filter: lm_head, value: 0.2}
        - {value: 0.6}
  - {model: b, parameters: {weight: '0.4'}}
dtype: float32
""",
  'linear_sums': _by('linear', _WEIGHTED, normalize='false'),
  'linear_tied': """
merge_method: linear
models:
  - {model: tied_a, parameters: {weight: 0.4}}
  - {model: tied_b, parameters: {weight: 0.8}}
dtype: float32
""",
  'linear_partly_tied': """
merge_method: linear
models:
  - {model: untied, parameters: {weight: 0.4}}
  - {model: tied_b, parameters: {weight: 0.8}}
dtype: float32
""",
  'linear_untied_behind': """
merge_method: linear
models:
  - {model: tied, parameters: {weight: 0.4}}
  - {model: untied, parameters: {weight: 0.8}}
base_model: tied
dtype: float32
""",
  'linear_of_a_slice': """
merge_method: linear
slices:
  - sources:
      - {model: a, layer_range: [1, 3], parameters: {weight: 0.4}}
      - {model: shallow, layer_range: [0, 2], parameters: {weight: 0.7}}
dtype: float32
""",
  'slerp': f'{_SLERP}dtype: float32\n',
  'slerp_out_half': f'{_SLERP}dtype: float32\nout_dtype: bfloat16\n',
  'slerp_of_models': _by('slerp', _TWO, t='[0.1, 0.8]'),
  'ties': _by('ties', _SPARSE),
  'ties_sums': _by('ties', _SPARSE, normalize='false', **{'lambda': 0.8}),
  'ties_gpt2': _by('ties', _GPT2),
  'ties_tied': _by('ties', _GPT2.replace('gpt2', 'tied')),
  'ties_of_slices': _UNLIKE_SLICES,
  'task_arithmetic': _by('task_arithmetic', _WHOLE, **{'lambda': 0.9}),
  'task_arithmetic_bases': _BASES,
  'task_arithmetic_gpt2': _by('task_arithmetic', _GPT2),
  'breadcrumbs': _by('breadcrumbs', _SPARSE, gamma=0.05),
  'breadcrumbs_ties': _by('breadcrumbs_ties', _SPARSE, gamma=0.1),
  'dare_ties_whole': _by('dare_ties', _WHOLE),
  'dare_linear_whole': _by('dare_linear', _WHOLE, normalize='true'),
  'della_whole': _by('della', _WHOLE, epsilon=0.0),
  'della_linear_whole': _by('della_linear', _WHOLE, epsilon=0.0),
  'stack': _STACK,
  'stack_gpt2': """
merge_method: passthrough
slices:
  - sources: [{model: gpt2_a, layer_range: [0, 2]}]
  - sources: [{model: gpt2_b, layer_range: [0, 2]}]
""",
  'model_stock': _by('model_stock', _PLAIN),
  'model_stock_rows': _by('model_stock', _PLAIN, filter_wise='true'),
  'nuslerp': _by('nuslerp', _WEIGHTED),
  'nuslerp_base': _by('nuslerp', f'{_WEIGHTED}base_model: base\n'),
  'nuslerp_rows': _by(
    'nuslerp', _WEIGHTED, nuslerp_flatten='false', nuslerp_row_wise='true'
  ),
  'nuslerp_columns': _by('nuslerp', _WEIGHTED, nuslerp_flatten='false'),
  'multislerp': _by('multislerp', _WEIGHTED),
  'multislerp_base': _by('multislerp', f'{_WEIGHTED}base_model: base\n'),
  'karcher': _by('karcher', '\nmodels: [{model: a}, {model: b}, {model: c}]\n'),
  'sce': _by('sce', _PLAIN, select_topk=0.3),
  'nearswap': _by('nearswap', _TWO, t=0.05),
  'arcee_fusion': _by('arcee_fusion', _TWO),
  'ram': _by('ram', _PLAIN, epsilon=0.05),
  'ramplus_tl': _by('ramplus_tl', _PLAIN, epsilon=0.05),
  'union': f'{_WORDS}tokenizer_source: union\n',
  'base_tokens': f'{_WORDS}tokenizer_source: base\n',
  'union_padded': (
    f'{_WORDS}tokenizer: {{source: union, pad_to_multiple_of: 16}}\n'
  ),
  'adapter': """
merge_method: task_arithmetic
models:
  - {model: base+adapter, parameters: {weight: 0.7}}
  - {model: a, parameters: {weight: 0.5}}
base_model: base
dtype: float32
""",
  'half_linear': f"""
merge_method: linear
{_HALF.replace('base_model: half', '')}
""",
  'half_out': _by('task_arithmetic', _HALF, **{'lambda': 0.7})
  + 'dtype: float32\nout_dtype: bfloat16\n',
  'half_computed': _by('task_arithmetic', _HALF) + 'dtype: bfloat16\n',
  'half_ties': _by('ties', _HALF, density=0.5)
  + 'dtype: float32\nout_dtype: bfloat16\n',
  'half_slerp': """
merge_method: slerp
models: [{model: half_a}, {model: half_b}]
base_model: half_a
parameters: {t: [0.2, 0.7]}
dtype: bfloat16
""",
}


def examples() -> dict[str, str]:
  """The recipes in configs/recipes, and DARE's once more without dropping."""
  found = {f'example_{p.stem}': p.read_text() for p in EXAMPLES.glob('*.yaml')}
  whole = found[RANDOM].replace('density: 0.53', 'density: 1.0')
  return found | {f'{RANDOM}_whole': whole}
