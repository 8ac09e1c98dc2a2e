"""MobileNetV2 on LitServe, eager torch: images come as base64 in JSON, as in LitServe's own examples.

`--batch 8` collects requests and decodes them in threads, as LitServe's own benchmark of images does; without it each
request is one call of the network, LitServe's default. `--workers 2 --fast-queue` is what its documentation advises for
more throughput: a process for each core, each with one thread, and ZeroMQ between them and the server.
"""

import argparse
import base64
import io
import os
from concurrent.futures import ThreadPoolExecutor

import litserve as ls
import timm
import torch
from PIL import Image
from torchvision import transforms


class Classifier(ls.LitAPI):
    """The steps of one request."""

    def setup(self, device):
        """Build the network; its weights change nothing in the work."""
        if arguments.workers > 1:
            torch.set_num_threads(1)  # or the workers would compete for the cores
        self.model = timm.create_model("mobilenetv2_100", num_classes=CLASSES).eval().to(device)
        self.transform = transforms.Compose(
            [
                transforms.Resize((224, 224)),
                transforms.ToTensor(),
                transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ]
        )
        self.pool = ThreadPoolExecutor(os.cpu_count())

    def decode_request(self, request):
        """From JSON to a tensor; with batches that is left to the threads."""
        content = base64.b64decode(request["image_data"])
        return content if arguments.batch > 1 else self._read(content)

    def batch(self, inputs):
        """One tensor of several requests."""
        return torch.stack(list(self.pool.map(self._read, inputs)))

    def _read(self, content):
        return self.transform(Image.open(io.BytesIO(content)).convert("RGB"))

    def predict(self, x):
        """Probabilities of one image or of a batch."""
        with torch.inference_mode():
            return self.model(x if x.ndim == 4 else x[None]).softmax(dim=1)

    def encode_response(self, output):
        """JSON of one image."""
        return {"probabilities": output.flatten().tolist()}


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--port", type=int, required=True)
parser.add_argument("--classes", type=int, required=True)
parser.add_argument("--batch", type=int, default=1)
parser.add_argument("--workers", type=int, default=1)
parser.add_argument("--fast-queue", action="store_true")
arguments = parser.parse_args()
CLASSES = arguments.classes

if __name__ == "__main__":
    more = {"max_batch_size": arguments.batch, "batch_timeout": 0.01} if arguments.batch > 1 else {}
    server = ls.LitServer(
        Classifier(**more), accelerator="cpu", workers_per_device=arguments.workers, fast_queue=arguments.fast_queue
    )
    server.run(port=arguments.port, host="127.0.0.1", generate_client_file=False, log_level="error")
