"""Known accelerators: by name, and by what their driver calls them."""

import pytest

from scaling.schema import DEVICES, device_named, device_of_label


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA GH200 480GB", "gh200"),
        ("NVIDIA B200", "b200"),
        ("NVIDIA GB200", "gb200"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("NVIDIA A10G", "a10g"),
        ("Tesla V100-SXM2-16GB", "v100"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("NVIDIA GeForce RTX 5090", "rtx5090"),
        ("AMD Instinct MI300X", "mi300x"),
    ],
)
def test_a_drivers_name_names_one_device(label, name):
    assert device_of_label(label) == DEVICES[name]


def test_other_names_are_of_no_known_device():
    assert device_of_label("NVIDIA L40") is None
    assert device_of_label("Intel Xeon") is None
    with pytest.raises(ValueError, match="device=h300 is unknown; known devices are"):
        device_named("h300")


@pytest.mark.parametrize(
    "name",
    [
        "h100",
        "h200",
        "b200",
        "gb200",
        "mi300x",
        "mi355x",
        "tpu-v5p",
        "tpu-v6e",
        "a100",
        "l40s",
        "rtx4090",
        "rtx5090",
    ],
)
def test_every_device_has_a_dense_peak_memory_and_a_source(name):
    device = device_named(name)
    assert 1e14 < device.peak < 3e15
    assert 2e10 < device.memory < 3e11
    assert device.source
