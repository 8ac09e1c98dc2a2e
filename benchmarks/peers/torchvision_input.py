"""torchvision: the cat and dog photos through ImageFolder and a DataLoader with two workers, as its users write it.

Measures the first epoch (finding the files and starting the workers included) and the mean rate of the epochs after
it. The workers persist between epochs, the faster choice. ``--interpolation bilinear`` does what Keras and tintype do;
``nearest`` is RandomAffine's default, cheaper and coarser.
"""

import argparse
import json
import time

import torch
import torchvision
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder with cats_dogs/train")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--warm-epochs", type=int, default=2)
    parser.add_argument("--interpolation", choices=["nearest", "bilinear"], default="bilinear")
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)

    begin = time.perf_counter()
    transform = transforms.Compose(
        [
            transforms.Resize((180, 180)),
            transforms.RandomHorizontalFlip(),
            transforms.RandomAffine(
                degrees=15,
                translate=(0.1, 0.1),
                scale=(0.8, 1.2),
                shear=5,
                interpolation=transforms.InterpolationMode(arguments.interpolation),
            ),
            transforms.ToTensor(),
        ]
    )
    dataset = ImageFolder(f"{arguments.data}/cats_dogs/train", transform)
    loader = DataLoader(dataset, batch_size=64, shuffle=True, num_workers=2, persistent_workers=True)
    epoch(loader)
    first = time.perf_counter() - begin
    begin = time.perf_counter()
    images = sum(epoch(loader) for _ in range(arguments.warm_epochs))
    seconds = time.perf_counter() - begin
    print(
        json.dumps(
            {
                "measures": {
                    "warm_images_per_second": images / seconds,
                    "first_epoch_seconds": first,
                },
                "versions": {"torch": torch.__version__, "torchvision": torchvision.__version__},
            }
        )
    )


def epoch(loader: DataLoader) -> int:
    """Take every batch once; gives the number of images."""
    count = 0
    for images, labels in loader:
        assert images.shape[1:] == (3, 180, 180)
        assert len(labels) == len(images)
        count += len(images)
    return count


if __name__ == "__main__":
    main()
