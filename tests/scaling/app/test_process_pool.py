"""Processes of a pool start with the variables that are asked for, which the caller gets back."""

import os
import time

import pytest

from scaling.app.process_pool import process_pool

NAME, OTHER = "SCALING_TEST_POOL", "SCALING_TEST_POOL_OTHER"


@pytest.mark.slow
def test_processes_have_the_environment_and_the_caller_has_its_own_again(monkeypatch):
    monkeypatch.setenv(NAME, "before")
    monkeypatch.delenv(OTHER, raising=False)
    with process_pool(1, {NAME: "inside", OTHER: "too"}) as pool:
        assert pool.submit(os.getenv, NAME).result() == "inside"
        assert pool.submit(os.getenv, OTHER).result() == "too"
        assert pool.submit(os.getpid).result() != os.getpid()
    assert os.environ[NAME] == "before"
    assert OTHER not in os.environ


def interrupted() -> None:
    """Raise KeyboardInterrupt while a long task runs."""
    with process_pool(1) as pool:
        assert pool.submit(os.getpid).result() != os.getpid()
        pool.submit(time.sleep, 120)
        raise KeyboardInterrupt


@pytest.mark.slow
def test_an_error_of_the_caller_does_not_wait_for_long_tasks():
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert time.monotonic() - began < 60
