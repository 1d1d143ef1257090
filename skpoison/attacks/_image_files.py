"""Image files in and out: what is read, refused and converted, and what is written."""

import hashlib
import io
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

_READ = (".png", ".jpg", ".jpeg")
_OTHER = (".avif", ".bmp", ".gif", ".heic", ".jp2", ".tif", ".tiff", ".webp")
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass
class Picture:
    """An image file as it was read.

    Attributes
    ----------
    path : Path
    sha256 : str
        Of the file.
    pixels : ndarray of uint8, shape (n_channels, height, width)
        One channel or three.
    profile : bytes or None
        The ICC colour profile.
    """

    path: Path
    sha256: str
    pixels: np.ndarray
    profile: bytes | None

    def as_colour(self):
        """Return the picture with three channels."""
        if len(self.pixels) == 3:
            return self
        return replace(self, pixels=np.repeat(self.pixels, 3, axis=0), profile=None)


def check_pillow():
    """Raise, naming the extra, where Pillow is missing."""
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "reading and writing images needs Pillow: pip install 'skpoison[images]'"
        ) from error


def find_images(folder):
    """Return the images under a folder, by the name that each gets as PNG, sorted.

    Hidden files and folders are left out, and so are files that are no images.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if any(part.startswith(".") for part in name.parts) or not path.is_file():
            continue
        suffix = name.suffix.lower()
        if suffix in _OTHER:
            raise ValueError(
                f"{path} is neither PNG nor JPEG: convert it, or remove it from the "
                "folder"
            )
        if suffix not in _READ:
            continue
        target = name.with_suffix(".png").as_posix()
        if target in found:
            raise ValueError(
                f"{found[target]} and {path} would both become {target}; rename one"
            )
        found[target] = path
    if not found:
        raise ValueError(f"{folder} holds no PNG or JPEG file")
    return found


def digest(path):
    """Return the SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_picture(path, size=None):
    """Read a PNG or JPEG file of 8 bits, upright.

    Palettes become colours and black-and-white grey, without loss. Transparency, 16
    bits, several frames and other colour spaces than grey and RGB are refused.

    Parameters
    ----------
    path : Path
    size : (height, width), default=None
        To resize to.
    """
    from PIL import Image, ImageOps

    content = path.read_bytes()
    try:
        image: Image.Image = Image.open(io.BytesIO(content), formats=["PNG", "JPEG"])
        image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} can't be read as PNG or JPEG: {error}") from error
    if content.startswith(_PNG):
        if content[24] == 16:  # Pillow would drop half of the bits
            raise ValueError(f"{path} has 16 bits a channel; convert it to 8")
        if getattr(image, "n_frames", 1) > 1:
            raise ValueError(f"{path} has several frames; save one of them")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        raise ValueError(f"{path} has transparency; flatten it first")
    if image.mode not in ("1", "L", "P", "RGB"):
        raise ValueError(f"{path} is in colour mode {image.mode}; convert it to RGB")
    profile = image.info.get("icc_profile")
    image = ImageOps.exif_transpose(image)
    image = image.convert("L" if image.mode in ("1", "L") else "RGB")
    if size is not None:
        image = image.resize(size[::-1], Image.Resampling.LANCZOS)
    pixels = np.asarray(image)
    pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return Picture(path, hashlib.sha256(content).hexdigest(), pixels, profile)


def as_png(pixels, profile=None):
    """Return pixels of shape (n_channels, height, width) as the bytes of a PNG file."""
    from PIL import Image

    array = pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
    file = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(array, dtype=np.uint8))
    image.save(file, "PNG", icc_profile=profile)
    return file.getvalue()


def as_preview(before, after, eps):
    """Return before, after and their difference side by side, as the bytes of a PNG.

    The difference is amplified so that `eps` is black or white and none is grey; the
    picture says by how much.
    """
    from PIL import Image, ImageDraw

    gain = 127 / eps
    difference = 127.5 + gain * (after.astype(float) - before)
    strip = np.concatenate([before, after, difference.clip(0, 255)], axis=2)
    strip = np.broadcast_to(strip, (3, *strip.shape[1:])).transpose(1, 2, 0)
    zoom = max(1, -(-160 // before.shape[2]))  # room for the words
    strip = strip.astype(np.uint8).repeat(zoom, 0).repeat(zoom, 1)
    width, above = strip.shape[1], 16
    picture = Image.new("RGB", (width, strip.shape[0] + above), "white")
    picture.paste(Image.fromarray(strip), (0, above))
    words = ImageDraw.Draw(picture)
    for i, text in enumerate(["before", "after", f"difference x {gain:.1f}"]):
        words.text((4 + i * width // 3, 2), text, fill="black")
    return as_png(np.asarray(picture).transpose(2, 0, 1))
