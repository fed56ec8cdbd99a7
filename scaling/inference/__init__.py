"""What a trained model is asked for: samples, likelihoods, tasks, exports."""
