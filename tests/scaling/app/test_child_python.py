"""Processes of our code find it, and nothing in the current folder."""

import subprocess

from scaling.app.child_python import module_command, module_environment


def test_a_child_imports_our_code_and_not_the_current_folders(tmp_path, monkeypatch):
    (tmp_path / "scaling.py").write_text("raise ImportError('the user has a scaling.py')")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    done = subprocess.run(
        module_command("scaling", "--version"),
        cwd=tmp_path,
        env=module_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith("scaling-laws ")


def test_an_environment_keeps_the_users_own_path(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    assert module_environment()["PYTHONPATH"].endswith("/somewhere")
