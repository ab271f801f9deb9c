import numpy as np
import pytest

from amint.task_accuracy import TaskAccuracy, task_accuracy


def told(predicted, classes, members):
    return task_accuracy(predicted == classes, classes, np.arange(len(classes)) < members)


def draws(repeats, shares, n, predict):
    """Members of classes with these shares, and as many non-members, with predictions."""
    generator = np.random.default_rng(0)
    for _ in range(repeats):
        classes = generator.choice(len(shares), 2 * n, p=shares)
        yield told(predict(generator, classes), classes, n)


EVEN, SKEWED, MANY = np.full(10, 0.1), np.array([0.9, 0.07, 0.03]), np.full(500, 1 / 500)


@pytest.mark.parametrize("shares, n", [(EVEN, 1000), (EVEN, 30), (SKEWED, 400), (MANY, 1000)])
@pytest.mark.parametrize(
    "predict",
    [
        lambda _, classes: np.zeros_like(classes),
        lambda generator, classes: generator.permutation(classes),
        lambda generator, classes: generator.integers(0, classes.max() + 1, len(classes)),
    ],
    ids=["one class for all", "as frequent as the classes", "any class as often"],
)
def test_answers_that_have_nothing_to_do_with_the_class_are_guesses(shares, n, predict):
    found = list(draws(300, shares, n, predict))
    skilled = np.mean([not accuracy.guesses for accuracy in found])
    # Nominal is 5 %; three standard errors of that many repeats are 3.8 %.
    assert skilled <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 300)


@pytest.mark.parametrize(
    "shares, n, skill", [(EVEN, 1000, 0.1), (EVEN, 30, 0.5), (SKEWED, 400, 0.3), (MANY, 1000, 0.1)]
)
def test_some_skill_is_told_from_guessing_however_frequent_the_classes_are(shares, n, skill):
    def predict(generator, classes):
        return np.where(generator.random(len(classes)) < skill, classes, generator.permutation(classes))

    assert np.mean([accuracy.guesses for accuracy in draws(300, shares, n, predict)]) < 0.05


def test_shares_are_of_each_side_and_in_the_sentence():
    classes = np.tile([0, 1], 500)
    predicted = np.where(np.arange(1000) < 500, classes, np.where(np.arange(1000) % 4 < 2, classes, 1 - classes))
    accuracy = told(predicted, classes, 500)
    assert (accuracy.members, accuracy.nonmembers, accuracy.guesses) == (1.0, 0.5, False)
    assert accuracy.sentence() == "The model is right about 100.0 % of the members and 50.0 % of the non-members."


def test_a_model_that_guesses_is_said_to_have_seen_other_inputs():
    sentence = TaskAccuracy(0.098, 0.11, 0.4).sentence()
    assert "right about 9.8 % of the members, which guessing gives, too" in sentence
    assert "preprocessed as in its training" in sentence


def test_one_class_tells_nothing_and_is_no_warning():
    accuracy = told(np.zeros(20), np.zeros(20, int), 10)
    assert accuracy == TaskAccuracy(1.0, 1.0, None)
    assert not accuracy.guesses
