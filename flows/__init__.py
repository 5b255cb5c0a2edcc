"""Orchestration: Prefect, MLflow and DVC are known in this package only."""
