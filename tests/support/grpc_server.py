"""A real gRPC server with the health service, for the tests: prints its ports, then takes states of services.

A line "SERVICE STATE" of the input sets a state; "-" is the server as a whole. The arguments are the files of a certificate
and its key. Ports: cleartext, TLS, and a server without the health service.
"""

import sys
from concurrent import futures

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

certificate, key = (open(name, "rb").read() for name in sys.argv[1:3])
servicer = health.HealthServicer()
server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
plain = server.add_insecure_port("127.0.0.1:0")
secure = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, certificate)]))
server.start()
other = grpc.server(futures.ThreadPoolExecutor(max_workers=1))
bare = other.add_insecure_port("127.0.0.1:0")
other.start()
print(plain, secure, bare, flush=True)
for line in sys.stdin:
    service, state = line.split()
    servicer.set("" if service == "-" else service, health_pb2.HealthCheckResponse.ServingStatus.Value(state))
    print("set", flush=True)
