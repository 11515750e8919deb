"""A saved pipeline as a value: its class, what configures its components, what its call takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from harness.records import Facts

# Pixels of an image, and of a frame, whose pipeline names no size in its configuration. Both can be
# halved as often as autoencoders do; a video has many frames, and so many more elements.
UNKNOWN_SIZE = 256
UNKNOWN_FRAME = 64
# Components that may say how large the model's images or latents are, the most telling first.
DENOISERS = ("unet", "transformer", "decoder", "prior", "super_res_first")
AUTOENCODERS = ("vae", "vqvae", "movq", "vqgan", "video_vae")
# Keys of an autoencoder's configuration: a number is the pixels per latent, and a list has one
# entry for each halving but one.
PIXELS_PER_LATENT = ("spatial_compression_ratio", "scale_factor_spatial")
LEVELS = ("encoder_block_out_channels", "block_out_channels", "dim_mult")


class Size(NamedTuple):
    """Pixels of an image."""

    height: int
    width: int


@dataclass(frozen=True)
class Parameter:
    """One parameter of a pipeline's call.

    `default` is None where it has none, or one that is no number, text or truth value.
    """

    name: str
    required: bool
    default: object


@dataclass(frozen=True)
class SavedPipeline:
    """A pipeline as it was saved.

    Attributes:
        pipeline: Its class.
        commit: To which the Hub's revision resolved; empty for any other source.
        components: What configures each component that is there, by its name.
        parameters: What its call takes, in order.
    """

    pipeline: str
    commit: str
    components: dict[str, dict[str, object]]
    parameters: tuple[Parameter, ...]

    @property
    def size(self) -> Size | None:
        """The pixels of the images that it was trained on; None where nothing says so."""
        latent = self._latent_size()
        if latent is not None:
            ratio = self._pixels_per_latent()
            return Size(latent.height * ratio, latent.width * ratio)
        found = [_pair(config.get("sample_size")) for config in self._of(AUTOENCODERS)]
        return next((size for size in found if size is not None), None)

    def _latent_size(self) -> Size | None:
        """Return the size of what the denoiser works on; that is pixels without an autoencoder."""
        for config in self._of(DENOISERS):
            apart = config.get("sample_height"), config.get("sample_width")
            size = _pair(config.get("sample_size")) or _pair(list(apart))
            if size is not None:
                return size
        return None

    def _pixels_per_latent(self) -> int:
        for config in self._of(AUTOENCODERS):
            for key in PIXELS_PER_LATENT:
                ratio = config.get(key)
                if isinstance(ratio, int):
                    return ratio
            for key in LEVELS:
                levels = config.get(key)
                if isinstance(levels, list) and levels:
                    return int(2 ** (len(levels) - 1))
        return 1

    def _of(self, names: tuple[str, ...]) -> list[Facts]:
        """Return the configurations of those components that the pipeline has."""
        return [self.components[name] for name in names if name in self.components]


def _pair(value: object) -> Size | None:
    """Return a size: of one number, or of height and width, behind a number of frames or not."""
    both = [value, value] if isinstance(value, int) else value
    if not isinstance(both, list) or len(both) not in (2, 3):
        return None
    height, width = both[-2:]
    if isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0:
        return Size(height, width)
    return None
