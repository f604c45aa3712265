"""Vision: encodes the images of prompts, once each, and replaces placeholders by embeddings."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from budmlx.core.plugin_calls import calling, computing, fault, resolve
from budmlx.errors import ModelLoadError
from budmlx.lookup import Bounded
from budmlx.plugins.boundary import is_interrupt
from budmlx.plugins.vision import ModelFiles, VisionEncoder
from budmlx.protocol import Image, PluginTarget

log = logging.getLogger(__name__)

# Bytes of embeddings that are kept; a picture of 576 tokens takes 5 MB in a model of 7 B.
KEPT = 256 * 2**20
ENCODER = "vision encoder"


class Vision:
    """The encoder of one model, and the embeddings of the images that it encoded last.

    limit: bytes of embeddings at most.
    """

    def __init__(self, plugin: str, encoder: VisionEncoder, limit: int = KEPT):
        self._plugin = plugin
        self._encoder = encoder
        self._kept: Bounded[str, mx.array] = Bounded(limit=limit)
        self.encoded = 0

    @classmethod
    def open(cls, target: PluginTarget, path: Path, module: Any) -> Vision:
        """Make the encoder of the model in `path`.

        Raises:
            ModelLoadError: the plugin fails, or the language model takes no embeddings.
        """
        takes = "input_embeddings" in inspect.signature(type(module).__call__).parameters
        if not takes or not hasattr(module, "embed_tokens"):
            raise ModelLoadError(
                f"The plugin {target.plugin} offers a vision encoder, but the language model "
                "takes no embeddings. Set vision_preprocessor to none to run it without pictures."
            )
        try:
            encoder = resolve(target.core)(ModelFiles.read(path))
            if not isinstance(encoder.nbytes, int):
                raise TypeError("nbytes is not a number")
        except BaseException as error:
            if is_interrupt(error):
                raise
            log.exception("plugin %s failed to make its vision encoder", target.plugin)
            raise ModelLoadError(
                f"The plugin {target.plugin} cannot make a vision encoder: {error}"
            ) from error
        return cls(target.plugin, encoder)

    @property
    def nbytes(self) -> int:
        """Bytes that the encoder and the stored embeddings may take."""
        return self._encoder.nbytes + int(self._kept.limit)

    def embed(
        self, module: Any, ids: Sequence[int], images: Sequence[Image], begin: int
    ) -> mx.array | None:
        """Embeddings [1, len(ids), hidden] of a part of a prompt; None if it has no image.

        ids: the prompt's from token `begin` on.

        Raises:
            PluginFault: the encoder failed.
        """
        end = begin + len(ids)
        shown = [i for i in images if i.start < end and i.start + i.tokens > begin]
        if not shown:
            return None
        embedded = module.embed_tokens(mx.array([list(ids)]))
        parts, at = [], begin
        for image in shown:
            first, last = max(image.start, begin), min(image.start + image.tokens, end)
            parts.append(embedded[:, at - begin : first - begin])
            picture = self._embeddings(image, embedded.shape[-1]).astype(embedded.dtype)
            parts.append(picture[None, first - image.start : last - image.start])
            at = last
        parts.append(embedded[:, at - begin :])
        return mx.concatenate(parts, axis=1)

    @contextmanager
    def standing_in(self, module: Any, image: Image) -> Iterator[None]:
        """Context in which an image that no encoder ever sees has zeros for its embeddings."""
        hidden = module.embed_tokens(mx.array([[0]])).shape[-1]
        self._kept.put(image.key, mx.zeros((image.tokens, hidden)), 0)
        try:
            yield
        finally:
            self._kept.pop(image.key)

    def _embeddings(self, image: Image, hidden: int) -> mx.array:
        """Embeddings [tokens, hidden] of an image. Raises PluginFault."""
        kept = self._kept.get(image.key)
        if kept is not None:
            return kept
        arrays = {name: mx.array(as_numpy(tensor)) for name, tensor in image.arrays.items()}
        with calling(self._plugin, ENCODER):
            picture = self._encoder.encode(arrays)
            # What goes wrong while it is computed belongs to this picture.
            with computing(self._plugin):
                mx.eval(picture)
        wanted = (image.tokens, hidden)
        if not isinstance(picture, mx.array) or picture.shape != wanted:
            problem = f"did not return an array of shape {list(wanted)}"
            raise fault(self._plugin, ENCODER, problem)
        self.encoded += 1
        self._kept.put(image.key, picture, picture.nbytes)
        return picture


def as_numpy(tensor: Any) -> np.ndarray[Any, Any]:
    """A read-only array of the bytes, dtype and shape of a `protocol.Tensor`."""
    return np.frombuffer(tensor.data, dtype=tensor.dtype).reshape(tensor.shape)
