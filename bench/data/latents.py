"""A data set's latents on disk, made once by bench.encode and read by training: format, manifest, verification.

FOLDER/
    manifest.json       what they were made of and by what, and every file's size and SHA-256 (class Manifest)
    shard-00000.npy     (n, F, M, C, H, W) float16, memory-mapped: of each image, as it is and mirrored (F = 2, or
                        as it is alone, F = 1), the posterior's mean and standard deviation (M = 2; of a VQModel,
                        which has no posterior, the encoder's output alone, M = 1), not scaled
    labels.npy          (N,) int64
    checks.npy          (N, F) uint32, CRC-32 of each image's M * C * H * W numbers
    reference.npy       (R, 3, S, S) uint8, real images as the encoder saw them

Whatever is read of a shard is held against its CRC-32, so that no damage is trained on.

N images, C channels, H W latent size, S resolution, B batch.  Imports no torch.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import NormalDist
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass as checked

from bench.config.identity import digest_json
from bench.config.seeds import derive_seed
from bench.config.validation import STRICT, adapter, validate_json
from bench.data.dataset import Dataset, DataSource
from bench.data.numpy_files import memory_map
from bench.storage.atomic import file_sha256

FORMAT_VERSION = 1
MANIFEST_FILE, LABELS_FILE, CHECKSUMS_FILE, REFERENCE_FILE = (
    "manifest.json",
    "labels.npy",
    "checks.npy",
    "reference.npy",
)
CHUNK_IMAGES = 32
"""Images drawn at a time: what is in flight stays in the processor's cache."""
REPAIR_HINT = "remove it and run the same bench.encode again, which makes what is not there"

Count = Annotated[int, Field(ge=1)]


@checked(frozen=True, kw_only=True, config=STRICT)
class AutoencoderInfo:
    """The autoencoder that made them."""

    path: str
    """Where it was then; no part of the digest."""
    sha256: str
    """Of its configuration and tensors (codec.hash_of)."""
    kind: Literal["AutoencoderKL", "VQModel"]
    scaling_factor: float
    """Latents are trained on times this, after the shift is taken off."""
    shift_factor: float = 0.0


@checked(frozen=True, kw_only=True, config=STRICT)
class FileInfo:
    """A file of the set."""

    file: str
    bytes: Count
    sha256: str


@checked(frozen=True, kw_only=True, config=STRICT)
class ShardInfo(FileInfo):
    """Some images' latents."""

    images: Count


@checked(frozen=True, kw_only=True, config=STRICT)
class LatentSpec:
    """What a set of latents is, as it is known before the first is made."""

    format: int
    data: str
    """The data set's name, without folders."""
    data_hash: str
    vae: AutoencoderInfo
    resolution: Count
    crop: str
    flips: Literal[1, 2]
    moments: tuple[str, ...]
    shape: tuple[int, int, int]
    """(C, H, W) of a latent."""
    images: Count
    num_classes: Annotated[int, Field(ge=0)]
    classes: tuple[str, ...]
    """Names of the classes, where they are known."""
    counts: tuple[int, ...]
    """Images of each class; () without classes."""
    precision: str
    """Of the encoder's arithmetic; the result is kept in 16 bits."""
    batch: Count
    """Images that the encoder saw at a time, from each shard's beginning."""
    rows: Count
    """Images a shard; the last may have fewer."""
    references: Count
    """Images of reference.npy."""

    def told(self) -> dict[str, Any]:
        """All but where the autoencoder was, as plain data: equal sets have equal ones, wherever they are."""
        told: dict[str, Any] = adapter(type(self)).dump_python(self, mode="json")
        del told["vae"]["path"]
        return told

    def shape_of(self, images: int) -> tuple[int, ...]:
        """Of a shard of so many images."""
        return (images, self.flips, len(self.moments), *self.shape)


@checked(frozen=True, kw_only=True, config=STRICT)
class LatentManifest(LatentSpec):
    """A finished set of latents."""

    shards: tuple[ShardInfo, ...]
    labels: FileInfo
    checks: FileInfo
    reference: FileInfo

    def digest(self) -> str:
        return digest_json(self.told())

    def files(self) -> tuple[FileInfo, ...]:
        return (*self.shards, self.labels, self.checks, self.reference)


def read_manifest(folder: Path) -> LatentManifest:
    """The manifest of a folder; ValueError says why there is none, or what is wrong with it."""
    path = folder / MANIFEST_FILE
    try:
        found = validate_json(LatentManifest, path.read_bytes())
    except FileNotFoundError:
        if not folder.is_dir():
            raise ValueError(f"{folder} is no folder; name one that bench.encode made") from None
        raise ValueError(
            f"{folder} has no {MANIFEST_FILE}: it is no finished set of latents; bench.encode makes, and ends, one"
        ) from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    if found.format != FORMAT_VERSION:
        raise ValueError(f"{path} is of format {found.format}; this version reads {FORMAT_VERSION}")
    if [shard.images for shard in found.shards] != [len(rows) for rows in shard_ranges(found.images, found.rows)]:
        raise ValueError(f"{path} tells of {found.images:,} images, {found.rows:,} a shard, and its shards hold others")
    return found


def is_finished_set(folder: Path) -> bool:
    """Whether a folder holds a set of latents that bench.encode finished."""
    return (folder / MANIFEST_FILE).is_file()


def shard_ranges(images: int, rows: int) -> list[range]:
    """The images of each shard."""
    return [range(first, min(first + rows, images)) for first in range(0, images, rows)]


def open_latents(path: Path) -> DataSource:
    """What a set of latents is, from its manifest alone."""
    m = read_manifest(path)
    channels, size, _ = m.shape
    return DataSource(
        channels=channels,
        size=size,
        num_classes=m.num_classes,
        latent=True,
        vq=m.vae.kind == "VQModel",
        about=f"{m.images:,} latents of {m.data} at {m.resolution} pixels",
        hash=m.digest()[:16],
        flip=m.flips == 2,
        classes=m.classes,
        decoder=m.vae.path,
        decoder_hash=m.vae.sha256,
        load=load_latents,
    )


def load_latents(path: Path) -> Dataset:
    """The latents of a folder, memory-mapped; ValueError names a file that is missing, cut short or misshapen."""
    m = read_manifest(path)
    for file in m.files():
        check_size(path, file)
    for file in (m.labels, m.checks):  # small, and what the others are held against
        if file_sha256(path / file.file) != file.sha256:
            raise ValueError(f"{path / file.file} is damaged: it is not what was written; {REPAIR_HINT}")
    labels, checks, reference = (
        memory_map(path / name, REPAIR_HINT) for name in (LABELS_FILE, CHECKSUMS_FILE, REFERENCE_FILE)
    )
    rows = LatentShards(path, m, np.array(checks))
    files = {path / f.file: f.bytes for f in (*m.shards, m.reference)}
    return LatentDataset(images=rows, labels=np.array(labels), reference=reference, files=files, flip=m.flips == 2)


def check_size(folder: Path, file: FileInfo) -> None:
    """ValueError where a file is gone or has another size than was written."""
    path = folder / file.file
    try:
        size = path.stat().st_size
    except OSError as error:
        again = "put it back, or run the same bench.encode again, which makes it"
        raise ValueError(f"{path} is not there ({error.strerror}); {again}") from None
    if size != file.bytes:
        raise ValueError(f"{path} is damaged: it has {size:,} bytes, {file.bytes:,} were written; {REPAIR_HINT}")


class LatentShards:
    """The latents' means, scaled, as rows (B, C, H, W) float32; and samples of their posteriors."""

    def __init__(self, folder: Path, m: LatentManifest, checks: np.ndarray) -> None:
        self.folder, self.manifest, self.checks = folder, m, checks
        self.flips, self.moments = m.flips, len(m.moments)
        self.shape, self.dtype = (m.images, *m.shape), np.dtype(np.float32)
        self.scale, self.shift = np.float32(m.vae.scaling_factor), np.float32(m.vae.shift_factor)
        self.maps = [self._open(shard) for shard in m.shards]
        if checks.shape != (m.images, m.flips) or checks.dtype != np.uint32:
            raise ValueError(
                f"{folder / CHECKSUMS_FILE} has shape {checks.shape}; it must be {(m.images, m.flips)} uint32"
            )

    def _open(self, shard: ShardInfo) -> np.ndarray:
        found, shape = memory_map(self.folder / shard.file, REPAIR_HINT), self.manifest.shape_of(shard.images)
        if found.shape != shape or found.dtype != np.float16:
            path = self.folder / shard.file
            raise ValueError(
                f"{path} is damaged: it holds {found.dtype} {found.shape}, not float16 {shape}; {REPAIR_HINT}"
            )
        return found

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray:
        rows = np.arange(len(self))[rows] if isinstance(rows, slice) else rows
        return (widen_float16(self.read(rows, np.zeros(len(rows), int))[:, 0]) - self.shift) * self.scale

    def read(self, rows: np.ndarray, flips: np.ndarray) -> np.ndarray:
        """(B, M, C, H, W) float16 as they are on disk; ValueError names the shard of one that is damaged."""
        out = np.empty((len(rows), self.moments, *self.shape[1:]), np.float16)
        each = self.manifest.rows
        for place, (row, flip) in enumerate(zip(rows.tolist(), flips.tolist(), strict=True)):
            shard = row // each
            out[place] = self.maps[shard][row % each, flip]
            if zlib.crc32(out[place]) != self.checks[row, flip]:
                path = self.folder / self.manifest.shards[shard].file
                raise ValueError(f"{path} is damaged: image {row:,} is not what was written; {REPAIR_HINT}")
        return out

    def sample(self, rows: np.ndarray, flips: np.ndarray, seed: int, place: int) -> np.ndarray:
        """(B, C, H, W) float32: mean + standard deviation * noise, scaled.

        The noise is a function of the seed and of the place in the whole batch, `place` being the first row's.
        """
        out = np.empty((len(rows), *self.shape[1:]), np.float32)
        draw = posterior_noise(seed, place, int(np.prod(self.shape[1:])))
        for begin in range(0, len(rows), CHUNK_IMAGES):
            part = slice(begin, begin + CHUNK_IMAGES)
            values, own = widen_float16(self.read(rows[part], flips[part])), out[part]
            if self.moments == 2:
                np.multiply(values[:, 1], draw(len(own)).reshape(own.shape), out=own)
                own += values[:, 0]
            else:
                own[...] = values[:, 0]
            own -= self.shift
            own *= self.scale
        return out


@dataclass(frozen=True, kw_only=True)
class LatentDataset(Dataset):
    """A set of latents: each time an image is seen, its posterior is sampled anew, and so is its side."""

    images: LatentShards

    def __post_init__(self) -> None:
        if self.flip and self.images.flips == 1:
            raise ValueError(
                f"{self.images.folder} has no mirrored latents: use data.flip=never, or encode them with --flips 2"
            )

    def model_inputs(self, rows: np.ndarray, seed: int, selected: slice = slice(None)) -> np.ndarray:
        flips = np.random.Generator(np.random.PCG64(seed)).random(len(rows)) < 0.5
        flips = flips if self.flip else np.zeros(len(rows), bool)
        first = range(len(rows))[selected].start
        return self.images.sample(rows[selected], flips[selected].astype(int), seed, first)


def widen_float16(values: np.ndarray) -> np.ndarray:
    """Finite float16 to float32, exactly, and 3 times faster than numpy: the bits moved, the exponent mended."""
    bits = values.view(np.int16).astype(np.int32)
    bits <<= 13
    bits &= -0x70002000  # the sign, once; five bits of exponent; ten of mantissa
    found: np.ndarray = bits.view(np.float32)
    found *= np.float32(2.0**112)
    return found


@lru_cache(maxsize=1)
def normal_quantiles() -> np.ndarray:
    """(65536,) float32: as many equally likely values of the standard normal, each the middle of its share."""
    upper = [NormalDist().inv_cdf((i + 0.5) / 65536) for i in range(32768, 65536)]
    return np.array([-x for x in reversed(upper)] + upper, np.float32)


def posterior_noise(seed: int, place: int, count: int) -> Callable[[int], np.ndarray]:
    """What gives normal noise (B, count) float32 of the next B images, beginning with that of a place in the batch.

    Drawn in steps of 1/65536 of probability, finer than 16-bit standard deviations: numpy's own normal took most
    of the loader's time, and an unknown number of draws, so that no image's place in the stream was known.
    """
    words = -(-count // 4)
    generator = np.random.Generator(np.random.PCG64(derive_seed(seed, "posterior")).advance(place * words))

    def draw(images: int) -> np.ndarray:
        ranks = generator.integers(2**64, size=(images, words), dtype=np.uint64).view(np.uint16)
        return np.take(normal_quantiles(), ranks[:, :count], mode="clip")

    return draw


def check_files(folder: Path) -> Iterator[tuple[FileInfo, str]]:
    """(file, what is wrong with it or "") of every file of a set, each read whole."""
    for file in read_manifest(folder).files():
        try:
            check_size(folder, file)
            found = file_sha256(folder / file.file)
        except (ValueError, OSError) as error:
            yield file, str(error)
        else:
            words = f"{folder / file.file} is damaged: its SHA-256 is not what was written; {REPAIR_HINT}"
            yield file, "" if found == file.sha256 else words
