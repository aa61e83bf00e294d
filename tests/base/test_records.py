"""Every kind of record saves and loads as it was; damaged and foreign files are refused in
words.
"""

import dataclasses
import json
import re

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from bilens.algebra import (
    CP,
    Dense,
    Eigen,
    Factored,
    ThirdOrder,
    affine,
)
from bilens.base.errors import ArgumentError, FileError, ShapeError
from bilens.base.records import Record, kind_of
from bilens.base.results import Result
from bilens.decompose import angles, eigen, hosvd, joint, similarity, svd, tail, top_entries
from bilens.measure import Gaussian, Samples

KINDS = {
    "Joint": lambda m: joint(m.cp()),
    "SVD": lambda m: svd(m.cp()),
    "WeightedEigen": lambda m: weighted(m),
    "OnData": lambda m: weighted(m).data,
    "Tail": lambda m: tail(m.cp(), 2),
    "TopEntries": lambda m: top_entries(m.cp(), k=3),
    "Angles": lambda m: angles(
        eigen(m.cp(2, 4), k=2).labelled(("one", "two")), eigen(m.cp(2, 4), k=2)
    ),
    "Gaussian": lambda m: Gaussian(m.randn(3), torch.eye(3).to(m.dtype), 9),
    "OnGaussian": lambda m: under(m),
    "Hermite": lambda m: under(m).hermite(),
    "Samples": lambda m: Samples(m.randn(9, 4)),
    "OnSamples": lambda m: Samples(m.randn(9, 4)).of(m.cp()),
    "Estimate": lambda m: (f := Samples(m.randn(9, 4)).of(m.cp())).inner(f),
    "Sampled": lambda m: similarity([m.cp(), m.cp()], samples=9).check,
    "Similarities": lambda m: similarity({"one": m.cp(), "two": m.cp()}, m.randn(9, 4), samples=9),
    "CP": lambda m: m.cp(),
    "Tucker": lambda m: m.tucker(),
    "Dense": lambda m: m.dense(),
    "Factored": lambda m: m.factored(),
    "QuadraticForm": lambda m: m.quadratic(batch=(2,)),
    "Eigen": lambda m: eigen(m.cp(2, 4), k=2).labelled(("one", "two")),
    "Rounded": lambda m: m.cp().round(2),
    "Gates": lambda m: m.quadratic().gates(),
    "HOSVD": lambda m: hosvd(m.cp(), (1, 2, 3)),
    "Parts": lambda m: affine(m.randn(3, 5), m.randn(5, 4), m.randn(5, 4), m.randn(3)).split(),
}


def under(m):
    return Gaussian(m.randn(4), torch.eye(4).to(m.dtype)).of(m.cp())


def weighted(m):
    return eigen(m.cp(2, 4), k=2, measure=m.randn(9, 4))


def same(one, other):
    match one:
        case torch.Tensor():
            return one.dtype == other.dtype and torch.equal(one.detach(), other)
        case Record():
            names = [field.name for field in dataclasses.fields(one)]
            return type(one) is type(other) and all(
                same(getattr(one, name), getattr(other, name)) for name in names
            )
        case dict():
            return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    return one == other and type(one) is type(other)


def test_all_kinds_of_these_floors_are_listed():
    rooms = ("bilens.algebra.", "bilens.measure.", "bilens.decompose.")
    abstract = (ThirdOrder, Result)
    kinds = [
        kind
        for kind in Record._kinds.values()
        if kind.__module__.startswith(rooms) and kind not in abstract
    ]
    assert sorted(kind.__name__ for kind in kinds) == sorted(KINDS)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_saves_and_loads(kind, dtype, maker, tmp_path):
    record = KINDS[kind](maker(0, dtype))
    path = tmp_path / "record.safetensors"
    record.save(path)
    assert same(record, type(record).load(path))
    assert same(record, Record.load(str(path)))
    assert list(tmp_path.iterdir()) == [path]


def test_shared_strided_and_tracked_tensors_save(make, tmp_path):
    factor = make.randn(4, 4, grad=True)
    CP(factor, factor.mT, factor[:, :2]).save(tmp_path / "t")
    loaded = CP.load(tmp_path / "t")
    assert torch.equal(loaded.left, factor.detach().mT)
    assert not loaded.left.requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_to_and_detach(kind, make):
    record = KINDS[kind](make)
    narrow = record.to(torch.float32)
    tensors = [value for value in vars(narrow).values() if isinstance(value, torch.Tensor)]
    assert {tensor.dtype for tensor in tensors} <= {torch.float32, torch.bool, torch.int64}
    assert same(record.detach(), record)
    assert type(narrow) is type(record)


def test_to_casts_inside_dicts_and_records_and_spares_integers(make):
    found = hosvd(make.cp(), 2).to(torch.float32)
    assert {values.dtype for values in found.spectrum.values()} == {torch.float32}
    assert found.core.dtype == torch.float32
    blocks = eigen(make.cp()).to("meta", torch.float32).blocks
    assert (blocks.device.type, blocks.dtype) == ("meta", torch.int64)


def test_another_kind_is_refused(make, tmp_path, refuses):
    make.factored().save(tmp_path / "f")
    refuses(
        FileError,
        lambda: CP.load(tmp_path / "f"),
        "must hold a CP; got Factored. Use Factored.load.",
    )


def test_missing_file(tmp_path, refuses):
    for path, got in ((tmp_path / "none", "nothing there"), (tmp_path, "something else")):
        text = f"{path} must be a file that .save(path) wrote; got {got}."
        refuses(FileError, lambda path=path: CP.load(path), text)


@pytest.mark.parametrize("damage", ["empty", "text", "truncated", "beheaded"])
def test_damaged_file(damage, make, tmp_path, refuses):
    path = tmp_path / "t"
    make.cp().save(path)
    whole = path.read_bytes()
    path.write_bytes(
        {
            "empty": b"",
            "text": b"not a tensor file",
            "truncated": whole[:-9],
            "beheaded": whole[100:],
        }[damage]
    )
    refuses(FileError, lambda: CP.load(path), f"{path} must be an undamaged safetensors file")


def write(path, header):
    save_file({".a": torch.ones(2, 2), ".b": torch.ones(2, 2)}, path, metadata=header)


def fields(**more):
    return {"record": "Factored", "fields": {"a": {"tensor": ".a"}, "b": {"tensor": ".b"}, **more}}


def test_the_hand_written_file_is_a_good_one(tmp_path):
    write(tmp_path / "t", {"bilens": json.dumps({"schema": 1, "value": fields()})})
    assert Factored.load(tmp_path / "t").shape == (2, 2)


def test_a_record_is_found_where_its_class_has_moved_to_and_nobody_elses_is(tmp_path, refuses):
    for room in ("algebra", "models"):
        value = fields() | {"record": f"{room}.Factored"}
        write(tmp_path / "t", {"bilens": json.dumps({"schema": 2, "value": value})})
        assert Factored.load(tmp_path / "t").shape == (2, 2)
    value = fields() | {"record": "someone.else.Factored"}
    write(tmp_path / "t", {"bilens": json.dumps({"schema": 2, "value": value})})
    refuses(FileError, lambda: Record.load(tmp_path / "t"), "got someone.else.Factored")


@pytest.mark.parametrize(
    ("header", "text"),
    [
        (None, "must be a file that .save(path) wrote; got safetensors without a bilens header."),
        ({"format": "pt"}, "got safetensors without a bilens header."),
        ({"bilens": "[1]"}, "got safetensors without a bilens header."),
        ({"bilens": "{half"}, "must be an undamaged safetensors file"),
        (
            {"bilens": json.dumps({"schema": 3, "value": fields()})},
            "must have schema 1 or 2; got 3. Read it with the bilens that wrote it.",
        ),
        (
            {"bilens": json.dumps({"schema": 1, "value": {"record": "Tensor9", "fields": {}}})},
            "got Tensor9.",
        ),
        ({"bilens": json.dumps({"schema": 1})}, ""),
        ({"bilens": json.dumps({"schema": 1, "value": fields(b={"tensor": ".c"})})}, ""),
        ({"bilens": json.dumps({"schema": 1, "value": fields(c=3)})}, ""),
        (
            {"bilens": json.dumps({"schema": 1, "value": {"record": "ThirdOrder", "fields": {}}})},
            "",
        ),
    ],
    ids=[
        "bare",
        "foreign",
        "no dict",
        "half json",
        "newer",
        "unknown kind",
        "no value",
        "no tensor",
        "odd field",
        "abstract",
    ],
)
def test_foreign_and_newer_files(header, text, tmp_path, refuses):
    write(tmp_path / "t", header)
    refuses(FileError, lambda: Factored.load(tmp_path / "t"), text)


@dataclasses.dataclass(frozen=True)
class Odd(Record):
    held: object


def test_plain_values_come_back(tmp_path):
    held = {"a": (1, 2.5, None, True), "b": "λ", "c": {"d": torch.ones(2)}, "e": ()}
    Odd(held).save(tmp_path / "t")
    assert same(Odd(held), Odd.load(tmp_path / "t"))


def test_what_cannot_be_saved_is_named_and_nothing_is_written(tmp_path, refuses):
    text = ".held of a record must be a tensor, a record or a plain value; got object."
    refuses(ArgumentError, lambda: Odd(object()).save(tmp_path / "t"), text)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_save_keeps_the_old_file(make, tmp_path, monkeypatch):
    make.dense().save(tmp_path / "t")
    before = (tmp_path / "t").read_bytes()

    def fail(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bilens.base.records.save_file", fail)
    with pytest.raises(FileError, match="No space left"):
        make.cp().save(tmp_path / "t")
    assert (tmp_path / "t").read_bytes() == before
    assert list(tmp_path.iterdir()) == [tmp_path / "t"]
    assert Dense.load(tmp_path / "t").shape == (3, 4, 4)


def test_records_are_kept_apart_by_room_and_name(make, tmp_path):
    assert Record._kinds["algebra.Eigen"] is Eigen
    other = type("Eigen", (Record,), {"__module__": "somebody.elses"})
    assert Record._kinds["somebody.elses.Eigen"] is other
    path = tmp_path / "e"
    make.quadratic().eigh(2).save(path)
    assert type(Record.load(path)) is Eigen


def test_a_second_class_of_one_room_and_name_is_refused(refuses):
    def again():
        type("Eigen", (Record,), {"__module__": "bilens.algebra.elsewhere"})

    refuses(
        ArgumentError,
        again,
        "class Eigen must be its room's only record of that name; got a second algebra.Eigen",
    )
    assert Record._kinds["algebra.Eigen"] is Eigen


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_schema_1_still_load(kind, make, tmp_path):
    record = KINDS[kind](make)
    record.save(tmp_path / "new")
    tensors, header = before_sums(tmp_path / "new")
    old = re.sub(r'"record": "[a-z]+\.', '"record": "', json.dumps(header | {"schema": 1}))
    assert f'"record": "{kind}"' in old
    save_file(tensors, tmp_path / "old", metadata={"bilens": old})
    assert same(record, Record.load(tmp_path / "old"))


@pytest.mark.parametrize("kind", ["Gaussian", "Hermite", "Estimate"])
def test_files_from_before_a_kind_changed_rooms_still_load(kind, make, tmp_path):
    record = KINDS[kind](make)
    record.save(tmp_path / "new")
    tensors, header = before_sums(tmp_path / "new")
    old = json.dumps(header).replace(f'"measure.{kind}"', f'"algebra.{kind}"')
    assert f'"algebra.{kind}"' in old
    save_file(tensors, tmp_path / "old", metadata={"bilens": old})
    assert same(record, type(record).load(tmp_path / "old"))


def opened(path):
    with safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, json.loads(
            file.metadata()["bilens"]
        )


def before_sums(path):
    """What a file held before there were checksums."""
    tensors, header = opened(path)
    return tensors, {key: header[key] for key in ("schema", "value")}


@pytest.mark.parametrize("at", [-1, -9, 0.5])
def test_a_file_with_one_bit_turned_is_refused(at, make, tmp_path, refuses):
    path = tmp_path / "t"
    KINDS["Eigen"](make).save(path)
    data = bytearray(path.read_bytes())
    data[at if isinstance(at, int) else int(at * len(data))] ^= 1
    path.write_bytes(data)
    refuses(FileError, lambda: Record.load(path), "")


@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (1, 3)])
def test_a_view_is_saved_with_whatever_strides(shape, make, tmp_path):
    """One entry is contiguous by torch's word, and has the stride of what it is a view of."""
    view = make.randn(4, 6)[2:][: shape[0], ::2][:, : shape[1]]
    record = Factored(view, make.randn(shape[1], 3))
    record.save(tmp_path / "t")
    assert same(record, Record.load(tmp_path / "t"))


RETYPED = (True, -1.5, {"tuple": [None]}, {"dict": {"a": 1}}, [])


@pytest.mark.parametrize("kind", KINDS)
def test_retyped_and_reshaped_fields_are_refused_when_loaded_or_can_be_shown(kind, make, tmp_path):
    path = tmp_path / "t"
    KINDS[kind](make).save(path)
    tensors, header = opened(path)
    fields = header["value"]["fields"]
    damaged = [
        (tensors, header["value"] | {"fields": fields | {name: value}})
        for name in fields
        for value in RETYPED
    ]
    for name, tensor in tensors.items():
        for other in (tensor[None], tensor.to(torch.complex64)):
            damaged.append((tensors | {name: other.contiguous()}, header["value"]))
    refused = 0
    for held, value in damaged:
        save_file(held, path, metadata={"bilens": json.dumps({"schema": 2, "value": value})})
        try:
            loaded = Record.load(path)
        except FileError as error:
            refused += str(error).startswith(f"{path} must hold a whole record")
            continue
        repr(loaded)
        if isinstance(loaded, Result):
            loaded.rows(), loaded.figure()
    assert refused > len(damaged) / 2  # the others are as good as the true one


def test_a_tensor_of_another_type_is_named(tmp_path, refuses):
    header = {"bilens": json.dumps({"schema": 2, "value": fields(b={"tensor": ".i"})})}
    save_file(
        {".a": torch.ones(2, 2), ".i": torch.ones(2, 2).int()}, tmp_path / "t", metadata=header
    )
    text = f"{tmp_path / 't'} must hold a whole record; got TypeError: "
    text += "Factored.b is not what that field holds: int32 of shape"
    refuses(FileError, lambda: Record.load(tmp_path / "t"), text)


@pytest.mark.parametrize("depth", [500, 100_000])
def test_nesting_without_end(depth, tmp_path, refuses):
    value = '{"tuple": [' * depth + "]}" * depth
    write(
        tmp_path / "t",
        {"bilens": f'{{"schema": 2, "value": {{"record": "Odd", "fields": {{"held": {value}}}}}}}'},
    )
    refuses(
        FileError,
        lambda: Record.load(tmp_path / "t"),
        str(tmp_path / "t"),
        "nesting too deep to read",
    )


def test_the_kind_is_read_from_the_header_alone(make, tmp_path, refuses):
    make.cp().save(tmp_path / "cp")
    assert kind_of(tmp_path / "cp") == "algebra.CP"
    write(tmp_path / "none", {"bilens": '{"schema": 2}'})
    assert kind_of(tmp_path / "none") == ""
    write(tmp_path / "deep", {"bilens": "[" * 100_000 + "]" * 100_000})
    refuses(FileError, lambda: kind_of(tmp_path / "deep"), "nesting too deep to read")


def test_a_header_over_its_limit_is_named(tmp_path, refuses, monkeypatch):
    monkeypatch.setattr("bilens.base.records.HEADER", 1000)
    text = f"{tmp_path / 't'} must have a header of at most 1,000 bytes; got "
    for held in ("x" * 1000, '"' * 300):  # a quote takes four bytes
        refuses(FileError, lambda held=held: Odd(held).save(tmp_path / "t"), text, "save fewer")
    assert list(tmp_path.iterdir()) == []


def test_tensors_in_tuples_move_too():
    held = (
        Odd((torch.ones(2, dtype=torch.float64), {"a": (torch.ones(1, dtype=torch.float64),)}))
        .to(torch.float32)
        .held
    )
    assert held[0].dtype == held[1]["a"][0].dtype == torch.float32


def test_what_has_no_values_is_not_moved_to_where_they_are(make, refuses):
    empty = make.cp().to("meta")
    refuses(ShapeError, lambda: empty.to("cpu"), "CP must hold values; got a meta tensor")
    assert empty.to("meta", torch.float32).dtype == torch.float32
