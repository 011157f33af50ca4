import pytest
import torch
from safetensors.torch import load_file

from crosseai.errors import InputError
from crosseai.models import build, weights
from crosseai.models.randomise import DEPTHS, forgotten, randomise

LABELS = ["a", "b", "c"]
RESNET = {"backbone": "resnet18", "width": 8, "attention": "last"}

#: Depth -> the stages of each backbone that it adds to those of the depth above.
STAGES = {
    "resnet18": {
        "head": [],
        "stage4": ["layer4"],
        "stage3": ["layer3"],
        "stage2": ["layer2"],
        "stage1": ["layer1"],
        "all": ["conv1", "bn1"],
    },
    "tiny": {
        "head": [],
        "stage4": ["denseblock4", "attention4", "norm5"],
        "stage3": ["denseblock3", "attention3", "transition3"],
        "stage2": ["denseblock2", "attention2", "transition2"],
        "stage1": ["denseblock1", "attention1", "transition1"],
        "all": ["conv0", "norm0"],
    },
}


@pytest.fixture
def trained(tmp_path):
    """A model whose every number differs from any initial one."""

    def make(settings: dict, fold: int = 0):
        torch.manual_seed(0)  # the training's own seed
        model = build("scalp", LABELS, **settings)
        for value in model.state_dict().values():
            value.add_(1) if value.is_floating_point() else value.fill_(7)
        path = tmp_path / f"trained{fold}.safetensors"
        description = {"classifier": "scalp", "labels": LABELS, "settings": settings}
        weights.save(model, description | {"fold": fold, "size": 32}, path)
        return path

    return make


@pytest.mark.parametrize("backbone", STAGES)
def test_a_cascade_from_the_head_down(trained, tmp_path, backbone):
    path = trained(RESNET | {"backbone": backbone} if backbone != "tiny" else {"backbone": "tiny"})
    before, gone = load_file(path), {"classifier"}
    for depth, stages in STAGES[backbone].items():
        gone |= {f"features.{stage}" for stage in stages}
        randomise(path, tmp_path / "new.safetensors", depth)
        after = load_file(tmp_path / "new.safetensors")
        assert after.keys() == before.keys()
        for name in before:
            anew = any(name.startswith(f"{part}.") for part in gone)
            if anew:
                assert not torch.equal(after[name], before[name]), name
            else:
                assert after[name].numpy().tobytes() == before[name].numpy().tobytes(), name
    assert list(STAGES[backbone]) == list(DEPTHS)
    assert all(name.startswith(tuple(gone)) for name in before)


def test_new_weights_are_those_of_a_network_just_built(trained, tmp_path):
    path, out = trained(RESNET), tmp_path / "new.safetensors"
    randomise(path, out, "all")
    model, description = weights.load(out)
    assert description["randomised"] == "all"
    for name, value in model.state_dict().items():
        if name.endswith("running_mean"):
            assert (value == 0).all()
        if name.endswith("running_var"):
            assert (value == 1).all()
    kernel = model.features.layer2[0].conv1.weight
    fan_out = kernel.shape[0] * 9
    assert kernel.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)
    assert torch.isfinite(model(torch.randn(2, 3, 32, 32))).all()


def test_weights_follow_from_seed_and_fold_and_are_not_the_trainings_first(trained, tmp_path):
    out = tmp_path / "new.safetensors"

    def kernel(fold: int = 0, seed: int = 0) -> torch.Tensor:
        randomise(trained(RESNET, fold), out, seed=seed)
        return load_file(out)["features.conv1.weight"]

    kernels, written = [kernel()], out.read_bytes()
    kernel()
    assert out.read_bytes() == written
    torch.manual_seed(0)
    initial = build("scalp", LABELS, **RESNET).features.conv1.weight
    kernels += [kernel(seed=1), kernel(fold=1), initial]
    for number, one in enumerate(kernels):
        for other in kernels[:number]:
            assert not torch.equal(one, other)


def test_unknown_depth():
    with pytest.raises(InputError, match="depth: 'stage5' is unknown; choose one of"):
        forgotten(build("scalp", LABELS, **RESNET), "stage5")
