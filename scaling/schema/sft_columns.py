"""The columns of pairs for fine-tuning, which plan and run both name."""

from dataclasses import dataclass

from scaling.schema.ranges import checked

# Rows of a file, in all, below which the error of its held-out result is an alarm.
FEW_ROWS = 500


@dataclass(kw_only=True)
@checked("sft.columns")
class SftColumns:
    """Columns of the rows of sft.data, for a layout that is not known by its names."""

    prompt: str = ""
    """Column of the prompt; empty lets the names of the columns tell."""
    completion: str = ""
    """Column of the completion; empty lets the names of the columns tell."""
    context: str = ""
    """Column of a text that stands after the prompt, where a row has one; empty lets the names of
    the columns tell."""

    def given(self) -> dict[str, str]:
        """Return the columns that are named."""
        return {name: value for name, value in vars(self).items() if value}
