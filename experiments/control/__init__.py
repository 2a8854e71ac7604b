"""Control tasks for Decision Transformers: environments, recorded play, and episodes played with a memory."""

from importlib.util import find_spec

if missing := [name for name in ("gymnasium", "mujoco", "minari") if find_spec(name) is None]:
    raise ImportError(
        f"{' and '.join(missing)} missing; control tasks need the extra: pip install -c constraints.txt -e '.[control]'"
    )
