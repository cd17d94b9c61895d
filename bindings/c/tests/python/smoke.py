"""The C library called from Python, by nothing but its header: every declaration is read from there.

    smoke.py HEADER LIBRARY GUESTS
"""

import ctypes
import json
import re
import sys

HEADER, LIBRARY, GUESTS = sys.argv[1:]
PATIENCE = 120_000

NUMBERS = {
    "int32_t": ctypes.c_int32,
    "uint32_t": ctypes.c_uint32,
    "int64_t": ctypes.c_int64,
    "uint64_t": ctypes.c_uint64,
    "uint8_t": ctypes.c_uint8,
    "size_t": ctypes.c_size_t,
}


class Header:
    """What sandbox.h declares, as ctypes knows it."""

    def __init__(self, path):
        text = re.sub(r"/\*.*?\*/", "", open(path, encoding="utf-8").read(), flags=re.S)
        self.constants = {}
        for name, value in re.findall(r"^#define (SANDBOX_\w+) (\S.*)$", text, flags=re.M):
            value = value.replace("UINT64_MAX", str(2**64 - 1)).replace("(uint64_t)", "").replace("ULL", "")
            self.constants[name] = eval(value, {})  # Numbers and shifts.
        self.types = dict(NUMBERS)
        for old, new in re.findall(r"typedef (\w+) (\w+);", text):
            self.types[new] = self.types[old]
        for name, body in re.findall(r"typedef struct (\w+) \{(.*?)\}", text, flags=re.S):
            fields = [(field, self.types[kind]) for kind, field in re.findall(r"(\w+) (\w+);", body)]
            self.types[name] = type(name, (ctypes.Structure,), {"_fields_": fields})
        self.functions = {}
        pattern = r"^(const char \*|\w+ )(sandbox_\w+)\(([^)]*)\);"
        for result, name, parameters in re.findall(pattern, text, flags=re.M):
            arguments = [] if parameters.strip() == "void" else [self.parameter(p) for p in parameters.split(",")]
            self.functions[name] = (self.result(result), arguments)

    def result(self, text):
        return ctypes.c_char_p if "char" in text else self.types[text.strip()]

    def parameter(self, text):
        words = re.sub(r"\b(const|struct)\b", "", text).replace("*", " * ").split()
        kind, stars = words[0], words.count("*")
        if kind == "char":
            return ctypes.c_char_p if stars == 1 else ctypes.POINTER(ctypes.c_char_p)
        return ctypes.POINTER(self.types[kind]) if stars else self.types[kind]

    def bind(self, library):
        for name, (result, arguments) in self.functions.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments


header = Header(HEADER)
library = ctypes.CDLL(LIBRARY)
header.bind(library)
constant = header.constants


def call(name, *arguments, expect="SANDBOX_OK"):
    error = ctypes.c_uint64()
    code = getattr(library, name)(*arguments, ctypes.byref(error))
    assert code == constant[expect], (name, code, library.sandbox_error_message(error))
    if code != 0:
        assert library.sandbox_error_code(error) == code
        field = library.sandbox_error_field(error)
        assert library.sandbox_error_free(error) == 0
        return field


def main():
    assert len(header.functions) > 60 and len(header.constants) > 60, (len(header.functions), len(header.constants))
    assert library.sandbox_abi_version() == constant["SANDBOX_ABI_VERSION"]
    runtime, spec, sandbox = ctypes.c_uint64(), ctypes.c_uint64(), ctypes.c_uint64()
    call("sandbox_runtime_open", None, ctypes.byref(runtime))
    document = {
        "guest": {"unikernel": {"image": GUESTS + "/hello", "family": "bare", "args": ["exit=9"]}},
        "memory": 16 << 20,
        "isolation": "in_process",
    }
    wrong = json.dumps({**document, "vcpus": 0}).encode()
    field = call("sandbox_spec_from_json", wrong, len(wrong), ctypes.byref(spec), expect="SANDBOX_ERROR_INVALID_SPEC")
    assert field == b"vcpus", field
    right = json.dumps(document).encode()
    call("sandbox_spec_from_json", right, len(right), ctypes.byref(spec))
    call("sandbox_create", runtime, spec, 0, ctypes.byref(sandbox))
    call("sandbox_start", sandbox, 0)
    exit_status = header.types["sandbox_exit"]()
    call("sandbox_wait", sandbox, PATIENCE, 0, ctypes.byref(exit_status))
    assert (exit_status.kind, exit_status.value) == (constant["SANDBOX_EXIT_CODE"], 9)
    output, chunk = (ctypes.c_uint8 * 256)(), header.types["sandbox_chunk"]()
    call("sandbox_console_read", sandbox, 0, output, 256, PATIENCE, 0, ctypes.byref(chunk))
    assert bytes(output[: chunk.length]).startswith(b"hello"), bytes(output)
    stats = header.types["sandbox_stats"]()
    call("sandbox_stats_read", sandbox, ctypes.byref(stats), ctypes.sizeof(stats))
    assert stats.memory_guest_touched > 0 and stats.memory_resident == constant["SANDBOX_UNKNOWN"]
    assert library.sandbox_free(sandbox) == 0
    call("sandbox_start", sandbox, 0, expect="SANDBOX_ERROR_INVALID_HANDLE")
    assert library.sandbox_spec_free(spec) == 0 and library.sandbox_runtime_free(runtime) == 0
    print("all is well")


main()
