"""A run whose every text is one that a browser might run."""

import json

HOSTILE = "<img src=x onerror='window.hostile=1'>\"&{{ 7*7 }}"


def make_hostile(run):
    """Puts what a browser might run into every text of a run; returns the run."""
    stored = json.loads((run / "config.json").read_text())
    stored["config"]["data"]["name"] = HOSTILE
    stored["changes"] = [{"key": HOSTILE, "from": HOSTILE, "to": "\ud800"}]
    stored["data_sha256"] = HOSTILE
    (run / "config.json").write_text(json.dumps(stored))
    facts = json.loads((run / "data.json").read_text())
    facts |= {"name": HOSTILE, "class_names": [f"{HOSTILE}{digit}" for digit in range(10)]}
    (run / "data.json").write_text(json.dumps(facts))
    sessions = json.loads((run / "sessions.json").read_text())
    sessions[0] |= {"device": HOSTILE, "versions": {HOSTILE: "</td><script>hostile=1</script>"}}
    (run / "sessions.json").write_text(json.dumps(sessions))
    code = {"bits": 1, "occam": 1.0, "kraft": 1.0, "kl": 1.0}
    described = {"network": HOSTILE, "step": 1, "codes": {HOSTILE: code}, "bound": 1.0}
    (run / "description.json").write_text(json.dumps(described))
    (run / "diverged.json").write_text(json.dumps({"message": HOSTILE}))
    with open(run / "metrics.jsonl", "a") as file:
        name = "sparsity/</script><script>window.hostile=1</script>/nonzeros"
        file.write(json.dumps({"step": 99, name: 3, f"mdl/{HOSTILE}": 7}) + "\n")
    return run.rename(run.parent / HOSTILE.replace("/", "∕"))
