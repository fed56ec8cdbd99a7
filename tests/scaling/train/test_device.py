import pytest
import torch

from scaling.config import MachineConfig
from scaling.train.device import count_memory_anew, pick_device


def test_a_precision_that_the_gpu_lacks_is_refused_with_the_fix(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    with pytest.raises(ValueError, match=r"bf16 is not supported on Tesla V100.*precision=fp32"):
        pick_device(MachineConfig(precision="bf16"))
    assert pick_device(MachineConfig(precision="fp32")).type == "cuda"


def test_a_gpu_that_is_not_there_is_refused_with_the_fix(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"machine\.device=cpu"):
        pick_device(MachineConfig(device="cuda"))


def test_compiling_without_a_compiler_is_refused_with_the_fix(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match=r"needs a C\+\+ compiler.*machine\.compile=false"):
        pick_device(MachineConfig(device="cpu", compile=True))


def test_determinism_is_set_and_taken_back():
    pick_device(MachineConfig(device="cpu", deterministic=True))
    assert torch.are_deterministic_algorithms_enabled()
    pick_device(MachineConfig(device="cpu"))
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_cpu_without_bfloat16_products_is_warned_of(monkeypatch, caplog):
    monkeypatch.setattr("scaling.train.device.multiplies_bf16", lambda: False)
    with caplog.at_level("WARNING"):
        pick_device(MachineConfig(device="cpu", precision="bf16"))
    assert "machine.precision=fp32 is faster here" in caplog.text


def test_a_gpus_memory_is_counted_anew_once_there_is_something_to_count(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.cuda, "init", lambda: calls.append("init"))
    monkeypatch.setattr(
        torch.cuda, "reset_peak_memory_stats", lambda device: calls.append(str(device))
    )
    count_memory_anew(torch.device("cpu"))
    assert calls == []
    count_memory_anew(torch.device("cuda"))
    assert calls == ["init", "cuda"]
