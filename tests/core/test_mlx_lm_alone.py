"""What a core imports of mlx-lm, and what others find of it then."""

import subprocess
import sys

import pytest

from tests.models import tiny_model_dir

ALONE = "from budmlx.core.mlx_lm_alone import import_mlx_lm; import_mlx_lm(); "
LEFT_OUT = "import sys; assert not {'transformers', 'mlx_lm.generate'} & {*sys.modules}; "

OTHERS = {
    "a module, then a function of its name": (
        "from mlx_lm.generate import stream_generate; from mlx_lm import generate; "
        "import mlx_lm; generate.__call__, mlx_lm.load, mlx_lm.__version__"
    ),
    "modules": (
        "import mlx_lm.tuner.lora, mlx_lm.utils as utils, mlx_lm.tokenizer_utils as t; "
        "assert mlx_lm.utils is utils; mlx_lm.tuner.lora, t.TokenizerWrapper.detokenizer"
    ),
    "what there is not": (
        "import mlx_lm, sys\n"
        "try: mlx_lm.nothing\nexcept AttributeError as error: assert 'nothing' in str(error)\n"
        "else: sys.exit(1)\n"
        "try: import mlx_lm.nowhere\nexcept ModuleNotFoundError: pass\nelse: sys.exit(1)"
    ),
}


def run(program: str) -> None:
    """Run it in a Python of its own."""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def test_a_core_imports_no_tokenizers() -> None:
    run(f"{ALONE} import budmlx.core.loop; from mlx_lm.models import gemma3; {LEFT_OUT}")


@pytest.mark.parametrize("name", OTHERS)
def test_others_find_the_whole_package(name: str) -> None:
    run(f"{ALONE}{LEFT_OUT}{OTHERS[name]}")


def test_a_model_is_loaded_with_its_tokenizer() -> None:
    load = f"from mlx_lm import load; model, tokenizer = load({str(tiny_model_dir())!r}); "
    run(f"{ALONE}{LEFT_OUT}{load} assert tokenizer.encode('a')")


def test_another_mlx_lm_is_imported_as_it_is() -> None:
    needs_more = (
        "import budmlx.core.mlx_lm_alone as alone, types, sys; "
        "alone._tokenizers = lambda: types.ModuleType(alone._TOKENIZERS); "
        "alone.import_mlx_lm(); import mlx_lm, mlx_lm.tokenizer_utils as t; "
        "assert t.TokenizerWrapper; assert mlx_lm.generate.__call__"
    )
    run(needs_more)
