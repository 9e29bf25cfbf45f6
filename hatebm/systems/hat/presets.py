"""Ready configurations of a Hat EBM: the published ones, and small ones for a CPU, found on digits by trial."""

from dataclasses import replace

from hatebm.learning.widths import halvings, narrowing, widening
from hatebm.systems.hat.config import JointConfig, SynthesisConfig

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
PUBLISHED_SYNTHESIS = {
    "cifar10": SynthesisConfig(),
    "celeba": SynthesisConfig(**AT_64, generator_widths=GENERATOR_64, sample_steps=100),
    "imagenet": SynthesisConfig(**AT_128, generator_widths=GENERATOR_128, sample_steps=150, **IMAGENET),
    "imagenet-large": SynthesisConfig(**AT_128_LARGE, generator_widths=GENERATOR_128_LARGE, **IMAGENET),
}
PUBLISHED_REFINE = {
    "cifar10": JointConfig(),
    "celeba": JointConfig(**AT_64, langevin_steps=100, sample_steps=125, temperature=1e-6),
}
PUBLISHED_RETROFIT = {
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

# Small networks, a tenth of the paper's bank and five of its Langevin steps in one: eps^2 / (2 T) = 2.
# H learns without momentum (beta1 = 0): after 600 iterations the classifier's Frechet distance was 16, and 28 with 0.9.
DIGITS_SYNTHESIS = SynthesisConfig(
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
# Both blocks move at once, z by eps_latent^2 / (2 T) = 4.5 times the gradient of H and y by 2.
DIGITS_REFINE = JointConfig(
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
# z moves by eps_latent^2 / (2 T) = 10 times the gradient of H, y by 2; the larger noise lets the prior on y be felt.
DIGITS_RETROFIT = JointConfig(
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


def small_synthesis(size: int, channels: int) -> SynthesisConfig:
    """Hat EBM synthesis at any size that a laptop's CPU can train, 8 to 128 pixels in steps of 8."""
    if size == 8:
        return replace(DIGITS_SYNTHESIS, channels=channels)
    pools = halvings(size)
    return SynthesisConfig(
        size=size,
        channels=channels,
        energy_widths=widening(pools),
        energy_pools=pools,
        latent_dim=64,
        generator_widths=narrowing(pools),
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


def small_refine(size: int, channels: int) -> JointConfig:
    """Joint Hat EBM on a generator, at any size that a laptop's CPU can train, 8 to 128 pixels in steps of 8."""
    return _small_joint(DIGITS_REFINE, size, channels)


def small_retrofit(size: int, channels: int) -> JointConfig:
    """Joint Hat EBM on a decoder, at any size that a laptop's CPU can train, 8 to 128 pixels in steps of 8."""
    return _small_joint(DIGITS_RETROFIT, size, channels)


def _small_joint(digits: JointConfig, size: int, channels: int) -> JointConfig:
    small = replace(digits, size=size, channels=channels)
    if size == 8:
        return small
    pools = halvings(size)
    return replace(small, energy_widths=widening(pools), energy_pools=pools, max_displacement=2.5)
