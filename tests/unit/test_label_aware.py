"""LabelAwareAugment and its adapters: every place a label can reach it, and every input that has no meaning."""

import copy
import io
import warnings

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from tamis import NoEffectWarning, PolicyError
from tamis.transforms import LabelAwareAugment, LabelAwareDataset, LabelAwarePolicy, apply_operations
from tamis.transforms.images.ops import IDENTITY, OPERATIONS, Drawn, draw
from tests.contract.label_aware_factories import CLASSES, Pictures, make_policy

INVERT = OPERATIONS.index("Invert")
TO_FLOAT = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])


def fixed_policy():
    """cat: inverted once; dog: untouched; ship: inverted twice, so untouched."""
    triples = [[[INVERT, IDENTITY, IDENTITY]], [[IDENTITY] * 3], [[INVERT, INVERT, IDENTITY]]]
    return LabelAwarePolicy(classes=CLASSES, triples=torch.tensor(triples, dtype=torch.uint8))


def image(seed=0):
    return Pictures()[seed][0]


def inverted(picture):
    return 255 - np.asarray(picture).astype(int)


def test_it_does_what_the_policy_says_for_the_label():
    augment = LabelAwareAugment(fixed_policy())
    picture = image()
    assert np.array_equal(augment(picture, 0)[0], inverted(picture))
    assert np.array_equal(augment(picture, 1)[0], picture)
    assert np.array_equal(augment(picture, 2)[0], picture)


def test_it_draws_one_of_the_labels_triples_with_the_key_it_promises():
    policy, picture = make_policy(), image(4)
    augment = LabelAwareAugment(policy, seed=7)
    augment.set_epoch(2)
    drawn = draw(policy.triples[1].numpy(), (7, 2, 4, 0), shuffle=True)
    assert augment(picture, 1, index=4)[0].tobytes() == apply_operations(picture, drawn).tobytes()
    assert (
        augment.augment_image(picture, 1, index=4, copy=1).tobytes()
        != augment.augment_image(picture, 1, index=4).tobytes()
    )


def test_every_structure_comes_back_as_it_went_in():
    augment, picture = LabelAwareAugment(fixed_policy()), image()
    want = inverted(picture).astype(np.uint8)
    label = torch.tensor(0)
    got = augment(picture, label)
    assert isinstance(got, tuple)
    assert got[1] is label
    assert np.array_equal(augment((picture, 0, "file.png"))[0], want)
    assert augment((picture, 0, "file.png"))[1:] == (0, "file.png")
    assert isinstance(augment([picture, 0]), list)
    for label in (np.int64(0), np.array(0), "cat", torch.tensor(0, dtype=torch.uint8)):
        assert np.array_equal(augment(picture, label)[0], want)
    sample = {"img": picture, "label": 0, "id": 5}
    got = augment(sample)
    assert list(got) == ["img", "label", "id"]
    assert np.array_equal(got["img"], want)
    assert sample["img"] is picture


def test_inside_compose_and_on_every_kind_of_image():
    augment = LabelAwareAugment(fixed_policy())
    pipeline = v2.Compose([augment, v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    got, label = pipeline(image(), 0)
    assert got.shape == (3, 10, 12)
    assert label == 0
    assert torch.allclose(got, torch.from_numpy(inverted(image()) / 255).permute(2, 0, 1).float())
    wrapped = tv_tensors.Image(v2.functional.pil_to_tensor(image()))
    got, _ = v2.Compose([augment])(wrapped, 0)
    assert isinstance(got, tv_tensors.Image)
    assert torch.equal(got, 255 - wrapped)
    with_dict = v2.Compose([augment, v2.ToImage()])({"image": image(), "label": 1})
    assert with_dict["label"] == 1
    assert "classes=3" in repr(pipeline)
    one_pixel = Image.new("RGB", (1, 1), (1, 2, 3))
    assert LabelAwareAugment(make_policy())(one_pixel, 1)[0].size == (1, 1)


def test_a_batch_on_the_device_equals_image_by_image():
    augment = LabelAwareAugment(make_policy(), seed=1)
    augment.set_epoch(0)
    images = torch.stack([Pictures(tensors=True)[i][0] for i in range(24)])
    labels = torch.arange(24) % 3
    got, kept = augment.batch(images, labels, indices=torch.arange(24), copies=2)
    assert kept.tolist() == [i % 3 for i in range(24) for _ in range(2)]
    for row, result in enumerate(got):
        want = augment.augment_image(images[row // 2], row // 2 % 3, index=row // 2, copy=row % 2)
        assert torch.equal(result, want)
    assert not torch.equal(augment.batch(images, labels)[0], augment.batch(images, labels)[0])
    assert augment.batch(images[:0], labels[:0])[0].shape[0] == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_epochs_that_nobody_tells_it_of_differ_all_the_same(workers):
    dataset = LabelAwareDataset(Pictures(), LabelAwareAugment(make_policy()), transform=v2.PILToTensor())
    loader = DataLoader(dataset, 24, num_workers=workers)
    first, second = (next(iter(loader))[0] for _ in range(2))
    assert not torch.equal(first, second)


def test_without_an_index_calls_and_workers_differ():
    augment = LabelAwareAugment(make_policy())
    assert len({augment(image(), 0)[0].tobytes() for _ in range(12)}) > 4
    twin = LabelAwareAugment(make_policy())
    again = LabelAwareAugment(make_policy())
    assert [twin(image(), 0)[0].tobytes() for _ in range(6)] == [again(image(), 0)[0].tobytes() for _ in range(6)]


class Blind(Pictures):
    """Applies the transform without telling it the index, as torchvision's joint transforms do."""

    def __init__(self, augment):
        super().__init__()
        self.augment = augment

    def __getitem__(self, index):
        return self.augment(self.images[0], 0)[0].tobytes()


def test_without_an_index_two_workers_do_not_draw_alike():
    loader = DataLoader(Blind(LabelAwareAugment(make_policy(count=200))), 1, num_workers=2)
    first, second = ([batch[0] for batch in loader] for _ in range(2))
    assert len(set(first)) > 12
    assert first != second, "epochs must differ"


def test_an_update_reaches_workers_that_are_running():
    augment = LabelAwareAugment(make_policy())
    dataset = LabelAwareDataset(Pictures(), augment, transform=v2.PILToTensor())
    loader = DataLoader(dataset, 6, num_workers=1, persistent_workers=True)
    dataset.set_epoch(0)
    for policy in (make_policy(), make_policy(5), fixed_policy()):
        augment.update(policy)
        twin = LabelAwareDataset(Pictures(), LabelAwareAugment(policy), transform=v2.PILToTensor())
        twin.set_epoch(0)
        want = torch.stack([twin[i][0] for i in range(24)])
        assert torch.equal(torch.cat([images for images, _ in loader]), want)
    with pytest.raises(ValueError, match="<= 20"):
        augment.update(make_policy(count=21))
    with pytest.raises(PolicyError, match="classes"):
        augment.update(make_policy(classes=("a", "b", "c")))


@pytest.mark.parametrize(
    ("label", "error", "words"),
    [
        (3, ValueError, "0..2"),
        (-1, ValueError, "0..2"),
        ("truck", ValueError, "cat, dog, ship"),
        (torch.tensor([0.2, 0.8, 0.0]), TypeError, "MixUp"),
        (torch.tensor(1.0), TypeError, "one integer"),
        (torch.tensor([1]), TypeError, "one integer"),
        (1.0, TypeError, "int"),
        (True, TypeError, "int"),
        (None, TypeError, "None"),
        (np.int64(3), ValueError, "label=3: must lie in 0..2"),
        (np.float64(1.0), TypeError, "float64 of shape"),
        (np.bool_(True), TypeError, "label=True"),
        (np.str_("truck"), ValueError, "label='truck'"),
    ],
)
def test_labels_without_a_class_are_refused(label, error, words):
    with pytest.raises(error, match=words) as caught:
        LabelAwareAugment(fixed_policy())(image(), label)
    assert "np." not in str(caught.value)


@pytest.mark.parametrize("sample", [(), (image(),), ({"image": 1},), ({"image": 1, "img": 1, "label": 0},)])
def test_samples_without_image_and_label_are_refused(sample):
    with pytest.raises((TypeError, ValueError, IndexError), match="must h"):
        LabelAwareAugment(fixed_policy())(*sample)


def test_batches_without_a_meaning_are_refused():
    augment = LabelAwareAugment(fixed_policy())
    images = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    with pytest.raises(ValueError, match="MixUp"):
        augment.batch(images, torch.rand(2, 3))
    with pytest.raises(TypeError, match="uint8"):
        augment.batch(images.float(), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"0\.\.2"):
        augment.batch(images, torch.tensor([0, 9]))
    with pytest.raises(ValueError, match="copies"):
        augment.batch(images, torch.tensor([0, 1]), copies=0)


def test_options_are_checked():
    with pytest.raises(TypeError, match="LabelAwarePolicy"):
        LabelAwareAugment("runs/label_aware")
    with pytest.raises(ValueError, match="fast"):
        LabelAwareAugment(fixed_policy(), mode="quick")
    with pytest.warns(NoEffectWarning, match="Identity"):
        LabelAwareAugment(make_policy(triples=torch.full((3, 2, 3), IDENTITY, dtype=torch.uint8)))
    fast = LabelAwareAugment(fixed_policy(), mode="fast")
    assert np.array_equal(fast(image(), 0)[0], inverted(image()))


def test_torchvision_folders_get_their_labels(tmp_path):
    for name in CLASSES:
        (tmp_path / name).mkdir()
        for number in range(2):
            image(number).save(tmp_path / name / f"{number}.png")
    folder = ImageFolder(str(tmp_path))
    dataset = LabelAwareDataset(folder, LabelAwareAugment(fixed_policy()), transform=TO_FLOAT)
    cat, dog = dataset[0][0], dataset[2][0]
    assert torch.allclose(1 - cat, dog, atol=1e-6)
    with pytest.raises(PolicyError, match="search a policy"):
        LabelAwareDataset(folder, LabelAwareAugment(make_policy(classes=("a", "b", "c"))))
    (tmp_path / "cat" / "0.png").write_bytes(b"no image")
    with pytest.raises(OSError, match="item 0 cannot be read"):
        dataset[0]


def test_batch_augment_gives_copies_side_by_side():
    dataset = LabelAwareDataset(Pictures(), LabelAwareAugment(make_policy(count=300)), transform=TO_FLOAT, copies=3)
    images, labels = next(iter(DataLoader(dataset, 4)))
    assert images.shape[0] == 12
    assert labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 0, 0, 0]
    assert len({image.numpy().tobytes() for image in images}) == 12
    mixed, soft = v2.MixUp(num_classes=3)(images, labels)
    assert soft.shape == (12, 3)
    assert mixed.shape == images.shape


def test_timm_sets_the_transform_that_follows():
    from timm.data import create_loader

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loader = create_loader(
            LabelAwareDataset(Pictures(), LabelAwareAugment(fixed_policy())),
            (3, 8, 8), 6, use_prefetcher=False, num_workers=0, device=torch.device("cpu"),
        )  # fmt: skip
    images, labels = next(iter(loader))
    assert images.shape == (6, 3, 8, 8)
    assert labels.tolist() == [0, 1, 2, 0, 1, 2]


def rows(size=6):
    return datasets.Dataset.from_dict(
        {"img": [image(i) for i in range(size)], "label": [i % 3 for i in range(size)], "row": list(range(size))},
        features=datasets.Features(
            {"img": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES)), "row": datasets.Value("int64")}
        ),
    )


def test_hugging_face_rows_slices_and_batches():
    augment = LabelAwareAugment(make_policy(), seed=2)
    mapped = rows().with_transform(augment.for_datasets(image="img", index="row", then=TO_FLOAT, out="pixel_values"))
    twin = LabelAwareDataset(Pictures(), LabelAwareAugment(make_policy(), seed=2), transform=TO_FLOAT)
    augment.set_epoch(0)
    twin.set_epoch(0)
    assert set(mapped[0]) == {"label", "pixel_values"}
    for i in range(6):
        assert torch.equal(mapped[i]["pixel_values"], twin[i][0])
    assert len(mapped[1:4]["pixel_values"]) == 3
    batch = next(iter(DataLoader(mapped, 3)))
    assert batch["pixel_values"].shape == (3, 3, 10, 12)
    copies = rows().with_transform(augment.for_datasets(image="img", index="row", then=TO_FLOAT, copies=2))
    assert next(iter(DataLoader(copies, 3)))["label"].tolist() == [0, 0, 1, 1, 2, 2]
    with pytest.raises(KeyError, match="remove_unused_columns"):
        rows().with_transform(augment.for_datasets())[0]


def test_shared_state_survives_copies():
    augment = LabelAwareAugment(make_policy(), seed=2)
    augment.set_epoch(3)
    twin = copy.deepcopy(augment)
    assert twin.epoch == 3
    twin.set_epoch(4)
    assert augment.epoch == 3
    assert not list(augment.parameters())
    assert not augment.state_dict()
    buffer = io.BytesIO()
    image().save(buffer, "png")
    assert augment(Image.open(buffer), 0, index=1)[0].tobytes() == augment(image(), 0, index=1)[0].tobytes()


def test_drawn_operations_default_to_the_middle():
    assert Drawn(1, 2) == (1, 2, 0.5, 0.5, None)
