"""Deep generative neural operators: forward and inverse maps of a parametric PDE."""

__all__: list[str] = []
