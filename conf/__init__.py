"""Configuration of every application: Hydra groups as YAML, and how an application starts."""
