"""The simulation's table and one run's last line: which federation stands in which cell, and what is said of it."""

import sys
from dataclasses import replace
from unittest.mock import MagicMock

import numpy as np
import pytest
from tests.house.sources import ROOT

from earmark_shared.errors import ModelError
from earmark_shared.head import HeadSchema, first_head, unit_rows

sys.path.insert(0, str(ROOT / "scripts"))
from simulation import run, table
from simulation.federation import Outcome, Recipe, Setting, training_plan, unclipped, without_noise
from simulation.sound import STRANGER, TEST, TRAINING, UNUSED, Sounds
from simulation.table import ROWS, in_row, make_table, markdown, plot
from simulation.task import CLIPS, Task, accuracy, poor_labels

LABELS = ("horn", "bell", "drum")
HEARD = ("horn", "horn", "drum")
"""What the base model hears each label as."""


def made_up():
    """Three labels, of which the base model takes bells for horns; 20 devices' clips, 30 held out, 6 of a stranger."""
    target = np.arange(20 * CLIPS + 36) % 3
    vectors = np.eye(6, dtype=np.float32)[:3]
    text = vectors[[LABELS.index(HEARD[each]) for each in target]]
    part = np.array([TRAINING] * (20 * CLIPS) + [TEST] * 30 + [STRANGER] * 6)
    owner = np.array([f"owner {each % 7}" for each in range(len(target))])
    sounds = Sounds(
        np.eye(8, dtype=np.float32)[target], text, np.arange(len(target) + 1), np.array(LABELS)[target], owner, part, target == 0
    )
    schema = HeadSchema(8, 6, 4, ("up",), LABELS)
    return Task(sounds, schema, first_head(schema, b"table"), vectors, target)


def all_right(task):
    """A head that moves every sound to its label."""
    features = unit_rows(np.eye(8, dtype=np.float32)[:3] @ task.first["down"].T + task.first["shift"])
    up = 50 * task.label_vectors.T @ np.linalg.pinv(features.T)
    return task.first | {"up": up.astype(np.float32)}


@pytest.fixture
def federations(monkeypatch):
    """Federations that end at once: with a right head where nothing is private, else with the one they began with."""
    asked = []

    def federate(task, clips, setting):
        asked.append((len(clips), setting))
        head = all_right(task) if setting.epsilon is None else task.first
        return Outcome((task.first, head), setting.epsilon or float("inf"), 1.0, 2.0, ("published",) * 2, 1, len(clips))

    monkeypatch.setattr(table, "federate", federate)
    monkeypatch.setattr(run, "federate", federate)
    for module in (table, run):
        monkeypatch.setattr(module, "train_centrally", lambda task, clips, setting: all_right(task))
    return asked


def test_the_made_up_base_model_hears_two_labels_of_three():
    task = made_up()
    assert poor_labels(task) == ["bell"]
    assert accuracy(task.recalls(None), list(LABELS)) == pytest.approx(2 / 3)
    assert accuracy(task.recalls(all_right(task)), list(LABELS)) == 1.0
    assert task.recalls(None, STRANGER) == {"horn": (2, 2), "bell": (0, 2), "drum": (2, 2)}


def test_each_row_is_the_same_federation_but_for_its_privacy():
    setting = Setting(rounds=10, epsilon=8.0)
    own, clipped, *private = (in_row(setting, row) for row in ROWS)
    assert [each.epsilon for each in private] == [8.0, 4.0, 2.0, 1.0]
    assert {replace(each, epsilon=8.0) for each in private} == {setting}
    assert own == unclipped(setting)
    assert clipped == without_noise(setting)
    with_noise, without = training_plan(setting), training_plan(clipped)
    assert replace(without, noise_multiplier=with_noise.noise_multiplier) == with_noise  # they differ in noise alone
    assert training_plan(own).clipping_bound > 100 * with_noise.clipping_bound


def test_a_table_has_every_federation_and_says_what_it_is_on(federations, tmp_path):
    text = make_table(made_up(), Setting(rounds=2, epsilon=8.0), "dirichlet", devices=(20, 21), write=tmp_path / "deep")
    assert [count for count, _ in federations] == [20] * 6 + [21] * 6
    lines = text.splitlines()
    assert lines[0] == "| epsilon | 20 devices | 21 devices |"
    assert lines[2:8] == [f"| {row} | {cell} | {cell} |" for row, cell in zip(ROWS, ["1.000"] * 2 + ["0.000"] * 4, strict=True)]
    every = lines[lines.index("All labels:") + 2 :]
    assert every[2:8] == [f"| {row} | {cell} | {cell} |" for row, cell in zip(ROWS, ["1.000"] * 2 + ["0.667"] * 4, strict=True)]
    assert "Base model 0.000 on 1 of 3 labels, 0.667 on all." in text
    assert "20 devices: distinct clips; trained in one place without privacy 1.000 and 1.000 (all labels)." in text
    assert "21 devices: clips drawn again across devices" in text
    assert (tmp_path / "deep" / "table.md").read_text() == text


def test_a_cell_is_the_mean_of_several_runs_on_splits_of_their_own(federations, monkeypatch):
    seen = []
    monkeypatch.setattr(table, "split", lambda task, count, how, rng: (seen.append(rng.integers(1 << 30)) or [], False))
    make_table(made_up(), Setting(rounds=2, epsilon=8.0, seed=4), "dirichlet", devices=(20,), runs=3)
    assert [setting.seed for _, setting in federations] == [4, 5, 6] * len(ROWS)
    assert seen == [np.random.default_rng(seed).integers(1 << 30) for seed in (4, 5, 6)]
    assert "| 8 | 0.200 (0.100 to 0.300) |" in markdown({("8", 20): CELLS["8", 20]}, (20,))


def test_a_table_that_is_not_done_shows_what_there_is():
    lines = markdown({("8", 20): np.array([[0.1, 0.25]])}, (20, 30))
    assert lines[4] == "| 8 | 0.250 |  |"
    assert lines[5] == "| 4 |  |  |"


CELLS = {(row, count): np.array([[0.1, 0.1], [0.1, 0.3]]) for row in ROWS for count in (20, 50, 200)}


def test_without_matplotlib_it_is_said_that_there_is_no_plot(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert not plot(CELLS, (20, 50, 200), tmp_path / "plot.png")
    assert not list(tmp_path.iterdir())


def test_a_plot_shows_every_row_by_epsilon_by_round_and_by_devices(tmp_path, monkeypatch):
    """On a stand-in, because the plots' library is an extra that `make test` does not install."""
    figure, axes = MagicMock(), [MagicMock(), MagicMock(), MagicMock()]
    for each in axes:
        each.plot.return_value = (MagicMock(),)
    figure.subplots.return_value = axes
    monkeypatch.setitem(sys.modules, "matplotlib", MagicMock())
    monkeypatch.setitem(sys.modules, "matplotlib.figure", MagicMock(Figure=lambda **_: figure))
    assert plot(CELLS, (20, 50, 200), tmp_path / "plot.png")
    by_epsilon, by_round, by_devices = axes
    assert [list(call.args[0]) for call in by_epsilon.plot.call_args_list] == [[8.0, 4.0, 2.0, 1.0]] * 3
    assert by_epsilon.axhline.call_count == 3
    assert [call.kwargs["label"] for call in by_round.plot.call_args_list] == [*ROWS[:2], *(f"epsilon {row}" for row in ROWS[2:])]
    assert [list(call.args[1]) for call in by_devices.plot.call_args_list] == [pytest.approx([0.2] * 3)] * len(ROWS)
    assert "50 devices" in by_round.set.call_args.kwargs["xlabel"]
    assert figure.savefig.call_args.args == (tmp_path / "plot.png",)


def test_the_last_line_compares_with_the_same_federation_without_noise_and_without_either(federations, capsys):
    said = run.simulate(made_up(), Setting(rounds=2, epsilon=8.0), 20, "uploader")
    assert [setting.epsilon for _, setting in federations] == [8.0, None, None]
    assert [setting.is_clipped for _, setting in federations] == [True, True, False]
    assert said["accuracy"] == said["accuracy_base"] == 0.0
    assert said["accuracy_no_dp"] == said["accuracy_unclipped"] == said["accuracy_central"] == 1.0
    assert said["all_labels"] == said["new_speaker"] == pytest.approx(2 / 3, abs=1e-4)
    assert (said["epsilon"], said["rounds"], said["devices"]) == (8.0, 2, 20)
    told = capsys.readouterr().err
    assert "bell (poor): federated 0/10, base 0/10, central 10/10, no_dp 10/10, unclipped 10/10" in told
    assert "distinct clips" in told


def test_alone_a_federation_is_compared_with_the_base_model_only(federations):
    said = run.simulate(made_up(), Setting(rounds=2, epsilon=None), 20, "uploader", is_alone=True)
    assert len(federations) == 1
    assert said["accuracy"] == 1.0
    assert said["accuracy_no_dp"] is said["accuracy_central"] is said["accuracy_unclipped"] is said["epsilon"] is None


def test_without_strangers_nothing_is_said_of_them(federations):
    task = made_up()
    sounds = replace(task.sounds, part=np.where(task.sounds.part == STRANGER, UNUSED, task.sounds.part))
    said = run.simulate(replace(task, sounds=sounds), Setting(rounds=2, epsilon=8.0), 20, "uploader", is_alone=True)
    assert not [key for key in said if key.startswith("new_speaker")]


@pytest.fixture
def data(tmp_path):
    """A folder that looks like one to simulate on."""
    (tmp_path / "fsdd" / "recordings").mkdir(parents=True)
    (tmp_path / "esc10").mkdir()
    (tmp_path / "esc10" / "esc10.csv").touch()
    return str(tmp_path)


def test_the_command_line_s_recipe_is_the_federation_s(data):
    asked = run.arguments(["--data", data])
    assert run.setting_of(asked) == Setting(rounds=10, epsilon=8.0, recipe=Recipe(), workers=asked.workers)
    asked = run.arguments(["--data", data, "--epsilon", "none", "--rank", "8", "--step", "2", "--lies", "0.1", "--workers", "1"])
    assert run.setting_of(asked) == Setting(rounds=10, epsilon=None, lies=0.1, recipe=Recipe(rank=8, learning_rate=2.0))


@pytest.mark.parametrize("runs", ["0", "-1", "some"])
def test_a_table_of_no_runs_is_not_begun(runs, data, capsys):
    with pytest.raises(SystemExit):
        run.arguments(["--data", data, "--runs", runs])
    assert "give a whole number, 1 or more" in capsys.readouterr().err


def test_what_is_refused_is_said_with_its_remedy_and_ends_with_its_code(data, monkeypatch, capsys):
    def refused(sounds, rank):
        raise ModelError("the directions are another encoder's", hint="run `make axes`")

    monkeypatch.setattr(run, "load_sounds", lambda *_, **__: None)
    monkeypatch.setattr(run, "make_task", refused)
    with pytest.raises(SystemExit) as ended:
        run.run(lambda: run.main(["--data", data]))
    assert ended.value.code == ModelError.exit_code
    assert capsys.readouterr().err.endswith(": the directions are another encoder's; run `make axes`\n")
