"""`rounds.toml`: what it says wrongly is said before a round begins, with the file, the name and what is right."""

import pytest
from tests.support.federation import Federation

from earmark_server.checkpoint import Model
from earmark_server.cli import main
from earmark_server.coordinator import Profile
from earmark_server.rounds import KINDS, PROFILE, PUBLIC_SET, check_rounds, read_profile
from earmark_shared.base_head import base_arrays, base_schema
from earmark_shared.errors import SettingsError


@pytest.fixture
def folder(tmp_path):
    Federation(tmp_path / "srv").close()
    return tmp_path / "srv"


@pytest.fixture
def lab(tmp_path):
    Federation(tmp_path / "lab", is_lab=True).close()
    return tmp_path / "lab"


def refused(folder, text):
    (folder / PROFILE).write_text(text)
    with pytest.raises(SettingsError) as caught:
        read_profile(folder)
    assert str(folder / PROFILE) in str(caught.value)
    return f"{caught.value} {caught.value.hint}"


def test_what_is_not_said_is_the_default(folder, lab):
    assert read_profile(folder) == Profile()
    assert read_profile(lab) == Profile(n_min=5, is_lab=True)


def test_each_setting_can_be_said(folder):
    (folder / PROFILE).write_text(
        "n_min = 32\nn_max = 64\nshards = 2\nz = 1\nclip_c = 0.5\nlog2_scale_c = 13\nrate = 1.5\ndeadline_s = [10, 20, 600, 40, 50]\n"
    )
    wanted = Profile(0.5, 13, 1.0, 32, 64, (10, 20, 600, 40, 50), 2, 1.5)
    assert read_profile(folder) == wanted
    assert isinstance(read_profile(folder).z, float)
    assert set(KINDS) == set(Profile.__dataclass_fields__) - {"is_lab"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_min", '"32"'),
        ("n_min", "32.0"),
        ("n_min", "true"),
        ("z", '"1"'),
        ("z", "false"),
        ("deadline_s", "60"),
        ("deadline_s", "[60, 60, 60]"),
        ("deadline_s", '["60", 60, 300, 30, 60]'),
        ("n_min", "19"),
        ("n_min", "-1"),
        ("n_min", "300"),
        ("n_max", "31"),
        ("n_max", "257"),
        ("z", "-1"),
        ("z", "nan"),
        ("z", "65"),
        ("clip_c", "0"),
        ("clip_c", "inf"),
        ("log2_scale_c", "8"),
        ("log2_scale_c", "19"),
        ("shards", "0"),
        ("deadline_s", "[60, 60, 601, 30, 60]"),
        ("deadline_s", "[60, 60, 300, 0, 60]"),
        ("rate", "0"),
        ("rate", "nan"),
        ("rate", "11"),
        ("is_lab", "true"),
        ("cohort", "20"),
    ],
)
def test_a_setting_that_can_not_be_followed_is_named(folder, name, value):
    said = refused(folder, f"{name} = {value}\n")
    assert name in said or "at least 20 devices" in said, said


def test_what_is_no_toml_is_refused(folder):
    refused(folder, "n_min 32")


def test_a_plan_lasts_longer_than_its_own_phases_twice(folder):
    (folder / PROFILE).write_text("deadline_s = [600, 600, 600, 600, 600]\n")
    plan = read_profile(folder).draft(Model(0, base_schema(), base_arrays()), 1_800_000_000)
    assert plan.not_after - 1_800_000_000 > 2 * 5 * 600


@pytest.mark.parametrize(("file", "content"), [(PROFILE, 'n_min = "32"'), (PUBLIC_SET, "no arrays")])
def test_no_round_is_started_with_what_would_end_it(folder, capsys, monkeypatch, file, content):
    monkeypatch.setattr("earmark_server.cli.harden_process", lambda: None)
    check_rounds(folder)
    monkeypatch.setattr("earmark_server.node.run_rounds", lambda *_, **__: pytest.fail("it was started"))
    (folder / file).write_text(content)
    assert main(["round", str(folder), "--flower-port", "1"]) == SettingsError.exit_code
    said = capsys.readouterr().err
    assert str(folder / file) in said
    assert "hint" in said
