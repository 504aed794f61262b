"""How a training run is set up: every option in one frozen record, and the recipe of each dataset."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from keras_fim import arguments
from keras_fim.arguments import Valid, checked
from keras_fim.training.defending import check_defense, default_options, default_weights

if TYPE_CHECKING:
    from keras_fim.data import DatasetInfo

_POLICIES = (None, "mixed_float16", "mixed_bfloat16")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """A training run. The command line offers the same options, with the descriptions below.

    Attributes:
        data: The name of the dataset, or where it is, as in `keras_fim.data.load`.
        model: The model: ``convnet``, ``vgg11``, ``resnet14``, a .keras file or another source of `load_model`.
        model_options: Further arguments of the model.
        defense: The name of a defense, or several names joined by ``+``.
        defense_options: Further options of the defense.
        mu: The weight of the defense's penalty, such as the Fisher trace; 0 trains without it.
        mu_warmup_epochs: The number of epochs over which mu grows linearly from 0.
        label_smoothing: The share of each label, in [0, 1), that is spread over all classes.
        gradient_limit: The largest norm of a sample's gradient with respect to its logits in the Fisher losses.
        epochs: The number of passes over the training data.
        batch_size: The number of images in a training batch.
        optimizer: Either ``adam`` or ``sgd`` (with Nesterov momentum 0.9).
        learning_rate: The peak of the learning rate, from which a cosine takes it to 0.
        warmup_epochs: The number of epochs over which the learning rate grows linearly to its peak.
        weight_decay: The decoupled weight decay of kernels: each step takes ``learning_rate * weight_decay`` of them.
        augment: Whether to shift training images, and to mirror them where that keeps the class.
        validation: The share of the training split on which the best weights are chosen.
        limit: The number of training images, the same number per class as far as possible; all by default.
        test_limit: The number of test images, the same number per class as far as possible; all by default.
        seed: The random seed of initial weights, shuffling and augmentation.
        mixed_precision: The dtype policy of Keras, ``mixed_float16`` or ``mixed_bfloat16``; float32 by default.
        init_from: The weights to start from: a run folder, a name of stored weights, a .weights.h5 or .keras file.
        image_shape: The height, width and channels to which images are resized; those of the dataset by default.
        class_names: The names of the classes of a dataset that has no name of its own.
        bounds: The smallest and the largest pixel value that the model takes; by default as its rescaling says.
        keep: The epoch whose weights are kept: the one of the best validation ``accuracy``, of the best ``robustness``
            (accuracy under ten steps of PGD, where the defense has an epsilon; elsewhere the last), or the ``last``.
    """

    data: str
    model: Annotated[str, Valid(bool, "the name of a model")]
    model_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    defense: str = "fisher-trace"
    defense_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    mu: arguments.NotNegative = 0.0
    mu_warmup_epochs: arguments.NotNegative = 0.0
    label_smoothing: arguments.ShareBelowOne = 0.0
    gradient_limit: float | None = 1.0
    epochs: arguments.Count = 10
    batch_size: arguments.Count = 128
    optimizer: Annotated[str, Valid(("adam", "sgd").__contains__, "adam or sgd")] = "adam"
    learning_rate: arguments.Positive = 2e-3
    warmup_epochs: arguments.NotNegative = 0.0
    weight_decay: arguments.NotNegative = 0.0
    augment: bool = False
    validation: arguments.InnerShare = 0.05
    limit: arguments.CountOrNone = None
    test_limit: arguments.CountOrNone = None
    seed: int = 0
    mixed_precision: Annotated[str | None, Valid(_POLICIES.__contains__, f"one of {_POLICIES}")] = None
    init_from: str | None = None
    image_shape: Sequence[int] | None = None
    class_names: Sequence[str] | None = None
    bounds: Sequence[float] | None = None
    keep: Annotated[str, arguments.one_of("accuracy", "robustness", "last")] = "accuracy"

    def __post_init__(self) -> None:
        arguments.check_fields(self)
        self.facts  # noqa: B018 - raises if the dataset is unknown
        check_defense(self.defense, self.defense_options, self.mu)

    @property
    def facts(self) -> DatasetInfo:
        """The shape of the images and the classes."""
        from keras_fim import data

        if self.class_names is None or self.image_shape is None:
            return data.info(self.data, image_shape=self.image_shape)
        return data.described(self.data, self.image_shape, self.class_names)

    @property
    def pixels(self) -> tuple[float, float]:
        """The smallest and the largest pixel value that the model takes."""
        low, high = self.bounds or (0.0, 1.0)
        return float(low), float(high)

    @property
    def all_options(self) -> dict[str, Any]:
        """All options of the defense: those given, and the others as they suit the dataset."""
        return default_options(self.defense, self.facts, self.defense_options, self.bounds)

    def as_dict(self) -> dict[str, Any]:
        """The options by name, as JSON gives them back."""
        return dict(json.loads(json.dumps(dataclasses.asdict(self))))


RECIPES: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("recipes.json").read_text(encoding="utf-8"))
"""The settings that suit each of the named datasets, a new model of another dataset, and one that is trained."""
# A trained model keeps its most robust epoch: the first one, the least hardened, has the best accuracy.


@checked
def recipe(data: str, *, facts: DatasetInfo | None = None, trained: bool = False, **changes: Any) -> TrainingConfig:
    """The settings that suit a dataset: the paper's model for it, and its defense with the weight that suits both.

    A model or a dataset of your own is trained with N-FGM, the defense that we recommend, unless ``mu`` is given.

    Args:
        data: The name of the dataset, or where it is.
        facts: The shape of the images and the classes; ``None`` to look.
        trained: Whether the model is trained already, so that a few epochs at a small rate are enough.
        **changes: Attributes of `TrainingConfig` that replace those of the recipe.

    Returns:
        `TrainingConfig`.

    Raises:
        ValueError: If the dataset or a value is not valid.

    Example:
        >>> recipe("gtsrb", epochs=3).mu
        0.0013
    """
    from keras_fim.data import info, names

    facts = info(data) if facts is None else facts
    suited = RECIPES[data if data in names() else "a new model"] | (RECIPES["a trained model"] if trained else {})
    usual = TrainingConfig.defense if "mu" in changes else suited.get("defense", TrainingConfig.defense)
    defense = changes.get("defense", usual)
    options = default_options(defense, facts, changes.pop("defense_options", {}), changes.get("bounds"))
    suited = {**default_weights(defense, facts), **suited, "data": data, "defense": defense}
    if data not in names():
        suited |= {"image_shape": list(facts.image_shape), "class_names": list(facts.class_names)}
    return TrainingConfig(**{**suited, **changes, "defense_options": options})


def descriptions() -> dict[str, str]:
    """The description of each attribute of `TrainingConfig`, from its docstring and without markup."""
    section = (inspect.getdoc(TrainingConfig) or "").partition("Attributes:\n")[2]
    texts = re.findall(r"^    (\w+): (.+(?:\n {8}.+)*)", section, flags=re.MULTILINE)
    return {name: " ".join(text.replace("`", "").split()) for name, text in texts}


def differences(recorded: dict[str, Any], config: TrainingConfig) -> dict[str, tuple[Any, Any]]:
    """The options in which a recorded configuration differs from ``config``, as ``(recorded value, other value)``."""
    before = {**TrainingConfig(data="mnist", model="convnet").as_dict(), **recorded}  # options are added at times
    return {key: (before[key], value) for key, value in config.as_dict().items() if before[key] != value}
