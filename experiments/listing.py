"""What can be named on the command line."""

from rich.console import Console
from rich.table import Table

from hosts.weights import list_hosts
from namm.artefact import load, shipped
from namm.policies import POLICIES


def print_policies(console: Console) -> None:
    """Training-free policies with their settings, then the memories that ship."""
    table = Table("policy", "needs", "positions", "what it keeps", title="Training-free policies")
    for name, policy in POLICIES.items():
        needs = ", ".join(sorted(policy.needs)) or "-"
        table.add_row(name, needs, policy.position_rule, (type(policy).__doc__ or "").split("\n")[0])
    console.print(table)
    memories = Table("memory", "hosts", "tasks", "budget", title="Trained memories (namm.load by name)")
    for name in shipped():
        made = load(name).provenance
        beside = [other for stage in made["stages"] for other in stage.get("beside", ())]
        tasks = sorted({task for scored in (*made["stages"], *beside) for task in scored["tasks"]})
        hosts = dict.fromkeys([str(made["host"]), *(other["host"] for other in beside)])
        memories.add_row(name, ", ".join(hosts), ", ".join(tasks), str(made["budget"]))
    console.print(memories if memories.row_count else "No trained memory ships with this release.")


def print_hosts(console: Console) -> None:
    """Hosts that have a name of their own; directories, GGUF files and hub ids work too."""
    table = Table("host", "from", "available offline", "layers", "heads", "positions", title="Hosts")
    for listing in list_hosts():
        spec = listing.spec
        row = [listing.name, listing.origin, "yes" if listing.available else "no"]
        if spec:
            row += [str(spec.layers), f"{spec.query_heads}/{spec.kv_heads}", str(spec.max_positions)]
        table.add_row(*row)
    console.print(table)
    console.print("Also: a Hugging Face directory, a .gguf file, or a hub id such as org/name (Llama architecture).")
