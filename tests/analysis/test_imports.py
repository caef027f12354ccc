"""What reading results needs."""

import pkgutil
import subprocess
import sys

from records import fake_run, stored

from bench import analysis


def test_reading_results_loads_neither_torch_nor_art():
    modules = [f"bench.analysis.{module.name}" for module in pkgutil.iter_modules(analysis.__path__)]
    heavy = {"torch", "art", "attacks", "defenses"}
    code = f"import sys, {', '.join(modules)}; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert len(modules) > 5
    assert done.stdout.strip() == "set()"


def test_the_page_for_the_terminal_loads_no_library_that_only_files_need(tmp_path):
    path = stored(tmp_path / "run.sqlite", fake_run())
    code = (
        "import sys; from pathlib import Path; from bench.report.store_report import first_page_of\n"
        f"assert 'label_only' in first_page_of(Path({str(path)!r}))\n"
        "print({'torch', 'art', 'matplotlib', 'pandas', 'pyarrow', 'markdown_it'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
