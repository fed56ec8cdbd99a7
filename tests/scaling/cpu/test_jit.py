"""The compiler's cache: safe among processes, and not needed."""

import logging
import subprocess
import sys

import numpy as np
import pytest

from scaling.cpu import compiler, jit
from scaling.train import step


def double(x):
    """A kernel."""
    for i in range(len(x)):
        jit.put(x, i, jit.f32(2) * jit.get(x, i))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr("numba.config.CACHE_DIR", str(tmp_path))
    return tmp_path


def doubled(kernel, kind) -> list[float]:
    x = np.ones(3, kind)
    kernel(x)
    return x.tolist()


@pytest.mark.slow
def test_two_processes_that_compile_for_other_kinds_at_once_do_not_mix_them(folder):
    first, second = jit.kernel(double), jit.kernel(double)
    assert doubled(first, np.float32) == [2, 2, 2]
    index = next(folder.rglob("*.nbi"))
    index.unlink()  # as the second saw it
    doubled(second, np.uint16)
    third = jit.kernel(double)
    assert doubled(third, np.float32) == [2, 2, 2]
    assert third.stats.cache_misses  # what the second did not know of is compiled anew
    assert len(list(folder.rglob("*.nbc"))) == 2
    assert doubled(jit.kernel(double), np.float32) == [2, 2, 2]


def test_what_one_process_compiled_the_next_one_reads(folder):
    doubled(jit.kernel(double), np.float32)
    again = jit.kernel(double)
    doubled(again, np.float32)
    assert (sum(again.stats.cache_hits.values()), sum(again.stats.cache_misses.values())) == (1, 0)


def test_without_a_folder_to_write_to_kernels_compile_all_the_same(monkeypatch):
    monkeypatch.setattr("numba.core.caching.CacheImpl._locator_classes", [])
    kernel = jit.kernel(double)
    assert doubled(kernel, np.float32) == [2, 2, 2]
    assert not kernel.stats.cache_path


def test_on_a_full_disk_kernels_run_all_the_same(folder, monkeypatch):
    def full(*arguments):
        raise OSError("No space left on device")

    monkeypatch.setattr(jit.Files, "_save_data", full)
    assert doubled(jit.kernel(double), np.float32) == [2, 2, 2]
    assert not list(folder.rglob("*.nb[ic]"))


def test_without_numba_autograd_trains_and_one_line_says_what_to_install(
    make_cell, monkeypatch, caplog
):
    monkeypatch.setattr(compiler, "find_spec", lambda name: None)
    compiler.has_numba.cache_clear()
    caplog.set_level(logging.INFO)
    setting = step.prepare(make_cell(), lambda flops: None)
    runs = [step.new_run(setting) for _ in range(2)]
    compiler.has_numba.cache_clear()
    assert [r.passes for r in runs] == [None, None]
    assert np.isfinite(step.train_step(runs[0], setting, 1.0)[0])
    assert [m for m in caplog.messages if "pip install 'scaling-laws[fast]'" in m] == [
        "numba is absent: a CPU trains slower; pip install 'scaling-laws[fast]' brings it"
    ]


@pytest.mark.slow
def test_commands_that_do_not_train_do_not_import_the_compiler():
    code = "import sys, scaling.sweep, scaling.final; print('numba' in sys.modules)"
    finished = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert finished.stdout.split() == ["False"]


@pytest.mark.slow
def test_where_numbas_cache_is_another_every_process_compiles_its_own(folder, monkeypatch):
    class Other:
        """Files of a numba to come."""

    for name, value in {"IndexDataCacheFile": Other, "Files": None}.items():
        with monkeypatch.context() as patched:
            patched.setattr(jit, name, value)
            kernel = jit.kernel(double)
        assert doubled(kernel, np.float32) == [2, 2, 2]
        assert doubled(kernel, np.uint16) == [2, 2, 2]  # twice the least bfloat16
        assert not list(folder.rglob("*.nb[ic]"))


@pytest.mark.slow
def test_without_numbas_cache_the_module_is_there_all_the_same():
    code = """
import sys
import numba.core.caching as caching
kept = caching.IndexDataCacheFile
del caching.IndexDataCacheFile
from scaling.cpu import jit
import numpy as np
def one(x):
    jit.put(x, 0, jit.f32(1))
x = np.zeros(1, np.float32)
caching.IndexDataCacheFile = kept
jit.kernel(one)(x)
print(x[0])
"""
    finished = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert finished.stdout.split() == ["1.0"]
