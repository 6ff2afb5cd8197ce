import torch

from probnet.linalg import shrunk_covariance


def test_few_rows_are_shrunk_and_many_are_not():
    generator = torch.Generator().manual_seed(0)
    scales = torch.linspace(0.5, 2, 6, dtype=torch.float64)
    rows = scales * torch.randn(20_000, 6, generator=generator, dtype=torch.float64)
    many, little = shrunk_covariance(rows - rows.mean(0))
    torch.testing.assert_close(many, (scales**2).diag(), rtol=0.06, atol=0.06)
    assert little < 0.01
    few, much = shrunk_covariance(rows[:4] - rows[:4].mean(0))
    assert much > 0.2
    assert float(torch.linalg.eigvalsh(few)[0]) > 0  # four rows alone have rank three
