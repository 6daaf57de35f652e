"""Crop sets on disk, and the digest that ties their vectors to an encoder."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from facke_core.data.crops import CropSet, check_encoder
from facke_core.data.shards import TarShard, digits_for, shards_of, write_shard
from facke_core.data.tensors import Column, read_tensors, write_tensors
from facke_core.errors import DataError
from facke_core.identity.digest import encoder_digest
from standins import ColourEncoder, meshes

SIZE = 16


def crop_set(n: int = 12, *, seed: int = 0) -> CropSet:
    rng = torch.Generator().manual_seed(seed)
    return CropSet(
        images=torch.randint(0, 256, (n, 3, SIZE, SIZE), generator=rng, dtype=torch.uint8),
        mesh=meshes(n, SIZE, rng),
        embeddings=nn.functional.normalize(torch.randn(n, 2, 8, generator=rng), dim=-1),
        people=torch.arange(n) // 2,
        weights=torch.rand(n, generator=rng),
        info={"name": "tiny"},
    )


def colours(scale: float = 1.0, centre: float = 0.0) -> ColourEncoder:
    return ColourEncoder(size=SIZE, template="ffhq", scale=scale, centre=centre)


def test_a_crop_set_survives_the_disk(tmp_path: Path) -> None:
    crops = crop_set()
    crops.save(tmp_path / "set")
    again = CropSet.load(tmp_path / "set")
    assert len(again) == len(again.images) == 12
    for name in ("mesh", "embeddings", "people", "weights"):
        assert torch.equal(getattr(again, name), getattr(crops, name)), name
    assert torch.equal(again.images[:], crops.images[:])
    assert again.info["name"] == "tiny"


def test_pictures_are_read_in_any_order_and_more_than_once(tmp_path: Path) -> None:
    crops = crop_set(40)
    crops.save(tmp_path / "set")
    images = CropSet.load(tmp_path / "set").images
    index = torch.tensor([39, 0, 7, 7, 21])
    assert torch.equal(images[index], crops.images[index])
    assert torch.equal(images[3:5], crops.images[3:5])
    assert images[index[:0]].shape == (0, 3, SIZE, SIZE)
    with pytest.raises(IndexError):
        images[torch.tensor([40])]


def test_a_loaded_set_can_be_sent_to_another_process(tmp_path: Path) -> None:
    crops = crop_set()
    crops.save(tmp_path / "set")
    sent = pickle.dumps(CropSet.load(tmp_path / "set").images)
    assert len(sent) < crops.images[:].numel() / 2, "the pictures stay on the disk"
    assert torch.equal(pickle.loads(sent)[:], crops.images[:])


def test_a_set_without_landmarks_has_none(tmp_path: Path) -> None:
    replace(crop_set(), mesh=None).save(tmp_path / "set")
    again = CropSet.load(tmp_path / "set")
    assert again.mesh is None


def test_the_set_for_training_is_found_beside_the_one_for_testing(tmp_path: Path) -> None:
    crop_set(4).save(tmp_path / "set" / "train")
    crop_set(2).save(tmp_path / "set" / "test")
    assert len(CropSet.load(tmp_path / "set")) == 4


def test_saving_refuses_keys_that_are_out_of_order(tmp_path: Path) -> None:
    keys = torch.arange(12).flip(0)[:, None].expand(12, 32).to(torch.uint8)
    with pytest.raises(DataError, match="ascending"):
        replace(crop_set(), keys=keys).save(tmp_path / "set")


def named() -> CropSet:
    return replace(crop_set(), info={"people": ["ada", "bob", "cyd", "dee", "eva", "fay"]})


@pytest.mark.parametrize("stored", [False, True])
def test_people_whom_a_file_names_are_left_out(stored: bool, tmp_path: Path) -> None:
    crops = named()
    if stored:
        crops.save(tmp_path / "set")
        crops = CropSet.load(tmp_path / "set")
    (tmp_path / "people.txt").write_text("bob\nfay\nzoe\n")
    left = crops.without(tmp_path / "people.txt")
    rows = torch.tensor([0, 1, 4, 5, 6, 7, 8, 9])
    assert len(left) == len(left.images) == 8
    for name in ("mesh", "embeddings", "people", "weights"):
        assert torch.equal(getattr(left, name), getattr(crops, name)[rows]), name
    assert torch.equal(left.images[torch.tensor([2, 7])], named().images[torch.tensor([4, 9])])
    assert torch.equal(left.images[:3], named().images[rows[:3]])
    assert left.digest() != crops.digest()


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ("zoe\n", "names nobody of the 6 people"),
        ("ada\nbob\ncyd\ndee\neva\nfay\n", "names everybody"),
        (None, "cannot be read"),
        (b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_a_file_that_leaves_out_nobody_or_everybody_is_refused(
    names: str | bytes | None, says: str, tmp_path: Path
) -> None:
    file = tmp_path / "people.txt"
    if names is not None:
        file.write_bytes(names.encode() if isinstance(names, str) else names)
    with pytest.raises(DataError, match=says):
        named().without(file)


def break_info(folder: Path, **changes: Any) -> None:
    info = json.loads((folder / "dataset.json").read_text())
    info = {key: value for key, value in (info | changes).items() if value is not None}
    (folder / "dataset.json").write_text(json.dumps(info))


def first_shard(folder: Path) -> Path:
    return min(folder.glob("crops-*"))


def of_format_1(folder: Path) -> None:
    break_info(folder, format=None)


def with_broken_json(folder: Path) -> None:
    (folder / "dataset.json").write_text("{")


def cut_short(folder: Path) -> None:
    shard = first_shard(folder)
    shard.write_bytes(shard.read_bytes()[:-100])


def without_a_shard(folder: Path) -> None:
    first_shard(folder).unlink()


def with_a_shard_of_another_set(folder: Path) -> None:
    write_shard(
        first_shard(folder),
        [bytes(31) + b"\1"],
        [torch.zeros(3, SIZE, SIZE, dtype=torch.uint8)],
        size=SIZE,
        preparation="",
    )


def with_vectors_of_another_set(folder: Path) -> None:
    columns = {"embeddings": Column.of(torch.zeros(3, 2, 8))}
    write_tensors(folder / "identity.safetensors", columns, {})


def with_other_meshes(folder: Path) -> None:
    crops = CropSet.load(folder)
    assert crops.mesh is not None
    replace(crops, mesh=crops.mesh[:, :-1].clone(), images=crops.images[:]).save(folder)


def interrupted(folder: Path) -> None:
    (folder / "dataset.json").unlink()
    (folder / ".unfinished").mkdir()


def no_set_at_all(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (of_format_1, "format 1"),
        (with_broken_json, "dataset.json cannot be read"),
        (cut_short, "cannot be read"),
        (without_a_shard, "cannot be read"),
        (with_a_shard_of_another_set, "other pictures|do not belong"),
        (with_vectors_of_another_set, "do not belong together"),
        (with_other_meshes, "has meshes of"),
        (interrupted, "was not finished"),
        (no_set_at_all, "is not a dataset"),
    ],
)
def test_an_unusable_set_is_refused_with_the_command_to_repair_it(
    damage: Callable[[Path], None], reason: str, tmp_path: Path
) -> None:
    folder = tmp_path / "set"
    crop_set().save(folder)
    damage(folder)
    with pytest.raises(DataError, match=reason) as refused:
        CropSet.load(folder)
    assert "prepare" in str(refused.value)


def test_a_picture_stays_in_its_shard_when_others_come() -> None:
    keys = sorted(bytes([i * 7 % 256]) * 32 for i in range(200))
    few = {key: name for name, a, b in shards_of(keys[::3], 1) for key in keys[::3][a:b]}
    many = {key: name for name, a, b in shards_of(keys, 1) for key in keys[a:b]}
    assert all(many[key] == name for key, name in few.items())
    assert sum(b - a for _, a, b in shards_of(keys, 2)) == 200


def test_shards_hold_a_few_hundred_pictures() -> None:
    assert [digits_for(n) for n in (1, 8192, 8193, 1_360_000)] == [1, 1, 2, 3]


def test_a_tar_is_read_by_its_index_and_refuses_another(tmp_path: Path) -> None:
    images = list(torch.randint(0, 256, (5, 3, SIZE, SIZE), dtype=torch.uint8))
    keys = [bytes([i]) * 32 for i in range(5)]
    path = tmp_path / "crops-0.tar"
    write_shard(path, keys, images, size=SIZE, preparation="p")
    whole = TarShard(path)
    assert whole.keys == keys
    assert whole.preparation == "p"
    indexed = TarShard(path, whole.offsets[2:], keys[2:])
    assert torch.equal(indexed[1], images[3])
    with pytest.raises(ValueError, match="other pictures"):
        TarShard(path, whole.offsets, keys[::-1])
    before = path.read_bytes()
    write_shard(path, keys, images, size=SIZE, preparation="p")
    assert path.read_bytes() == before


def test_a_file_of_tensors_has_the_bytes_of_its_content(tmp_path: Path) -> None:
    numbers, bytes_ = torch.arange(6).view(3, 2), torch.arange(5, dtype=torch.uint8)
    for name in ("a", "b"):
        columns = {
            "bytes": Column.of(bytes_),
            "numbers": Column(torch.int64, (3, 2), iter(numbers.split(1))),
        }
        write_tensors(tmp_path / name, columns, {"y": "2", "x": "1"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    tensors, metadata = read_tensors(tmp_path / "a")
    assert torch.equal(tensors["numbers"], numbers)
    assert torch.equal(tensors["bytes"], bytes_)
    assert metadata == {"x": "1", "y": "2"}


SETTINGS = {"name": "colours"}


def test_the_digest_of_an_encoder_sees_every_number_and_setting() -> None:
    digests = [
        encoder_digest(colours(), SETTINGS),
        encoder_digest(colours(scale=1.001), SETTINGS),
        encoder_digest(colours(centre=0.001), SETTINGS),
        encoder_digest(colours(), SETTINGS | {"resize": "nearest"}),
    ]
    assert len(set(digests)) == 4


def test_the_digest_of_an_encoder_ignores_where_it_lies() -> None:
    here = encoder_digest(colours(), SETTINGS | {"weights": "a/model.safetensors"})
    assert here == encoder_digest(colours(), SETTINGS | {"weights": "b/model.safetensors"})


def test_vectors_of_another_encoder_are_refused_with_the_call(tmp_path: Path) -> None:
    encoder = colours()
    made = {"identity_encoder": SETTINGS, "encoder_digest": encoder_digest(encoder, SETTINGS)}
    crops = replace(crop_set(), info=made | {"manifest": "faces.csv"})
    check_encoder(crops, encoder, SETTINGS, tmp_path)
    with pytest.raises(DataError) as refused:
        check_encoder(crops, colours(centre=0.1), SETTINGS, tmp_path)
    assert "with other weights or settings" in str(refused.value)
    call = f"`prepare(PHOTOS, {str(tmp_path)!r}, manifest='faces.csv', encoder="
    assert call + "'colours')`" in str(refused.value)
    other = SETTINGS | {"resize": "nearest"}
    with pytest.raises(DataError, match="keeps the crops") as refused:
        check_encoder(crops, encoder, other, tmp_path)
    assert call + f"{other!r})`" in str(refused.value)


def test_vectors_of_a_set_that_was_made_by_hand_are_told_by_the_settings() -> None:
    crops = replace(crop_set(), info={"identity_encoder": SETTINGS})
    check_encoder(crops, colours(), SETTINGS, Path("set"))
    with pytest.raises(DataError, match="unknown encoder"):
        check_encoder(crop_set(), colours(), SETTINGS, Path("set"))
