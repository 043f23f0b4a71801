# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""A service in the plant's own network that judges images by an exported model, without torch.

One image is judged at a time, by all cores; a bounded number waits. Bytes and pixels of an image are limited before it
is decoded, so that no request can fill the memory.
"""

import asyncio
import hmac
import io
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from anople_anomalib.utils.version import __version__

from .exported import ExportedModel, read_pixels
from .runtime import Frame, row_of
from .table import ERROR, message_of

if TYPE_CHECKING:
    from .sources import Camera

_UNKNOWN, _TOO_SLOW, _TOO_LARGE, _UNREADABLE, _BUSY, _NO_FRAME = 401, 408, 413, 422, 429, 503
_SECONDS_TO_SEND = 30.0


class Judge:
    """One model, one thread that judges, and a bounded number of images that wait for it.

    Args:
        model: The exported model.
        waiting: Number of images that may wait while one is judged.
        megapixels: Largest image.
        deliver: Called with every row, in the order of the verdicts.
    """

    def __init__(
        self, model: ExportedModel, waiting: int, megapixels: float, deliver: Callable[[dict[str, Any]], object]
    ) -> None:
        self.model, self._deliver = model, deliver
        self._room, self._most_pixels = waiting + 1, megapixels * 1e6
        self._inside = 0
        self._thread = ThreadPoolExecutor(max_workers=1)
        self.registry = CollectorRegistry()
        self._verdicts = Counter("anople_verdicts", "Verdicts by kind", ["verdict"], registry=self.registry)
        self._refused = Counter("anople_refused", "Images refused while the queue was full", registry=self.registry)
        self._seconds = Histogram("anople_seconds", "Seconds from request to verdict", registry=self.registry)
        Gauge("anople_waiting", "Images waiting or judged", registry=self.registry).set_function(lambda: self._inside)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold one of the places for an image, from before its first byte is read.

        Raises:
            HTTPException: If all are taken.
        """
        if self._inside >= self._room:
            self._refused.inc()
            raise HTTPException(_BUSY, "Too many images are waiting: send this one again.", {"Retry-After": "1"})
        self._inside += 1
        try:
            with self._seconds.time():
                yield
        finally:
            self._inside -= 1

    async def judge(self, take: Callable[[], Frame]) -> dict[str, Any]:
        """Judge an image.

        Args:
            take: Returns it, in the thread that judges.

        Returns:
            Its row; one that cannot be read has the verdict ``"ERROR"``.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._row, take)

    def image(self, name: str, content: bytes) -> Frame:
        """Return the image of a file's content, by this name."""
        return Frame(name, name, partial(self._pixels, content), {"bytes": len(content)})

    def close(self) -> None:
        """Finish the images that wait."""
        self._thread.shutdown(wait=True)

    def _row(self, take: Callable[[], Frame]) -> dict[str, Any]:
        """Return the row of an image, which is delivered before it is answered."""
        frame = take()
        row = message_of(row_of(frame, self.model))
        self._deliver(row)
        self._verdicts.labels(row["verdict"]).inc()
        return row

    def _pixels(self, content: bytes) -> NDArray[np.uint8]:
        """Read an image whose head says that it is not too large."""
        try:
            with Image.open(io.BytesIO(content)) as image:
                width, height = image.size
        except UnidentifiedImageError as error:
            msg = f"The {len(content)} bytes that were posted are no image: post the content of an image file."
            raise ValueError(msg) from error
        if width * height > self._most_pixels:
            most = self._most_pixels / 1e6
            msg = f"The image has {width}x{height} pixels, more than the {most:g} million allowed."
            raise ValueError(msg)
        return read_pixels(io.BytesIO(content))


def make_service(
    model: ExportedModel,
    *,
    token: str = "",
    waiting: int = 16,
    megabytes: float = 32,
    megapixels: float = 100,
    deliver: Callable[[dict[str, Any]], object] = lambda _row: None,
    camera: "Camera | None" = None,
) -> FastAPI:
    """Make the service.

    Args:
        model: The exported model.
        token: Bearer token that a request must have; empty for none.
        waiting: Number of images that may wait while one is judged; more are answered by 429.
        megabytes: Largest file of an image.
        megapixels: Largest image.
        deliver: Called with every row, in the order of the verdicts.
        camera: Camera of which a POST to ``/trigger`` takes a frame.

    Returns:
        The application, for uvicorn.
    """
    judge = Judge(model, waiting, megapixels, deliver)

    @asynccontextmanager
    async def lifespan(_service: FastAPI) -> AsyncIterator[None]:
        """Finish the images that wait before the service ends."""
        yield
        judge.close()

    description = "Judges images of parts: OK, NOT OK, LOOK, or ERROR where there is no verdict."
    service = FastAPI(title="anople", version=__version__, description=description, lifespan=lifespan)
    guarded = [Depends(partial(_require_token, token))]
    service.include_router(_judging(judge, megabytes, camera), dependencies=guarded)
    service.include_router(_telling(judge), dependencies=guarded)

    @service.get("/health")
    async def health() -> dict[str, str]:
        """Say that the service runs."""
        return {"status": "ok", "version": __version__}

    return service


def _judging(judge: Judge, megabytes: float, camera: "Camera | None") -> APIRouter:
    """Return the addresses that images are posted to, or that a camera is asked for one."""
    router = APIRouter()
    image_body = {"requestBody": {"required": True, "content": {"image/*": {"schema": {"format": "binary"}}}}}

    @router.post("/judge", openapi_extra=image_body)
    async def judge_image(request: Request, name: str = "") -> JSONResponse:
        """Judge the image in the body of the request: verdict, score, threshold, regions, model id."""
        with judge.place():
            try:
                content = await asyncio.wait_for(_body(request, megabytes), _SECONDS_TO_SEND)
            except asyncio.TimeoutError as error:
                raise HTTPException(_TOO_SLOW, f"The image took more than {_SECONDS_TO_SEND:g} s to send.") from error
            row = await judge.judge(lambda: judge.image(name, content))
        return JSONResponse(row, _UNREADABLE if row["verdict"] == ERROR else 200)

    if camera is not None:

        @router.post("/trigger")
        async def judge_frame() -> JSONResponse:
            """Take a frame of the camera, and judge it."""
            with judge.place():
                row = await judge.judge(camera.take)
            return JSONResponse(row, _NO_FRAME if row["verdict"] == ERROR else 200)

    return router


def _telling(judge: Judge) -> APIRouter:
    """Return the addresses that tell of model and service."""
    router = APIRouter()

    @router.get("/model")
    async def model_description() -> dict[str, Any]:
        """Describe the model: thresholds, sizes, names, versions."""
        return asdict(judge.model.metadata)

    @router.get("/metrics")
    async def metrics() -> Response:
        """Count verdicts, refusals and seconds, for Prometheus."""
        return Response(generate_latest(judge.registry), media_type=CONTENT_TYPE_LATEST)

    return router


def _require_token(token: str, request: Request) -> None:
    """Refuse a request without the token, if there is one."""
    given = request.headers.get("authorization", "").removeprefix("Bearer ")
    if token and not hmac.compare_digest(given.encode(), token.encode()):
        raise HTTPException(_UNKNOWN, "Send the service's token: Authorization: Bearer TOKEN.")


async def _body(request: Request, megabytes: float) -> bytes:
    """Read the body of a request; as soon as it is too long, it is an ``HTTPException``."""
    content = bytearray()
    async for block in request.stream():
        content += block
        if len(content) > megabytes * 1e6:
            raise HTTPException(_TOO_LARGE, f"The image has more than {megabytes:g} megabytes.")
    return bytes(content)
