import pytest
import torch

from probnet.neural_process.blocks import Linear
from probnet.neural_process.generators import ISAB, DeFinetti


def make(kind, **options):
    generator = kind(12, 12, 16, num_heads=4, **options)
    stream = torch.Generator().manual_seed(0)
    for part in generator.modules():
        if isinstance(part, Linear):
            part.draw(stream)
    return generator.requires_grad_(False)


def inputs(generator, *, num_pseudo=30):
    stream = torch.Generator().manual_seed(1)
    context = torch.randn(3, 7, 12, generator=stream)
    mask = torch.arange(7) < torch.tensor([7, 4, 1])[:, None]
    return context, mask, generator.draw_noise(3, 5, num_pseudo, stream)


def test_isab_is_equivariant_in_the_noise():
    isab = make(ISAB)
    context, mask, noise = inputs(isab)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(2))
    moved = isab(context, mask, noise[:, :, order])
    assert (moved - isab(context, mask, noise)[:, :, order]).abs().max() <= 1e-5


def test_isab_is_not_projective():
    """The negative control of the next test: other noise moves the first pseudo context."""
    isab = make(ISAB)
    context, mask, noise = inputs(isab)
    other = noise.clone()
    other[:, :, 1:] = -noise[:, :, 1:]
    difference = isab(context, mask, other)[:, :, 0] - isab(context, mask, noise)[:, :, 0]
    assert difference.abs().max() > 0.01
    assert not ISAB.projective


def test_definetti_pseudo_contexts_do_not_depend_on_each_other():
    definetti = make(DeFinetti)
    context, mask, noise = inputs(definetti)
    first = definetti(context, mask, noise)[:, :, 0]
    other = noise.clone()
    other[:, :, 2:] = -noise[:, :, 2:]  # row 0 is that of the function, row 1 of the first
    assert (definetti(context, mask, other)[:, :, 0] - first).abs().max() <= 1e-6
    fewer = definetti(context, mask, noise[:, :, :4])
    assert fewer.shape == (3, 5, 3, 12)
    assert (fewer[:, :, 0] - first).abs().max() <= 1e-6
    other[:, :, 0] = -noise[:, :, 0]  # the latent of the function moves them all
    assert (definetti(context, mask, other)[:, :, 0] - first).abs().max() > 0.01


@pytest.mark.parametrize("kind", [ISAB, DeFinetti])
def test_the_order_and_the_padding_of_the_context_do_not_matter(kind):
    generator = make(kind)
    context, mask, noise = inputs(generator)
    reference = generator(context, mask, noise)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(2))
    moved = generator(context[:, order], mask[:, order], noise)
    assert (moved - reference).abs().max() <= 1e-5
    padded = torch.where(mask[..., None], context, 1e6)
    assert (generator(padded, mask, noise) - reference).abs().max() <= 1e-5


@pytest.mark.parametrize("kind", [ISAB, DeFinetti])
def test_the_noise_of_the_first_functions_does_not_depend_on_their_number(kind):
    generator = make(kind)
    few, many = (
        generator.draw_noise(1, count, 6, torch.Generator().manual_seed(0)) for count in (3, 50)
    )
    assert torch.equal(few, many[:, :3])
