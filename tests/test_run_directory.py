"""What a killed program can leave of a run directory, and that it is no dead end."""

import pytest
import tiny
from etils import epath

from experiments.errors import UserError
from experiments.info import DataInfo
from experiments.loading import read_config
from experiments.run_directory import prepare

INFO = DataInfo(shape=(8, 8, 1), classes=("a", "b"), name="arrays")
RESUME, NEW, OVERWRITE = ({"resume": r, "overwrite": o} for r, o in ((True, False), (False, False), (False, True)))


def empty(out):
    out.mkdir()


def half_a_configuration(out):
    out.mkdir()
    (out / "config.json.partial").write_text('{"version": ')


@pytest.mark.parametrize("how", [RESUME, NEW, OVERWRITE])
@pytest.mark.parametrize("left", [lambda out: None, empty, half_a_configuration])
def test_what_was_killed_before_its_configuration_stood_begins_anew(tmp_path, left, how):
    out = epath.Path(tmp_path / "run")
    left(out)
    prepare(out, tiny.recipe(), INFO, **how)
    assert [path.name for path in out.iterdir()] == ["config.json"]
    assert read_config(out)[1] == INFO


def test_the_configuration_appears_as_a_whole(tmp_path, monkeypatch):
    out = epath.Path(tmp_path / "run")
    monkeypatch.setattr(type(out), "replace", lambda self, target: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        prepare(out, tiny.recipe(), INFO, **NEW)
    assert not (out / "config.json").exists()


def test_overwriting_deletes_the_configuration_last(tmp_path, monkeypatch):
    """Killed in the middle of it, the directory is still a run, which --resume and --overwrite know."""
    out = epath.Path(tmp_path / "run")
    prepare(out, tiny.recipe(), INFO, **NEW)
    (out / "checkpoints" / "1").mkdir(parents=True)
    (out / "metrics.jsonl").write_text("{}\n")
    gone, unlink = [], type(out).unlink
    monkeypatch.setattr(type(out), "unlink", lambda path: gone.append(path.name) or unlink(path))
    prepare(out, tiny.recipe(), INFO, **OVERWRITE)
    assert gone == ["metrics.jsonl", "config.json"]
    assert [path.name for path in out.iterdir()] == ["config.json"]


def test_a_directory_of_other_files_is_refused(tmp_path):
    out = epath.Path(tmp_path)
    (out / "letter.txt").write_text("mine")
    for how, message in ((NEW, "already holds"), (OVERWRITE, "will not delete"), (RESUME, "config.json")):
        with pytest.raises(UserError, match=message):
            prepare(out, tiny.recipe(), INFO, **how)
    assert (out / "letter.txt").exists()
