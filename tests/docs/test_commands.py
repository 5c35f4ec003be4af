"""Every command and every line of Python in README.md and docs/ runs, on small phantoms under the names used there.

A block is ``console`` or ``bash`` (commands of a shell), ``python``, ``yaml`` (a settings file, its name in the first
line) or ``text``, which shows output and is not run. The blocks of a page run in order, in one folder.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import typer

from app.scenes import RUNNER
from cheaper import COARSE, UNJUDGED, cheapen, keep_prepared
from roireg.app.cli import app
from roireg.app.train import train_app
from roireg.core.image import Image
from roireg.core.progress import Progress
from roireg.evaluate import ReportInput, render_report
from roireg.features.base import _EXTRACTORS
from roireg.fit import RegionAffine, Search, Stage, Velocity
from roireg.fit import stage as stage_module
from roireg.fit import start as start_module
from roireg.fit.search import GlobalSearch
from roireg.io import PointSet, write_image, write_labels, write_points
from roireg.models import registry
from roireg.pipeline import PRESETS, Config, registration
from roireg.segment.base import _SEGMENTERS
from roireg.serve import fitting as viewer_fitting
from roireg.serve import session as viewer_session
from roireg.synth import SyntheticPair, as_raster, make_pair
from roireg.train.configs import read_config
from roireg.train.deform import DeformConfig
from roireg.train.embedding import EmbeddingConfig
from roireg_bench import prompts
from roireg_bench.cli import bench_app
from roireg_bench.methods import METHODS
from roireg_bench.studies import find_study

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LANGUAGES = ("console", "bash", "python", "yaml", "text")
REAL = dict(PRESETS)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> list[tuple[str, str]]:
    """(language, content) of every fenced block of a page."""
    return FENCE.findall(page.read_text(encoding="utf-8"))


def commands(block: str) -> list[str]:
    """Commands of a shell block, without comments and prompts, continued lines joined."""
    joined = re.sub(r"\\\n\s*", "", block)
    lines = [re.sub(r"\s+#.*$", "", line).removeprefix("$ ").strip() for line in joined.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


# -- small inputs ---------------------------------------------------------------------------------


def small_motion(ndim: int, shape: tuple[int, ...]) -> SyntheticPair:
    return make_pair(ndim, shape=shape, max_displacement_mm=6, rotation_deg=1, translation_mm=3, scale=0.01, noise=2)


@pytest.fixture(scope="session")
def volumes() -> SyntheticPair:
    return small_motion(3, (16, 36, 48))


@pytest.fixture(scope="session")
def photos() -> SyntheticPair:
    return as_raster(small_motion(2, (72, 96)))


@pytest.fixture
def inputs(tmp_path: Path, volumes: SyntheticPair, photos: SyntheticPair) -> Path:
    """A folder with every file that the pages name as given."""
    for pair, kind in ((volumes, ".nii.gz"), (photos, ".png")):
        for side in ("fixed", "moving"):
            image, labels = getattr(pair, side), getattr(pair, f"{side}_labels")
            write_image(tmp_path / f"{side}{kind}", image)
            write_labels(tmp_path / f"{side}_labels{kind}", labels)
    for side in ("fixed", "moving"):
        write_labels(tmp_path / f"{side}_mask.nii.gz", _body(getattr(volumes, side)))
        write_points(tmp_path / f"{side}_points.csv", PointSet(getattr(volumes, f"{side}_points")))
        write_points(tmp_path / f"{side}_points.mrk.json", PointSet(getattr(volumes, f"{side}_points")))
    write_image(tmp_path / "moving_pet.nii.gz", volumes.moving)
    one = sitk.ReadImage(str(tmp_path / "moving.nii.gz"))
    sitk.WriteImage(sitk.JoinSeries([one, one]), str(tmp_path / "moving_4d.nii.gz"))
    return tmp_path


def _body(image: Image) -> Image:
    return image.with_data((image.data > 20).int())


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Presets that search and iterate little: that commands work is tested here, how well they do elsewhere.

    Of the reports of a page, the first is rendered and the others repeat it: they would take most of the time.
    """
    pages: list[str] = []

    def first_report(report: ReportInput) -> str:
        if not pages:
            pages.append(render_report(report))
        return pages[0]

    monkeypatch.setattr(registration, "render_report", first_report)
    # Long work of the viewer computes here, not in a process that would first load the libraries.
    for module in (viewer_session, viewer_fitting):
        monkeypatch.setattr(module, "apart", _here)
    monkeypatch.setattr(viewer_session, "warm", lambda: None)
    monkeypatch.setattr(viewer_session, "QUICK", Config(stages=(RegionAffine(),), verdict=UNJUDGED))
    cheapen(monkeypatch, _quickened)
    keep_prepared(monkeypatch)
    # What a page sets by itself searches and is judged with a probability, coarsely.
    for module in (start_module, stage_module):
        monkeypatch.setattr(module, "GlobalSearch", lambda pair, options: GlobalSearch(pair, COARSE))


def _here(function: Callable[..., object], progress: Progress, *arguments: object, **options: object) -> object:
    return function(*arguments, progress=progress, **options)


def _quickened(config: Config) -> Config:
    stages: list[Stage] = []
    for stage in config.stages:
        if isinstance(stage, Search):
            stage = RegionAffine()
        elif isinstance(stage, Velocity):
            few = {"levels": 1, "iterations": (4,), "max_voxels": 6000, "checked": False}
            stage = stage.model_copy(update=few)
        stages.append(stage)
    return config.model_copy(
        update={
            "verdict": UNJUDGED,
            "segment": config.segment.model_copy(update={"max_count": 12}),
            "match": config.match.model_copy(update={"slices": False}),
            "stages": tuple(stages),
        }
    )


# -- running --------------------------------------------------------------------------------------


def check_bench(arguments: list[str]) -> None:
    """Parse a benchmark command without running it: that takes hours, and data which tests do not have."""
    group = typer.main.get_command(bench_app)
    name, rest = (arguments[0], arguments[1:]) if arguments[0] in group.commands else ("run", arguments)
    context = group.commands[name].make_context(name, list(rest))
    if name == "study":
        if not context.params["listed"]:
            find_study(context.params["name"])
        return
    named = (context.params.get("methods") or "default").split(",")
    known = prompts.METHODS if name == "prompts" else METHODS
    assert set(named) <= set(known), f"{set(named) - set(known)} are no methods"


def check_training(arguments: list[str]) -> None:
    """Parse a training and read its settings without running it: that takes an hour."""
    group = typer.main.get_command(train_app)
    context = group.commands[arguments[0]].make_context(arguments[0], arguments[1:])
    read_config(context.params["config"], DeformConfig if arguments[0] == "deform" else EmbeddingConfig)


def check_served(arguments: list[str]) -> None:
    """Parse a command that runs until it is stopped, and check its files."""
    command = typer.main.get_command(app).commands[arguments[0]]
    context = command.make_context(arguments[0], list(arguments[1:]))
    images = [context.params.get(name) for name in ("fixed", "moving")]
    assert all(place is None or Path(place).exists() for place in images)


def run_roireg(arguments: list[str], output: Path | None) -> None:
    if arguments[:2] in (["train", "embedding"], ["train", "deform"]):
        check_training(arguments[1:])
        return
    if arguments[0] in ("view", "serve"):
        check_served(arguments)
        return
    if arguments[0] == "bench":
        check_bench(arguments[1:])
        return
    result = RUNNER.invoke(app, arguments, catch_exceptions=False)
    # Regions alone may fail on these images by their own verdict; everything else succeeds.
    expected = (0, 3) if "samreg" in arguments else (0,)
    assert result.exit_code in expected, f"roireg {shlex.join(arguments)}\n{result.output}\n{result.stderr}"
    if output is not None:
        output.write_text(result.stdout, encoding="utf-8")


def check_make(arguments: list[str], output: Path | None) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert arguments
    assert set(arguments) <= set(targets)


def check_pip(arguments: list[str], output: Path | None) -> None:
    assert arguments[0] == "install"
    packages = [a for a in arguments[1:] if not a.startswith("-")]
    own = {".", "benchmarks[peers]"}
    assert set(packages) <= own, "only what is in this repository is installed by hand; the rest is in pyproject.toml"


def check_python(arguments: list[str], output: Path | None) -> None:
    if arguments == ["-m", "venv", ".venv"]:
        return
    script, *results = arguments
    assert (ROOT / script).is_file()
    kind = "/results.csv"
    if results[:1] == ["--prompts"]:
        kind = f"/{results.pop(0).strip('-')}.csv"
    assert all(file.endswith(kind) for file in results)


RUNNERS: dict[str, Callable[[list[str], Path | None], None]] = {
    "roireg": run_roireg,
    ".venv/bin/roireg": run_roireg,
    "make": check_make,
    ".venv/bin/pip": check_pip,
    "python": check_python,
    "python3": check_python,
    ".venv/bin/python": check_python,
}


def run_console(block: str) -> None:
    for line in commands(block):
        program, *arguments = shlex.split(line)
        output = None
        if len(arguments) > 1 and arguments[-2] == ">":
            output = Path(arguments[-1])
            arguments = arguments[:-2]
        assert program in RUNNERS, f"{line}: no test knows how to run {program}"
        RUNNERS[program](arguments, output)


def write_settings(block: str) -> None:
    name = re.match(r"# (\S+\.yaml)", block)
    assert name, f"the first line of a yaml block names its file, as in '# settings.yaml':\n{block}"
    Path(name[1]).write_text(block, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        for preset, make in REAL.items():
            patch.setitem(PRESETS, preset, make)
        Config.load(name[1])


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=lambda p: p.name)
def test_every_block_of_a_page_runs(page: Path, inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(inputs)
    # What a page adds to models, segmenters and features ends with it.
    monkeypatch.setattr(registry, "FAMILIES", [*registry.FAMILIES])
    for known in (_SEGMENTERS, _EXTRACTORS):
        monkeypatch.setattr(known, "_factories", dict(known._factories))
    names: dict[str, object] = {}
    for language, block in blocks(page):
        if language in ("console", "bash"):
            run_console(block)
        elif language == "yaml":
            write_settings(block)
        elif language == "python":
            title = f"{page.name}: {block.splitlines()[0]}"
            exec(compile(block, title, "exec", dont_inherit=True), names)
        else:
            assert language == "text", f"{page.name}: a block is one of {LANGUAGES}, found {language!r}"
    assert all(np.isfinite(v) for v in names.values() if isinstance(v, float))


# -- what the pages say ---------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_no_block_escapes(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.count("```") == 2 * len(blocks(page)), "a fence is indented or not closed"
    outside = FENCE.sub("", text)
    hidden = re.findall(r"^ {4,}(?:\$ )?(?:roireg|make|python|pip|import)\b.*$", outside, re.MULTILINE)
    assert not hidden, f"commands belong into fenced blocks: {hidden}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        place = page if not file else page.parent / file
        assert place.exists(), f"{page.name} links to {target}"
        if anchor:
            titles = re.findall(r"^#+ (.+)$", place.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles}
            assert anchor in anchors, f"{page.name} links to {target}"


def test_points_that_are_named_lie_in_a_body(volumes: SyntheticPair, photos: SyntheticPair) -> None:
    places = 0
    for page in PAGES:
        shell = [line for kind, block in blocks(page) if kind in ("console", "text") for line in commands(block)]
        for words in [shlex.split(line) for line in shell if line.startswith("roireg ")]:
            given = [words[i + 1] for i, word in enumerate(words[:-1]) if word in ("--point", "--prompt")]
            signs = [words[i + 1] for i, word in enumerate(words[:-1]) if word == "--label"] or ["1"] * len(given)
            pair = photos if "fixed.png" in words else volumes
            side = "moving" if "--prompt-in" in words else "fixed"
            labels = getattr(pair, f"{side}_labels")
            for text, sign in zip(given, signs, strict=True):
                place = np.array([float(number) for number in text.split(",")])
                index = place[::-1] if "--unit" in words else labels.grid.index_from_world(place)
                value = int(labels.data[(0, *np.round(index).astype(int))])
                assert (value != 0) == (sign == "1"), f"{page.name}: {text} in {words} has the label {value}"
                places += 1
    assert places > 5


def test_the_tutorial_names_the_sections_of_the_report() -> None:
    text = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    part = text.split("## 2. Read the report")[1].split("## 3.")[0]
    names = re.findall(r"^- .*?\*\*([^*]+)\*\*", part, re.MULTILINE)
    page = (ROOT / "src/roireg/evaluate/templates/report.html.j2").read_text(encoding="utf-8")
    titles = re.findall(r"<(?:h2[^>]*|summary)>([^<]+)<", page)
    assert set(names) - {"The badge"} <= set(titles), f"the report has the sections {titles}"


def test_options_that_are_named_exist() -> None:
    known = set()
    for name in [c.name for c in app.registered_commands]:
        known |= set(re.findall(r"--[a-z0-9-]+", RUNNER.invoke(app, [str(name), "--help"], env=WIDE).output))
    for group in (bench_app, train_app):
        for name in typer.main.get_command(group).commands:
            known |= set(re.findall(r"--[a-z0-9-]+", RUNNER.invoke(group, [name, "--help"], env=WIDE).output))
    known |= {"--version", "--prompts"} | OTHERS
    for page in PAGES:
        text = re.sub(r"<!--.*?-->", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        named = set(re.findall(r"(?<![\w|:-])--[a-z0-9][a-z0-9-]*", text))
        assert named <= known, f"{page.name}: {named - known}"


OTHERS = {
    "--array", "--cpus-per-task", "--mem", "--time",  # sbatch
    "--host", "--memory-limit", "--nthreads", "--resources",  # dask
}  # fmt: skip
"""Options of other programs that the pages name."""

WIDE = {"COLUMNS": "300", "NO_COLOR": "1", "TERM": "dumb"}
