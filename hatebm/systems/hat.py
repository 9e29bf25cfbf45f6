"""Hat EBM synthesis: an energy H and a generator G learn together, images are x = G(z) + y.

Source: Hill, Nijkamp, Mitchell, Pang and Zhu, "Hat EBM", NeurIPS 2022, arXiv 2210.16486, and its official code. The
model is `p(y, z) = p0(z) exp(-H(G(z) + y) / T) / Z`; z is drawn once from p0 = N(0, I) and stays, Langevin dynamics
moves y.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hatebm.chain import Chain
from hatebm.data import Images, batch_indices, to_pixels
from hatebm.dynamics import Dynamics
from hatebm.errors import UsageError
from hatebm.nets import ResidualEnergy, ResidualGenerator
from hatebm.noise import Purpose, normal


@dataclass(frozen=True)
class HatConfig:
    """All numbers of a Hat EBM synthesis; the defaults are those of the official CIFAR-10 configuration.

    Pixels lie in [-1, 1]. One Langevin step moves an image by `eps^2 / (2 T) dH/dx`, at most `max_displacement` in L2,
    plus `eps` times a standard normal. Raises UsageError for a number out of range.
    """

    size: int = 32
    channels: int = 3
    energy_widths: tuple[int, ...] = (256, 256, 256, 256)
    energy_pools: int = 2
    latent_dim: int = 128
    generator_widths: tuple[int, ...] = (256, 256, 256, 256)
    output_scale: float = 2.0  # G ends in output_scale * tanh, which keeps data off the saturation

    langevin_steps: int = 50  # K in training; images are best at about 2K steps
    eps: float = 5e-4
    temperature: float = 1e-8
    max_displacement: float = 2.5
    sample_residual: float = 0.01  # y0 = sample_residual * N(0, I) when sampling; 0 in training

    iterations: int = 50_000
    batch: int = 128
    bank_size: int = 9_984  # mean age of a pair that G learns from: bank_size / batch iterations
    data_noise: float = 1e-3
    energy_lr: float = 1e-4
    energy_beta1: float = 0.9
    generator_lr: float = 1e-4
    lr_drops: tuple[tuple[int, float], ...] = ()  # (iteration, factor): both rates are multiplied by it from there on
    generator_weight: float = 1000.0
    seed: int = 0

    def __post_init__(self):
        whole = ("size", "channels", "latent_dim", "langevin_steps", "batch", "bank_size")
        positive = ("eps", "temperature", "max_displacement", "output_scale", "energy_lr", "generator_lr")
        for name in (*whole, *positive):
            if not getattr(self, name) > 0:
                raise UsageError(f"HatConfig: {name} must be positive, got {getattr(self, name)}")
        for name in ("iterations", "data_noise", "sample_residual"):
            if not getattr(self, name) >= 0:
                raise UsageError(f"HatConfig: {name} must not be negative, got {getattr(self, name)}")
        for name in ("energy_widths", "generator_widths"):
            widths = getattr(self, name)
            if not widths or not all(isinstance(width, int) and width > 0 for width in widths):
                raise UsageError(f"HatConfig: {name} must be positive whole numbers, got {widths}")
        for drop in self.lr_drops:
            if not (isinstance(drop, tuple) and len(drop) == 2 and drop[0] >= 0 and drop[1] > 0):
                raise UsageError(f"HatConfig: lr_drops must be pairs (iteration, factor), got {self.lr_drops}")
        if not 0 <= self.energy_beta1 < 1:
            raise UsageError(f"HatConfig: energy_beta1 must lie in [0, 1), got {self.energy_beta1}")
        if not -(1 << 63) <= self.seed < (1 << 63) - 1:  # the samples are drawn with the next seed
            raise UsageError(f"HatConfig: seed must fit 64 bits, got {self.seed}")
        if self.bank_size < self.batch:
            raise UsageError(f"HatConfig: bank_size must be at least batch = {self.batch}, got {self.bank_size}")

    @property
    def dynamics(self) -> Dynamics:
        """The Langevin law of y (and so of x): exp(-H / T) at step eps, the drift capped per image."""
        return Dynamics(
            eps=self.eps, temperature=self.temperature, clip=("norm", self.max_displacement), clip_on="update"
        )

    def lr_factor(self, iteration: int) -> float:
        """Factor on both learning rates at an iteration."""
        return next((factor for start, factor in sorted(self.lr_drops, reverse=True) if iteration >= start), 1.0)


@dataclass
class Bank:
    """Past pairs of latents and sampled images, from which the generator learns.

    z: (bank_size, latent_dim); x: (bank_size, channels, size, size).
    """

    z: Tensor
    x: Tensor

    @classmethod
    @torch.no_grad()
    def create(cls, config: HatConfig, generator: ResidualGenerator) -> "Bank":
        """Latents from N(0, I) with the images that the generator makes of them."""
        z = normal((config.bank_size, config.latent_dim), seed=config.seed, step=0, purpose=Purpose.BANK)
        return cls(z, torch.cat([generator(part) for part in z.split(config.batch)]))

    def slots(self, batch: int, seed: int, iteration: int) -> Tensor:
        """`batch` distinct slots, drawn uniformly for that iteration: (batch,) int64."""
        noise = normal((len(self.z), 1), seed=seed, step=iteration + 1, purpose=Purpose.BANK)
        return noise.flatten().argsort(stable=True)[:batch]


@dataclass
class HatState:
    """Everything that training changes. `iteration` counts the finished ones."""

    config: HatConfig
    energy: ResidualEnergy
    generator: ResidualGenerator
    energy_optimizer: torch.optim.Adam
    generator_optimizer: torch.optim.Adam
    bank: Bank
    iteration: int = 0

    @classmethod
    def create(cls, config: HatConfig) -> "HatState":
        """Fresh networks, optimisers and bank, determined by `config.seed`; the global random state is left alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            energy = ResidualEnergy(config.size, config.channels, config.energy_widths, config.energy_pools)
            generator = ResidualGenerator(
                config.size, config.channels, config.latent_dim, config.generator_widths, config.output_scale
            )
        for net in (energy, generator):
            net.to(memory_format=torch.channels_last)  # a fifth faster on the CPU, the same numbers to rounding
        return cls(
            config,
            energy,
            generator,
            torch.optim.Adam(energy.parameters(), config.energy_lr, betas=(config.energy_beta1, 0.999)),
            torch.optim.Adam(generator.parameters(), config.generator_lr),
            Bank.create(config, generator),
        )

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the state under one name each, as a checkpoint keeps them."""
        named = {"bank.z": self.bank.z, "bank.x": self.bank.x}
        for part in ("energy", "generator"):
            named |= {f"{part}.{name}": tensor for name, tensor in getattr(self, part).state_dict().items()}
            moments = getattr(self, f"{part}_optimizer").state_dict()["state"]
            named |= {f"{part}_optimizer.{i}.{name}": t for i, entry in moments.items() for name, t in entry.items()}
        return named

    def restore(self, named: dict[str, Tensor], iteration: int) -> None:
        """Take back what `tensors` gave; raises KeyError or RuntimeError when it is of another configuration."""
        for part in ("energy", "generator"):
            getattr(self, part).load_state_dict(_below(f"{part}.", named))
            optimizer, moments = getattr(self, f"{part}_optimizer"), {}
            parameters = optimizer.param_groups[0]["params"]
            for name, tensor in _below(f"{part}_optimizer.", named).items():
                index, moment = name.split(".")
                if tensor.dim():  # in its parameter's memory order: Adam rounds by it
                    tensor = torch.empty_like(parameters[int(index)]).copy_(tensor)
                moments.setdefault(int(index), {})[moment] = tensor
            optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
        self.bank.z.copy_(named["bank.z"])
        self.bank.x.copy_(named["bank.x"])
        self.iteration = iteration


def residual_chain(
    energy: torch.nn.Module,
    generator: torch.nn.Module,
    z: Tensor,  # (n, latent_dim), stays
    dynamics: Dynamics,
    *,
    seed: int,
    first_step: int = 0,
    chain_ids: Sequence[int] | None = None,
    residual: float = 0.0,  # y0 = residual * N(0, I)
) -> Chain:
    """The Langevin chain of y given z, as a chain of images that starts at G(z) + y0.

    With z frozen and no prior on y the gradients in y and in x = G(z) + y are the same, so the y-chain
    `y' = y - eps^2/2 dH(G(z) + y)/dy / T + eps xi` is the x-chain `x' = x - eps^2/2 dH(x)/dx / T + eps xi`, and G is
    called once.
    """
    with torch.no_grad():
        x = generator(z)
    if residual:
        x = x + residual * normal(
            x.shape, seed=seed, step=0, block=1, purpose=Purpose.INITIAL_STATE, chain_ids=chain_ids
        )
    return Chain(energy, x, dynamics, seed=seed, first_step=first_step, chain_ids=chain_ids)


def cooperative_iteration(state: HatState, images: Images) -> dict[str, float]:
    """One iteration of cooperative learning, in place; returns what it measured.

    1. z ~ N(0, I), y0 = 0; K Langevin steps give x- = G(z) + y.
    2. H descends (mean H(x+) - mean H(x-)) / T, x+ noisy data.
    3. G descends the squared error to the OLD content of `batch` random slots of the bank.
    4. The slots take the new pairs (z, x-).
    """
    config, t = state.config, state.iteration
    for optimizer, lr in ((state.energy_optimizer, config.energy_lr), (state.generator_optimizer, config.generator_lr)):
        optimizer.param_groups[0]["lr"] = lr * config.lr_factor(t)

    z = normal((config.batch, config.latent_dim), seed=config.seed, step=t, purpose=Purpose.INITIAL_STATE)
    chain = residual_chain(
        state.energy, state.generator, z, config.dynamics, seed=config.seed, first_step=t * config.langevin_steps
    )
    sampled, info = chain.run(config.langevin_steps, return_info=True)

    index = batch_indices(len(images.train), config.batch, seed=config.seed, iteration=t)
    data = to_pixels(images.train[index])
    data = data + config.data_noise * normal(data.shape, seed=config.seed, step=t, purpose=Purpose.DATA_NOISE)
    gap = update_energy(state, data, sampled)

    slots = state.bank.slots(config.batch, config.seed, t)
    generator_loss = update_generator(state, state.bank.z[slots], state.bank.x[slots])
    state.bank.z[slots], state.bank.x[slots] = z, sampled

    state.iteration += 1
    return {
        "energy_gap": gap,
        "generator_loss": generator_loss,
        "displacement": info["displacement"].mean().item(),
    }


def update_energy(state: HatState, data: Tensor, sampled: Tensor) -> float:
    """One Adam step of H down `(mean H(data) - mean H(sampled)) / T`, the likelihood's gradient; returns that gap."""
    energies = state.energy(torch.cat((data, sampled)))
    gap = (energies[: len(data)].mean() - energies[len(data) :].mean()) / state.config.temperature
    state.energy_optimizer.zero_grad()
    gap.backward()
    state.energy_optimizer.step()
    return gap.item()


def update_generator(state: HatState, z: Tensor, x: Tensor) -> float:
    """One Adam step of G down `generator_weight * mean (G(z) - x)^2`; H has no part in it; returns that loss."""
    loss = state.config.generator_weight * F.mse_loss(state.generator(z), x)
    state.generator_optimizer.zero_grad()
    loss.backward()
    state.generator_optimizer.step()
    return loss.item()


def sampling_chain(state: HatState, chain_ids: Sequence[int], *, seed: int) -> Chain:
    """Chains of a trained model, at G(z) + y0, before their first step; each is determined by its id and the seed."""
    config = state.config
    shape = (len(chain_ids), config.latent_dim)
    z = normal(shape, seed=seed, step=0, purpose=Purpose.INITIAL_STATE, chain_ids=chain_ids)
    return residual_chain(
        state.energy,
        state.generator,
        z,
        config.dynamics,
        seed=seed,
        chain_ids=chain_ids,
        residual=config.sample_residual,
    )


def _below(prefix: str, named: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in named.items() if name.startswith(prefix)}
