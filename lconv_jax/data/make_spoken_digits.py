"""Speaks the ten digits in many voices into a folder of WAV files, by espeak-ng.

    python -m lconv_jax.data.make_spoken_digits FOLDER [--repeats 20] [--seed 0]

The files are named DIGIT_VOICE_INDEX.wav and are read as `data.name` = spoken_digits with
`data.data_dir` = FOLDER. A voice is one of espeak-ng's variants, which set formants and pitch; each
speaks every digit `repeats` times, with an accent, speed and pitch that are drawn at random. These
are synthetic voices: simpler than people's, and no stand-in for them.

espeak-ng (https://github.com/espeak-ng/espeak-ng, GPL-3) is a program of its own, which is
started and not linked.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np

from lconv_jax.errors import DataError

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
VOICES = (
    *("m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "f1", "f2", "f3", "f4", "f5"),
    *("Alex", "Andy", "Annie", "belinda", "boris", "linda", "steph"),
)
ACCENTS = (
    *("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd"),
    "en-029",
)
# Words a minute, and espeak-ng's pitch, of 0 … 99.
SPEEDS = (120, 220)
PITCHES = (20, 80)
_AT_ONCE = 4  # programs


def make_spoken_digits(
    folder: str | os.PathLike[str],
    *,
    repeats: int = 20,
    seed: int = 0,
    voices: tuple[str, ...] = VOICES,
    program: str = "espeak-ng",
) -> int:
    """Writes `repeats` recordings of each digit in each voice, and returns how many that are.

    Args:
      folder: where to; made if it is not there.
      repeats: recordings of a digit in a voice.
      seed: decides accents, speeds and pitches.
      voices: names of espeak-ng's variants.
      program: espeak-ng's command.

    Raises:
      DataError: espeak-ng is not installed, has no such voice or fails, or the folder has WAV
        files.
    """
    if shutil.which(program) is None:
        raise DataError(f"{program}: no such program. Install it (Debian: apt install espeak-ng)")
    if repeats < 1:
        raise DataError(f"repeats = {repeats}: must be ≥ 1")
    known = subprocess.run([program, "--voices=variant"], capture_output=True, text=True).stdout
    # espeak-ng itself says nothing of a variant it does not know, and speaks as if there were none.
    missing = set(voices) - set(re.findall(r"!v/(\S+)", known))
    if missing:
        raise DataError(
            f"{program}: has no voice {', '.join(sorted(missing))}. Choose among those that "
            f"{program} --voices=variant lists, or install espeak-ng with its data"
        )
    folder = pathlib.Path(folder).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.glob("*.wav")):
        raise DataError(f"{folder}: has WAV files already. Give another folder, or empty it")
    commands = []
    for number, voice in enumerate(voices):
        # Raw output of PCG64 stays the same in all versions of NumPy (NEP 19).
        draws = np.random.PCG64([seed, number]).random_raw((repeats, len(DIGITS), 3)) >> 32
        for index in range(repeats):
            for digit, word in enumerate(DIGITS):
                accent, speed, pitch = draws[index, digit].tolist()
                commands.append(
                    (
                        *(program, "-v", f"{ACCENTS[accent % len(ACCENTS)]}+{voice}"),
                        *("-s", str(_between(speed, SPEEDS)), "-p", str(_between(pitch, PITCHES))),
                        *("-w", str(folder / f"{digit}_{voice}_{index}.wav"), word),
                    )
                )
    # The program mostly waits.
    with concurrent.futures.ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(_speak, commands))
    return len(commands)


def _between(draw: int, bounds: tuple[int, int]) -> int:
    low, high = bounds
    return low + draw % (high - low + 1)


def _speak(command: tuple[str, ...]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode or done.stderr:
        raise DataError(
            f"{' '.join(command)}: {done.stderr.strip() or f'exit status {done.returncode}'}. "
            "Install espeak-ng with its data (Debian: apt install espeak-ng)"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m lconv_jax.data.make_spoken_digits",
        description="Speaks the ten digits in many voices, by espeak-ng.",
    )
    parser.add_argument("folder", help="where the WAV files go")
    parser.add_argument("--repeats", type=int, default=20, help="of a digit in a voice")
    parser.add_argument("--seed", type=int, default=0, help="of accents, speeds and pitches")
    arguments = parser.parse_args()
    try:
        count = make_spoken_digits(arguments.folder, repeats=arguments.repeats, seed=arguments.seed)
    except (DataError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"{count} recordings in {arguments.folder}")


if __name__ == "__main__":
    main()
