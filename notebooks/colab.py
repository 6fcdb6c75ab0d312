# %% [markdown]
# # Train a diffusion model on Colab's GPU or TPU
#
# Choose a runtime with a GPU or TPU (*Runtime → Change runtime type*), then *Runtime →
# Run all*. The notebook installs ddpm_jax, keeps its checkpoints on your Google Drive,
# picks a recipe that suits the device, trains, and shows what the model draws.
#
# It has to be told where the code is. Give `REPOSITORY` the address of the repository
# you have it from, or of your fork. Or leave it empty: then the notebook takes the zip
# file that it finds in `/content`, or asks you for one: GitHub's *Download ZIP*, or
# what `git archive --output=ddpm_jax.zip HEAD` makes in a checkout.
#
# Colab ends a session when it likes. Nothing is lost by that but the steps since the
# last checkpoint: open the notebook again, run all, and the run goes on from there.
#
# Outside of Colab it works as well, in a checkout whose requirements are installed; it
# then keeps its runs in the checkout, under `runs/`.

# %% tags=["parameters"]
# Address of a git repository, or path of a zip file; empty: a zip file that you upload
REPOSITORY = ""  # @param {type: "string"}
KEEP_ON_DRIVE = True  # False: in the session, and gone with it
RUN = "colab"  # a name; the same name goes on with the same run
RECIPE = None  # such as "configs/mnist.py"; None: what suits the device
OPTIONS = []  # of the recipe, such as ["--config.training.batch_size=64"]
MINUTES = 60  # of training, each time the cell below is run
SAMPLE = ["--sampler=ddim", "--num-steps=100"]

# %% [markdown]
# ## Install

# %%
import glob
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

from IPython.display import Image, display

ON_COLAB = "google.colab" in sys.modules


# %%
def follow(program):
    """Print a program's lines as they come, until it ends."""
    try:
        for line in program.stdout:
            print(line, end="", flush=True)
    except KeyboardInterrupt:  # the stop button
        program.send_signal(signal.SIGINT)
        print(program.stdout.read(), end="", flush=True)
    status = program.wait()
    if status not in (0, 130):  # done, or saved and stopped
        raise RuntimeError(f"{program.args[0]} ended with {status}; see its last lines")


# %%
def run(*command, minutes=None):
    """Run a command and print what it says; after so many minutes, ask it to stop.

    A stop, by the clock or by the stop button, is one Ctrl-C: the training program
    saves and ends by it. So the program runs apart from the notebook's own signals.
    """
    program = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    clock = threading.Timer(60 * (minutes or 0), program.send_signal, [signal.SIGINT])
    if minutes is not None:
        clock.start()
    try:
        follow(program)
    finally:
        clock.cancel()


# %%
def uploaded(folder):
    """Find the newest zip file of a folder; if there is none, ask for one."""
    if not any(folder.glob("*.zip")):
        from google.colab import files

        print("Choose a zip file of ddpm_jax, or give REPOSITORY an address above.")
        for name, content in files.upload().items():
            (folder / Path(name).name).write_bytes(content)
    zips = sorted(folder.glob("*.zip"), key=lambda path: path.stat().st_mtime)
    assert zips, "no zip file was given, and REPOSITORY above is empty"
    return str(zips[-1])


# %%
def fetch(source, checkout):
    """Put the code into a new folder: from a zip file, or a git repository."""
    if not source.endswith(".zip"):
        run("git", "clone", "--quiet", "--depth=1", source, str(checkout))
        return
    unpacked = checkout.with_name(f"{checkout.name}-unpacked")
    shutil.rmtree(unpacked, ignore_errors=True)
    shutil.unpack_archive(source, unpacked)
    # GitHub puts a folder around everything; git archive does not.
    tops = [path.parent for path in unpacked.rglob("main.py")]
    tops = [top for top in tops if (top / "ddpm_jax").is_dir()]
    assert tops, f"{source} is no zip file of ddpm_jax: it has no main.py beside it"
    tops[0].rename(checkout)


# %%
def jax_for_this_machine():
    """Name the build of JAX that drives this machine's accelerator."""
    if "TPU_ACCELERATOR_TYPE" in os.environ or glob.glob("/dev/accel*"):
        return "jax[tpu]"
    try:
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        answer = subprocess.run(query, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "jax"
    # CUDA 13 needs a driver of at least 580; older ones take CUDA 12.
    driver = int(answer.stdout.split(".")[0])
    return "jax[cuda13]" if driver >= 580 else "jax[cuda12]"


if ON_COLAB:
    checkout = Path("/content/ddpm_jax")
    if not checkout.is_dir():
        fetch(REPOSITORY or uploaded(checkout.parent), checkout)
    os.chdir(checkout)
    pip = (sys.executable, "-m", "pip", "install", "--quiet")
    run(*pip, "-r", "requirements.txt", jax_for_this_machine())
elif not Path("main.py").exists():
    os.chdir("..")  # from notebooks/ to the checkout

# %% [markdown]
# ## A place for the run

# %%
runs = Path("/content/runs" if ON_COLAB else "runs")
if ON_COLAB and KEEP_ON_DRIVE:
    from google.colab import drive

    drive.mount("/content/drive")
    runs = Path("/content/drive/MyDrive/ddpm_jax")
workdir = runs / RUN
print(f"The run is kept in {workdir}.")

# %% [markdown]
# ## A recipe for the device
#
# The question is asked in a process of its own, because whoever uses JAX on a GPU takes
# most of its memory, and that is for the training program.

# %%
QUESTION = """
import jax
device = jax.devices()[0]
capability = getattr(device, "compute_capability", "0")
print(device.platform, capability, device.device_kind, sep=";")
"""
answer = subprocess.run(
    [sys.executable, "-c", QUESTION], capture_output=True, text=True
)
assert answer.returncode == 0, (
    answer.stderr
)  # JAX does not find its way on this machine
platform, capability, kind = answer.stdout.strip().split(";")

has_bfloat16 = platform == "tpu" or (platform == "gpu" and float(capability) >= 8)
if has_bfloat16:  # a TPU, an L4, an A100
    suits, extra = "configs/cifar.py", ["--config.network.dtype=bfloat16"]
elif platform == "gpu":  # a T4: older, slower
    suits, extra = "configs/mnist.py", []
else:
    suits, extra = "configs/digits.py", []
recipe = RECIPE or suits
options = OPTIONS if RECIPE else [*extra, *OPTIONS]
print(f"{kind} ({platform}): {recipe}", *options)

# %% [markdown]
# MNIST and CIFAR-10 are downloaded and prepared once per session. This is the one thing
# that needs TensorFlow; Colab has it.

# %%
PREPARE = """
import sys
import tensorflow_datasets as tfds
tfds.builder(sys.argv[1], file_format="array_record").download_and_prepare()
"""
data_set = {"mnist": "mnist", "cifar": "cifar10", "cifar_cosine": "cifar10"}.get(
    Path(recipe).stem
)
own_data = any(option.startswith("--config.data.source=") for option in options)
if ON_COLAB and data_set and not own_data:
    run(sys.executable, "-c", PREPARE, data_set)

# %% [markdown]
# ## Train
#
# Run this cell as often as you like: each time trains for `MINUTES` more, saves and
# stops, until the recipe's number of steps is reached. The stop button saves too.

# %%
program = (sys.executable, "main.py")
train = (f"--config={recipe}", f"--workdir={workdir}", *options)
run(*program, *train, minutes=MINUTES)

# %%
display(Image(workdir / "loss.png", width=900))

# %% [markdown]
# ## Draw
#
# From the newest checkpoint, which need not be the last.

# %%
run(*program, "sample", str(workdir), *SAMPLE)
newest = max((workdir / "samples").iterdir(), key=lambda path: path.stat().st_mtime)
print("drawn:")
display(Image(newest / "grid.png"))

# %%
print("from noise to image, and what the network took the image to be on the way:")
display(Image(newest / "film.png"), Image(newest / "film-x0.png"))
print("and as it happened:")
display(Image(newest / "chain.gif"))

# %% [markdown]
# ## And then
#
# - A model that knows classes takes `--label=7,3` and
#   `--guidance-scale=2` in `SAMPLE`.
# - Your own pictures: `RECIPE = "configs/mnist.py"` and `OPTIONS =
#   ["--config.data.source=folder:/content/drive/MyDrive/photos",
#   "--config.data.image_size=32", "--config.data.channels=3"]`, with another `RUN`.
# - Everything else that the program can do is in `docs/`: likelihoods, inpainting,
#   evaluation.
