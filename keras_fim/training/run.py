"""One training run, from data to test accuracy, which can be killed and resumed; and what a training step costs."""

import contextlib
import dataclasses
import math
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_fim import callbacks, data, defenses, distribution, losses, models
from keras_fim.arguments import checked, require
from keras_fim.logits import logits_function
from keras_fim.records import locked, read_run, versions, write_json, written
from keras_fim.training import defending, inputs, trained, watching
from keras_fim.training.config import TrainingConfig, differences

_STEPS = 3  # timed together


@checked
def train(
    config: TrainingConfig,
    folder: str | Path,
    *,
    resume: bool = False,
    data_dir: str | None = None,
    robustness: bool = False,
    verbose: int | None = None,
    devices: tf.distribute.Strategy | None = None,
) -> Path:
    """Train, choose the best weights on the validation part, and measure them on the test images.

    The folder then holds ``run.json`` (configuration, versions, results, and as ``init_from_record`` the record of the
    run whose weights ``config.init_from`` names, None for a bare file), ``model.keras`` (the best weights),
    ``history.csv``, ``tensorboard/``, ``best.weights.h5`` and ``checkpoints/`` (the last epoch, with the optimizer).

    Args:
        config: the run.
        folder: where everything that the run writes goes.
        resume: go on from the last finished epoch of a run in ``folder``, if there is one.
        data_dir: where TensorFlow Datasets keeps its data.
        robustness: attack the model and measure its Fisher spectrum on validation images after each epoch (of small
            data sets, some), into ``history.csv`` and ``tensorboard/``; and the best model on test images, into
            ``run.json`` as ``results["robustness"]`` (None for inf and NaN). Takes a few per cent of the time.
        verbose: As for ``fit``; ``None`` for a progress bar in a terminal and a line per epoch elsewhere.
        devices: What to train on, as `keras_fim.distribution.strategy` returns it; ``None`` for the strategy whose
            scope this is. All workers of a cluster call this with the same arguments and a ``folder`` that they share.

    Returns:
        ``folder``. The global dtype policy is afterwards what it was before.

    Raises:
        ValueError: if ``folder`` holds a run and ``resume`` is False, that run was set up otherwise, or another process
            writes it.
        ConnectionError: if another worker of the cluster has ended.
    """
    devices = devices or tf.distribute.get_strategy()
    run = _Run(config, Path(folder), data_dir, robustness, verbose, devices, distribution.is_chief(devices))
    with contextlib.ExitStack() as stack:
        stack.callback(keras.config.set_dtype_policy, keras.config.dtype_policy())
        keras.config.set_dtype_policy(config.mixed_precision or "float32")
        stack.enter_context(distribution.explained())
        begins = run.chief and not (run.folder / "run.json").exists()
        new = _new_record(config) if begins else None  # raises before there is a folder
        if run.chief:
            stack.enter_context(locked(run.folder))
        record = _open_run(config, run.folder, resume, new) if run.chief else {}
        if not distribution.from_chief(bool(record.get("results")), devices):
            keras.utils.set_random_seed(config.seed)
            results = run.train()
            if run.chief:
                watching.write_row(config, run.folder, results)
                write_json(run.folder / "run.json", {**record, "results": results})
            distribution.from_chief(None, devices)  # the others wait until everything is written
    return run.folder


def build_model(config: TrainingConfig, *, fresh: bool = False) -> keras.Model:
    """The classifier of a run, with new weights or those of ``config.init_from``, unless ``fresh``."""
    facts = config.facts
    if config.model in models.MODELS:
        model = models.MODELS[config.model](facts.image_shape, facts.num_classes, **config.model_options)
    else:
        model = trained.load_model(config.model, image_shape=facts.image_shape, num_classes=facts.num_classes)
        inputs.check_outputs(model, facts)
    if config.init_from and not fresh:
        trained.load_into(model, config.init_from)
    return model


def compile_model(model: keras.Model, config: TrainingConfig, *, steps_per_epoch: int) -> None:
    """Compile with the loss, optimizer and learning-rate schedule of a run."""
    steps, warmup = config.epochs * steps_per_epoch, round(config.warmup_epochs * steps_per_epoch)
    rate: Any = keras.optimizers.schedules.CosineDecay(config.learning_rate, steps)
    if warmup:
        peak = {"warmup_target": config.learning_rate, "warmup_steps": warmup}
        rate = keras.optimizers.schedules.CosineDecay(0.0, max(1, steps - warmup), **peak)
    decay = config.weight_decay or None
    if config.optimizer == "sgd":
        optimizer = keras.optimizers.SGD(rate, momentum=0.9, nesterov=True, weight_decay=decay)
    else:
        optimizer = keras.optimizers.Adam(rate, weight_decay=decay)
    if decay:
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    kind = losses.FisherEigenvalueLoss if "fisher-eigenvalue" in config.defense else losses.FisherTraceLoss
    mu = config.mu if "fisher-" in config.defense else 0.0
    limit = config.gradient_limit if mu else None
    logits_fn = logits_function(defenses.plain(model))
    logits, one = logits_fn.form == "logits", defenses.plain(model).output_shape[-1] == 1
    loss = kind(mu, label_smoothing=config.label_smoothing, gradient_limit=limit, from_logits=logits)
    metric = keras.metrics.BinaryAccuracy("accuracy", threshold=0.0 if logits else 0.5) if one else "accuracy"
    model.compile(optimizer, loss=loss, metrics=[metric])


@dataclasses.dataclass(frozen=True)
class _Run:
    """What `train` was called with; ``chief`` says whether this worker writes the files."""

    config: TrainingConfig
    folder: Path
    data_dir: str | None
    robustness: bool
    verbose: int | None
    devices: tf.distribute.Strategy
    chief: bool

    def train(self) -> dict[str, Any]:
        """Train from the last finished epoch, keep the best model, and measure it; only the chief returns something."""
        config, folder, seed = self.config, self.folder, data.PassSeed(self.config.seed)
        splits = self._split(augment=config.augment, seed=seed)  # or a resumed run would see other orders
        splits = data.Splits(*(inputs.in_range(part, config.pixels) for part in splits))
        if self.chief and not (folder / trained.HASHES).is_file():
            trained.write_hashes(folder / trained.HASHES, trained.image_hashes(self._split().train))
        with self.devices.scope():
            model = defending.defended(config, build_model(config))
            compile_model(model, config, steps_per_epoch=len(splits.train))
        monitor = "val_accuracy" if config.keep == "accuracy" else "score"
        self._fit(model, splits, seed, monitor)
        trained.load_weights(defenses.plain(model), folder / "best.weights.h5")
        measured = model.evaluate(splits.test, return_dict=True, verbose=0)
        if not self.chief:
            return {}
        with written(folder / "model.keras", watching.size_of(model)) as unfinished:
            defenses.plain(model).save(unfinished)
        results = _results(measured, watching.read_history(folder), monitor)
        if self.robustness:
            figures = watching.robustness_curve(config, splits.test).measure(defenses.plain(model))
            finite = {key: value if math.isfinite(value) else None for key, value in figures.items()}
            results["robustness"] = {key.removeprefix("val_"): value for key, value in finite.items()}
        return results

    def _split(self, **options: Any) -> data.Splits:
        """The images of the run, in [0, 1]."""
        options |= {name: getattr(self.config, name) for name in ("validation", "limit", "test_limit", "image_shape")}
        return data.load_splits(self.config.data, self.config.batch_size, data_dir=self.data_dir, **options)

    def _fit(self, model: keras.Model, splits: data.Splits, seed: data.PassSeed, monitor: str) -> None:
        config, folder = self.config, self.folder
        history = watching.resume(model, folder, monitor=monitor)
        whole = all({"epoch", "val_accuracy", "seconds"} <= row.keys() for row in history)
        columns = "epoch, val_accuracy and seconds for every epoch"
        require(whole, f"{folder / 'history.csv'} should have {columns}. Received: a row without one of them")
        distribution.fit(
            model,
            splits.train,
            validation_data=splits.validation,
            epochs=config.epochs,
            initial_epoch=len(history),
            callbacks=[
                watching.EpochSeconds(0 if self.verbose == 0 else config.epochs - len(history)),
                keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: seed.start(epoch)),
                *defending.overfitting_watch(config, splits.validation, history),
                *([watching.Score(config.keep, splits.validation)] if monitor == "score" else []),
                *self._watching(model, splits, len(history)),
                watching.RunCheckpoint(folder, history=history, monitor=monitor),
            ],
            shuffle=False,  # the pipeline shuffles
            verbose=(1 if sys.stdout.isatty() else 2) if self.verbose is None else self.verbose,
        )

    def _watching(self, model: keras.Model, splits: data.Splits, epochs: int) -> list[keras.callbacks.Callback]:
        """The schedule of μ, and what TensorBoard shows from the given epoch on."""
        config, logs = self.config, self.folder / "tensorboard"
        steps = len(splits.train)
        added: list[keras.callbacks.Callback] = []
        if config.mu_warmup_epochs and config.mu:
            target = model.loss if "fisher-" in config.defense else model
            warmup = round(config.mu_warmup_epochs * steps)
            added.append(callbacks.MuSchedule(config.mu, warmup_steps=warmup, target=target))
        watching.forget(logs, epochs=epochs, steps=epochs * steps)
        added.append(keras.callbacks.TensorBoard(logs, profile_batch=0, write_graph=False))
        if self.robustness:  # behind the board, which would repeat all that it logs
            watched: dict[str, Any] = {"log_dir": logs, "every": watching.epochs_between(steps, config.batch_size)}
            measured = (watching.robustness_curve, watching.fisher_spectrum)
            added += [callback(config, splits.validation, **watched) for callback in measured]
        return added


def _new_record(config: TrainingConfig) -> dict[str, Any]:
    """What is known of a run before it begins; raises a ValueError if an option is not valid."""
    defending.defended(config, build_model(config, fresh=True))
    record: dict[str, Any] = {"config": config.as_dict(), "versions": versions()}
    if config.init_from:  # whose record may hold one itself: the whole history of the weights
        record["init_from_record"] = trained.record_of(config.init_from)
    return record


def _open_run(config: TrainingConfig, folder: Path, resume: bool, new: dict[str, Any] | None) -> dict[str, Any]:
    """The content of ``run.json``: that of the run to resume, or a new one."""
    path = folder / "run.json"
    if new and not path.exists():
        write_json(path, new)
        return new
    require(resume, f"{folder} already holds a run: resume it (--resume) or choose another folder (--out)")
    record = read_run(path)
    if changed := differences(record["config"], config):
        raise ValueError(f"The run in {folder} was set up otherwise; (its value, yours): {changed}")
    return record


def _results(measured: dict[str, float], history: list[dict[str, float]], monitor: str) -> dict[str, Any]:
    best = max(history, key=lambda row: (row[monitor], row["epoch"]))
    overfitted = [int(row["epoch"]) for row in history if row.get("overfits")]
    return {
        **({"catastrophic_overfitting_in_epochs": overfitted} if "overfits" in history[0] else {}),
        "test_accuracy": float(measured["accuracy"]),
        "test_loss": float(measured["loss"]),
        "validation_accuracy": best["val_accuracy"],
        "best_epoch": int(best["epoch"]),
        "epochs": len(history),
        "training_seconds": round(sum(row["seconds"] for row in history), 1),
    }


def step_costs(configs: Mapping[str, TrainingConfig], *, rounds: int = 12) -> dict[str, dict[str, float]]:
    """Measure the time of a training step: CPU time, which other processes disturb least, and wall-clock time.

    The configurations take turns on the same random images, so that changes in the machine's speed affect all of them.

    Args:
        configs: Configurations by name, for images of one shape in batches of one size. The others are compared with
            the first one. Weights of ``init_from`` are not loaded.
        rounds: The number of rounds of three steps each, after a first one that compiles.

    Returns:
        By name, ``cpu`` and ``wall``, the medians over the rounds of the ratio to the first configuration; and
        ``seconds``, the median time of a step.
    """
    first = next(iter(configs.values()))
    facts, rng = first.facts, np.random.default_rng(0)
    images = rng.uniform(*first.pixels, size=(first.batch_size, *facts.image_shape)).astype("float32")
    batch = tf.constant(images), tf.constant(rng.integers(0, facts.num_classes, first.batch_size))
    steps = {name: _step(config, batch) for name, config in configs.items()}
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in configs}
    for index in range(rounds + 1):
        for name, step in steps.items():
            begin = time.process_time(), time.perf_counter()
            for _ in range(_STEPS):
                step()
            if index:  # the first round compiles
                taken[name].append((time.process_time() - begin[0], time.perf_counter() - begin[1]))
    base = next(iter(taken.values()))
    costs = {}
    for name, times in taken.items():
        cpu, wall = np.median(np.divide(times, base), axis=0).tolist()
        costs[name] = {"cpu": cpu, "wall": wall, "seconds": float(np.median(times, axis=0)[1]) / _STEPS}
    return costs


def _step(config: TrainingConfig, batch: tuple[tf.Tensor, tf.Tensor]) -> Callable[[], object]:
    keras.utils.set_random_seed(0)
    model = defending.defended(config, build_model(config, fresh=True))
    compile_model(model, config, steps_per_epoch=100)
    iterator = iter(tf.data.Dataset.from_tensors(batch).repeat())
    function = model.make_train_function() or model.train_function
    return lambda: function(iterator)
