"""Ready configurations: the published ones, and small ones for a CPU, whose numbers were found on digits by trial."""

from dataclasses import replace

from hatebm.errors import UsageError
from hatebm.systems.autoencoder import AutoencoderConfig
from hatebm.systems.hat import JointConfig, SynthesisConfig
from hatebm.systems.sngan import SNGANConfig

# Networks of the official Hat EBM code: widths of the energy, of the generator, and how often the energy pools.
AT_64 = {"size": 64, "energy_widths": (64, 128, 256, 512, 1024), "energy_pools": 5}
AT_128 = {"size": 128, "energy_widths": (64, 128, 256, 512, 1024, 1024), "energy_pools": 5}
AT_128_LARGE = {"size": 128, "energy_widths": (128, 256, 512, 1024, 2048, 2048), "energy_pools": 5}
GENERATOR_64 = (1024, 512, 256, 128, 64)
GENERATOR_128 = (1024, 1024, 512, 256, 128, 64)
GENERATOR_128_LARGE = (2048, 2048, 1024, 512, 256, 128)

IMAGENET = {
    "iterations": 300_000,
    "crop": "random",
    "energy_lr_drops": ((230_000, 0.1), (260_000, 0.01)),
    "generator_lr": 5e-5,
    "generator_lr_drops": ((230_000, 0.2), (260_000, 0.02)),
    "max_grad_norm": 50.0,
}
HAT_SYNTHESIS = {
    "cifar10": SynthesisConfig(),
    "celeba": SynthesisConfig(**AT_64, generator_widths=GENERATOR_64, sample_steps=100),
    "imagenet": SynthesisConfig(**AT_128, generator_widths=GENERATOR_128, sample_steps=150, **IMAGENET),
    "imagenet-large": SynthesisConfig(**AT_128_LARGE, generator_widths=GENERATOR_128_LARGE, **IMAGENET),
}
HAT_REFINE = {
    "cifar10": JointConfig(),
    "celeba": JointConfig(**AT_64, langevin_steps=100, sample_steps=125, temperature=1e-6),
}
HAT_RETROFIT = {
    "cifar10": JointConfig(
        langevin_steps=100,
        sample_steps=125,
        eps=5e-4,
        eps_latent=1e-3,
        residual_precision=50.0,
        sample_residual=0.01,
        data_noise=1e-2,
        energy_lr=1e-4,
    ),
}
SNGAN = {
    "cifar10": SNGANConfig(),
    "celeba": SNGANConfig(
        size=64,
        generator_widths=GENERATOR_64,
        discriminator_widths=AT_64["energy_widths"],
        discriminator_pools=5,
    ),
}
AUTOENCODER = {"cifar10": AutoencoderConfig()}

# Small networks, a tenth of the paper's bank and five of its Langevin steps in one: eps^2 / (2 T) = 2.
# H learns without momentum (beta1 = 0): after 600 iterations the classifier's Frechet distance was 16, and 28 with 0.9.
HAT_SYNTHESIS_DIGITS = SynthesisConfig(
    size=8,
    channels=1,
    energy_widths=(32, 64),
    energy_pools=2,
    latent_dim=32,
    generator_widths=(64, 64, 32),
    langevin_steps=10,
    sample_steps=20,
    eps=2e-3,
    temperature=1e-6,
    max_displacement=1.0,
    iterations=800,
    batch=64,
    average=0.98,
    wide_chains=1,
    bank_size=640,
    data_noise=0.02,
    energy_lr=2e-3,
    energy_lr_drops=((480, 0.5), (640, 0.25), (720, 0.12)),
    energy_beta1=0.0,
    generator_lr=2e-3,
    generator_lr_drops=((480, 0.5), (640, 0.25), (720, 0.12)),
)
SNGAN_DIGITS = SNGANConfig(
    size=8,
    channels=1,
    iterations=1200,
    batch=32,
    average=0.99,
    latent_dim=32,
    generator_widths=(64, 32, 16),
    discriminator_widths=(24, 48),
    discriminator_updates=2,
    generator_lr=1e-3,
    discriminator_lr=1e-3,
    lr_hold=0.5,
    ddls_steps=10,  # with 30 and more the samples were worse than without
)
# Both blocks move at once, z by eps_latent^2 / (2 T) = 4.5 times the gradient of H and y by 2.
HAT_REFINE_DIGITS = JointConfig(
    size=8,
    channels=1,
    energy_widths=(32, 64),
    langevin_steps=10,
    sample_steps=14,
    eps=2e-3,
    eps_latent=3e-3,
    temperature=1e-6,
    alternate=False,
    iterations=400,
    batch=32,
    average=0.98,
    data_noise=0.02,
    energy_lr=1.5e-3,
    energy_lr_drops=((200, 0.6), (280, 0.3), (340, 0.1)),
    energy_beta1=0.0,
)
# Noise of 0.3 on the codes spreads them over the sphere: with the paper's 0.02 random codes decode to nothing.
AUTOENCODER_DIGITS = AutoencoderConfig(
    size=8,
    channels=1,
    iterations=800,
    batch=64,
    average=0.0,
    code_side=4,
    encoder_widths=(16, 32, 32),
    decoder_widths=(64, 32),
    code_noise=0.3,
    lr=2e-3,
    lr_drops=((480, 0.3), (640, 0.1)),
)
# z moves by eps_latent^2 / (2 T) = 10 times the gradient of H, y by 2; the larger noise lets the prior on y be felt.
HAT_RETROFIT_DIGITS = JointConfig(
    size=8,
    channels=1,
    energy_widths=(32, 64),
    langevin_steps=10,
    sample_steps=14,
    eps=2e-2,
    eps_latent=4.5e-2,
    temperature=1e-4,
    max_displacement=1.0,
    residual_precision=50.0,
    sample_residual=0.01,
    iterations=400,
    batch=64,
    average=0.985,
    data_noise=0.02,
    energy_lr=2e-3,
    energy_lr_drops=((320, 0.3),),
    energy_beta1=0.0,
)


def hat_synthesis(size: int, channels: int) -> SynthesisConfig:
    """Hat EBM synthesis at any size that a laptop's CPU can train, 8 to 128 pixels in steps of 8."""
    if size == 8:
        return replace(HAT_SYNTHESIS_DIGITS, channels=channels)
    pools = _pools(size)
    return SynthesisConfig(
        size=size,
        channels=channels,
        energy_widths=_widening(pools),
        energy_pools=pools,
        latent_dim=64,
        generator_widths=_narrowing(pools),
        langevin_steps=20,
        sample_steps=40,
        eps=2e-3,
        temperature=1e-6,
        iterations=2000,
        batch=32,
        average=0.98,
        bank_size=640,
        data_noise=0.02,
        energy_lr=1e-3,
        energy_lr_drops=((1200, 0.3), (1600, 0.1)),
        energy_beta1=0.0,
        generator_lr=1e-3,
        generator_lr_drops=((1200, 0.3), (1600, 0.1)),
    )


def sngan(size: int, channels: int) -> SNGANConfig:
    """SN-GAN at any size that a laptop's CPU can train, 8 to 128 pixels in steps of 8."""
    small = replace(SNGAN_DIGITS, size=size, channels=channels)
    if size == 8:
        return small
    pools = _pools(size)
    return replace(
        small,
        latent_dim=64,
        generator_widths=_narrowing(pools),
        discriminator_widths=_widening(pools),
        discriminator_pools=pools,
    )


def hat_refine(size: int, channels: int) -> JointConfig:
    """Joint Hat EBM on a generator, at any size that a laptop's CPU can train, 8 to 128 pixels in steps of 8."""
    return _joint(HAT_REFINE_DIGITS, size, channels)


def hat_retrofit(size: int, channels: int) -> JointConfig:
    """Joint Hat EBM on a decoder, at any size that a laptop's CPU can train, 8 to 128 pixels in steps of 8."""
    return _joint(HAT_RETROFIT_DIGITS, size, channels)


def autoencoder(size: int, channels: int) -> AutoencoderConfig:
    """Autoencoder with codes of half the side of the images, 8 to 128 pixels in steps of 8."""
    if size != 8:
        _pools(size)
    return replace(AUTOENCODER_DIGITS, size=size, channels=channels, code_side=size // 2)


def _joint(digits: JointConfig, size: int, channels: int) -> JointConfig:
    small = replace(digits, size=size, channels=channels)
    if size == 8:
        return small
    pools = _pools(size)
    return replace(small, energy_widths=_widening(pools), energy_pools=pools, max_displacement=2.5)


def _pools(size: int) -> int:
    """How often images of that size can be halved down to 4 pixels or more, for the small networks."""
    if not (8 < size <= 128 and size % 8 == 0):
        raise UsageError(f"--size: wanted a multiple of 8 from 8 to 128, got {size}")
    pools = 0
    while size % 2 == 0 and size // 2 >= 4:
        size, pools = size // 2, pools + 1
    return pools


def _widening(pools: int) -> tuple[int, ...]:
    return (16, 32, 64, 64, 64, 64)[: pools + 1]


def _narrowing(pools: int) -> tuple[int, ...]:
    return (16, 16, 32, 64, 64, 64)[pools::-1]
