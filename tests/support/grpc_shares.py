"""gRPC servers, each of which answers with its number, and a client that counts their answers.

Arguments: number of servers, port of the xDS server, and optionally a CA, certificate and key file. Prints the servers'
ports in one line. Then, for each line `NAME COUNT` on stdin: makes COUNT calls to `xds:///NAME`, four at a time, and prints
how many of them each server answered, or one line that begins with `error`. `stop NUMBER` ends a server, and `forget 0`
closes all channels; both print `done`.
"""

import json
import os
import sys
import tempfile
from concurrent import futures

count, port, *tls = sys.argv[1:]
credentials = {"type": "insecure"}
if tls:
    ca, certificate, key = tls
    files = {"ca_certificate_file": ca, "certificate_file": certificate, "private_key_file": key}
    credentials = {"type": "tls", "config": files}
server = {"server_uri": f"127.0.0.1:{port}", "channel_creds": [credentials], "server_features": ["xds_v3"]}
bootstrap = tempfile.NamedTemporaryFile("w", suffix=".json")
json.dump({"xds_servers": [server], "node": {"id": "grpc"}}, bootstrap)
bootstrap.flush()
os.environ["GRPC_XDS_BOOTSTRAP"] = bootstrap.name

import grpc  # noqa: E402 it reads the environment


def start(number):
    answer = grpc.unary_unary_rpc_method_handler(lambda request, context: str(number).encode())
    server = grpc.server(futures.ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Who", {"Am": answer}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port


servers = [start(number) for number in range(int(count))]
print(*(port for _, port in servers), flush=True)
channels = {}
callers = futures.ThreadPoolExecutor(4)
for line in sys.stdin:
    name, calls = line.split()
    if name == "stop":
        servers[int(calls)][0].stop(0).wait()
        print("done", flush=True)
        continue
    if name == "forget":
        for channel in channels.values():
            channel.close()
        channels.clear()
        print("done", flush=True)
        continue
    if name not in channels:
        channels[name] = grpc.insecure_channel(f"xds:///{name}")
    call = channels[name].unary_unary("/test.Who/Am")
    counts = [0] * len(servers)
    try:
        for answer in callers.map(lambda _: call(b"", timeout=30), range(int(calls))):
            counts[int(answer)] += 1
        print(*counts, flush=True)
    except grpc.RpcError as error:
        print("error", error.code().name, error.details().replace("\n", " "), flush=True)
