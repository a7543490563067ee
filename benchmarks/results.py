"""RESULTS.md and its plots, from the JSON files that the benchmarks wrote: python -m benchmarks.results"""

import json
from pathlib import Path

from benchmarks import plots, sections
from benchmarks.common import FOLDER
from benchmarks.gpu import page as gpu
from utils.reporting import style

INTRODUCTION = """# Benchmark results

`python -m benchmarks.results` writes this page from the JSON files next to it, which `make bench` and
`benchmarks/gpu_check.sh` write. For training speed and the parts of a step, everything that is compared was
measured in turns on one machine. Shared machines are noisy: absolute numbers vary by 10 % and more from hour
to hour. How batches of folds scale: [docs/scaling.md](../docs/scaling.md)."""

#: The section and the plot of a file, by the beginning of its name, in the order of the page.
SECTIONS = {
    "throughput": (sections.throughput_section, plots.plot_throughput),
    "parts": (sections.parts_section, None),
    "growth": (sections.growth_section, plots.plot_growth),
    "quality": (sections.quality_section, plots.plot_quality),
}


def read_results(folder: Path) -> list[tuple[str, dict]]:
    """The names and contents of the files in ``folder``, in the order of the page."""
    paths = [path for start in SECTIONS for path in sorted(folder.glob(f"{start}*.json"))]
    return [(path.stem, json.loads(path.read_text(encoding="utf-8"))) for path in paths]


def page(folder: Path) -> str:
    """RESULTS.md."""
    text = [INTRODUCTION]
    for name, measurements in read_results(folder):
        section, _ = SECTIONS[name.split("-")[0]]
        text.append(section(measurements, name))
    text.append(gpu.section(folder))
    return "\n\n".join(text) + "\n"


def main() -> None:
    style.use_style()
    for name, measurements in read_results(FOLDER):
        _, plot = SECTIONS[name.split("-")[0]]
        if plot:
            style.save(plot(measurements), FOLDER / f"{name}.png")
    for name, measurements in gpu.read(FOLDER).items():
        if measurements["part"] == "fast":
            style.save(gpu.plot_fast(measurements), FOLDER / f"{name}.png")
    (FOLDER / "RESULTS.md").write_text(page(FOLDER), encoding="utf-8")


if __name__ == "__main__":
    main()
