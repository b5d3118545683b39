"""Reinforcement-guided synthetic data for privacy-sensitive identity recognition, in JAX."""
