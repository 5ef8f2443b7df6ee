"""Trained models as users meet them: loading, batching, prediction, evaluation."""
