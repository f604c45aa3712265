"""Images in messages: fetched, decoded, and prepared by the model's plugin."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from budmlx.config import ModelConfig
from budmlx.engine.images.decode import from_data_url, from_python, read_file, size_of
from budmlx.engine.images.fetch import Fetcher
from budmlx.engine.procedures import FutureWait, Procedure
from budmlx.engine.prompt import TokenizedPrompt
from budmlx.engine.text.tokenizer import Tokenizer
from budmlx.errors import ConfigError, InvalidRequestError
from budmlx.plugins.boundary import checked_text, wrong_type
from budmlx.plugins.manager import Owned, Plugins
from budmlx.plugins.vision import ModelFiles, Pixels, PreparedImage, VisionPreprocessorSpec
from budmlx.protocol import Image, PluginTarget, Tensor
from budmlx.threads import run_apart
from budmlx.types import ImagePart, Message, Part, Request, TextPart

log = logging.getLogger(__name__)

MAX_IMAGES = 100
MAX_PIXELS = 128 * 10**6
MAX_ARRAYS = 60 * 2**20
"""Bytes of the encoder's input for a request, which travel in one message to the core."""
REMOTE = ("http:", "https:")


@dataclass(frozen=True, slots=True)
class KeyedImage:
    """A prepared picture. key: the digest of the encoder's input."""

    image: PreparedImage
    key: str

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return sum(array.nbytes for array in self.image.arrays.values())


class Images:
    """The images of one model's requests: checked, fetched and prepared.

    placeholder: text of the token that stands for one; empty where no token does.
    target: the constructor of the model's encoder, if it needs one.
    """

    def __init__(
        self,
        plugins: Plugins,
        tokenizer: Tokenizer,
        files: ModelFiles,
        config: ModelConfig,
        *,
        max_pixels: int = MAX_PIXELS,
    ):
        """Find the plugins for a model. Raises ConfigError if what they offer does not fit.

        max_pixels: of all pictures of a request together.
        """
        self._max_pixels = max_pixels
        self._calls = plugins.hanging
        name = config.vision_preprocessor
        self._spec: Owned[VisionPreprocessorSpec] | None = plugins.chosen(
            "provide_vision_preprocessor", name, files
        )
        self._fetcher = Fetcher(config.image_host)
        self.placeholder = self._spec.value.placeholder if self._spec else ""
        self.target: PluginTarget | None = None
        self._token: int | None = None
        if self._spec is None or not self.placeholder:
            return
        self._token = tokenizer.backend.token_to_id(self.placeholder)
        encoder = plugins.vision_encoder(files)
        if self._token is None or encoder is None:
            missing = "no plugin provides a vision encoder for it"
            if self._token is None:
                missing = f"{self.placeholder!r} is no token of its vocabulary"
            raise ConfigError(
                f"The plugin {self._spec.plugin} prepares pictures for this model, but {missing}. "
                "Set vision_preprocessor to none to run it without pictures.",
                param="vision_preprocessor",
            )
        self.target = PluginTarget(plugin=encoder.plugin, core=encoder.value.core)

    @property
    def taken(self) -> bool:
        """Whether the model can be shown pictures."""
        return self._spec is not None

    def check(self, request: Request) -> None:
        """Refuse pictures that cannot be used, before any is opened. Raises InvalidRequestError."""
        for number, message in enumerate(request.messages or ()):
            if message.shows_images and message.role not in ("user", "tool"):
                param = f"messages[{number}].content"
                raise InvalidRequestError(
                    f"{param} cannot hold images; only messages of the user, and results of tools, "
                    "can.",
                    param=param,
                )
        shown = list(_shown(request.messages or ()))
        if shown and self._spec is None:
            param, _ = shown[0]
            raise InvalidRequestError(
                "This model takes text only; install a plugin for its pictures, or send text.",
                param=param.rpartition("]")[0] + "]",
            )
        if len(shown) > MAX_IMAGES:
            raise InvalidRequestError(
                f"A request may hold {MAX_IMAGES} images; this one has {len(shown)}.",
                param="messages",
            )

    def fetched(self, request: Request) -> Procedure[Request]:
        """The request with the files behind its http URLs. Raises InvalidRequestError.

        For a model without pictures, with the texts that stand for them.
        """
        if self._spec is None:
            request = _with_texts(request)
        self.check(request)
        remote = {
            param: part.source
            for param, part in _shown(request.messages or ())
            if isinstance(part.source, str) and part.source.lower().startswith(REMOTE)
        }
        if not remote:
            return request
        found = run_apart("budmlx-fetch", partial(asyncio.run, self._fetch(remote)))
        yield FutureWait(found)
        return _with_sources(request, found.result())

    async def _fetch(self, remote: Mapping[str, str]) -> dict[str, Any]:
        fetches = [self._fetcher.fetch(url, param) for param, url in remote.items()]
        return dict(zip(remote, await asyncio.gather(*fetches), strict=True))

    def prepared(self, request: Request) -> tuple[Request, list[KeyedImage]]:
        """The request with text, or digests, instead of pictures, and the prepared pictures.

        Blocking: to be called on a thread.

        Raises:
            InvalidRequestError: a picture cannot be used; `param` names it.
            PluginError: the preprocessor failed.
        """
        self.check(request)
        shown: list[KeyedImage] = []
        become: dict[str, Any] = {}
        left = self._max_pixels
        for param, part in _shown(request.messages or ()):
            source = _opened(part.source, param)
            left -= _area(source, param)
            if left < 0:
                raise InvalidRequestError(
                    f"The images have more than {self._max_pixels:,} pixels together; make them "
                    "smaller.",
                    param=param,
                    code="image_too_large",
                )
            image = self._prepare(from_python(source, param), part)
            if self._token is None:
                become[param] = TextPart(image.text)
            else:
                shown.append(KeyedImage(image, key_of(image)))
                become[param] = shown[-1].key
                if sum(each.nbytes for each in shown) > MAX_ARRAYS:
                    raise InvalidRequestError(
                        "The images are too large together for this model; send fewer, smaller "
                        'ones, or set their detail to "low".',
                        param=param,
                        code="image_too_large",
                    )
        return _with_sources(request, become), shown

    def _prepare(self, pixels: Pixels, part: ImagePart) -> PreparedImage:
        assert self._spec is not None
        plugin, what = self._spec.plugin, "vision preprocessor"
        prepare = partial(self._spec.value.prepare, pixels, part.detail)
        image: object = self._calls.call(plugin, what, prepare)
        if not isinstance(image, PreparedImage):
            raise wrong_type(plugin, what, image, "a PreparedImage")
        if self._token is not None and image.tokens < 1:
            raise wrong_type(plugin, what, image.tokens, "a number of tokens")
        checked_text(plugin, what, image.text)
        return image

    def placed(self, ids: list[int], shown: Sequence[KeyedImage]) -> TokenizedPrompt:
        """The prompt in which placeholders are as many as the pictures have tokens."""
        assert self.target is not None
        result: list[int] = []
        images: list[Image] = []
        for token in ids:
            if token != self._token:
                result.append(token)
            elif len(images) < len(shown):
                each = shown[len(images)]
                images.append(_on_the_wire(each, self.target.plugin, len(result)))
                result += [token] * each.image.tokens
        if ids.count(self._token or 0) != len(shown) or result[-1] == self._token:
            raise InvalidRequestError(
                "The model's chat template cannot show these images where they stand.",
                param="messages",
            )
        return TokenizedPrompt(result, tuple(images))


def key_of(image: PreparedImage) -> str:
    """SHA-256, hexadecimal, of everything that the encoder gets."""
    digest = hashlib.sha256()
    for name, array in sorted(image.arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _on_the_wire(shown: KeyedImage, plugin: str, start: int) -> Image:
    arrays = {
        name: Tensor(str(array.dtype), list(array.shape), array.tobytes())
        for name, array in shown.image.arrays.items()
    }
    tokens = shown.image.tokens
    return Image(plugin=plugin, start=start, tokens=tokens, key=shown.key, arrays=arrays)


def _shown(messages: Sequence[Message]) -> Iterator[tuple[str, ImagePart]]:
    """The pictures in their order, with their places."""
    for number, message in enumerate(messages):
        for index, part in enumerate(message.content if message.shows_images else ()):
            if isinstance(part, ImagePart):
                yield f"messages[{number}].content[{index}].{part.place}", part


def _with_sources(request: Request, sources: Mapping[str, Any]) -> Request:
    """The request with other sources, or other parts, at these places."""
    messages = [
        replace(message, content=tuple(_changed(message, number, sources)))
        if message.shows_images
        else message
        for number, message in enumerate(request.messages or ())
    ]
    return replace(request, messages=tuple(messages)) if sources else request


def _with_texts(request: Request) -> Request:
    """The request with text in place of the pictures that may be left out."""
    shown = _shown(request.messages or ())
    return _with_sources(
        request, {param: TextPart(part.instead) for param, part in shown if part.instead}
    )


def _changed(message: Message, number: int, sources: Mapping[str, Any]) -> Iterator[Part]:
    for index, part in enumerate(message.content):
        assert not isinstance(part, str)
        if isinstance(part, ImagePart):
            new = sources.get(f"messages[{number}].content[{index}].{part.place}", part)
            yield new if isinstance(new, TextPart | ImagePart) else replace(part, source=new)
        else:
            yield part


def _area(source: Any, param: str) -> int:
    """Pixels of a picture, as far as they are known before it is decoded."""
    if isinstance(source, bytes):
        width, height = size_of(source, param)
        return width * height
    size = getattr(source, "shape", None) or getattr(source, "size", None)
    return size[0] * size[1] if isinstance(size, tuple) and len(size) >= 2 else 0


def _opened(source: Any, param: str) -> Any:
    """An argument for `from_python`: the bytes of a URL or a file, or the picture itself."""
    if isinstance(source, os.PathLike):
        return read_file(source, param)
    if isinstance(source, bytearray | memoryview):
        return bytes(source)
    if not isinstance(source, str):
        return source
    if not source.lower().startswith("data:"):
        raise InvalidRequestError(
            "The URL of an image begins with data:, http: or https:; send a file's bytes as "
            "data:image/png;base64,...",
            param=param,
        )
    return from_data_url(source, param)
