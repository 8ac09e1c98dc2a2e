"""MobileNetV2 behind a plain FastAPI handler: eager torch, or an onnxruntime session of the file that tintype serves.

The handler is an ordinary function, so FastAPI runs it in its 40 threads; so do most tutorials and answers.
"""

import argparse
import io

import numpy as np
import uvicorn
from fastapi import FastAPI, UploadFile
from PIL import Image

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--port", type=int, required=True)
parser.add_argument("--classes", type=int, required=True)
parser.add_argument("--onnx", help="the exported file; without it eager torch")
arguments = parser.parse_args()
app = FastAPI()

if arguments.onnx:
    import onnxruntime

    session = onnxruntime.InferenceSession(arguments.onnx, providers=["CPUExecutionProvider"])

    def classify(image):
        """Probabilities; the resize to the network's size is the handler's, as it is tintype's."""
        pixels = np.asarray(image.resize((224, 224), Image.Resampling.BICUBIC))[None]
        return session.run(None, {"images": pixels})[0][0].tolist()
else:
    import timm
    import torch
    from torchvision import transforms

    model = timm.create_model("mobilenetv2_100", num_classes=arguments.classes).eval()
    transform = transforms.Compose(
        [
            transforms.Resize((224, 224)),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )

    def classify(image):
        """Probabilities by eager torch."""
        with torch.inference_mode():
            return model(transform(image)[None]).softmax(dim=1)[0].tolist()


@app.post("/predict")
def predict(file: UploadFile):
    """Label one image."""
    return {"probabilities": classify(Image.open(io.BytesIO(file.file.read())).convert("RGB"))}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=arguments.port, log_level="error")
