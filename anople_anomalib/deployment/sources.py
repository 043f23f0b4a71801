# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Cameras and videos whose frames are judged by an exported model, one at a time.

=================  ==============================================================
address            source
=================  ==============================================================
``video.mp4``      a video file, by OpenCV, to its end
``rtsp://HOST/P``  a camera in the network, by OpenCV
``usb:0``          a camera of this machine, by its number, by OpenCV
``basler:SERIAL``  a Basler camera, by pypylon; ``basler:`` for the first one
``genicam:SERIAL`` any camera with a GenTL producer (a file ``.cti`` of its maker
                   in ``GENICAM_GENTL64_PATH``), by harvesters
=================  ==============================================================
"""

import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from functools import partial
from itertools import count
from pathlib import Path
from queue import Empty, Queue
from typing import Protocol
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from .runtime import Frame

try:
    import cv2

    from .pixel_formats import rgb_of
except ImportError as error:
    msg = "Cameras and videos need OpenCV: pip install opencv-python-headless."
    raise ImportError(msg) from error

logger = logging.getLogger(__name__)

_PAUSE = 1.0  # seconds until a camera that gave no image is opened again
_TIMEOUT = 5000  # milliseconds


class _Device(Protocol):
    """An open camera or video."""

    def grab(self) -> NDArray[np.uint8] | None:
        """Return the newest frame in color, shape ``(H, W, 3)``; ``None`` if there is none."""

    def close(self) -> None:
        """End the connection."""


class Camera:
    """Frames of a camera or a video, until its end or :meth:`stop`.

    Args:
        address: The source, see the module's docstring.
        interval: Seconds between two frames, in a video of its own time; 0 for all.

    Raises:
        ConnectionError: If it cannot be opened.
        ImportError: If its library is not installed.
        ValueError: If the interval is below 0.
    """

    def __init__(self, address: str, interval: float) -> None:
        if not interval >= 0:
            msg = f"There are 0 or more seconds between two frames, got an interval of {interval:g}."
            raise ValueError(msg)
        parts = urlsplit(address)
        self.live = not Path(address).is_file()
        self.name = f"{parts.scheme}://{parts.hostname}{parts.path}" if parts.hostname else address  # no password
        others: dict[str, Callable[[str], _Device]] = {"basler": _Basler, "genicam": _GenICam}
        self._open: Callable[[], _Device] = (
            partial(others[parts.scheme], address)
            if parts.scheme in others
            else partial(_LiveOpenCV if self.live else _OpenCV, address, self.name, interval)
        )
        self._interval, self._stopped, self._numbers = interval, threading.Event(), count()
        self._device: _Device | None = self._open()

    def stop(self) -> None:
        """End after the frame that is being judged."""
        self._stopped.set()

    def resume(self) -> None:
        """Go on after :meth:`stop`."""
        self._stopped.clear()

    def frames(self) -> Iterator[Frame]:
        """Yield the frames; one that a live camera does not give is an error in its row, and it is opened again."""
        due = time.monotonic()
        while not self._stopped.is_set():
            pixels, error = self._grabbed()
            if pixels is None and not self.live:
                return
            yield self._frame(pixels, error)
            due = max(due + self._interval, time.monotonic())
            self._stopped.wait(_PAUSE if pixels is None else due - time.monotonic() if self.live else 0)
        self.close()

    def take(self) -> Frame:
        """Return a frame that a camera gives from now on, of a video the next one; without one its row is an error."""
        if self.live:
            self._grabbed()  # may be one that has waited in the camera
        return self._frame(*self._grabbed())

    def close(self) -> None:
        """End the connection."""
        if self._device is not None:
            self._device.close()
            self._device = None

    def _frame(self, pixels: NDArray[np.uint8] | None, error: str) -> Frame:
        """Return a frame of this moment."""
        now, number = datetime.now().astimezone(), next(self._numbers)
        name = f"{now:%Y%m%d_%H%M%S}_{number:06d}.png"
        return Frame(f"{self.name}#{name}", name, partial(_given, pixels, error))

    def _grabbed(self) -> tuple[NDArray[np.uint8] | None, str]:
        """Return a frame, or why there is none."""
        error = f"'{self.name}' gives no image: look at the camera and its cable."
        try:
            self._device = self._device or self._open()
            if (pixels := self._device.grab()) is not None:
                return pixels, ""
        except (OSError, RuntimeError, ValueError) as fault:
            error = str(fault)
        self.close()
        return None, error


def _given(pixels: NDArray[np.uint8] | None, error: str) -> NDArray[np.uint8]:
    """Return the pixels of a frame, or raise its error."""
    if pixels is None:
        raise OSError(error)
    return pixels


class _OpenCV:
    """A video or a camera that OpenCV reads; every frame is 8 bits in color."""

    def __init__(self, address: str, name: str, interval: float) -> None:
        self._capture = cv2.VideoCapture(int(address[4:]) if re.fullmatch(r"usb:\d+", address) else address)
        if not self._capture.isOpened():
            msg = f"'{name}' cannot be opened: check the address."
            raise ConnectionError(msg)
        self._skipped = max(0, round(interval * self._capture.get(cv2.CAP_PROP_FPS)) - 1)
        logger.info("%s: BGR of 8 bits as OpenCV decodes it -> RGB8", name)

    def grab(self) -> NDArray[np.uint8] | None:
        """Return the next frame."""
        read, frame = self._capture.read()
        for _ in range(self._skipped):
            self._capture.grab()
        return rgb_of(frame, "BGR8") if read else None

    def close(self) -> None:
        """Close it."""
        self._capture.release()


class _LiveOpenCV(_OpenCV):
    """A camera, each of whose frames is read as it comes: in OpenCV's buffer they would grow older and older."""

    def __init__(self, address: str, name: str, interval: float) -> None:
        super().__init__(address, name, interval)
        self._wanted, self._closed = threading.Event(), threading.Event()
        self._newest: Queue[NDArray[np.uint8] | None] = Queue()
        self._thread = threading.Thread(target=self._keep_up, daemon=True)
        self._thread.start()

    def grab(self) -> NDArray[np.uint8] | None:
        """Return the next frame that comes."""
        self._wanted.set()
        with suppress(Empty):
            return self._newest.get(timeout=_TIMEOUT / 1000)
        return None

    def close(self) -> None:
        """Close it, at once or where its driver answers again."""
        self._closed.set()
        self._thread.join(_TIMEOUT / 1000)

    def _keep_up(self) -> None:
        """Read frames to the end, and hand over the one that is wanted."""
        while not self._closed.is_set() and self._capture.grab():
            if self._wanted.is_set():
                self._wanted.clear()
                self._newest.put(rgb_of(self._capture.retrieve()[1], "BGR8"))
        self._newest.put(None)
        self._capture.release()


class _Basler:
    """A Basler camera, the newest frame at a time."""

    def __init__(self, address: str) -> None:
        try:
            from pypylon import genicam, pylon
        except ImportError as error:
            msg = "A Basler camera needs a library: pip install pypylon."
            raise ImportError(msg) from error
        factory, serial = pylon.TlFactory.GetInstance(), address.partition(":")[2]
        try:
            devices = [each for each in factory.EnumerateDevices() if serial in ("", each.GetSerialNumber())]
            self._camera = pylon.InstantCamera(factory.CreateDevice(devices[0]))
            self._camera.Open()
            self._format = str(self._camera.PixelFormat.Value)
            self._camera.StartGrabbing(pylon.GrabStrategy_LatestImageOnly)
        except (IndexError, genicam.GenericException) as error:
            why = "none is connected" if isinstance(error, IndexError) else error
            msg = f"There is no Basler camera '{address}' that can be opened ({why})."
            raise ConnectionError(msg) from error
        logger.info("%s: %s -> RGB8, Bayer mosaics bilinearly", address, self._format)

    def grab(self) -> NDArray[np.uint8] | None:
        """Return the newest frame."""
        from pypylon import pylon

        with self._camera.RetrieveResult(_TIMEOUT, pylon.TimeoutHandling_Return) as result:
            return rgb_of(result.Array, self._format) if result.IsValid() and result.GrabSucceeded() else None

    def close(self) -> None:
        """Close it."""
        self._camera.Close()


class _GenICam:
    """A camera by its maker's GenTL producer; a thread of harvesters keeps the newest frame."""

    def __init__(self, address: str) -> None:
        try:
            from genicam import genapi, gentl
            from harvesters.core import Harvester
        except ImportError as error:
            msg = "A GenICam camera needs a library: pip install harvesters."
            raise ImportError(msg) from error
        serial, self._harvester = address.partition(":")[2], Harvester()
        self._faults = (gentl.GenericException, genapi.GenericException, AttributeError)
        folders = filter(None, os.environ.get("GENICAM_GENTL64_PATH", "").split(os.pathsep))
        producers = [str(file) for folder in folders for file in sorted(Path(folder).glob("*.cti"))]
        try:
            for producer in producers:
                self._harvester.add_file(producer)
            self._harvester.update()
            self._camera = self._harvester.create({"serial_number": serial} if serial else None)
            self._camera.start(run_as_thread=True)
        except (*self._faults, ValueError) as error:
            self._harvester.reset()
            found = f"GenTL producers in GENICAM_GENTL64_PATH: {', '.join(producers) or 'none'}"
            msg = f"There is no GenICam camera '{address}' that can be opened ({error}; {found})."
            raise ConnectionError(msg) from error
        form = self._camera.remote_device.node_map.PixelFormat.value
        logger.info("%s: %s -> RGB8, Bayer mosaics bilinearly", address, form)

    def grab(self) -> NDArray[np.uint8] | None:
        """Return the newest frame."""
        end = time.monotonic() + _TIMEOUT / 1000
        while not self._camera.num_holding_filled_buffers:  # fetch() of a thread's frames would wait for ever
            if time.monotonic() > end:
                return None
            time.sleep(0.001)
        try:
            with self._camera.fetch() as buffer:
                part = buffer.payload.components[0]
                shape = (part.height, part.width, int(part.num_components_per_pixel))
                return rgb_of(part.data.reshape(shape[:2] if shape[2] == 1 else shape), part.data_format).copy()
        except self._faults as error:
            msg = f"The GenICam camera gives no image ({error})."
            raise ConnectionError(msg) from error

    def close(self) -> None:
        """Close it."""
        self._camera.destroy()
        self._harvester.reset()
