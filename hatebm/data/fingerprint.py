"""What a run remembers of its images, by which it knows them again wherever they lie."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from hatebm.data import Images

SAMPLED = 32  # images of either part
SIDE = 2  # each becomes so many means in a row
FORGIVEN = 2  # grey levels: another decoder rounds otherwise


@dataclass(frozen=True)
class Fingerprint:
    """Shapes of the training and of the held-out images, and a sample of both, thumbnails as hexadecimal bytes.

    A sample is compared and not hashed: pictures that another version of a decoder rounds otherwise stay the same ones.
    """

    train: tuple[int, ...]
    held_out: tuple[int, ...]
    sample: str

    @classmethod
    def of(cls, images: Images) -> "Fingerprint":
        few = images.thinned(SAMPLED)
        sampled = torch.cat((few.train, few.held_out)).float()
        thumbnails = F.adaptive_avg_pool2d(sampled, SIDE).round().byte()
        return cls(tuple(images.train.shape), tuple(images.held_out.shape), thumbnails.numpy().tobytes().hex())

    @classmethod
    def from_json(cls, values: object) -> "Fingerprint":
        """What a config.json holds; raises ValueError where it is none."""
        try:
            bytes.fromhex(values["sample"])
            return cls(tuple(values["train"]), tuple(values["held_out"]), values["sample"])
        except (KeyError, TypeError, ValueError):
            raise ValueError("fingerprint must be two shapes and a sample in hexadecimal digits") from None

    def difference(self, now: "Fingerprint") -> str | None:
        """How other images differ from these, or None where they are the same."""
        for part, ours, theirs in (("training", self.train, now.train), ("held-out", self.held_out, now.held_out)):
            if ours != theirs:
                return f"{_described(ours)} were the {part} images, now {_described(theirs)}"
        ours, theirs = bytes.fromhex(self.sample), bytes.fromhex(now.sample)
        changed = abs(len(ours) - len(theirs)) + sum(abs(a - b) > FORGIVEN for a, b in zip(ours, theirs, strict=False))
        return f"{changed} of {len(ours)} means of sampled pictures differ" if changed else None


def _described(shape: tuple[int, ...]) -> str:
    return f"{shape[0]} of {' x '.join(map(str, shape[1:]))}"
