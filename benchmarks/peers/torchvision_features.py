"""torchvision and timm: MobileNetV2's features of the cat and dog photos, from JPEG files, in images per second.

ImageFolder, Resize and CenterCrop, a DataLoader, and timm's network in fp32 under inference_mode, as its users write
it. Finding the files, starting workers and building the network count. It is measured with two workers and with none,
and the better counts: on few cores workers take time from the network. The weights are random, which changes nothing
in the work.
"""

import argparse
import json
import time

import timm
import torch
import torchvision
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

WORKERS = (2, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder with cats_dogs/train")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    rates = {workers: images_per_second(arguments, workers) for workers in WORKERS}
    best = max(rates.values())
    print(
        json.dumps(
            {
                "measures": {"cold_images_per_second": best, "warm_images_per_second": best},
                "images_per_second_by_workers": rates,
                "versions": {
                    "torch": torch.__version__,
                    "torchvision": torchvision.__version__,
                    "timm": timm.__version__,
                },
            }
        )
    )


@torch.inference_mode()
def images_per_second(arguments: argparse.Namespace, workers: int) -> float:
    """Go from files to features."""
    begin = time.perf_counter()
    transform = transforms.Compose(
        [
            transforms.Resize(arguments.image_size * 8 // 7),
            transforms.CenterCrop(arguments.image_size),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    dataset = ImageFolder(f"{arguments.data}/cats_dogs/train", transform)
    loader = DataLoader(dataset, batch_size=32, num_workers=workers)
    model = timm.create_model("mobilenetv2_100", num_classes=0).eval()
    features = torch.cat([model(images) for images, _ in loader])
    seconds = time.perf_counter() - begin
    assert features.shape == (len(dataset), 1280)
    return len(features) / seconds


if __name__ == "__main__":
    main()
