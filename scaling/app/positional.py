"""The parser of commands that take a folder by its position instead of settings."""

import argparse
from typing import Any, NoReturn

from scaling.app.overrides import WrongUsage


class Parser(argparse.ArgumentParser):
    """A parser that reports wrong usage in one sentence, which ends in the right form."""

    def __init__(self, *, right_form: str, **options: Any) -> None:
        super().__init__(**options)
        self.right_form = right_form

    def error(self, message: str) -> NoReturn:
        """Raise WrongUsage with the reason and the right form."""
        raise WrongUsage(f"{message}; {self.right_form}")
