"""Package definition of ehrjax. Tool settings live in pyproject.toml."""

from setuptools import find_packages, setup

# torch is pinned exactly: any looser requirement may pull several gigabytes of CUDA libraries.
TORCH = ["torch==2.13.0"]

setup(
    name="ehrjax",
    version="0.1.0",
    description="Foundation models of electronic health records in JAX: from raw tables to a report.",
    long_description=open("README.md", encoding="utf-8").read(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["ehrjax", "ehrjax.*"]),
    package_data={"ehrjax": ["py.typed"]},
    install_requires=[
        "absl-py>=2.1",
        "flax>=0.12.0",
        "fsspec>=2024.6",
        "grain>=0.2.16",
        "importlib_resources>=6.4",
        "jax>=0.10.0",
        "jaxtyping>=0.3.0",
        "ml-collections>=1.0",
        "numpy>=2.0",
        "optax>=0.2.7",
        "orbax-checkpoint>=0.12.0",
        "pint>=0.24",
        "plotly>=6.0",
        "polars>=2.0",
        "pyarrow>=18.0",
        "rich>=13.7",
        "safetensors>=0.4.5",
        "scikit-learn>=1.5",
        "simple-icd-10-cm>=1.5.0",
        "tensorboardX>=2.6",
        "tensorflow-datasets>=4.9.7",
        "transformers>=5.0",
    ],
    extras_require={
        "test": [
            *TORCH,
            "hypothesis>=6.100",
            "ipykernel>=6.29",
            "meds>=0.4,<0.5",
            "nbclient>=0.10",
            "nbformat>=5.10",
            "pytest>=8.0",
            "ruff>=0.8",
            "tensorboard>=2.18",
        ],
        "notebooks": ["jupyterlab>=4.2"],
        "torch": TORCH,
        "spark": ["pyspark>=4.0"],
        "cuda": ["jax[cuda13]>=0.10.0"],
        "wandb": ["wandb>=0.18"],
    },
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Medical Science Apps.",
    ],
)
