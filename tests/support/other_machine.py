"""moatbench as on another machine: other instructions of the processor, other minor versions of libraries.

``python tests/support/other_machine.py WORDS`` is ``moatbench WORDS``. With ``WEAKENED`` in the environment,
``gaussian_noise`` draws a quarter of its noise, and results on it in the store of the command are deleted.
The instruction sets are those of x86; elsewhere the numbers stay the same.
"""

import os
import re
import sqlite3
import sys

os.environ |= {
    # torch's own kernels, those of MKL and oneDNN below it, OpenBLAS of NumPy and SciPy, NumPy's own.
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    "MKL_CBWR": "COMPATIBLE",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "OPENBLAS_CORETYPE": "Nehalem",
    "NPY_DISABLE_CPU_FEATURES": "X86_V3",
}

# The variables above are read when these are imported, and the versions when what uses them is.
from bench.models import determinism

installed = determinism.versions()


def versions():
    """Return the versions of this machine with other minor (of 0.x: patch) versions, except moatbench's."""
    minor = re.compile(r"^(0\.\d+\.|[1-9]\d*\.)\d+")
    return {
        name: version if name == "moatbench" else minor.sub(r"\g<1>99", version)
        for name, version in installed.items()
    }


determinism.versions = versions

if os.environ.get("WEAKENED"):
    from defenses.gaussian_noise import GaussianNoise

    draw = GaussianNoise.answer

    def weaker(self, batch):
        """Answer with a quarter of the noise."""
        scale, self.scale = self.scale, self.scale / 4
        try:
            return draw(self, batch)
        finally:
            self.scale = scale

    GaussianNoise.answer = weaker

if __name__ == "__main__":
    from bench.cli.main import main

    if os.environ.get("WEAKENED"):
        # Their keys are those of the defense as it is.
        store = sqlite3.connect(sys.argv[sys.argv.index("--store") + 1])
        store.execute("delete from records where spec like '%gaussian_noise%'")
        store.commit()
        store.close()
    main()
