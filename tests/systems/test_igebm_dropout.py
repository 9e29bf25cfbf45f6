"""Dropout of an IGEBM: its masks are the noise contract's, half of the units, the same for a chain in any batch."""

from dataclasses import replace

import pytest
import torch
from tiny import one_thread  # noqa: F401
from torch import Tensor, nn

from hatebm.errors import UsageError
from hatebm.nets import SpectralResNet
from hatebm.nets.spectral import iterate_power
from hatebm.ops.noise import Purpose, words
from hatebm.systems.igebm import IGEBMConfig
from hatebm.systems.igebm.dropout import Use, in_an_update, masks


def dropping() -> SpectralResNet:
    """A network whose blocks are felt."""
    torch.manual_seed(0)
    net = SpectralResNet(8, 1, (4, 6), (1, 2), 0, "swish", stem=3)
    for block in net.blocks:
        nn.init.normal_(block.conv2.weight)
    iterate_power(net)
    return net


def drawn(net: SpectralResNet, n: int, **place) -> dict[str, Tensor]:
    return masks(net.units, n, **{"use": Use.CHAIN, "seed": 5, "step": 7, "device": "cpu"} | place)


def test_a_mask_is_the_noise_contracts_bit_by_bit():
    net, kept = dropping(), drawn(dropping(), 3)
    assert list(kept) == ["kept0", "kept1", "kept2"]
    for b, (name, (width, height, along)) in enumerate(net.units.items()):
        mask = kept[name]
        assert mask.shape == (3, width, height, along)
        assert mask.unique().tolist() == [0, 2]
        count = width * height * along
        drawn_words = words((3, -(-count // 32)), seed=5, step=7, block=3 * b, purpose=Purpose.DROPOUT)
        bits = (drawn_words[:, :, None] >> torch.arange(32) & 1).flatten(1)[:, :count].view(3, height, along, width)
        assert torch.equal(mask.permute(0, 2, 3, 1), 2.0 * bits)


def test_half_of_the_units_are_kept_each_by_itself():
    n = 400
    kept = {name: mask.flatten(1) / 2 for name, mask in drawn(dropping(), n).items()}
    for mask in kept.values():
        total = mask.numel()
        assert abs(mask.mean().item() - 0.5) < 4 * 0.5 / total**0.5
        assert abs(mask.mean(0) - 0.5).max() < 5 * 0.5 / n**0.5
        neighbours = (mask[:, 1:] == mask[:, :-1]).float().mean()
        assert abs(neighbours.item() - 0.5) < 5 * 0.5 / total**0.5
    others = [drawn(dropping(), n, **change) for change in ({"step": 8}, {"seed": 6}, {"use": Use.DATA})]
    one = kept["kept1"].flatten()
    for other in (kept["kept2"].flatten(), *(other["kept1"].flatten() / 2 for other in others)):
        size = min(len(one), len(other))
        assert abs((one[:size] == other[:size]).float().mean().item() - 0.5) < 5 * 0.5 / size**0.5


def test_masks_belong_to_chains_whatever_the_batch():
    net, ids = dropping(), [3, 0, 1 << 33]
    whole, some = drawn(net, 6), drawn(net, 3, chain_ids=ids)
    for name, mask in whole.items():
        assert torch.equal(some[name][:2], mask[ids[:2]])
        assert not torch.equal(some[name][2], mask[2])
    update = in_an_update(net, 4, seed=5, iteration=7)
    for name, mask in update.items():
        assert torch.equal(mask[:2], drawn(net, 2, use=Use.DATA)[name])
        assert torch.equal(mask[4:], drawn(net, 4, use=Use.SAMPLES)[name])


def test_the_mean_of_what_is_kept_is_what_there_was():
    net, x, n = dropping(), torch.rand(1, 1, 8, 8), 20_000
    with torch.no_grad():
        h = net.blocks[0].conv1(net.stem(x))
    kept = drawn(net, n)["kept0"]
    off = ((kept * h).mean(0) - h[0]) / (h[0].abs() / n**0.5)  # 0 or 2 has standard deviation 1
    assert off.abs().max() < 5
    assert abs(off.square().mean().item() - 1) < 5 * (2 / off.numel()) ** 0.5


def test_dropout_is_refused_where_there_is_none():
    with pytest.raises(UsageError, match="IGEBMConfig: dropout must be False, a network 'conv' has none"):
        replace(IGEBMConfig(), network="conv")
