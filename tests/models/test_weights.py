import hashlib

import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file

from crosseai.errors import InputError
from crosseai.models import build, weights

LABELS = ["a", "b"]
SETTINGS = {"backbone": "tiny", "negatives": 4}


def state_of(network):
    torch.manual_seed(3)
    return {
        name: torch.randn_like(value) if value.is_floating_point() else value
        for name, value in network.state_dict().items()
    }


def one_line(error):
    text = str(error.value)
    assert "\n" not in text
    return text


def test_a_complete_torchvision_file_gives_torchvision_s_network(tmp_path):
    torch.manual_seed(0)
    peer = torchvision.models.resnet18(weights=None).eval()
    save_file(peer.state_dict(), tmp_path / "resnet18.safetensors")
    model = build("scalp", list(map(str, range(1000))), backbone="resnet18", attention="none")
    assert weights.initialise(model, tmp_path / "resnet18.safetensors") == []
    model.classifier.load_state_dict(peer.fc.state_dict())
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(images), peer(images), rtol=1e-4, atol=1e-4)


def test_a_densenet_file_with_prefix_and_classifier_leaves_only_the_attention(tmp_path, tiny):
    state = state_of(tiny())
    save_file(state, tmp_path / "w.safetensors")
    model = build("scalp", LABELS, **SETTINGS)
    before = model.classifier.weight.clone()
    missing = weights.initialise(model, tmp_path / "w.safetensors")
    assert missing
    assert missing == [name for name, _ in model.features.named_parameters() if "attention" in name]
    own = model.features.state_dict()
    for name, value in state.items():
        if name.startswith("features."):
            assert torch.equal(own[name.removeprefix("features.")], value)
    assert torch.equal(model.classifier.weight, before)


def test_a_partial_file_fills_its_part_and_the_rest_is_listed_and_told(tmp_path, tiny, caplog):
    state = {
        name.removeprefix("features."): value
        for name, value in state_of(tiny()).items()
        if name.startswith(("features.conv0", "features.norm0"))
    }
    save_file(state, tmp_path / "w.safetensors")
    model = build("scalp", LABELS, **SETTINGS)
    before = {name: value.clone() for name, value in model.features.state_dict().items()}
    with caplog.at_level("INFO"):
        missing = weights.initialise(model, tmp_path / "w.safetensors")
    for name, value in model.features.state_dict().items():
        assert torch.equal(value, state.get(name, before[name]))
    assert set(missing) == {name for name, _ in model.features.named_parameters()} - set(state)
    for told in ("denseblock1", "attention", "norm5", "the classification layer"):
        assert told in caplog.text
    assert "conv0," not in caplog.text


def test_weights_of_another_network_are_refused(tmp_path):
    peer = torchvision.models.resnet50(weights=None).state_dict()
    path = tmp_path / "w.safetensors"
    model = build("scalp", LABELS, backbone="resnet18")
    before = {name: value.clone() for name, value in model.state_dict().items()}

    save_file({name: peer[name] for name in ("conv1.weight", "layer1.0.bn3.weight")}, path)
    with pytest.raises(InputError, match=r"w\.safetensors.*another network.*'layer1\.0\.bn3") as e:
        weights.initialise(model, path)
    one_line(e)
    save_file({name: peer[name] for name in ("conv1.weight", "layer1.0.conv1.weight")}, path)
    with pytest.raises(InputError, match=r"another network.*64, 1, 1\).*64, 3, 3\)") as e:
        weights.initialise(model, path)
    one_line(e)
    save_file({name: peer[name] for name in ("fc.weight", "fc.bias")}, path)
    with pytest.raises(InputError, match="no parameter of the backbone") as e:
        weights.initialise(model, path)
    one_line(e)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("read", [weights.load, lambda path: weights.initialise(None, path)])
def test_no_file_and_no_safetensors_are_one_line(tmp_path, read):
    with pytest.raises(InputError, match=r"none\.safetensors: no such weights file") as e:
        read(tmp_path / "none.safetensors")
    one_line(e)
    torch.save({"a": torch.ones(1)}, tmp_path / "pickle.pt")
    with pytest.raises(InputError, match=r"pickle\.pt: not a safetensors file") as e:
        read(tmp_path / "pickle.pt")
    one_line(e)
    (tmp_path / "empty.safetensors").touch()
    with pytest.raises(InputError, match=r"empty\.safetensors: not a safetensors file") as e:
        read(tmp_path / "empty.safetensors")
    one_line(e)
    with pytest.raises(InputError, match="no such weights file"):
        read(tmp_path)


def test_a_saved_model_comes_back_with_identical_logits(tmp_path):
    torch.manual_seed(0)
    model = build("scalp", LABELS, **SETTINGS).to(memory_format=torch.channels_last)
    model.train()(torch.randn(4, 3, 32, 32))  # moves the running statistics
    description = {
        "classifier": "scalp",
        "labels": LABELS,
        "settings": SETTINGS,
        "size": 32,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.2, 0.2, 0.2],
        "fold": 1,
    }
    weights.save(model, description, tmp_path / "a" / "weights.safetensors")
    loaded, read = weights.load(tmp_path / "a" / "weights.safetensors")
    assert read == description
    assert not loaded.training
    assert loaded.labels == LABELS
    assert loaded.negatives == 4
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        expected = model.to(memory_format=torch.contiguous_format).eval()(images)
        assert torch.equal(loaded(images), expected)
    weights.save(model, description, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (
        tmp_path / "a" / "weights.safetensors"
    ).read_bytes()
    assert load_file(tmp_path / "again.safetensors").keys() == model.state_dict().keys()


def test_a_safetensors_file_that_is_no_model_is_refused(tmp_path):
    save_file({"conv1.weight": torch.ones(2)}, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match="no model of this program") as e:
        weights.load(tmp_path / "w.safetensors")
    one_line(e)


def test_digest_is_the_head_of_the_sha_256(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert weights.digest(tmp_path / "x") == hashlib.sha256(b"abc").hexdigest()[:16]
    assert weights.digest(tmp_path / "x") == "ba7816bf8f01cfea"  # FIPS 180-2, appendix B.1
