"""The store at hand: python -m rag_experiments.store list|explain|verify|prune."""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import sys
import time
from pathlib import Path

from rag_experiments.contracts import UserError
from rag_experiments.runtime.disk import write_size
from rag_experiments.store.entries import MANIFEST, Entry, Store, remove
from rag_experiments.store.keys import differences

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def main() -> None:
    """Look at results that later runs use again, and remove what is not worth its space."""
    arguments = make_parser().parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        sys.exit(arguments.command(Store(arguments.cache_dir), arguments))
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # `list | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the last flush
        sys.exit(1)


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m rag_experiments.store", description=main.__doc__
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    show = commands.add_parser("list", help="every entry: stage, key, size, when it was used last")
    show.set_defaults(command=list_entries)

    explain = commands.add_parser("explain", help="what an entry's key is made of, and its files")
    explain.add_argument("key", help="as `list` prints it; its beginning does")
    explain.add_argument("other", nargs="?", help="a second key: only in what they differ")
    explain.set_defaults(command=explain_entry)

    verify = commands.add_parser("verify", help="compare every file with its checksum")
    verify.set_defaults(command=verify_entries)

    prune = commands.add_parser("prune", help="remove entries, those first that nobody used")
    prune.add_argument("--max-size", type=parse_size, metavar="SIZE", help="to keep: 500M, 20G")
    prune.add_argument(
        "--older-than", type=parse_age, metavar="AGE", help="since the last use: 12h, 30d"
    )
    prune.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    prune.set_defaults(command=prune_entries)

    for command in (show, explain, verify, prune):
        command.add_argument(
            "--cache-dir",
            type=Path,
            default=Path("outputs/cache"),
            help="the runs' cache_dir (default: %(default)s)",
        )
    return parser


def list_entries(store: Store, arguments: argparse.Namespace) -> int:
    """Print a line for each entry and the sum."""
    total = count = 0
    for folder, entry in store.entries():
        count += 1
        if entry is None:
            print(f"{folder.parent.name:<12} {folder.name}  damaged")
            continue
        total += entry.bytes
        made = f"made in {entry.seconds:.1f} s"
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used))
        size = write_size(entry.bytes)
        print(f"{entry.key.stage:<12} {folder.name} {size:>9}  used {used}  {made}")
    for folder, written, grown in store.begun():
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(grown))
        print(
            f"{folder.parent.name:<12} {folder.name} {write_size(written):>9}  begun, grew {used}"
        )
    print(f"{count} entries, {write_size(total)}, in {store.root}")
    return 0


def explain_entry(store: Store, arguments: argparse.Namespace) -> int:
    """Print the parts of a key, or in what two keys differ."""
    entry = find_entry(store, arguments.key)
    if arguments.other is not None:
        other = find_entry(store, arguments.other)
        if other.key.stage != entry.key.stage:
            raise UserError(
                f"{arguments.key!r} is of stage {entry.key.stage}, {arguments.other!r} of "
                f"{other.key.stage}; give two keys of one stage"
            )
        for line in differences(other.key, entry.key):
            print(line)
        return 0
    print(f"{entry.key.stage} {entry.folder.name}, made in {entry.seconds:.1f} s, depends on")
    for name, value in sorted(entry.key.parts.items()):
        print(f"  {name}: {json.dumps(value, ensure_ascii=False)}")
    print(f"and is in {entry.folder}")
    for name, file in entry.files.items():
        print(f"  {name}: {write_size(file['bytes'])}, SHA-256 {file['sha256']}")
    return 0


def verify_entries(store: Store, arguments: argparse.Namespace) -> int:
    """Print what is damaged; 1 where something is."""
    damaged = count = 0
    for folder, _ in store.entries():
        count += 1
        try:
            Entry.read(folder).check()
        except (ValueError, OSError) as error:
            damaged += 1
            print(f"{folder}: damaged ({error}); the next run that needs it makes it again")
    print(f"{count - damaged} of {count} entries are whole")
    return 1 if damaged else 0


def prune_entries(store: Store, arguments: argparse.Namespace) -> int:
    """Remove what is too old, and then what was not used for longest, until the rest fits.

    What is begun goes by its age alone: hours may have been spent on it.
    """
    if arguments.max_size is None and arguments.older_than is None:
        raise UserError("prune: give --max-size, --older-than or both")
    kept: list[Entry] = []
    gone = [(folder, 0) for folder in store.leftovers()]
    now = time.time()
    for folder, size, grown in store.begun():
        if arguments.older_than is not None and now - grown > arguments.older_than:
            gone.append((folder, size))
    for folder, entry in store.entries():
        if entry is None:
            gone.append((folder, 0))
        elif arguments.older_than is not None and now - entry.used > arguments.older_than:
            gone.append((folder, entry.bytes))
        else:
            kept.append(entry)
    if arguments.max_size is not None:
        kept.sort(key=lambda entry: entry.used)
        total = sum(entry.bytes for entry in kept)
        while kept and total > arguments.max_size:
            entry = kept.pop(0)
            total -= entry.bytes
            gone.append((entry.folder, entry.bytes))
    freed = 0
    for folder, size in gone:
        if not arguments.dry_run and not remove(folder):
            print(f"{folder}: in use, kept")
            continue
        freed += size
        print(f"{folder}: {'would be ' if arguments.dry_run else ''}removed")
    word = "would be freed" if arguments.dry_run else "freed"
    print(f"{write_size(freed)} {word}, {len(kept)} entries kept")
    return 0


def find_entry(store: Store, key: str) -> Entry:
    """The entry whose key begins so; UserError where there is none, or more than one."""
    found = [folder for folder, _ in store.entries() if folder.name.startswith(key)]
    if len(found) != 1:
        what = f"{len(found)} entries" if found else "no entry"
        raise UserError(f"{key!r}: {what} in {store.root} begin so; `list` prints all keys")
    try:
        return Entry.read(found[0])
    except ValueError as error:
        raise UserError(f"{found[0] / MANIFEST} cannot be read: {error}") from error


def parse_size(text: str) -> int:
    """Bytes of `500M`, `20G`, `1.5T`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)B?", text.strip().upper())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; legal: e.g. 500M, 20G")
    return int(float(match[1]) * _UNITS[match[2]])


def parse_age(text: str) -> float:
    """Seconds of `12h`, `30d`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([hd])", text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no age; legal: e.g. 12h, 30d")
    return float(match[1]) * {"h": 3600, "d": 86400}[match[2]]


if __name__ == "__main__":
    main()
