"""Carries out a plan: each job is trained or aligned, measured and recorded."""

import contextlib
import pathlib
import shutil
import zlib
from typing import NamedTuple

import jax
from rich.console import Console

from dann_jax import model_files
from experiments import (
    continuing,
    display,
    distances,
    domains,
    heads,
    interruption,
    leftovers,
    predictions,
    pretraining,
    processes,
    record,
    runtime,
    scores,
    studies,
    train,
    trained,
    unlabelled,
)
from experiments.figures import curves
from experiments.methods import METHODS
from experiments.options import Options
from experiments.plan import Plan, command, resolved

__all__ = ["check_data", "execute", "start"]


OF_INPUTS = "label_loss", "domain_loss", "feature_norm", "label_logits", "domain_logits"
_WEIGHTS = {  # what is not finite -> the setting that weighs it
    **dict.fromkeys(("domain_loss", "domain_logits"), "domain_weight"),
    **{term: setting for each in METHODS.values() for term, setting in each.penalties.items()},
}


class _Setting(NamedTuple):
    pair: domains.Pair
    devices: list[jax.Device]
    console: Console
    diverged: list[str]  # sentences on trainings that diverged


def check_data(options: Options, prepares: bool, console: Console) -> None:
    """Reads the backbone's weights, and prepares the data on disk if ``prepares``."""
    with processes.all_or_none():
        pretraining.check(options.config)
        if prepares and processes.is_first():
            domains.prepare_pair(options.config, **_where(options, console))


def start(options: Options, console: Console) -> list[jax.Device]:
    """Returns the devices, of all processes where there are several, and keeps programs."""
    if options.distributed:
        processes.start(options.coordinator, options.processes, options.process_id)
        interruption.install()  # jax.distributed has a handler of its own
        console.quiet = not processes.is_first()
    devices, each = jax.devices(), options.devices_per_key
    if options.devices is not None and not 1 <= options.devices <= len(devices):
        raise ValueError(f"--devices {options.devices}: this process has {len(devices)}")
    devices = devices[: options.devices]
    if each is not None and (each < 1 or len(devices) % each):
        raise ValueError(
            f"--devices-per-key {each}: expected a divisor of the number of devices, {len(devices)}"
        )
    _keep_programs(options.compilation_cache, console)
    return devices


def _keep_programs(folder, console):
    try:
        runtime.keep_programs(None if folder == pathlib.Path("none") else folder)
    except OSError as error:
        console.print(
            f"[yellow]warning: compiled programs are not kept ({error}): choose another "
            "--compilation-cache, or none[/yellow]",
            soft_wrap=True,
        )


def execute(plan: Plan, options: Options, devices: list[jax.Device], console: Console) -> list[str]:
    """Does all that is missing of an experiment, and draws its curves anew.

    Returns a sentence on each training that diverged, now or when a result that is kept was made.
    """
    diverged, kept = [], {path: record.read_result(path) for path in plan.kept}
    _check_folders(kept, options)
    for path, result in kept.items():
        line = f"{path} is there already" + ", and diverged" * any(result["diverged"])
        console.print(line, markup=False, soft_wrap=True)
        name = METHODS[result["method"]].aligns or result["method"]
        diverged += _diverged(name, result["keys"], result["diverged"])
    names = ",".join(job.method.name for job in plan.jobs)
    processes.check_agreement(zlib.crc32(names.encode()), "results")
    folder, files = (plan.jobs[0].result if plan.jobs else plan.kept[0]).parent, []
    if plan.jobs:
        setting = _Setting(_load(options, console), devices, console, diverged)
        for line in _warnings(setting.pair):
            console.print(f"warning: {line}", soft_wrap=True, markup=False)
        jobs, prepared = _prepared(plan.jobs, setting)  # what is refused leaves nothing on disk
        with contextlib.ExitStack() as stack:
            with processes.all_or_none():
                if processes.is_first():  # before hours of training, not after them
                    stack.enter_context(record.alone(folder))
                    leftovers.remove(folder)
            files = _execute(jobs, prepared, setting)
    if processes.is_first():
        files += _draw(folder)
    if files:
        console.print("written: " + ", ".join(map(str, files)), soft_wrap=True, markup=False)
    return list(dict.fromkeys(diverged))


def _check_folders(kept, options):
    """Raises where a result that is there is of folders that hold other images by now."""
    where = {"data_dir": options.data_dir, "manual_dir": options.manual_dir}
    with processes.all_or_none():
        now = None
        if kept and processes.is_first():
            now = domains.folders_now(options.config, **where)
        for path, result in kept.items() if now else ():
            trained_by = METHODS[result["method"]].aligns or result["method"]
            described = path.parent / trained_by / f"key_{result['keys'][0]}"
            if changed := _changed(now, result["data"], described):
                raise ValueError(
                    f"{path} holds a result of other images ({changed}): choose another --output, "
                    "or replace it with --overwrite"
                )


def _changed(now, recorded, described):
    """Returns in words how folders differ from those of a training; "" if they do not."""
    if (described / model_files.DESCRIPTION).is_file():
        classes = model_files.describe(described)["classes"]
        if now.classes not in (None, tuple(classes)):
            return f"its classes are {', '.join(now.classes)}, not {', '.join(classes)}"
    known = [name for name in recorded if name in now.origins]
    sides = ({name: some[name] for name in known} for some in (recorded, now.origins))
    if changed := domains.differences(*sides):
        return changed
    listed = described / "predictions.csv"
    if now.files is not None and listed.is_file() and predictions.files(listed) != now.files:
        return "files of the target have other names"
    return ""


def _warnings(pair):
    """Yields what to know of accuracies that look like those of new images, and are not."""
    if pair.source_test is pair.source_train:
        yield "the source accuracy is of images that are trained on: --held-out keeps some apart"
    digests: dict[str, list[str]] = {}
    for name, origin in pair.provenance.items():
        digests.setdefault(origin["sha256"], []).append(name)
    for names in digests.values():
        if {name.partition(":")[0] for name in names} == {"source", "target"}:
            yield (
                f"{' and '.join(names)} are the same images: accuracies on the target say nothing "
                "of another domain"
            )


def _diverged(name, keys, diverged):
    """Returns a sentence on each key of a method that diverged."""
    sentences = []
    for key, where in zip(keys, diverged, strict=False):
        if where:
            saved = where["checkpoint"]
            kept = "there was no checkpoint before"
            if saved is not None:
                kept = f"the last good checkpoint is that of step {saved:,}"
            sentences.append(
                f"{name}, key {key}, diverged at step {where['step']:,}: {where['term']} is not "
                f"finite ({kept}): {_remedy(where)}, and train again with --overwrite"
            )
    return sentences


def _remedy(where):
    """Returns what to change where a training diverged."""
    if where["step"] == 1 and where["term"] in OF_INPUTS:  # before any update
        return "raise --input-scale, as nothing was updated before"
    if where["term"] == "lambda":
        return "lower --gamma"
    if weight := _WEIGHTS.get(where["term"]):
        return f"lower --mu0 or --{weight.replace('_', '-')}"
    return "lower --mu0, or raise --input-scale"  # updates, or inputs, are too large


def _where(options, console):
    """Returns the options of ``domains.load_pair`` and ``domains.prepare_pair``."""
    return {
        "data_dir": options.data_dir,
        "manual_dir": options.manual_dir,
        "progress": console.is_terminal and processes.is_first(),
    }


def _load(options, console):
    """Returns the images; the first process prepares them for all."""
    where = _where(options, console) | {"streaming": options.streaming}
    pair = None
    for first in (True, False):
        with processes.all_or_none():
            if pair is None and processes.is_first() == first:
                pair = domains.load_pair(options.config, **where)
    return pair


def _prepared(jobs, setting):
    """Returns the jobs that the data allow, and the studies of those that train, by method."""
    jobs = _measurable(jobs, setting)
    prepared = {}
    if any(job.config.divergence for job in jobs):
        distances.check_examples(setting.pair)
    for job in jobs:
        if job.head or job.method.aligns:
            heads.check(setting.pair, job.method, job.keys)
        if job.trains and not job.method.aligns:
            study = studies.prepare(job.config, job.method, setting.pair, setting.devices)
            scores.check(study)
            begins = [k for k in job.keys if not (job.folder / f"key_{k}/record.json").exists()]
            settings = resolved(job.config, job.method)
            for line in continuing.lines(study, begins, settings):
                setting.console.print(line, soft_wrap=True, markup=False)
            for group in job.groups(setting.devices):
                study.program(group)  # raises where it cannot be, before anything is moved
            prepared[job.method.name] = study
    return jobs, prepared


def _execute(jobs, prepared, setting):
    """Does the jobs and returns the files that they have written."""
    files = []
    for job in jobs:
        interruption.check()
        if job.method.aligns:
            _align(job, setting)
        elif job.trains:  # a study holds the arrays on the devices: no longer than it needs them
            _train(job, prepared.pop(job.method.name), setting)
        if job.head:
            _measure_head(job, setting)
        files.append(job.result)
        if job.trains and not job.method.aligns and setting.pair.target_files is not None:
            paths = [job.folder / f"key_{key}" / "predictions.csv" for key in job.keys]
            files += [path for path in paths if path.exists()]  # none of one that diverged
    return files


def _measurable(jobs, setting):
    """Returns the jobs without those that need labels which the target does not have."""
    kept = []
    for job in jobs:
        why, name = job.trains and job.method.needs_target_labels, job.method.name
        if setting.pair.target_labelled or not why:
            kept.append(job)
        elif len(job.options.methods) == 1:
            raise ValueError(f"{name}: {job.config.target} has no labels {why}")
        else:
            setting.console.print(f"{name} is left out: the target has no labels {why}")
    return kept


def _train(job, study, setting):
    """Trains a method and writes its result."""
    replaced = job.folder.with_name(f"{job.folder.name}.replaced")
    with processes.all_or_none():
        if processes.is_first() and job.options.overwrite and job.folder.exists():
            if not replaced.exists():  # kept until there is a new result
                job.folder.rename(replaced)
            elif not trained.fits(study, job.keys, job.folder):
                shutil.rmtree(job.folder)
    steps, console = job.method.steps(job.config), setting.console
    with (
        runtime.counted() as compiled,
        display.Watch(console, job.method.name, steps) as watch,
    ):
        records = train.train(
            study,
            job.keys,
            job.folder,
            together=job.most_together(setting.devices),
            devices_per_key=job.options.devices_per_key,
            checkpoint_every=job.options.checkpoint_every,
            checkpoint_minutes=job.options.checkpoint_minutes,
            log=job.options.log,
            report=watch,
            advance=watch.advance,
        )
    where = [each.get("diverged") for each in records]
    setting.diverged.extend(_diverged(job.method.name, job.keys, where))
    if not processes.is_first():
        return
    console.print(
        f"{job.method.name}: {compiled.programs} programs compiled in {compiled.seconds:.1f} s, "
        f"{compiled.from_cache} of them from the cache"
    )
    groups = list(dict.fromkeys(map(trained.group_of, records)))
    seconds = sum(each["train_seconds"] for each in records)
    updates = sum(lost["step"] if lost else steps for lost in where)
    updates -= sum((each.get("continued") or {"step": 0})["step"] for each in records)
    entries = {
        **record.training_entries(records),
        "selection": job.method.selection,
        "steps_per_second": round(updates / seconds, 2),
        "compile_seconds": round(compiled.seconds, 3),
        "programs_compiled": compiled.programs,
        "programs_from_cache": compiled.from_cache,
        **runtime.peak_memory(jax.local_devices()),
    }
    selected = job.method.name, entries.get("selected", {})
    for line in unlabelled.chosen(*selected) or display.selected(*selected):
        console.print(line, soft_wrap=True)
    _write(job, entries, command(job, groups, setting.devices))
    shutil.rmtree(replaced, ignore_errors=True)


def _write(job, entries, command):
    """Writes the result of a job."""
    config, method = job.config, job.method
    weighted = {"normalization": config.normalization, "weight": config.domain_weight}
    result = {
        "format": record.FORMAT,
        "config": job.name,
        "method": method.name,
        "source": config.source,
        "target": config.target,
        "keys": list(job.keys),
        "steps": method.steps(config),
        "batch_size": config.batch_size,
        "domain_loss": weighted if method.adversarial else None,
        **entries,
        "resolved_config": resolved(config, method),
        "command": command,
    }
    record.write_json(job.result, result, replace=job.replaces)


def _measure_head(job, setting):
    """Adds to a result the accuracies of linear SVMs on its trainings."""
    with processes.all_or_none():
        result = record.read_result(job.result) if processes.is_first() else None
        # A target without labels, or nothing but trainings that diverged.
        if result is None or set(result["target_accuracy"]) == {None}:
            return
        study = studies.prepare(job.config, job.method, setting.pair, setting.devices)
        every = []
        for key, head in _of_each_key(job, "svm", heads.svm, study, setting.pair):
            every.append(head)
            if head is None:
                continue
            setting.console.print(
                f"{job.method.name} key {key}: linear SVM on {head['layer']}, C {head['C']:g}: "
                f"target {display.accuracy(head['target_accuracy'])}"
            )
        record.write_json(job.result, result | heads.svm_entries(every))


def _align(job, setting):
    """Writes the result of a closed form on the features of finished trainings."""
    with processes.all_or_none():
        if not processes.is_first():
            return
        name = job.method.name
        study = studies.prepare(
            job.config, METHODS[job.method.aligns], setting.pair, setting.devices
        )
        every = []
        for key, form in _of_each_key(job, name, heads.align, study, setting.pair, job.method):
            every.append(form)
            if form is None:
                continue
            accuracies = [display.accuracy(form[f"{of}_accuracy"]) for of in ("target", "oracle")]
            setting.console.print(
                f"{name} key {key}: target {accuracies[0]}, {form['components']} components; "
                f"oracle {accuracies[1]}, {form['oracle_components']} components"
            )
        records = [record.read_record(job.folder, key) for key in job.keys]
        entries = heads.aligned_entries(job.method, every)
        entries["diverged"] = [each["diverged"] for each in records]
        origin = record.joined_origin([each["origin"] for each in records])
        _write(job, entries | origin, command(job))


def _of_each_key(job, name, measure, *arguments):
    """Yields the keys and what is measured on their trainings, or was, by a file beside these.

    That is None where a training diverged.
    """
    for key in job.keys:
        interruption.check()
        path = _folder(job, key) / f"{name}.json"
        anew = job.method.aligns and job.options.overwrite
        aligned = bool(job.method.aligns)
        done = record.read_record(job.folder, key) or {}
        if done.get("diverged"):
            yield key, None
            continue
        of = {"key": key, "parameters": (done.get("digests") or {}).get("parameters")}
        content = None if anew else record.read_measured(path, aligned=aligned, **of)
        if content is None:
            content = measure(*arguments, key, job.folder) | of
            record.write_checked(path, content)
        yield key, content


def _folder(job, key):
    return job.folder / f"key_{key}"


def _draw(folder):
    """Draws the curves where a result is newer than the picture of them; returns its path then."""
    picture = folder / "curves.png"
    results = {m: r for m, r in record.read_results(folder).items() if METHODS[m].line}
    newest = max(((folder / f"{m}.json").stat().st_mtime_ns for m in results), default=0)
    if not results or (picture.exists() and picture.stat().st_mtime_ns >= newest):
        return []
    curves.draw(results, picture)
    return [picture]
