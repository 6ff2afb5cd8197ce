import pytest
import torch

from probnet.neural_process.blocks import MAB, Decoder, Linear, masked_mean, mlp


def drawn(module, seed=0):
    stream = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, Linear):
            part.draw(stream)
    return module


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_layers_are_xavier_normal_and_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    layer = drawn(Linear(300, 100))
    assert torch.equal(before, torch.get_rng_state())
    sd = (2 / 400) ** 0.5
    # 30,000 weights: the relative standard error of their sd is 1/√60,000 = 0.4 %
    assert layer.weight.detach().std().item() == pytest.approx(sd, rel=0.02)
    assert layer.bias.eq(1e-3).all()


def test_mlp_has_its_last_relu_only_if_asked():
    assert (drawn(mlp([2, 8, 5], last_relu=True))(normal(50, 2)) >= 0).all()
    assert (drawn(mlp([2, 8, 5]))(normal(50, 2)) < 0).any()


@pytest.mark.parametrize(("temperature", "divisor"), [("head", 4.0), ("width", 16.0)])
def test_attention_is_the_formula(temperature, divisor):
    block = drawn(MAB(3, 2, 5, 16, num_heads=4, temperature=temperature))
    q, k, v = normal(7, 3), normal(6, 2, seed=1), normal(6, 5, seed=2)
    mask = torch.tensor([True, True, False, True, False, True])
    query, key, value = block.query(q), block.key(k), block.value(v)
    heads = []
    for h in range(4):
        part = slice(4 * h, 4 * h + 4)
        scores = query[:, part] @ key[:, part].T / divisor**0.5
        weights = scores.masked_fill(~mask, -torch.inf).softmax(-1)
        heads.append(weights @ value[:, part])
    hidden = block.norm(query + torch.cat(heads, -1))
    expected = block.output_norm(hidden + torch.relu(block.output(hidden)))
    torch.testing.assert_close(block(q, k, v, mask), expected, rtol=1e-5, atol=1e-5)


def test_attention_without_a_valid_key_is_zero_and_has_finite_gradients():
    block = drawn(MAB(3, 3, 3, 8, num_heads=2))
    q, k = normal(2, 4, 3).requires_grad_(), normal(2, 5, 3, seed=1).requires_grad_()
    mask = torch.ones(2, 5, dtype=torch.bool)
    mask[1] = False
    out = block(q, k, k, mask)
    hidden = block.norm(block.query(q[1]))
    expected = block.output_norm(hidden + torch.relu(block.output(hidden)))
    torch.testing.assert_close(out[1], expected)
    out.sum().backward()
    assert q.grad.isfinite().all()
    assert k.grad.isfinite().all()
    assert k.grad[1].eq(0).all()


@pytest.mark.parametrize("num_keys", [1, 32, 33])
def test_a_mask_of_points_only_changes_nothing(num_keys):
    """Few unmasked keys, many of them and masked ones are handled by different code."""
    block = drawn(MAB(8, 8, 8, 8, num_heads=2))
    q, k = normal(3, 5, 8), normal(3, num_keys, 8, seed=1)
    everywhere = torch.ones(3, num_keys, dtype=torch.bool)
    torch.testing.assert_close(block(q, k, k), block(q, k, k, everywhere), rtol=1e-5, atol=1e-5)


def test_leading_axes_of_queries_and_keys_broadcast():
    block = drawn(MAB(8, 8, 8, 8, num_heads=2))
    query, key = normal(3, 1, 4, 8), normal(3, 6, 5, 8, seed=1)
    out = block.attend(query, key, key)
    assert out.shape == (3, 6, 4, 8)
    one = block.attend(query[2, 0], key[2, 3], key[2, 3])
    torch.testing.assert_close(out[2, 3], one)


def test_number_of_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="`num_heads` must divide `width`"):
        MAB(3, 3, 3, 16, num_heads=5)
    with pytest.raises(ValueError, match="`temperature`"):
        MAB(3, 3, 3, 16, temperature="heads")


def test_the_split_first_layer_is_that_of_the_concatenation():
    decoder = drawn(Decoder(2, (8, 3), 16, 3, 2))
    x, r, z = normal(4, 9, 2), normal(4, 5, 1, 8, seed=1), normal(4, 5, 9, 3, seed=2)
    joined = torch.cat([x[:, None].expand(4, 5, 9, 2), r.expand(4, 5, 9, 8), z], -1)
    expected = decoder.rest(torch.relu(decoder.first(joined)))
    torch.testing.assert_close(decoder(x, r, z), expected, rtol=1e-5, atol=1e-5)


def test_masked_mean_of_no_point_is_zero():
    values = normal(2, 3, 4)
    mask = torch.tensor([[True, False, True], [False, False, False]])
    means = masked_mean(values, mask)
    torch.testing.assert_close(means[0], (values[0, 0] + values[0, 2]) / 2)
    assert means[1].eq(0).all()
