"""An xDS client that says how its stream ends. Argument: the server's port."""

import queue
import sys

import grpc


def field(number, value):
    """A string or message of protobuf."""
    value = value.encode() if isinstance(value, str) else value
    assert len(value) < 128
    return bytes([number << 3 | 2, len(value)]) + value


EDS = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
requests = queue.Queue()
requests.put(field(2, field(1, "test")) + field(3, "web") + field(4, EDS))
channel = grpc.insecure_channel(f"127.0.0.1:{sys.argv[1]}")
method = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
responses = channel.stream_stream(method)(iter(requests.get, None))
next(responses)
print("served", flush=True)
try:
    next(responses)
except grpc.RpcError as error:
    print(error.code().name, error.details(), flush=True)
requests.put(None)
