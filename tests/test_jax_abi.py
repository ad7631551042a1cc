"""What is declared of XLA's C ABI, against the header of the installed jaxlib; and how handlers answer odd calls."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

jax = pytest.importorskip("jax")
ffi = pytest.importorskip("onepass.jax._ffi")

from onepass import _core  # noqa: E402

CSRC = Path(__file__).parents[1] / "csrc"
HEADER = Path(jax.ffi.include_dir(), "xla", "ffi", "api", "c_api.h")
MINOR = ffi.interface_version(HEADER.read_text())[1]

# ours: theirs, and of each member ours: theirs. {}: no member
STRUCTS = {
    "Extension": ("XLA_FFI_Extension_Base", {"struct_size": "struct_size", "type": "type", "next": "next"}),
    "Version": ("XLA_FFI_Api_Version", {"major": "major_version", "minor": "minor_version"}),
    "ErrorCreateArguments": ("XLA_FFI_Error_Create_Args", {"message": "message", "code": "errc"}),
    "Buffer": ("XLA_FFI_Buffer", {"type": "dtype", "data": "data", "rank": "rank", "shape": "dims"}),
    "Operands": ("XLA_FFI_Args", {"count": "size", "kinds": "types", "items": "args"}),
    "Bytes": ("XLA_FFI_ByteSpan", {"data": "ptr", "size": "len"}),
    "Scalar": ("XLA_FFI_Scalar", {"type": "dtype", "value": "value"}),
    "Array": ("XLA_FFI_Array", {"type": "dtype", "size": "size", "data": "data"}),
    "Attributes": ("XLA_FFI_Attrs", {"count": "size", "kinds": "types", "names": "names", "items": "attrs"}),
    "MetadataExtension": ("XLA_FFI_Metadata_Extension", {"base": "extension_base", "metadata": "metadata"}),
}
# of these only the beginning is declared
BEGINNINGS = {
    "Operands": ("XLA_FFI_Rets", {"count": "size", "kinds": "types", "items": "rets"}),
    "Frame": (
        "XLA_FFI_CallFrame",
        {"struct_size": "struct_size", "extension": "extension_start", "api": "api", "context": "ctx", "stage": "stage"}
        | {"inputs": "args", "outputs": "rets", "attributes": "attrs"},
    ),
    "Api": (
        "XLA_FFI_Api",
        {"version": "api_version", "internal": "internal_api", "create_error": "XLA_FFI_Error_Create"},
    ),
    "Metadata": ("XLA_FFI_Metadata", {"version": "api_version", "traits": "traits"}),
}
TYPES = ["s8", "s16", "s32", "s64", "u8", "u16", "u32", "u64", "f16", "f32", "f64", "bf16"]
CODES = [
    "invalid_argument", "resource_exhausted", "failed_precondition", "out_of_range", "unimplemented", "internal",
    "unavailable",
]  # fmt: skip
SIZES = {"kVersionSize": "XLA_FFI_Api_Version", "kErrorCreateSize": "XLA_FFI_Error_Create_Args"}


def assertions():
    yield "static_assert(abi::kMajor == XLA_FFI_API_MAJOR);"
    for structs in (STRUCTS, BEGINNINGS):
        for ours, (theirs, members) in structs.items():
            for member, other in members.items():
                yield f"static_assert(offsetof(abi::{ours}, {member}) == offsetof({theirs}, {other}));"
                yield f"static_assert(sizeof(abi::{ours}::{member}) == sizeof({theirs}::{other}));"
    for ours, (theirs, _) in STRUCTS.items():
        yield f"static_assert(sizeof(abi::{ours}) == sizeof({theirs}));"
    for ours, theirs in SIZES.items():
        yield f"static_assert(abi::{ours} == {theirs}_STRUCT_SIZE);"
    for ours in ("Operands", "Attributes", "Buffer"):  # whose stated size is compared with sizeof
        yield f"static_assert(sizeof(abi::{ours}) == {STRUCTS[ours][0]}_STRUCT_SIZE);"
    for name in TYPES:
        yield f"static_assert((int)abi::Type::{name} == XLA_FFI_DataType_{name.upper()});"
    for name in CODES:
        yield f"static_assert((int)abi::ErrorCode::{name} == XLA_FFI_Error_Code_{name.upper()});"
    for kind in ("array", "dictionary", "scalar", "string"):
        yield f"static_assert((int)abi::AttributeKind::{kind} == XLA_FFI_AttrType_{kind.upper()});"
    yield "static_assert(abi::kBuffer == XLA_FFI_ArgType_BUFFER && abi::kBuffer == XLA_FFI_RetType_BUFFER);"
    yield "static_assert(abi::kExecute == XLA_FFI_ExecutionStage_EXECUTE);"
    yield "static_assert(abi::kMetadata == XLA_FFI_Extension_Metadata);"
    if MINOR >= 3:
        yield "static_assert(offsetof(abi::Metadata, state_type) == offsetof(XLA_FFI_Metadata, state_type_id));"
        yield "static_assert(sizeof(abi::Metadata) == sizeof(XLA_FFI_Metadata));"


def compiled(tmp_path, lines):
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    source = tmp_path / "agree.cpp"
    includes = ['#include "xla/abi.hpp"', '#include "xla/ffi/api/c_api.h"', "namespace abi = onepass::xla::abi;"]
    source.write_text("\n".join([*includes, *lines, ""]))
    command = [compiler, "-std=c++20", "-fsyntax-only", "-Wno-invalid-offsetof", f"-I{CSRC}"]
    return subprocess.run(
        [*command, f"-I{jax.ffi.include_dir()}", str(source)], capture_output=True, text=True, timeout=120
    )


def test_declarations_agree_with_jaxlibs_header(tmp_path):
    lines = list(assertions())
    assert len(lines) > 100
    run = compiled(tmp_path, lines)
    assert run.returncode == 0, run.stderr


def test_a_wrong_declaration_is_found(tmp_path):
    run = compiled(tmp_path, ["static_assert((int)abi::Type::f32 == XLA_FFI_DataType_F16);"])
    assert run.returncode != 0
    assert "static assertion failed" in run.stderr or "static_assert failed" in run.stderr


# ---- handlers, called by hand


class Version(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t), ("next", ctypes.c_void_p), ("major", ctypes.c_int), ("minor", ctypes.c_int)]


class Metadata(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_size_t), ("version", Version), ("traits", ctypes.c_uint32), ("state_type", ctypes.c_int64)
    ]  # fmt: skip


class Extension(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_size_t), ("type", ctypes.c_uint32), ("next", ctypes.c_void_p), ("metadata", ctypes.c_void_p)
    ]  # fmt: skip


class Error(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_size_t), ("next", ctypes.c_void_p), ("message", ctypes.c_char_p), ("code", ctypes.c_uint32)
    ]  # fmt: skip


CREATE = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.POINTER(Error))


class Api(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_size_t), ("next", ctypes.c_void_p), ("version", Version), ("internal", ctypes.c_void_p),
        ("create_error", CREATE),
    ]  # fmt: skip


class Operands(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_size_t), ("next", ctypes.c_void_p), ("count", ctypes.c_int64), ("kinds", ctypes.c_void_p),
        ("items", ctypes.c_void_p),
    ]  # fmt: skip


class Attributes(ctypes.Structure):
    _fields_ = [*Operands._fields_, ("names", ctypes.c_void_p)]


class Frame(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_size_t), ("extension", ctypes.c_void_p), ("api", ctypes.c_void_p),
        ("context", ctypes.c_void_p), ("stage", ctypes.c_uint32), ("inputs", Operands), ("outputs", Operands),
        ("attributes", Attributes),
    ]  # fmt: skip


def handler(name="onepass_cpu_update"):
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    found = _core.xla_handlers(MINOR)
    assert set(found) >= {"onepass_cpu_update", "onepass_cpu_cross_entropy", "onepass_cpu_batch_norm"}
    return ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.POINTER(Frame))(pointer(found[name], None))


def answer(api):
    metadata = Metadata(size=ctypes.sizeof(Metadata), state_type=-7)
    extension = Extension(size=32, type=1, metadata=ctypes.addressof(metadata))
    frame = Frame(extension=ctypes.addressof(extension), api=None if api is None else ctypes.addressof(api))
    assert handler()(frame) is None
    return metadata


def test_metadata_without_an_api_say_the_headers_version():
    metadata = answer(None)
    assert (metadata.version.major, metadata.version.minor, metadata.traits) == (0, MINOR, 0)
    assert metadata.version.size == 24
    assert metadata.state_type == -7  # which an old XLA does not have: left alone


@pytest.mark.parametrize(("minor", "state_type"), [(1, -7), (3, 0), (9, 0)])
def test_metadata_speak_the_version_of_the_api(minor, state_type):
    metadata = answer(Api(version=Version(24, None, 0, minor)))
    assert (metadata.version.major, metadata.version.minor) == (0, minor)
    assert metadata.state_type == state_type


def test_another_major_version_is_not_claimed():
    assert answer(Api(version=Version(24, None, 1, 0))).version.major == 0


@pytest.mark.parametrize(
    ("stage", "size", "code", "message"),
    [
        (3, 48, 12, "lays out its calls otherwise"),
        (0, 40, 9, "called in stage 0, expected execute"),
        (3, 40, 13, "attribute update is missing"),
    ],
)
def test_odd_calls_become_errors(stage, size, code, message):
    seen = []

    def create(arguments):
        seen.append((arguments[0].code, arguments[0].message.decode()))
        return 1234

    api = Api(version=Version(24, None, 0, MINOR), create_error=CREATE(create))
    frame = Frame(api=ctypes.addressof(api), stage=stage)
    frame.inputs.size = frame.outputs.size = size
    frame.attributes.size = 48
    assert handler()(frame) == 1234
    ((found, text),) = seen
    assert found == code
    assert message in text


def test_the_version_is_read_from_a_header():
    text = "#define XLA_FFI_API_MAJOR 0\n\n#define XLA_FFI_API_MINOR 12\n"
    assert ffi.interface_version(text) == (0, 12)
    with pytest.raises(ImportError, match="does not say which interface"):
        ffi.interface_version("")
