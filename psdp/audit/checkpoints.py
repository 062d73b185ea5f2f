"""The checkpoints of a run folder: whole, and made of what the events say."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psdp.audit.findings import Contradiction, Findings, Place, expect, many
from psdp.audit.following import Following, State
from psdp.audit.unrecorded import Reached
from psdp.checkpoint import (
    CHECKPOINTS,
    CheckpointId,
    Manifest,
    Snapshot,
    read_best,
    read_manifest,
    read_shard,
    read_weights,
    read_worker,
)
from psdp.checkpoint.layout import MANIFEST, complete_checkpoints
from psdp.checkpoint.read import verify
from psdp.errors import CheckpointError
from psdp.records.events import Seal, digest_of


@dataclass(frozen=True)
class Kept:
    """A checkpoint of the run folder, whose manifest is whole."""

    at: CheckpointId
    manifest: Manifest
    version: int

    @property
    def place(self) -> Place:
        return Place(self.manifest.folder / MANIFEST)


def read_checkpoints(run: Path, findings: Findings) -> list[Kept]:
    """Return the checkpoints of a run, oldest first; take down which are none."""
    kept = []
    for at, folder in complete_checkpoints(run / CHECKPOINTS).items():
        with findings.checking("checkpoints", folder / MANIFEST):
            try:
                manifest = read_manifest(folder)
            except CheckpointError as error:
                raise Contradiction(str(error)) from error
            version = manifest.state.get("version")
            if type(version) is not int:
                raise Contradiction("it does not say its version")
            kept.append(Kept(at, manifest, version))
    return kept


class Checkpoints:
    """Compares checkpoints with what else is known of their versions.

    Args:
        unit: that the run counts.
    """

    def __init__(self, run: Path, kept: Sequence[Kept], unit: str, findings: Findings) -> None:
        self._run = run
        self._kept = kept
        self._units_name = f"{unit}s"
        self._findings = findings
        self.sound: dict[int, Kept] = {}
        """By version, those that are whole by their hashes."""
        self._held: dict[int, dict[str, Any]] = {}
        """Of these, what was counted of their weights."""

    def verify(self) -> None:
        """See that each is whole by the hashes of its files, and says what they hold."""
        for kept in self._kept:
            with self._findings.checking("checkpoints", kept.place.path):
                try:
                    verify(kept.manifest)  # workers' files too
                    for shard in range(len(kept.manifest.files)):
                        self._held[kept.version] = self._check_shard(kept, shard)
                    for worker in kept.manifest.workers:
                        read_worker(kept.manifest, worker)
                except CheckpointError as error:
                    raise Contradiction(str(error)) from error
                self.sound[kept.version] = kept
        if self.sound:
            self._findings.proved(
                "checkpoints",
                f"{len(self.sound)} of {len(self._kept)} are whole by their hashes, and hold what "
                "their manifests say",
            )

    def _check_shard(self, kept: Kept, shard: int) -> dict[str, Any]:
        """See that a file holds what the manifest says; return what was counted of it."""
        manifest, state = kept.manifest, kept.manifest.state
        held = Snapshot.from_tensors(read_shard(manifest, shard))
        clocks = {str(worker): clock for worker, clock in held.clocks.items()}
        name = manifest.files[shard].name
        for what, there, told in (
            ("version", held.version, state.get("version")),
            (self._units_name, held.units, state.get(self._units_name)),
            ("clocks", clocks, state.get("clocks")),
        ):
            expect(there == told, f"{name} holds {what} {there}, the manifest says {told}")
        batches = [tuple(pair) for pair in held.batches]
        return {"units": held.units, "clocks": dict(held.clocks), "batches": batches}

    def compare(self, parts: Sequence[Following]) -> None:
        """Compare those of recorded starts with what the events say of their versions."""
        compared, sealed = 0, 0
        for kept in self.sound.values():
            found = _state_of(kept.version, parts)
            if found is None:
                continue
            following, state = found
            with self._findings.checking("checkpoints", kept.place.path):
                step = following.job.step_of(state.units)
                expect(
                    kept.manifest.step == step, f"it is of step {kept.manifest.step}, not {step}"
                )
                self._compare(kept, state)
                sealed += self._check_seal(kept, following, state)
                compared += 1
        if compared:
            self._findings.proved(
                "checkpoints",
                f"{_are(compared)} made of what the events say, {sealed} with the hash of the "
                "event that made it",
            )
        by_start = {following.chain.start: following for following in parts}
        for kept in self.sound.values():
            told = Seal.from_record(kept.manifest.state.get("events"))
            if told is not None and not (self._run / told.file).exists():
                text = f"{told.file}, by which it was made, is not here"
                self._findings.contradicted_by("checkpoints", text, kept.place)
            sealed_by = None if told is None else by_start.get(told.start)
            if sealed_by is not None and kept.version not in sealed_by.states:
                self._findings.contradicted_by(
                    "checkpoints",
                    f"{sealed_by.path} makes no version {kept.version}; it ends with line "
                    f"{sealed_by.chain.seal.line}, and version {sealed_by.ledger.version}",
                    kept.place,
                )

    def compare_with_records(self, reached: Mapping[int, Reached]) -> None:
        """Compare those of starts that were not recorded with train records of their versions."""
        compared = 0
        for version in self.sound.keys() & reached.keys():
            kept, (units, clocks) = self.sound[version], reached[version]
            state = kept.manifest.state
            with self._findings.checking("checkpoints", kept.place.path):
                told = {str(worker): clock for worker, clock in clocks.items()}
                expect(
                    state.get(self._units_name) == units and state.get("clocks") == told,
                    f"version {version} has {state.get(self._units_name)} {self._units_name} and "
                    f"clocks {state.get('clocks')}, its train record has {units} and {told}",
                )
                compared += 1
        if compared:
            self._findings.proved(
                "checkpoints", f"{_are(compared)} of as many units as train records say"
            )

    def _compare(self, kept: Kept, state: State) -> None:
        expected = {
            "units": state.units,
            "clocks": dict(state.clocks),
            "batches": state.batches,
        }
        for what, there in self._held[kept.version].items():
            told = expected[what]
            expect(
                there == told, f"version {kept.version} has {what} {there}, the events say {told}"
            )

    def _check_seal(self, kept: Kept, following: Following, state: State) -> bool:
        """See that a manifest has the hash of the line that made its version; say whether."""
        header = following.header
        told = Seal.from_record(kept.manifest.state.get("events"))
        if kept.version == header.version and (told is None or told.file != state.seal.file):
            return False  # it is the one that this start went on from
        for name, digest in header.identity.items():
            expect(
                digest_of(kept.manifest.state.get(name)) == digest,
                f"its {name} are not those of the start that {following.path.name} is of",
            )
        if told is None:
            raise Contradiction("it has no hash of the events, which were recorded")
        expect(
            told == state.seal,
            f"version {kept.version} was made by line {told.line} of {told.file} with hash "
            f"{told.hash}, as it says; there it is line {state.seal.line} with {state.seal.hash}",
        )
        return True

    def check_links(self, parts: Sequence[Following]) -> None:
        """See that each start goes on from what was reached before."""
        by_file = {following.path.name: following for following in parts}
        for following in parts:
            header = following.header
            if header.checkpoint is None:
                continue
            with self._findings.checking("starts", following.path):
                at = CheckpointId.of(str(header.checkpoint))
                kept = next((kept for kept in self._kept if kept.at == at), None)
                if kept is not None:
                    expect(
                        kept.manifest.digest == header.digest,
                        f"it went on from {header.checkpoint} with digest {header.digest}, which "
                        f"has {kept.manifest.digest} now",
                        Place(following.path, 1),
                    )
                before = None if header.seal is None else by_file.get(header.seal.file)
                if before is None or before is following:
                    self._findings.unchecked(
                        "starts",
                        f"how version {header.version} came about, which {following.path.name} "
                        f"goes on from",
                        "no events of it are here",
                    )
                    continue
                self._check_link(following, before)
                self._findings.proved(
                    "starts",
                    f"{following.path.name} goes on from version {header.version} of "
                    f"{before.path.name}",
                )

    def _check_link(self, following: Following, before: Following) -> None:
        header, state = following.header, before.states.get(following.header.version)
        if state is None:
            return  # why, is told already
        place = Place(following.path, 1)
        expect(header.seal == state.seal, "it goes on from a record that was another one", place)
        for what, there, told in (
            ("units", header.units, state.units),
            ("clocks", dict(header.clocks), dict(state.clocks)),
            ("batches", list(header.batches), state.batches),
        ):
            expect(there == told, f"it goes on from {what} {there}, reached were {told}", place)

    # What else tells of them

    def best(self) -> int | None:
        """Return the version that best.json names.

        Raises:
            Contradiction: it names none that there is.
        """
        root = self._run / CHECKPOINTS
        place = Place(root / "best.json")
        try:
            at = read_best(root)
        except CheckpointError as error:
            raise Contradiction(str(error), place) from error
        if at is None:
            return None
        found = [kept.version for kept in self._kept if kept.at == at]
        expect(bool(found), f"{at.name} is the best checkpoint, and is not there", place)
        return found[0]

    def weights_sha256(self, version: int) -> str | None:
        """Return the hash of the weights of a version; None if there is no whole checkpoint."""
        kept = self.sound.get(version)
        return None if kept is None else _sha256(kept.manifest)


def _are(count: int) -> str:
    """Return how many checkpoints are something, in words."""
    return f"{many(count, 'checkpoint')} {'is' if count == 1 else 'are'}"


def _sha256(manifest: Manifest) -> str:
    return hashlib.sha256(read_weights(manifest).tobytes()).hexdigest()


def _state_of(version: int, parts: Sequence[Following]) -> tuple[Following, State] | None:
    """Return what the events say of a version: those that made it, else those that begin there."""
    for following in parts:
        state = following.states.get(version)
        if state is not None:
            return following, state
    return None
