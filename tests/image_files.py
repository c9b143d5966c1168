"""Make small images, and files and folders of them."""

import io

import numpy as np
from PIL import Image


def pictures(seed, count, size=8):
    """(N, H, W, 3) uint8."""
    return np.random.RandomState(seed).randint(0, 256, (count, size, size, 3)).astype(np.uint8)


def save_folder(path, pixels):
    path.mkdir(parents=True)
    for i, image in enumerate(pixels):
        Image.fromarray(image.squeeze()).save(path / f"{i:03d}.png")
    return path


def picture(seed, width=40, height=32, mode="RGB"):
    rng = np.random.RandomState(seed)
    return Image.fromarray(rng.randint(0, 256, (height, width, 3)).astype(np.uint8)).convert(mode)


def png(seed, **more):
    file = io.BytesIO()
    picture(seed, **more).save(file, format="PNG")
    return file.getvalue()


def write_images(folder, count, first=0, ending="png", **more):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        picture(first + i, **more).save(folder / f"{first + i:03d}.{ending}")


def spoil_folder(path, kind):
    """Damage image 4 of a folder, or empty the folder; returns the folder."""
    if kind == "empty":
        for f in path.iterdir():
            f.unlink()
    elif kind in ("L", "RGBA", "P"):
        Image.open(path / "004.png").convert(kind).save(path / "004.png")
    elif kind == "other size":
        Image.fromarray(pictures(1, 1, 9)[0]).save(path / "004.png")
    elif kind == "no image":
        (path / "004.png").write_text("no picture")
    elif kind == "truncated":
        noise = Image.fromarray(pictures(1, 1, 8)[0])
        noise.save(path / "004.png")
        data = (path / "004.png").read_bytes()
        (path / "004.png").write_bytes(data[: len(data) - 60])
    return path
