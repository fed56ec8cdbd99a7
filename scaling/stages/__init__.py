"""The stages of a final run: pretraining, fine-tuning, reward model, PPO."""
