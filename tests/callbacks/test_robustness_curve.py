from __future__ import annotations

import gc
import os
import re
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.plugins.custom_scalar import layout_pb2

from keras_fim import attacks, evaluation
from keras_fim.callbacks import FisherSpectrum, RobustnessCurve
from keras_fim.callbacks.robustness_curve import measure_attack
from keras_fim.evaluation.plans import Plan
from keras_fim.evaluation.rows import QUANTILES
from keras_fim.logits import logits_function

ATTACKS = (attacks.OSSA(), attacks.FGSM())
EPSILONS = {"l2": [0.5, 1.0, 2.0], np.inf: [0.1, 0.3]}


def fit(model, patterns, *callbacks, epochs=2, **options):
    return model.fit(*patterns, batch_size=16, epochs=epochs, callbacks=list(callbacks), verbose=0, **options).history


class Broken(attacks.FixedBudgetAttack):
    name, norm = "broken", 2.0

    def prepare(self, *arguments):
        raise RuntimeError("no such thing")

    perturb = prepare


@pytest.mark.slow
def test_logs_hold_what_the_evaluation_measures(small_model, patterns):
    curve = RobustnessCurve(patterns, ATTACKS, EPSILONS, max_samples=30)
    history = fit(small_model, patterns, curve)
    for attack, epsilons in ((ATTACKS[0], {"0p5": 0.5, "1": 1, "2": 2}), (ATTACKS[1], {"0p1": 0.1, "0p3": 0.3})):
        expected = evaluation.robustness_curve(small_model, curve.images, curve.labels, attack, [*epsilons.values()])
        assert expected.num_samples == 30
        for key, ratio in zip(epsilons, expected.fooling_ratios, strict=True):
            assert history[f"val_fooling/{attack.name}/eps_{key}"][-1] == ratio
            robust = expected.num_correct * (1 - ratio) / 30
            assert history[f"val_robust_accuracy/{attack.name}/eps_{key}"][-1] == pytest.approx(robust)
        assert history[f"robustness_seconds/{attack.name}"][-1] > 0
    clean = evaluation.clean_performance(small_model, curve.images, curve.labels)
    assert history["val_clean/accuracy"][-1] == clean.accuracy
    assert history["val_clean/confidence"][-1] == pytest.approx(clean.mean_confidence)
    assert 0 < history["val_fooling/ossa/eps_0p5"][-1] < history["val_fooling/ossa/eps_2"][-1]
    assert not any("." in key for key in history)


@pytest.mark.slow
def test_distances_lie_between_those_that_a_search_finds(small_model, patterns):
    """Interpolated on a fine grid, the smallest ε that fools is the one that a search over ε finds."""
    fit(small_model, patterns, epochs=8)
    curve = RobustnessCurve(patterns, attacks.FGM(), np.linspace(0.05, 4, 80), max_samples=40)
    measured = curve.measure(small_model)
    nearest = attacks.MinimalDistance(attacks.FGM())(small_model, curve.images, curve.labels)
    expected = np.quantile(nearest.distances[nearest.was_correct], QUANTILES, method="inverted_cdf")
    actual = [measured[f"val_distance/fgm/q{100 * share:g}"] for share in QUANTILES]
    np.testing.assert_allclose(actual, expected, atol=0.1)


@pytest.mark.slow
def test_distances_of_a_minimal_distance_attack(small_model, patterns):
    fit(small_model, patterns, epochs=4)
    curve = RobustnessCurve(patterns, attacks.DeepFool(), [0.3, 0.6], max_samples=21)
    measured = curve.measure(small_model)
    nearest = attacks.DeepFool()(small_model, curve.images, curve.labels)
    assert measured["val_distance/deepfool_l2/q50"] in nearest.distances
    within = (nearest.distances <= 0.3) & nearest.success
    assert measured["val_fooling/deepfool_l2/eps_0p3"] == pytest.approx(within.sum() / nearest.was_correct.sum())


@pytest.mark.slow
def test_distances_beyond_the_largest_epsilon_are_infinite(small_model, patterns):
    fit(small_model, patterns, epochs=4)
    curve = RobustnessCurve(patterns, attacks.FGM(), [1e-6, 2e-6], max_samples=8)
    actual, _ = measure_attack(
        logits_function(small_model),
        (curve.images, curve.labels),
        Plan(attacks.FGM(), curve.epsilons["fgm"]),
        name="fgm",
    )
    assert actual.fooling_ratios == (0, 0) and set(actual.rows[0].nearest.values()) == {np.inf}


@pytest.mark.slow
def test_checkpoint_and_early_stopping_use_the_keys(small_model, patterns, tmp_path):
    key = "val_fooling/fgsm/eps_0p1"
    curve = RobustnessCurve(patterns, attacks.FGSM(), [0.1], max_samples=20)
    path = str(tmp_path / ("{epoch}-{" + key + ":.3f}.weights.h5"))
    keep = keras.callbacks.ModelCheckpoint(path, key, mode="min", save_weights_only=True)
    stop = keras.callbacks.EarlyStopping(key, mode="max", baseline=2.0, patience=1)  # never reached
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # that a key is missing
        history = fit(small_model, patterns, curve, keep, stop, epochs=5)
    assert len(history[key]) == 2  # in the second it has not come nearer to the baseline
    expected = {f"{epoch}-{ratio:.3f}.weights.h5" for epoch, ratio in enumerate(history[key], 1)}
    assert {path.name for path in tmp_path.iterdir()} == expected


@pytest.mark.slow
def test_event_files_hold_everything(small_model, patterns, tmp_path, read_events):
    curve = RobustnessCurve(patterns, ATTACKS, EPSILONS, log_dir=tmp_path, max_samples=20)
    history = fit(small_model, patterns, curve, epochs=3)
    events = read_events(tmp_path / "robustness")
    for key, values in history.items():
        if key in ("loss", "accuracy"):
            continue
        written = [(event.step, float(tf.make_ndarray(event.tensor_proto))) for event in events.Tensors(key)]
        assert written == [(step, pytest.approx(value, rel=1e-6)) for step, value in enumerate(values, 1)]
    (layout,) = events.Tensors("custom_scalars__config__")
    categories = layout_pb2.Layout.FromString(tf.make_ndarray(layout.tensor_proto).item()).category
    assert [category.title for category in categories[:2]] == ["Robust accuracy", "Fooling ratio"]
    assert [chart.title for chart in categories[0].chart] == ["ossa", "fgsm"]
    lines = [key for key in history if re.search(categories[0].chart[0].multiline.tag[0], key)]
    assert lines == [f"val_robust_accuracy/ossa/eps_{key}" for key in ("0p5", "1", "2")]
    for chart in (chart for category in categories for chart in category.chart):
        assert any(re.search(chart.multiline.tag[0], key) for key in history), f"the chart {chart.title} is empty"
    for key, width in (("robustness/curves", 672), ("adversarials/ossa", 528), ("adversarials/fgsm", 528)):
        shown = events.Tensors(key)
        assert [event.step for event in shown] == [1, 2, 3]
        picture = tf.io.decode_png(tf.make_ndarray(shown[-1].tensor_proto)[2]).numpy()
        assert picture.shape[1:] == (width, 3) and picture.std() > 10
    table = tf.make_ndarray(events.Tensors("robustness/table")[-1].tensor_proto).item().decode()
    cells = [cell.strip() for cell in table.splitlines()[2].split("|")[1:-1]]
    assert cells[:3] == ["ossa", "20", "l2 0.5"]
    assert cells[3].startswith(f"{100 * history['val_fooling/ossa/eps_0p5'][-1]:.1f} % [")


@pytest.mark.slow
def test_a_single_epsilon_leaves_no_empty_chart(small_model, patterns, tmp_path, read_events):
    curve = RobustnessCurve(patterns, ATTACKS, {"l2": [0.5, 1], "linf": [0.1]}, log_dir=tmp_path, max_samples=20)
    history = fit(small_model, patterns, curve, FisherSpectrum(patterns, log_dir=tmp_path, max_samples=8))
    for run in ("robustness", "spectrum"):
        (layout,) = read_events(tmp_path / run).Tensors("custom_scalars__config__")
        for category in layout_pb2.Layout.FromString(tf.make_ndarray(layout.tensor_proto).item()).category:
            for chart in category.chart:
                assert any(re.search(chart.multiline.tag[0], key) for key in history), (category.title, chart.title)
    assert "robustness" < "spectrum"  # TensorBoard shows their charts in this order


@pytest.mark.slow
def test_examples_are_of_samples_that_were_right_before(small_model, patterns):
    fit(small_model, patterns, epochs=3)
    images, labels = patterns
    wrong = np.where(np.arange(80) % 2, labels, (labels + 1) % 4)
    logits_fn = logits_function(small_model)
    for attack, epsilons in ((attacks.FGM(), (0.2, 0.5, 1.0)), (attacks.DeepFool(), (0.3, 0.9))):
        _, examples = measure_attack(logits_fn, (images, wrong), Plan(attack, epsilons), name="a", num_examples=3)
        assert len(examples.labels) == 3 and (examples.before.argmax(axis=-1) == examples.labels).all()
        for image, label, epsilon, after in zip(
            *examples[:1], *examples[3:4], examples.epsilons, examples.after, strict=True
        ):
            ratios = [attack(small_model, image[None], label[None], epsilon=e).success[0] for e in epsilons]
            smallest = epsilons[ratios.index(True)] if any(ratios) else epsilons[-1]
            assert epsilon == smallest and (after.argmax() != label) == any(ratios)
    _, nothing = measure_attack(logits_fn, (images, (labels + 1) % 4), Plan(attacks.FGM(), (0.5,)), name="a")
    assert (nothing.before.argmax(axis=-1) == nothing.labels).all()


@pytest.mark.slow
def test_the_progress_bar_is_drawn_once_and_not_flooded(small_model, patterns, capsys):
    callbacks = [RobustnessCurve(patterns, ATTACKS, EPSILONS, max_samples=20), FisherSpectrum(patterns, max_samples=8)]
    history = small_model.fit(*patterns, epochs=2, verbose=2, callbacks=callbacks).history
    lines = [line for line in capsys.readouterr().out.splitlines() if "loss:" in line]
    assert len(lines) == 2 and not any(
        word in line for line in lines for word in ("val_fooling", "fisher/", "seconds/")
    )
    assert any(key.startswith("val_fooling") for key in history) and any(key.startswith("fisher/") for key in history)
    small_model.fit(*patterns, epochs=1, verbose=0, callbacks=callbacks)
    assert "loss:" not in capsys.readouterr().out


@pytest.mark.slow
def test_curve_run_has_a_thousand_epsilon_for_its_steps(small_model, patterns, tmp_path, read_events):
    curve = RobustnessCurve(patterns, ATTACKS[0], [0.5, 2], log_dir=tmp_path, max_samples=20)
    history = fit(small_model, patterns, curve)
    for epoch in (0, 1):
        events = read_events(tmp_path / "curve" / f"epoch_{epoch + 1:04d}").Tensors("fooling_by_1000_eps/ossa")
        expected = {500: history["val_fooling/ossa/eps_0p5"][epoch], 2000: history["val_fooling/ossa/eps_2"][epoch]}
        written = {event.step: float(tf.make_ndarray(event.tensor_proto)) for event in events}
        assert written == pytest.approx(expected)


@pytest.mark.slow
def test_nothing_is_traced_after_the_first_epoch_and_new_weights_are_seen(small_model, patterns):
    pgd = attacks.CleverHans("projected_gradient_descent", nb_iter=2)
    curve = RobustnessCurve(patterns, [*ATTACKS, pgd], {**EPSILONS, pgd.name: [0.1]}, max_samples=20)
    counts, seen = [], []

    def count(epoch, logs):
        functions = vars(small_model)["_keras_fim_logits_function"]._compiled.values()
        counts.append([function.experimental_get_tracing_count() for function in functions])

    counting = keras.callbacks.LambdaCallback(on_epoch_end=count)
    fit(small_model, patterns, curve, counting, epochs=5)
    for _ in range(2):  # a second fit, and weights that are set from outside
        seen.append(fit(small_model, patterns, curve, counting, epochs=1)["val_clean/confidence"][0])
        small_model.set_weights([0 * weights for weights in small_model.get_weights()])
        seen.append(curve.measure(small_model)["val_clean/confidence"])
    assert all(count == counts[0] for count in counts) and set(counts[0]) == {1}
    assert seen[1] == seen[3] == 0.25 < min(seen[0], seen[2])


@pytest.mark.slow
def test_every_so_many_epochs_and_the_last(small_model, patterns):
    curve = RobustnessCurve(patterns, ATTACKS[1], [0.1], every=3, max_samples=20)
    when = []
    watch = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: when.append("val_clean/accuracy" in logs))
    fit(small_model, patterns, curve, watch, epochs=6)
    assert when == [True, False, False, True, False, True]


@pytest.mark.slow
def test_failures_say_so_and_training_goes_on(small_model, patterns, tmp_path):
    (tmp_path / "file").touch()
    curve = RobustnessCurve(
        patterns, {"bad": Broken(), "good": ATTACKS[1]}, {"l2": [1], "linf": [0.1]}, max_samples=20,
        log_dir=tmp_path / "file",
    )  # fmt: skip
    with pytest.warns(RuntimeWarning) as caught:
        history = fit(small_model, patterns, curve)
    messages = [str(warning.message) for warning in caught]
    assert "attack bad after epoch 1 failed; training goes on (strict=True would stop it). RuntimeError" in messages[0]
    assert f"writing to {tmp_path / 'file'} after epoch 2 failed" in " ".join(messages)
    assert len(history["loss"]) == len(history["val_fooling/good/eps_0p1"]) == 2
    assert "val_fooling/bad/eps_1" not in history


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"attacks": Broken()}, {"attacks": ATTACKS[1], "log_dir": __file__}])
def test_strict_raises(small_model, patterns, options):
    with pytest.raises((RuntimeError, tf.errors.OpError)):
        fit(small_model, patterns, RobustnessCurve(patterns, max_samples=20, strict=True, **options))


def test_default_attacks_and_their_samples(patterns):
    pgd = "cleverhans_projected_gradient_descent_linf"
    curve = RobustnessCurve(patterns)
    assert list(curve.attacks) == ["ossa", "fgsm", pgd]
    assert {name: len(epsilons) for name, epsilons in curve.epsilons.items()} == {"ossa": 6, "fgsm": 6, pgd: 1}
    assert {name: len(labels) for name, (_, labels) in curve.samples.items()} == {"ossa": 80, "fgsm": 80, pgd: 25}
    assert len(RobustnessCurve(patterns, max_samples=20).samples[pgd][1]) == 20
    assert RobustnessCurve(patterns, epsilons={"l2": [1]}).epsilons["ossa"] == (1,)


def test_attacks_by_name(patterns):
    """Ours and those of CleverHans; names of one's own."""
    curve = RobustnessCurve(patterns, ["pgd", "cleverhans_fast_gradient_method_l2"], {"pgd": 0.1, 2: [2, 1]})
    assert curve.attacks["pgd_linf"] == attacks.PGD()
    assert curve.attacks["cleverhans_fast_gradient_method_l2"] == attacks.CleverHans("fast_gradient_method", norm=2)
    assert curve.epsilons == {"pgd_linf": (0.1,), "cleverhans_fast_gradient_method_l2": (1, 2)}
    named = RobustnessCurve(patterns, {"short": attacks.PGD(steps=2), "long": "pgd"}, {"short": [0.2], "linf": [0.1]})
    assert named.epsilons == {"short": (0.2,), "long": (0.1,)} and named.attacks["long"] == attacks.PGD()


def test_model_whose_form_cannot_be_told(patterns):
    model = keras.Sequential([keras.Input((6, 6, 1)), keras.layers.Flatten(), keras.layers.Dense(4, activation="tanh")])
    model.compile("sgd", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with pytest.warns(RuntimeWarning, match="from_logits=True"):
        fit(model, patterns, RobustnessCurve(patterns, ATTACKS[1], [0.1], max_samples=8), epochs=1)
    curve = RobustnessCurve(patterns, ATTACKS[1], [0.1], max_samples=8, from_logits=True)
    assert len(fit(model, patterns, curve)["val_robust_accuracy/fgsm/eps_0p1"]) == 2


BAD = {
    "one list for two norms": ({"attacks": ATTACKS, "epsilons": [1]}, "`epsilons` should be a mapping by norm.*l2"),
    "unknown key": ({"attacks": ATTACKS, "epsilons": {"l3": [1]}}, "`epsilons` should have norms.*Received: 'l3'"),
    "negative ε": ({"attacks": ATTACKS[0], "epsilons": [-1]}, "`epsilon` should be a finite number >= 0. Received"),
    "no ε": ({"attacks": ATTACKS[0], "epsilons": []}, "`epsilons` should hold at least one budget"),
    "one key for two ε": ({"attacks": ATTACKS[0], "epsilons": [1, 1 + 1e-9]}, "`epsilons` should hold budgets that"),
    "no attack": ({"attacks": []}, "`attacks` should have at least one"),
    "not an attack": ({"attacks": [3]}, "`attacks` should be of type"),
    "no attack of that name": ({"attacks": "pgdd"}, "`attack` should be .*Received: attack='pgdd'"),
    "one name twice": ({"attacks": [attacks.PGD(), attacks.PGD(steps=3)]}, "`attacks` should have .* each once"),
    "dot in a name": ({"attacks": {"a.b": ATTACKS[0]}}, "`attacks` should have at least one name, of letters"),
    "every 0": ({"every": 0}, "`every` should be a positive integer. Received: every=0"),
    "no samples": ({"max_samples": 0}, "`max_samples` should be a positive integer"),
    "samples of no attack": ({"max_samples": {"pgd": 3}}, "`max_samples` should have keys of ossa, fgsm"),
    "images out of bounds": ({"attacks": attacks.OSSA(bounds=(0.0, 0.1))}, "`images` should be within the bounds"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_options(case, patterns):
    options, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        RobustnessCurve(patterns, **options)


@pytest.mark.nightly
def test_memory_is_flat_over_20_epochs(small_model, patterns, tmp_path):
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("the memory of this process is read from /proc/self/statm, which only Linux has")
    megabytes = []

    def note(epoch, logs):
        gc.collect()
        megabytes.append(int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6)

    pgd = attacks.CleverHans("projected_gradient_descent", nb_iter=2)
    curve = RobustnessCurve(patterns, [*ATTACKS, pgd], log_dir=tmp_path, max_samples=80, strict=True)
    spectrum = FisherSpectrum(patterns, log_dir=tmp_path, max_samples=80, strict=True)
    fit(small_model, patterns, curve, spectrum, keras.callbacks.LambdaCallback(on_epoch_end=note), epochs=20)
    assert megabytes[-1] - megabytes[4] < 15, megabytes
