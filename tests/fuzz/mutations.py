"""What can be wrong with a file: damage of bytes, of JSON, of safetensors headers, and of the file
system's entries.
"""

import json
import os
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 3, 7, 2**31, 2**63, 10**30, 1.5, -0.5, 1e300, float("nan"),
    float("inf"), "", "no", "16",
    "\x1b[31mred", "\u202eabc", "[/INST]", "\x00", "../../etc/passwd", "x" * 10**5, [], [1],
    [None] * 3, {}, {"a": 1},
    {"a": {"b": [{}]}}, "float8_e4m3fn", "int8", "auto",
)  # fmt: skip


def bytes_cut(file: Path, rng: random.Random) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[: rng.randrange(len(whole) + 1)])


def bytes_changed(file: Path, rng: random.Random) -> None:
    whole = bytearray(file.read_bytes() or b"\x00")
    for _ in range(rng.choice((1, 3, 30))):
        whole[rng.randrange(len(whole))] = rng.randrange(256)
    file.write_bytes(whole)


def head_changed(file: Path, rng: random.Random) -> None:
    """The first bytes hold magic numbers, lengths and counts."""
    whole = bytearray(file.read_bytes().ljust(16, b"\x00"))
    whole[rng.randrange(16)] = rng.choice((0, 1, 127, 128, 255))
    file.write_bytes(whole)


def bytes_put_in(file: Path, rng: random.Random) -> None:
    whole = file.read_bytes()
    at = rng.randrange(len(whole) + 1)
    more = rng.choice(
        (
            b"\x00" * 9,
            b"\xff\xfe",
            b"\xed\xa0\x80",
            b"[" * 50_000,
            b'{"a":' * 20_000,
            b"9" * 5_000,
            b"\n" * 99,
        )
    )
    file.write_bytes(whole[:at] + more + whole[at:])


def replaced(file: Path, rng: random.Random) -> None:
    file.write_bytes(
        rng.choice((b"", b"null", b"[]", b"{}", b"3", b'"a"', b"\x80\x02}q\x00.", b"\xff" * 64))
    )


def tail_doubled(file: Path, rng: random.Random) -> None:
    file.write_bytes(file.read_bytes() * 2)


def gone(file: Path, rng: random.Random) -> None:
    file.unlink()


def a_folder(file: Path, rng: random.Random) -> None:
    file.unlink()
    file.mkdir()


def a_pipe(file: Path, rng: random.Random) -> None:
    file.unlink()
    os.mkfifo(file)


def a_loop(file: Path, rng: random.Random) -> None:
    file.unlink()
    file.symlink_to(file.name)


def renamed(file: Path, rng: random.Random) -> None:
    file.rename(file.with_name(rng.choice(("[INST]odd", "a\nb", "x" * 200, "$(id)")) + file.suffix))


def hole(file: Path, rng: random.Random) -> None:
    """A huge file that takes no room."""
    os.truncate(file, rng.choice((10**8, 10**9)))


def json_changed(file: Path, rng: random.Random) -> None:
    value = json.loads(file.read_text())
    for _ in range(rng.choice((1, 1, 2))):
        value = _elsewhere(value, rng)
    file.write_text(json.dumps(value))


def _elsewhere(value: Any, rng: random.Random) -> Any:
    """``value`` with one of its parts odd, gone, doubled or added."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        how = rng.random()
        if how < 0.15:
            return {k: v for k, v in value.items() if k != key}
        if how < 0.25:
            return value | {
                rng.choice(("unknown", "", "\x00", "x" * 10**4, key.upper())): rng.choice(ODD)
            }
        return value | {key: _elsewhere(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.7:
        at = rng.randrange(len(value))
        return [*value[:at], _elsewhere(value[at], rng), *value[at + 1 :]]
    return rng.choice(ODD)


def header_changed(file: Path, rng: random.Random) -> None:
    """A safetensors file with another header over the same numbers."""
    raw = file.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    names = [name for name in header if name != "__metadata__"]
    name, how = rng.choice(names or ["none"]), rng.randrange(7)
    entry = header.get(name, {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]})
    if how == 0:
        entry = entry | {
            "dtype": rng.choice(
                ("I64", "I32", "BOOL", "F8_E4M3", "C64", "F16", "BF16", "F64", "U8", "X")
            )
        }
    elif how == 1:
        entry = entry | {
            "shape": rng.choice(
                ([], [-1], [2**40], entry["shape"][::-1], [*entry["shape"], 1], "no")
            )
        }
    elif how == 2:
        entry = entry | {
            "data_offsets": rng.choice(
                ([0, 0], [4, 0], [0, 2**60], [-4, 0], entry["data_offsets"][:1])
            )
        }
    elif how == 3:
        header.pop(name, None)
    elif how == 4:
        header[rng.choice(("extra", "\x1b", "x" * 10**4))] = {
            "dtype": "F32",
            "shape": [0],
            "data_offsets": [0, 0],
        }
    elif how == 5:
        header["__metadata__"] = _metadata(header.get("__metadata__", {}), rng)
    if how < 3:
        header[name] = entry
    text = json.dumps(header).encode()
    length = len(text) if how < 6 else rng.choice((0, 2**20, 2**40, 2**63))
    file.write_bytes(struct.pack("<Q", length) + text + raw[8 + struct.unpack("<Q", raw[:8])[0] :])


def _metadata(metadata: Any, rng: random.Random) -> Any:
    """The text that a saved record keeps there, with one field odd."""
    if isinstance(metadata, dict) and "bilens" in metadata:
        return metadata | {"bilens": json.dumps(_elsewhere(json.loads(metadata["bilens"]), rng))}
    return rng.choice(({}, {"format": "tf"}, {"bilens": "{"}, {"bilens": "[" * 50_000}))


def numbers_odd(file: Path, rng: random.Random) -> None:
    """A safetensors file with NaN, infinities or nothing but zeros among its numbers."""
    raw = bytearray(file.read_bytes())
    start = 8 + struct.unpack("<Q", raw[:8])[0]
    odd = rng.choice(
        (struct.pack("<f", float("nan")), struct.pack("<f", float("inf")), b"\x00" * 4, b"\xff" * 4)
    )
    for _ in range(rng.choice((1, 5))):
        if len(raw) > start + 4:
            at = rng.randrange(start, len(raw) - 4, 4)
            raw[at : at + 4] = odd
    file.write_bytes(raw)


ANY = (bytes_cut, bytes_changed, head_changed, bytes_put_in, replaced, tail_doubled, gone,
a_folder, a_pipe, a_loop,
       renamed, hole)  # fmt: skip
OF_SUFFIX: dict[str, tuple[Callable[[Path, random.Random], None], ...]] = {
    ".json": (json_changed,) * 18,
    ".safetensors": (header_changed,) * 12 + (numbers_odd,) * 3,
}


def mutate(folder: Path, rng: random.Random) -> str:
    """One file of ``folder`` changed; says which and how."""
    file = rng.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
    change = rng.choice((*ANY, *OF_SUFFIX.get(file.suffix, ())))
    change(file, rng)
    return f"{change.__name__} of {file.relative_to(folder)}"
