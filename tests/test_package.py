"""What is installed, what is promised about it, and what must not be in the repository."""

import os
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest
import setuptools

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def metadata():
    """The keyword arguments that setup.py gives to setuptools."""
    captured = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setuptools, "setup", lambda **kwargs: captured.update(kwargs))
        patch.chdir(ROOT)
        source = (ROOT / "setup.py").read_text()
        exec(compile(source, str(ROOT / "setup.py"), "exec"), {"__file__": str(ROOT / "setup.py")})
    return captured


@pytest.fixture(scope="module")
def project_files():
    """Every file that is or could be committed."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    return [name for name in names if (ROOT / name).is_file()]


def names(requirements):
    return {re.split(r"[\[<>=!~; ]", line)[0].lower().replace("_", "-") for line in requirements}


CONSTRAINTS = ("constraints.txt", "constraints-py313.txt")
both_sets = pytest.mark.parametrize("constraints", CONSTRAINTS)


def pins(constraints):
    lines = [line for line in (ROOT / constraints).read_text().splitlines() if line and line[0] != "#"]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    return {line.partition("==")[0].lower().replace("_", "-"): line.partition("==")[2] for line in lines}


def test_the_runtime_needs_neither_torch_nor_tensorflow(metadata):
    assert not names(metadata["install_requires"]) & {"torch", "tensorflow", "tensorflow-cpu", "jax[tpu]", "libtpu"}


def test_the_extras_are_the_documented_ones(metadata):
    extras = {extra: names(requirements) for extra, requirements in metadata["extras_require"].items()}
    assert set(extras) == {
        "test",
        "bench",
        "cuda",
        "docs",
        "eval",
        "filters",
        "judge",
        "people",
        "rank",
        "rouge",
        "tpu",
    }
    assert {"pytest", "torch", "nbclient", "nbformat", "ipykernel", "ruff"} <= extras["test"]
    assert {"torch", "transformers", "trl"} <= extras["bench"]
    assert "lm-eval" in extras["eval"]
    assert extras["judge"] == {"requests"} and extras["people"] == {"krippendorff"}
    assert metadata["extras_require"]["tpu"] == ["jax[tpu]>=0.10"]


def test_every_requirement_but_a_few_of_the_tests_has_a_lower_bound(metadata):
    assert all(">=" in line for line in metadata["install_requires"])
    assert metadata["python_requires"] == ">=3.11"


@both_sets
def test_the_constraints_pin_all_that_quickstart_and_tests_install(metadata, constraints):
    wanted = names(metadata["install_requires"]) | names(metadata["extras_require"]["test"])
    assert wanted - set(pins(constraints)) == set()


@both_sets
def test_the_pins_satisfy_the_lower_bounds(metadata, constraints):
    from packaging.requirements import Requirement

    for line in metadata["install_requires"] + metadata["extras_require"]["test"]:
        requirement = Requirement(line)
        pin = pins(constraints)[requirement.name.lower().replace("_", "-")]
        assert requirement.specifier.contains(pin), f"{line} is pinned to {pin}"


def test_the_version_is_the_package_s(metadata):
    from icegrt_jax.version import __version__

    assert metadata["version"] == __version__


def test_every_package_folder_is_installed(metadata, project_files):
    folders = {str(pathlib.Path(name).parent).replace("/", ".") for name in project_files
               if name.startswith("icegrt_jax/") and name.endswith(".py")}  # fmt: skip
    assert folders == set(metadata["packages"])


def test_the_package_has_no_data_files_that_setup_would_leave_behind(metadata, project_files):
    patterns = metadata["package_data"]["icegrt_jax"]
    data = {str(path.relative_to(ROOT)) for name in patterns for path in (ROOT / "icegrt_jax").glob(name)}
    assert {name for name in project_files if name.startswith("icegrt_jax/") and not name.endswith(".py")} == data


def test_a_wheel_tells_type_checkers_that_it_is_typed(tmp_path):
    command = [sys.executable, "setup.py", "--quiet", "build_py", "--build-lib", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "icegrt_jax" / "py.typed").is_file() and (tmp_path / "icegrt_jax" / "cli.py").is_file()
    assert (tmp_path / "icegrt_jax" / "evaluation" / "tasks" / "piqa.yaml").is_file()


def test_each_python_has_its_tested_set(tmp_path):
    """The Makefile asks the interpreter in .venv; jax 0.11 needs a newer one than 3.11."""
    line = next(line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith("CONSTRAINTS ?="))
    program = re.search(r'-c "(.*)"\)$', line)[1]
    for version, expected in (((3, 11, 9), CONSTRAINTS[0]), ((3, 12, 0), CONSTRAINTS[1]), ((3, 14, 0), CONSTRAINTS[1])):
        chosen = subprocess.run(
            [sys.executable, "-c", program.replace("import sys;", f"import sys; sys.version_info = {version};")],
            capture_output=True, text=True,
        )  # fmt: skip
        assert chosen.stdout.strip() == expected


def test_the_workflow_runs_ci_on_the_oldest_and_the_newest_tested_python():
    workflow = (ROOT / ".github" / "workflows" / "tests.yml").read_text()
    assert 'python: ["3.11", "3.13"]' in workflow and workflow.count("bash .ci/run") == 2


def test_the_citation_is_of_this_version(metadata):
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {metadata['version']}\n" in citation and "arxiv.org/abs/2401.02072" in citation


def test_every_module_imports_without_torch_and_tensorflow():
    code = """
import importlib, pkgutil, sys
sys.modules["torch"] = None  # As if it were not installed; the test environment has it.
import icegrt_jax
for module in pkgutil.walk_packages(icegrt_jax.__path__, "icegrt_jax."):
    if module.name == "icegrt_jax.__main__":
        continue
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        if error.name != "lm_eval":  # Of the extra `eval`.
            raise
sys.exit("imported tensorflow" if "tensorflow" in sys.modules else 0)
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_only_ci_names_the_folder_beside_the_clone(project_files):
    folder = "../" + "shared"
    naming = [name for name in project_files if folder.encode() in (ROOT / name).read_bytes()]
    assert naming == [".ci/run"]


def test_ci_runs_the_test_command_in_a_clean_environment():
    script = (ROOT / ".ci" / "run").read_text()
    assert script.startswith("#!/usr/bin/env bash") and "set -euo pipefail" in script
    assert script.index("make clean-env") < script.index("make test")


def test_make_offers_what_the_docs_name_and_says_how(tmp_path):
    for target, command in (
        ("quickstart", "icegrt_jax run --config=configs/quickstart.py --workdir=runs/quickstart"),
        ("smollm2", "icegrt_jax.models.smollm2 --out=models/smollm2-135m-instruct"),
        ("test", "pytest"),
        ("lint", "ruff check"),
        ("lint", "ruff format --check"),
        ("docs", "mkdocs build --strict"),
        ("clean-env", "rm -rf .venv"),
    ):
        dry = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
        assert dry.returncode == 0, dry.stderr
        assert command in dry.stdout


def test_make_keeps_what_python_compiles_wherever_it_runs():
    show = ["make", "--silent", "--eval", 'show:; @echo "[$$PYTHONDONTWRITEBYTECODE]"', "show"]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    shown = subprocess.run(show, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_warnings_are_errors():
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    assert options["filterwarnings"][0] == "error"
    assert any(marker.startswith("slow:") for marker in options["markers"])


def test_the_licence_is_apache_2(metadata):
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text and "Version 2.0, January 2004" in text and "END OF TERMS AND CONDITIONS" in text
    assert metadata["license"] == "Apache-2.0"
