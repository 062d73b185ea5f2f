"""The compiled kernels: every C file of their folder."""

from glob import glob

from setuptools import Extension, setup

FOLDER = "psdp/backend/cpu/native"

setup(
    ext_modules=[
        Extension(
            "psdp.backend.cpu._native",
            sources=sorted(glob(f"{FOLDER}/*.c")),
            depends=sorted(glob(f"{FOLDER}/*.h")),
            # Without a C compiler the build goes on, and NumPy's kernels are used.
            optional=True,
            py_limited_api=True,
            # NaN and Inf keep their meaning: a gradient that holds one must be found. Sums keep
            # their order but where a loop says otherwise.
            extra_compile_args=[
                "-std=c11",
                "-O3",
                "-fopenmp",
                "-fvisibility=hidden",
                "-ffp-contract=fast",
                "-fno-math-errno",
                "-fno-signed-zeros",
                "-fno-trapping-math",
                "-Wno-psabi",
            ],
            extra_link_args=["-fopenmp"],
        )
    ]
)
