"""tintype: the cat and dog photos from JPEG files to MobileNetV2's features on disk, in images per second.

Everything counts but importing libraries: finding the files, decoding them into the cache, building the network, choosing its
precision and running it. Then the same with the decoded images there and the features not, in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time

import numpy as np
import timm
import torch

import tintype
from tintype.config import RunConfig
from tintype.data.cache import build_cache, scan_headers
from tintype.data.features import FeatureCache
from tintype.data.sources import read_index
from tintype.data.split import make_split
from tintype.planning import plan_data, plan_training
