"""Install icegrt_jax: `pip install -e . -c constraints.txt` gives the tested set, on Python 3.12 and newer
`-c constraints-py313.txt`."""

import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent
README = HERE / "README.md"

# Neither torch nor TensorFlow: nothing below needs them at run time.
INSTALL_REQUIRES = [
    "absl-py>=2.1",
    "array_record>=0.8",
    "chex>=0.1.90",
    "flax>=0.12",
    "gguf>=0.17",
    "grain>=0.2.15",
    "huggingface_hub>=1.0",
    "jax>=0.10",
    "jinja2>=3.1",
    "matplotlib>=3.9",
    "ml-collections>=1.1",
    "numpy>=2.0",
    "optax>=0.2.6",
    "orbax-checkpoint>=0.12",
    "plotly>=6",
    "pyarrow>=18",
    "rich>=13.7",
    "safetensors>=0.6",
    "tensorboardX>=2.6",
    "tensorflow-datasets>=4.9.9",
    "tokenizers>=0.22",
    "transformers>=5",
]
# The pages of docs/ as a site, the API from its docstrings; mkdocs 2 has no plugins.
DOCS = ["mkdocs>=1.6,<2", "mkdocs-material>=9.6", "mkdocstrings[python]>=0.30"]
EXTRAS_REQUIRE = {
    "docs": DOCS,
    # torch and PEFT are the other side of the parity tests; jaxtyping and beartype check the annotations of the maths;
    # playwright drives a Chromium that is there, axe-core looks at the pages in it.
    "test": [
        *DOCS,
        "axe-playwright-python>=0.1.4",
        "beartype>=0.20",
        "datasketch>=1.6",
        "httpx2>=2.0",
        "hypothesis>=6.100",
        "ipykernel",
        "jaxtyping>=0.3",
        "krippendorff>=0.8",
        "mypy>=2",
        "nbclient",
        "nbformat",
        "peft>=0.18",
        "playwright>=1.50",
        "pytest>=8",
        "pytest-xdist>=3.6",
        "requests>=2.32",
        "rouge-score>=0.1.2",
        "ruff>=0.12",
        "starlette>=1.0",
        "torch>=2.6",
        "uvicorn>=0.40",
    ],
    # TRL 1.13 removed PPO, the thing we compare with.
    "bench": ["torch>=2.6", "transformers>=5", "trl>=1.0,<1.13"],
    "eval": ["lm-eval>=0.4.13"],
    "cuda": ["jax[cuda12]>=0.10"],
    # One command's: MinHash for `data filter --near-duplicates`.
    "filters": ["datasketch>=1.6"],
    # A judge at an endpoint: proxies and certificates as the machine has them, which a client of one's own would lack.
    "judge": ["requests>=2.32"],
    # Krippendorff's alpha of people's ratings, with its levels of measurement and missing ratings.
    "people": ["krippendorff>=0.8"],
    # The pages of `rank` and `chat --page`, and how far annotators agree.
    "rank": ["krippendorff>=0.8", "starlette>=1.0", "uvicorn>=0.40"],
    # One judge's; it brings nltk, which nothing else here needs.
    "rouge": ["rouge-score>=0.1.2"],
    "tpu": ["jax[tpu]>=0.10"],
}


def version() -> str:
    source = (HERE / "icegrt_jax" / "version.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "(.+)"$', source, re.MULTILINE).group(1)


setup(
    name="icegrt_jax",
    version=version(),
    description="RLHF in JAX, after ICE-GRT: SFT, a reward model from rankings, PPO; from a laptop CPU to a TPU pod.",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["icegrt_jax", "icegrt_jax.*"]),
    # Type checkers read our annotations, lm-evaluation-harness the tasks, browsers the pages.
    package_data={
        "icegrt_jax": ["py.typed", "evaluation/tasks/*.yaml", "pages/static/*", "pages/templates/*", "report/assets/*"]
    },
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
    entry_points={"console_scripts": ["icegrt = icegrt_jax.__main__:main"]},
    classifiers=[
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
