"""Device hours turned into FLOPs: C = hours * 3600 * peak * utilisation.

The utilisation counts all FLOPs of the device. With activation checkpointing a quarter of them is
recomputation, so .75 of them are the C of the law. Peaks are in scaling.schema.devices.
"""

# share of a device's FLOPs that are the model's: forward 1 and backward 2 of 4 parts, of which the
# fourth is the second forward pass
CHECKPOINTED = 0.75


def flops_of_hours(hours: float, *, flops_per_second: float) -> float:
    """Return the training FLOPs that device hours buy at a sustained speed."""
    return hours * 3600 * flops_per_second
