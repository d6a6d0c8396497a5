# SPDX-License-Identifier: MIT
"""Builds the extension polyshm._core from every source of csrc/ and python/binding/. All else is in pyproject.toml."""

import glob
import os
import re
import struct
import sys

from setuptools import Extension, setup

if not sys.platform.startswith("linux") or struct.calcsize("P") != 8:
    sys.exit("polyshm needs 64-bit Linux")

os.chdir(os.path.dirname(os.path.abspath(__file__)))

with open("csrc/include/polyshm/polyshm.h", encoding="utf-8") as header:
    version = re.search(r'^#define PSHM_VERSION "([^"]+)"', header.read(), re.MULTILINE).group(1)

setup(
    version=version,
    ext_modules=[
        Extension(
            "polyshm._core",
            sources=sorted(glob.glob("csrc/*/*.c") + glob.glob("python/binding/*.c")),
            depends=sorted(glob.glob("csrc/**/*.[hd]*", recursive=True) + glob.glob("python/binding/*.h")),
            include_dirs=["csrc/include", "csrc"],
            define_macros=[("_GNU_SOURCE", None), ("PSHM_STATIC", None)],
            extra_compile_args=["-std=c11", "-O2", "-fno-plt", "-fvisibility=hidden", "-pthread"],
            # The module is never unmapped: its fork hooks and its signal handler live in it.
            extra_link_args=["-Wl,-z,nodelete", "-pthread"],
        )
    ],
)
