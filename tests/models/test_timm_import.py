"""timm imported without torch's compiler, which must work all the same when somebody wants it."""

from __future__ import annotations

import subprocess
import sys

import pytest

LEAN = """
import sys
import torch
from tintype.models.timm_import import import_timm
disable = torch.compiler.disable
import_timm()
assert not [name for name in sys.modules if name.startswith("torch._dynamo")], "the compiler was imported after all"
assert torch.compiler.disable is disable
import timm
timm.create_model("mobilenetv3_small_050", pretrained=False)
"""

AFTERWARDS = """
assert sys.modules["torchvision.ops.roi_align"].is_compile_supported("cpu") is True
assert torch.compile(lambda x: x + 1, backend="eager")(torch.ones(2)).tolist() == [2.0, 2.0]
from timm.models.naflexvit import NaFlexVit, NaFlexEmbeds
import torch._dynamo.utils
assert torch._dynamo.utils.counters is not None
"""

MEANWHILE = """
import torch
from tintype.models import timm_import
with timm_import._compiler_put_off():
    import torch._dynamo  # somebody else, while timm is being imported
assert torch.compile(lambda x: x + 1, backend="eager")(torch.ones(2)).tolist() == [2.0, 2.0]
assert torch.compiler.disable.__module__ == "torch.compiler"
"""

CALLED = """
import torch
from tintype.models import timm_import
called = timm_import._disable_when_called(lambda x: x * 2)
assert called(torch.ones(2)).tolist() == [2.0, 2.0]
assert torch.compile(lambda x: called(x) + 1, backend="eager")(torch.ones(2)).tolist() == [3.0, 3.0]
"""


def test_timm_comes_without_the_compiler() -> None:
    subprocess.run([sys.executable, "-c", LEAN], check=True, timeout=120)


@pytest.mark.slow
@pytest.mark.parametrize("code", [LEAN + AFTERWARDS, MEANWHILE, CALLED])
def test_the_compiler_works_whenever_it_is_wanted(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
