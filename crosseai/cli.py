"""The command line: one subcommand a stage, each parses and calls.

Stages are imported inside the functions, so that ``crosseai --help`` costs nothing. An option
that a stage's function or a network has by keyword is taken from its signature, name, type and
default, so a new setting needs only its line in `HELP`.
"""

import inspect
import json
import logging
from collections.abc import Callable
from functools import cached_property
from pkgutil import resolve_name
from types import NoneType
from typing import Any, get_args

import click
from click.core import ParameterSource

from crosseai import __version__
from crosseai.errors import InputError

__all__ = ["main"]

#: What each setting is, by its name, or by command and name where commands differ.
HELP = {
    "attention": "Triplet attention: all, last (the last stage alone) or none.",
    "backbone": "resnet18, resnet50, densenet121 or densenet169.",
    "batch": "Images a step.",
    "box_folds": "Folds over the patients with boxes.",
    "box_weight": "Lambda: what the loss of a box counts, that of a label being 1.",
    "cache_frozen": "Run the frozen part once and keep what comes out in memory.",
    "candidates": "How many of the largest maximal rectangles compete; 0 for all.",
    "candidates_values": "Numbers of candidates to try; 0 for all.",
    "classification_weight": "Lambda: share of the cross-entropy; the rest is contrastive.",
    "contrast": "Largest relative change of contrast and brightness.",
    "control_seed": "Of the controls' random numbers.",
    "depth": "head, stage4, stage3, stage2, stage1 or all: from the logits down to and with this.",
    "draws": "Draws of control-random.",
    "epochs": "Passes over the training images.",
    "evaluate folds": "Folds over patients of control-prior.",
    "explain": "boxed: images and labels that have a box; or all.",
    "flip": "Mirror half of the images left to right.",
    "folds": "Folds of kfold.",
    "fractions": "Shares of training, validation and test.",
    "freeze_norms": "All batch norms keep their statistics.",
    "freeze_until": "Last stage that is not trained, such as layer3 or transition2.",
    "gate_bias": "Where the attention's gates start: sigmoid of this.",
    "grid": "P: patches across and down.",
    "guidance_weight": "Of the contrastive loss between image and radiomic features.",
    "images": "Number of radiographs.",
    "iterations": "How often the regions that guide the features are found; 0 for never.",
    "jobs": "Workers at a time.",
    "keep_last_ring": "A box keeps the ring that stopped its growth.",
    "labels": "The findings, separated by commas.",
    "layer": "Module whose output is weighed; the last with a spatial extent if not given.",
    "levels": "Of the map scaled to 0 ... 255; each has boxes of its own.",
    "learning_rate": "Highest learning rate: rises for a tenth of the training, falls to zero.",
    "lowest_factor": "Factors of products over patches are rescaled from [0, 1] to [this, 1].",
    "maps batch": "Images explained at once; 8 on a CPU and 64 on a GPU if not given.",
    "maps precision": "32-true, bf16-mixed, or auto: bf16-mixed on a GPU.",
    "negatives": "Negatives a query of the contrastive loss.",
    "optimizer": "sgd (momentum 0.9) or adamw.",
    "output_stride": "Pixels of the image a pixel of the last feature map: 32, 16 or 8.",
    "pairs": "A query and its positive share label and patient (label), or patient alone.",
    "patch_prior": "The probability that a patch is positive before training.",
    "positive_in_denominator": "InfoNCE's denominator instead of SCALP's equation 1.",
    "precision": "32-true, bf16-mixed, 16-mixed, or auto: bf16-mixed on a GPU.",
    "projection": "Dimensions of a head that is contrasted; 0 contrasts the pooled features.",
    "ranks": "Boxes kept an image and label, best first.",
    "recognition_channels": "Channels of the 3x3 convolution on the grid of patches.",
    "reduction": "Over the input's channels: max or sum of absolute values.",
    "reference": "Method that all others are compared with.",
    "region_threshold": "Of a region, from the activation map's minimum to its maximum.",
    "resamples": "Bootstrap resamples over patients.",
    "rotation": "Largest rotation, degrees.",
    "rule": "rectangles (Algorithm 1), regions, levels (Wang's) or contours (SCALP's code).",
    "samples": "LIME's forward passes an image and label.",
    "scale": "Largest relative change of size.",
    "score": "test: images of a test part; all: also those the model trained on.",
    "seed": "Of all random numbers.",
    "select folds": "Folds over the patients whose maps these are.",
    "sharpness": "r of Log-Sum-Exp pooling: small is the mean, large the maximum.",
    "shift": "Largest displacement, share of the image.",
    "size": "Pixels across and down.",
    "find size": "Enlarge each map to this many pixels across and down first; not if not given.",
    "smoothing": "Sigma, in pixels, of a Gaussian over the map.",
    "smoothing_values": "Smoothings to try.",
    "steps": "Points on the path from a black image.",
    "strict": "Make every row that would be left out an error.",
    "stride_in_1x1": "Bottlenecks of ResNet v1: the stride on the first 1x1 convolution.",
    "t": "Share of the heatmap in the fusion, 0 to 1.",
    "t_values": "Shares of the heatmap to try.",
    "superpixels": "About how many parts LIME cuts an image into.",
    "target": "label: each label's own logit; argmax: the image's highest, for every label.",
    "temperature": "Tau of the contrastive loss.",
    "threads": "CPU threads; the last digits depend on it.",
    "threshold": "Share above which a pixel is mask.",
    "threshold_of": "Of a map's maximum, its span (from minimum to maximum), or one.",
    "threshold_values": "Thresholds to try.",
    "transition_channels": "Of the transition layer; as many as the backbone has if not given.",
    "weight_decay": "Weight decay.",
    "width": "Channels of a ResNet's first stage; 64 is the published network.",
    "weights": "Safetensors file under torchvision's names to start from.",
}


class Stages(click.Group):
    """A group whose commands end bad input with one line and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except (InputError, OSError) as error:
            click.echo(f"crosseai: error: {' '.join(str(error).split())}", err=True)
            ctx.exit(1)


class Listed(click.ParamType):
    """Values of one type, separated by commas."""

    name = "LIST"

    def __init__(self, type_of_each: type):
        self.type_of_each = type_of_each

    def convert(self, value: Any, param: click.Parameter, ctx: click.Context) -> tuple:
        """Split a text; a default comes as it is."""
        if not isinstance(value, str):
            return tuple(value)
        try:
            return tuple(self.type_of_each(part.strip()) for part in value.split(","))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Stage(click.Command):
    """A command that has the keywords of functions as options, besides its own parameters.

    Its help ends in an example, which is shown as it is written.

    Parameters
    ----------
    options_of : list of str
        Where the functions are, as module:name; a name may be a mapping of functions. They are
        imported only when the options are needed.
    """

    def __init__(self, *args, help: str, options_of: list[str] = (), **kwargs):
        shown = inspect.cleandoc(help).replace("Example:", "\b\nExample:")
        super().__init__(*args, help=shown, **kwargs)
        self.options_of = options_of

    @cached_property
    def settings(self) -> list[click.Option]:
        """The options, sorted by name; of one keyword of several functions, the first's."""
        found = {}
        for place in self.options_of:
            named = resolve_name(place)
            for function in named.values() if isinstance(named, dict) else [named]:
                found = keywords(function) | found
        own = {parameter.name for parameter in self.params}
        return [self._option(name, found[name]) for name in sorted(found.keys() - own)]

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """All parameters."""
        *own, help_option = super().get_params(ctx)
        return [*own, *self.settings, help_option]

    def _option(self, name: str, parameter: inspect.Parameter) -> click.Option:
        flag = f"--{name.replace('_', '-')}"
        default = parameter.default
        if isinstance(default, tuple):
            kind, shown = Listed(type(default[0])), ",".join(map(str, default))
        else:
            kinds = [kind for kind in get_args(parameter.annotation) if kind is not NoneType]
            kind, shown = kinds[0] if kinds else type(default), True
        return click.Option(
            [name, f"{flag}/--no-{flag[2:]}" if kind is bool else flag],
            type=kind,
            default=default,
            show_default=shown,
            help=HELP.get(f"{self.name} {name}") or HELP[name],
        )


def keywords(function: Callable) -> dict[str, inspect.Parameter]:
    """The parameters of `function` that have a default."""
    return {
        name: parameter
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is not parameter.empty
    }


def chosen(settings: dict[str, Any], *functions: Callable) -> list[dict[str, Any]]:
    """Divide the settings of a command among the functions that it calls, each complete.

    Raises
    ------
    click.UsageError
        If a setting was given that none of them has, such as one of another network.
    """
    source = click.get_current_context().get_parameter_source
    given = {name for name in settings if source(name) is not ParameterSource.DEFAULT}
    divided = []
    for function in functions:
        own = keywords(function)
        values = {
            name: settings[name] if name in given else own[name].default
            for name in settings.keys() & own.keys()
        }
        divided.append({name: value for name, value in values.items() if value is not None})
    for name in given - set().union(*map(keywords, functions)):
        raise click.UsageError(
            f"--{name.replace('_', '-')} is no setting of {functions[-1].__name__}"
        )
    return divided


def known(kind: str, name: str, functions: dict[str, Callable]) -> Callable:
    """Look up a function by name."""
    if name not in functions:
        raise InputError(f"{kind}: {name!r} is unknown; choose one of {tuple(functions)}")
    return functions[name]


def split_pairs(_ctx: click.Context, param: click.Parameter, values: tuple) -> dict:
    """Read NAME=PATH given several times: name -> paths, in order."""
    pairs: dict[str, list[str]] = {}
    for value in values:
        name, equals, path = value.partition("=")
        if not (name and equals and path):
            raise click.BadParameter(f"{value!r} is not NAME=PATH", param=param)
        pairs.setdefault(name, []).append(path)
    return pairs


def file_option(name: str, text: str, **kwargs) -> Callable:
    """Make a required option that names a file or folder."""
    return click.option(name, required=True, type=click.Path(), help=text, **kwargs)


out_option = file_option("--out", "Write here.")


@click.group(cls=Stages, context_settings={"max_content_width": 100})
@click.version_option(__version__, prog_name="crosseai")
def main() -> None:
    """Boxes around chest X-ray findings, learned from image-level labels alone.

    One subcommand a stage. Each reads and writes files, so stages run one after the other on any
    machine; `snakemake` runs them all.
    """
    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        datefmt="%Y-%m-%d %H:%M:%S",
        level=logging.WARNING,
    )
    logging.getLogger("crosseai").setLevel(logging.INFO)


@main.command(cls=Stage, options_of=["crosseai.data.phantom:write_phantom"])
@click.argument("root", type=click.Path())
def phantom(root: str, **settings) -> None:
    """Write a synthetic release, in the layout of NIH's, into the new folder ROOT.

    The same settings give the same bytes.

    Example:
      crosseai phantom release --images 500
    """
    from crosseai.data.phantom import write_phantom

    write_phantom(root, **settings)


@main.group()
def data() -> None:
    """From a release folder to tables and the image cache."""


@data.command(cls=Stage, options_of=["crosseai.data.nih:read_release"])
@click.argument("release", type=click.Path())
@out_option
def records(release: str, out: str, **settings) -> None:
    """Read the folder RELEASE, in the layout of NIH's; write its tables.

    Writes records.parquet, boxes.parquet and left_out.csv into the folder --out.

    Example:
      crosseai data records /data/nih --out data
    """
    from crosseai.data.nih import read_release, write_release

    write_release(read_release(release, **settings), out)


@data.command(cls=Stage, options_of=["crosseai.data.split:split_by_patient"])
@file_option("--records", "records.parquet.")
@file_option("--boxes", "boxes.parquet.")
@click.option(
    "--kind",
    required=True,
    type=click.Choice(["official", "random", "kfold"]),
    help="official: the release's lists; random: one cut; kfold: every image is tested once.",
)
@out_option
def split(records: str, boxes: str, kind: str, out: str, **settings) -> None:
    r"""Divide the images into training, validation and test, by patient.

    Reads records.parquet and boxes.parquet; writes one row an image and fold.

    Example:
      crosseai data split --records data/records.parquet --boxes data/boxes.parquet --kind \
          kfold --folds 5 --out data/split.parquet
    """
    from crosseai import tables
    from crosseai.data.split import split_by_patient

    records, boxes = tables.read(records, tables.RECORDS), tables.read(boxes, tables.BOXES)
    tables.write(split_by_patient(records, boxes, kind, **settings), tables.SPLIT, out)


@data.command("share-boxes", cls=Stage, options_of=["crosseai.data.split:share_boxes"])
@file_option("--split", "split.parquet.")
@file_option("--records", "records.parquet.")
@file_option("--boxes", "boxes.parquet.")
@out_option
def share_boxes(split: str, records: str, boxes: str, out: str, **settings) -> None:
    r"""Divide the tested images with boxes into folds, for training that sees boxes.

    Each fold is tested by a model that saw the boxes of the others. Writes a table like
    split.parquet.

    Example:
      crosseai data share-boxes --split data/split.parquet --records data/records.parquet \
          --boxes data/boxes.parquet --out data/split_with_boxes.parquet
    """
    from crosseai import tables
    from crosseai.data.split import share_boxes as share

    split, records = tables.read(split, tables.SPLIT), tables.read(records, tables.RECORDS)
    shared = share(split, records, tables.read(boxes, tables.BOXES), **settings)
    tables.write(shared, tables.SPLIT, out)


@data.command(cls=Stage, options_of=["crosseai.data.images:write_shard"])
@click.argument("release", type=click.Path())
@file_option("--records", "records.parquet.")
@click.option("--shard", default=0, show_default=True, help="Which shard, from 0.")
@click.option("--shards", default=1, show_default=True, help="Of how many.")
@click.option("--size", required=True, type=int, help="Pixels across and down in the cache.")
@out_option
def images(records: str, release: str, out: str, **settings) -> None:
    r"""Decode and resize one shard of the images of RELEASE into the image cache.

    Reads records.parquet and the release's image files; writes an HDF5 file.

    Example:
      crosseai data images /data/nih --records data/records.parquet --size 224 --out \
          data/images/0.h5
    """
    from crosseai import tables
    from crosseai.data.images import write_shard

    write_shard(tables.read(records, tables.RECORDS), release, out=out, **settings)


classifier_option = click.option(
    "--classifier", default="scalp", show_default=True, help="The classifier's name."
)


@main.command(cls=Stage, options_of=["crosseai.models:CLASSIFIERS"])
@click.argument("file", type=click.Path())
@classifier_option
@click.option("--freeze-until", help=HELP["freeze_until"])
@click.option("--out", type=click.Path(), help="Write here instead of printing.")
def weights(
    file: str, classifier: str, freeze_until: str | None, out: str | None, **settings
) -> None:
    """Check that the weights in FILE belong to a network, before hours are spent.

    Tells as JSON which of the backbone's parameters are read from the file and which stay to be
    learned.

    Example:
      crosseai weights densenet169.safetensors --backbone densenet169
    """
    from crosseai.files import replacing
    from crosseai.models import CLASSIFIERS, build
    from crosseai.models.training import frozen_stages
    from crosseai.models.weights import initialise

    (network,) = chosen(settings, known("classifier", classifier, CLASSIFIERS))
    model = build(classifier, ["finding"], **network)
    missing = initialise(model, file)
    frozen_stages(model, freeze_until, missing)
    read = [name for name, _ in model.features.named_parameters() if name not in missing]
    report = json.dumps({"file": file, "read": read, "to_learn": missing}, indent=1)
    if out is None:
        click.echo(report)
    else:
        with replacing(out) as temporary:
            temporary.write_text(report + "\n")


@main.command(
    cls=Stage,
    options_of=["crosseai.models.training:Settings", "crosseai.models:CLASSIFIERS"],
)
@click.argument("shards", nargs=-1, required=True, type=click.Path())
@file_option("--records", "records.parquet.")
@file_option("--split", "split.parquet.")
@click.option("--fold", default=0, show_default=True, help="Fold of the split to train.")
@click.option("--labels", required=True, type=Listed(str), help=HELP["labels"])
@classifier_option
@click.option("--boxes", type=click.Path(), help="boxes.parquet, if the training sees boxes.")
@file_option("--out", "Write into this folder.")
def train(
    shards: tuple[str, ...],
    records: str,
    split: str,
    fold: int,
    labels: tuple[str, ...],
    classifier: str,
    boxes: str | None,
    out: str,
    **settings,
) -> None:
    r"""Train one fold of a classifier on the image cache SHARDS.

    Writes weights.safetensors, history.parquet, auc.parquet and predictions.parquet into the
    folder --out. A training that was killed goes on from its last epoch.

    Example:
      crosseai train data/images/*.h5 --records data/records.parquet --split \
          data/split.parquet --labels Mass,Nodule --backbone resnet18 --out \
          models/scalp/fold0
    """
    from crosseai.models import CLASSIFIERS
    from crosseai.models.training import Settings
    from crosseai.models.training import train as train_fold

    training, network = chosen(settings, Settings, known("classifier", classifier, CLASSIFIERS))
    train_fold(
        records, split, shards, fold, labels, out, classifier, network, Settings(**training), boxes
    )


@main.command(
    cls=Stage,
    options_of=["crosseai.maps.attribution:attribute", "crosseai.maps.attribution:MAPS"],
)
@click.argument("models", nargs=-1, required=True, type=click.Path())
@click.option(
    "--kind",
    required=True,
    help="cam, grad_cam, grad_cam_plus_plus, guided_backprop, deconvnet, integrated_gradients, "
    "layer_conductance, lime or own (the maps a classifier makes itself).",
)
@file_option("--images", "One shard of the image cache.")
@file_option("--split", "split.parquet.")
@file_option("--boxes", "boxes.parquet.")
@out_option
def maps(
    models: tuple[str, ...],
    kind: str,
    images: str,
    split: str,
    boxes: str,
    out: str,
    **settings,
) -> None:
    r"""Explain the images of one shard, each by the fold that did not train on it.

    MODELS are the weights of all folds. Writes one map an image and label, as HDF5.

    Example:
      crosseai maps models/scalp/fold*/weights.safetensors --kind guided_backprop --images \
          data/images/0.h5 --split data/split.parquet --boxes data/boxes.parquet --out \
          maps/scalp/guided_backprop/0.h5
    """
    from crosseai.maps.attribution import MAPS, attribute

    common, own = chosen(settings, attribute, known("kind", kind, MAPS))
    attribute(models, split, boxes, images, out, kind, own, **common)


@main.command(cls=Stage)
@click.argument("heatmaps", type=click.Path())
@click.argument("gradients", type=click.Path())
@click.option("--t", default=0.30, show_default=True, help="Share of the heatmap, 0 to 1.")
@out_option
def fuse(heatmaps: str, gradients: str, t: float, out: str) -> None:
    r"""Fuse the map files HEATMAPS and GRADIENTS of one shard into one.

    Each map is scaled to span 0 to 255, then t * heatmap + (1 - t) * gradient.

    Example:
      crosseai fuse maps/scalp/grad_cam_plus_plus/0.h5 maps/scalp/guided_backprop/0.h5 --out \
          fused/crosseai/0.h5
    """
    from crosseai.fusion import fuse_files

    fuse_files(heatmaps, gradients, out, t)


@main.group()
def boxes() -> None:
    """From maps to boxes."""


@boxes.command(cls=Stage, options_of=["crosseai.boxes.stage:find", "crosseai.boxes.stage:RULES"])
@click.argument("maps", type=click.Path())
@file_option("--records", "records.parquet.")
@click.option(
    "--parts",
    nargs=2,
    type=click.Path(),
    metavar="HEATMAPS GRADIENTS",
    help="Of a fusion: its two map files, whose agreement is told with each box.",
)
@click.option("--rule", default="rectangles", show_default=True, help=HELP["rule"])
@out_option
def find(
    maps: str,
    records: str,
    parts: tuple[str, str] | None,
    rule: str,
    out: str,
    **settings,
) -> None:
    r"""Find the boxes of every map in the file MAPS.

    Reads records.parquet for the size of the source images; writes a table of boxes in their
    pixels, best first.

    Example:
      crosseai boxes find fused/crosseai/0.h5 --records data/records.parquet --parts \
          maps/scalp/grad_cam_plus_plus/0.h5 maps/scalp/guided_backprop/0.h5 --out \
          boxes/crosseai/0.parquet
    """
    from crosseai.boxes.stage import RULES
    from crosseai.boxes.stage import find as find_in_shard

    common, own = chosen(settings, find_in_shard, known("rule", rule, RULES))
    find_in_shard(maps, records, out, rule, parts, **common | own)


@boxes.command(cls=Stage)
@click.argument("tables", nargs=-1, required=True, type=click.Path())
@out_option
def gather(tables: tuple[str, ...], out: str) -> None:
    """Join the TABLES of all shards of a method into one.

    Example:
      crosseai boxes gather boxes/crosseai/*.parquet --out boxes/crosseai.parquet
    """
    from crosseai.boxes.stage import gather as gather_shards

    gather_shards(tables, out)


@main.command(cls=Stage, options_of=["crosseai.evaluation.stage:evaluate"])
@file_option("--records", "records.parquet.")
@file_option("--boxes", "boxes.parquet: the ground truth.")
@file_option("--split", "split.parquet.")
@click.option(
    "--found",
    multiple=True,
    required=True,
    metavar="METHOD=PATH",
    callback=split_pairs,
    help="The boxes of a method; several times, in the order of the table.",
)
@click.option(
    "--predictions",
    multiple=True,
    metavar="MODEL=PATH",
    callback=split_pairs,
    help="The predictions of a model; once a fold.",
)
@file_option("--out", "Write into this folder.")
def evaluate(
    records: str, boxes: str, split: str, found: dict, predictions: dict, out: str, **settings
) -> None:
    r"""Score the boxes of methods, and of controls that never see an image.

    Writes accuracy.parquet, differences.parquet and metrics.csv into the folder --out, each
    figure with its 95 % interval.

    Example:
      crosseai evaluate --records data/records.parquet --boxes data/boxes.parquet --split \
          data/split.parquet --found crosseai=boxes/crosseai.parquet --out .
    """
    from crosseai.evaluation.stage import evaluate as evaluate_methods

    found = {method: path for method, (path, *_) in found.items()}
    evaluate_methods(records, boxes, split, found, predictions, out, **settings)


@main.command(cls=Stage, options_of=["crosseai.ablation.curves:ablate"])
@click.argument("heatmaps", nargs=-1, required=True, type=click.Path())
@click.option(
    "--gradients",
    multiple=True,
    required=True,
    metavar="REDUCTION=PATH",
    callback=split_pairs,
    help="A map file of the gradient map; once a shard, the configured reduction first.",
)
@file_option("--records", "records.parquet.")
@file_option("--boxes", "boxes.parquet: the ground truth.")
@file_option("--split", "split.parquet.")
@click.option("--size", required=True, type=int, help="Enlarge maps to this first.")
@file_option("--out", "Write this .csv, and .md and .png beside it.")
def ablate(
    heatmaps: tuple[str, ...],
    gradients: dict,
    records: str,
    boxes: str,
    split: str,
    size: int,
    out: str,
    **settings,
) -> None:
    r"""Vary each setting of a fusion's boxes alone, on the map files HEATMAPS and --gradients.

    Tells what every value is worth, with 95 % intervals, and draws curves.

    Example:
      crosseai ablate maps/scalp/grad_cam_plus_plus/0.h5 --gradients \
          max=maps/scalp/guided_backprop/0.h5 --records data/records.parquet --boxes \
          data/boxes.parquet --split data/split.parquet --size 224 --out ablation/crosseai.csv
    """
    from crosseai.ablation.curves import ablate as ablate_fusion

    ablate_fusion(records, boxes, split, heatmaps, gradients, out, size, **settings)


@main.command(cls=Stage, options_of=["crosseai.ablation.selection:select"])
@click.option(
    "--maps",
    multiple=True,
    required=True,
    metavar="NAME=PATH",
    callback=split_pairs,
    help="A map file, once a shard; of a fusion those of the heatmap first.",
)
@file_option("--records", "records.parquet.")
@file_option("--boxes", "boxes.parquet: the ground truth.")
@file_option("--split", "split.parquet.")
@click.option("--size", required=True, type=int, help="Enlarge maps to this first.")
@click.option("--t-values", type=Listed(float), help=HELP["t_values"])
@click.option("--threshold-values", type=Listed(float), help=HELP["threshold_values"])
@click.option("--smoothing-values", type=Listed(float), help=HELP["smoothing_values"])
@click.option("--candidates-values", type=Listed(int), help=HELP["candidates_values"])
@file_option("--choices", "Write what each fold chose here.")
@out_option
def select(
    maps: dict, records: str, boxes: str, split: str, size: int, choices: str, out: str, **settings
) -> None:
    r"""Find boxes by Algorithm 1 with settings chosen on the boxes of other patients.

    Writes a table of boxes like `crosseai boxes`. A setting without values stays as it is given.

    Example:
      crosseai select --maps heatmap=maps/scalp/grad_cam_plus_plus/0.h5 --maps \
          gradient=maps/scalp/guided_backprop/0.h5 --records data/records.parquet --boxes \
          data/boxes.parquet --split data/split.parquet --size 224 --t-values 0.2,0.3,0.5 \
          --choices selected/crosseai.csv --out boxes/crosseai-selected.parquet
    """
    from crosseai.ablation.selection import select as select_settings

    if len(maps) > 2:
        raise InputError(f"maps: {len(maps)} names; give one, or two to fuse")
    select_settings(records, boxes, split, [*maps.values()], out, choices, size, **settings)


@main.command(cls=Stage, options_of=["crosseai.models.randomise:randomise"])
@click.argument("trained", type=click.Path())
@out_option
def randomise(trained: str, out: str, **settings) -> None:
    r"""Make the weights in the file TRAINED anew, from the logits down to a depth.

    Example:
      crosseai randomise models/scalp/fold0/weights.safetensors --depth stage4 --out \
          models/scalp~stage4/fold0/weights.safetensors
    """
    from crosseai.models.randomise import randomise as randomise_weights

    randomise_weights(trained, out, **settings)


@main.command(cls=Stage, options_of=["crosseai.ablation.sanity:sanity"])
@file_option("--records", "records.parquet.")
@file_option("--boxes", "boxes.parquet: the ground truth.")
@file_option("--split", "split.parquet.")
@click.option(
    "--maps",
    multiple=True,
    required=True,
    metavar="NAME=PATH",
    callback=split_pairs,
    help="Folder with the map files of METHOD or METHOD~DEPTH.",
)
@click.option(
    "--found",
    multiple=True,
    required=True,
    metavar="NAME=PATH",
    callback=split_pairs,
    help="The boxes of METHOD or METHOD~DEPTH.",
)
@click.option("--shards", default=1, show_default=True, help="Map files in a folder, 0.h5 ...")
@click.option("--size", required=True, type=int, help="Compare maps at this size.")
@file_option("--out", "Write into this folder.")
def sanity(
    records: str,
    boxes: str,
    split: str,
    maps: dict,
    found: dict,
    shards: int,
    size: int,
    out: str,
    **settings,
) -> None:
    r"""Compare maps and boxes of trained networks with those of randomised ones.

    Writes sanity.csv, sanity.md and sanity.png into the folder --out.

    Example:
      crosseai sanity --records data/records.parquet --boxes data/boxes.parquet --split \
          data/split.parquet --maps scalp=maps/scalp/grad_cam_plus_plus --maps \
          scalp~all=maps/scalp~all/grad_cam_plus_plus --found scalp=boxes/scalp.parquet \
          --found scalp~all=boxes/scalp~all.parquet --size 224 --out sanity
    """
    from crosseai.ablation.sanity import sanity as check

    maps, found = ({name: path for name, (path, *_) in own.items()} for own in (maps, found))
    check(records, boxes, split, maps, found, out, shards, size, **settings)


@main.command(cls=Stage)
@click.argument("run", type=click.Path())
def report(run: str) -> None:
    """Write Table 1 and a page of the finished run in the folder RUN.

    Reads config.json, the effective configuration, and what the stages wrote; writes table1.csv,
    table1.md, report.html and figures/ beside them.

    Example:
      crosseai report results/phantom
    """
    from pathlib import Path

    from crosseai.data.phantom import MARKER
    from crosseai.report.page import report as write_report

    config = json.loads(Path(run, "config.json").read_text())
    release = config["release"]
    real = release["kind"] == "nih" and not Path(release["path"], MARKER).exists()
    write_report(Path(run), config, real, config["report"]["panels"])
