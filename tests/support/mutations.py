"""Matrices and command lines as nobody should write them: shipped ones with random faults."""

import re
from pathlib import Path

from bench.plan.shipped_matrices import shipped

ROOT = Path(__file__).parents[2]
VALUE = re.compile(rb'"[^"\n]*"|(?<![\w.-])-?\d+(?:\.\d+)?(?![\w.-])|\b(?:true|false)\b|\[[^\[\]]*\]')

NUMBERS = (
    *("0", "-1", "1.5", "1e999", "inf", "-inf", "nan", "true", "0x10", "1_000", "2026-11-28", "07:32:00"),
    *("9223372036854775807", "9223372036854775808", "1000000000000", "9" * 300, "9" * 5_000, "1e-400", "00"),
)
CALLS = (
    *("top_k(k={[]})", "top_k(k=" + "-" * 1_900 + "3)", "top_k(k=" + "-" * 200_000 + "3)", "top_k(k=1e999)"),
    *(
        "top_k(k=" + "(" * 900 + "3" + ")" * 900 + ")",
        "top_k(k=" + "[" * 1_900,
        "a" + ".a" * 900,
        "top_k(k=1j)",
    ),
    *(
        "top_k(k=" + "9" * 4_500 + ")",
        "top_k(" + "k=1," * 400 + ")",
        "top_k(k=3, k=3)",
        "top_k(**k)",
        "top_k(",
    ),
    *("top_k(k=f'{1}')", "top_k(k='\\\\d')", "top_k(k=b'1')", "top_k(k=...)", "top_k(k=None)", "top_k(k={})"),
    *(
        "copycat(use_probability=1)",
        "copycat(" + "a" * 1_900 + "=1)",
        "evade(own=19)",
        "none(l1=0.1)",
        "(none)",
    ),
    *(
        "rule(epochs=0)",
        "rule(std=1e-300)",
        "rule(batch_size=9223372036854775807)",
        "rule(loss=nothing)",
        "1if 1else 2",
    ),
    *(
        "membership_threshold(members=9223372036854775807)",
        "membership_threshold(target=surrogate)",
        "lambda: 0",
    ),
    *(
        "gaussian_noise(l1=0.3, l1_max=0.3)",
        "reverse_sigmoid(l1=9)",
        "jbda(seeds=100000)",
        "a:=1",
        "x(y=z-w-" * 300,
    ),
)
TEXTS = (
    *(
        "",
        " ",
        "none",
        "?",
        "none?",
        "usps?",
        "../../x",
        "/etc/passwd",
        "~nobody/x.toml",
        "~",
        ".",
        "con",
        "CON.toml",
    ),
    *(
        "x" * 101,
        "x" * 5_000,
        "x" * 100_000,
        "ä",
        "名",
        "a\\u0000b",
        "\\u0007",
        "\\U0001F600",
        "a\\nb",
        "x:y",
        ":",
        "a.py:",
    ),
    *(
        "train",
        "test",
        "lenet",
        "resnet18",
        "sklearn-tree",
        "tree",
        "labels",
        "official",
        "full",
        "family",
        "blend:mnist",
    ),
)
LITERALS = (
    "[]",
    "{}",
    "[[]]",
    "[[[[]]]]",
    "{ a = 1 }",
    '["none", ["none", ["none"]]]',
    "''",
    '"""\n"""',
    "'''",
)
BYTES = (
    b"\xff",
    b"\xfe\xff",
    b"\x00",
    b"\xef\xbb\xbf",
    b"\xe9",
    b"\r",
    b"\x1b[31m",
    b"\xed\xa0\x80",
    b"\xc2\x85",
)


def sources():
    """Return the shipped matrices and those of the repository, as bytes."""
    others = [*(ROOT / "examples").rglob("*.toml"), *(ROOT / "reports").rglob("*.toml")]
    return [each.read_bytes() for each in (*shipped().values(), *others)]


def nasty_value(rng):
    """Return a value as TOML text."""
    kind = rng.randrange(4)
    if kind == 0:
        return rng.choice(NUMBERS)
    if kind == 1:
        return rng.choice(LITERALS)
    return f'"{rng.choice(CALLS if kind == 2 else TEXTS)}"'


def mutated(rng, texts):
    """Return a shipped matrix with one to four faults."""
    text = rng.choice(texts)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        text = rng.choice(MUTATIONS)(rng, text)
    return text


def _flip(rng, text):
    for _ in range(rng.choice((1, 1, 5, 50))):
        place = rng.randrange(len(text) + 1)
        text = text[:place] + bytes([rng.randrange(256)]) + text[place + 1 :]
    return text


def _insert(rng, text):
    place = rng.randrange(len(text) + 1)
    return text[:place] + rng.choice(BYTES) * rng.choice((1, 1, 100)) + text[place:]


def _delete(rng, text):
    start = rng.randrange(len(text) + 1)
    return text[:start] + text[start + rng.choice((1, 3, 30, 300)) :]


def _swap_value(rng, text):
    places = list(VALUE.finditer(text))
    if not places:
        return text
    found = rng.choice(places)
    return text[: found.start()] + nasty_value(rng).encode() + text[found.end() :]


def _swap_two_values(rng, text):
    places = [found.group() for found in VALUE.finditer(text)]
    if not places:
        return text
    return text.replace(rng.choice(places), rng.choice(places), rng.choice((1, -1)))


def _add_key(rng, text):
    keys = (
        *(
            "name",
            "description",
            "seed",
            "repeats",
            "plugins",
            "detect",
            "sentinels",
            "reference_budget.digits",
        ),
        *(
            "data",
            "victim",
            "splits",
            "defense",
            "attack",
            "pool",
            "knowledge",
            "surrogate",
            "shows",
            "training",
        ),
        *("budget", "study.title", "colour", '"a\\u0000"', '"' + "k" * 5_000 + '"', ".".join("a" * 3_000)),
    )
    lines = text.split(b"\n")
    lines.insert(rng.randrange(len(lines) + 1), f"{rng.choice(keys)} = {nasty_value(rng)}".encode())
    return b"\n".join(lines)


def _replace_key(rng, text):
    key = rng.choice(
        (b"budget", b"attack", b"defense", b"pool", b"surrogate", b"data", b"repeats", b"name", b"where")
    )
    new = key + b" = " + nasty_value(rng).encode()
    return re.sub(
        rb"^" + key + rb" = (\[[^\]]*\]|.*)$",
        lambda _: new,
        text,
        count=rng.choice((0, 1)),
        flags=re.MULTILINE,
    )


def _repeat_part(rng, text):
    lines = text.split(b"\n")
    start = rng.randrange(len(lines))
    part = lines[start : start + rng.choice((1, 5, 30))]
    return b"\n".join([*lines[:start], *(part * rng.choice((2, 2, 20, 400))), *lines[start:]])


def _shuffle_lines(rng, text):
    lines = text.split(b"\n")
    one, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[one], lines[other] = lines[other], lines[one]
    return b"\n".join(lines)


def _nest(rng, text):
    depth = rng.choice((5, 30, 3_000, 60_000))
    opening, closing = rng.choice(((b"[", b"]"), (b"{a=", b"}"), (b"[{a=", b"}]")))
    return text + b"\nbudget = " + opening * depth + b"1" + closing * rng.choice((depth, 0))


def _grow(rng, text):
    size = rng.choice((1_000, 20_000, 200_000))
    return text + rng.choice((b"\n" * size, b"#" * size, b"budget = [" + b"1," * size + b"]", b"." * size))


MUTATIONS = (
    *(
        _flip,
        _insert,
        _delete,
        _swap_value,
        _swap_value,
        _swap_value,
        _swap_two_values,
        _swap_two_values,
        _add_key,
    ),
    *(_replace_key, _replace_key, _repeat_part, _shuffle_lines, _nest, _grow),
)


def mutated_words(rng, matrix):
    """Return a command line: mostly of ``moatbench run`` with the matrix file, and with odd options."""
    names = ["smoke", matrix, matrix, matrix]
    words = ["run", rng.choice(names) if rng.random() < 0.9 else _odd_word(rng)]
    if rng.random() < 0.1:
        words[0] = rng.choice(("report", "baseline", "gate", "list", "index", "walk", _odd_word(rng)))
    for _ in range(rng.choice((0, 1, 1, 2, 4))):
        option = rng.choice(
            (
                "--repeats",
                "--jobs",
                "--only",
                "--victim",
                "--store",
                "--out",
                "--data-root",
                "--device",
                "--dask",
            )
        )
        value = (
            rng.choice(WORDS.get(option, ())) if rng.random() < 0.7 and option in WORDS else _odd_word(rng)
        )
        words += [option, value]
    if rng.random() < 0.1:
        words.insert(rng.randrange(len(words) + 1), _odd_word(rng))
    if rng.random() < 0.05:
        words.remove(rng.choice(words))
    return words


WORDS = {
    "--repeats": ("1", "2", "0", "-1", "1000000000000", "9" * 400, "1.5", "nan"),
    "--jobs": ("0", "1", "-1", "999999999999"),
    "--only": (
        "budget=20",
        "budget=",
        "=",
        "attack=copycat",
        "defense=none",
        "repeat=0",
        "pool=noise",
        "x=y",
    ),
    "--victim": ("mine.py:make", "mine.py", ":", "a.b.c:d", "os:getcwd", "mine.py:a:b", "..:x", "x.py:1"),
    "--device": ("cpu", "auto", "gpu"),
    "--data-root": (".", "/nowhere", "/etc/passwd"),
    "--dask": ("tcp://x:1",),
}


def _odd_word(rng):
    texts = [text.encode().decode("unicode_escape", "ignore") for text in TEXTS]
    return rng.choice(
        (*texts, *CALLS, *NUMBERS, "\udcff.toml", "x" * 5_000 + ".toml", ".toml", "-", "--", "-9")
    )
