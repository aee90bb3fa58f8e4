"""Photos restored by MAXIM (Tu et al., CVPR 2022), for `peers.py`.

    npm pack @upscalerjs/maxim-denoising                       # or -deraining, -deblurring: Apache-2.0, 53 to 84 MB
    python -m venv outputs/tensorflow && outputs/tensorflow/bin/pip install tensorflow-cpu==2.21.0 pillow
    outputs/tensorflow/bin/python benchmarks/maxim.py package/models $DAA_DATA/real_noise/renoir/val/noisy \\
        outputs/peers/MAXIM/renoir

Runs in an environment of its own: it imports TensorFlow and nothing of this project. The folder of a model holds
`model.json`, a TensorFlow graph as TensorFlow.js saves it, and its weights. Photos are padded to multiples of 64 by
reflection. Writes one PNG per photo and `seconds.json`: processor seconds per megapixel of each photo, one thread.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import tensorflow as tf
from google.protobuf import json_format
from PIL import Image

MULTIPLE = 64


def read_graph(folder: Path) -> tf.compat.v1.GraphDef:
    """The graph of `folder`, whose constants TensorFlow.js stores in files of their own."""
    saved = json.loads((folder / "model.json").read_text())
    tensors = {}
    for group in saved["weightsManifest"]:
        data = b"".join((folder / path).read_bytes() for path in group["paths"])
        offset = 0
        for weight in group["weights"]:
            dtype = np.dtype(weight["dtype"])
            count = int(np.prod(weight["shape"]))
            values = np.frombuffer(data, dtype, count, offset)
            tensors[weight["name"]] = values.reshape(weight["shape"])
            offset += count * dtype.itemsize
    nodes = []
    for node in saved["modelTopology"]["node"]:
        nodes.append({key: value for key, value in node.items() if key != "inputs"})  # the same as `input`
    graph = json_format.ParseDict({"node": nodes}, tf.compat.v1.GraphDef())
    for node in graph.node:
        if node.name in tensors:
            dtype = tf.dtypes.as_dtype(node.attr["dtype"].type)
            node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(tensors[node.name], dtype))
    return graph


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    graph = read_graph(arguments.model)
    network = tf.compat.v1.wrap_function(lambda: tf.import_graph_def(graph, name=""), [])
    network = network.prune("xs_0:0", "Identity:0")
    arguments.output.mkdir(parents=True, exist_ok=True)
    spent = {}
    for path in sorted(arguments.photos.iterdir()):
        photo = np.asarray(Image.open(path).convert("RGB"), np.float32) / 255
        height, width = photo.shape[:2]
        margins = ((0, -height % MULTIPLE), (0, -width % MULTIPLE), (0, 0))
        padded = tf.constant(np.pad(photo, margins, mode="reflect")[None])
        began = time.process_time()
        restored = network(padded)[0, :height, :width].numpy()
        spent[path.name] = (time.process_time() - began) / (height * width / 1e6)
        print(f"{path.name}: {spent[path.name]:.0f} s/MP", flush=True)
        Image.fromarray((restored.clip(0, 1) * 255).round().astype(np.uint8)).save(
            arguments.output / f"{path.stem}.png"
        )
    (arguments.output / "seconds.json").write_text(json.dumps(spent, indent=1))


if __name__ == "__main__":
    main()
