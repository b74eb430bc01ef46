"""An xDS client that refuses what it gets, three times with the same reason. Argument: the server's port."""

import queue
import sys

import grpc


def field(number, value):
    """A string or message of protobuf."""
    value = value.encode() if isinstance(value, str) else value
    assert len(value) < 128
    return bytes([number << 3 | 2, len(value)]) + value


EDS = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
first = field(2, field(1, "test\n1")) + field(3, "web") + field(4, EDS)


def nonce(response):
    """Field 5 of a DiscoveryResponse whose other fields are not longer than 16 kB."""
    at = 0
    while at < len(response):
        number, at = response[at] >> 3, at + 1
        length = shift = 0
        while True:
            byte, at = response[at], at + 1
            length |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        if number == 5:
            return response[at : at + length].decode()
        at += length


requests = queue.Queue()
requests.put(first)
channel = grpc.insecure_channel(f"127.0.0.1:{sys.argv[1]}")
method = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
responses = channel.stream_stream(method)(iter(requests.get, None))
response = next(responses)
for _ in range(3):
    # The second field of a Status is its message.
    requests.put(field(3, "web") + field(4, EDS) + field(5, nonce(response)) + field(6, field(2, "no\tgood")))
# A name asked for anew is answered, after all that came before.
requests.put(field(3, "web") + field(3, "other") + field(4, EDS) + field(5, nonce(response)))
print(len(next(responses)))
requests.put(None)
