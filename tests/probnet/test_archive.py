"""The file of a posterior: complete or refused, and never executed."""

import json
import os
import pickle
from zipfile import ZipFile

import numpy as np
import pytest
import torch

from inference import Draws
from probnet import PosteriorState
from probnet._archive import read_header, read_state, write_posterior

STATE = PosteriorState(
    method="exact",
    diagnostics={"rhat": 1.01, "notes": ["fine"]},
    config={"hidden": [50, 50], "likelihood": {"name": "Poisson"}},
    tensors={"w": torch.arange(12.0).reshape(4, 3)},
    draws=Draws({"theta": np.arange(6.0).reshape(2, 3)}, {}, {"method": "exact"}),
)


@pytest.fixture
def path(tmp_path):
    return write_posterior(tmp_path / "saved", "any", STATE)


def read(path):
    return read_state(path, read_header(path))


def same(one, other):
    return (
        (one.method, one.diagnostics, one.config)
        == (other.method, other.diagnostics, other.config)
        and torch.equal(one.tensors["w"], other.tensors["w"])
        and np.array_equal(one.draws.draws["theta"], other.draws.draws["theta"])
    )


def test_what_is_read_is_what_was_written(path):
    assert same(read(path), STATE)
    assert read_header(path)["family"] == "any"
    assert read_header(path)["versions"].keys() == {"probnet", "torch"}


def test_views_and_shared_tensors_are_saved(tmp_path):
    base = torch.arange(6.0).reshape(2, 3)
    tensors = {"a": base, "b": base.T, "c": base[:, 1], "d": base[0].expand(4, 3)}
    path = write_posterior(tmp_path / "f", "any", PosteriorState("", {}, {}, tensors))
    found = read(path)
    assert found.draws is None
    assert all(torch.equal(found.tensors[name], t) for name, t in tensors.items())


def test_an_interrupted_save_leaves_the_old_file(path, monkeypatch):
    old = path.read_bytes()

    def full(_descriptor):
        raise OSError("No space left on device")

    monkeypatch.setattr("probnet._archive.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_posterior(path, "any", STATE)
    assert path.read_bytes() == old
    assert os.listdir(path.parent) == ["saved"]


def test_a_file_cut_anywhere_is_refused(path):
    whole = path.read_bytes()
    for length in {0, 1, len(whole) - 1, *range(0, len(whole), 197)}:
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"'.*saved' is not a complete posterior"):
            read(path)


def test_a_damaged_byte_is_refused_or_harmless(path):
    """Harmless: in a time stamp. Everything that is read has a checksum."""
    whole = path.read_bytes()
    contents, directory = range(0, len(whole), 311), range(len(whole) - 250, len(whole), 3)
    refused = 0
    for position in {*contents, *directory}:
        damaged = bytearray(whole)
        damaged[position] ^= 0x5A
        path.write_bytes(damaged)
        try:
            assert same(read(path), STATE)
        except ValueError:
            refused += 1
    assert refused > len(contents)


def replaced(path, name, content):
    """The archive with one member replaced; `None` leaves it out."""
    with ZipFile(path) as archive:
        members = {n: archive.read(n) for n in archive.namelist()}
    members[name] = content
    with ZipFile(path, "w") as archive:
        for member, data in members.items():
            if data is not None:
                archive.writestr(member, data)
    return path


def test_a_newer_format_is_refused_with_a_remedy(path):
    header = {**read_header(path), "format_version": 2, "versions": {"probnet": "9.1"}}
    with pytest.raises(ValueError, match=r"version 2, written by probnet 9\.1.*Upgrade"):
        read(replaced(path, "posterior.json", json.dumps(header)))


class Trap:
    def __reduce__(self):
        return os.mkdir, ("sprung",)


@pytest.mark.parametrize("member", ["posterior.json", "tensors.safetensors", "draws.nc"])
def test_a_pickle_in_place_of_a_part_is_refused_unopened(member, path, monkeypatch):
    monkeypatch.chdir(path.parent)
    with pytest.raises(ValueError, match="not a complete posterior"):
        read(replaced(path, member, pickle.dumps(Trap())))
    assert not os.path.exists("sprung")


@pytest.mark.parametrize("member", ["posterior.json", "tensors.safetensors", "draws.nc"])
def test_a_missing_part_is_refused(member, path):
    with pytest.raises(ValueError, match=f"not a complete posterior.*{member}"):
        read(replaced(path, member, None))


def test_other_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file '.*nothing'"):
        read(tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"read by `inference\.load`"):
        read(STATE.draws.save(tmp_path / "draws.nc"))
    with ZipFile(tmp_path / "other", "w") as archive:
        archive.writestr("posterior.json", "[]")
    with pytest.raises(ValueError, match=r"posterior\.json lacks"):
        read(tmp_path / "other")


@pytest.mark.parametrize("part", ["diagnostics", "config"])
def test_what_is_not_json_is_named(part, tmp_path):
    parts = {"diagnostics": {}, "config": {}, part: {"rhat": np.float32(1.0)}}
    with pytest.raises(TypeError, match=f"`{part}` must be JSON-able.*float32"):
        write_posterior(tmp_path / "f", "any", PosteriorState("", **parts))
    assert os.listdir(tmp_path) == []


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder '.*absent'"):
        write_posterior(tmp_path / "absent" / "saved", "any", STATE)
