"""Networks of OpenVINO run by torch: the same numbers, and damaged files are told."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from irs import old_ir, openvino_model, saved, small
from torch import Tensor

from facke_core.errors import VerificationError
from facke_core.identity.openvino_ir import MAX_LAYERS, MAX_XML, read_ir
from facke_core.identity.operations import Operation, OperationNetwork

ROOT = Path(__file__).resolve().parents[2]
SIZE = (3, 16, 12)
SOURCE = "network.xml"


def sizes_of(
    operations: Sequence[Operation], constants: dict[str, Tensor], size: Sequence[int]
) -> dict[str, tuple[int, ...]]:
    """Name -> the size of what an operation computes, as OpenVINO finds it."""
    names = [operation.name for operation in operations]
    model = openvino_model(operations, constants, size)
    nodes = [node for node in model.get_ordered_ops() if node.get_type_name() != "Constant"]
    # one order of the operations is the one in which they were made
    nodes.sort(key=lambda node: int(node.get_friendly_name().rpartition("_")[2]))
    return {name: tuple(node.get_output_shape(0)) for name, node in zip(names, nodes, strict=True)}


def by_openvino(model: Any, picture: Tensor) -> Tensor:
    openvino = pytest.importorskip("openvino")
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return torch.from_numpy(compiled(picture.numpy())[0].copy())


@pytest.fixture(scope="module")
def ir() -> tuple[bytes, bytes]:
    """The small network as it was written in 2019."""
    pytest.importorskip("openvino")
    operations, constants = small()
    return old_ir(operations, constants, sizes_of(operations, constants, SIZE))


def test_each_operation_computes_what_openvino_computes(
    ir: tuple[bytes, bytes], tmp_path: Path
) -> None:
    operations, constants = small()
    model = openvino_model(operations, constants, SIZE)
    picture = torch.rand(1, *SIZE, generator=torch.Generator().manual_seed(1))
    expected = by_openvino(model, picture)
    assert expected.abs().max() > 0.1
    for xml, numbers in (saved(model, tmp_path), ir):
        found = read_ir(xml, numbers, source=SOURCE)(picture)
        assert torch.allclose(found, expected, atol=1e-5), (found - expected).abs().max()


def test_openvino_reads_what_the_test_writes_as_in_2019(
    ir: tuple[bytes, bytes], tmp_path: Path
) -> None:
    openvino = pytest.importorskip("openvino")
    (tmp_path / "old.xml").write_bytes(ir[0])
    (tmp_path / "old.bin").write_bytes(ir[1])
    picture = torch.rand(1, *SIZE, generator=torch.Generator().manual_seed(3))
    theirs = by_openvino(openvino.Core().read_model(tmp_path / "old.xml"), picture)
    assert torch.allclose(read_ir(*ir, source=SOURCE)(picture), theirs, atol=1e-5)


def test_pictures_of_a_batch_do_not_see_each_other(ir: tuple[bytes, bytes]) -> None:
    network = read_ir(*ir, source=SOURCE)
    pictures = torch.rand(3, *SIZE, generator=torch.Generator().manual_seed(2))
    alone = torch.cat([network(picture[None]) for picture in pictures])
    assert torch.allclose(network(pictures), alone, atol=1e-4)


def test_the_judge_is_the_same_by_openvino_by_both_readers_and_in_both_versions(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The very graph of face-reidentification-retail-0095, on a face."""
    pytest.importorskip("openvino")
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import reid

    from facke_core.images.io import read_image, resize

    direct = reid.network()
    operations, constants = direct.operations, direct.constants()
    model = openvino_model(operations, constants, (3, 128, 128))
    photo = read_image(shared / "faces/images/open/london/L002/neutral.jpg").image
    picture = resize(photo[None, :, 200:850, 200:850], (128, 128)).clamp(0, 1).flip(1) * 255
    expected = by_openvino(model, picture)
    assert expected.shape == (1, 256, 1, 1)
    sizes = sizes_of(operations, constants, (3, 128, 128))
    networks = [
        direct,
        read_ir(*saved(model, tmp_path), source=SOURCE),
        read_ir(*old_ir(operations, constants, sizes), source=SOURCE),
    ]
    with torch.inference_mode():
        for network in networks:
            found = network(picture)
            assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (b'version="10"', b'version="6"', "begins with <net version='6'>"),
        (b"<net", b"<!DOCTYPE x [<!ENTITY e 'ha'>]><net", "declares a document type"),
        (b"</net>", b"", "no element found"),
        (b'type="Sigmoid"', b'type="HSigmoid"', "is a 'HSigmoid', which facke does not compute"),
        (b'type="Sigmoid" version="opset1"', b'type="Sigmoid" version="opset9"', "of 'opset9'"),
        (b'rounding_type="floor"', b'rounding_type="ceil"', "rounding_type='ceil'"),
        (b'dilations="1,1"', b'dilations="1,1" auto_pad="same_upper"', "auto_pad='same_upper'"),
        (b'strides="2,1"', b'strides="0,1"', "strides='0,1'"),
        (b'strides="2,1"', b'strides="2,1,1"', "strides='2,1,1'"),
        (b'pads_begin="0,2"', b'pads_begin="0,99999"', "pads_begin='0,99999'"),
        (b' strides="2,1"', b"", "does not say its strides"),
        (b'strides="2,1"', b'strides="1,1"', "not of (1, 8, 8, 12)"),
        (b'offset="0"', b'offset="99999"', "ends at byte"),
        (b'offset="0"', b'offset="-4"', "'-4' stands where a number belongs"),
        (b'offset="0"', b'offset="\xd9\xa1"', "stands where a number belongs"),
        (b'size="12"', b'size="16"', "does not have 16 bytes"),
        (b'element_type="f32" offset', b'element_type="f16" offset', "is of type 'f16'"),
        (b'from-layer="0" from-port="0"', b'from-layer="0" from-port="7"', "an edge begins at"),
        (b'to-port="1"', b'to-port="5"', "an edge ends at port '5'"),
        (b'<layer id="2"', b'<layer id="1"', "two layers have the number '1'"),
        (b'type="Sigmoid"', b'type="Result"', "has 1 outputs"),
        (b'type="Sigmoid"', b'type="Add"', "a Add, reads 1 others, and such one reads 2"),
    ],
)
def test_a_damaged_or_foreign_description_is_told(
    ir: tuple[bytes, bytes], old: bytes, new: bytes, told: str
) -> None:
    assert old in ir[0]
    with pytest.raises(VerificationError) as error:
        read_ir(ir[0].replace(old, new, 1), ir[1], source=SOURCE)
    assert told in str(error.value)
    assert str(error.value).startswith(SOURCE)


def test_damaged_numbers_are_told(ir: tuple[bytes, bytes]) -> None:
    xml, numbers = ir
    with pytest.raises(VerificationError, match="ends at byte"):
        read_ir(xml, numbers[:-1], source=SOURCE)
    with pytest.raises(VerificationError, match="not finite"):
        read_ir(xml, b"\xff" * 4 + numbers[4:], source=SOURCE)


def test_endless_descriptions_are_not_read(ir: tuple[bytes, bytes]) -> None:
    with pytest.raises(VerificationError, match="at most"):
        read_ir(b"<net>" + b" " * MAX_XML, b"", source=SOURCE)
    with pytest.raises(VerificationError, match="inside of each other"):
        read_ir(b"<net>" * 10_000, b"", source=SOURCE)
    layer = '<layer id="{}" type="Const" version="opset1"><output><port id="0"/></output></layer>'
    many = "".join(layer.format(i) for i in range(MAX_LAYERS + 1))
    with pytest.raises(VerificationError, match="more than 4096 layers"):
        read_ir(f'<net version="10"><layers>{many}</layers></net>'.encode(), b"", source=SOURCE)


def test_an_operation_that_reads_what_comes_later_is_told() -> None:
    operations, constants = small()
    turned = [operations[0], operations[2], operations[1], *operations[3:]]
    with pytest.raises(VerificationError, match="reads 'a', which was not computed before"):
        OperationNetwork(turned, constants, input_size=SIZE, source=SOURCE)
    with pytest.raises(VerificationError, match="0 operations 'Result'"):
        OperationNetwork(operations[:-1], constants, input_size=SIZE, source=SOURCE)


def test_sizes_beyond_measure_take_no_memory() -> None:
    constants = {"a": torch.ones(1, 4000, 1, 1)}
    operations = [
        Operation("Parameter", "x", ()),
        Operation("Add", "y", ("x", "a")),
        Operation("Result", "z", ("y",)),
    ]
    with pytest.raises(VerificationError, match="far larger than any of a recogniser"):
        OperationNetwork(operations, constants, input_size=(1, 128, 128), source=SOURCE)


def test_no_mutation_does_more_than_be_refused(ir: tuple[bytes, bytes]) -> None:
    """Bytes, digits and lines of the description changed at random: an error, or a network."""
    rng, refused, started = random.Random(0), 0, time.monotonic()
    for _ in range(300):
        xml = bytearray(ir[0])
        for _ in range(rng.choice((1, 1, 3))):
            at = rng.randrange(len(xml))
            how = rng.randrange(4)
            if how == 0:
                xml[at] = rng.randrange(256)
            elif how == 1:
                del xml[at : at + rng.randrange(1, 60)]
            elif how == 2:
                xml[at:at] = xml[at : at + rng.randrange(1, 60)]
            else:
                digits = [i for i, byte in enumerate(xml) if chr(byte).isdigit()]
                xml[rng.choice(digits)] = ord(rng.choice("0123456789"))
        try:
            read_ir(bytes(xml), ir[1], source=SOURCE)
        except VerificationError as error:
            assert len(str(error)) < 1000  # noqa: PT017
            refused += 1
    assert 150 < refused < 300
    assert time.monotonic() - started < 60
