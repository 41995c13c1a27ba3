"""Metrics: arrays in, numbers out. They know nothing of models and posteriors."""

__all__: list[str] = []
