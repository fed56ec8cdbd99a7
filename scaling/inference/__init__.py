"""Trained models in use: samples, likelihoods, scores on tasks, exports."""
