"""What the rules share: names, paths and the way from settings to options."""

import json
import os
import shlex
import sys
from contextlib import contextmanager

from checks import SCHEMA, check_schema, check_values, known_keys
from crosseai.errors import InputError
from crosseai.sources import sources

# Jobs run this workflow's package, from any folder and in any environment, by the interpreter
# that runs Snakemake unless a rule's environment comes first.
os.environ.update(
    PYTHONPATH=os.pathsep.join([str(workflow.basedir), os.getenv("PYTHONPATH", "")]),
    PATH=os.pathsep.join([os.path.dirname(sys.executable), *os.get_exec_path()]),
)

#: The configuration is read without importing torch; a test compares this with the classes.
CLASSIFIERS_THAT_SEE_BOXES = {"supervision"}


wildcard_constraints:
    fold=r"\d+",
    shard=r"\d+",
    map="[^/]+",
    method="[^/]+",
    model="[^/]+",


@contextmanager
def one_line_errors():
    """End like the command line does: one line, exit code 1."""
    try:
        yield
    except InputError as error:
        files = ", ".join(map(str, workflow.configfiles))
        sys.exit(f"crosseai: error: {files}: {error}")


def out(path):
    """A file of the run."""
    return f"results/{config['run']}/{path}"


def log_of(name):
    return out(f"logs/{name}.log")


def benchmark_of(name):
    return out(f"benchmarks/{name}.tsv")


def options(settings):
    """Command-line options: --learning-rate 0.01 --flip --no-cache-frozen --labels Mass,Nodule."""
    words = []
    for key, value in sorted(settings.items()):
        name = key.replace("_", "-")
        if isinstance(value, bool):
            words += [f"--{name}" if value else f"--no-{name}"]
        elif value is not None:
            text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
            words += [f"--{name}", text]
    return shlex.join(words)


def pick(settings, *keys):
    return {key: settings[key] for key in keys}


def shards(pattern):
    """The files of all shards."""
    return every_shard(out(pattern))


def every_shard(path):
    return expand(path, shard=range(config["images"]["shards"]), allow_missing=True)


def is_kfold():
    return config["split"]["kind"] == "kfold"


def sees_boxes(model):
    """Whether the training of a model sees boxes, as its class says."""
    return CLASSIFIERS_THAT_SEE_BOXES >= {config["models"][model]["classifier"]}


def tell_who_saw_boxes():
    """Add to the notes under the table how the boxes were shared out."""
    for method in map(config["methods"].get, config["table"]):
        if sees_boxes(method["model"]):
            folds = config["split"]["folds" if is_kfold() else "box_folds"]
            note = (
                f"{method['note'] or ''} Of {folds} folds of patients, each model learned from the "
                "others' boxes and is scored on its own."
            )
            if config["score"] == "all" and config["split"]["kind"] == "random":
                note += " Here it is also scored on boxes that it learned from."
            method["note"] = note.strip()


def split_of(model):
    """The split of a model: where training sees boxes, they are divided into folds too."""
    shared = sees_boxes(model) and not is_kfold()
    return out("data/split_with_boxes.parquet" if shared else "data/split.parquet")


def folds(model, name):
    """A file of a model in all its folds."""
    number = config["split"]["folds"] if is_kfold() else 1
    if sees_boxes(model) and not is_kfold():
        number = config["split"]["box_folds"]
    return [out(f"models/{model}/fold{fold}/{name}") for fold in range(number)]


def models():
    """The models that the table needs."""
    return sorted({config["methods"][name]["model"] for name in config["table"]})


def release_root():
    release = config["release"]
    return out("release") if release["kind"] == "phantom" else release["path"]


def release_files():
    """What of a release is an input: a phantom as a whole, else the tables and lists."""
    if config["release"]["kind"] == "phantom":
        return [release_root()]
    return files_in(release_root(), ".csv", "_list.txt")


def files_in(folder, *endings):
    return sorted(
        file.path for file in os.scandir(folder) if file.name.endswith(endings)
    )


def weights_of(model):
    """The weights file that a model starts from, if any, and the report on it."""
    file = config["models"][model]["weights"]
    return [file, out(f"models/{model}/weights.json")] if file else []


def boxes_of(model):
    """The boxes that the training of a model sees, if any."""
    return [out("data/boxes.parquet")] if sees_boxes(model) else []


def network(model):
    """The settings of a model that its network has, without those of its training."""
    settings = config["models"][model]
    schema = SCHEMA["properties"]["models"]["additionalProperties"]
    training = schema["properties"].keys() - {"classifier"}
    return pick(
        settings, *(key for key in known_keys(schema, settings) if key not in training)
    )


def map_names(method):
    """The map of a method, or the two that it fuses, as a list."""
    names = config["methods"][method]["map"]
    return [names] if isinstance(names, str) else names


def is_fusion(method):
    return len(map_names(method)) == 2


def fusion_weight(method):
    own = config["methods"][method]["t"]
    return config["t"] if own is None else own


def selected_values(method):
    """Setting -> the values that a method chooses from on other patients' boxes, or null."""
    select = config["methods"][method]["select"]
    return pick(select, "t", "threshold", "smoothing", "candidates")


def is_selected(method):
    return any(values is not None for values in selected_values(method).values())


def maps_of(method):
    """Map files of a method before any fusion."""
    model = config["methods"][method]["model"]
    return [out(f"maps/{model}/{name}/{{shard}}.h5") for name in map_names(method)]


def fused_of(method):
    """The file of a method's fused maps, as a list, or none."""
    return [out(f"fused/{method}/{{shard}}.h5")] if is_fusion(method) else []


def drawn_on(method):
    """The map files that a method draws boxes on."""
    return (fused_of(method) or maps_of(method))[0]


def box_inputs(wildcards):
    """The map that a method draws boxes on and, for a fusion, its two parts."""
    method = wildcards.method
    parts = {"parts": maps_of(method)} if is_fusion(method) else {}
    return {"maps": drawn_on(method), **parts}


def box_rule(method):
    """The settings of a method's box rule, with the size of its enlarged maps."""
    settings = config["boxes"][config["methods"][method]["box"]]
    return {**settings, "size": settings["size"] or config["images"]["size"]}


def found_tables():
    """The table of boxes of each method."""
    return {name: [out(f"boxes/{name}.parquet")] for name in config["table"]}


def predictions():
    """The predictions of each model, a file a fold."""
    return {name: folds(name, "predictions.parquet") for name in models()}


def stage_files():
    """What every stage makes for the table."""
    files = [*release_files(), out("data/records.parquet")]
    files += shards("data/images/{shard}.h5")
    for model in models():
        files += [split_of(model), *folds(model, "weights.safetensors")]
    for method in config["table"]:
        made = maps_of(method)
        if not is_selected(method):  # else one job fuses and finds, shard by shard
            made += [*fused_of(method), out(f"boxes/{method}/{{shard}}.parquet")]
        files += [*sum(map(every_shard, made), []), out(f"boxes/{method}.parquet")]
    return files


def named(option, files):
    """Options that name files: --found scalp=boxes/scalp.parquet --found ..."""
    pairs = [f"{name}={path}" for name, paths in files.items() for path in paths]
    return shlex.join(word for pair in pairs for word in (f"--{option}", pair))


def pictured():
    """The method whose maps the page shows, as crosseai.report chooses it."""
    fused = [name for name in config["table"] if is_fusion(name)]
    reference = config["evaluation"]["reference"]
    return reference if reference in fused else [*fused, config["table"][0]][0]


def pictured_maps():
    """Map files of the pictured method."""
    method = pictured()
    return sum(map(every_shard, maps_of(method) + fused_of(method)), [])


def method_line(name):
    """A method with the settings of its maps and its box rule, for methods.json."""
    method = config["methods"][name]
    return {
        "model": method["model"],
        "map": [config["maps"][map_name] for map_name in map_names(name)],
        "t": fusion_weight(name) if is_fusion(name) else None,
        "box": config["boxes"][method["box"]],
    }
