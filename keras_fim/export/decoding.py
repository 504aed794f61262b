"""Image files as pixels, in operations that a model server runs: orientation, transparency and CMYK included."""

import dataclasses

import numpy as np
import tensorflow as tf

from keras_fim.arguments import check_fields, expect
from keras_fim.typing import Bounds

BACKGROUND = 255  # the gray value behind transparent pixels of a PNG: white

PREPROCESSING = (
    "PNG or JPEG; the EXIF orientation is applied, transparent pixels of a PNG are blended with white, CMYK becomes "
    "RGB or gray; resized (bilinear, with antialiasing); scaled from 0..255 to the bounds"
)
_FEWEST = 16
_HEADER = 1 << 16  # bytes of a file in which its EXIF segment begins
_EXIF = (  # the ten bytes before its content
    (0xFF, 0xE1, None, None, *b"Exif\0\0"),  # of a JPEG: marker, length, name
    (None, None, 0, 0, None, None, *b"eXIf"),  # of a PNG: the end of the chunk before, length, name
)
_ORIENTATION = 0x0112


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What one request may ask of an exported model; more is an error of that request.

    A small file, or a message of a few bytes, can announce gigabytes. What a server itself allocates for a message
    before it asks the model has to be limited there.

    Args:
        images: The largest number of images.
        pixels: The largest width times height of an image file.
        decoded_bytes: The largest number of bytes that all image files of a request have when they are decoded: width
            times height times channels.
    """

    images: int = 4096
    pixels: int = 1 << 26
    decoded_bytes: int = 1 << 28

    def __post_init__(self) -> None:
        check_fields(self)
        expected = f"from {_FEWEST}, the number of the reference inputs, to {(1 << 31) - 1}"
        for name, value in dataclasses.asdict(self).items():
            expect(_FEWEST <= value < 1 << 31, name, expected, value)

    def checked(self, values: tf.Tensor, name: str) -> tf.Tensor:
        """The inputs of a signature, if there are not too many of them."""
        message = f"`{name}` should hold at most {self.images} images in a request"
        with tf.control_dependencies([tf.debugging.assert_less_equal(tf.shape(values)[0], self.images, message)]):
            return tf.identity(values)


def decoded(files: tf.Tensor, image_shape: tuple[int, ...], bounds: Bounds, limits: Limits | None = None) -> tf.Tensor:
    """The images of PNG or JPEG files, as `PREPROCESSING` says.

    Args:
        files: Their contents, strings ``(batch,)``.
        image_shape: ``(height, width, channels)``, with 1 or 3 channels.
        bounds: The pixel values that 0 and 255 become.
        limits: How many and how large images are decoded.

    Returns:
        float32 ``(batch, *image_shape)``.
    """
    height, width, channels = image_shape
    low, high = (tf.constant(np.asarray(end), tf.float32) for end in bounds)

    def decode(file: tf.Tensor) -> tf.Tensor:
        image = tf.cond(_is_png(file), lambda: _from_png(file, channels), lambda: _from_jpeg(file, channels))
        image = _upright(image, _orientation(file))
        image.set_shape([None, None, channels])
        return low + (high - low) * tf.image.resize(image, (height, width), antialias=True) / 255.0

    with tf.control_dependencies(_check_sizes(files, channels, limits or Limits())):
        files = tf.identity(files)
    return tf.map_fn(decode, files, fn_output_signature=tf.TensorSpec(image_shape, tf.float32))


def _from_png(file: tf.Tensor, channels: int) -> tf.Tensor:
    color = tf.cast(tf.io.decode_png(file, channels=channels), tf.float32)
    alpha = tf.cast(tf.io.decode_png(file, channels=4)[..., 3:], tf.float32) / 255.0
    return alpha * color + (1 - alpha) * BACKGROUND


def _from_jpeg(file: tf.Tensor, channels: int) -> tf.Tensor:
    def color() -> tf.Tensor:
        return tf.cast(tf.io.decode_jpeg(file, channels=channels), tf.float32)

    def gray_of_cmyk() -> tf.Tensor:  # which TensorFlow decodes to RGB only
        return tf.image.rgb_to_grayscale(tf.cast(tf.io.decode_jpeg(file, channels=3), tf.float32))

    cmyk = tf.equal(tf.io.extract_jpeg_shape(file)[2], 4)
    return tf.cond(cmyk, gray_of_cmyk, color) if channels == 1 else color()


def _upright(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    image = tf.cond(orientation >= 5, lambda: tf.transpose(image, (1, 0, 2)), lambda: image)
    vertically, horizontally = (tf.reduce_any(orientation == mirrored) for mirrored in ((3, 4, 7, 8), (2, 3, 6, 7)))
    return tf.reverse(image, tf.boolean_mask([0, 1], [vertically, horizontally]))


def _orientation(file: tf.Tensor) -> tf.Tensor:
    """The EXIF orientation of a file, from 1 to 8; 1 where it has none."""
    header = tf.cast(tf.io.decode_raw(tf.strings.substr(file, 0, _HEADER), tf.uint8), tf.int32)
    length = len(_EXIF[0])
    header = tf.pad(header, [[0, length]])
    count = tf.size(header) - length

    def begins(segment: tuple[int | None, ...]) -> tf.Tensor:
        return tf.reduce_all([header[i : count + i] == v for i, v in enumerate(segment) if v is not None], axis=0)

    places = tf.where(tf.reduce_any([begins(segment) for segment in _EXIF], axis=0))[:, 0]
    exists, tiff = tf.size(places) > 0, tf.cast(tf.concat([places, [0]], axis=0)[0], tf.int32) + length
    little = header[tf.minimum(tiff, count)] == ord("I")

    def number(at: tf.Tensor, size: int) -> tf.Tensor:
        """Numbers of so many bytes at some places of the TIFF part; garbage beyond the header's end."""
        places = tf.clip_by_value(tiff + at[:, None] + tf.range(size), 0, count)
        weights = 256 ** tf.range(size)
        return tf.reduce_sum(tf.gather(header, places) * tf.where(little, weights, weights[::-1]), axis=-1)

    directory = tf.clip_by_value(number(tf.constant([4]), 4), 0, _HEADER)
    entries = directory + 2 + 12 * tf.range(tf.clip_by_value(number(directory, 2)[0], 0, 256))
    values = tf.where(number(entries, 2) == _ORIENTATION, number(entries + 8, 2), 0)
    value = tf.reduce_max(tf.concat([values, [0]], axis=0))
    return tf.where(exists & (value >= 1) & (value <= 8), value, 1)


def _is_png(file: tf.Tensor) -> tf.Tensor:
    return tf.strings.regex_full_match(tf.strings.substr(file, 1, 3), "PNG")


def _check_sizes(files: tf.Tensor, channels: int, limits: Limits) -> list[tf.Operation]:
    """An error if a file is neither PNG nor JPEG, or they announce more pixels than the limits allow."""

    def announced(file: tf.Tensor) -> tf.Tensor:
        def of_png() -> tf.Tensor:
            return tf.io.decode_raw(tf.strings.substr(file, 16, 8), tf.int32, little_endian=False)

        height_width = tf.cond(_is_png(file), of_png, lambda: tf.io.extract_jpeg_shape(file)[:2])
        # one of 2^31 or more is negative here, and an error of the decoder
        return tf.reduce_prod(tf.cast(tf.clip_by_value(height_width, 0, limits.pixels + 1), tf.int64))

    pixels = tf.map_fn(announced, files, fn_output_signature=tf.TensorSpec((), tf.int64))
    per_image = f"`image_bytes` should hold files of at most {limits.pixels} pixels"
    in_all = f"`image_bytes` should hold files of at most {limits.decoded_bytes} bytes when they are decoded"
    in_bytes = tf.reduce_sum(channels * pixels)
    checks = (pixels, limits.pixels, per_image), (in_bytes, limits.decoded_bytes, in_all)
    return [tf.debugging.assert_less_equal(size, tf.constant(most, tf.int64), text) for size, most, text in checks]
