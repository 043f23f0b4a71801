# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Files: which are images of a data set, how they appear complete or not at all, and how reading fails.

Of the imports here, Pillow alone is no part of Python: the runtime without torch has this file.
"""

import functools
import glob
import hashlib
import itertools
import os
import pickle
import re
import shutil
import tempfile
import uuid
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from PIL import Image

EXPORTED = (".onnx", ".xml")
"""Endings of exported models."""
STRETCHED = 1.05
"""Ratio of height to width, as a multiple of that of other images, from which on theirs is another shape."""
READ_ERRORS = (
    RuntimeError,
    OSError,
    ValueError,
    LookupError,
    EOFError,
    TypeError,
    AttributeError,
    pickle.UnpicklingError,
)
"""Errors of libraries that read a damaged file."""

_OTHER_FORMATS = (".bin", ".csv", ".html", ".json", ".jsonl", ".npy", ".npz", ".txt", ".yaml", ".yml", ".zip")
_DRAWINGS = re.compile(r"images((?:_\d+)?)")


def one_line(error: BaseException) -> str:
    """Return an error's message as one line; its kind where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, without its point; its kind where it has none."""
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__


def digest_of(path: str | Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal digits."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """Yield a path to write to, which is renamed once the file is finished and on the disk, or removed after an error.

    The temporary file lies in the same folder, which is made: a rename across devices would be a copy, and a process
    that is killed while it copies would leave half a file under the final name.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    try:
        yield temporary
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def require_place(path: Path) -> None:
    """Refuse a path where nothing can be written, before the work is done whose result it is for.

    Raises:
        OSError: If it is a folder, or nothing can be written to the one that it is to lie in.
    """
    if path.is_dir():
        msg = f"'{path}' is a folder: name a file in it, '{path / 'NAME'}'."
        raise IsADirectoryError(msg)
    there = next(parent for parent in path.absolute().parents if os.path.lexists(parent))
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        msg = f"'{path}' cannot be written ({error.strerror}: '{there}'): take another place."
        raise OSError(msg) from error


def make_folder(path: Path) -> None:
    """Make a folder for results, with those above it, or raise an OSError of one sentence."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"The folder '{path}' cannot be made ({error.strerror}): give another --output."
        raise OSError(msg) from error


def require_checkpoint_place(path: str | Path) -> None:
    """Refuse a path for a checkpoint where nothing can be written, or that ends as another format does."""
    path = Path(path)
    if path.suffix.lower() in (*EXPORTED, *_OTHER_FORMATS, *picture_endings()):
        msg = f"'{path}' is to be a checkpoint, and ends as another format does: name it '{path.stem}.ckpt'."
        raise ValueError(msg)
    require_place(path)


@contextmanager
def folder_written_whole(path: str | Path) -> Iterator[Path]:
    """Yield the path of a folder to make and fill, which is renamed once it is finished, or removed after an error.

    When several processes write the same folder at the same time, one of them wins and the others drop theirs.
    """
    path = Path(path)
    temporary = _beside(path)
    try:
        yield temporary
        try:
            temporary.rename(path)
        except OSError:
            if not path.is_dir():  # otherwise another process was faster
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _beside(path: Path) -> Path:
    """Return a hidden name that no other process uses."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


def is_hidden(path: str | Path, root: str | Path) -> bool:
    """Return whether a path has a component below ``root`` that starts with a dot, or that a run has drawn.

    Args:
        path: A file; one outside of ``root`` is never hidden.
        root: The folder of the data, whose own path may have such components.

    Example:
        >>> is_hidden("/home/.cache/data/good/.ipynb_checkpoints/0.png", "/home/.cache/data")
        True
        >>> is_hidden("/home/.cache/data/good/0.png", "/home/.cache/data")
        False
    """
    path, root = Path(path).absolute(), Path(root).absolute()
    if not path.is_relative_to(root):
        return False
    place = path.relative_to(root)
    folders = [root / parent for parent in place.parents[:-1]]
    return any(part.startswith(".") for part in place.parts) or any(map(holds_drawings, folders))


def holds_drawings(folder: Path) -> bool:
    """Return whether a folder holds the heat maps of a run of this package: its table lies beside it."""
    found = _DRAWINGS.fullmatch(folder.name)
    return found is not None and folder.with_name(f"predictions{found[1]}.jsonl").is_file()


def common_folder(paths: Iterable[str | Path]) -> Path | None:
    """Return the deepest folder that holds all files, or ``None`` without files."""
    folders = [Path(path).absolute().parent for path in paths]
    return Path(os.path.commonpath(folders)) if folders else None


def relative_names(paths: Iterable[str | Path]) -> list[str]:
    """Name images by their place below the folder that all share, with forward slashes: the same on every machine."""
    absolute = [Path(path).absolute() for path in paths]
    if not absolute:
        return []
    # of the folders: a single image would share all of its path with itself
    common = os.path.commonpath([path.parent for path in absolute])
    return [path.relative_to(common).as_posix() for path in absolute]


def files_below(folder: Path) -> list[Path]:
    """List the files in a folder, with everything below it, sorted.

    Links to folders elsewhere are followed. A link to a file that is not there counts as one: whoever reads it is told.

    Raises:
        OSError: If a folder cannot be listed.
    """

    def refuse(error: OSError) -> NoReturn:
        """Raise an error that walking would pass over."""
        raise error

    found, seen, roots = list[Path](), set[Path](), [folder]
    for root in roots:  # links come last, so that everything has its own name, and once: they may be loops
        for place, folders, names in os.walk(root, onerror=refuse):
            here = Path(place)
            if here.resolve() in seen:
                folders.clear()
                continue
            seen.add(here.resolve())
            roots += sorted(here / name for name in folders if (here / name).is_symlink())
            found += [file for name in names if (file := here / name).is_file() or file.is_symlink()]
    return sorted(found)


def other_name(name: str, others: Collection[str]) -> str:
    """Return a file name that is none of the others: ``000.png``, ``000_2.png``, and so on."""
    path = Path(name)
    numbered = (f"{path.stem}_{number}{path.suffix}" for number in itertools.count(2))
    return next(each for each in itertools.chain([name], numbered) if each not in others)


def visible(paths: Sequence[Path], root: str | Path | None = None) -> list[Path]:
    """Leave hidden files out; ``root`` is the folder of the data, by default the deepest one that holds all files."""
    root = root or common_folder(paths) or ""
    return [path for path in paths if not is_hidden(path, root)]


@functools.cache
def all_endings() -> frozenset[str]:
    """Return the endings of all images that Pillow reads, more than anomalib lists: ``.jfif``, ``.jp2``, ``.gif``."""
    Image.init()
    return frozenset(ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN)


_UNREAD = frozenset(
    [".heic", ".heif", ".avif", ".jxl", ".jxr", ".dng", ".raw", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2"]
)
"""Endings of pictures of phones and cameras that Pillow reads with a plugin, if at all."""


@functools.cache
def picture_endings() -> tuple[str, ...]:
    """Return the endings of everything that is a picture, whether or not Pillow reads it."""
    return tuple(sorted({*all_endings(), *_UNREAD}))


def is_picture(path: Path) -> bool:
    """Return whether a file is a picture by its ending, and not the raw data of another one that lies beside it."""
    ending = path.suffix.lower()
    if ending in all_endings() or ending not in _UNREAD:
        return ending in all_endings()
    return not any(each.suffix.lower() in all_endings() for each in path.parent.glob(f"{glob.escape(path.stem)}.*"))


def image_files(paths: Iterable[str | Path]) -> list[Path]:
    """List image files: those given, and in folders the pictures by their ending, sorted, without hidden ones.

    Raises:
        FileNotFoundError: If one is not there, or there is no image.
        OSError: If a folder cannot be listed.
    """
    places, found = [*map(Path, paths)], list[Path]()
    for path in places:
        if not path.exists():
            msg = f"There is no file or folder '{path}': check the path."
            raise FileNotFoundError(msg)
        below = files_below(path) if path.is_dir() else []
        found += (
            [path] if path.is_file() else [file for file in below if is_picture(file) and not is_hidden(file, path)]
        )
    if not found:
        msg = f"There is no image in {', '.join(map(str, places))}: give files, or folders of images."
        raise FileNotFoundError(msg)
    return found


def require_shape(size: Sequence[int], taught: Sequence[int], image: str | Path = "") -> None:
    """Refuse an image over which a region of interest would be stretched, such as one that lies on its side.

    Sizes are height and width, those of the image and those that the region is for.
    """
    if not 1 / STRETCHED <= size[0] * taught[1] / (size[1] * taught[0]) <= STRETCHED:
        name = f"The image '{image}'" if image else "The image"
        msg = (
            f"{name} has {size[1]}x{size[0]} pixels, those with the region of interest {taught[1]}x{taught[0]}: the "
            "region would lie elsewhere on the part; turn or crop the image as they are."
        )
        raise ValueError(msg)
