"""Continual learning by the survey's protocol; knows nothing of orchestration or tracking."""
