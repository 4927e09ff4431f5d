"""What models can be run on, and whether this machine has it.

Besides the processor, onnxruntime knows "execution providers"; see
https://onnxruntime.ai/docs/execution-providers/ for what each of them needs.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from runtime.errors import StartError

CPU = "cpu"

_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # the last one is an Arm's
_CPUINFO = Path("/proc/cpuinfo")
_BFLOAT16 = 'precision = "bf16"'
_OTHERS = 'set precision = "fp32", or "int8" where speed matters more than exactness'


class Provider(NamedTuple):
    """An execution provider.

    Attributes:
        library: what onnxruntime calls it.
        package: the build of onnxruntime that has it, which takes the place of the usual one.
            The usual one: on a machine where it can be had at all.
    """

    library: str
    package: str


PROVIDERS = {
    CPU: Provider("CPUExecutionProvider", "onnxruntime"),
    "cuda": Provider("CUDAExecutionProvider", "onnxruntime-gpu"),
    "tensorrt": Provider("TensorrtExecutionProvider", "onnxruntime-gpu"),
    "migraphx": Provider("MIGraphXExecutionProvider", "onnxruntime-migraphx"),
    "openvino": Provider("OpenVINOExecutionProvider", "onnxruntime-openvino"),
    "coreml": Provider("CoreMLExecutionProvider", "onnxruntime"),
}


def libraries(providers: Sequence[str]) -> list[str]:
    """What onnxruntime calls them; the processor's is always there, and the last.

    Raises:
        StartError: there is none of that name.
    """
    for name in providers:
        if name not in PROVIDERS:
            raise StartError(
                f"There is no execution provider {name!r}",
                where="[ai] providers",
                remedy=f"known are {', '.join(PROVIDERS)}",
            )
    return [PROVIDERS[name].library for name in (*providers, CPU) if name != CPU] + [PROVIDERS[CPU].library]


def check_installed(providers: Sequence[str]) -> None:
    """See that the onnxruntime which is installed has these.

    Raises:
        StartError: it has not.
    """
    if all(name == CPU for name in providers):
        return  # the library takes a while to import
    import onnxruntime

    there = onnxruntime.get_available_providers()
    for name, library in zip(providers, map(_library, providers), strict=True):
        if library not in there:
            package, usual = PROVIDERS[name].package, PROVIDERS[CPU].package
            step = f"pip uninstall {usual}, then pip install {package}; or take {name} from the list"
            raise StartError(
                f"The onnxruntime that is installed has no {name}",
                where="[ai] providers",
                remedy=f"take {name} from the list: it is there on macOS alone" if package == usual else step,
            )


def check_started(providers: Sequence[str], running: Collection[str]) -> None:
    """See that a session runs on what it was told to: onnxruntime itself goes on without.

    Args:
        running: what `get_providers` of the session says.

    Raises:
        StartError: one is missing.
    """
    for name in providers:
        if _library(name) not in running:
            raise StartError(
                f"The execution provider {name} does not start on this machine",
                where="[ai] providers",
                remedy=f"install {PROVIDERS[name].package}, its drivers and libraries, or take {name} from"
                " the list",
            )


def check_bfloat16() -> None:
    """See that this machine gains from 16-bit numbers.

    Raises:
        StartError: OpenVINO is not installed, or the processor cannot multiply them.
    """
    if find_spec("openvino") is None:
        raise StartError(
            "OpenVINO is not installed",
            where=_BFLOAT16,
            remedy=f"pip install 'functions-runtime[openvino]'; or {_OTHERS}",
        )
    if not _FLAGS & _flags():
        raise StartError(
            "This processor has neither AVX512-BF16 nor AMX: 16-bit numbers would gain nothing",
            where=_BFLOAT16,
            remedy=_OTHERS,
        )


def _library(name: str) -> str:
    (library, *_) = libraries((name,))
    return library


def _flags() -> set[str]:
    """What Linux says that the processor can do."""
    try:
        lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return set()
    return {word for line in lines if line.startswith(("flags", "Features")) for word in line.split()}
