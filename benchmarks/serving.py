"""
Load on `dtm-hf serve`: throughput and latency with 1, 4 and 16 clients, some of which hang up.

    dtm-hf serve --port 8000 &
    python benchmarks/serving.py --url http://127.0.0.1:8000 [--clients 1,4,16] [--requests 48] [--steps 4]

Each client asks one sentence after the other. A share of the requests (`--hang-up`) is left before it is answered;
every other one must be answered with speech, and afterwards the server must have none on its hands.
"""

import argparse
import asyncio
import io
import random
import statistics
import time

import httpx
import soundfile

from dtm_hf.files import write_json

TEXTS = (
    "The train leaves at half past nine.",
    "Please call two five one.",
    "Meet me on Monday.",
    "Today is Friday.",
    "The bus leaves from platform two.",
)


async def run(url: str, clients: int, requests: int, steps: int | None, share: float, voice: str, model: str) -> dict:
    """Figures of one round: what was asked, answered and left, and how long it took."""
    chance = random.Random(clients)
    # Whether each is left, and after which part of a second.
    plans = [(TEXTS[i % len(TEXTS)], chance.random() < share, chance.random() * 0.5) for i in range(requests)]
    waiting, latencies, seconds, lost = list(reversed(plans)), [], 0.0, 0

    async with httpx.AsyncClient(base_url=url, timeout=600, limits=httpx.Limits(max_connections=None)) as http:

        async def client() -> None:
            nonlocal seconds, lost
            while waiting:
                text, leaves, after = waiting.pop()
                body = {"model": model, "voice": voice, "input": text, "response_format": "wav"}
                body |= {} if steps is None else {"num_inference_steps": steps}
                started = time.perf_counter()
                try:
                    answer = await http.post("/v1/audio/speech", json=body, timeout=after if leaves else 600)
                except httpx.TimeoutException:
                    lost += not leaves
                    continue
                if answer.status_code != 200:
                    lost += 1
                    continue
                latencies.append(time.perf_counter() - started)
                info = soundfile.info(io.BytesIO(answer.content))
                seconds += info.frames / info.samplerate

        started = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(clients)))
        took = time.perf_counter() - started
        for _ in range(600):
            left = (await http.get("/health")).json()["requests"]
            if not left:
                break
            await asyncio.sleep(0.1)
    if not latencies:
        raise SystemExit(f"None of {requests} requests was answered; ask for more, or let fewer be left.")
    # Of one there are no parts.
    p95 = statistics.quantiles(latencies, n=20, method="inclusive")[18] if len(latencies) > 1 else latencies[0]
    return {
        "clients": clients,
        "asked": requests,
        "answered": len(latencies),
        "hung up": sum(leaves for _, leaves, _ in plans),
        "lost": lost,
        "left over": left,
        "requests/s": round(len(latencies) / took, 2),
        "speech s/s": round(seconds / took, 2),
        "p50 s": round(statistics.median(latencies), 3),
        "p95 s": round(p95, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--clients", default="1,4,16")
    parser.add_argument("--requests", type=int, default=48)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--hang-up", type=float, default=0.2)
    parser.add_argument("--json", help="file for the figures")
    options = parser.parse_args()
    health = httpx.get(f"{options.url}/health").json()
    rows = []
    for clients in map(int, options.clients.split(",")):
        row = asyncio.run(
            run(
                options.url,
                clients,
                options.requests,
                options.steps,
                options.hang_up,
                health["voices"][0],
                health["model"],
            )
        )
        if not rows:
            print("| " + " | ".join(row) + " |\n|" + "---|" * len(row))
        print("| " + " | ".join(map(str, row.values())) + " |", flush=True)
        rows.append(row)
    if options.json:
        write_json(options.json, rows)
    if any(row["lost"] or row["left over"] for row in rows):
        raise SystemExit("Requests were lost, or the server still has some.")


if __name__ == "__main__":
    main()
