"""Label images with model.onnx: python predict.py IMAGE... It needs onnxruntime, numpy and Pillow, nothing else."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(Path(__file__).with_name("model.onnx"), providers=["CPUExecutionProvider"])
facts = json.loads(session.get_modelmeta().custom_metadata_map["tintype"])
size, grey = facts["geometry"]["size"], facts["geometry"]["channels"] == 1

for path in sys.argv[1:]:
    with Image.open(path) as file:
        # A JPEG is made smaller while it is read, never below what is needed.
        long = max(file.size) if facts["geometry"]["resize"] == "pad" else 0
        width, height = (max(1, n * size // long) if long else size for n in file.size)
        file.draft("L" if grey else None, (width, height))
        image = ImageOps.exif_transpose(file)
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    pixels = np.asarray(image.convert("RGB"))  # uint8, (height, width, 3): the model resizes it by itself
    probabilities = session.run(None, {"images": pixels[None]})[0][0]
    best = int(probabilities.argmax())
    sure = "" if probabilities[best] >= facts["threshold"] else " (not sure)"
    sys.stdout.write(f"{path}: {facts['classes'][best]} {probabilities[best]:.1%}{sure}\n")
