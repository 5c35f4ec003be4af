"""What is printed about the result of a job, from its document alone, so that an earlier result reads the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from roireg.app.console import Outcome, Session
from roireg.app.summary import COLOURS, escape, key_metrics, listed, metric_of, metric_table, number, size_of
from roireg.evaluate import LabelScores
from roireg.jobs import ApplyJob, ConvertJob, EvaluateJob, JobResult, MatchJob, PromptJob, RegisterJob, SegmentJob

__all__ = [
    "say_applied",
    "say_converted",
    "say_pairs",
    "say_prompts",
    "say_regions",
    "say_registration",
    "say_scores",
]

EXIT_FAILED = 3

LISTED = 10
"""How many pairs are printed."""


def say_registration(session: Session, job: RegisterJob, result: JobResult) -> Outcome:
    """Print verdict, reasons, what got worse, key numbers before and after, and where to look."""
    document = result.document
    verdict, accepted = document["verdict"], document["accepted"]
    colour = COLOURS[verdict]
    names = f"{job.moving.name} onto {job.fixed.name}"
    count = f"{document['pairs']} pairs" + (f" ({accepted} accepted)" if accepted else "")
    session.say(f"[bold {colour}]{verdict}[/]  {escape(names)}  {count}, {session.seconds:.1f} s")
    for reason in document["reasons"]:
        session.say(f"  [{colour}]-[/] {escape(reason)}")
    for sentence in document["worse"]:
        session.say(f"  [red]-[/] {escape(sentence)}")
    session.say(metric_table(key_metrics({name: metric_of(m) for name, m in document["metrics"].items()})))
    bad = verdict == "failed" or (job.strict and verdict != "ok")
    if bad:
        what = "must not be used as it is" if verdict == "failed" else "has to be checked by eye"
        why = "; ".join(document["reasons"]) if session.quiet or session.json else "the reasons are above"
        session.note(verdict, f"the result {what}: {why}", colour)
    what = "report.html" if "report.html" in result.files else ", ".join(result.files)
    session.say(f"written: {escape(str(job.out / what) if what == 'report.html' else f'{job.out}: {what}')}")
    return Outcome(_answer(job, result), EXIT_FAILED if bad else 0)


def say_prompts(session: Session, job: PromptJob, result: JobResult) -> Outcome:
    """Print the counterpart of every prompt, or why there is none."""
    prompts, registration = result.document["prompts"], result.document.get("registration")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("prompt", "counterpart", "confidence", ""):
        table.add_column(heading, justify="right" if heading == "confidence" else "left")
    for prompt in prompts:
        where = "–" if prompt["found"] is None else _place(prompt["found"])
        colour = COLOURS["failed" if prompt["pair"] is None else "ok"]
        confidence = f"[{colour}]{prompt['confidence']:.2f}[/]"
        table.add_row(escape(prompt["name"]), where, confidence, escape(prompt["reason"]))
        for note in prompt["notes"]:
            session.note("note", f"prompt {prompt['name']}: {note}", "blue")
    other = "moving" if job.side == "fixed" else "fixed"
    count = sum(prompt["pair"] is not None for prompt in prompts)
    session.say(f"{count} of {len(prompts)} prompts have a counterpart in the {other} image, {session.seconds:.1f} s")
    session.say(table)
    if registration is not None:
        session.say(f"registration: [bold {COLOURS[registration['verdict']]}]{registration['verdict']}[/]")
    session.say(f"written: {escape(str(job.out))}: {escape(', '.join(result.files))}")
    bad = ("failed", "uncertain") if job.strict else ("failed",)
    failed = not count or (registration is not None and registration["verdict"] in bad)
    return Outcome(_answer(job, result), EXIT_FAILED if failed else 0)


def say_pairs(session: Session, job: MatchJob, result: JobResult) -> Outcome:
    """Print the best pairs with how alike and how sure they are, and where they lie."""
    document, pairs = result.document, result.document["pairs"]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    unit = document["unit"]
    for heading in ("pair", "similarity", "probability", f"fixed ({unit})", f"moving ({unit})", ""):
        table.add_column(heading, justify="left" if heading == "" else "right")
    for pair in pairs[:LISTED]:
        places = (", ".join(f"{v:.1f}" for v in pair[side]) for side in ("fixed", "moving"))
        what = pair["name"] or ("" if pair["status"] == "proposed" else pair["status"])
        chance = "–" if pair["probability"] is None else f"{pair['probability']:.2f}"
        table.add_row(str(pair["id"]), number(pair["similarity"]), chance, *places, escape(what))
    regions = document["regions"]
    of = f"{regions['fixed']} fixed and {regions['moving']} moving regions"
    session.say(f"{len(pairs)} pairs of {of}, {session.seconds:.1f} s")
    if pairs:
        session.say(table)
        if len(pairs) > LISTED:
            session.say(f"and {len(pairs) - LISTED} more in result.json")
    else:
        session.note("note", "no regions correspond; lower --epsilon, or say where things lie with --init", "yellow")
    session.say(f"written: {escape(str(job.out))}: {escape(', '.join(result.files))}")
    return Outcome(_answer(job, result), 0 if pairs else EXIT_FAILED)


def _place(prompt: Mapping[str, Any]) -> str:
    """Return the first point of a prompt, or the middle of its box."""
    points = prompt["points"]["mm"]
    if not points:
        low, high = prompt["box"]["mm"]
        points = [[(a + b) / 2 for a, b in zip(low, high, strict=True)]]
    return ", ".join(f"{v:.1f}" for v in points[0])


def say_applied(session: Session, job: ApplyJob, result: JobResult) -> Outcome:
    """Print how large the result is, and where it is."""
    document, value = result.document, result.value
    if document["kind"] == "points":
        what = f"{document['count']} points mapped"
    else:
        frames = f", {document['frames']} volumes" if "frames" in document else ""
        what = f"{size_of(value.grid, value.unit)}{frames}"
    session.say(f"{what}: {escape(str(job.out))}")
    return Outcome(document)


def say_converted(session: Session, job: ConvertJob, result: JobResult) -> Outcome:
    """Print the files that were written."""
    for file in result.document["written"]:
        session.say(escape(file))
    return Outcome(result.document)


def say_regions(session: Session, job: SegmentJob, result: JobResult) -> Outcome:
    """Print the first regions with stability, size and place."""
    document, regions = result.document, result.document["regions"]
    prompted = bool(job.point) or job.box is not None
    session.say(
        f"{len(regions)} {'regions for the prompt, best first' if prompted else 'regions, most stable first'}"
    )
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    flat = bool(regions) and len(regions[0]["centroid"]) == 2
    size, axes = (f"{document['unit']}²", "x, y") if flat else (f"{document['unit']}³", "x, y, z")
    named = any(region["name"] for region in regions)
    for heading in ("label", "probability" if named else "stability", f"size ({size})", f"centroid {axes}"):
        table.add_column(heading, justify="right")
    if named:
        table.add_column("class")
    for region in regions[: 40 if named else 10]:
        centre = ", ".join(f"{v:.1f}" for v in region["centroid"])
        what = (escape(region["name"]),) if named else ()
        table.add_row(str(region["label"]), number(region["stability"]), f"{region['volume']:.4g}", centre, *what)
    session.say(table)
    if document["note"]:
        session.note("note", document["note"], "blue")
    if not regions:
        advice = (
            "ask elsewhere or with a box" if prompted else "allow smaller ones with --min-size, or name a --model"
        )
        session.note("note", f"there is no region; {advice}", "yellow")
    session.say(f"written into {escape(str(job.out.parent))}: {escape(', '.join(result.files))}")
    return Outcome({**document, "files": [job.out.parent / name for name in result.files]})


def say_scores(session: Session, job: EvaluateJob, result: JobResult) -> Outcome:
    """Print a table of all metrics, and Dice of the labels."""
    session.say(metric_table(result.value.metrics))
    if result.value.labels is not None:
        _say_labels(session, result.value.labels)
    if job.out is not None:
        session.say(f"written: {escape(str(job.out))}")
    return Outcome(result.document, printed=job.out is None)


def _say_labels(session: Session, labels: LabelScores) -> None:
    values = [f"{label}: {value:.3f}" for label, value in labels.dice.items()]
    session.say(f"Dice per label  {listed(values, most=12)}")
    for side, missing in (("fixed", labels.only_fixed), ("moving", labels.only_warped)):
        if missing:
            session.note("note", f"labels only in the {side} map, not scored: {listed(missing)}", "blue")
    if labels.lost:
        session.note("note", f"labels pushed out of the fixed image, Dice 0: {listed(labels.lost)}", "blue")


def _answer(job: RegisterJob | PromptJob | MatchJob, result: JobResult) -> dict[str, Any]:
    return {**result.document, "out": job.out, "files": result.files}
