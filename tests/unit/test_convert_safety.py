"""Checkpoint files that are damaged or made to do harm: an error, nothing run, little memory."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from facke_core.config import to_dict, write_json
from facke_core.convert import run as run_module
from facke_core.convert.run import convert
from facke_core.errors import FackeError, VerificationError, WeightsError

LIMIT = 500 * 2**20
"""What converting such a file may cost above what the process had before."""
PROTO = b"\x80\x02"


def tiny() -> dict[str, Tensor]:
    """An official SimSwap generator with the right names and hardly any channels."""
    state: dict[str, Tensor] = {}

    def layer(name: str, *shape: int, norm: str = "") -> None:
        state[f"{name}.weight"], state[f"{name}.bias"] = torch.rand(shape), torch.rand(shape[0])
        if norm:
            for key in ("weight", "bias", "running_mean", "running_var"):
                state[f"{norm}.{key}"] = torch.rand(shape[0])
            state[f"{norm}.num_batches_tracked"] = torch.tensor(3)

    widths = (2, 3, 4, 5)
    layer("first_layer.1", 2, 3, 7, 7, norm="first_layer.2")
    for i in range(3):
        layer(f"down{i + 1}.0", widths[i + 1], widths[i], 3, 3, norm=f"down{i + 1}.1")
        layer(f"up{i + 1}.1", widths[i], widths[i + 1], 3, 3, norm=f"up{i + 1}.2")
    for i in (1, 2):
        layer(f"BottleNeck.0.conv{i}.1", 5, 5, 3, 3)
        layer(f"BottleNeck.0.style{i}.linear", 10, 4)
    layer("last_layer.1", 3, 2, 7, 7)
    return state


def saved(value: Any, *, legacy: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def zipped(pickled: bytes, *others: tuple[str, bytes], how: int = zipfile.ZIP_STORED) -> bytes:
    """A zip checkpoint around this pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", how, compresslevel=1) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", b"3\n")
        for name, data in others:
            archive.writestr(name, data)
    return buffer.getvalue()


def streamed(pickled: bytes, keys: list[str] | None = None, storages: bytes = b"") -> bytes:
    """A checkpoint of torch before 1.6 around this pickle."""
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    parts = [0x1950A86A20F9469CFC6C, 1001, system]
    head = b"".join(pickle.dumps(part, protocol=2) for part in parts)
    return head + pickled + pickle.dumps(keys or [], protocol=2) + storages


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    return pickle.dumps(value, protocol=2)[2:-1]


def storage(key: str, numel: int, *, legacy: bool = False) -> bytes:
    """A float32 storage as a persistent id."""
    head = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu")
    return head + number(numel) + b"N" * legacy + b"tQ"


def tensor(of: bytes, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    def sizes(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(map(number, values)) + b"t"

    hooks = b"ccollections\nOrderedDict\n)R"
    body = of + number(offset) + sizes(shape) + sizes(stride) + b"\x89" + hooks
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + body + b"tR"


def state(*named: bytes) -> bytes:
    """A state dict of these tensors."""
    items = b"".join(text(f"layer{i}.weight") + value for i, value in enumerate(named))
    return PROTO + b"}(" + items + b"u."


def attacks(canary: str) -> Iterator[tuple[str, bytes]]:
    """Pickles that try to run a command, by every step that could."""
    command = f"touch {canary}"
    args = b"(" + text(command) + b"t"
    yield "GLOBAL, REDUCE", PROTO + b"cos\nsystem\n" + args + b"R."
    yield (
        "STACK_GLOBAL, REDUCE",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93" + args + b"R.",
    )
    yield "INST", b"(S'" + command.encode() + b"'\nios\nsystem\n."
    yield "OBJ", PROTO + b"(cos\nsystem\n" + text(command) + b"o."
    yield "NEWOBJ", PROTO + b"csubprocess\nPopen\n(](" + text("touch") + text(canary) + b"et\x81."
    yield (
        "NEWOBJ_EX",
        b"\x80\x04csubprocess\nPopen\n(](" + text("touch") + text(canary) + b"et}\x92.",
    )
    yield (
        "BUILD with __setstate__",
        PROTO + b"cbuiltins\nobject\n)\x81}" + text("__setstate__") + b"cos\nsystem\ns" + b"b"
        + text(command) + b"b.",
    )  # fmt: skip
    code = f"open({canary!r}, 'w').close()"
    yield "builtins.exec", PROTO + b"cbuiltins\nexec\n(" + text(code) + b"tR."
    yield "builtins.eval", PROTO + b"c__builtin__\neval\n(" + text(code) + b"tR."
    yield "getattr of an import", (
        PROTO + b"cbuiltins\ngetattr\n(cbuiltins\n__import__\n(" + text("os") + b"tR"
        + text("system") + b"tR" + args + b"R."
    )  # fmt: skip
    yield "EXT1", PROTO + b"\x82\x01)R."
    source = f"import os; os.system({command!r})"
    yield "source text of a module", (
        PROTO + b"((" + text("module") + b"cmodels\nResNet\n" + text("models.py") + text(source)
        + b"tQ)\x81}" + text("_modules") + b"}sbt."
    )  # fmt: skip
    yield "torch.load inside", PROTO + b"ctorch\nload\n(" + text(canary) + b"tR."
    yield "a network with a side", PROTO + b"}(" + text("model") + b"cos\nsystem\n" + args + b"Ru."
    inner = b"cos\nsystem\n" + args + b"R"
    yield (
        "rebuild with a call",
        PROTO + b"ctorch._utils\n_rebuild_parameter\n(" + inner + b"\x88NtR.",
    )
    yield "rebuild from a type", (
        PROTO + b"ctorch._tensor\n_rebuild_from_type_v2\n(cos\nsystem\nN" + args + b"NtR."
    )  # fmt: skip
    yield "persistent id", PROTO + b"cos\nsystem\n" + args + b"RQ."


def floods() -> Iterator[tuple[str, bytes]]:
    """Files that claim or describe far more than they hold."""
    small = ("archive/data/0", b"\0" * 16)
    giant = 2**30
    yield "gigabyte storage", zipped(state(tensor(storage("0", giant), 0, (giant,), (1,))), small)
    yield "gigabyte tensor", zipped(state(tensor(storage("0", 4), 0, (giant,), (1,))), small)
    yield "expanded tensor", zipped(state(tensor(storage("0", 4), 0, (giant, 4), (0, 1))), small)
    yield "offset beyond", zipped(state(tensor(storage("0", 4), 3, (2,), (1,))), small)
    yield "stride beyond", zipped(state(tensor(storage("0", 4), 0, (2, 2), (3, 1))), small)
    yield "negative size", zipped(state(tensor(storage("0", 4), 0, (-2, -2), (1, 1))), small)
    yield "negative stride", zipped(state(tensor(storage("0", 4), 2, (2,), (-1,))), small)
    yield "absent storage", zipped(state(tensor(storage("7", 4), 0, (4,), (1,))), small)
    yield "huge sizes", zipped(state(tensor(storage("0", 4), 0, (2**60,) * 8, (1,) * 8)), small)
    lots = [tensor(storage("0", 2**20), 0, (2**20,), (1,))] * 3000
    yield "one storage, 3000 times", zipped(state(*lots), ("archive/data/0", b"\0" * 2**22))
    claim = state(tensor(storage("0", giant, legacy=True), 0, (giant,), (1,)))
    yield "legacy gigabyte", streamed(claim, ["0"], struct.pack("<q", giant) + b"\0" * 16)
    fair = state(tensor(storage("0", 4, legacy=True), 0, (4,), (1,)))
    yield "legacy count differs", streamed(fair, ["0"], struct.pack("<q", 2**40) + b"\0" * 16)
    yield "legacy without numbers", streamed(fair, ["0"])
    yield "legacy without keys", streamed(fair)
    yield "legacy negative count", streamed(fair, ["0"], struct.pack("<q", -1) + b"\0" * 16)

    bomb = zipped(state(), ("archive/data/0", b"\0" * 2**29), how=zipfile.ZIP_DEFLATED)
    assert len(bomb) < 2**22
    yield "zip bomb", bomb
    yield "deflated pickle", zipped(b"]" * 2**29, how=zipfile.ZIP_DEFLATED)
    yield "path", zipped(state(), ("archive/../../canary", b"x"))
    yield "absolute path", zipped(state(), ("/tmp/canary", b"x"))
    yield "windows path", zipped(state(), ("archive/data/..\\..\\canary", b"x"))
    yield "second archive", zipped(state(), ("other/data.pkl", b"x"))
    yield "TorchScript", zipped(state(), ("archive/code/model.py", b"x"))
    yield "other zip", _any_zip()
    yield "overlapping members", _overlapping()
    yield "many members", zipped(state(), *((f"archive/data/{i}", b"") for i in range(60_000)))

    yield "many lists", zipped(PROTO + b"]" * 2**24 + b".")
    yield "many dicts", streamed(PROTO + b"}" * 2**24 + b".")
    yield "nested tuples", zipped(PROTO + b")" + b"\x85" * 400_000 + b".")
    yield (
        "nested objects",
        zipped(PROTO + b"ca\nb\n)\x81" + b"ca\nb\n)\x81" * 50_000 + b"b" * 50_000 + b"."),
    )
    laughs = PROTO + b")" + b"q\x00h\x00\x86" * 200
    yield "laughs as a key", zipped(PROTO + b"}" + laughs[2:] + b"Ns.")
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage("0", 4) + number(0)
    yield "laughs as a size", zipped(state(rebuild + laughs[2:] + b"))NtR"), small)
    wide = b"(" + b"".join(number(i) + b"N\x86" for i in range(100_000)) + b"l"
    again = (
        b"ccollections\nOrderedDict\nq\x01" + wide + b"q\x02\x85R0" + b"h\x01h\x02\x85R" * 90_000
    )
    yield "many copies of a dict", zipped(PROTO + again + b".")
    same = b"".join(number((2**61 - 1) * i) + b"N" for i in range(1, 100_000))
    yield "keys that collide", zipped(PROTO + b"}(" + same + b"u.")
    put = b"".join(b"p" + str((2**61 - 1) * i).encode() + b"\n" for i in range(1, 100_000))
    yield "memo that collides", zipped(PROTO + b"}" + put + b".")
    yield (
        "escapes in a name",
        zipped(
            PROTO
            + b"}"
            + text("\x1b[2Jlayer.weight")
            + tensor(storage("0", 4), 0, (4,), (1,))
            + b"s.",
            small,
        ),
    )
    yield "modules in modules", zipped(PROTO + _doubling_modules() + b".")
    yield "large number", zipped(PROTO + b"\x8b" + struct.pack("<i", 2**24) + b"\1" * 2**24 + b".")
    yield "long text", zipped(b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"a" * 100 + b".")
    yield "negative length", zipped(PROTO + b"T" + struct.pack("<i", -5) + b".")
    yield "no stop", zipped(PROTO + b"}")
    yield "stack underflow", zipped(PROTO + b"0000.")
    yield "mark underflow", zipped(PROTO + b"(K\x01R.")
    yield "unknown memo", zipped(PROTO + b"h\x07.")
    yield "buffers", zipped(b"\x80\x05\x97.")


def _overlapping() -> bytes:
    """An archive whose members all lie in one place: checking them would read it 1000 times."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", state())
        archive.writestr("archive/data/0", b"\0" * 2**20)
        for i in range(1, 1000):
            info = copy.copy(archive.infolist()[1])
            info.filename = f"archive/data/{i}"
            archive.filelist.append(info)
    return buffer.getvalue()


def _any_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("folder/readme.txt", b"hello")
    return buffer.getvalue()


def _doubling_modules() -> bytes:
    """A module that holds the one before twice, 60 times over: 2**60 places."""
    made = b"cm\nM\n)\x81}b"
    for i in range(60):
        memo = bytes([i])
        made += b"q" + memo + b"0cm\nM\n)\x81}" + text("_modules") + b"}("
        made += text("a") + b"h" + memo + text("b") + b"h" + memo + b"usb"
    return made


def others() -> Iterator[tuple[str, bytes]]:
    """Files that are something else, or broken off."""
    yield "empty", b""
    yield "page", b"<!DOCTYPE html><html><body>Quota exceeded</body></html>"
    yield "bare pickle", pickle.dumps({"a": 1})
    yield "text pickle", pickle.dumps({"a": [1, 2]}, protocol=0)
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    yield "real tar", tar.getvalue()
    yield "no network", saved({"epoch": 3})
    yield "optimiser", saved({"state": {}, "param_groups": [{"lr": 0.1}]})
    yield "another network", saved({"some.weight": torch.zeros(3)})
    yield "zeros", b"\0" * 1000
    for legacy in (False, True):
        whole = saved(tiny(), legacy=legacy)
        for share in (0.1, 0.5, 0.9, 0.999):
            yield (
                f"cut at {share}, {'legacy' if legacy else 'zip'}",
                whole[: int(share * len(whole))],
            )


RUN = """
import json, os, re, resource, sys
from pathlib import Path
import facke_core.convert.run, facke_gan.kinds, facke_vae.kinds, facke_diffusion.kinds
from facke_cli.main import main
here = Path(sys.argv[1])
limit = int(sys.argv[2])
size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + limit, size + limit))
peak = lambda: int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])
before = peak()
found = {}
for file in sorted(here.glob("*.pth")):
    code = main(["weights", "convert", str(file), "-o", str(here / "out" / file.stem)])
    found[file.stem] = [code, (peak() - before) * 1024, len(list(here.glob("out*/*")))]
print(json.dumps(found))
"""

Found = dict[str, tuple[int, int, int]]


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], tuple[Any, str]]]:
    """All these files, converted one after the other in one process of bounded memory."""
    folder = tmp_path_factory.mktemp("malicious")
    canary = folder / "canary"
    names: dict[str, str] = {}
    cases = [("attack", f"{name}, {form}", wrap(data)) for name, data in attacks(str(canary))
             for form, wrap in (("zip", zipped), ("legacy", streamed))]  # fmt: skip
    made = list(floods())
    assert [name for name, _ in made] == FLOODS
    cases += [("flood", name, data) for name, data in made]
    made = list(others())
    assert sorted(name for name, _ in made) == sorted(OTHERS)
    cases += [("other", name, data) for name, data in made]
    for i, (kind, name, data) in enumerate(cases):
        names[f"{kind}: {name}"] = f"{i:03}"
        (folder / f"{i:03}.pth").write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(folder), str(LIMIT)],
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads(done.stdout)
    assert len(results) == len(cases)
    said = done.stderr
    yield lambda name: (results[names[name]], said)
    assert not canary.exists()


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
ATTACKS = [f"attack: {name}, {form}" for name, _ in attacks("x") for form in ("zip", "legacy")]
FLOODS = [
    "gigabyte storage", "gigabyte tensor", "expanded tensor", "offset beyond", "stride beyond",
    "negative size", "negative stride", "absent storage", "huge sizes", "one storage, 3000 times",
    "legacy gigabyte", "legacy count differs", "legacy without numbers", "legacy without keys",
    "legacy negative count", "zip bomb", "deflated pickle", "path", "absolute path",
    "windows path", "second archive", "TorchScript", "other zip", "overlapping members",
    "many members", "many lists", "many dicts", "nested tuples", "nested objects",
    "laughs as a key", "laughs as a size", "many copies of a dict", "keys that collide",
    "memo that collides", "escapes in a name", "modules in modules", "large number", "long text",
    "negative length", "no stop", "stack underflow", "mark underflow", "unknown memo", "buffers",
]  # fmt: skip
OTHERS = [
    "empty", "page", "bare pickle", "text pickle", "real tar", "no network", "optimiser",
    "another network", "zeros",
    *(f"cut at {share}, {form}" for share in (0.1, 0.5, 0.9, 0.999) for form in ("zip", "legacy")),
]  # fmt: skip


@pytest.mark.parametrize(
    "name", [*ATTACKS, *(f"flood: {n}" for n in FLOODS), *(f"other: {n}" for n in OTHERS)]
)
def test_a_malicious_or_broken_file_is_an_error_and_nothing_more(
    name: str, tried: Callable[[str], tuple[Any, str]]
) -> None:
    (code, grown, written), said = tried(name)
    assert code in (2, 3)
    assert grown < LIMIT
    assert written == 0
    assert "unexpected" not in said
    assert "\x1b" not in said


def test_the_attacks_would_work(tmp_path: Path) -> None:
    """That the canary is planted where an unpickler would trip over it."""
    worked = 0
    for name, data in attacks(str(tmp_path / "canary")):
        code = "import pickle, sys; pickle.loads(bytes.fromhex(sys.argv[1]))"
        if name in ("GLOBAL, REDUCE", "STACK_GLOBAL, REDUCE", "INST", "OBJ", "builtins.exec"):
            subprocess.run([sys.executable, "-c", code, data.hex()], capture_output=True)
            assert (tmp_path / "canary").exists(), name
            (tmp_path / "canary").unlink()
            worked += 1
    assert worked == 5


@pytest.mark.parametrize("legacy", [False, True])
def test_the_honest_file_is_read(legacy: bool, tmp_path: Path) -> None:
    (tmp_path / "G.pth").write_bytes(saved(tiny(), legacy=legacy))
    report = convert(tmp_path / "G.pth", tmp_path / "out")
    assert (report.kind, report.tensors) == ("simswap", len(tiny()))
    out = tmp_path / "out"
    found = {f.relative_to(out).as_posix() for f in out.rglob("*") if f.is_file()}
    assert found == set(report.files)
    assert "test/io.safetensors" in found


# -- random damage -------------------------------------------------------------------------------


@pytest.fixture
def no_golden(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a run of the network: damaged weights may well be no numbers."""

    def plain(folder: Path, config: Any, *, registry: Any) -> Any:
        write_json(folder / "config.json", to_dict(config))
        return config

    monkeypatch.setattr(run_module, "try_golden", plain)


HONEST = {legacy: saved(tiny(), legacy=legacy) for legacy in (False, True)}


@pytest.mark.usefixtures("no_golden")
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    legacy=st.booleans(),
    changes=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=0, max_size=6)),
        min_size=1,
        max_size=5,
    ),
    remove=st.booleans(),
    at_the_pickle=st.booleans(),
)
def test_random_damage_is_noticed_or_harmless(
    legacy: bool,
    changes: list[tuple[float, bytes]],
    remove: bool,
    at_the_pickle: bool,
    tmp_path: Path,
) -> None:
    data = bytearray(HONEST[legacy])
    span = 6000 if at_the_pickle else len(data)
    for place, new in changes:
        start = int(place * span)
        data[start : start + (len(new) + 1 if remove else len(new))] = new
    file = tmp_path / "damaged.pth"
    file.write_bytes(data)
    with contextlib.suppress(FackeError):
        convert(file, tmp_path / "out", force=True)


# -- what the command says and leaves ------------------------------------------------------------


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    (tmp_path / "G.pth").write_bytes(saved(tiny()))
    with pytest.raises(WeightsError, match="not empty"):
        convert(tmp_path / "G.pth", tmp_path / "out")
    (tmp_path / "bad.pth").write_bytes(saved(tiny())[:-5000])
    with pytest.raises(VerificationError, match="nothing in it was executed"):
        convert(tmp_path / "bad.pth", tmp_path / "out", force=True)
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["mine.txt"]
    convert(tmp_path / "G.pth", tmp_path / "out", force=True)
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"
    assert {file.name for file in tmp_path.iterdir()} == {"G.pth", "bad.pth", "out"}


def test_a_flipped_bit_among_the_weights_is_seen_in_a_zip(tmp_path: Path) -> None:
    data = bytearray(saved(tiny()))
    with zipfile.ZipFile(io.BytesIO(bytes(data))) as archive:
        info = max(archive.infolist(), key=lambda i: "data/" in i.filename and i.file_size)
    data[info.header_offset + 200] ^= 1
    (tmp_path / "G.pth").write_bytes(data)
    with pytest.raises(VerificationError, match="checksum"):
        convert(tmp_path / "G.pth", tmp_path / "out")


def test_an_unknown_network_is_described(tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(saved({"tower.weight": torch.zeros(3, 4)}))
    with pytest.raises(WeightsError, match=r"1 tensors, such as tower.weight \(3, 4\)") as error:
        convert(tmp_path / "x.pth", tmp_path / "out")
    assert "simswap" in str(error.value)
    with pytest.raises(WeightsError, match="not of the kind arcface"):
        convert(tmp_path / "x.pth", tmp_path / "out", kind="arcface")
