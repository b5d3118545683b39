"""What a run writes trains, as it stands, in trainers of the field: torchreid and torchvision."""

import numpy as np
import pytest
from PIL import Image

from rlsyn_jax.data.exports import export_into_market1501
from rlsyn_jax.data.synthetic_writer import SyntheticDatasetWriter

pytestmark = pytest.mark.slow
torch = pytest.importorskip("torch")

PEOPLE, SIZE = ("0002", "0007", "0010", "0011"), (32, 16)


def images_of(person, number):
    random = np.random.default_rng(int(person))
    noise = np.random.default_rng(number).integers(0, 60, (*SIZE, 3))
    return (random.integers(0, 196, (1, 1, 3)) + noise).astype(np.uint8)


@pytest.fixture
def synthetic(tmp_path):
    """A finished synthetic set: four images each of four people."""
    writer = SyntheticDatasetWriter(tmp_path / "synthetic", identity_names=PEOPLE)
    for person in PEOPLE:
        for number in range(4):
            writer.write_image(person, number, images_of(person, number), {"seed": number})
    writer.finish(card="# Card", metadata={})
    return tmp_path / "synthetic"


@pytest.fixture
def real(tmp_path):
    """Two real images of each of them, a query and its gallery, in Market-1501's layout."""
    names = [f"bounding_box_train/{p}_c{c}s1_00000{c}_01.jpg" for p in PEOPLE for c in (1, 2)]
    for person in ("0001", "0003"):
        names.append(f"query/{person}_c1s1_000001_00.jpg")
        names.append(f"bounding_box_test/{person}_c2s1_000002_00.jpg")
    names.append("bounding_box_test/0000_c3s1_000003_00.jpg")
    names.append("bounding_box_test/-1_c3s1_000004_00.jpg")
    for number, name in enumerate(names):
        path = tmp_path / "real" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        person = abs(int(path.name.split("_")[0]))
        Image.fromarray(images_of(person, number)).save(path, quality=95)
    return tmp_path / "real"


def test_torchreid_trains_on_the_export(tmp_path, synthetic, real):
    torchreid = pytest.importorskip("torchreid", exc_type=ImportError)
    target = tmp_path / "data" / "market1501" / "Market-1501-v15.09.15"
    target.parent.mkdir(parents=True)
    assert export_into_market1501(synthetic, real, target) == 16
    manager = torchreid.data.ImageDataManager(
        root=str(tmp_path / "data"),
        sources="market1501",
        height=32,
        width=16,
        batch_size_train=12,
        num_instances=3,
        train_sampler="RandomIdentitySampler",
        workers=0,
        use_gpu=False,
    )
    trained_on = manager.train_loader.dataset.train
    assert manager.num_train_pids == len(PEOPLE)
    assert len(trained_on) == 8 + 16
    assert sum("s9_" in path for path, *_ in trained_on) == 16
    model = torchreid.models.build_model(
        "osnet_x0_25", num_classes=len(PEOPLE), loss="triplet", pretrained=False
    )
    optimizer = torchreid.optim.build_optimizer(model, optim="adam", lr=3e-4)
    scheduler = torchreid.optim.build_lr_scheduler(optimizer, stepsize=20)
    engine = torchreid.engine.ImageTripletEngine(
        manager, model, optimizer, scheduler=scheduler, use_gpu=False
    )
    before = model.classifier.weight.detach().clone()
    # Two batches an epoch, and its test of the query in the gallery.
    assert len(manager.train_loader) == 2
    engine.run(save_dir=str(tmp_path / "log"), max_epoch=1, print_freq=1, ranks=[1])
    assert (model.classifier.weight != before).any()
    assert all(torch.isfinite(value).all() for value in model.parameters())
    assert list((tmp_path / "log" / "model").iterdir())


def test_torchvision_trains_on_the_folder(synthetic):
    torchvision = pytest.importorskip("torchvision")
    dataset = torchvision.datasets.ImageFolder(
        str(synthetic), transform=torchvision.transforms.ToTensor()
    )
    assert tuple(dataset.classes) == PEOPLE and len(dataset) == 16
    for image, label in dataset:
        assert image.shape == (3, *SIZE) and 0 <= label < len(PEOPLE)
    first, label = dataset[5]
    expected = images_of(PEOPLE[label], 1).transpose(2, 0, 1) / np.float32(255)
    np.testing.assert_allclose(first.numpy(), expected, atol=1e-6)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * SIZE[0] * SIZE[1], 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    losses = []
    for images, labels in torch.utils.data.DataLoader(dataset, batch_size=8, shuffle=True):
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert len(losses) == 2 and np.isfinite(losses).all()
