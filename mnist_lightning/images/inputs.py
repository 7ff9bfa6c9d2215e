"""What a model sees of an image: the digits in it, or all of it. No torch here."""

from dataclasses import dataclass

from mnist_lightning.images.digits import Digit, find_digits
from mnist_lightning.images.reading import MAX_PIXELS, ImageSource, read_picture


@dataclass(frozen=True)
class InputFormat:
    """The images that a model takes.

    Args:
        image_size: Height and width, in pixels.
        channels: 1 for gray, 3 for color.
        is_handwriting: Whether digits are found in a picture and centered as in MNIST; otherwise, all of it is resized.
    """

    image_size: int = 28
    channels: int = 1
    is_handwriting: bool = True

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of an image: `(H, W)` in gray, `(H, W, 3)` in color."""
        return (self.image_size, self.image_size, 3)[: 3 if self.channels == 3 else 2]

    def read(self, source: ImageSource, many: bool = False, max_pixels: int = MAX_PIXELS) -> list[Digit]:
        """Returns the digits in a picture, or the whole picture; raises what `find_digits` raises."""
        if self.is_handwriting:
            return find_digits(source, many, max_pixels)
        picture = read_picture(source, self.image_size, self.channels, max_pixels)
        return [Digit(picture, 0, 0, self.image_size, self.image_size)]
