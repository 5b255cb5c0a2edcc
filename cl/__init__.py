"""Continual learning by the survey's protocol. This package knows nothing of orchestration or tracking."""
