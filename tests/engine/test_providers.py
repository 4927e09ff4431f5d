"""What models can be run on, and whether this machine has it."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import onnxruntime
import pytest

from runtime.engine import providers
from runtime.engine.onnx import Session
from runtime.engine.providers import PROVIDERS, check_bfloat16, check_installed, check_started, libraries
from runtime.errors import StartError
from runtime.project.settings import Provider

from .test_onnx import PER_TOKEN, write


def test_all_that_the_configuration_takes_are_known() -> None:
    assert set(get_args(Provider)) == set(PROVIDERS)


@pytest.mark.parametrize("names", [["cuda"], ["cuda", "cpu"], ["cpu", "cuda"]])
def test_the_processor_is_always_there_and_the_last(names: list[str]) -> None:
    assert libraries(names) == ["CUDAExecutionProvider", "CPUExecutionProvider"]
    assert libraries([]) == libraries(["cpu"]) == ["CPUExecutionProvider"]


def test_an_unknown_one_is_refused() -> None:
    with pytest.raises(StartError, match=r"no execution provider 'gpu'(.|\n)*known are cpu, cuda"):
        libraries(["gpu"])


def test_one_that_is_not_installed_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    check_installed(["cpu"])
    with pytest.raises(StartError, match="has no cuda") as caught:
        check_installed(["cuda", "cpu"])
    assert "pip install onnxruntime-gpu" in str(caught.value)


def test_one_that_does_not_start_is_an_error_and_not_a_slow_server() -> None:
    check_started(["cuda"], ["CUDAExecutionProvider", "CPUExecutionProvider"])
    with pytest.raises(StartError, match="cuda does not start on this machine"):
        check_started(["cuda"], ["CPUExecutionProvider"])


def test_a_session_runs_on_what_it_was_told_to(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    write(path, {"last_hidden_state": PER_TOKEN}, rows=9)
    assert Session(path, 1, ["cpu"]).inputs
    with pytest.raises(StartError, match="no execution provider 'gpu'"):
        Session(path, 1, ["gpu"])


@pytest.mark.parametrize(
    ("said", "fit"),
    [
        ("model name: x\nflags\t\t: fpu avx512f avx512_bf16 avx512_vnni\n", True),
        ("flags\t\t: fpu amx_bf16 amx_tile\n", True),
        ("Features\t: fp asimd bf16\n", True),
        ("model name: avx512_bf16\nflags\t\t: fpu avx512f avx512_vnni\n", False),
        (None, False),
    ],
)
def test_16_bit_numbers_need_a_processor_that_multiplies_them(
    said: str | None, fit: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if said is not None:
        (tmp_path / "cpuinfo").write_text(said)
    monkeypatch.setattr(providers, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(providers, "find_spec", lambda name: name)
    if fit:
        check_bfloat16()
    else:
        with pytest.raises(StartError, match=r'AVX512-BF16(.|\n)*precision = "fp32"'):
            check_bfloat16()


def test_16_bit_numbers_need_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "find_spec", lambda name: None)
    with pytest.raises(StartError, match=r"pip install 'functions-runtime\[openvino\]'"):
        check_bfloat16()
