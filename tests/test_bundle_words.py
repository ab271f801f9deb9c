import pytest

from amint.architecture import Architecture
from amint.bundle_words import architecture_words, evaluation_rows, preprocessing_words, settings
from amint.preprocessing import Preprocessing


@pytest.mark.parametrize(
    "preprocessing, said",
    [
        (None, "none: only tensors can be verified"),
        (Preprocessing(size=(32, 32), mean=(0.5,), std=(0.25,)), "3 x 32 x 32, bilinear, mean 0.5, std 0.25"),
        (Preprocessing(size=(8, 9), channels=1, interpolation="box"), "1 x 8 x 9, box, mean 0, std 1"),
        (
            Preprocessing(size=(8, 9), shorter_side=10),
            "3 x 8 x 9 cut from the middle, shorter side 10, bilinear, mean 0, std 1",
        ),
        (Preprocessing(channels=1, mean=(0.1307,)), "1 channel, not resized, mean 0.1307, std 1"),
        (Preprocessing(std=(0.2, 0.2, 0.3)), "3 channels, not resized, mean 0, std 0.2 / 0.2 / 0.3"),
    ],
)
def test_preprocessing_in_words(preprocessing, said):
    assert preprocessing_words(preprocessing) == said


def test_the_sign_between_sides_can_be_another():
    assert preprocessing_words(Preprocessing(size=(8, 9)), "×").startswith("3 × 8 × 9, ")


def test_architecture_in_words():
    assert architecture_words(Architecture("timm", "resnet18", {})) == "timm/resnet18"
    named = Architecture("timm", "resnet18", {"num_classes": 10, "in_chans": 1})
    assert architecture_words(named) == "timm/resnet18 with num_classes=10, in_chans=1"


def test_settings_have_labels_and_what_is_not_known_stands_last():
    facts = {"zzz": {"a": [1]}, "by_class": True, "ratio": 2.5, "epochs": None, "method": "active", "steps": 7}
    assert settings(facts) == [
        ("External rows a member row", "2.5"),
        ("Compared within the predicted class", "yes"),
        ("zzz", '{"a": [1]}'),
    ]


@pytest.mark.parametrize(
    "figures, said", [(None, []), (5, []), ({"alpha": 0.1}, []), ({"auroc": "?"}, [("AUROC", "?")])]
)
def test_figures_that_are_none(figures, said):
    assert evaluation_rows(figures) == said
