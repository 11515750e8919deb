"""Reading the inputs that a case's `call` refers to: files, made patterns and noise, conditions.

Every input is decoded once per case, and the digest of what was decoded is recorded. So another
file, or a decoder that gives other pixels, is named as such and is not blamed on a stage.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import wave
from pathlib import Path
from types import MappingProxyType
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Tuple

import numpy as np
import torch

from ..conditions.portable import uniform
from ..observe.digest import combine, digest
from ..observe.tensors import digest_tensor
from ..protocol import CannotRunHere, CaseError, InputRecord
from .outputs import outputs_of

FRAMES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
ANIMATIONS = (".gif", ".webp", ".png", ".tif", ".tiff")  # videos that Pillow decodes by itself
UNIFORMS = 12  # of a sum of uniform values that stands for a normal one: it has unit variance
PCM_TYPES = {1: np.uint8, 2: np.int16, 4: np.int32}  # by the bytes of a sample


class Input(NamedTuple):
    """One input of a call.

    Attributes:
        value: What the pipeline gets.
        decoded: The digest of the value's content.
        file: The digest of the file's bytes; empty for an input that is made.
    """

    value: Any
    decoded: str
    file: str


class Inputs:
    """The inputs of a case, read from its call.

    Args:
        folder: What paths are relative to: the scenario's folder.
        library: The package whose dataclasses of conditions a call may name.
        device: Where tensors are put.
        given: Values that the caller of this process holds, by the names that a call refers to.
    """

    def __init__(
        self,
        folder: Path,
        library: str,
        device: torch.device,
        given: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self._folder = folder
        self._given_values = given
        self._library = library
        self._device = device
        self.records: List[InputRecord] = []
        self._readers: Dict[str, Callable[[Mapping[str, Any]], Input]] = {
            "image": self._image,
            "mask": self._mask,
            "images": self._images,
            "video": self._video,
            "audio": self._audio,
            "array": self._array,
            "noise": self._noise,
            "pattern": self._pattern,
            "given": self._given,
        }

    def resolve(self, call: Mapping[str, Any]) -> Dict[str, Any]:
        """Return the call with every reference replaced by what it stands for.

        Raises:
            CaseError: A file cannot be decoded, or a condition does not exist.
            CannotRunHere: A package that decodes the file is not installed.
        """
        return {name: self._resolved(name, value) for name, value in call.items()}

    def _resolved(self, argument: str, value: Any) -> Any:
        if isinstance(value, list):
            return [self._resolved(argument, item) for item in value]
        if not isinstance(value, Mapping) or not value:
            return value
        kind = next(iter(value))
        if kind == "object":
            return self._object(argument, value)
        if kind not in self._readers:
            return {key: self._resolved(argument, item) for key, item in value.items()}
        try:
            read = self._readers[kind](value)
        except (CaseError, CannotRunHere):
            raise
        except Exception as error:  # decoders raise errors of their own
            text = " ".join(str(error).split()) or type(error).__name__
            raise CaseError(
                f"`{argument}`: the {kind} {value[kind]} cannot be read: {text}"
            ) from error
        count = sum(record["kind"] == kind for record in self.records)
        self.records.append(
            {
                "name": f"{kind}#{count}",
                "kind": kind,
                "argument": argument,
                "digest": read.decoded,
                "file": read.file,
            }
        )
        return read.value

    def _object(self, argument: str, value: Mapping[str, Any]) -> Any:
        """Build one of the library's dataclasses of conditions from its fields."""
        name = value["object"]
        condition = _condition_class(name, self._library)
        fields = {
            key: self._resolved(argument, item) for key, item in value.items() if key != "object"
        }
        known = [field.name for field in dataclasses.fields(condition)]
        for key in fields:
            if key not in known:
                raise CaseError(
                    f"`{argument}`: {name} has no field `{key}`; it has {', '.join(known)}"
                )
        return condition(**fields)

    def _image(self, reference: Mapping[str, Any]) -> Input:
        path = self._folder / reference["image"]
        image = _open_image(path, reference.get("mode", "RGB"))
        return Input(image, digest(np.asarray(image)), _digest_file(path))

    def _mask(self, reference: Mapping[str, Any]) -> Input:
        path = self._folder / reference["mask"]
        image = _open_image(path, "L")
        return Input(image, digest(np.asarray(image)), _digest_file(path))

    def _images(self, reference: Mapping[str, Any]) -> Input:
        names = reference["images"]
        paths = [self._folder / name for name in ([names] if isinstance(names, str) else names)]
        return _several([_open_image(path, reference.get("mode", "RGB")) for path in paths], paths)

    def _video(self, reference: Mapping[str, Any]) -> Input:
        path = self._folder / reference["video"]
        if path.is_dir():
            frames = sorted(file for file in path.iterdir() if file.suffix.lower() in FRAMES)
            if not frames:
                raise CaseError(f"no frames in {path}; expected files named {', '.join(FRAMES)}")
            return _several([_open_image(frame, "RGB") for frame in frames], frames)
        if path.suffix.lower() in ANIMATIONS:
            return _several(_animation(path), [path])
        return _several(_decoded_video(path), [path])

    def _audio(self, reference: Mapping[str, Any]) -> Input:
        path = self._folder / reference["audio"]
        samples = _samples(path)
        return self._array_input(samples, reference, _digest_file(path))

    def _array(self, reference: Mapping[str, Any]) -> Input:
        path = self._folder / reference["array"]
        array = _load_array(path, reference.get("key"))
        file = _digest_file(path)
        if not isinstance(array, torch.Tensor):
            return self._array_input(array, reference, file)
        as_numpy = reference.get("as") == "numpy"
        value = array.numpy() if as_numpy else array.to(self._device)
        return Input(value, digest_tensor(array), file)

    def _noise(self, reference: Mapping[str, Any]) -> Input:
        made = reference["noise"]
        shape = made["shape"] if isinstance(made["shape"], list) else [made["shape"]]
        return self._array_input(portable_noise(made["seed"], tuple(shape)), reference, "")

    def _pattern(self, reference: Mapping[str, Any]) -> Input:
        made = reference["pattern"]
        size = made["size"] if isinstance(made["size"], list) else [made["size"]] * 2
        image = portable_pattern(size[0], size[-1], made.get("mode", "RGB"))
        return Input(image, digest(np.asarray(image)), "")

    def _given(self, reference: Mapping[str, Any]) -> Input:
        value = self._given_values[reference["given"]]
        return Input(value, digest_of_value(value), "")

    def _array_input(self, array: np.ndarray, reference: Mapping[str, Any], file: str) -> Input:
        if reference.get("as") == "numpy":
            return Input(array, digest(array), file)
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        return Input(tensor.to(self._device), digest(array), file)


def digest_of_value(value: Any) -> str:
    """Return one digest of an array or image, or of all that a list or mapping holds.

    Raises:
        CaseError: It holds neither tensors, arrays nor images.
    """
    tensors = {name: digest_tensor(tensor) for name, tensor in outputs_of({"value": value}).items()}
    if not tensors:
        raise CaseError(f"expected an array, a tensor or an image, found {type(value).__name__}")
    return combine(tensors)


def portable_noise(seed: int, shape: Tuple[int, ...]) -> np.ndarray:
    """Return nearly normal float32 noise whose bits are the same on every machine.

    Args:
        seed: Chooses the noise.
        shape: The shape of the result.

    Returns:
        Half the sum of twelve uniform values in [-1, 1), added in a fixed order: mean 0, unit
        variance, at most 6 in size. Source: the Irwin-Hall distribution.
    """
    total = np.zeros(shape, np.float32)
    for index in range(UNIFORMS):
        total += uniform(f"input noise {seed} {index}", shape)
    return total * np.float32(0.5)


def portable_pattern(width: int, height: int, mode: str) -> Any:
    """Return an image made of whole numbers: two ramps and a chequered third channel.

    As a mask (`L`) it is white in the middle half and black outside.
    """
    from PIL import Image

    rows, columns = np.mgrid[0:height, 0:width]
    if mode == "L":
        inside = (abs(2 * rows - height) * 2 <= height) & (abs(2 * columns - width) * 2 <= width)
        return Image.fromarray(np.where(inside, 255, 0).astype(np.uint8))
    ramps = [columns * 255 // max(1, width - 1), rows * 255 // max(1, height - 1)]
    chequers = (rows * 8 // height + columns * 8 // width) % 2 * 255
    channels = [*ramps, chequers] + ([np.full_like(rows, 255)] if mode == "RGBA" else [])
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def _open_image(path: Path, mode: str) -> Any:
    """Return an image as diffusers loads one: turned upright, in one colour mode."""
    from PIL import Image, ImageOps

    with Image.open(path) as image:
        return ImageOps.exif_transpose(image).convert(mode)


def _several(images: List[Any], paths: List[Path]) -> Input:
    digests = {str(index): digest(np.asarray(image)) for index, image in enumerate(images)}
    files = {str(index): _digest_file(path) for index, path in enumerate(paths)}
    return Input(images, combine(digests), combine(files))


def _animation(path: Path) -> List[Any]:
    from PIL import Image, ImageSequence

    with Image.open(path) as animation:
        return [frame.convert("RGB") for frame in ImageSequence.Iterator(animation)]


def _decoded_video(path: Path) -> List[Any]:
    """Return the frames of a video file, by the decoder that diffusers uses."""
    from diffusers.utils.loading_utils import load_video

    try:
        return list(load_video(str(path)))
    except ImportError as error:
        raise CannotRunHere(
            f"{path.name} needs a video decoder: {error}; a folder of frames needs none"
        ) from error


def _samples(path: Path) -> np.ndarray:
    """Return the samples of a PCM file as float32 in [-1, 1), shape (channels, samples)."""
    with wave.open(str(path), "rb") as file:
        width, channels = file.getsampwidth(), file.getnchannels()
        raw = file.readframes(file.getnframes())
    if width not in PCM_TYPES:
        raise CaseError(f"{path.name} has samples of {8 * width} bits; expected 8, 16 or 32")
    values = np.frombuffer(raw, PCM_TYPES[width]).reshape(-1, channels).T.astype(np.float64)
    centre = 128.0 if width == 1 else 0.0
    scaled = (values - centre) / 2.0 ** (8 * width - 1)
    return np.ascontiguousarray(scaled.astype(np.float32))


def _load_array(path: Path, key: Any) -> Any:
    """Return one array of a file: of numpy, or a tensor of a safetensors file. Never a pickle."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return _chosen(load_file(str(path)), key, path)
    loaded = np.load(path, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return loaded
    with loaded:
        return _chosen({name: loaded[name] for name in loaded.files}, key, path)


def _chosen(arrays: Mapping[str, Any], key: Any, path: Path) -> Any:
    if key is None and len(arrays) == 1:
        return next(iter(arrays.values()))
    if key not in arrays:
        names = ", ".join(sorted(arrays))
        raise CaseError(f"{path.name} holds {names}; name one of them as `key`")
    return arrays[key]


def _condition_class(name: str, library: str) -> Any:
    """Return a dataclass of conditions of the library, by its name alone."""
    found = getattr(importlib.import_module(library), name, None)
    if found is None:
        found = _exported_by_a_pipeline(name, library)
    if not (isinstance(found, type) and dataclasses.is_dataclass(found)):
        raise CaseError(f"{library} has no dataclass `{name}` of conditions")
    return found


def _exported_by_a_pipeline(name: str, library: str) -> Any:
    """Return a class that only a module of one pipeline defines, such as `LTXVideoCondition`."""
    home = importlib.import_module(f"{library}.pipelines")
    for folder in Path(str(home.__file__)).parent.iterdir():
        for file in sorted(folder.glob("pipeline_*.py")) if folder.is_dir() else ():
            if f"class {name}" in file.read_text(encoding="utf-8"):
                module = importlib.import_module(f"{home.__name__}.{folder.name}.{file.stem}")
                return getattr(module, name, None)
    return None


def _digest_file(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:32]
