"""Training: one fold of one classifier, from the image cache to its weights and predictions."""

import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import lightning_fabric
import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.nn.functional import binary_cross_entropy
from tqdm import tqdm

from crosseai import tables
from crosseai.errors import InputError
from crosseai.files import replacing
from crosseai.imagestore import ImageStore
from crosseai.models import build, weights
from crosseai.models.augmentation import MEAN, STD, augment, mirrored, normalise
from crosseai.models.classifier import Targets

__all__ = ["Images", "Settings", "auc_table", "train"]

log = logging.getLogger(__name__)

NO_BOXES = pd.DataFrame(columns=tables.BOXES.names)


@dataclass(frozen=True)
class Settings:
    """How a classifier is trained; the defaults are the paper's.

    Attributes
    ----------
    epochs, batch : int
    learning_rate : float
        Rises over the first tenth of the training and falls along a cosine to zero.
    optimizer : {"sgd", "adamw"}
        SGD has momentum 0.9.
    weight_decay : float
    weights : str or None
        Safetensors file under torchvision's names to start from.
    freeze_until : str or None
        Name of the last stage that is not trained, such as layer3 or transition2. Its batch norms
        keep their statistics.
    freeze_norms : bool
        All batch norms keep their statistics, also those of the learned part: for pretrained
        weights and batches whose own statistics are poor.
    cache_frozen : bool
        Run the frozen part once on every image and its mirror image and keep what comes out in
        memory as float16. Training then repeats the learned part alone, and mirroring is the only
        augmentation.
    rotation, scale, shift, contrast, flip
        See `crosseai.models.augmentation.augment`.
    precision : str
        Lightning Fabric's: 32-true, bf16-mixed, 16-mixed; auto takes bf16-mixed on a GPU.
    seed : int
    threads : int
        Threads on the CPU; sums, and so weights, depend on it in the last digits.
    """

    epochs: int = 20
    batch: int = 128
    learning_rate: float = 0.01
    optimizer: str = "sgd"
    weight_decay: float = 1e-4
    weights: str | None = None
    freeze_until: str | None = None
    freeze_norms: bool = False
    cache_frozen: bool = False
    rotation: float = 10.0
    scale: float = 0.1
    shift: float = 0.05
    contrast: float = 0.2
    flip: bool = True
    precision: str = "auto"
    seed: int = 0
    threads: int = 2


@dataclass(frozen=True)
class Images:
    """The images of one part of a fold, in memory.

    Attributes
    ----------
    names : list of str
    pixels : Tensor [N, H, W] uint8
    truth : Tensor [N, L] float32
        0 or 1.
    patients : ndarray [N] int
    boxes : Tensor [N, L, 4] float32
        x1, y1, x2, y2 as shares of the image; NaN where there is none.
    """

    names: list[str]
    pixels: torch.Tensor
    truth: torch.Tensor
    patients: np.ndarray
    boxes: torch.Tensor

    def __len__(self) -> int:
        return len(self.names)


def read_images(
    records: pd.DataFrame,
    boxes: pd.DataFrame,
    store: ImageStore,
    names: Sequence[str],
    labels: Sequence[str],
) -> Images:
    """Read the images `names` from the cache, with their labels, patients and boxes."""
    absent = sorted(set(names) - (set(records.image) & set(store.images)))
    if absent:
        raise InputError(
            f"split: {absent[0]} and {len(absent) - 1} more are not in the image cache"
        )
    rows = records.set_index("image").loc[list(names)]
    truth = [[label in found for label in labels] for found in rows.labels.map(set)]
    pixels = np.empty((len(rows), store.size, store.size), "uint8")
    for row, name in enumerate(rows.index):
        pixels[row] = store.read(name)
    patients = pd.factorize(records.patient)[0]
    patients = pd.Series(patients, records.image).loc[rows.index].to_numpy(copy=True)
    truth = torch.tensor(truth, dtype=torch.float32).reshape(len(rows), len(labels))
    pairs = pd.MultiIndex.from_product([rows.index, labels])
    found = boxes.drop_duplicates(["image", "label"]).set_index(["image", "label"]).reindex(pairs)
    corners = np.stack([found.x, found.y, found.x + found.w, found.y + found.h], 1)
    corners = corners.astype("float32").reshape(len(rows), len(labels), 4)  # source pixels
    size = rows[["width", "height", "width", "height"]].to_numpy("float32")[:, None]
    return Images(
        list(rows.index),
        torch.from_numpy(pixels),
        truth,
        patients,
        torch.from_numpy(corners / size),
    )


class Inputs:
    """What goes into the learned part of a network: images, or a frozen part's activations.

    Parameters
    ----------
    frozen : nn.Module
        The part that is not trained; may be empty.
    images : Images
    settings : Settings
    fabric : Fabric
        Its device and precision.
    """

    def __init__(
        self,
        frozen: nn.Sequential,
        images: Images,
        settings: Settings,
        fabric: lightning_fabric.Fabric,
    ):
        self.frozen, self.images, self.settings, self.fabric = frozen, images, settings, fabric
        self.device = fabric.device
        self.cached = settings.cache_frozen and len(frozen) > 0

    def plain(self, rows: np.ndarray) -> torch.Tensor:
        """Inputs of the images `rows` as they are, [B, C, H, W]."""
        if self.cached:
            return self._activations[rows].to(self.device).float()
        return self._forward(self.images.pixels[rows].to(self.device))

    def augmented(
        self, rows: np.ndarray, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs [B, C, H, W] and boxes [B, L, 4] of the images `rows`, each changed at random."""
        boxes = self.images.boxes[rows]
        if self.cached and not self.settings.flip:
            return self.plain(rows), boxes
        if self.cached:
            mirror = torch.rand(len(rows), generator=generator) < 0.5
            mirror = mirror.view(-1, 1, 1, 1)
            chosen = torch.where(mirror, self._mirrored[rows], self._activations[rows])
            boxes = torch.where(mirror[..., 0], mirrored(boxes), boxes)
            return chosen.to(self.device).float(), boxes
        s = self.settings
        pixels, boxes = augment(
            self.images.pixels[rows].to(self.device),
            boxes,
            generator,
            s.rotation,
            s.scale,
            s.shift,
            s.contrast,
            s.flip,
        )
        return self._forward(pixels), boxes

    def _forward(self, pixels: torch.Tensor) -> torch.Tensor:
        with torch.no_grad(), self.fabric.autocast():
            return self.frozen(normalise(pixels))

    @cached_property
    def _activations(self) -> torch.Tensor:
        """What the frozen part makes of each image, float16 [N, C, h, w]."""
        return self._frozen_part(self.images.pixels)

    @cached_property
    def _mirrored(self) -> torch.Tensor:
        """What the frozen part makes of each mirror image, float16 [N, C, h, w]."""
        return self._frozen_part(self.images.pixels.flip(2))

    def _frozen_part(self, pixels: torch.Tensor) -> torch.Tensor:
        batches = tqdm(pixels.split(16), "frozen part", unit="batch", disable=None, leave=False)
        parts = [self._forward(batch.to(self.device)).half().cpu() for batch in batches]
        return torch.cat(parts).contiguous(memory_format=torch.channels_last)


def train(
    records: str | os.PathLike,
    split: str | os.PathLike,
    shards: Sequence[str | os.PathLike],
    fold: int,
    labels: Sequence[str],
    out: str | os.PathLike,
    classifier: str,
    network: dict,
    settings: Settings,
    boxes: str | os.PathLike | None = None,
) -> None:
    """Train one fold and write weights, history, AUC and predictions into the folder `out`.

    After each epoch a checkpoint is written beside them. A later call with the same settings and
    inputs goes on from it and ends with the same weights; a checkpoint of other settings or
    inputs is discarded.

    Parameters
    ----------
    records, split : path-like
        Tables of the run.
    shards : sequence of path-like
        The image cache.
    fold : int
    labels : sequence of str
    out : path-like
        Folder.
    classifier : str
    network : dict
        The classifier's own settings; see `crosseai.models.build`.
    settings : Settings
    boxes : path-like, optional
        Table of the run; for a classifier whose training sees boxes, and for no other.

    Raises
    ------
    InputError
        If a setting, the weights file or a part of the split does not fit.
    """
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    model = build(classifier, labels, **network)
    if model.sees_boxes != (boxes is not None):
        raise InputError(
            f"boxes: the training of {classifier!r} "
            + ("needs them; give boxes.parquet" if model.sees_boxes else "must not see them")
        )
    random = [name for name, _ in model.features.named_parameters()]
    if settings.weights:
        random = weights.initialise(model, settings.weights)
    stage = frozen_stages(model, settings.freeze_until, random)

    records, split = tables.read(records, tables.RECORDS), tables.read(split, tables.SPLIT)
    known = tables.read(boxes, tables.BOXES) if boxes else NO_BOXES
    store = ImageStore(shards)
    parts = {}
    for part in ("train", "validation", "test"):
        names = split.image[(split.fold == fold) & (split.part == part)]
        parts[part] = read_images(records, known, store, names, labels)
        log.info("fold %d: %d images to %s on", fold, len(names), part)
    if not len(parts["train"]) or not len(parts["validation"]):
        raise InputError(f"split: fold {fold} has no image to train or validate on")
    positives = parts["validation"].truth.sum(0)
    if not ((positives > 0) & (positives < len(parts["validation"]))).any():
        raise InputError(f"split: fold {fold} has no label both on and off in validation")

    precision = settings.precision
    if precision == "auto":
        precision = "bf16-mixed" if torch.cuda.is_available() else "32-true"
    try:
        fabric = lightning_fabric.Fabric(accelerator="auto", devices=1, precision=precision)
    except ValueError as error:
        raise InputError(f"precision: {precision!r} does not fit ({error})") from None
    model = model.to(memory_format=torch.channels_last)
    frozen = model.features[:stage].requires_grad_(False)
    optimizer = make_optimizer(model, settings)
    model, optimizer = fabric.setup(model, optimizer)
    model.mark_forward_method("losses")

    out = Path(out)
    checkpoint = out / "checkpoint.pt"
    key = fingerprint(parts, fold, labels, classifier, network, settings)
    epoch, best, history, guidance = 0, {"auc": -math.inf}, [], None
    if checkpoint.is_file():
        saved = torch.load(checkpoint, weights_only=True, map_location=fabric.device)
        if saved["key"] == key:
            epoch, best, history = saved["epoch"], saved["best"], saved["history"]
            guidance = saved["guidance"]
            model.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])
            log.info("fold %d: going on after epoch %d of %d", fold, epoch, settings.epochs)
        else:
            log.info("%s: made with other settings or inputs, discarded", checkpoint)

    inputs = {
        part: Inputs(frozen.eval(), images, settings, fabric) for part, images in parts.items()
    }
    while epoch < settings.epochs:
        started = time.monotonic()
        guidance = guide(fabric, model, inputs["train"], stage, epoch, settings, guidance)
        losses = train_epoch(
            fabric, model, optimizer, inputs["train"], guidance, stage, epoch, settings
        )
        probability = predict(fabric, model, inputs["validation"], stage, settings.batch)
        if not (math.isfinite(losses["total"]) and probability.isfinite().all()):
            raise InputError(
                f"learning_rate: in epoch {epoch + 1} the loss is no longer finite; lower it"
            )
        truth = parts["validation"].truth
        auc = float(
            np.nanmean([auc_of(truth[:, i], probability[:, i]) for i in range(len(labels))])
        )
        epoch += 1
        history.append(
            {
                "epoch": epoch,
                "loss": losses["total"],
                "classification": losses["classification"],
                "contrastive": losses.get("contrastive", math.nan),
                "validation_loss": binary_cross_entropy(probability, truth).item(),
                "validation_auc": auc,
                "seconds": time.monotonic() - started,
            }
        )
        log.info(
            "fold %d epoch %d/%d: %s",
            fold,
            epoch,
            settings.epochs,
            ", ".join(f"{name} {value:.4g}" for name, value in list(history[-1].items())[1:]),
        )
        if auc > best["auc"]:
            state = {name: value.clone() for name, value in model.state_dict().items()}
            best = {"auc": auc, "epoch": epoch, "model": state}
        with replacing(checkpoint) as temporary:
            torch.save(
                {
                    "key": key,
                    "epoch": epoch,
                    "best": best,
                    "history": history,
                    "guidance": guidance,
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                },
                temporary,
            )
    log.info("fold %d: epoch %d is the best on validation", fold, best["epoch"])
    model.load_state_dict(best["model"])
    description = {
        "classifier": classifier,
        "labels": list(labels),
        "settings": network,
        "size": store.size,
        "mean": MEAN,
        "std": STD,
        "fold": fold,
    }
    probability = {
        part: predict(fabric, model, inputs[part], stage, settings.batch)
        for part in ("validation", "test")
    }
    write_results(model.module, parts, probability, fold, labels, history, description, out)
    checkpoint.unlink()


def frozen_stages(model: nn.Module, freeze_until: str | None, random: Sequence[str]) -> int:
    """How many stages of ``model.features`` are not trained.

    Raises
    ------
    InputError
        If there is no such stage, or one of the parameters `random`, which no weights file
        filled, lies in what would be frozen.
    """
    if freeze_until is None:
        return 0
    names = [name for name, _ in model.features.named_children()]
    if freeze_until not in names:
        raise InputError(f"freeze_until: no stage {freeze_until!r}; choose one of {names}")
    stage = names.index(freeze_until) + 1
    lost = [name for name in random if name.split(".")[0] in names[:stage]]
    if lost:
        raise InputError(
            f"freeze_until: {len(lost)} parameters, {lost[0]} among them, would stay at random "
            "numbers; give weights that hold them, or freeze less"
        )
    return stage


def make_optimizer(model: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """Make the optimizer over the parameters that are trained."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, settings.learning_rate, momentum=0.9, weight_decay=settings.weight_decay
        )
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(
            parameters, settings.learning_rate, weight_decay=settings.weight_decay
        )
    raise InputError(f"optimizer: {settings.optimizer!r} is unknown; choose sgd or adamw")


def fingerprint(
    parts: dict[str, Images],
    fold: int,
    labels: Sequence[str],
    classifier: str,
    network: dict,
    settings: Settings,
) -> str:
    """Hash of all that the trained weights depend on."""
    text = json.dumps([fold, list(labels), classifier, network, asdict(settings)], sort_keys=True)
    state = hashlib.blake2b(text.encode())
    for images in parts.values():
        state.update("\n".join(images.names).encode())
        for array in (images.pixels, images.truth, images.boxes, images.patients):
            state.update(np.ascontiguousarray(array))
    if settings.weights:
        state.update(weights.digest(settings.weights).encode())
    return state.hexdigest()


@torch.no_grad()
def guide(
    fabric: lightning_fabric.Fabric,
    model: nn.Module,
    inputs: Inputs,
    stage: int,
    epoch: int,
    settings: Settings,
    guidance: torch.Tensor | None,
) -> torch.Tensor | None:
    """Ask the classifier for the guidance of the coming epoch, [N, F], or keep what there is."""

    def features(rows: np.ndarray) -> torch.Tensor:
        with fabric.autocast():
            return model.features[stage:](inputs.plain(rows))  # [B, C, h, w]

    model.eval()
    new = model.guide(epoch / settings.epochs, inputs.images.pixels, features)
    return guidance if new is None else new


def train_epoch(
    fabric: lightning_fabric.Fabric,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    inputs: Inputs,
    guidance: torch.Tensor | None,
    stage: int,
    epoch: int,
    settings: Settings,
) -> dict[str, float]:
    """One pass over the training images; the mean of each loss."""
    model.train()
    model.features[:stage].eval()
    for layer in model.modules():
        if settings.freeze_norms and isinstance(layer, nn.BatchNorm2d):
            layer.eval()
    # Draws depend on the epoch alone, so that a resumed training repeats them.
    rng = np.random.default_rng([settings.seed, epoch])
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    images = inputs.images
    batches = list(model.batches(images.truth.numpy() > 0, images.patients, settings.batch, rng))
    patients = torch.from_numpy(images.patients)
    sums: dict[str, float] = {}
    progress = tqdm(batches, f"epoch {epoch + 1}/{settings.epochs}", unit="batch", disable=None)
    for step, batch in enumerate(progress):
        rate = learning_rate(epoch + step / len(batches), settings)
        for group in optimizer.param_groups:
            group["lr"] = rate
        seen, boxes = inputs.augmented(batch.image, generator)
        targets = Targets(
            images.truth[batch.image].to(fabric.device),
            torch.from_numpy(batch.label).to(fabric.device),
            patients[batch.image].to(fabric.device),
            torch.from_numpy(batch.group).to(fabric.device),
            boxes.to(fabric.device),
            None if guidance is None else guidance[batch.image].to(fabric.device),
        )
        with fabric.autocast():
            losses = model.losses(seen, stage, targets)
        optimizer.zero_grad()
        fabric.backward(losses["total"])
        optimizer.step()
        for name, value in losses.items():
            sums[name] = sums.get(name, 0.0) + value.detach().item()
        progress.set_postfix(loss=f"{sums['total'] / (step + 1):.3f}")
    return {name: value / len(batches) for name, value in sums.items()}


def learning_rate(epoch: float, settings: Settings) -> float:
    """Learning rate after `epoch` epochs, counted with fractions: a warm-up, then a cosine."""
    warm_up = settings.epochs / 10
    if epoch < warm_up:
        return settings.learning_rate * (epoch + 0.01) / (warm_up + 0.01)
    done = (epoch - warm_up) / (settings.epochs - warm_up)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


@torch.no_grad()
def predict(
    fabric: lightning_fabric.Fabric, model: nn.Module, inputs: Inputs, stage: int, batch: int
) -> torch.Tensor:
    """Probabilities of all labels, float32 [N, L] on the CPU."""
    model.eval()
    parts = [torch.empty(0, len(model.labels))]
    for start in range(0, len(inputs.images), batch):
        rows = np.arange(start, min(start + batch, len(inputs.images)))
        with fabric.autocast():
            features = model.features[stage:](inputs.plain(rows))  # [B, C, h, w]
        parts.append(model.head(features).sigmoid().float().cpu())
    return torch.cat(parts)


def auc_of(truth: torch.Tensor, probability: torch.Tensor) -> float:
    """Area under the ROC curve; NaN if only one class is there."""
    if truth.min() == truth.max():
        return math.nan
    return float(roc_auc_score(truth.numpy(), probability.numpy()))


def auc_table(part: str, images: Images, probability: torch.Tensor, labels: Sequence[str]) -> list:
    """Rows of the table `crosseai.tables.AUC` for one part."""
    return [
        {
            "label": label,
            "part": part,
            "auc": auc_of(images.truth[:, i], probability[:, i]) if len(images) else math.nan,
            "positives": int(images.truth[:, i].sum()),
            "n": len(images),
        }
        for i, label in enumerate(labels)
    ]


def write_results(
    model: nn.Module,
    parts: dict[str, Images],
    probability: dict[str, torch.Tensor],
    fold: int,
    labels: Sequence[str],
    history: list[dict],
    description: dict,
    out: Path,
) -> None:
    """Write AUC, predictions and history, and last the weights."""
    auc, predictions = [], []
    for part, values in probability.items():
        auc += auc_table(part, parts[part], values, labels)
        rows = pd.DataFrame(values.numpy(), columns=list(labels), dtype="float64")
        predictions.append(rows.assign(image=parts[part].names, part=part, fold=fold))
    for row in auc:
        log.info("fold %d %s %s: AUC %.3f", fold, row["part"], row["label"], row["auc"])
    tables.write(pd.DataFrame(auc), tables.AUC, out / "auc.parquet")
    tables.write(
        pd.concat(predictions), tables.predictions(list(labels)), out / "predictions.parquet"
    )
    tables.write(pd.DataFrame(history), tables.HISTORY, out / "history.parquet")
    weights.save(model, description, out / "weights.safetensors")
