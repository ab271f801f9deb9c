import numpy as np
import torch
from audit_toys import PREPROCESSING, audit_of, tensors_of, write_pictures

import amint
from amint.readers import PROPERTY_NAMES, ImageFiles


def test_files_calibrate_as_their_tensors_do(tmp_path):
    folder = write_pictures(tmp_path / "pictures", 12)
    audit, other = audit_of(calibration=0), audit_of(calibration=0)
    audit.calibrate(ImageFiles(folder, PREPROCESSING, batch_size=5))
    other.calibrate(tensors_of(folder))
    assert np.array_equal(audit.records.scores, other.records.scores)
    assert audit.records.properties.shape == (12, len(PROPERTY_NAMES))
    assert other.records.properties is None


def test_what_cannot_be_read_is_left_out_and_told(tmp_path):
    folder = write_pictures(tmp_path / "pictures", 3)
    (folder / "broken.png").write_text("text")
    files = ImageFiles(folder, PREPROCESSING)
    [batch] = list(files)
    assert batch["image"].shape == (3, 3, 16, 16)
    assert [file.path for file in files.rejected] == ["broken.png"]


def test_files_of_another_format_than_the_calibration_give_no_verdict(tmp_path):
    from audit_toys import ToyNet
    from PIL import Image

    from amint.architecture import Architecture

    calibration = write_pictures(tmp_path / "calibration", 120, seed=1)
    submitted = write_pictures(tmp_path / "png", 40, seed=2)
    again = tmp_path / "bmp"
    again.mkdir()
    for path in submitted.iterdir():
        Image.open(path).save(again / f"{path.stem}.bmp")
    torch.manual_seed(0)
    audit = audit_of(ToyNet(), calibration=0)
    audit.calibrate(ImageFiles(calibration, PREPROCESSING))
    toy = Architecture("import", "audit_toys:ToyNet")
    bundle = audit.save(tmp_path / "a", preprocessing=PREPROCESSING, architecture=toy)
    alike = amint.verify(bundle, submitted, allow_import=[toy.name])
    other = amint.verify(bundle, again, allow_import=[toy.name])
    assert [item.score for item in alike.items] == [item.score for item in other.items]
    assert alike.decision == "no evidence"
    assert other.decision == "cannot tell"
    assert "format" in other.reason
