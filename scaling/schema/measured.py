"""Which loss of a cell is meant: on the test part or a named test set, in nats or bits per byte."""

import math
from dataclasses import dataclass, replace

from scaling.schema.record import Record

NATS_PER_TOKEN, BITS_PER_BYTE = "nats_per_token", "bits_per_byte"
# Of GPT-2 on the Pile (Gao et al. 2020, 2101.00027).
BYTES_PER_TOKEN = 1 / 0.29335
LOSS_UNITS = (NATS_PER_TOKEN, BITS_PER_BYTE)


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A loss of records: `target` is a name of eval.sets, empty for the test part."""

    target: str = ""
    unit: str = NATS_PER_TOKEN

    @property
    def is_default(self) -> bool:
        """Whether it is the test loss in nats per token."""
        return not self.target and self.unit == NATS_PER_TOKEN

    @property
    def unit_words(self) -> str:
        """The unit of a difference of two losses, in words."""
        return "bits per byte" if self.unit == BITS_PER_BYTE else "nats"

    def of_nats(self, nats: float, bytes_per_token: float | None) -> float:
        """Return a difference of losses, given in nats per token, in the unit of this loss.

        nats: the difference in nats per token
        bytes_per_token: of the text; None takes BYTES_PER_TOKEN
        """
        if self.unit != BITS_PER_BYTE:
            return nats
        return nats / math.log(2) / (bytes_per_token or BYTES_PER_TOKEN)

    @property
    def words(self) -> str:
        """What it is, in words."""
        of = f"loss on {self.target}" if self.target else "test loss"
        return f"{of} in {self.unit.replace('_', ' ')}"

    @property
    def settings(self) -> str:
        """The settings that ask for it, as a command has them; empty for the default."""
        target = [f"target={self.target}"] if self.target else []
        unit = [f"unit={self.unit}"] if self.unit != NATS_PER_TOKEN else []
        return " ".join([*target, *unit])

    def file(self, name: str) -> str:
        """Return the name of a file of this measure, as law.web.json for law.json."""
        stem, _, ending = name.rpartition(".")
        parts = [stem, self.target, "" if self.unit == NATS_PER_TOKEN else self.unit, ending]
        return ".".join(filter(None, parts))

    def why_missing(self, record: Record) -> str:
        """Say why a record does not hold it; empty where it does, or holds no loss at all."""
        if record.test_loss is None:
            return ""
        if self.target and self.target not in record.test_sets:
            set_names = ", ".join(record.test_sets) or "none"
            why = f"it has no test set {self.target} (its sets: {set_names})"
            return f"{why}; set eval.sets and train"
        if not self.target and self.unit == BITS_PER_BYTE and record.bits_per_byte is None:
            return "its bits per byte were not measured"
        return ""

    def curve_factor(self, record: Record) -> float | None:
        """Return what turns the test loss of a record's curve into this loss.

        None where a curve does not hold it: curves are of the test part, in nats per token.
        """
        if self.target:
            return None
        if self.unit != BITS_PER_BYTE:
            return 1.0
        if not record.test_loss or record.bits_per_byte is None:
            return None
        return record.bits_per_byte / record.test_loss

    def of(self, record: Record) -> Record:
        """Return a record whose test loss, its error and bits per byte are this loss.

        A record that holds no loss at all is returned as it is; ValueError for one without this.
        """
        if self.is_default or record.test_loss is None:
            return record
        if why := self.why_missing(record):
            raise ValueError(f"{record.study}/{record.run_id}: {why}")
        loss, error, bits = record.test_loss, record.test_loss_se, record.bits_per_byte
        if self.target:
            score = record.test_sets[self.target]
            loss, error, bits = score.loss, score.loss_se, score.bits_per_byte
        if self.unit == BITS_PER_BYTE and bits is not None:
            loss, error = bits, error and error * bits / loss
        return replace(record, test_loss=loss, test_loss_se=error, bits_per_byte=bits)
