"""How every command starts: Hydra, typed configs, one-sentence errors, progress."""
