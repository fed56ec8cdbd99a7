"""The plan as text: steps, derivation, alarms, the file."""
