"""Fill one order: make a twin or a victim into the cache, or run a cell. Any engine calls this.

Everything that decides a figure is in the order and in the code that this module imports, whose
hash every result carries; threads are set here, so that the engine and the order in which cells
run change nothing.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from headsweep.attacks import ATTACKS
from headsweep.attacks.victim import Order as AttackOrder
from headsweep.attacks.victim import attack
from headsweep.bench import sources
from headsweep.bench.identity import code_hash, commit, digest
from headsweep.bench.orders import CellOrder, Order, TwinOrder, VictimOrder
from headsweep.bench.probing import prober_of
from headsweep.bench.results.packing import pack
from headsweep.cost import Clock, peak_memory_mib, reset_peak
from headsweep.drafts import write_json
from headsweep.errors import NothingPruned, UserError
from headsweep.export.model_folder import save_model
from headsweep.export.provenance import environment, weights_hash
from headsweep.judge.evaluate import Answers, Evaluation, Exam, answer, judge
from headsweep.model.anatomy import Anatomy
from headsweep.model.loading import Reading, Suspect, fresh_head, load_suspect
from headsweep.model.runtime import Runtime, on_threads
from headsweep.progress import Silent
from headsweep.prune.choice import Choice
from headsweep.prune.scores import ScoreCache
from headsweep.prune.view import DefenderView
from headsweep.purification.from_encoder import STARTS
from headsweep.purification.material import Sources
from headsweep.purification.method import Method
from headsweep.purification.plan import Plan
from headsweep.purification.purified import Purified
from headsweep.seeding import derive
from headsweep.settings import configure, describe
from headsweep.task.examples import encode
from headsweep.task.training import Job, train

RECORD, ANSWERS = "record.json", "answers.safetensors"
TOLD = ("attack", "trigger", "rate", "poisoned", "target", "resist")  # of an attack's record
HEALED = (
    "layer_weights",
    "probes_seen",
    "lr",
    "tried",
    "members",
    "beyond",
    "places",
    "base_weights",
)  # of the record of a healing
MANY = 1000  # units: beyond this, masks and scores are not written one by one


def perform(order: Order, cache: Path) -> dict[str, Any]:
    """Fill an order and return its record, as JSON values."""
    reset_peak()  # a worker fills many
    with on_threads(order_of(order).computing.threads):
        if isinstance(order, TwinOrder):
            return shared(order, cache, _twin)
        if isinstance(order, VictimOrder):
            return shared(order, cache, _victim)
        begun = time.process_time()
        return _cell(order, cache) | {"cpu_seconds": round(time.process_time() - begun, 2)}


def order_of(order: Order) -> TwinOrder:
    """Return the twin's order that another rests on."""
    if isinstance(order, CellOrder):
        order = order.victim
    return order.twin if isinstance(order, VictimOrder) else order


def folder_of(order: Order, cache: Path) -> Path:
    """Return where the cache keeps a twin or a victim."""
    return cache / f"{order.kind}s" / order.key


def shared(order: Order, cache: Path, make: Any) -> dict[str, Any]:
    """Return the record of a twin or victim; make it where the cache has none that is whole."""
    folder = folder_of(order, cache)
    before = known(folder)
    if before is not None:
        return before

    def fill(draft: Path) -> None:
        clock, begun = Clock(), time.process_time()
        record = make(order, cache, draft)
        record |= {
            "key": order.key,
            "weights": weights_hash(draft),
            "seconds": clock.report(),
            "cpu_seconds": round(time.process_time() - begun, 2),
            "peak_memory_mib": peak_memory_mib(),
        }
        write_json(draft / RECORD, record)

    if anew(order).key != order.key:  # a worker that started later, or another machine
        raise UserError("the worker runs other code than the process that asked", "ask again")
    shutil.rmtree(folder, ignore_errors=True)
    sources.place(folder, fill)
    found = known(folder)
    assert found is not None
    return found


def anew(order: Order) -> Order:
    """Return an order that has not worked out its key, which travels with it."""
    if isinstance(order, VictimOrder):
        return replace(order, twin=replace(order.twin))
    return replace(order)


def known(folder: Path) -> dict[str, Any] | None:
    """Return a cached record if its weights are those it names."""
    try:
        record: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return record if record["weights"] == weights_hash(folder) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def runtime_of(order: Order) -> Runtime:
    """Return where and how an order computes."""
    return order_of(order).computing.runtime


def _twin(order: TwinOrder, cache: Path, draft: Path) -> dict[str, Any]:
    """Train a model on the attacker's and the victim's clean texts, as the victim is trained."""
    runtime, seed = runtime_of(order), order.seed
    if order.given is not None:
        save_model(load_suspect(order.given, runtime), draft)
        return {"seed": seed}
    base = sources.model_at(order.model.source, cache)
    made = load_suspect(base, runtime, Reading(order.texts.labels, seed))
    attacker, victim = sources.parties(order.texts, seed)
    job = Job(order.attacker, seed, "twin")
    train(made.model, encode(attacker, made, runtime.max_length), job, runtime)
    if order.victim is not None:
        fresh_head(made.model, derive(seed, "victim"))
        job = Job(order.victim, derive(seed, "victim"), "twin")
        train(made.model, encode(victim, made, runtime.max_length), job, runtime)
    save_model(made, draft)
    return {"seed": seed}


def _victim(order: VictimOrder, cache: Path, draft: Path) -> dict[str, Any]:
    """Make the victim, or take the one given, and judge it against the twin."""
    runtime, twin, attacked = runtime_of(order), order.twin, order.attack
    texts, seed = twin.texts, twin.seed
    told = (_taken if attacked.given else _attacked)(order, cache, draft)
    suspect = load_suspect(draft, runtime)
    exam = sources.exam(attacked, texts, seed, suspect, runtime.max_length)
    found = {
        "suspect": answer(suspect, exam, runtime),
        "twin": answer(load_suspect(folder_of(twin, cache), runtime), exam, runtime),
    }
    _keep(found, draft / ANSWERS)
    judged = {name: _judged(exam, texts.labels, own, found) for name, own in found.items()}
    assert exam.triggered is not None
    assert exam.validation is not None
    return {
        "attack": told,
        "texts": {
            "test": exam.clean.sha256,
            "triggered": exam.triggered.non_target().sha256,
            "validation": exam.validation.sha256,
            "test_labels": list(exam.clean.labels),
        },
        "evaluation": {name: asdict(one) for name, one in judged.items()},
        "answers": {name: pack(own, exam).to_json() for name, own in found.items()},
        "target": exam.triggered.target,
    }


def _taken(order: VictimOrder, cache: Path, draft: Path) -> dict[str, Any]:
    """Put the suspect that is given into the draft; return what its record says."""
    del cache
    assert order.attack.given is not None
    save_model(load_suspect(order.attack.given, runtime_of(order)), draft)
    return {"attack": {"name": "given"}, "target": order.attack.target}


def _attacked(order: VictimOrder, cache: Path, draft: Path) -> dict[str, Any]:
    """Plant the backdoor and let the victim fine-tune; return what its record says."""
    twin, attacked = order.twin, order.attack
    texts, seed = twin.texts, twin.seed
    attacker, victim = sources.parties(texts, seed)
    asked = AttackOrder(
        sources.rewriter(attacked, texts),
        attacked.target,
        configure(ATTACKS[attacked.method], attacked.fields),
        attacked.rate or AttackOrder.rate,
        twin.victim,
        seed=seed,
        runtime=runtime_of(order),
        resist=attacked.resist,
        pool=sources.pool(attacked, texts),
    )
    base = sources.model_at(twin.model.source, cache)
    made = attack(base, attacker, asked, texts.labels, victim_data=victim)
    save_model(made.suspect, draft)
    return {name: made.record[name] for name in TOLD if made.record[name] is not None}


def _judged(
    exam: Exam, names: tuple[str, ...], own: Answers, known: dict[str, Answers]
) -> Evaluation:
    return judge(exam, names, own, known["twin"], known["suspect"])


def _keep(answers: dict[str, Answers], path: Path) -> None:
    tensors: dict[str, Tensor] = {}
    for name, one in answers.items():
        for field, tensor in vars(one).items():
            tensors[f"{name}.{field}"] = tensor.contiguous()
    save_file(tensors, path)


def _kept(path: Path) -> dict[str, Answers]:
    tensors = load_file(path)
    fields = ("clean", "triggered", "validation")
    return {
        name: Answers(*(tensors[f"{name}.{field}"] for field in fields))
        for name in ("suspect", "twin")
    }


@dataclass
class Judge:
    """Judges models of one victim."""

    order: CellOrder
    exam: Exam
    opened: Suspect
    known: dict[str, Answers]
    runtime: Runtime
    clock: Clock
    pruned: Answers | None = None

    def look(self, view: DefenderView, choice: Choice) -> None:
        """Take the pruned model's answers."""
        fresh = self.order.defending.start == "encoder"  # its classifier is not trained yet
        if not fresh and choice.mask.pruned:
            self.pruned = self.answers(view.anatomy)

    def answers(self, anatomy: Anatomy) -> Answers:
        """Return the answers of the model that the view holds."""
        with self.clock("judge"):
            return answer(replace(self.opened, anatomy=anatomy), self.exam, self.runtime)

    def figures(self, own: Answers) -> dict[str, Any]:
        """Return the evaluation of answers, as JSON values."""
        names = self.order.victim.twin.texts.labels
        return asdict(_judged(self.exam, names, own, self.known))


def _cell(order: CellOrder, cache: Path) -> dict[str, Any]:
    """Run one method on one victim and judge it before, pruned and healed."""
    scores = score_cache(cache)
    clock, runtime, victim = Clock(), runtime_of(order), order.victim
    texts, seed = victim.twin.texts, victim.twin.seed
    folder = folder_of(victim, cache)
    method = order.asked.made(order.defending.heal, order.defending.bound)
    with clock("read"):
        suspect = load_suspect(folder, runtime)
        exam = sources.exam(victim.attack, texts, seed, suspect, runtime.max_length)
        judge = Judge(order, exam, suspect, _kept(folder / ANSWERS), runtime, clock)
    form: dict[str, Any] = {
        "strategy": describe(method.pruning) if method.pruning.needs.pruning else None,
        "healing": describe(method.healing),
        "precision": "bf16" if runtime.trains_in_bf16() else "fp32",
        "status": "done",
        "code": code_hash(),
        "commit": commit(),
        "environment": environment(),
        "before": judge.figures(judge.known["suspect"]),
    }
    after = judge.known["suspect"]
    if not method.does_nothing:
        try:
            if order.count == 0:
                raise NothingPruned(f"'{order.method.variation.match}' pruned no head either")
            done = _purified(order, method, judge, folder, scores)
            with clock("judge"):
                after = answer(done.suspect, exam, runtime)
            form |= _made(done, method)
        except NothingPruned as outcome:
            form |= {"status": "nothing pruned", "outcome": str(outcome)}
    form["pruned"] = judge.figures(judge.pruned) if judge.pruned else None
    form["after"] = judge.figures(after)
    form["answers"] = {"after": pack(after, exam).to_json()}
    form["shared_scores"] = [asdict(one) for one in scores.taken]
    return form | {"seconds": clock.report(), "peak_memory_mib": peak_memory_mib()}


def score_cache(cache: Path) -> ScoreCache:
    """Return where the cells of one code on one kind of machine share scores."""
    return ScoreCache(cache / "scores", digest([code_hash(), environment()]))


def _purified(
    order: CellOrder, method: Method, judge: Judge, folder: Path, scores: ScoreCache
) -> Purified:
    texts, seed, made = order.victim.twin.texts, order.seed, order.victim.twin.seed
    prober = prober_of(order.method.variation.probes, order.victim.attack, seed)
    plan = Plan(seed, judge.runtime, prober=prober, scores=scores)
    clean = Sources(sources.defender(texts, seed, made), sources.part(texts, "validation"))
    with judge.clock("purify"):
        run = STARTS[order.defending.start]
        return run(folder, clean, method, plan, progress=Silent(), look=judge.look)


def _made(done: Purified, method: Method) -> dict[str, Any]:
    """Return what a cell keeps of a manifest."""
    made = done.manifest
    form = {key: made[key] for key in ("units", "bound", "zero_before", "verified")}
    form["steps_seconds"] = made["seconds"]
    form["validation"] = {stage: made[stage]["validation"] for stage in ("before", "after")}
    form["heal"] = {k: made["heal"][k] for k in HEALED if k in made["heal"]}
    if made["probes"]:
        form["probes"] = made["probes"]["prober"]
    if method.pruning.needs.pruning:
        form["pruned_count"] = len(made["pruned_units"])
        form["validation"]["pruned"] = made["pruned"]["validation"]
        search = made["search"]
        form["path"] = [
            [s["action"], s["pruned"], s["accuracy_at_least"], s["accuracy_at_most"], s["held"]]
            for s in search["steps"]
        ]
        if made["units"] <= MANY:
            form |= {"mask": made["mask"], "scores": search["scores"]}
    return form
