"""One replica of a job of torchft (fault-tolerant DDP over gloo), restarted by who started it.

    python benchmarks/torchft_replica.py --number 0 --lighthouse http://HOST:PORT --size nano
                                         --until EPOCH_S --out FILE

Trains the model of goodput.py until its time is over, from the weights of the replicas that are
there already; writes a line for each step that counts: the time, and the batches that all replicas
have put into the weights since the job began.
"""

from __future__ import annotations

import argparse
import json
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from gpt_torch import make_gpt
from torchft import DistributedDataParallel, Manager, Optimizer, ProcessGroupGloo
from training import OPTIM, SEED, SIZES, batches

TIMEOUT = timedelta(seconds=5)
"""After which a collective with a lost replica is given up, if gloo has not noticed before."""


def main() -> None:
    parser = argparse.ArgumentParser(description="One replica of torchft.")
    parser.add_argument("--number", type=int, required=True)
    parser.add_argument("--lighthouse", required=True)
    parser.add_argument("--size", choices=SIZES, required=True)
    parser.add_argument("--until", type=float, required=True, metavar="EPOCH_S")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    assert OPTIM.lr is not None, "settings are resolved"
    size = SIZES[args.size]
    model = make_gpt(size.model, size.vocab_size, SEED)
    adamw = torch.optim.AdamW(
        model.parameters(), lr=OPTIM.lr, betas=(OPTIM.beta1, OPTIM.beta2), fused=True
    )

    def state() -> dict[str, Any]:
        return {"model": model.state_dict(), "optimizer": adamw.state_dict()}

    def load(kept: dict[str, Any]) -> None:
        model.load_state_dict(kept["model"])
        adamw.load_state_dict(kept["optimizer"])

    c10d: Any = dist  # which exports it, though not to a type checker
    store = c10d.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    manager = Manager(
        pg=ProcessGroupGloo(timeout=TIMEOUT),
        load_state_dict=load,
        state_dict=state,
        min_replica_size=1,
        timeout=2 * TIMEOUT,
        quorum_timeout=2 * TIMEOUT,
        rank=0,
        world_size=1,
        store_addr="localhost",
        store_port=store.port,
        lighthouse_addr=args.lighthouse,
        replica_id=f"replica_{args.number}",
    )
    replica = DistributedDataParallel(manager, model)
    optimizer = Optimizer(manager, adamw)
    data = batches(size)
    with args.out.open("a") as out:
        while time.time() < args.until:
            tokens, targets = map(torch.from_numpy, next(data))
            optimizer.zero_grad()
            replica(tokens, targets).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIM.grad_clip)
            optimizer.step()
            line = {"time_s": time.time(), "batches": manager.batches_committed()}
            print(json.dumps(line), file=out, flush=True)
    manager.shutdown(wait=False)


if __name__ == "__main__":
    main()
