"""The plan's blocks of fine-tuning, reward model and PPO."""
