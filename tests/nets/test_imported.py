"""Imported generators against a generator written out in plain torch, under the names and in the order of mimicry."""

import math

import pytest
import torch
from foreign_generator import foreign
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from hatebm.errors import UsageError
from hatebm.nets import ResidualGenerator, generator_from, load_generator


def latents(n, dim, dtype=torch.float64):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(1), dtype=dtype)


@pytest.mark.parametrize(
    ("widths", "side", "channels"),
    [((8,) * 4, 4, 3), ((8, 4, 2, 2), 6, 3), ((16, 8, 4, 2, 1), 4, 1), ((8, 8, 4, 2, 1, 1), 4, 3)],
    ids=["32", "48", "64", "128"],
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_an_imported_generator_makes_the_same_images(widths, side, channels, dtype, tolerance, tmp_path):
    theirs = foreign(5, widths, side, channels).to(dtype)
    save_file(theirs.state_dict(), tmp_path / "generator.safetensors")
    ours = load_generator(tmp_path / "generator.safetensors")
    assert (ours.latent_shape, ours.side, ours.output_scale) == ((5,), side, 1)
    z = latents(3, 5, dtype)
    assert ours(z).shape == (3, channels, side * 2 ** (len(widths) - 1), side * 2 ** (len(widths) - 1))
    torch.testing.assert_close(ours(z), theirs(z), rtol=0, atol=tolerance)


def test_a_checkpoint_of_mimicry_is_read(tmp_path):
    theirs = foreign()
    optimizer = torch.optim.Adam(theirs.parameters())
    theirs(latents(2, 5)).sum().backward()
    optimizer.step()
    saved = {"model_state_dict": theirs.state_dict(), "optimizer_state_dict": optimizer.state_dict(), "global_step": 9}
    torch.save(saved, tmp_path / "netG_9_steps.pth")
    torch.save(theirs.state_dict(), tmp_path / "bare.pth")
    for name in ("netG_9_steps.pth", "bare.pth"):
        ours = load_generator(tmp_path / name)
        torch.testing.assert_close(ours(latents(3, 5)), theirs(latents(3, 5)), rtol=0, atol=1e-12)


def test_an_import_takes_copies_draws_nothing_and_can_learn():
    tensors = foreign().state_dict()
    before = torch.get_rng_state()
    ours = generator_from(tensors)
    assert torch.equal(torch.get_rng_state(), before)
    z = latents(3, 5)
    images = ours(z)
    for tensor in tensors.values():
        tensor.zero_()
    assert torch.equal(ours(z), images)
    assert not ours.training
    assert all(p.requires_grad and p.is_leaf for p in ours.parameters())
    ours.train()(z).sum().backward()
    assert not torch.equal(ours.eval()(z), images)  # the statistics moved


@settings(max_examples=25, deadline=None)
@given(
    latent_dim=st.integers(1, 6),
    widths=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    side=st.integers(1, 4),
    channels=st.integers(1, 4),
    norm=st.sampled_from(["affine", "batch"]),
    scale=st.sampled_from([None, 0.5]),
)
def test_the_shapes_of_our_own_state_tell_the_network(latent_dim, widths, side, channels, norm, scale):
    size = side * 2 ** (len(widths) - 1)
    output_scale = scale or (1.0 if norm == "batch" else 2.0)
    net = ResidualGenerator(size, channels, latent_dim, widths, output_scale, norm).double().eval()
    again = generator_from(net.state_dict(), scale)
    assert again.state_dict().keys() == net.state_dict().keys()
    z = latents(2, latent_dim)
    assert torch.equal(again(z), net(z))


def without(name):
    return lambda tensors: {key: tensor for key, tensor in tensors.items() if key != name}


def reshaped(name, *shape):
    return lambda tensors: {**tensors, name: torch.zeros(shape)}


MISFITS = {
    "another network": (lambda _: {"l5.weight": torch.zeros(1, 4)}, r"tensor dense.weight \(l1.weight .*\) is missing"),
    "no names": (lambda _: {1: torch.zeros(3)}, "tensors must be a dict of tensors by name"),
    "not tensors": (lambda _: {"l1.weight": 3}, "tensors must be a dict of tensors by name"),
    "no dictionary": (lambda _: torch.zeros(3), "tensors must be a dict of tensors by name"),
    "a missing layer": (without("block3.c_sc.bias"), "tensor block3.c_sc.bias is missing"),
    "a missing block": (without("block3.c1.weight"), "tensor block3.c1.weight is missing"),
    "a far block": (reshaped("block90000000000.c1.weight", 4, 4, 3, 3), "tensor block5.c1.weight is missing"),
    "a block too early": (reshaped("block1.c1.weight", 8, 8, 3, 3), "tensor block1.c1.weight must be absent"),
    "no statistics": (without("b5.running_var"), "tensor b5.running_var is missing"),
    "an odd shape": (
        reshaped("block4.c2.weight", 4, 4, 1, 1),
        r"tensor block4.c2.weight must be of shape \(4, 4, 3, 3\), got a float32 tensor of shape \(4, 4, 1, 1\)",
    ),
    "a flat convolution": (reshaped("block2.c1.weight", 6), "tensor block2.c1.weight must be .* of 4 dimensions"),
    "an empty layer": (reshaped("l1.weight", 0, 5), "tensor l1.weight must be .* of 2 dimensions, got .*0, 5"),
    "no square": (reshaped("l1.weight", 8 * 15, 5), r"tensor l1.weight must be of shape \(side \* side \* 8, latent"),
    "whole numbers": (
        lambda tensors: {**tensors, "l1.weight": tensors["l1.weight"].long()},
        "tensor l1.weight must be a floating-point tensor of 2 dimensions, got a int64",
    ),
    "classes": (
        reshaped("block2.b1.embed.weight", 10, 16),
        "tensor block2.b1.embed.weight must be absent from a generator of 3 blocks",
    ),
    "attention": (reshaped("attn_block.sigma", 1), "tensor attn_block.sigma must be absent"),
}


@pytest.mark.parametrize(("change", "message"), MISFITS.values(), ids=MISFITS.keys())
def test_the_first_tensor_that_does_not_fit_is_named(change, message):
    with pytest.raises(UsageError, match=f"^generator_from: (the )?{message}"):
        generator_from(change(foreign().state_dict()))


def test_the_count_of_batches_may_be_missing():
    tensors = {k: t for k, t in foreign().state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.testing.assert_close(generator_from(tensors)(latents(2, 5)), foreign()(latents(2, 5)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["generator.safetensors", "generator.pth"])
@pytest.mark.parametrize("content", [None, b"", b"not a network", b"\x80\x02}q\x00.", "half"])
def test_a_file_that_is_not_whole_is_refused(name, content, tmp_path):
    path = tmp_path / name
    if content == "half":
        tensors = foreign().state_dict()
        save_file(tensors, path) if path.suffix == ".safetensors" else torch.save(tensors, path)
        content = path.read_bytes()[: math.ceil(path.stat().st_size / 2)]
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=r"cannot be read|dense.weight"):
        load_generator(path)
