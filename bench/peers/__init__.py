"""The peers, each in a module of its own; `install` says which can run here, loudly."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .borg import Borg
from .boto3 import Boto3
from .cp import Cp, CpSync
from .dvc import Dvc
from .dvc_s3 import DvcS3
from .find import Find
from .hf_xet import HfXet
from .obstore import Obstore
from .peer import Missing, Peer
from .rclone import Rclone
from .restic import Restic
from .s3_peer import S3Peer
from .s5cmd import S5cmd
from .wandb import Wandb

__all__ = ["Installed", "Missing", "Peer", "S3Peer", "install", "local_peers", "s3_peers"]


def local_peers(cache: Path) -> list[Peer]:
    """Peers of the embedded cases. `cache` is where those from PyPI are installed."""
    return [Cp(), CpSync(), Find(), Restic(), Borg(), HfXet(cache), Dvc(cache), Wandb(cache)]


def s3_peers(cache: Path) -> list[Peer]:
    """Peers of the S3 cases."""
    return [S5cmd(cache), Obstore(cache), Rclone(cache), Boto3(cache), DvcS3(cache)]


@dataclass(frozen=True)
class Installed:
    peers: list[Peer]
    versions: dict[str, str]
    missing: dict[str, str]  # name -> why, and how to get it


def install(peers: Iterable[Peer], names: Iterable[str] | None) -> Installed:
    """Of those named (None: all), the ones that can run."""
    known = {peer.name: peer for peer in peers}
    wanted = list(known) if names is None else list(names)
    if unknown := sorted(set(wanted) - set(known)):
        raise Missing(f"no such peer: {', '.join(unknown)}; there are {', '.join(known)}")
    found = Installed([], {}, {})
    for name in wanted:
        try:
            found.versions[name] = known[name].install()
        except Missing as error:
            found.missing[name] = str(error)
        else:
            found.peers.append(known[name])
    return found
