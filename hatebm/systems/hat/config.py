"""The numbers of a Hat EBM; the defaults are those of the official CIFAR-10 configurations."""

from dataclasses import dataclass
from typing import ClassVar

from hatebm.dynamics.law import Dynamics
from hatebm.errors import UsageError
from hatebm.learning.config import Config, Drops


@dataclass(frozen=True, kw_only=True)
class HatConfig(Config):
    """What every Hat EBM has: the network H, the Langevin law of the residual image y, and how H learns.

    Pixels lie in [-1, 1]. One Langevin step moves y by `eps^2 / (2 T) dH/dy`, at most `max_displacement` in L2, plus
    `eps` times a standard normal: on H itself the step size is `eps^2 / (2 T)`.
    """

    MAY_BE_ZERO = Config.MAY_BE_ZERO | {
        "data_noise",
        "sample_residual",
        "max_grad_norm",
        "residual_precision",
        "wide_chains",
    }
    FRACTIONS = Config.FRACTIONS | {"energy_beta1"}
    LEAST: ClassVar = {"batch": 2}  # energies of one have no spread, by which symptoms are told

    energy_widths: tuple[int, ...] = (256, 256, 256, 256)
    energy_pools: int = 2

    langevin_steps: int = 50  # K in training
    sample_steps: int = 125  # samples are best at two to three times K
    eps: float = 5e-4
    temperature: float = 1e-8
    max_displacement: float = 2.5
    sample_residual: float = 0.01  # y0 = sample_residual * N(0, I) when sampling; 0 in training

    data_noise: float = 1e-3
    energy_lr: float = 1e-4
    energy_lr_drops: Drops = ()
    energy_beta1: float = 0.9
    max_grad_norm: float = 0.0  # of each weight's gradient, which carries 1 / T; 0: no bound


@dataclass(frozen=True, kw_only=True)
class SynthesisConfig(HatConfig):
    """Cooperative learning of H and G from scratch, `p(y, z) = p0(z) exp(-H(G(z) + y) / T) / Z`."""

    MAY_BE_ZERO = HatConfig.MAY_BE_ZERO | {"wide_chains"}

    latent_dim: int = 128
    generator_widths: tuple[int, ...] = (256, 256, 256, 256)
    output_scale: float = 2.0  # G ends in output_scale * tanh, which keeps data off the saturation
    wide_chains: int = 0  # more chains in an iteration, from coarse noise: H learns there too, G does not
    bank_size: int = 9_984  # mean age of a pair that G learns from: bank_size / batch iterations
    generator_lr: float = 1e-4
    generator_lr_drops: Drops = ()
    generator_weight: float = 1000.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bank_size < self.batch:
            raise UsageError(f"SynthesisConfig: bank_size must be at least batch = {self.batch}, got {self.bank_size}")

    @property
    def dynamics(self) -> Dynamics:
        """The law of y (and so of x): exp(-H / T) at step eps, the drift capped per image."""
        return Dynamics(
            eps=self.eps, temperature=self.temperature, clip=("norm", self.max_displacement), clip_on="update"
        )


@dataclass(frozen=True, kw_only=True)
class JointConfig(HatConfig):
    """H alone learns, on a generator that stays: `p(y, z) = exp(-H(G(z) + y) / T - tau |y|^2) / Z`, z moves too."""

    MAY_BE_ZERO = HatConfig.MAY_BE_ZERO | {"residual_precision"}

    iterations: int = 25_000
    langevin_steps: int = 250
    sample_steps: int = 350
    eps: float = 1e-4
    eps_latent: float = 5e-3
    temperature: float = 1e-3
    latent_shape: tuple[int, ...] = ()  # of one z; () asks the generator's own attribute
    residual_precision: float = 0.0  # tau, beside H / T and not divided by T; y ~ N(0, 1 / (2 tau)) a priori
    alternate: bool = True  # y moves at the z that has just moved; False moves both at once, for half the price
    sample_residual: float = 0.0
    energy_lr: float = 1e-5

    @property
    def dynamics(self) -> Dynamics:
        """The law of (z, y): exp(-H / T - tau |y|^2), z in steps of eps_latent, y in steps of eps and capped."""
        return Dynamics(
            eps=(self.eps_latent, self.eps),
            temperature=self.temperature,
            prior_precision=(0.0, 2 * self.residual_precision),
            clip=(None, ("norm", self.max_displacement)),
            clip_on="update",
            blocks="sequential" if self.alternate else "joint",
        )
