"""How well a form predicts runs that it did not see."""
