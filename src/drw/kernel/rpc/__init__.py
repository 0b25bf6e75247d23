"""gRPC and HTTP between processes: transport, request context, REST transcoding."""
