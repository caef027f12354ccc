"""A report of two pages whose texts try to be more than text."""

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&"
SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(2)>"
FIGURE = (
    '<?xml version="1.0"?>\n<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "http://www.w3.org/x.dtd">\n'
    '<svg xmlns="http://www.w3.org/2000/svg" width="200" height="50" viewBox="0 0 200 50">'
    '<metadata><a href="http://purl.org/dc"/></metadata>'
    '<defs><clipPath id="p1"><rect width="200" height="50"/></clipPath></defs>'
    '<g id="axes_1" clip-path="url(#p1)"><text x="5" y="20">in the figure</text></g></svg>'
)
FIRST = f"""<!-- study: {{"a": 1}} -->
# digits/mlp: which defense? {EVIL}

{EVIL}

| defense | reduction (pp) |
| --- | ---: |
| none | – |
| {EVIL.replace("|", "")} | **2.8 (1.7–3.9)** |
| `<script>alert(2)</script>` | −1,234.5 |
| low<br>high | > 10.5 |
| both sides | 98.5 → **95.1** (2 to 3) |

![Reduction {EVIL}](figures/reduction.svg)
![again](figures/reduction.svg)
![elsewhere](https://example.org/x.svg) ![outside](../secret.svg) ![none](figures/none.svg)

<details>
<summary>more</summary>

text

</details>

[All attacks](attacks.md) · [a part](attacks.md#the-second-part) · [here](#how-sure) ·
[method](../../METHOD.md#flags) · [paper](https://example.org/paper) · [bad](javascript:alert(3)) ·
[data](results.parquet)

## How sure?
"""
ROWS = [(f"attack {number:02}", ("label_only", "none")[number % 2], 5 * number) for number in range(60)]
ATTACKS = f"""# All attacks

## The second part

| attack | defense | queries |
| --- | --- | ---: |
{"".join(f"| {attack} | {defense} | {queries} |" + chr(10) for attack, defense, queries in ROWS)}
[back](report.md)
"""


def write_report(folder):
    """Write the report into a new folder, and what is not part of it beside it; return the folder."""
    (folder / "figures").mkdir(parents=True)
    (folder.parent / "secret.svg").write_text("<svg>secret</svg>")
    (folder / "report.md").write_text(FIRST)
    (folder / "attacks.md").write_text(ATTACKS)
    (folder / "stale.md").write_text("# Of an earlier report\n")
    (folder / "figures/reduction.svg").write_text(FIGURE)
    return folder
