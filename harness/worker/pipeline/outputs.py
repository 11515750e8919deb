"""What a pipeline returned, or a caller holds, as tensors by name."""

from __future__ import annotations

from typing import Any, Iterable, Optional, Tuple

import numpy as np
import torch

from ..observe.tensors import Tensors, tensors_in

FIRST_OUTPUT = "image"  # the name of the first element of a tuple, as every image pipeline has it


def outputs_of(result: Any) -> Tensors:
    """Return a pipeline's outputs by the names that the pipeline gives them, in the singular.

    Args:
        result: What a pipeline returned: an object with named fields, or with
            `return_dict: false` a tuple.

    Returns:
        Tensors on the CPU; images of PIL come as uint8, shape (batch, height, width[, channel]),
        and videos of such images with one more dimension.
    """
    found: Tensors = {}
    for name, value in _fields(result):
        singular = name.removesuffix("s")
        images = _images_in(value)
        if images is not None:
            found[singular] = torch.from_numpy(images)
        elif "nsfw" not in name:  # flags of a safety checker
            for path, tensor in tensors_in(value, singular).items():
                found[path] = tensor.detach().to("cpu")
    return found


def _fields(result: Any) -> Iterable[Tuple[str, Any]]:
    if hasattr(result, "items"):
        return result.items()
    return [(FIRST_OUTPUT if not index else str(index), item) for index, item in enumerate(result)]


def _images_in(value: Any) -> Optional[np.ndarray]:
    """Return PIL's images as one array: of an image, a list of them, or the frames of videos.

    Returns:
        uint8, shape ([video, frame or batch,] height, width[, channel]); None for any other value.
    """
    if hasattr(value, "convert"):
        return np.array(value)
    if not isinstance(value, (list, tuple)) or not value:
        return None
    images = [_images_in(item) for item in value]
    if any(image is None for image in images):
        return None
    return np.stack([image for image in images if image is not None])
