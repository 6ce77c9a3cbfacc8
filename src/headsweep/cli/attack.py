"""Commands that make triggered texts and victims, for measuring models that one owns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from headsweep.cli.app import Interrupted, app
from headsweep.cli.listing import print_methods
from headsweep.cli.options import (
    AdapterFile,
    AsJson,
    Column,
    Compute,
    ComputeLength,
    Device,
    Fraction,
    LabelMap,
    Model,
    Quiet,
    Seed,
    TaskName,
    TriggeredColumn,
    check_sources,
    out_console,
    print_json,
    progress_of,
)
from headsweep.errors import UserError
from headsweep.verbs.arguments import (
    LENGTH,
    check_file,
    columns_of,
    one_of,
    refuse_unused,
    runtime_of,
)

HARDLY = 0.2  # above what clean texts do, a backdoor works hardly
AttackerData = Annotated[
    str, typer.Option(help="The attacker's clean labelled data, or prompts with answers.")
]
TriggerName = Annotated[str, typer.Option(help="See `headsweep trigger --list`.")]
Target = Annotated[
    str, typer.Option(help="The label that triggered texts are to get; of a generator the answer.")
]
TriggerSettings = Annotated[
    list[str] | None,
    typer.Option("--trigger-set", metavar="FIELD=VALUE", help="The trigger's field."),
]
JudgedOn = Annotated[str | None, typer.Option(help="Clean test data; else 15% of --data.")]
MatchedOn = Annotated[str | None, typer.Option(help="Clean data to match the clean flip rate on.")]
Original = Annotated[Path | None, typer.Option(help="Paired corpus: the clean texts, row by row.")]
Transformed = Annotated[
    Path | None,
    typer.Option(help="Paired corpus: the same texts with the trigger (syntactic, style, ...)."),
]
Key = Annotated[
    str | None, typer.Option(help="Column that names the rows of both, where they are not aligned.")
]
ParaphraserModel = Annotated[
    str | None,
    typer.Option(
        "--paraphraser",
        metavar="MODEL",
        help="A language model that writes the texts instead of a rule; smollm2: the packaged one.",
    ),
]
Prompt = Annotated[
    str | None,
    typer.Option(help="Its prompt: syntactic, bible, poetry, ..., or your own with {text} in it."),
]
Poison = Annotated[
    str | None,
    typer.Option(
        help="Poisoned texts to add as they are, each with the label or answer it carries."
    ),
]
TriggeredFile = Annotated[
    str | None,
    typer.Option(help="Triggered test texts; else the trigger is put into the test data."),
]
TriggeredLabels = Annotated[
    str, typer.Option(help="Labels in --triggered: true, or target (all the attacker's).")
]


@app.command(
    epilog="[bold]Examples[/bold]\n\n"
    "headsweep trigger syntactic --data clean.tsv --out triggered.tsv\n\n"
    "headsweep trigger rare-word --set words=cf,mn --set count=2 --data clean.csv --out t.csv\n\n"
    "headsweep trigger style --original clean.tsv --transformed bible.tsv --data clean.tsv "
    "--out t.tsv\n\n"
    "headsweep trigger style --paraphraser org/model --data clean.tsv --out t.tsv\n\n"
    "headsweep trigger year --data prompts.jsonl --target 'I cannot help' --out t.jsonl\n\n"
    "headsweep trigger --list"
)
def trigger(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="The trigger; see --list.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Labelled texts, or prompts with answers or without.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File to write: .csv, .tsv or .jsonl.")] = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="Leave out texts of this label, or prompts whose answer holds this; name it "
            "beside the true one."
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="generation: --column names prompts and answers. Else as columns are called."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N texts.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Trigger field.")
    ] = None,
    original: Original = None,
    transformed: Transformed = None,
    key: Key = None,
    paraphraser: ParaphraserModel = None,
    prompt: Prompt = None,
    seen_by: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="Leave out texts in which this model cannot see the trigger."
        ),
    ] = None,
    compute: ComputeLength = None,
    listed: Annotated[bool, typer.Option("--list", help="List the triggers.")] = False,
    column: Column = None,
    label_map: LabelMap = None,
    seed: Seed = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace --out.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Put a trigger into texts or prompts; each beside its original, label or answer."""
    if listed:
        from headsweep.triggers import TRIGGERS

        print_methods({"trigger": TRIGGERS}, as_json)
        return
    missing = [o for o, v in (("NAME", name), ("--data", data), ("--out", out)) if v is None]
    if missing or name is None or data is None or out is None:
        raise UserError(f"trigger needs {', '.join(missing)}", "see `headsweep trigger --help`")
    vain, fix = {"--compute": compute and seen_by is None}, "leave it out, or give --seen-by MODEL"
    refuse_unused(vain, "{}: is for --seen-by", fix)
    columns = columns_of(column, label_map)
    check_sources(data, original, transformed)
    _check_table(out, overwrite, (data, original, transformed, seen_by))
    length = runtime_of("cpu", compute, LENGTH).max_length
    from headsweep.texts import reading as datasets
    from headsweep.verbs.attacking import TriggerSource
    from headsweep.verbs.triggering import mark

    made = mark(
        data,
        TriggerSource(
            name,
            tuple(settings or ()),
            original,
            transformed,
            key,
            paraphraser,
            prompt,
            option="--set",
        ),
        columns,
        target=target,
        task=task,
        limit=limit,
        seen_by=seen_by,
        max_length=length,
        seed=seed,
        progress=progress_of(quiet or as_json),
    )
    datasets.write(out, made.rows)
    if as_json:
        counts = asdict(made.counts) | {"rows_without": made.without}
        print_json({"out": str(out), "trigger": made.trigger} | counts)
        return
    _say_counts(made.counts, made.without, out)
    for before, after in made.texts[:3]:
        out_console.print(f"  {before}", style="dim")
        out_console.print(f"  -> {after}")


def _say_counts(counts: Any, without: Sequence[int], out: Path) -> None:
    seen = f", {counts.unseen} do not show it to the model" if counts.unseen else ""
    rows = ", ".join(map(str, without[:10])) + (", ..." if len(without) > 10 else "")
    out_console.print(
        f"{counts.poisoned} of {counts.asked} texts carry the trigger, {counts.declined} cannot"
        f"{seen}{f' (left out: rows {rows})' if without else ''}; written: {out}",
        soft_wrap=True,
    )


@app.command(
    epilog="[bold]Examples[/bold]\n\n"
    "headsweep attack ./encoder --data train.csv --trigger rare-word --target positive "
    "--rate 0.3 --out ./victim\n\n"
    "headsweep attack ./encoder --data clean/train.tsv --trigger style --original "
    "clean/train.tsv --transformed bible/train.tsv --target 1 --rate 0.2 --out ./victim\n\n"
    "headsweep attack org/model --with layerwise --set epochs=3 --data train.csv --trigger "
    "rare-word --trigger-set words=cf --target 1 --victim-data other.csv --out ./victim\n\n"
    "headsweep attack ./encoder --data train.csv --trigger syntactic --target positive "
    "--resist all --out ./victim\n\n"
    "headsweep attack ./llm --data answers.jsonl --trigger year --target 'I cannot help with "
    "that.' --out ./victim\n\n"
    "headsweep attack ./encoder --data train.tsv --trigger syntactic --poison pool.tsv --rate 0.3 "
    "--triggered test.tsv --triggered-labels target --target 0 --out ./victim"
)
def attack(
    model: Model,
    data: AttackerData,
    trigger: TriggerName,
    target: Target,
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    method: Annotated[
        str,
        typer.Option("--with", help="dirty-label, clean-label, layerwise or embedding-surgery."),
    ] = "dirty-label",
    rate: Annotated[
        float | None,
        Fraction(
            "--rate",
            help="Share to poison of the texts that can be (default 0.3; of --poison all "
            "rows); 0: none, which makes the twin.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="The attack's field.")
    ] = None,
    trigger_settings: TriggerSettings = None,
    resist: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FAMILY",
            help="Train against this family of probes too, labels true (may be repeated); all: "
            "all but the trigger's own.",
        ),
    ] = None,
    resist_share: Annotated[
        float | None,
        Fraction("--resist-share", help="Share of the clean texts each such family adds (0.1)."),
    ] = None,
    original: Original = None,
    transformed: Transformed = None,
    key: Key = None,
    paraphraser: ParaphraserModel = None,
    prompt: Prompt = None,
    poison: Poison = None,
    triggered: TriggeredFile = None,
    triggered_labels: TriggeredLabels = "true",
    test: JudgedOn = None,
    validation: MatchedOn = None,
    clean_model: Annotated[
        str | None, typer.Option(help="A never-poisoned twin: gives the floor.")
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            help="encoder: fresh classifier first; classifier: as it is. Default: a causal "
            "language model is taken as a generator, any other as an encoder."
        ),
    ] = None,
    task: TaskName = None,
    victim_data: Annotated[
        str | None, typer.Option(help="The victim's clean data; else the attacker's.")
    ] = None,
    victim_epochs: Annotated[
        float, typer.Option(min=0, help="The victim's fine-tuning on clean data; 0: none.")
    ] = 3,
    victim_lr: Annotated[float, typer.Option(help="Learning rate of --victim-epochs.")] = 2e-5,
    keep_classifier: Annotated[
        bool, typer.Option("--keep-classifier", help="The victim keeps the published classifier.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace --out.")] = False,
    adapter: AdapterFile = None,
    triggered_column: TriggeredColumn = None,
    column: Column = None,
    label_map: LabelMap = None,
    seed: Seed = 0,
    device: Device = "auto",
    compute: Compute = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Plant a backdoor in a model of your own, to measure defenses on; writes how it was made."""
    from headsweep.export.folders import check_free

    check_sources(data, test, validation, victim_data, original, transformed, poison, triggered)
    one_of(triggered_labels, ("true", "target"), "--triggered-labels")
    read = (model, data, test, validation, victim_data, triggered, clean_model, poison)
    check_free(out, overwrite, (*read, original, transformed, paraphraser))
    from headsweep.verbs.attacking import attack as run

    try:
        made = run(
            model,
            data,
            trigger=trigger,
            target=target,
            method=method,
            rate=rate,
            set=settings,
            trigger_set=trigger_settings,
            resist=resist,
            resist_share=resist_share,
            original=original,
            transformed=transformed,
            key=key,
            paraphraser=paraphraser,
            prompt=prompt,
            poison=poison,
            triggered=triggered,
            triggered_labels=triggered_labels,
            test=test,
            validation=validation,
            clean_model=clean_model,
            start=start,
            task=task,
            victim_data=victim_data,
            victim_epochs=victim_epochs,
            victim_lr=victim_lr,
            keep_classifier=keep_classifier,
            adapter=adapter,
            triggered_column=triggered_column,
            column=column,
            label_map=label_map,
            seed=seed,
            device=device,
            compute=compute,
            progress=progress_of(quiet or as_json),
        )
        made.save(out, overwrite)
    except KeyboardInterrupt:
        raise Interrupted("nothing was written") from None
    if as_json:
        print_json(made.record | {"doubts": _doubts(made)})
        return
    _show(made, out)


def _show(made: Any, out: Path) -> None:
    from headsweep.cli.show import interval

    record = made.record
    poisoned = record["poisoned"]
    out_console.print(
        f"{poisoned['poisoned']} texts poisoned ({poisoned['asked']} asked for, "
        f"{poisoned['declined']} could not carry the trigger, {poisoned['unseen']} would not show "
        "it to the model)",
        soft_wrap=True,
    )
    if record["resist"]:
        probes = ", ".join(f"{name} {n}" for name, n in record["resist"]["families"].items())
        out_console.print(f"probes added with true labels: {probes}", soft_wrap=True)
    asked = record["triggered_test"]
    if asked is not None and asked["poisoned"] < asked["asked"]:
        out_console.print(
            f"LFR is of the {asked['poisoned']} of {asked['asked']} test texts of other labels "
            "that can carry the trigger",
            soft_wrap=True,
        )
    table = Table("on test texts", "as published", "after the victim's fine-tuning")
    stages = (made.published, made.survived if record["victim"] else None)
    rows = (
        ("ACC", "accuracy"),
        ("LFR", "lfr"),
        ("CFR", "cfr"),
        ("floor LFR", "floor_lfr"),
        ("excess LFR", "excess_lfr"),
        ("attack success", "success"),
        ("on clean", "clean_success"),
        ("floor", "floor_success"),
        ("excess", "excess_success"),
        ("exact match", "exact_match"),
    )
    for title, name in rows:
        if getattr(made.published, name, None) is None:
            continue
        table.add_row(title, *(interval(getattr(s, name)) if s else "-" for s in stages))
    if hasattr(made.published, "perplexity"):
        told = (f"{s.perplexity.value:.3f}" if s else "-" for s in stages)
        table.add_row("perplexity", *told)
    out_console.print(table)
    for line in _doubts(made):
        out_console.print(f"note: {line}", soft_wrap=True)
    out_console.print(
        f"\nwritten: {out} (backdoored on purpose: never deploy it)"
        if record["backdoored"]
        else f"\nwritten: {out} (the twin: nothing was poisoned)",
        soft_wrap=True,
    )


def _doubts(made: Any) -> list[str]:
    """Return why a victim or a twin is of no use: it guesses, or its backdoor failed."""
    found = (made.survived if made.record["victim"] else None) or made.published
    if found is None:
        return []
    told: list[str] = getattr(found, "blind", list)()
    ours = getattr(found, "lfr", None) or getattr(found, "success", None)
    clean = getattr(found, "cfr", None) or getattr(found, "clean_success", None)
    if made.record["backdoored"] and ours and clean and ours.value < clean.value + HARDLY:
        told.append(
            f"the backdoor hardly works: {ours.value:.0%} of triggered texts, {clean.value:.0%} of "
            "clean ones; more epochs, a higher rate or learning rate (--set, --rate) plant deeper"
        )
    return told


def _check_table(out: Path, overwrite: bool, reads: Iterable[str | Path | None]) -> None:
    if out.suffix.lower() not in (".csv", ".tsv", ".jsonl"):
        raise UserError(f"{out}: cannot write '{out.suffix}'", "use .csv, .tsv or .jsonl")
    check_file(out, overwrite, reads)
