"""The stages of a final run, and of a sweep's cells: pretraining, fine-tuning, reward, PPO."""
