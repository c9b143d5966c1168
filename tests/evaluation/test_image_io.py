"""Images that bench.evaluate reads."""

import numpy as np
import pytest
from image_files import picture

from bench.data import image_folder, sources
from bench.evaluation.image_io import FolderImages


@pytest.mark.parametrize("ending", image_folder.IMAGE_ENDINGS)
def test_run_and_evaluate_read_the_same_image_endings(tmp_path, ending):
    for i in range(3):
        picture(i, width=32, height=32).save(tmp_path / f"{i}{ending}")
    (_, batch), *_ = FolderImages(tmp_path).batches(3)
    assert np.array_equal(batch, sources.load_dataset(str(tmp_path)).images[:])
