"""Neural processes and martingale posteriors: one network for a stream of regression tasks."""

__all__: list[str] = []
