"""Which tritonserver there is, and what it needs around it to run."""

import ctypes.util
import importlib.util
import os
import shutil
import sys
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path

from .. import cores
from ..errors import MissingDependency, StageFailed
from .backend_names import BackendName
from .backends import backend_of

_EMBEDDED = Path(__file__).parent / "embedded"
#: Packages that Python processes of the embedded server import.
_NEEDED_PACKAGES = ("numpy", "PIL", "cv2", "onnxruntime", "openvino")

_NO_CACHE = shutil.ignore_patterns("__pycache__")

#: Triton in the nvidia-pytriton 0.7 wheel, by NVIDIA's release table; see docs/serving.md.
EMBEDDED_VERSION = "2.51.0 (24.10)"


#: Bytes from which glibc asks the kernel for a block of its own, and of free memory that a process
#: keeps. By its own bounds every decoded image is taken from the kernel and given back, page by
#: page, which is a fifth of the time of decoding.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "33554432", "MALLOC_TRIM_THRESHOLD_": "67108864"}


@dataclass(frozen=True)
class Installation:
    """A tritonserver binary; the `embedded` one of nvidia-pytriton lacks security fixes."""

    binary: Path
    embedded: bool
    arguments: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)


def find_tritonserver(runtime: Path) -> Installation:
    """The tritonserver on PATH, else the embedded one with its backends laid out in `runtime`.
    Raises MissingDependency without one, StageFailed where this Python cannot run the embedded."""
    if binary := shutil.which("tritonserver"):
        return Installation(Path(binary), embedded=False)
    root = embedded_root()
    if root is None:
        raise MissingDependency("tritonserver (not on PATH, and nvidia-pytriton)", "server")
    binary_path = root / "bin" / "tritonserver"
    if not os.access(binary_path, os.X_OK):
        binary_path.chmod(binary_path.stat().st_mode | 0o111)
    backends = runtime / "backends"
    _lay_out_backends(root, backends)
    return Installation(
        binary_path,
        embedded=True,
        arguments=(f"--backend-directory={backends}",),
        environment=_environment(root),
    )


def embedded_root() -> Path | None:
    """The `tritonserver` folder inside nvidia-pytriton, found without importing it."""
    package = _package("pytriton")
    root = package / "tritonserver" if package else None
    return root if root and (root / "bin" / "tritonserver").is_file() else None


def _package(name: str) -> Path | None:
    """The folder of an installed package, found without importing it."""
    spec = importlib.util.find_spec(name)
    folders = spec and spec.submodule_search_locations
    return Path(next(iter(folders))) if folders else None


def _lay_out_backends(root: Path, backends: Path) -> None:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = root / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.is_file():
        known = ", ".join(sorted(p.name for p in stub.parent.parent.iterdir()))
        raise StageFailed(f"nvidia-pytriton has Triton stubs for Python {known}, not {version}")
    # Copies, as the server refuses libraries outside the backend's folder, links included.
    python = backends / "python"
    shutil.copytree(root / "backends" / "python", python)
    shutil.copyfile(stub, python / stub.name)
    (python / stub.name).chmod(0o755)
    for name in BackendName:
        backend = backends / name
        shutil.copytree(_EMBEDDED / name, backend, ignore=_NO_CACHE)
        for shared in ("batching.py", "copies.py"):
            shutil.copyfile(_EMBEDDED / shared, backend / shared)
        shutil.copyfile(cores.__file__, backend / "cores.py")
        for copied, package in backend_of(name).packages.items():
            source = _package(package)
            assert source is not None
            shutil.copytree(source, backend / copied, ignore=_NO_CACHE)


def _environment(root: Path) -> dict[str, str]:
    """The variables by which the server finds its libraries, and its Python processes theirs."""
    libraries = [str(root.parent.parent / "nvidia_pytriton.libs"), str(libpython_directory())]
    if existing := os.environ.get("LD_LIBRARY_PATH"):
        libraries.append(existing)
    usual = [p for p in sys.path if Path(p).name in ("site-packages", "dist-packages")]
    needed = [str(path.parent) for path in map(_package, _NEEDED_PACKAGES) if path]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {
        "LD_LIBRARY_PATH": os.pathsep.join(libraries),
        "PATH": path,
        "PYTHONHOME": sys.base_prefix,
        "PYTHONPATH": os.pathsep.join(dict.fromkeys([*usual, *needed])),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        **MALLOC,
    }


def libpython_directory() -> Path:
    """The folder of Python's shared library, for Triton's processes; StageFailed without one."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    name = f"libpython{version}.so.1.0"
    candidates = [
        Path(sysconfig.get_config_var("LIBDIR") or "/usr/lib"),
        Path(sys.base_prefix) / "lib",
        Path("/usr/lib") / (sysconfig.get_config_var("MULTIARCH") or ""),
    ]
    for directory in candidates:
        if (directory / name).exists():
            return directory
    if ctypes.util.find_library(f"python{version}"):
        return Path("/usr/lib")
    raise StageFailed(
        f"{name} was not found, which Triton's Python processes load; install it (Debian and "
        f"Ubuntu: apt install libpython{version}) or use a Python built with --enable-shared"
    )
