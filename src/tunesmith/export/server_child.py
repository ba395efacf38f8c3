"""llama.cpp's server for a moment, to see how it renders chats: one JSON object on stdin, one on stdout."""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from typing import Any

_TIMEOUT_S = 120


def main() -> None:
    """Start the server on the model, render each chat, and write texts and ids as one line."""
    import xllamacpp

    request = json.load(sys.stdin)
    params = xllamacpp.CommonParams()
    params.model.path = request["model"]
    params.n_ctx, params.warmup, params.use_jinja, params.n_gpu_layers = 512, False, True, 0
    params.port = 0
    server = xllamacpp.Server(params)
    address = server.listening_address
    texts = [_post(address, "apply-template", {"messages": chat})["prompt"] for chat in request["chats"]]
    ids = [
        _post(address, "tokenize", {"content": text, "add_special": True, "parse_special": True})["tokens"]
        for text in texts
    ]
    sys.stdout.write(json.dumps({"answer": {"texts": texts, "ids": ids}}) + "\n")
    sys.stdout.flush()
    os._exit(0)  # the server's threads end with the process


def _post(address: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(
        f"{address}/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
        return dict(json.load(answer))


if __name__ == "__main__":
    main()
